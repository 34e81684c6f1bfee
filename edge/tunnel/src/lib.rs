//! libp2p around the tunnel brain: [`Tunnel::start`] runs it, [`TunnelHandle`] connects through it.
//!
//! `driver` joins the swarm with `edgemesh_tunnel_proto::TunnelState`; `streams` is the behaviour that opens control
//! streams and substreams; `carrier` makes the byte pipes that sessions ride, `circuit` is a relay's part in them;
//! `inbound` and `handle` are the two ends of a stream; `go` speaks with Go EdgeMesh's agents.

mod behaviour;
mod carrier;
mod circuit;
mod control;
mod dials;
mod driver;
mod go;
mod handle;
pub mod identity;
mod inbound;
mod interfaces;
mod key;
mod mdns;
mod muxer;
mod pnet;
mod secrets;
mod settings;
mod status;
mod stream;
mod streams;
mod text;
mod transport;

pub use circuit::{
    AcceptedCarrier, CircuitError, CircuitOffer, CircuitStatus, Member, PeerCircuits, accept_circuit,
    connect_circuit, observe,
};
pub use driver::Tunnel;
pub use handle::TunnelHandle;
pub use key::KeyError;
pub use settings::{
    IdentitySettings, RelayAddress, RelayAddressError, TunnelError, TunnelLimits, TunnelSettings,
};
pub use status::{PeerStatus, RefusedCounts, TunnelStatus, UnreachableNode};

/// Reads a multicast DNS packet as the tunnel does; any bytes are safe. Tells whether it says anything to a mesh.
pub fn check_mdns(bytes: &[u8]) -> bool {
    mdns::heard(bytes)
}
