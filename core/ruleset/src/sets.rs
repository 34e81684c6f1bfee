use std::fmt;
use std::net::{IpAddr, SocketAddr};

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_route::Via;
use ipnet::IpNet;

use crate::{Family, Pick};

/// The sets and maps of the table; one of each for each family. A frontend is an address, a protocol and a port.
///
/// In the order in which members are added; they are deleted in the reverse order. What a member relies on comes before
/// it, so that no packet meets half of it where a transaction has to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Frontend and slot, to the endpoint of the slot.
    Endpoints,
    /// Frontend with session affinity and number of an endpoint, to the endpoint: those that a session may lead to.
    Live,
    /// Frontend with session affinity and slot, to the number of the slot's endpoint.
    Numbers,
    /// Client and frontend, to the number of its session's endpoint. Filled by packets.
    Sessions,
    /// Endpoints the kernel translates to, to the chain that says whether their clients are masqueraded.
    Backends,
    /// Addresses of Pods here, each with itself: what a Pod sends to itself.
    Hairpins,
    /// Frontends with source ranges, with each range.
    Allowed,
    /// Frontends with source ranges.
    Restricted,
    /// Frontends of which every connection goes to the listener.
    Proxied,
    /// Frontends of which some connections go to the listener.
    Mixed,
    /// Frontends the kernel translates, to the chain that picks an endpoint.
    Services,
    /// Frontends whose traffic policy leaves no endpoint here.
    Dropped,
    /// Frontends whose traffic policy is not for this node and its Pods: theirs go to the listener.
    Inside,
    /// Frontends, each with an endpoint that the kernel would not lead back to itself.
    Own,
    /// Frontends at addresses of the host that have no endpoint.
    Rejected,
    /// Virtual addresses.
    Vips,
}

impl SetKind {
    /// Every kind, in order.
    pub const ALL: [Self; 16] = [
        Self::Endpoints,
        Self::Live,
        Self::Numbers,
        Self::Sessions,
        Self::Backends,
        Self::Hairpins,
        Self::Allowed,
        Self::Restricted,
        Self::Proxied,
        Self::Mixed,
        Self::Services,
        Self::Dropped,
        Self::Inside,
        Self::Own,
        Self::Rejected,
        Self::Vips,
    ];

    /// Its name in the table.
    pub fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Proxied, Family::V4) => "proxied4",
            (Self::Proxied, Family::V6) => "proxied6",
            (Self::Mixed, Family::V4) => "mixed4",
            (Self::Mixed, Family::V6) => "mixed6",
            (Self::Services, Family::V4) => "services4",
            (Self::Services, Family::V6) => "services6",
            (Self::Endpoints, Family::V4) => "endpoints4",
            (Self::Endpoints, Family::V6) => "endpoints6",
            (Self::Live, Family::V4) => "live4",
            (Self::Live, Family::V6) => "live6",
            (Self::Numbers, Family::V4) => "numbers4",
            (Self::Numbers, Family::V6) => "numbers6",
            (Self::Sessions, Family::V4) => "sessions4",
            (Self::Sessions, Family::V6) => "sessions6",
            (Self::Vips, Family::V4) => "vips4",
            (Self::Vips, Family::V6) => "vips6",
            (Self::Backends, Family::V4) => "backends4",
            (Self::Backends, Family::V6) => "backends6",
            (Self::Hairpins, Family::V4) => "hairpins4",
            (Self::Hairpins, Family::V6) => "hairpins6",
            (Self::Dropped, Family::V4) => "dropped4",
            (Self::Dropped, Family::V6) => "dropped6",
            (Self::Inside, Family::V4) => "inside4",
            (Self::Inside, Family::V6) => "inside6",
            (Self::Own, Family::V4) => "own4",
            (Self::Own, Family::V6) => "own6",
            (Self::Rejected, Family::V4) => "rejected4",
            (Self::Rejected, Family::V6) => "rejected6",
            (Self::Restricted, Family::V4) => "restricted4",
            (Self::Restricted, Family::V6) => "restricted6",
            (Self::Allowed, Family::V4) => "allowed4",
            (Self::Allowed, Family::V6) => "allowed6",
        }
    }
}

/// How many elements each set has; rules about sets without any are left out, because they would cost every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Population([[u32; SetKind::ALL.len()]; 2]);

impl Population {
    /// Counts an element.
    pub(crate) fn add(&mut self, member: &Member) {
        *self.of(member) += 1;
    }

    /// Counts an element no more.
    pub(crate) fn remove(&mut self, member: &Member) {
        let count = self.of(member);
        *count = count.saturating_sub(1);
    }

    /// Whether a set has an element.
    pub fn has(&self, set: SetKind, family: Family) -> bool {
        self.0[family as usize][set as usize] > 0
    }

