//! libp2p around the tunnel brain.
