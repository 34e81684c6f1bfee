//! Objects: from the source through `MeshState` to the published snapshot and the journal.

mod shown;
pub(crate) use shown::first_of;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edgemesh_api::{Kind, Name, SourceEvent};
use edgemesh_mesh::{Generation, MeshOptions, MeshSnapshot, MeshState, Provenance};
use edgemesh_metadata::{
    Journal, JournalError, JournalWriter, KubeBoard, KubeSource, KubeSourceSpec, ManifestDir,
};
use edgemesh_net::meet::{Report, Source, Trouble};
use edgemesh_reflector::{KindState, KindStatus};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::settings::{AgentSettings, SourceChoice};
use crate::status::span;

/// Events in flight between source and state; a listing of 10,000 Services passes through in pieces of this size.
const EVENT_CAPACITY: usize = 1024;

/// A burst is compiled once it is quiet for this long …
const QUIET: Duration = Duration::from_millis(10);

/// … or has gone on for this long, so that a steady stream of changes is still followed (aim: 100 ms from a change
/// to a working connection).
const BURST: Duration = Duration::from_millis(50);

/// How often the age of what is known is looked at while nothing changes.
const LOOK: Duration = Duration::from_secs(10);

/// Places of which trouble is remembered; beyond it the log has told.
const MAX_REPORTS: usize = 1024;

/// The state at the start, from the journal when there is one.
pub(crate) struct First {
    pub(crate) state: MeshState,
    pub(crate) snapshot: MeshSnapshot,
    /// The source, and how old what is served is.
    pub(crate) provenance: Arc<Provenance>,
}

/// Loads the journal, so that DNS and proxy serve before any source answers.
pub(crate) fn restore(settings: &AgentSettings, node: Name) -> (First, Option<Journal>) {
    let mut state = MeshState::with_options(node.clone(), settings.mesh);
    let mut snapshot = MeshSnapshot::empty(node);
    let source = settings.source.describe();
    let provenance =
        |saved: Option<Duration>| Arc::new(Provenance::new(source.as_str().into(), Instant::now(), saved));
    if !settings.source.is_some() {
        return (First { state, snapshot, provenance: provenance(None) }, None);
    }
    let mut journal = Journal::new(settings.state_dir.join("journal")).of_source(&source);
    let provenance = match journal.load() {
        Ok(loaded) => {
            let generation = loaded.generation.as_str();
            if let Some(ignored) = loaded.ignored {
                tracing::warn!(
                    generation,
                    reason = ignored.as_str(),
                    "{ignored}; what was saved before is used"
                );
            }
            let objects = loaded.events.len().saturating_sub(2);
            let source = loaded.source;
            tracing::info!(
                objects,
                source,
                generation,
                "the journal's copy is served until the source answers"
            );
            state.restore(loaded.events);
            let provenance = provenance(loaded.saved_at.elapsed().ok());
            state.set_provenance(provenance.clone());
            snapshot = state.compile();
            provenance
        }
        Err(error) => {
            if error != JournalError::Missing {
                tracing::warn!(
                    reason = error.as_str(),
                    "{error}; the node serves once the source has answered"
                );
            }
            let provenance = provenance(None);
            state.set_provenance(provenance.clone());
            provenance
        }
    };
    (First { state, snapshot, provenance }, Some(journal))
}

/// What the status page tells of the metadata.
pub(crate) struct State {
    provenance: Arc<Provenance>,
    reports: Mutex<BTreeMap<String, String>>,
    journal: Mutex<Option<JournalWriter>>,
    /// How the kinds of an API server are followed.
    board: OnceLock<Arc<KubeBoard>>,
    held: Mutex<Vec<String>>,
}

impl State {
    pub(crate) fn new(first: &First, journal: Option<JournalWriter>) -> Self {
        Self {
            provenance: first.provenance.clone(),
            reports: Mutex::default(),
            journal: Mutex::new(journal),
            board: OnceLock::new(),
            held: Mutex::default(),
        }
    }

