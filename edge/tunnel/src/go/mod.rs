//! Agents of Go EdgeMesh as peers: who they are, and the streams they speak.
//!
//! `peers` knows them by the identities that follow from their nodes' names; `discovery` exchanges names, `stream`
//! is a substream and who opens it, `proxy` carries connections and UDP sessions either way, `datagrams` keeps the latter's boundaries, `circuit` brings the
//! private network's layer into relayed connections, where Go agents have it too.

mod circuit;
mod datagrams;
mod discovery;
mod peers;
mod proxy;
mod stream;
mod wire;

pub(crate) use circuit::veil;
pub(crate) use discovery::{answer as answer_discovery, ask as ask_discovery};
pub(crate) use peers::{Claim, GoPeers};
pub(crate) use proxy::{connect, serve};
pub(crate) use stream::{GoLink, GoStream};

#[cfg(test)]
mod tests;
