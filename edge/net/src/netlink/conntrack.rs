//! Tracked connections (ctnetlink): listed and deleted.
//!
//! Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, SocketAddr};

use super::message::read_u16;
use super::rt::{family, octets, read_addr};
use super::{Attrs, MessageBuf, NetlinkError, NetlinkSocket};

const SUBSYSTEM: u8 = 1;
const MSG_GET: u8 = 1;
const MSG_DELETE: u8 = 2;
const MSG_GET_STATS: u8 = 5;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// What of a tuple is compared (`CTA_FILTER_F_*` of the kernel's own `nf_internals.h`).
const FILTER_IP_SRC: u32 = 1;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_SRC_PORT: u32 = 1 << 4;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// `struct nfgenmsg`.
const NFGEN_LEN: usize = 4;

/// Address family of tracked connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn code(self) -> u8 {
        let family = match self {
            Self::V4 => libc::AF_INET,
            Self::V6 => libc::AF_INET6,
        };
        u8::try_from(family).expect("address families are small")
    }
}

/// What the packets of one direction of a connection have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Source; port 0 where the protocol has none.
    pub src: SocketAddr,
    /// Destination; port 0 where the protocol has none.
    pub dst: SocketAddr,
    /// The zone, where it holds for this direction only.
    pub zone: Option<u16>,
}

/// A tracked connection as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// What the first packet had before it was translated.
    pub original: Tuple,
    /// What answers have before they are translated back: the source is where the packets really go.
    pub reply: Tuple,
    /// Bits of [`super::nft::ct_status`].
    pub status: u32,
    /// The mark, 0 without one.
    pub mark: u32,
    /// The zone of both directions, 0 without one.
    pub zone: u16,
    /// Tells it from others that have had the same tuples.
    pub id: u32,
}

/// Which connections are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// All of a family.
    All(Family),
    /// Those whose first packet went here.
    To(SocketAddr),
    /// Those whose answers come from here: what the destination was translated to.
    LedTo(SocketAddr),
}

impl Wanted {
    fn family(self) -> Family {
        match self {
            Self::All(family) => family,
            Self::To(addr) | Self::LedTo(addr) => Family::of(addr.ip()),
        }
    }

    fn has(self, entry: &Entry) -> bool {
        match self {
            Self::All(_) => true,
            Self::To(addr) => entry.original.dst == addr,
            Self::LedTo(addr) => entry.reply.src == addr,
        }
    }
}

/// Lists and deletes the tracked connections of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    listing: NetlinkSocket,
    /// Deletes while the other one lists, so that what is to be deleted need not be collected.
    deleting: NetlinkSocket,
}

