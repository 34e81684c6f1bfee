use std::net::IpAddr;

use super::{Handle, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Prefix, family, octets, read_addr};
use crate::netlink::{Attrs, MessageBuf, NetlinkError};

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
/// The route is a cached exception and no entry of a table.
const RTM_F_CLONED: u32 = 0x200;
/// `struct rtmsg`.
const RTMSG_LEN: usize = 12;
/// `struct rtnexthop`.
const NEXT_HOP_LEN: usize = 8;
/// Address family before the address in `struct rtvia`.
const VIA_FAMILY_LEN: usize = 2;

/// Should each be refused, the answers (a header, an error and a line of text, for which the kernel accounts about 800
/// bytes) fit into a socket's usual receive buffer of 208 KiB.
const ROUTES_PER_CALL: usize = 200;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

/// The table for addresses of the host itself.
pub const TABLE_LOCAL: u32 = 255;
/// The table `ip route` shows.
pub const TABLE_MAIN: u32 = 254;
/// Routes the kernel made for addresses.
pub const PROTO_KERNEL: u8 = 2;
/// Routes made by `ip route`.
pub const PROTO_BOOT: u8 = 3;
/// Routes of the administrator.
pub const PROTO_STATIC: u8 = 4;

/// What is done with packets that take a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sent on.
    Unicast,
    /// Delivered to the host.
    Local,
    /// Dropped silently.
    Blackhole,
    /// Refused with host unreachable.
    Unreachable,
    /// Any other `RTN_*`, only read.
    Other(u8),
}

impl RouteKind {
    fn code(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            other => Self::Other(other),
        }
    }
}

/// How far a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Behind a gateway.
    Universe,
    /// On the link.
    Link,
    /// The host itself.
    Host,
    /// Any other `RT_SCOPE_*`, only read.
    Other(u8),
}

impl Scope {
    fn code(self) -> u8 {
        match self {
            Self::Universe => 0,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Universe,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }
}

/// One of several ways a route may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Next hop; absent where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the link; 0 leaves it to the kernel to find the gateway's.
    pub oif: u32,
    /// Its share among the others; at least 1, at most 256.
    pub weight: u16,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Table; [`TABLE_MAIN`] unless there is a reason.
    pub table: u32,
    /// What is done with packets.
    pub kind: RouteKind,
    /// Destination; length 0 is the default route.
    pub dst: Prefix,
    /// Next hop, where there is one; of the other address family where IPv4 goes by way of an IPv6 router.
    pub gateway: Option<IpAddr>,
    /// Index of the link, where there is one.
    pub oif: Option<u32>,
    /// The ways to take where there are several; `gateway` and `oif` are absent then.
    pub next_hops: Vec<NextHop>,
    /// Source address of packets the host itself sends.
    pub prefsrc: Option<IpAddr>,
    /// Who made it, `RTPROT_*`.
    pub proto: u8,
    /// The lowest wins; the kernel's default (0 for IPv4, 1024 for IPv6) when absent.
    pub metric: Option<u32>,
    /// How far; IPv6 has no scopes and reads back as [`Scope::Universe`].
    pub scope: Scope,
}

impl Route {
    /// A unicast route in the main table, as `ip route add` makes it.
    pub fn unicast(dst: Prefix) -> Self {
        Self {
            table: TABLE_MAIN,
            kind: RouteKind::Unicast,
            dst,
            gateway: None,
            oif: None,
            next_hops: Vec::new(),
            prefsrc: None,
            proto: PROTO_STATIC,
            metric: None,
            scope: Scope::Universe,
        }
    }

    /// A unicast route by way of a gateway.
    pub fn via(dst: Prefix, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::unicast(dst) }
    }

    /// A unicast route to what is on a link.
    pub fn on_link(dst: Prefix, link: u32) -> Self {
        Self { oif: Some(link), scope: Scope::Link, ..Self::unicast(dst) }
    }
}

impl Handle {
    /// Adds a route; one to the same destination with the same metric is an error.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change_route("add", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route)
    }

    /// Adds routes as [`Handle::add_route`] does, in few calls; returns those to whose destination there is one already.
    /// At any other error those before it, and some after it, are there.
    pub fn add_routes(&mut self, routes: &[Route]) -> Result<Vec<usize>, NetlinkError> {
        let mut exist = Vec::new();
        for (chunk, start) in routes.chunks(ROUTES_PER_CALL).zip((0..).step_by(ROUTES_PER_CALL)) {
            let mut messages = MessageBuf::default();
            let mut first = None;
            let mut last = 0;
            for (index, route) in chunk.iter().enumerate() {
                last = self.socket.next_seq();
                first.get_or_insert(last);
                let ack = if index + 1 == chunk.len() { NLM_F_ACK } else { 0 };
                let flags = NLM_F_REQUEST | ack | NLM_F_CREATE | NLM_F_EXCL;
                messages.message(RTM_NEWROUTE, flags, last, &header(route), |message| {
                    write_route(message, route)
                });
            }
            let first = first.unwrap_or(last);
            for answer in self.socket.each(&|| "add routes".to_owned(), messages.as_slice(), first, last)? {
                let index = answer.seq.wrapping_sub(first) as usize;
                let what = || match chunk.get(index) {
                    Some(route) => format!("add route {} in table {}", route.dst, route.table),
                    None => "add routes".to_owned(),
                };
                match answer.into_result(&what) {
                    Err(error) if error.is_exists() => exist.push(start + index),
                    result => result?,
                }
            }
        }
        Ok(exist)
    }

    /// Adds a route, or replaces the one to the same destination with the same metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change_route("replace", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
    }

    /// Deletes the route that matches in every field that is given.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change_route("delete", RTM_DELROUTE, 0, route)
    }

    /// Every route of every table, or of one, both families.
    pub fn routes(&mut self, table: Option<u32>) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; RTMSG_LEN];
            header[0] = u8::try_from(family).expect("address families are small");
            let found = self.socket.dump(
                &|| "list routes".to_owned(),
                RTM_GETROUTE,
                &header,
                |message| {
                    if let Some(table) = table {
                        message.attr_u32(RTA_TABLE, table);
                    }
                },
                |kind, payload| {
                    let route = (kind == RTM_NEWROUTE).then(|| read_route(payload)).flatten()?;
                    table.is_none_or(|table| route.table == table).then_some(route)
                },
            );
            match found {
                Ok(found) => routes.extend(found),
                // A table comes into being with its first route.
                Err(error) if table.is_some() && error.is_missing() => {}
                // Booted without IPv6.
                Err(error) if family == libc::AF_INET6 && error.is_unsupported() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    fn change_route(&mut self, verb: &str, kind: u16, flags: u16, route: &Route) -> Result<(), NetlinkError> {
        let what = || format!("{verb} route {} in table {}", route.dst, route.table);
        self.socket.request(&what, kind, flags, &header(route), |message| write_route(message, route))
    }
}

