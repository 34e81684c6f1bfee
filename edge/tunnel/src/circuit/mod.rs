//! Circuits over the sockets of this host: [`connect_circuit`], [`accept_circuit`] and [`observe`] ask a relay,
//! `server` is one. `edgemesh_tunnel_proto::circuit` has the words and the decisions.

mod client;
mod member;
pub(crate) mod server;
mod taps;

use std::time::Duration;

use edgemesh_net::socket::Liveness;

pub use client::{CircuitError, accept_circuit, connect_circuit, observe};
pub use member::Member;
pub use server::{CircuitStatus, PeerCircuits};
pub(crate) use taps::Taps;
pub use taps::{AcceptedCarrier, CircuitOffer};

/// How the ends and the relay of a circuit notice that a connection is gone. Unacknowledged bytes end it as they end
/// libp2p's connections; so do bytes that the far end does not take (the window stays shut), which is why the two ends of a
/// circuit must always read. Sessions speak every 15 s at the least, so that a probe is for a relay whose ends are both gone
/// without a word: after two such silences, and again every 2 s until the user timeout has passed.
pub(crate) const LIVENESS: Liveness = Liveness {
    user_timeout: crate::transport::USER_TIMEOUT,
    probe_after: Duration::from_secs(30),
    probe_every: Duration::from_secs(2),
};
