//! Circuits: two agents that cannot reach each other meet at a relay, which copies bytes it cannot read.
//!
//! On the port libp2p listens on, a connection that begins with [`PREFACE`] and a [`Kind`] is not libp2p's
//! ([`sniff`]). For [`Kind::Relay`] the dialler then waits for a [`Greeting`], sends one [`Request`], and gets an
//! [`Answer`]. After an `Ok` to [`Op::Connect`] and [`Op::Accept`] every byte is the other end's.
//!
//! [`CircuitTable`] decides what a relay grants. It reads no clock and draws nothing: tokens and the time are given.

mod table;
mod wire;

pub use table::{ACCEPT_WAIT, CircuitId, CircuitLimits, CircuitTable, CircuitTotals, CircuitView, PeerUse};
pub use wire::{
    Answer as CircuitAnswer, CIRCUIT_DOMAIN, CIRCUIT_KEY_DOMAIN, CIRCUIT_MAC_DOMAIN, Greeting, GreetingError,
    Kind, MAC_LEN, MAX_ANSWER, MAX_REQUEST, NONCE_LEN, Nonce, Op, PREFACE, Request, RequestError, Sniff,
    Status, Token, sniff,
};