fn header(route: &Route) -> [u8; RTMSG_LEN] {
    let mut header = [0; RTMSG_LEN];
    header[0] = family(route.dst.addr);
    header[1] = route.dst.len;
    header[4] = u8::try_from(route.table).unwrap_or(0);
    header[5] = route.proto;
    header[6] = route.scope.code();
    header[7] = route.kind.code();
    header
}

fn write_route(message: &mut MessageBuf, route: &Route) {
    message.attr_u32(RTA_TABLE, route.table);
    if route.dst.len > 0 {
        message.attr(RTA_DST, &octets(route.dst.addr));
    }
    if let Some(gateway) = route.gateway {
        write_gateway(message, route.dst, gateway);
    }
    if !route.next_hops.is_empty() {
        message.nest(RTA_MULTIPATH, |message| {
            for hop in &route.next_hops {
                write_next_hop(message, route.dst, *hop);
            }
        });
    }
    if let Some(oif) = route.oif {
        message.attr_u32(RTA_OIF, oif);
    }
    if let Some(prefsrc) = route.prefsrc {
        message.attr(RTA_PREFSRC, &octets(prefsrc));
    }
    if let Some(metric) = route.metric {
        message.attr_u32(RTA_PRIORITY, metric);
    }
}

fn read_route(payload: &[u8]) -> Option<Route> {
    let header = payload.get(..RTMSG_LEN)?;
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let attrs = Attrs::after(payload, RTMSG_LEN);
    let unspecified = match i32::from(header[0]) {
        libc::AF_INET => IpAddr::from([0u8; 4]),
        libc::AF_INET6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let addr = attrs.get(RTA_DST).and_then(read_addr).unwrap_or(unspecified);
    Some(Route {
        table: attrs.u32(RTA_TABLE).unwrap_or_else(|| u32::from(header[4])),
        kind: RouteKind::from_code(header[7]),
        dst: Prefix { addr, len: header[1] },
        gateway: read_gateway(attrs),
        oif: attrs.u32(RTA_OIF),
        next_hops: read_next_hops(attrs.get(RTA_MULTIPATH).unwrap_or_default()),
        prefsrc: attrs.get(RTA_PREFSRC).and_then(read_addr),
        proto: header[5],
        metric: attrs.u32(RTA_PRIORITY),
        scope: Scope::from_code(header[6]),
    })
}

fn write_gateway(message: &mut MessageBuf, dst: Prefix, gateway: IpAddr) {
    if gateway.is_ipv4() == dst.addr.is_ipv4() {
        return message.attr(RTA_GATEWAY, &octets(gateway));
    }
    let mut via = u16::from(family(gateway)).to_ne_bytes().to_vec();
    via.extend_from_slice(&octets(gateway));
    message.attr(RTA_VIA, &via);
}

fn read_gateway(attrs: Attrs<'_>) -> Option<IpAddr> {
    let via = || attrs.get(RTA_VIA)?.get(VIA_FAMILY_LEN..);
    attrs.get(RTA_GATEWAY).or_else(via).and_then(read_addr)
}

fn write_next_hop(message: &mut MessageBuf, dst: Prefix, hop: NextHop) {
    let mut attrs = MessageBuf::default();
    if let Some(gateway) = hop.gateway {
        write_gateway(&mut attrs, dst, gateway);
    }
    let len = u16::try_from(NEXT_HOP_LEN + attrs.len()).expect("one address is short");
    let mut header = [0; NEXT_HOP_LEN];
    header[..2].copy_from_slice(&len.to_ne_bytes());
    header[3] = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    header[4..].copy_from_slice(&hop.oif.to_ne_bytes());
    message.raw(&header);
    message.append(attrs.as_slice());
}

/// Reads an array of `struct rtnexthop`, each with its attributes; a malformed rest ends the walk.
fn read_next_hops(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(header) = bytes.first_chunk::<NEXT_HOP_LEN>()
        && let len = usize::from(u16::from_ne_bytes([header[0], header[1]]))
        && let Some(attrs) = bytes.get(NEXT_HOP_LEN..len)
    {
        hops.push(NextHop {
            gateway: read_gateway(Attrs(attrs)),
            oif: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            weight: u16::from(header[3]) + 1,
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}
