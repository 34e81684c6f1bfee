//! Sockets that stand in for addresses which are not this host's own: options the standard library has no words for.

mod option;
mod tcp;
mod udp;

use std::net::SocketAddr;

pub use tcp::{listen, reset, take_available, tune};
pub use udp::{Datagram, FrontendUdp, MAX_DATAGRAM, backend_udp, reply_udp, send_now, send_to_now};

/// The address with an IPv4-mapped IPv6 address written as IPv4, so that one client has one name.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether a socket may use addresses that are not this host's (`IP_TRANSPARENT`, needs CAP_NET_ADMIN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transparency {
    /// It may.
    Transparent,
    /// It uses the host's own addresses only.
    Plain,
}