    /// Whether the same sets have elements.
    pub(crate) fn fills_alike(&self, other: &Self) -> bool {
        let mut pairs = self.0.as_flattened().iter().zip(other.0.as_flattened());
        pairs.all(|(own, others)| (*own > 0) == (*others > 0))
    }

    fn of(&mut self, member: &Member) -> &mut u32 {
        &mut self.0[member.family() as usize][member.set() as usize]
    }
}

/// One element of a set or map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is explained at its `SetKind`")]
pub enum Member {
    Proxied(Frontend),
    Mixed(Frontend),
    Service(Frontend, Pick),
    /// The slot counts from 0.
    Endpoint(Frontend, u16, SocketAddr),
    Live(Frontend, u32, SocketAddr),
    /// The slot counts from 0.
    Number(Frontend, u16, u32),
    Vip(IpAddr),
    Backend(SocketAddr, Protocol, Via),
    Hairpin(IpAddr),
    Dropped(Frontend),
    Inside(Frontend),
    Own(Frontend, IpAddr),
    Rejected(Frontend),
    Restricted(Frontend),
    Allowed(Frontend, IpNet),
}

impl Member {
    /// The set it belongs to.
    pub fn set(&self) -> SetKind {
        match self {
            Self::Proxied(_) => SetKind::Proxied,
            Self::Mixed(_) => SetKind::Mixed,
            Self::Service(..) => SetKind::Services,
            Self::Endpoint(..) => SetKind::Endpoints,
            Self::Live(..) => SetKind::Live,
            Self::Number(..) => SetKind::Numbers,
            Self::Vip(_) => SetKind::Vips,
            Self::Backend(..) => SetKind::Backends,
            Self::Hairpin(_) => SetKind::Hairpins,
            Self::Dropped(_) => SetKind::Dropped,
            Self::Inside(_) => SetKind::Inside,
            Self::Own(..) => SetKind::Own,
            Self::Rejected(_) => SetKind::Rejected,
            Self::Restricted(_) => SetKind::Restricted,
            Self::Allowed(..) => SetKind::Allowed,
        }
    }

    /// The family whose set it belongs to.
    pub fn family(&self) -> Family {
        Family::of(match self {
            Self::Proxied(frontend)
            | Self::Mixed(frontend)
            | Self::Service(frontend, _)
            | Self::Endpoint(frontend, ..)
            | Self::Live(frontend, ..)
            | Self::Number(frontend, ..)
            | Self::Dropped(frontend)
            | Self::Inside(frontend)
            | Self::Own(frontend, _)
            | Self::Rejected(frontend)
            | Self::Restricted(frontend)
            | Self::Allowed(frontend, _) => frontend.ip,
            Self::Vip(ip) | Self::Hairpin(ip) => *ip,
            Self::Backend(addr, ..) => addr.ip(),
        })
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxied(frontend) => write!(f, "Proxied({frontend})"),
            Self::Mixed(frontend) => write!(f, "Mixed({frontend})"),
            Self::Service(frontend, pick) => write!(f, "Service({frontend}, {})", pick.chain_name()),
            Self::Endpoint(frontend, slot, addr) => write!(f, "Endpoint({frontend}, {slot}, {addr})"),
            Self::Live(frontend, _, addr) => write!(f, "Live({frontend}, {addr})"),
            Self::Number(frontend, slot, _) => write!(f, "Number({frontend}, {slot})"),
            Self::Vip(ip) => write!(f, "Vip({ip})"),
            Self::Backend(addr, protocol, via) => write!(f, "Backend({addr}, {protocol:?}, {via:?})"),
            Self::Hairpin(ip) => write!(f, "Hairpin({ip})"),
            Self::Dropped(frontend) => write!(f, "Dropped({frontend})"),
            Self::Inside(frontend) => write!(f, "Inside({frontend})"),
            Self::Own(frontend, ip) => write!(f, "Own({frontend}, {ip})"),
            Self::Rejected(frontend) => write!(f, "Rejected({frontend})"),
            Self::Restricted(frontend) => write!(f, "Restricted({frontend})"),
            Self::Allowed(frontend, range) => write!(f, "Allowed({frontend}, {range})"),
        }
    }
}

/// Brings members into the order of their sets, then of keys. Those of one set mostly come in order, as frontends do: a
/// stable sort of each finds that, where one of all would compare for each of a hundred thousand.
pub(crate) fn sort(members: &mut Vec<Member>) {
    let mut by_set: [Vec<Member>; SetKind::ALL.len()] = Default::default();
    for member in members.drain(..) {
        by_set[member.set() as usize].push(member);
    }
    for mut own in by_set {
        own.sort();
        members.append(&mut own);
    }
}
