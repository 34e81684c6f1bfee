//! Tunnels on loopback, with real libp2p.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that uses it")]

mod circuits;
mod common;
mod direct;
mod go;
mod identity;
mod relayed;
mod settings;
