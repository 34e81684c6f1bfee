use edgemesh_api::Name;
use edgemesh_mesh::{Backend, Distribution, Frontend, FrontendEntry, MeshSnapshot, Path, PathSnapshot};
use smallvec::SmallVec;

use crate::{RejectReason, Verdict};

/// Added to the rank of an endpoint whose node has no path at the moment: it comes after every other one, and is
/// still tried, because a path may come up on demand.
const UNREACHABLE: u8 = 16;
/// Added to the rank of an endpoint that its hints give to others.
const NOT_HINTED: u8 = 4;

/// One endpoint of a port, judged.
pub(crate) struct Judged<'a> {
    pub(crate) backend: &'a Backend,
    /// The other node it runs on.
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
    frontend: &Frontend,
) -> Endpoints<'a> {
    let port = entry.port();
    let mut endpoints: Endpoints<'a> = port
        .backends
        .iter()
        .map(|backend| {
            let node = backend.node.as_ref().filter(|node| **node != snapshot.node.name);
            let path = node.map_or(Path::Local, |node| paths.path(node));
            Judged { backend, node, path, rank: Ok(0) }
        })
        .collect();
    let as_frontend = |backend: &Backend| Frontend {
        ip: backend.addr.ip(),
        port: backend.addr.port(),
        protocol: port.protocol,
    };
    // A virtual address as an endpoint would send the connection in a circle; Kubernetes forbids it as well.
    exclude(&mut endpoints, Verdict::IsFrontend, |it| snapshot.frontend(&as_frontend(it.backend)).is_none());
    if local_only(entry, frontend) {
        let own = Some(&snapshot.node.name);
        exclude(&mut endpoints, Verdict::OtherNode, |it| it.backend.node.as_ref() == own);
    }
    let usable = |it: &Judged<'_>| it.rank.is_ok() && (it.backend.ready || leaving(it.backend));
    let same_family = |it: &Judged<'_>| it.backend.addr.is_ipv6() == frontend.ip.is_ipv6();
    if endpoints.iter().any(|it| usable(it) && same_family(it)) {
        exclude(&mut endpoints, Verdict::OtherFamily, same_family);
    }
    // KEP-1669: endpoints that are being deleted and still serve are better than none.
    if endpoints.iter().any(|it| it.rank.is_ok() && it.backend.ready) {
        exclude(&mut endpoints, Verdict::Terminating, |it| it.backend.ready || !leaving(it.backend));
        exclude(&mut endpoints, Verdict::NotReady, |it| it.backend.ready);
    } else {
        exclude(&mut endpoints, Verdict::NotReady, |it| leaving(it.backend));
    }
    rank(snapshot, entry, &mut endpoints);
    endpoints
}

/// Why nothing could be picked.
pub(crate) fn rejection(entry: &FrontendEntry, frontend: &Frontend) -> RejectReason {
    if local_only(entry, frontend) { RejectReason::NoLocalEndpoints } else { RejectReason::NoEndpoints }
}

/// `internalTrafficPolicy` speaks of the cluster addresses only (KEP-2086).
fn local_only(entry: &FrontendEntry, frontend: &Frontend) -> bool {
    entry.service.internal_local && entry.service.cluster_ips.contains(&frontend.ip)
}

fn leaving(backend: &Backend) -> bool {
    backend.serving && backend.terminating
}

fn exclude(endpoints: &mut Endpoints<'_>, verdict: Verdict, keep: impl Fn(&Judged<'_>) -> bool) {
    for it in endpoints.iter_mut().filter(|it| it.rank.is_ok()) {
        if !keep(it) {
            it.rank = Err(verdict);
        }
    }
}

/// The lower the sooner: reachable before unreachable, hinted before not hinted, near before far.
fn rank(snapshot: &MeshSnapshot, entry: &FrontendEntry, endpoints: &mut Endpoints<'_>) {
    let own_node = &snapshot.node.name;
    let own_zone = snapshot.node.zone.as_ref();
    let zone = |backend: &Backend| {
        backend.zone.clone().or_else(|| snapshot.zones.get(backend.node.as_ref()?).cloned().flatten())
    };
    let zones_known = own_zone.is_some() && endpoints.iter().any(|it| zone(it.backend).is_some());
    let in_zone = |it: &Judged<'_>| match zones_known {
        true => zone(it.backend).as_ref() == own_zone,
        false => matches!(it.path, Path::Local | Path::Lan),
    };
    let on_node = |it: &Judged<'_>| it.backend.node.as_ref() == Some(own_node);

    // As kube-proxy: hints count only when every usable endpoint has them and one of them speaks of us; a hint for
    // nodes counts before one for zones (KEP-3015).
    let for_node = |backend: &Backend| backend.hints.nodes.contains(own_node);
    let for_zone = |backend: &Backend| own_zone.is_some_and(|zone| backend.hints.zones.contains(zone));
    let usable = || endpoints.iter().filter(|it| it.rank.is_ok()).map(|it| it.backend);
    let by_node = usable().all(|it| !it.hints.nodes.is_empty()) && usable().any(for_node);
    let by_zone = usable().all(|it| !it.hints.zones.is_empty()) && usable().any(for_zone);

    let distribution = entry.service.distribution;
    for it in endpoints.iter_mut().filter(|it| it.rank.is_ok()) {
        let distance = match distribution {
            Distribution::Spread => 0,
            Distribution::PreferSameZone => u8::from(!in_zone(it)),
            Distribution::PreferSameNode if on_node(it) => 0,
            Distribution::PreferSameNode => 1 + u8::from(!in_zone(it)),
        };
        let hinted = match (by_node, by_zone) {
            (true, _) => for_node(it.backend),
            (false, true) => for_zone(it.backend),
            (false, false) => true,
        };
        let unreachable = if it.path == Path::Unreachable { UNREACHABLE } else { 0 };
        it.rank = Ok(unreachable + if hinted { 0 } else { NOT_HINTED } + distance);
    }
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
