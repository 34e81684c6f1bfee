use edgemesh_api::Name;
use edgemesh_mesh::{Backend, Distribution, Frontend, FrontendEntry, MeshSnapshot, Path, PathSnapshot};
use smallvec::SmallVec;

use crate::{RejectReason, Verdict, reach};

/// Added to the rank of an endpoint whose node has no path at the moment: it comes after every other one, and is
/// still tried, because a path may come up on demand.
const UNREACHABLE: u8 = 16;
/// Added to the rank of an endpoint that its hints give to others.
const NOT_HINTED: u8 = 4;

/// One endpoint of a port, judged.
pub(crate) struct Judged<'a> {
    pub(crate) backend: &'a Backend,
    /// The other node it runs on, where only the tunnel leads there.
    pub(crate) node: Option<&'a Name>,
    pub(crate) path: Path,
    /// Why it cannot be picked, or the order among those that can.
    pub(crate) rank: Result<u8, Verdict>,
}

/// Most Services have fewer endpoints than this; more go to the heap.
pub(crate) type Endpoints<'a> = SmallVec<[Judged<'a>; 8]>;

/// Judges every endpoint behind a frontend, in the order kube-proxy does: family, traffic policy, readiness,
/// hints, distribution. Topology only ranks, it never excludes: when near endpoints fail, far ones are tried.
pub(crate) fn judge<'a>(
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    entry: &'a FrontendEntry,
    is_ipv6: bool,
    local_only: bool,
) -> Endpoints<'a> {
    let port = entry.port();
    let mut endpoints: Endpoints<'a> = port
        .backends
        .iter()
        .map(|backend| {
            let node = backend.node.as_ref().filter(|node| **node != snapshot.node.name);
            let path = node.map_or(Path::Local, |node| paths.path(node));
            match node {
                // What the host reaches itself needs no tunnel, and no agent on the other side.
                Some(_) if reach(snapshot, paths, backend).is_ok() => {
                    Judged { backend, node: None, path: Path::Lan, rank: Ok(0) }
                }
                node => Judged { backend, node, path, rank: Ok(0) },
            }
        })
        .collect();
    exclude(&mut endpoints, Verdict::IsFrontend, |it| !is_frontend(snapshot, entry, it.backend));
    if local_only {
        let own = Some(&snapshot.node.name);
        exclude(&mut endpoints, Verdict::OtherNode, |it| it.backend.node.as_ref() == own);
    }
    let usable = |it: &Judged<'_>| it.rank.is_ok() && is_usable(it.backend);
    let same_family = |it: &Judged<'_>| it.backend.addr.is_ipv6() == is_ipv6;
    if endpoints.iter().any(|it| usable(it) && same_family(it)) {
        exclude(&mut endpoints, Verdict::OtherFamily, same_family);
    }
    // KEP-1669: endpoints that are being deleted and still serve are better than none.
    let any_ready = endpoints.iter().any(|it| it.rank.is_ok() && it.backend.ready);
    if any_ready {
        exclude(&mut endpoints, Verdict::Terminating, |it| it.backend.ready || !leaving(it.backend));
        exclude(&mut endpoints, Verdict::NotReady, |it| it.backend.ready);
    } else {
        exclude(&mut endpoints, Verdict::NotReady, |it| leaving(it.backend));
    }
    // Neither a policy nor the last endpoints that still serve leave room for hints.
    rank(snapshot, entry, &mut endpoints, any_ready && !local_only);
    endpoints
}

/// Why nothing could be picked.
pub(crate) fn rejection(local_only: bool) -> RejectReason {
    if local_only { RejectReason::NoLocalEndpoints } else { RejectReason::NoEndpoints }
}

/// Whether an endpoint can be picked at all, by what it says of itself.
pub(crate) fn is_usable(backend: &Backend) -> bool {
    backend.ready || leaving(backend)
}

