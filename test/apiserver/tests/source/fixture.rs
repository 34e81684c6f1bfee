//! The source and what it feeds, as the agent joins them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edgemesh_api::{Kind, SourceEvent};
use edgemesh_apiserver::{Counts, FaultSet, Resource, Server, ServerOptions};
use edgemesh_mesh::{MeshOptions, MeshSnapshot, MeshState};
use edgemesh_metadata::{ApiAccess, KubeBoard, KubeSource, KubeSourceSpec};
use edgemesh_net::meet::{Report, Source, Trouble};
use edgemesh_reflector::{Consistency, KindState};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::world::{Family, Shown, World, shown};

/// When a test that waits for an event gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The requirement: what changed while the server was away is right so soon after its return.
pub(crate) const RETURN: Duration = Duration::from_secs(5);

/// Events between source and state, as many as in the agent.
const CAPACITY: usize = 1024;

/// The kinds that the agent follows, but for TunnelPolicies: an optional kind as DestinationRules are, which this
/// server does not serve.
pub(crate) const KINDS: [Kind; 6] =
    [Kind::Namespace, Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::DestinationRule];

/// Kinds that are watched: all but Endpoints, which the slices of a consistent server stand for, or all but
/// DestinationRules, which a metaServer is not asked to watch before it has some.
pub(crate) const FOLLOWED: u64 = KINDS.len() as u64 - 1;

pub(crate) async fn server() -> Server {
    start(ServerOptions::default()).await
}

pub(crate) async fn start(options: ServerOptions) -> Server {
    Server::start(options).await.expect("starts")
}

/// What is reported now.
#[derive(Default)]
pub(crate) struct Reports(watch::Sender<BTreeMap<String, Trouble>>);

impl Report for Reports {
    fn report(&self, place: &str, trouble: Option<&Trouble>) {
        self.0.send_modify(|shown| match trouble {
            Some(trouble) => drop(shown.insert(place.to_owned(), trouble.clone())),
            None => drop(shown.remove(place)),
        });
    }
}

/// Services that shall go on working once they work.
#[derive(Default)]
struct Guard {
    names: BTreeSet<String>,
    worked: BTreeSet<String>,
    stopped: BTreeSet<String>,
    /// What every snapshot must show from now on, and what one showed instead.
    settled: Option<Shown>,
    strayed: Option<Shown>,
    /// Endpoints that no cluster has.
    at_loopback: BTreeSet<SocketAddr>,
}

impl Guard {
    fn see(&mut self, shown: Shown) {
        self.at_loopback.extend(shown.values().flatten().filter(|addr| addr.ip().is_loopback()));
        if self.settled.as_ref().is_some_and(|settled| *settled != shown) {
            self.strayed.get_or_insert_with(|| shown.clone());
        }
        let works = |name: &String| shown.get(name).is_some_and(|backends| !backends.is_empty());
        let guarded = self.worked.intersection(&self.names);
        self.stopped.extend(guarded.filter(|name| !works(name)).cloned());
        self.worked = shown.keys().filter(|name| works(name)).cloned().collect();
    }
}

/// A node's view of the mesh, from a source of its own. Dropping it ends the source.
pub(crate) struct Mesh {
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    guard: Arc<Mutex<Guard>>,
    reports: Arc<Reports>,
    board: Arc<KubeBoard>,
    _tasks: JoinSet<()>,
}

impl Mesh {
    pub(crate) fn follow(access: ApiAccess, consistency: Consistency) -> Self {
        Self::follow_kinds(access, consistency, KINDS.to_vec())
    }

    /// A gateway's view.
    pub(crate) fn of_gateway(access: ApiAccess, consistency: Consistency) -> Self {
        Self::follow_kinds(access, consistency, [&KINDS[..], &Kind::INGRESS].concat())
    }

