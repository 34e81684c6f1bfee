use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::Protocol;
use edgemesh_mesh::{Backend, Frontend, FrontendEntry, MeshSnapshot, PathSnapshot, Policy};
use edgemesh_route::{Origin, Via, candidates, candidates_from, reach};

use crate::rules::MAX_AFFINITY;
use crate::{Family, Member, Pick, RulesetSettings};

/// What becomes of new connections to a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steer {
    /// All go to the listener.
    Proxy,
    /// The kernel translates them, but for the share that goes to the listener.
    Kernel(Spread),
    /// There is no endpoint: the client is told so.
    Reject,
    /// A traffic policy keeps the endpoints there are from this node: dropped, so that what balances load over nodes
    /// tries another (as kube-proxy does).
    Drop {
        /// The policy is not for this node and its Pods, whose connections go to the listener.
        inside: bool,
    },
}

/// How the kernel spreads new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The endpoints it translates to, each as often as any other.
    pub endpoints: Arc<[(SocketAddr, Via)]>,
    /// How many of 256 go to the listener, because only the tunnel reaches their endpoints.
    pub proxied: u8,
    /// How long a client stays with its endpoint.
    pub affinity: Option<Duration>,
    /// The traffic policy is not for this node and its Pods, whose connections go to the listener.
    pub inside: bool,
    /// Addresses of Pods among the endpoints that would not reach themselves: their connections go to the listener.
    pub own: Arc<[IpAddr]>,
    /// Whether connections that were not translated go to the listener: its share, and those of Pods where the host does
    /// not send them on.
    pub caught: bool,
}

impl Spread {
    /// The chain that picks an endpoint so.
    pub fn pick(&self) -> Pick {
        Pick {
            slots: u16::try_from(self.endpoints.len()).unwrap_or(u16::MAX),
            proxied: self.proxied,
            affinity: self.affinity.map_or(0, |timeout| {
                u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).clamp(1, MAX_AFFINITY)
            }),
        }
    }
}

/// Most endpoints of one frontend in the kernel: a change of one writes those of its Service anew, which for so many
/// takes a millisecond. Services with more go through the proxy.
pub const MAX_SLOTS: usize = 1024;

/// What the kernel does with new connections to a frontend.
pub(crate) fn steer(
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    settings: &RulesetSettings,
    entry: &FrontendEntry,
    frontend: &Frontend,
) -> Steer {
    let found = candidates(snapshot, paths, entry, frontend);
    let sctp = frontend.protocol == Protocol::Sctp;
    let inside = !sctp
        && entry.local_only(false)
        && !entry.local_only(true)
        && candidates_from(snapshot, paths, entry, frontend, Origin::Inside).backends != found.backends;
    if found.backends.is_empty() {
        return if found.has_endpoints { Steer::Drop { inside } } else { Steer::Reject };
    }
    // The listener takes TCP and UDP only.
    let proxy = if sctp { Steer::Reject } else { Steer::Proxy };
    let service = &entry.service;
    if !settings.kernel_path || service.policy == Policy::SourceIpHash || found.backends.len() > MAX_SLOTS {
        return proxy;
    }
    let endpoints: Vec<(SocketAddr, Via)> = found
        .backends
        .iter()
        .filter_map(|backend| Some((backend.addr, kernel(snapshot, paths, frontend, backend)?)))
        .collect();
    let proxied = found.backends.len() - endpoints.len();
    match (endpoints.is_empty(), proxied) {
        (true, _) => proxy,
        // Sessions could not tell them apart.
        _ if service.affinity.is_some() && !numbers_differ(&endpoints) => proxy,
        // Where the kernel and the listener share, neither knows the other's sessions.
        (false, 1..) if service.affinity.is_some() => proxy,
        // The listener's share would be refused.
        (false, 1..) if paths.host.untranslated_refused => proxy,
        (false, _) => {
            // SCTP has no other way than the kernel's.
            let proxied = if sctp { 0 } else { share(proxied, found.backends.len()) };
            let caught = !sctp && (proxied > 0 || inside || !paths.host.forwards(frontend.ip.is_ipv6()));
            let own: Vec<IpAddr> = if sctp { Vec::new() } else { one_way(paths, &endpoints) };
            let (affinity, caught) = (service.affinity, caught || !own.is_empty());
            let endpoints = endpoints.into();
            Steer::Kernel(Spread { endpoints, proxied, affinity, inside, own: own.into(), caught })
        }
    }
}

