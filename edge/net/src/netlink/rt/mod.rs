//! Links, addresses and routes (rtnetlink): read, changed ([`Handle`]) and watched ([`Monitor`]).

mod address;
mod link;
mod monitor;
mod route;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use address::Address;
pub use link::{Link, LinkKind, Peer};
pub use monitor::{Changes, Monitor};
pub use route::{
    NextHop, PROTO_BOOT, PROTO_KERNEL, PROTO_STATIC, Route, RouteKind, Scope, TABLE_LOCAL, TABLE_MAIN,
};

use super::{NetlinkError, NetlinkSocket};

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// An address with the length of its prefix; host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the network part.
    pub len: u8,
}

impl Prefix {
    /// A prefix from its two parts.
    pub fn new(addr: impl Into<IpAddr>, len: u8) -> Self {
        Self { addr: addr.into(), len }
    }

    /// The address alone: /32 or /128.
    pub fn host(addr: impl Into<IpAddr>) -> Self {
        let addr = addr.into();
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Everything of the address family of `like`: the destination of a default route.
    pub fn default_of(like: IpAddr) -> Self {
        match like {
            IpAddr::V4(_) => Self::new(Ipv4Addr::UNSPECIFIED, 0),
            IpAddr::V6(_) => Self::new(Ipv6Addr::UNSPECIFIED, 0),
        }
    }

    /// The first and the last address.
    pub fn bounds(self) -> (IpAddr, IpAddr) {
        match self.addr {
            IpAddr::V4(addr) => {
                let host = u32::MAX.checked_shr(self.len.into()).unwrap_or(0);
                let (first, last) = (addr.to_bits() & !host, addr.to_bits() | host);
                (Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into())
            }
            IpAddr::V6(addr) => {
                let host = u128::MAX.checked_shr(self.len.into()).unwrap_or(0);
                let (first, last) = (addr.to_bits() & !host, addr.to_bits() | host);
                (Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into())
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Reads and changes links, addresses and routes of one network namespace.
#[derive(Debug)]
pub struct Handle {
    socket: NetlinkSocket,
}

impl Handle {
    /// A handle on the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: NetlinkSocket::open(libc::NETLINK_ROUTE)? })
    }
}

pub(crate) fn family(addr: IpAddr) -> u8 {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("address families are small")
}

pub(crate) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

pub(crate) fn read_addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}