impl Conntrack {
    /// A handle on the network namespace of the calling thread. A kernel without connection tracking by netlink is an
    /// error that [`NetlinkError::is_unsupported`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut listing = NetlinkSocket::open(libc::NETLINK_NETFILTER)?;
        probe(&mut listing, SUBSYSTEM)?;
        Ok(Self { listing, deleting: NetlinkSocket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Gives every connection of a family and protocol (`IPPROTO_*`) to `each`, one by one; the table is never in
    /// memory as a whole. Connections that begin or end meanwhile may be missing or come twice.
    pub fn entries(
        &mut self,
        family: Family,
        protocol: u8,
        each: impl FnMut(Entry),
    ) -> Result<(), NetlinkError> {
        list(&mut self.listing, Wanted::All(family), protocol, each)
    }

    /// The connection of an original tuple in a zone (0 without one). The protocol must have ports.
    pub fn find(&mut self, original: &Tuple, zone: u16) -> Result<Option<Entry>, NetlinkError> {
        let what = || format!("find connection {} to {}", original.src, original.dst);
        let header = [family(original.src.ip()), 0, 0, 0];
        let found = self.listing.ask(&what, kind(SUBSYSTEM, MSG_GET), &header, |message| {
            message.nest(TUPLE_ORIG, |message| write_tuple(message, original));
            if zone != 0 {
                message.attr(ZONE, &zone.to_be_bytes());
            }
        });
        match found {
            Ok(payload) => Ok(read_entry(&payload)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the connection of an original tuple in a zone (0 without one), if it still has the identity `id` where
    /// that is given; false when there is none. The protocol must have ports.
    pub fn delete(&mut self, original: &Tuple, zone: u16, id: Option<u32>) -> Result<bool, NetlinkError> {
        delete(&mut self.deleting, original, zone, id)
    }

    /// Deletes every connection of a protocol with ports for which `stale` says so, of both families, while it lists
    /// them; returns how many. One that ended meanwhile, or was replaced by a newer one, is none and no error.
    pub fn delete_where(
        &mut self,
        protocol: u8,
        stale: impl FnMut(&Entry) -> bool,
    ) -> Result<usize, NetlinkError> {
        self.delete_of(&Family::ALL.map(Wanted::All), protocol, stale)
    }

    /// The same among those that are wanted: the kernel looks at the whole table for each of `wanted` and tells of no
    /// others. One that does not know how to (before 5.8) tells of all.
    pub fn delete_of(
        &mut self,
        wanted: &[Wanted],
        protocol: u8,
        mut stale: impl FnMut(&Entry) -> bool,
    ) -> Result<usize, NetlinkError> {
        let mut deleted = 0;
        let mut failed = None;
        for wanted in wanted {
            list(&mut self.listing, *wanted, protocol, |entry| {
                // The rest of the list is read to its end, and the socket stays in order.
                if failed.is_some() || !stale(&entry) {
                    return;
                }
                match delete(&mut self.deleting, &entry.original, entry.zone, Some(entry.id)) {
                    Ok(done) => deleted += usize::from(done),
                    Err(error) => failed = Some(error),
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(deleted)
    }
}

/// Asks a question that every kernel with the subsystem answers. Without it nfnetlink says that the message is invalid.
fn probe(socket: &mut NetlinkSocket, subsystem: u8) -> Result<(), NetlinkError> {
    let what = || "read the state of connection tracking".to_owned();
    let asked = socket.ask(&what, kind(subsystem, MSG_GET_STATS), &[0; NFGEN_LEN], |_| {});
    match asked {
        Ok(_) => Ok(()),
        Err(error) if error.errno() == Some(libc::EINVAL) => Err(NetlinkError::Unsupported {
            what: "connection tracking by netlink (nf_conntrack_netlink)".into(),
        }),
        Err(error) => Err(error),
    }
}

fn list(
    socket: &mut NetlinkSocket,
    wanted: Wanted,
    protocol: u8,
    mut each: impl FnMut(Entry),
) -> Result<(), NetlinkError> {
    // Kernels before 5.8 do not know the filter and tell of everything.
    let filter = |message: &mut MessageBuf| {
        // Linux 6.18 passes over exactly the IPv6 addresses that are asked for, so only ports are.
        let v4 = |flag| if wanted.family() == Family::V4 { flag } else { 0 };
        let (original, reply) = match wanted {
            Wanted::All(_) => (FILTER_PROTO_NUM, 0),
            Wanted::To(_) => (FILTER_PROTO_NUM | v4(FILTER_IP_DST) | FILTER_PROTO_DST_PORT, 0),
            Wanted::LedTo(_) => {
                (FILTER_PROTO_NUM, FILTER_PROTO_NUM | v4(FILTER_IP_SRC) | FILTER_PROTO_SRC_PORT)
            }
        };
        message.nest(FILTER, |message| {
            message.attr_u32(FILTER_ORIG_FLAGS, original);
            if reply != 0 {
                message.attr_u32(FILTER_REPLY_FLAGS, reply);
            }
        });
        let end = |to: Option<SocketAddr>, v4, v6, port| {
            move |message: &mut MessageBuf| {
                if let Some(addr) = to {
                    let kind = if addr.is_ipv4() { v4 } else { v6 };
                    message.nest(TUPLE_IP, |message| message.attr(kind, &octets(addr.ip())));
                }
                message.nest(TUPLE_PROTO, |message| {
                    message.attr(PROTO_NUM, &[protocol]);
                    if let Some(addr) = to {
                        message.attr(port, &addr.port().to_be_bytes());
                    }
                });
            }
        };
        let (to, led_to) = match wanted {
            Wanted::All(_) => (None, None),
            Wanted::To(addr) => (Some(addr), None),
            Wanted::LedTo(addr) => (None, Some(addr)),
        };
        message.nest(TUPLE_ORIG, end(to, IP_V4_DST, IP_V6_DST, PROTO_DST_PORT));
        if led_to.is_some() {
            message.nest(TUPLE_REPLY, end(led_to, IP_V4_SRC, IP_V6_SRC, PROTO_SRC_PORT));
        }
    };
    let what = || format!("list connections of protocol {protocol}");
    let header = [wanted.family().code(), 0, 0, 0];
    socket.stream(&what, kind(SUBSYSTEM, MSG_GET), &header, filter, |_, payload| {
        if let Some(entry) = read_entry(payload)
            && entry.original.protocol == protocol
            && wanted.has(&entry)
        {
            each(entry);
        }
    })?;
    Ok(())
}

fn delete(
    socket: &mut NetlinkSocket,
    original: &Tuple,
    zone: u16,
    id: Option<u32>,
) -> Result<bool, NetlinkError> {
    let what = || format!("delete connection {} to {}", original.src, original.dst);
    let header = [family(original.src.ip()), 0, 0, 0];
    let deleted = socket.request(&what, kind(SUBSYSTEM, MSG_DELETE), 0, &header, |message| {
        message.nest(TUPLE_ORIG, |message| write_tuple(message, original));
        if zone != 0 {
            message.attr(ZONE, &zone.to_be_bytes());
        }
        if let Some(id) = id {
            message.attr_be32(ID, id);
        }
    });
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

fn kind(subsystem: u8, message: u8) -> u16 {
    u16::from_be_bytes([subsystem, message])
}

fn write_tuple(message: &mut MessageBuf, tuple: &Tuple) {
    let (src, dst) = match tuple.src.ip() {
        IpAddr::V4(_) => (IP_V4_SRC, IP_V4_DST),
        IpAddr::V6(_) => (IP_V6_SRC, IP_V6_DST),
    };
    message.nest(TUPLE_IP, |message| {
        message.attr(src, &octets(tuple.src.ip()));
        message.attr(dst, &octets(tuple.dst.ip()));
    });
    message.nest(TUPLE_PROTO, |message| {
        message.attr(PROTO_NUM, &[tuple.protocol]);
        message.attr(PROTO_SRC_PORT, &tuple.src.port().to_be_bytes());
        message.attr(PROTO_DST_PORT, &tuple.dst.port().to_be_bytes());
    });
    if let Some(zone) = tuple.zone {
        message.attr(TUPLE_ZONE, &zone.to_be_bytes());
    }
}

fn read_entry(payload: &[u8]) -> Option<Entry> {
    let attrs = Attrs::after(payload, NFGEN_LEN);
    Some(Entry {
        original: read_tuple(attrs.nest(TUPLE_ORIG))?,
        reply: read_tuple(attrs.nest(TUPLE_REPLY))?,
        status: attrs.be32(STATUS).unwrap_or_default(),
        mark: attrs.be32(MARK).unwrap_or_default(),
        zone: be16(attrs, ZONE).unwrap_or_default(),
        id: attrs.be32(ID).unwrap_or_default(),
    })
}

fn read_tuple(attrs: Attrs<'_>) -> Option<Tuple> {
    let (addresses, protocol) = (attrs.nest(TUPLE_IP), attrs.nest(TUPLE_PROTO));
    let end = |v4, v6, port| {
        let addr = addresses.get(v4).or_else(|| addresses.get(v6)).and_then(read_addr)?;
        Some(SocketAddr::new(addr, be16(protocol, port).unwrap_or_default()))
    };
    Some(Tuple {
        protocol: *protocol.get(PROTO_NUM)?.first()?,
        src: end(IP_V4_SRC, IP_V6_SRC, PROTO_SRC_PORT)?,
        dst: end(IP_V4_DST, IP_V6_DST, PROTO_DST_PORT)?,
        zone: be16(attrs, TUPLE_ZONE),
    })
}

fn be16(attrs: Attrs<'_>, kind: u16) -> Option<u16> {
    attrs.get(kind).and_then(read_u16).map(u16::from_be)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::in_fresh_namespaces;

    #[test]
    fn a_subsystem_that_the_kernel_lacks_is_told_apart() {
        if !in_fresh_namespaces("netlink::conntrack::tests::a_subsystem_that_the_kernel_lacks_is_told_apart")
        {
            return;
        }
        // Above every subsystem there is (`NFNL_SUBSYS_COUNT`).
        const NOBODYS: u8 = 200;
        let mut socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).unwrap();
        let error = probe(&mut socket, NOBODYS).unwrap_err();
        assert!(error.is_unsupported(), "{error}");
        assert_eq!(error.as_str(), "unsupported");
        probe(&mut socket, SUBSYSTEM).unwrap();
    }

    #[test]
    fn a_tuple_is_read_as_it_was_written() {
        for (src, dst, zone) in
            [("10.1.0.2:40000", "10.96.0.1:53", None), ("[fd00:1::2]:40000", "[fd00:96::1]:53", Some(7))]
        {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let tuple = Tuple { protocol: 17, src, dst, zone };
            let mut message = MessageBuf::default();
            write_tuple(&mut message, &tuple);
            assert_eq!(read_tuple(Attrs(message.as_slice())), Some(tuple));
        }
    }
}
