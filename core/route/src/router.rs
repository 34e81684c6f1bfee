use std::net::SocketAddr;
use std::time::Instant;

use edgemesh_api::Protocol;
use edgemesh_balance::{Ask, Balancer, Eligible, Feedback, MAX_CANDIDATES, PickCtx, Picks, PortKey};
use edgemesh_mesh::{Frontend, FrontendEntry, MeshSnapshot, PathSnapshot, Scope};
use smallvec::SmallVec;

use crate::admit::{Admission, admission, namespace_for};
use crate::eligible::{Endpoints, exclude, judge, rejection, verdict_of_rank};
use crate::explain::{Candidate, Explanation, Verdict};
use crate::{Hop, ProxyReason, RejectReason, Target, Via, reach};

/// What is known of a connection before a byte of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conn {
    /// What the client connected to.
    pub frontend: Frontend,
    /// The client.
    pub client: SocketAddr,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives for one dial, and a box would cost every connection")]
pub enum Decision {
    /// To the first of these that can be connected; at least one.
    Targets(SmallVec<[Target; MAX_CANDIDATES]>),
    /// Nowhere.
    Reject(RejectReason),
}

/// Decides for every connection of the node. Its memory is the balancer's; all else is in the snapshots.
#[derive(Debug, Default)]
pub struct Router {
    balancer: Balancer,
}

impl Router {
    /// A router that remembers nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where a new connection goes.
    pub fn route(
        &self,
        snapshot: &MeshSnapshot,
        paths: &PathSnapshot,
        conn: &Conn,
        ctx: &PickCtx,
    ) -> Decision {
        let entry = match lookup(snapshot, &conn.frontend) {
            Ok(entry) => entry,
            Err(reason) => return Decision::Reject(reason),
        };
        if !is_allowed(entry, conn) {
            return Decision::Reject(RejectReason::SourceNotAllowed);
        }
        let local_only = local_only(snapshot, entry, conn);
        let endpoints = judge(snapshot, paths, entry, conn.frontend.ip.is_ipv6(), local_only);
        let picks = pick(entry, conn, &endpoints, |ask| self.balancer.pick(ask, ctx));
        if picks.is_empty() {
            return Decision::Reject(rejection(local_only));
        }
        let targets = picks.iter().map(|(index, _)| {
            let it = &endpoints[*index];
            Target {
                service: entry.service.id.clone(),
                backend: it.backend.addr,
                protocol: conn.frontend.protocol,
                namespace: it.node.and_then(|_| {
                    let protocol = conn.frontend.protocol;
                    namespace_for(snapshot, protocol, it.backend.addr, conn.client.ip())
                }),
                hop: it.node.map_or(Hop::Socket, |node| Hop::Node(node.clone())),
            }
        });
        Decision::Targets(targets.collect())
    }

    /// Tells how the dial of a target went, so that the next connections profit.
    pub fn feedback(&self, conn: &Conn, target: &Target, feedback: Feedback, now: Instant) {
        let port = PortKey {
            service: target.service.clone(),
            port: conn.frontend.port,
            protocol: conn.frontend.protocol,
            ipv6: conn.frontend.ip.is_ipv6(),
        };
        let node = match &target.hop {
            Hop::Socket => None,
            Hop::Node(node) => Some(node),
        };
        let endpoint = Eligible { addr: target.backend, node, rank: 0 };
        self.balancer.feedback(&port, conn.client.ip(), &endpoint, feedback, now);
    }