    fn follow_kinds(access: ApiAccess, consistency: Consistency, kinds: Vec<Kind>) -> Self {
        let spec = KubeSourceSpec { access, consistency, kinds, seed: 7 };
        let (source, board) = KubeSource::new(spec);
        let options =
            MeshOptions { cached_source: consistency == Consistency::Cached, ..MeshOptions::default() };
        let state = MeshState::with_options("here".into(), options);
        let (events, received) = mpsc::channel(CAPACITY);
        let (snapshot, snapshots) = watch::channel(Arc::new(MeshSnapshot::empty("here".into())));
        let (guard, reports) = (Arc::<Mutex<Guard>>::default(), Arc::<Reports>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(Box::new(source).run(events, reports.clone()));
        tasks.spawn(fold(received, state, snapshot, guard.clone()));
        Self { snapshots, guard, reports, board, _tasks: tasks }
    }

    /// Waits until a snapshot is as it should be.
    pub(crate) async fn until(&self, what: &str, limit: Duration, holds: impl Fn(&MeshSnapshot) -> bool) {
        let mut snapshots = self.snapshots.clone();
        let reached = timeout(limit, snapshots.wait_for(|snapshot| holds(snapshot)))
            .await
            .map(|reached| reached.is_ok());
        if reached != Ok(true) {
            let now = shown(&self.snapshots.borrow());
            let (kinds, away) = (self.board.kinds(), self.board.failure());
            panic!("{what}: not within {limit:?}\nshown {now:#?}\nkinds {kinds:#?}\naway {away:?}");
        }
    }

    /// Waits until the mesh shows the world as it is.
    pub(crate) async fn shows(&self, world: &World, family: Family, limit: Duration) {
        let expected = world.expected(family);
        self.until(&format!("{expected:#?}"), limit, |snapshot| shown(snapshot) == expected).await;
    }

    /// From now on these Services must have endpoints in every snapshot, once they have some.
    pub(crate) fn guard(&self, names: impl Iterator<Item = String>) {
        self.guard.lock().expect("not poisoned").names = names.collect();
    }

    /// Nothing that was guarded stopped working.
    pub(crate) fn assert_unbroken(&self) {
        let guard = self.guard.lock().expect("not poisoned");
        assert!(!guard.names.is_disjoint(&guard.worked), "nothing that works was guarded");
        assert!(guard.stopped.is_empty(), "stopped working: {:?}", guard.stopped);
        assert!(guard.at_loopback.is_empty(), "shown: {:?}", guard.at_loopback);
    }

    /// The mesh shows the world as it is, and goes on doing so in every snapshot until something has happened.
    pub(crate) async fn stays(&self, world: &World, happens: impl Future) {
        let expected = world.expected(Family::Both);
        self.guard.lock().expect("not poisoned").settled = Some(expected.clone());
        timeout(DEADLINE, happens).await.expect("what is waited for happens");
        let mut guard = self.guard.lock().expect("not poisoned");
        assert_eq!(guard.strayed, None, "instead of {expected:#?}");
        assert_eq!(shown(&self.snapshots.borrow()), expected);
        guard.settled = None;
    }

    /// Nothing that is guarded stops working for a while: what must not happen has had the time to.
    pub(crate) async fn holds(&self, time: Duration) {
        let mut snapshots = self.snapshots.clone();
        let stopped = |_: &Arc<MeshSnapshot>| !self.guard.lock().expect("not poisoned").stopped.is_empty();
        let _ = timeout(time, snapshots.wait_for(stopped)).await;
        self.assert_unbroken();
    }

    /// Waits until what is reported is as it should be.
    pub(crate) async fn reports(&self, what: &str, holds: impl Fn(&BTreeMap<String, Trouble>) -> bool) {
        let mut shown = self.reports.0.subscribe();
        let reached = timeout(DEADLINE, shown.wait_for(|shown| holds(shown))).await.is_ok();
        assert!(reached, "{what}: {:#?}\n{:#?}", *self.reports.0.borrow(), self.board.kinds());
    }

    /// Waits until a report says this.
    pub(crate) async fn told(&self, words: &str) {
        self.reports(words, |shown| shown.values().any(|trouble| trouble.message.contains(words))).await;
    }

    pub(crate) fn state_of(&self, kind: Kind) -> Option<KindState> {
        self.board.kinds().into_iter().find(|status| status.kind == kind).map(|status| status.state)
    }

    pub(crate) fn board(&self) -> &KubeBoard {
        &self.board
    }
}

async fn fold(
    mut events: mpsc::Receiver<SourceEvent>,
    mut state: MeshState,
    snapshots: watch::Sender<Arc<MeshSnapshot>>,
    guard: Arc<Mutex<Guard>>,
) {
    let mut batch = Vec::with_capacity(CAPACITY);
    while events.recv_many(&mut batch, CAPACITY).await > 0 {
        state.handle_time(Instant::now());
        let mut changed = false;
        for event in batch.drain(..) {
            changed |= state.apply(event).is_change();
        }
        if !changed {
            continue;
        }
        let snapshot = state.compile();
        guard.lock().expect("not poisoned").see(shown(&snapshot));
        snapshots.send_replace(Arc::new(snapshot));
    }
}

/// A server with a world, and a node that follows it.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) world: World,
    pub(crate) mesh: Mesh,
    ways: FaultSet,
    followed: u64,
}

