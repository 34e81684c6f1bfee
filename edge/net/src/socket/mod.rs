//! Sockets that stand in for addresses which are not this host's own: options the standard library has no words for.

mod option;
mod splice;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};

pub use splice::Pipe;
pub use tcp::{Liveness, adopt, dial, dial_from, listen, peek_while, reset, since_ack, take_available};
pub use udp::{Datagram, FrontendUdp, MAX_DATAGRAM, backend_udp, reply_udp, send_now, send_to_now};

/// The address with an IPv4-mapped IPv6 address written as IPv4, so that one client has one name. The scope of a
/// link-local address is kept: no reply finds its way without it.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// Whether a socket may use addresses that are not this host's (`IP_TRANSPARENT`, needs CAP_NET_ADMIN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transparency {
    /// It may.
    Transparent,
    /// It uses the host's own addresses only.
    Plain,
}