/// What stands for an endpoint in sessions, whatever its slot is: a hash (FNV-1a), the same in every process.
fn number(addr: &SocketAddr) -> u32 {
    let address: &[u8] = match addr.ip() {
        IpAddr::V4(ip) => &ip.octets(),
        IpAddr::V6(ip) => &ip.octets(),
    };
    let octets = address.iter().copied().chain(addr.port().to_be_bytes());
    octets.fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

fn numbers_differ(endpoints: &[(SocketAddr, Via)]) -> bool {
    let numbers: BTreeSet<u32> = endpoints.iter().map(|(addr, _)| number(addr)).collect();
    numbers.len() == endpoints.len()
}

/// Addresses of Pods behind a bridge whose packets pass netfilter while it forwards them: translated there, a packet goes on
/// to its port at once, and a port that is not in hairpin mode does not send back what came in by it.
fn one_way(paths: &PathSnapshot, endpoints: &[(SocketAddr, Via)]) -> Vec<IpAddr> {
    let pods = endpoints.iter().filter(|(_, via)| *via == Via::Pod).map(|(addr, _)| addr.ip());
    let one_way =
        |ip: &IpAddr| paths.host.route(*ip).is_some_and(|route| route.bridge_filtered && route.one_way);
    let mut own: Vec<IpAddr> = pods.filter(one_way).collect();
    own.dedup();
    own
}

/// How the kernel reaches an endpoint; translation does not change the family.
fn kernel(
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    frontend: &Frontend,
    backend: &Backend,
) -> Option<Via> {
    if backend.addr.is_ipv4() != frontend.ip.is_ipv4() {
        return None;
    }
    reach(snapshot, paths, backend).ok()
}

/// `part` of `whole` in 256ths; what is neither none nor all stays so.
fn share(part: usize, whole: usize) -> u8 {
    if part == 0 {
        return 0;
    }
    let rounded = (part * 512 + whole) / (whole * 2);
    u8::try_from(rounded.clamp(1, 255)).unwrap_or(u8::MAX)
}

/// The words of `explain`.
impl fmt::Display for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy => f.write_str("proxy: every connection"),
            Self::Reject => f.write_str("refused: there is no endpoint"),
            Self::Drop { inside } => {
                f.write_str("dropped: the traffic policy leaves no endpoint on this node")?;
                if *inside { f.write_str("; the proxy for this node and its Pods") } else { Ok(()) }
            }
            Self::Kernel(spread) => {
                write!(f, "kernel: spread over {} endpoints", spread.endpoints.len())?;
                if let Some(timeout) = spread.affinity {
                    write!(f, ", sessions of {} s", timeout.as_secs())?;
                }
                if spread.proxied > 0 {
                    write!(f, "; the proxy for {} of 256 connections", spread.proxied)
                } else if spread.inside {
                    f.write_str("; the proxy for this node and its Pods")
                } else if !spread.own.is_empty() {
                    f.write_str("; the proxy for the endpoints themselves, whose bridge ports are not in hairpin mode")
                } else if spread.caught {
                    f.write_str("; the proxy for Pods, because this host does not forward their packets")
                } else {
                    Ok(())
                }
            }
        }
    }
}

impl Steer {
    /// The elements of sets and maps that make a frontend so.
    pub(crate) fn members(&self, frontend: Frontend) -> Vec<Member> {
        match self {
            Self::Proxy => vec![Member::Proxied(frontend)],
            Self::Reject => vec![Member::Rejected(frontend)],
            Self::Drop { inside: false } => vec![Member::Dropped(frontend)],
            Self::Drop { inside: true } => {
                vec![Member::Mixed(frontend), Member::Dropped(frontend), Member::Inside(frontend)]
            }
            Self::Kernel(spread) => {
                let mut members = vec![Member::Service(frontend, spread.pick())];
                members.extend(spread.caught.then_some(Member::Mixed(frontend)));
                members.extend(spread.inside.then_some(Member::Inside(frontend)));
                members.extend(spread.own.iter().map(|ip| Member::Own(frontend, *ip)));
                for (slot, (addr, _)) in (0..).zip(spread.endpoints.iter()) {
                    members.push(Member::Endpoint(frontend, slot, *addr));
                    if spread.affinity.is_some() {
                        let number = number(addr);
                        members.push(Member::Live(frontend, number, *addr));
                        members.push(Member::Number(frontend, slot, number));
                    }
                }
                members
            }
        }
    }

    /// Whether packets to the frontend pass the listener.
    pub fn listens(&self) -> bool {
        match self {
            Self::Proxy => true,
            Self::Kernel(spread) => spread.caught,
            Self::Drop { inside } => *inside,
            Self::Reject => false,
        }
    }
}

/// The families of a ruleset.
pub(crate) fn families(settings: &RulesetSettings) -> &'static [Family] {
    if settings.ipv6 { &Family::ALL } else { &[Family::V4] }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_rounded_and_never_vanish() {
        for (part, whole, expected) in
            [(0, 3, 0), (1, 2, 128), (1, 3, 85), (2, 3, 171), (1, 1000, 1), (999, 1000, 255)]
        {
            assert_eq!(share(part, whole), expected, "{part} of {whole}");
        }
    }
}