    /// How each kind of an API server is followed; empty with a directory of manifests.
    pub(crate) fn kinds(&self) -> Vec<KindStatus> {
        self.board.get().map(|board| board.kinds()).unwrap_or_default()
    }

    /// Why the API server cannot be reached.
    pub(crate) fn away(&self) -> Option<String> {
        self.board.get().and_then(|board| board.failure()).map(|failure| failure.to_string())
    }

    /// What is served though the last listing left it out.
    pub(crate) fn held(&self) -> Vec<String> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether everything that is needed comes by watches that stand.
    fn is_current(&self) -> bool {
        let Some(board) = self.board.get() else { return false };
        let watching = |kinds: &[KindStatus], kind| {
            kinds.iter().any(|status| status.kind == kind && status.state == KindState::Watching)
        };
        let kinds = board.kinds();
        board.failure().is_none()
            && watching(&kinds, Kind::Service)
            && (watching(&kinds, Kind::EndpointSlice) || watching(&kinds, Kind::Endpoints))
    }

    pub(crate) fn source(&self) -> &str {
        self.provenance.source()
    }

    /// Age of what is served.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.provenance.age(Instant::now())
    }

    pub(crate) fn reports(&self) -> Vec<String> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().map(|(place, message)| format!("{place}: {message}")).collect()
    }

    /// How the last write of the journal failed, until one succeeds.
    pub(crate) fn journal_error(&self) -> Option<JournalError> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|writer| writer.status().error)
    }

    /// The journal's state in words.
    pub(crate) fn journal(&self) -> String {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = journal.as_ref().map(JournalWriter::status) else { return "none".to_owned() };
        match (status.error, status.saved_at) {
            (Some(error), _) => format!("FAILED: {error}"),
            (None, Some(saved)) => {
                format!("saved {} ago", span(saved.elapsed().unwrap_or_default().as_secs()))
            }
            (None, None) => "not saved by this process yet".to_owned(),
        }
    }

    fn offer(&self, state: &MeshState) {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = journal.as_ref() {
            journal.offer(state.objects().cloned());
        }
    }

    /// Ends the journal: what was offered last is written.
    fn close_journal(&self) {
        drop(self.journal.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Notes that the source was heard and had nothing new to say.
    fn touch(&self) {
        self.hear();
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = journal.as_ref() {
            journal.touch();
        }
    }

    fn hold(&self, state: &MeshState) {
        let held: Vec<String> = state
            .held()
            .map(|(kind, doubt, count)| {
                format!(
                    "{count} {kind} objects are served on though the server's last list lacks them: it is {}",
                    doubt.as_str()
                )
            })
            .collect();
        let mut known = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != held {
            for line in held.iter().filter(|line| !known.contains(line)) {
                tracing::warn!("{line}");
            }
            *known = held;
        }
    }

    fn hear(&self) {
        self.provenance.hear(Instant::now());
    }
}

struct Board(Arc<State>);

impl Report for Board {
    fn report(&self, place: &str, trouble: Option<&Trouble>) {
        let mut reports = self.0.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(trouble) = trouble else {
            reports.remove(place);
            return;
        };
        match trouble.broken {
            true => tracing::warn!(place, "{}", trouble.message),
            false => tracing::info!(place, "{}", trouble.message),
        }
        if reports.len() < MAX_REPORTS || reports.contains_key(place) {
            reports.insert(place.to_owned(), trouble.message.clone());
        }
    }
}

/// What the operator changes while the agent runs.
pub(crate) enum Change {
    /// Which Services are intercepted.
    Options(MeshOptions),
}

/// Who follows which objects, and where they go.
pub(crate) struct Follow {
    pub(crate) metadata: Arc<State>,
    pub(crate) snapshots: Arc<ArcSwap<MeshSnapshot>>,
    pub(crate) source: SourceChoice,
    /// The kinds that an API server is asked for.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) started: Instant,
}

/// Follows the source until shutdown.
pub(crate) async fn run(
    follow: Follow,
    mut state: MeshState,
    published: watch::Sender<Generation>,
    mut changes: mpsc::Receiver<Change>,
    shutdown: CancellationToken,
) {
    let Follow { metadata, snapshots, .. } = &follow;
    let Some(mut events) = follow.start(&shutdown) else {
        // Held, so that the readers of generations do not take its end for the agent's.
        shutdown.cancelled().await;
        return;
    };
    let mut batch = Vec::with_capacity(EVENT_CAPACITY);
    let mut offers = Offers::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut changed = false;
        tokio::select! {
            () = shutdown.cancelled() => break,
            count = events.recv_many(&mut batch, EVENT_CAPACITY) => if count == 0 { break },
            Some(Change::Options(options)) = changes.recv() => changed |= state.set_options(options),
            () = offers.due() => {
                offers.made();
                metadata.offer(&state);
                continue;
            }
            _ = look.tick() => {
                if metadata.is_current() {
                    metadata.touch();
                }
                continue;
            }
        }
        state.handle_time(Instant::now());
        let burst = Instant::now();
        loop {
            for event in batch.drain(..) {
                changed |= state.apply(event).is_change();
            }
            let left = BURST.saturating_sub(burst.elapsed()).min(QUIET);
            match tokio::time::timeout(left, events.recv_many(&mut batch, EVENT_CAPACITY)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        metadata.hear();
        metadata.hold(&state);
        if changed {
            let snapshot = state.compile();
            let generation = snapshot.generation;
            tracing::debug!(%generation, services = snapshot.services.len(), "snapshot");
            snapshots.store(Arc::new(snapshot));
            published.send_replace(generation);
        }
        if changed && !state.is_stale() {
            offers.want();
        }
    }
    if offers.next.is_some() {
        metadata.offer(&state);
    }
    metadata.close_journal();
}

/// When the journal is offered the state: each offer is a list of every object, and it writes every 5 s at most.
#[derive(Default)]
struct Offers {
    last: Option<tokio::time::Instant>,
    next: Option<tokio::time::Instant>,
}

impl Offers {
    /// Least time between two offers, as between two writes of the journal.
    const PAUSE: Duration = Duration::from_secs(5);

    fn want(&mut self) {
        let now = tokio::time::Instant::now();
        let earliest = self.last.map_or(now, |last| last + Self::PAUSE);
        self.next = self.next.or(Some(earliest.max(now)));
    }

    fn made(&mut self) {
        self.last = Some(tokio::time::Instant::now());
        self.next = None;
    }

    async fn due(&self) {
        match self.next {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl Follow {
    fn start(&self, shutdown: &CancellationToken) -> Option<mpsc::Receiver<SourceEvent>> {
        let (sender, events) = mpsc::channel(EVENT_CAPACITY);
        let report = Arc::new(Board(self.metadata.clone()));
        let source: Box<dyn Source> = match &self.source {
            SourceChoice::None => return None,
            SourceChoice::Manifests(directory) => {
                let manifests = ManifestDir::new(directory.clone(), "default");
                let ingress = self.kinds.iter().any(|kind| kind.is_ingress());
                Box::new(if ingress { manifests.with_ingress() } else { manifests })
            }
            SourceChoice::Api { access, consistency } => {
                let (access, kinds) = ((**access).clone(), self.kinds.clone());
                let seed = u64::from(std::process::id()) << 32 ^ self.started.elapsed().as_nanos() as u64;
                let (source, board) =
                    KubeSource::new(KubeSourceSpec { access, consistency: *consistency, kinds, seed });
                // Set once: a process follows one source.
                let _ = self.metadata.board.set(board);
                Box::new(source)
            }
        };
        let run = source.run(sender, report);
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run => {}
            }
        });
        Some(events)
    }
}