/// Services of a world: enough that a list that lacks half of them is doubted.
const SERVICES: u8 = 20;

impl Bench {
    /// A server of this sort, with the ways that such a server has.
    pub(crate) async fn new(consistency: Consistency) -> Self {
        Self::with(consistency, ServerOptions::default()).await
    }

    pub(crate) async fn with(consistency: Consistency, options: ServerOptions) -> Self {
        let server = start(options).await;
        Self::on(server, consistency, ways(consistency), FOLLOWED).await
    }

    /// A metaServer that the cloud can be reached by, with these faults of its own.
    pub(crate) async fn connected(ways: FaultSet) -> Self {
        // Lists of the cloud show that it knows DestinationRules.
        Self::on(server().await, Consistency::Cached, ways, KINDS.len() as u64).await
    }

    /// A server that may have faults of its own for one kind or another, and ways for the rest.
    pub(crate) async fn on(server: Server, consistency: Consistency, ways: FaultSet, followed: u64) -> Self {
        let world = World::of(server.store(), SERVICES);
        server.faults().set(ways.clone());
        let access = ApiAccess::of_url(&server.url()).expect("a URL");
        let mesh = Mesh::follow(access, consistency);
        mesh.shows(&world, Family::Both, DEADLINE).await;
        let bench = Self { server, world, mesh, ways, followed };
        bench.watches().await;
        bench
    }

    /// Waits until everything that is followed is watched; the server's counters then.
    pub(crate) async fn watches(&self) -> Counts {
        let all = |counts: &Counts| counts.total(|counts| counts.open_watches) == self.followed;
        timeout(DEADLINE, self.server.requests().until(all)).await.expect("watched")
    }

    /// What the server has of faults by nature.
    pub(crate) fn ways(&self) -> FaultSet {
        self.ways.clone()
    }

    /// Waits until Services, slices and Endpoints were listed and watched this often again.
    pub(crate) async fn looked(&self, times: u64) {
        let before = self.server.requests().counts();
        let more = |counts: &Counts, resource: Resource| {
            let (old, new) = (before[resource], counts[resource]);
            new.lists >= old.lists + times && new.watches >= old.watches + times
        };
        let all = [Resource::Services, Resource::EndpointSlices, Resource::Endpoints];
        let looked = |counts: &Counts| all.iter().all(|resource| more(counts, *resource));
        timeout(DEADLINE, self.server.requests().until(looked)).await.expect("listed and watched again");
    }

    /// Cuts the node off from the cloud, and waits until it has seen so.
    pub(crate) async fn cut_off(&self) {
        self.server.faults().cloud_away(true);
        self.looked(1).await;
    }

    /// Changes the world; what is left of it must go on working.
    pub(crate) fn change(&mut self) {
        // The first one goes.
        self.mesh.guard(self.world.names().skip(1));
        self.world.change(self.server.store());
    }

    /// Everything that is there must go on working.
    pub(crate) fn guard(&self) {
        self.mesh.guard(self.world.names());
    }

    /// The mesh is right within the time that is promised, and nothing broke on the way.
    pub(crate) async fn recovers(&self) {
        self.mesh.shows(&self.world, Family::Both, RETURN).await;
        self.mesh.assert_unbroken();
    }
}

fn ways(consistency: Consistency) -> FaultSet {
    match consistency {
        Consistency::Consistent => FaultSet::default(),
        Consistency::Cached => FaultSet::metaserver(),
    }
}
