use super::{Handle, NLM_F_CREATE, NLM_F_EXCL, Prefix, family, octets, read_addr};
use crate::netlink::message::read_u32;
use crate::netlink::{Attrs, NetlinkError};

pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u32 = 0x02;
/// `struct ifaddrmsg`.
const IFADDR_LEN: usize = 8;

/// An address of a link as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// Address and prefix length.
    pub prefix: Prefix,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

impl Handle {
    /// Adds an address to a link. `nodad` skips duplicate address detection (IPv6), so that it is usable at once.
    pub fn add_address(&mut self, link: u32, prefix: Prefix, nodad: bool) -> Result<(), NetlinkError> {
        let what = || format!("add address {prefix} to link {link}");
        self.socket.request(&what, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &ifaddr(link, prefix), |message| {
            message.attr(IFA_LOCAL, &octets(prefix.addr));
            message.attr(IFA_ADDRESS, &octets(prefix.addr));
            if nodad {
                message.attr_u32(IFA_FLAGS, IFA_F_NODAD);
            }
        })
    }

    /// Removes an address from a link.
    pub fn delete_address(&mut self, link: u32, prefix: Prefix) -> Result<(), NetlinkError> {
        let what = || format!("delete address {prefix} of link {link}");
        self.socket.request(&what, RTM_DELADDR, 0, &ifaddr(link, prefix), |message| {
            message.attr(IFA_LOCAL, &octets(prefix.addr));
            message.attr(IFA_ADDRESS, &octets(prefix.addr));
        })
    }

    /// Every address of the namespace, both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let what = || "list addresses".to_owned();
        self.socket.dump(
            &what,
            RTM_GETADDR,
            &[0; IFADDR_LEN],
            |_| {},
            |kind, payload| (kind == RTM_NEWADDR).then(|| read_address(payload)).flatten(),
        )
    }
}

fn ifaddr(link: u32, prefix: Prefix) -> [u8; IFADDR_LEN] {
    let mut header = [0; IFADDR_LEN];
    header[0] = family(prefix.addr);
    header[1] = prefix.len;
    if prefix.addr.is_loopback() {
        header[3] = libc::RT_SCOPE_HOST;
    }
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

fn read_address(payload: &[u8]) -> Option<Address> {
    let attrs = Attrs::after(payload, IFADDR_LEN);
    // On a point-to-point link the address is the peer's and `IFA_LOCAL` ours; elsewhere IPv6 has no `IFA_LOCAL`.
    let addr = attrs.get(IFA_LOCAL).or_else(|| attrs.get(IFA_ADDRESS)).and_then(read_addr)?;
    Some(Address {
        link: read_u32(payload.get(4..)?)?,
        prefix: Prefix { addr, len: *payload.get(1)? },
        scope: *payload.get(3)?,
        flags: attrs.u32(IFA_FLAGS).unwrap_or_else(|| u32::from(payload[2])),
    })
}