/// A virtual address as an endpoint would send the connection in a circle; Kubernetes forbids it as well.
pub(crate) fn is_frontend(snapshot: &MeshSnapshot, entry: &FrontendEntry, backend: &Backend) -> bool {
    let (ip, port) = (backend.addr.ip(), backend.addr.port());
    snapshot.frontend(&Frontend { ip, port, protocol: entry.port().protocol }).is_some()
}

fn leaving(backend: &Backend) -> bool {
    backend.serving && backend.terminating
}

pub(crate) fn exclude(endpoints: &mut Endpoints<'_>, verdict: Verdict, keep: impl Fn(&Judged<'_>) -> bool) {
    for it in endpoints.iter_mut().filter(|it| it.rank.is_ok()) {
        if !keep(it) {
            it.rank = Err(verdict);
        }
    }
}

/// The lower the sooner: reachable before unreachable, hinted before not hinted, near before far.
fn rank(snapshot: &MeshSnapshot, entry: &FrontendEntry, endpoints: &mut Endpoints<'_>, hints: bool) {
    let own_node = &snapshot.node.name;
    let own_zone = snapshot.node.zone.as_ref();
    // As kube-proxy: hints count only when every usable endpoint has them and one of them speaks of us; a hint for
    // nodes counts before one for zones (KEP-3015).
    let for_node = |backend: &Backend| backend.hints.nodes.contains(own_node);
    let for_zone = |backend: &Backend| own_zone.is_some_and(|zone| backend.hints.zones.contains(zone));
    let usable = || endpoints.iter().filter(|it| it.rank.is_ok()).map(|it| it.backend);
    let by_node = hints && usable().all(|it| !it.hints.nodes.is_empty()) && usable().any(for_node);
    let by_zone = hints && usable().all(|it| !it.hints.zones.is_empty()) && usable().any(for_zone);
    let hinted = |backend: &Backend| match (by_node, by_zone) {
        (true, _) => for_node(backend),
        (false, true) => for_zone(backend),
        (false, false) => false,
    };

    let distribution = entry.service.distribution;
    let zones_known = distribution != Distribution::Spread
        && own_zone.is_some()
        && endpoints.iter().any(|it| zone_of(snapshot, it.backend).is_some());
    let in_zone = |it: &Judged<'_>| match zones_known {
        true => zone_of(snapshot, it.backend) == own_zone,
        false => matches!(it.path, Path::Local | Path::Lan),
    };
    let on_node = |it: &Judged<'_>| it.backend.node.as_ref() == Some(own_node);
    for it in endpoints.iter_mut().filter(|it| it.rank.is_ok()) {
        let distance = match distribution {
            // Whoever gave the hints knew the distances: those that are for us are alike.
            _ if hinted(it.backend) => 0,
            Distribution::Spread => 0,
            Distribution::PreferSameZone => u8::from(!in_zone(it)),
            Distribution::PreferSameNode if on_node(it) => 0,
            Distribution::PreferSameNode => 1 + u8::from(!in_zone(it)),
        };
        let not_hinted = if (by_node || by_zone) && !hinted(it.backend) { NOT_HINTED } else { 0 };
        let unreachable = if it.path == Path::Unreachable { UNREACHABLE } else { 0 };
        it.rank = Ok(unreachable + not_hinted + distance);
    }
}

/// The zone an endpoint says it is in, or the one of its node.
fn zone_of<'a>(snapshot: &'a MeshSnapshot, backend: &'a Backend) -> Option<&'a Name> {
    backend.zone.as_ref().or_else(|| snapshot.zones.get(backend.node.as_ref()?)?.as_ref())
}

/// Why an endpoint of this rank waits, given the best rank there is.
pub(crate) fn verdict_of_rank(rank: u8, best: u8) -> Verdict {
    let only = |part: u8| (rank / part) * part;
    if rank <= best {
        Verdict::OtherTurn
    } else if only(UNREACHABLE) > best {
        Verdict::PathUnreachable
    } else if only(NOT_HINTED) > best {
        Verdict::NotHinted
    } else {
        Verdict::Farther
    }
}
