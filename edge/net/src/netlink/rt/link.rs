use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Handle, NLM_F_CREATE, NLM_F_EXCL};
use crate::netlink::message::{read_str, read_u32};
use crate::netlink::{Attrs, MessageBuf, NetlinkError};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
/// Counters are not read, and are most of a link's message.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
/// `struct ifinfomsg`.
const IFINFO_LEN: usize = 16;

/// What a new link is.
#[derive(Clone, Copy, Debug)]
pub enum LinkKind<'a> {
    /// A bridge without ports.
    Bridge,
    /// A device that drops what it is given.
    Dummy,
    /// One end of a pair, with the other end.
    Veth(Peer<'a>),
}

/// The other end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// The network namespace it is created in; this one when absent.
    pub netns: Option<BorrowedFd<'a>>,
}

/// A link as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; absent for hardware and loopback.
    pub kind: Option<String>,
    /// `IFF_*`.
    pub flags: u32,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Largest packet.
    pub mtu: u32,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// It is a port of a bridge in hairpin mode: what came in by it may go out by it.
    pub hairpin: bool,
}

impl Link {
    /// Whether it is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }
}

impl Handle {
    /// Creates a link, down.
    pub fn add_link(&mut self, name: &str, kind: LinkKind<'_>) -> Result<(), NetlinkError> {
        self.create_link(name, kind, None)
    }

    /// Creates a link with a hardware address, down.
    pub fn add_link_with_mac(
        &mut self,
        name: &str,
        kind: LinkKind<'_>,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        self.create_link(name, kind, Some(mac))
    }

    fn create_link(
        &mut self,
        name: &str,
        kind: LinkKind<'_>,
        mac: Option<[u8; 6]>,
    ) -> Result<(), NetlinkError> {
        let word = match kind {
            LinkKind::Bridge => "bridge",
            LinkKind::Dummy => "dummy",
            LinkKind::Veth(_) => "veth",
        };
        let what = || format!("create link {name} of type {word}");
        self.socket.request(&what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0), |message| {
            message.attr_str(IFLA_IFNAME, name);
            if let Some(mac) = mac {
                message.attr(IFLA_ADDRESS, &mac);
            }
            message.nest(IFLA_LINKINFO, |message| {
                message.attr_str(IFLA_INFO_KIND, word);
                if let LinkKind::Veth(peer) = kind {
                    message.nest(IFLA_INFO_DATA, |message| write_peer(message, peer));
                }
            });
        })
    }

    /// Deletes a link; the other end of a veth pair goes with it.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.socket.request(&|| format!("delete link {index}"), RTM_DELLINK, 0, &ifinfo(index, 0, 0), |_| {})
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mask = libc::IFF_UP.cast_unsigned();
        let flags = if up { mask } else { 0 };
        let what = || format!("set link {index} {}", if up { "up" } else { "down" });
        self.socket.request(&what, RTM_NEWLINK, 0, &ifinfo(index, flags, mask), |_| {})
    }

    /// Makes a link a port of a bridge, or of none.
    pub fn set_master(&mut self, index: u32, bridge: Option<u32>) -> Result<(), NetlinkError> {
        self.change_link(index, "master", |message| message.attr_u32(IFLA_MASTER, bridge.unwrap_or(0)))
    }

    /// Moves a link to another network namespace.
    pub fn move_to(&mut self, index: u32, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        self.change_link(index, "namespace", |message| write_netns(message, netns))
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.change_link(index, "address", |message| message.attr(IFLA_ADDRESS, &mac))
    }

    /// Sets the largest packet.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change_link(index, "mtu", |message| message.attr_u32(IFLA_MTU, mtu))
    }

    /// Renames a link, which must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.change_link(index, "name", |message| message.attr_str(IFLA_IFNAME, name))
    }

    /// Every link of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let what = || "list links".to_owned();
        let filter = |message: &mut MessageBuf| message.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.socket.dump(&what, RTM_GETLINK, &ifinfo(0, 0, 0), filter, |kind, payload| {
            (kind == RTM_NEWLINK).then(|| read_link(payload)).flatten()
        })
    }

    /// The link of a name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    fn change_link(
        &mut self,
        index: u32,
        property: &str,
        body: impl FnOnce(&mut MessageBuf),
    ) -> Result<(), NetlinkError> {
        let what = || format!("set {property} of link {index}");
        self.socket.request(&what, RTM_NEWLINK, 0, &ifinfo(index, 0, 0), body)
    }
}

fn write_peer(message: &mut MessageBuf, peer: Peer<'_>) {
    message.nest(VETH_INFO_PEER, |message| {
        message.raw(&ifinfo(0, 0, 0));
        message.attr_str(IFLA_IFNAME, peer.name);
        if let Some(netns) = peer.netns {
            write_netns(message, netns);
        }
    });
}

fn write_netns(message: &mut MessageBuf, netns: BorrowedFd<'_>) {
    message.attr(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO_LEN] {
    let mut header = [0; IFINFO_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let attrs = Attrs::after(payload, IFINFO_LEN);
    let nested = |kind| Attrs(attrs.get(IFLA_LINKINFO).unwrap_or_default()).get(kind);
    let is_bridge_port = nested(IFLA_INFO_SLAVE_KIND).is_some_and(|kind| read_str(kind) == "bridge");
    let port = Attrs(nested(IFLA_INFO_SLAVE_DATA).filter(|_| is_bridge_port).unwrap_or_default());
    Some(Link {
        index: read_u32(payload.get(4..)?)?,
        name: attrs.str(IFLA_IFNAME)?,
        kind: attrs.nest(IFLA_LINKINFO).get(IFLA_INFO_KIND).map(read_str),
        flags: read_u32(payload.get(8..)?)?,
        mac: attrs.get(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()),
        mtu: attrs.u32(IFLA_MTU).unwrap_or(0),
        master: attrs.u32(IFLA_MASTER),
        hairpin: port.get(IFLA_BRPORT_MODE).is_some_and(|mode| mode != [0]),
    })
}
