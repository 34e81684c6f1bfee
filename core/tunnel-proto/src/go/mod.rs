//! What Go EdgeMesh agents say and how they name themselves, so that a cluster may have agents of both kinds.
//!
//! A Go agent has no key of its own: [`identity_seed`] makes it from the name of its node, so whoever is in the
//! private network can be any of them. The private network's key, too, is made from the file in a way of its own
//! ([`private_network_key`]). [`Discovery`] and [`Proxy`] are the messages that begin their streams.

mod digest;
mod identity;
mod message;
mod random;

pub use identity::{identity_seed, private_network_key};
pub use message::{
    DISCOVERY_PROTOCOL, Discovery, GoMessageError, MAX_GO_DATAGRAM, MAX_GO_MESSAGE, MessageType,
    PROXY_PROTOCOL, Proxy,
};