    /// What [`Router::route`] would decide now and why, by the same steps, without a trace in the balancer.
    pub fn explain(
        &self,
        snapshot: &MeshSnapshot,
        paths: &PathSnapshot,
        conn: &Conn,
        ctx: &PickCtx,
    ) -> Explanation {
        let entry = match lookup(snapshot, &conn.frontend) {
            Ok(entry) => entry,
            Err(reason) => return Explanation::rejected(&conn.frontend, reason),
        };
        let local_only = local_only(snapshot, entry, conn);
        let mut endpoints = judge(snapshot, paths, entry, conn.frontend.ip.is_ipv6(), local_only);
        let allowed = is_allowed(entry, conn);
        if !allowed {
            exclude(&mut endpoints, Verdict::SourceNotAllowed, |_| false);
        }
        let picks = pick(entry, conn, &endpoints, |ask| self.balancer.preview(ask, ctx));
        let best = endpoints.iter().filter_map(|it| it.rank.ok()).min().unwrap_or_default();
        let candidates = endpoints.iter().enumerate().map(|(index, it)| {
            let order = picks.iter().position(|(picked, _)| *picked == index);
            let ejected = it.rank.is_ok() && {
                let endpoint = Eligible { addr: it.backend.addr, node: it.node, rank: 0 };
                self.balancer.is_ejected(&endpoint, conn.frontend.protocol, ctx.now)
            };
            let verdict = match (it.rank, order) {
                (Err(verdict), _) => verdict,
                (Ok(_), Some(0)) => Verdict::Chosen,
                (Ok(_), _) if ejected => Verdict::Ejected,
                (Ok(rank), _) => verdict_of_rank(rank, best),
            };
            let way = reach(snapshot, paths, it.backend);
            let remote = it.node.is_some();
            Candidate {
                kernel: way.map_or_else(ProxyReason::as_str, Via::as_str),
                kernel_reason: way.err().map(ProxyReason::reason),
                backend: it.backend.addr,
                node: it.backend.node.clone(),
                zone: it.backend.zone.clone(),
                pod: it.backend.pod.as_ref().map(ToString::to_string),
                path: it.path.as_str(),
                admission: match remote {
                    true => admission(snapshot, conn.frontend.protocol, it.backend.addr),
                    false => Admission::Open,
                },
                verdict,
                reason: verdict.reason(),
                order: order.map(|order| order + 1),
                session: order.is_some_and(|order| picks[order].1),
            }
        });
        let reject = match allowed {
            true => picks.is_empty().then(|| rejection(local_only)),
            false => Some(RejectReason::SourceNotAllowed),
        };
        Explanation::of_service(&conn.frontend, entry, candidates.collect(), reject)
    }
}

/// An address that is no frontend is taken for one of the node. Nobody here knows those, and nobody needs to: of the
/// packets to other addresses, the kernel's rules hand over only what goes to a node port at an address of the node.
fn lookup<'a>(snapshot: &'a MeshSnapshot, frontend: &Frontend) -> Result<&'a FrontendEntry, RejectReason> {
    match frontend.protocol {
        Protocol::Tcp | Protocol::Udp => snapshot.lookup(frontend, true).ok_or(RejectReason::UnknownFrontend),
        Protocol::Sctp => Err(RejectReason::UnsupportedProtocol),
    }
}

/// The source ranges speak of the load balancer's addresses only: another firewall is for node ports.
fn is_allowed(entry: &FrontendEntry, conn: &Conn) -> bool {
    entry.scope != Scope::LoadBalancer || entry.service.admits_source(conn.client.ip())
}

fn local_only(snapshot: &MeshSnapshot, entry: &FrontendEntry, conn: &Conn) -> bool {
    // Whether a client is inside is looked up only where it counts.
    entry.local_only(false) && entry.local_only(snapshot.is_inside(conn.client.ip()))
}

/// The picked endpoints' indices, each with whether the client's session leads to it.
fn pick(
    entry: &FrontendEntry,
    conn: &Conn,
    endpoints: &Endpoints<'_>,
    ask: impl FnOnce(&Ask<'_>) -> Picks,
) -> SmallVec<[(usize, bool); MAX_CANDIDATES]> {
    let mut indices = SmallVec::<[usize; 8]>::new();
    let mut eligible = SmallVec::<[Eligible<'_>; 8]>::new();
    for (index, it) in endpoints.iter().enumerate() {
        if let Ok(rank) = it.rank {
            indices.push(index);
            eligible.push(Eligible { addr: it.backend.addr, node: it.node, rank });
        }
    }
    let port = PortKey {
        service: entry.service.id.clone(),
        port: conn.frontend.port,
        protocol: conn.frontend.protocol,
        ipv6: conn.frontend.ip.is_ipv6(),
    };
    let service = &entry.service;
    let ask =
        ask(&Ask { port: &port, policy: service.policy, affinity: service.affinity, eligible: &eligible });
    ask.iter().map(|pick| (indices[pick.index], pick.pinned)).collect()
}
