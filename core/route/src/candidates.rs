use edgemesh_mesh::{Backend, Frontend, FrontendEntry, MeshSnapshot, PathSnapshot};
use smallvec::SmallVec;

use crate::eligible::{is_frontend, is_usable, judge};

/// Who connects, which decides whether `externalTrafficPolicy` is for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The node itself, or a Pod on it ([`MeshSnapshot::is_inside`]).
    Inside,
    /// Anybody else.
    Outside,
}

/// The endpoints among which new connections to a frontend are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// Those of the best rank, in the order of address; each gets the same share. They are of the frontend's family
    /// whenever it has one that can be used.
    pub backends: SmallVec<[&'a Backend; 8]>,
    /// Whether the port has an endpoint that can be used at all, on whatever node. Without one a connection is refused;
    /// with one and without `backends` a traffic policy leaves this node none, and the packet is dropped, so that a
    /// client or a load balancer tries another node (as kube-proxy).
    pub has_endpoints: bool,
}

/// The endpoints that the router would choose among for a client outside, by the same steps and without what it
/// remembers of dials. Source ranges are not asked: see `ServiceEntry::admits_source`.
pub fn candidates<'a>(
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    entry: &'a FrontendEntry,
    frontend: &Frontend,
) -> Candidates<'a> {
    candidates_from(snapshot, paths, entry, frontend, Origin::Outside)
}

/// The same for a client of a known origin. The two differ for external, load-balancer and node-port frontends of
/// Services with `externalTrafficPolicy: Local` only.
pub fn candidates_from<'a>(
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    entry: &'a FrontendEntry,
    frontend: &Frontend,
    origin: Origin,
) -> Candidates<'a> {
    let local_only = entry.local_only(origin == Origin::Inside);
    let endpoints = judge(snapshot, paths, entry, frontend.ip.is_ipv6(), local_only);
    let best = endpoints.iter().filter_map(|it| it.rank.ok()).min();
    let backends: SmallVec<_> =
        endpoints.iter().filter(|it| best.is_some() && it.rank.ok() == best).map(|it| it.backend).collect();
    let usable = |backend: &&Backend| is_usable(backend) && !is_frontend(snapshot, entry, backend);
    let has_endpoints = !backends.is_empty() || entry.port().backends.iter().find(usable).is_some();
    Candidates { backends, has_endpoints }
}
