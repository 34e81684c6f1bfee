//! The tunnel brain without I/O: peers, paths, relays, punching, stream headers.
