//! Bytes from one end to another and back, without a copy where both ends are sockets: the one implementation for
//! whoever stands between two connections.

mod pipes;
mod pump;
pub mod scratch;

pub use pump::{End, Pumped, pump};
