use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_route::Via;
use ipnet::IpNet;

use super::PREFIX;
use crate::{Family, Member, Ruleset, SetKind};

/// Most elements of a set; ipset wants a bound. Frontends end at [`MAX_FRONTENDS`](crate::MAX_FRONTENDS), and endpoints,
/// of which there are more, seldom lie at more than a few for each.
pub const MAX_ELEMENTS: u32 = 1 << 20;

/// Types of sets; the names are ipset's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "ipset's own names")]
pub enum SetType {
    Ip,
    IpPort,
    IpPortIp,
    IpPortNet,
}

impl SetType {
    /// As `ipset` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "hash:ip",
            Self::IpPort => "hash:ip,port",
            Self::IpPortIp => "hash:ip,port,ip",
            Self::IpPortNet => "hash:ip,port,net",
        }
    }
}

/// One set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its type.
    pub kind: SetType,
    /// Filled after those with lower numbers, on which it relies.
    pub order: u8,
    /// Its elements, as `ipset save` prints them.
    pub elements: BTreeSet<String>,
}

impl Set {
    /// What makes it, without its elements.
    pub fn create(&self, name: &str, family: Family) -> String {
        let inet = match family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        format!("create {name} {} family {inet} maxelem {MAX_ELEMENTS}", self.kind.as_str())
    }
}

/// Sets by name.
pub type Sets = BTreeMap<String, Set>;

/// The name of a set; those of the two families must differ.
pub(super) fn name(set: SetKind, family: Family) -> String {
    let word = match set {
        SetKind::Proxied => "PROXIED",
        SetKind::Mixed => "MIXED",
        SetKind::Services => "SERVICES",
        SetKind::Dropped => "DROPPED",
        SetKind::Inside => "INSIDE",
        SetKind::Own => "OWN",
        SetKind::Rejected => "REJECTED",
        SetKind::Restricted => "RESTRICTED",
        SetKind::Allowed => "ALLOWED",
        SetKind::Vips => "VIPS",
        SetKind::Hairpins => "HAIRPINS",
        SetKind::Backends => "BACKENDS",
        SetKind::Endpoints => "ENDPOINTS",
        SetKind::Live => "LIVE",
        SetKind::Numbers => "NUMBERS",
        SetKind::Sessions => "SESSIONS",
    };
    format!("{PREFIX}{word}-{}", number(family))
}

/// The set of endpoints reached in one way, and the chain that says whether their clients are masqueraded.
pub(super) fn backends(via: Via, family: Family) -> Option<(String, String)> {
    let word = match via {
        Via::Host => return None,
        Via::Pod => "TO-POD",
        Via::PodRoute => "TO-POD-ROUTE",
        Via::Address => "TO-ADDRESS",
    };
    Some((format!("{PREFIX}{word}-{}", number(family)), format!("{PREFIX}{word}")))
}

/// The set of frontends of which the listener gets so many of 256 connections.
pub(super) fn share(of_256: u8, family: Family) -> String {
    format!("{PREFIX}SHARE-{of_256}-{}", number(family))
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn element(addr: SocketAddr, of: Protocol) -> String {
    format!("{},{}:{}", addr.ip(), protocol(of), addr.port())
}

fn frontend(it: &Frontend) -> String {
    element(it.socket_addr(), it.protocol)
}

/// ipset knows no prefix of length 0, and prints none that is an address.
fn ranges(range: &IpNet) -> Vec<String> {
    if range.prefix_len() == range.max_prefix_len() {
        return vec![range.addr().to_string()];
    }
    if range.prefix_len() > 0 {
        return vec![range.trunc().to_string()];
    }
    match range.addr() {
        IpAddr::V4(_) => vec!["0.0.0.0/1".to_owned(), "128.0.0.0/1".to_owned()],
        IpAddr::V6(_) => vec!["::/1".to_owned(), "8000::/1".to_owned()],
    }
}

/// Sets that rules may ask for whether or not they have elements.
const ALWAYS: [(SetKind, SetType); 11] = [
    (SetKind::Hairpins, SetType::IpPortIp),
    (SetKind::Own, SetType::IpPortIp),
    (SetKind::Allowed, SetType::IpPortNet),
    (SetKind::Restricted, SetType::IpPort),
    (SetKind::Proxied, SetType::IpPort),
    (SetKind::Mixed, SetType::IpPort),
    (SetKind::Services, SetType::IpPort),
    (SetKind::Dropped, SetType::IpPort),
    (SetKind::Inside, SetType::IpPort),
    (SetKind::Rejected, SetType::IpPort),
    (SetKind::Vips, SetType::Ip),
];

/// Every set of a family with its elements.
pub(super) fn sets(ruleset: &Ruleset, family: Family) -> Sets {
    let empty = |kind, order| Set { kind, order, elements: BTreeSet::new() };
    let always = (1..).zip(ALWAYS).map(|(order, (set, kind))| (name(set, family), empty(kind, order)));
    let mut sets: Sets = always.collect();
    for via in [Via::Pod, Via::PodRoute, Via::Address] {
        sets.extend(backends(via, family).map(|(set, _)| (set, empty(SetType::IpPort, 0))));
    }
    let mut put = |set: String, element: String| {
        sets.entry(set).or_insert_with(|| empty(SetType::IpPort, 0)).elements.insert(element);
    };
    for member in ruleset.members().into_iter().filter(|member| member.family() == family) {
        let own = name(member.set(), family);
        match member {
            Member::Proxied(it)
            | Member::Mixed(it)
            | Member::Dropped(it)
            | Member::Inside(it)
            | Member::Rejected(it)
            | Member::Restricted(it) => put(own, frontend(&it)),
            Member::Service(it, pick) => {
                put(own, frontend(&it));
                if pick.proxied > 0 {
                    put(share(pick.proxied, family), frontend(&it));
                }
            }
            Member::Own(it, ip) => put(own, format!("{},{ip}", frontend(&it))),
            Member::Vip(ip) => put(own, ip.to_string()),
            Member::Allowed(it, range) => {
                for range in ranges(&range) {
                    put(own.clone(), format!("{},{range}", frontend(&it)));
                }
            }
            Member::Backend(addr, of, via) => {
                if let Some((set, _)) = backends(via, family) {
                    put(set, element(addr, of));
                }
                // What a Pod sends to itself has, once translated, its own address at both ends.
                if via == Via::Pod {
                    put(name(SetKind::Hairpins, family), format!("{},{}", element(addr, of), addr.ip()));
                }
            }
            // Chains say what these say.
            Member::Endpoint(..) | Member::Live(..) | Member::Number(..) | Member::Hairpin(_) => {}
        }
    }
    sets
}
