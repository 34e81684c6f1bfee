use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgemesh_api::{Kind, SourceEvent};
use edgemesh_mesh::HOLD;
use edgemesh_net::meet::{Report, Source, Trouble};
use edgemesh_reflector::{
    Consistency, Failure, FailureReason, Interner, KindState, KindStatus, ListEnd, Reflector, ReflectorSpec,
    Splitter, Step,
};
use futures::future::{BoxFuture, join_all};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Connection, of_hyper};
use super::credentials::ApiAccess;
use super::link::{Link, Turn};

/// An answer that brings less than this in this time is not slow but broken; GPRS brings twenty times as much.
const STALL: Duration = Duration::from_secs(3);
const STALL_BYTES: usize = 64;

/// How long a server that had slices may refuse them before Endpoints stand in: one that starts answers 403 for a second or
/// two, until it has loaded its roles. What is known serves on meanwhile.
const MISSED: Duration = Duration::from_secs(10);

/// What a source is made with.
#[derive(Clone, Debug)]
pub struct KubeSourceSpec {
    /// The server.
    pub access: ApiAccess,
    /// What its answers are worth.
    pub consistency: Consistency,
    /// The kinds to follow. With both EndpointSlice and Endpoints, a consistent server is asked for Endpoints only
    /// while it has no slices.
    pub kinds: Vec<Kind>,
    /// Seed of the jitter, so that nodes do not come at the same moment.
    pub seed: u64,
}

/// An API server as a source: each kind is listed and watched by a task of its own.
#[derive(Debug)]
pub struct KubeSource {
    spec: KubeSourceSpec,
    board: Arc<KubeBoard>,
}

/// How the kinds are followed, for status and metrics.
#[derive(Debug, Default)]
pub struct KubeBoard {
    kinds: Mutex<BTreeMap<Kind, KindStatus>>,
    link: Link,
    changed: watch::Sender<u64>,
}

impl KubeBoard {
    /// Every kind.
    pub fn kinds(&self) -> Vec<KindStatus> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Why the server cannot be reached; `None` while it can.
    pub fn failure(&self) -> Option<Failure> {
        self.link.failure()
    }

    fn state_of(&self, kind: Kind) -> KindState {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&kind).map_or(KindState::Starting, |status| status.state)
    }

    /// Whether a kind is followed and has been seen to have objects.
    fn has_objects(&self, kind: Kind) -> bool {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&kind).is_some_and(|status| status.state == KindState::Watching && status.listed > 0)
    }

    /// Whether a kind was listed once.
    fn has_listed(&self, kind: Kind) -> bool {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&kind).is_some_and(|status| status.lists > 0)
    }

    /// Takes a kind's state in; the one before it.
    fn set(&self, status: KindStatus) -> Option<KindStatus> {
        let before = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(status.kind, status);
        self.changed.send_modify(|changes| *changes += 1);
        before
    }
}

impl KubeSource {
    /// A source, and where it tells how it goes.
    pub fn new(spec: KubeSourceSpec) -> (Self, Arc<KubeBoard>) {
        let board = Arc::new(KubeBoard::default());
        (Self { spec, board: board.clone() }, board)
    }
}

impl Source for KubeSource {
    fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        report: Arc<dyn Report>,
    ) -> BoxFuture<'static, ()> {
        let follower = Follower { spec: self.spec, board: self.board, events, report };
        Box::pin(async move {
            let follower = Arc::new(follower);
            let kinds = follower.spec.kinds.clone();
            join_all(kinds.into_iter().map(|kind| {
                let follower = follower.clone();
                async move {
                    tokio::select! {
                        () = follower.events.closed() => {}
                        () = follower.follow(kind) => {}
                    }
                }
            }))
            .await;
        })
    }
}

/// What the tasks of all kinds share.
struct Follower {
    spec: KubeSourceSpec,
    board: Arc<KubeBoard>,
    events: mpsc::Sender<SourceEvent>,
    report: Arc<dyn Report>,
}

impl Follower {
    async fn follow(&self, kind: Kind) {
        let stands_in = kind == Kind::Endpoints
            && self.spec.consistency == Consistency::Consistent
            && self.spec.kinds.contains(&Kind::EndpointSlice);
        if !stands_in {
            return KindTask::new(self, kind).run().await;
        }
        loop {
            self.board.set(KindStatus { state: KindState::Unused, ..KindStatus::new(kind) });
            tokio::select! {
                () = self.until_slices_are_missed() => {}
                () = self.retire(kind) => return,
            }
            tokio::select! {
                () = KindTask::new(self, kind).run() => {}
                () = self.until_slices_serve(true) => {}
            }
        }
    }

