//! DNS sockets around the resolver.
//!
//! One task owns the resolver and every UDP socket, so the path of a datagram has no lock and no channel in it. TCP
//! connections and questions to upstreams are tasks of their own that meet it over bounded channels.

mod ask;
mod counters;
mod listen;
mod server;
mod settings;
mod tcp;
mod upstreams;

pub use counters::{DnsCounters, DnsCounts};
pub use listen::DnsError;
pub use server::DnsServer;
pub use settings::{DnsSettings, ListenAddress, UpstreamSource};