    /// Takes back what was told of a kind that another one stands for now: followed by nobody, it would serve on where
    /// the other has nothing. Two listings without it, with the hold between them, are what `MeshState` believes. Returns
    /// when nobody listens.
    async fn retire(&self, kind: Kind) {
        let mut changed = self.board.changed.subscribe();
        loop {
            while !self.board.has_objects(Kind::EndpointSlice) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
            for event in [SourceEvent::ResetKind(kind), SourceEvent::SyncedKind(kind)] {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(HOLD + Duration::from_secs(1)).await;
        }
    }

    /// Waits until the server says that it has no slices, and says so for longer than it takes to start where it had some.
    async fn until_slices_are_missed(&self) {
        loop {
            self.until_slices_serve(false).await;
            if !self.board.has_listed(Kind::EndpointSlice) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(MISSED) => return,
                () = self.until_slices_serve(true) => {}
            }
        }
    }

    /// Waits until the server has slices, or says that it has none.
    async fn until_slices_serve(&self, wanted: bool) {
        let mut changed = self.board.changed.subscribe();
        loop {
            let serve = match self.board.state_of(Kind::EndpointSlice) {
                KindState::Watching => Some(true),
                KindState::Absent | KindState::Forbidden => Some(false),
                KindState::Starting
                | KindState::Listing
                | KindState::Failing
                | KindState::Unknown
                | KindState::Unused => None,
            };
            if serve == Some(wanted) || changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One kind: its reflector, its connection, and what is on its way.
struct KindTask<'a> {
    shared: &'a Follower,
    reflector: Reflector,
    names: Interner,
    connection: Option<Connection>,
    out: Vec<SourceEvent>,
}

/// The channel of events is closed: nobody listens any more.
struct Unheard;

impl<'a> KindTask<'a> {
    fn new(shared: &'a Follower, kind: Kind) -> Self {
        let seed = shared.spec.seed ^ (kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let spec = ReflectorSpec { kind, consistency: shared.spec.consistency, seed };
        let (names, out) = (Interner::default(), Vec::new());
        Self { shared, reflector: Reflector::new(spec), names, connection: None, out }
    }

    async fn run(mut self) {
        loop {
            self.tell();
            let done = match self.reflector.next(now()) {
                Step::Wait(until) => {
                    sleep_until(until.into()).await;
                    Ok(())
                }
                Step::List(request) => self.list(&request.target).await,
                Step::Watch(request) => self.watch(&request.target).await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Tells what changed in how the kind goes.
    fn tell(&self) {
        let status = self.reflector.status().clone();
        let place = format!("{} of {}", status.kind, self.shared.spec.access.url());
        // A kind of our own, which a cluster has when it uses it: its absence is told with the kinds alone.
        let unused = status.kind == Kind::TunnelPolicy && status.state == KindState::Absent;
        let trouble = match (&status.failure, &status.undecodable) {
            (Some(_), _) if unused => None,
            // The link's own failures are told once for all kinds.
            (Some(failure), _) if self.shared.board.failure().is_none() => Some(Trouble {
                message: words(&status, failure),
                broken: status.state != KindState::Absent && !is_passing(&status, failure),
            }),
            (_, Some(undecodable)) => Some(Trouble {
                message: format!("an object cannot be read and stays as it was known: {undecodable}"),
                broken: true,
            }),
            _ => None,
        };
        let key = |status: &KindStatus| {
            let passing = status.failure.as_ref().is_some_and(|failure| is_passing(status, failure));
            (status.state, status.failure.as_ref().map(|failure| failure.reason), passing)
        };
        let now = (key(&status), status.undecodable.clone());
        let before = self.shared.board.set(status);
        if before.map(|before| (key(&before), before.undecodable)) != Some(now) {
            self.shared.report.report(&place, trouble.as_ref());
        }
    }

    async fn flush(&mut self) -> Result<(), Unheard> {
        for event in self.out.drain(..) {
            self.shared.events.send(event).await.map_err(|_| Unheard)?;
        }
        Ok(())
    }

    /// An answer broke off: what is left of it must not answer the next request.
    async fn broken(&mut self, failure: Failure) -> Result<(), Unheard> {
        self.connection = None;
        self.failed(failure).await
    }

    async fn failed(&mut self, failure: Failure) -> Result<(), Unheard> {
        if self.shared.board.link.failed(&failure) {
            let place = self.shared.spec.access.url();
            let message = format!("{failure}; what is known is served on");
            self.shared.report.report(&place, Some(&Trouble { message, broken: true }));
        }
        self.reflector.failed(failure, now(), &mut self.out);
        self.flush().await
    }

    /// Sends a request over the connection that stands, or a new one.
    async fn get(&mut self, target: &str) -> Result<Incoming, Failure> {
        let access = &self.shared.spec.access;
        let turn: Turn = self.shared.board.link.turn().await;
        if let Some(mut connection) = self.connection.take()
            && connection.is_ready().await
        {
            match connection.get(access, target).await {
                // The server may close a connection at the moment it is used again (RFC 9112 section 9.3.1).
                Err(failure) if failure.reason == FailureReason::Closed => {}
                answer => return self.heard(connection, answer, turn),
            }
        }
        let mut connection = Connection::open(access).await?;
        let answer = connection.get(access, target).await;
        self.heard(connection, answer, turn)
    }

    fn heard(
        &mut self,
        connection: Connection,
        answer: Result<Incoming, Failure>,
        turn: Turn,
    ) -> Result<Incoming, Failure> {
        let silent = answer.as_ref().is_err_and(|failure| {
            matches!(
                failure.reason,
                FailureReason::Timeout
                    | FailureReason::Credentials
                    | FailureReason::Closed
                    | FailureReason::Tls
            )
        });
        if !silent && self.shared.board.link.answered() {
            let place = self.shared.spec.access.url();
            self.shared.report.report(&place, None);
            tracing::info!(server = place, "the API server answers again");
        }
        drop(turn);
        if answer.is_ok() || connection.is_spent() {
            self.connection = Some(connection);
        }
        answer
    }

    async fn list(&mut self, target: &str) -> Result<(), Unheard> {
        let mut body = match self.get(target).await {
            Ok(body) => body,
            Err(failure) => return self.failed(failure).await,
        };
        let mut splitter = Splitter::list();
        let mut pace = Pace::new();
        loop {
            let frame = match timeout_at(pace.deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(error))) => return self.broken(of_hyper(&error)).await,
                Err(_) => return self.broken(stalled()).await,
            };
            let Ok(piece) = frame.into_data() else { continue };
            pace.note(piece.len());
            let Self { reflector, names, out, .. } = self;
            let cut = splitter.push(&piece, &mut |json| reflector.list_item(json, names, out));
            let flushed = Instant::now();
            self.flush().await?;
            pace.deadline += flushed.elapsed();
            if let Err(error) = cut {
                return self.broken(error.into()).await;
            }
        }
        match splitter.finish() {
            Ok(members) => {
                let end = self.reflector.list_end(&members, now(), &mut self.out);
                if end == ListEnd::Failed {
                    self.connection = None;
                }
                self.flush().await
            }
            Err(error) => self.broken(error.into()).await,
        }
    }

    async fn watch(&mut self, target: &str) -> Result<(), Unheard> {
        let mut body = match self.get(target).await {
            Ok(body) => body,
            // A server whose lists work and whose watches do not even begin is reachable all the same.
            Err(failure) if failure.reason == FailureReason::Timeout => {
                return self.failed(Failure { reason: FailureReason::Stalled, ..failure }).await;
            }
            Err(failure) => return self.failed(failure).await,
        };
        self.reflector.watch_open();
        self.tell();
        let mut splitter = Splitter::stream();
        // Between events a watch may be silent; inside of one it is slow or broken.
        let mut pace: Option<Pace> = None;
        loop {
            let end = self.reflector.watch_deadline().map_or_else(far, Instant::from_std);
            let stall = pace.as_ref().map_or(end, |pace| pace.deadline);
            let frame = match timeout_at(end.min(stall), body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return self.broken(of_hyper(&error)).await,
                Err(_) if stall < end => return self.broken(stalled()).await,
                // The server's timeout, or ours: the connection has half an answer in it, so it is not used again.
                Ok(None) => break,
                Err(_) => {
                    self.connection = None;
                    break;
                }
            };
            let Ok(piece) = frame.into_data() else { continue };
            let Self { reflector, names, out, .. } = self;
            let mut over = false;
            let cut = splitter.push(&piece, &mut |json| {
                if !over {
                    over = reflector.watch_event(json, names, now(), out).is_break();
                }
            });
            let flushed = Instant::now();
            self.flush().await?;
            if over {
                self.connection = None;
                return Ok(());
            }
            if let Err(error) = cut {
                return self.broken(error.into()).await;
            }
            self.tell();
            pace = pace.filter(|_| splitter.is_inside());
            match &mut pace {
                Some(pace) => {
                    pace.note(piece.len());
                    pace.deadline += flushed.elapsed();
                }
                None => pace = splitter.is_inside().then(Pace::new),
            }
        }
        self.reflector.watch_end(now());
        Ok(())
    }
}

/// Failures in a row of the kind that every day brings before they are told as more than that.
const MANY_FAILURES: u32 = 2;

/// Whether a failure is one of every day: a connection ended, a history was compacted, for the first time.
fn is_passing(status: &KindStatus, failure: &Failure) -> bool {
    match failure.reason {
        FailureReason::Gone => true,
        FailureReason::Closed | FailureReason::Stalled => status.failures < MANY_FAILURES,
        _ => false,
    }
}

fn words(status: &KindStatus, failure: &Failure) -> String {
    match status.state {
        KindState::Absent => {
            format!("the server does not have this kind; it is asked again slowly ({failure})")
        }
        // Rights to every Secret of a cluster are not given lightly.
        KindState::Forbidden if status.kind == Kind::Secret => {
            format!(
                "the role may not list and watch Secrets of all namespaces, certificates are not seen: {failure}"
            )
        }
        KindState::Forbidden => {
            format!("the role may not list and watch this kind: {failure}; add it to the ClusterRole")
        }
        KindState::Starting
        | KindState::Listing
        | KindState::Watching
        | KindState::Failing
        | KindState::Unknown
        | KindState::Unused => format!("{failure}; what is known is served on"),
    }
}

fn stalled() -> Failure {
    let words = format!("less than {STALL_BYTES} bytes in {} s", STALL.as_secs());
    Failure::new(FailureReason::Stalled, words)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Whether a body comes at all.
struct Pace {
    deadline: Instant,
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        Self { deadline: Instant::now() + STALL, bytes: 0 }
    }

    fn note(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= STALL_BYTES {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Report for Deaf {
        fn report(&self, _: &str, _: Option<&Trouble>) {}
    }

    /// Endpoints that stood in for slices once are taken back: at once, to be held, and after the hold.
    #[tokio::test(start_paused = true)]
    async fn endpoints_of_the_time_before_the_slices_are_taken_back() {
        let (events, mut told) = mpsc::channel(16);
        let spec = KubeSourceSpec {
            access: ApiAccess::of_url("http://127.0.0.1:1").expect("a URL"),
            consistency: Consistency::Consistent,
            kinds: vec![Kind::EndpointSlice, Kind::Endpoints],
            seed: 0,
        };
        let board = Arc::new(KubeBoard::default());
        let follower = Arc::new(Follower { spec, board: board.clone(), events, report: Arc::new(Deaf) });
        let task = follower.clone();
        let following = tokio::spawn(async move { task.follow(Kind::Endpoints).await });
        let listing = [SourceEvent::ResetKind(Kind::Endpoints), SourceEvent::SyncedKind(Kind::Endpoints)];

        let slices =
            |state, listed| board.set(KindStatus { state, listed, ..KindStatus::new(Kind::EndpointSlice) });
        slices(KindState::Watching, 0);
        tokio::time::sleep(HOLD * 3).await;
        assert!(told.is_empty(), "nothing shows that slices serve");
        slices(KindState::Watching, 5);
        assert_eq!([told.recv().await, told.recv().await], listing.clone().map(Some));
        let first = Instant::now();

        // The hold ends while the server is away: nothing is taken back by a server that does not answer.
        slices(KindState::Failing, 5);
        tokio::time::sleep(HOLD * 3).await;
        assert!(told.is_empty(), "the server is away");
        slices(KindState::Watching, 5);
        assert_eq!([told.recv().await, told.recv().await], listing.map(Some));
        assert!(first.elapsed() >= HOLD);
        following.abort();
    }
}
