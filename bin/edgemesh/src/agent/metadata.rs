//! Objects: from the source through `MeshState` to the published snapshot and the journal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use edgemesh_api::{Name, SourceEvent};
use edgemesh_mesh::{Generation, MeshSnapshot, MeshState};
use edgemesh_metadata::{Journal, JournalError, JournalWriter, ManifestDir};
use edgemesh_net::meet::{Report, Source as _, Trouble};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::settings::AgentSettings;
use crate::status::span;

/// Events in flight between source and state; a listing of 10,000 Services passes through in pieces of this size.
const EVENT_CAPACITY: usize = 1024;

/// A burst is compiled once it is quiet for this long …
const QUIET: Duration = Duration::from_millis(10);

/// … or has gone on for this long, so that a steady stream of changes is still followed (aim: 100 ms from a change
/// to a working connection).
const BURST: Duration = Duration::from_millis(50);

/// Places of which trouble is remembered; beyond it the log has told.
const MAX_REPORTS: usize = 1024;

/// The state at the start, from the journal when there is one.
pub(super) struct First {
    pub(super) state: MeshState,
    pub(super) snapshot: MeshSnapshot,
    /// When what is served was saved.
    pub(super) saved_at: Option<SystemTime>,
}

/// Loads the journal, so that DNS and proxy serve before any source answers.
pub(super) fn restore(settings: &AgentSettings, node: Name) -> (First, Option<Journal>) {
    let mut state = MeshState::new(node.clone());
    let (mut snapshot, mut saved_at) = (MeshSnapshot::empty(node), None);
    if settings.manifests.is_none() {
        return (First { state, snapshot, saved_at }, None);
    }
    let journal = Journal::new(settings.state_dir.join("journal"));
    match journal.load() {
        Ok(loaded) => {
            if let Some(refused) = loaded.refused {
                tracing::warn!(reason = refused.as_str(), "{refused}; the copy before it is used");
            }
            tracing::info!(
                objects = loaded.events.len().saturating_sub(2),
                "the journal's copy is served until the source answers"
            );
            saved_at = Some(loaded.saved_at);
            state.restore(loaded.events);
            snapshot = state.compile();
        }
        Err(JournalError::Missing) => {}
        Err(error) => {
            tracing::warn!(reason = error.as_str(), "{error}; the node serves once the source has answered");
        }
    }
    (First { state, snapshot, saved_at }, Some(journal))
}

/// What the status page tells of the metadata.
pub(super) struct State {
    source: String,
    /// Milliseconds after `origin` at which the source was last heard, plus one; 0 before that.
    heard: AtomicU64,
    origin: Instant,
    saved_at: Option<SystemTime>,
    reports: Mutex<BTreeMap<String, String>>,
    journal: Mutex<Option<JournalWriter>>,
}

impl State {
    pub(super) fn new(settings: &AgentSettings, first: &First, journal: Option<JournalWriter>) -> Self {
        let source = settings
            .manifests
            .as_ref()
            .map_or_else(|| "none".to_owned(), |directory| format!("manifests {}", directory.display()));
        Self {
            source,
            heard: AtomicU64::new(0),
            origin: Instant::now(),
            saved_at: first.saved_at,
            reports: Mutex::default(),
            journal: Mutex::new(journal),
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Age of what is served.
    pub(super) fn age(&self) -> Option<Duration> {
        match self.heard.load(Ordering::Relaxed) {
            0 => self.saved_at.and_then(|saved| saved.elapsed().ok()),
            after => Some(self.origin.elapsed().saturating_sub(Duration::from_millis(after - 1))),
        }
    }

    pub(super) fn reports(&self) -> Vec<String> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().map(|(place, message)| format!("{place}: {message}")).collect()
    }

    /// How the last write of the journal failed, until one succeeds.
    pub(super) fn journal_error(&self) -> Option<JournalError> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|writer| writer.status().error)
    }

    /// The journal's state in words.
    pub(super) fn journal(&self) -> String {
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

    fn hear(&self) {
        let after = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(after + 1, Ordering::Relaxed);
    }
}

struct Board(Arc<Shared>);

impl Report for Board {
    fn report(&self, place: &str, trouble: Option<&Trouble>) {
        let mut reports = self.0.metadata.reports.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Follows the source until shutdown.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut state: MeshState,
    published: watch::Sender<Generation>,
    shutdown: CancellationToken,
) {
    let Some(directory) = shared.settings.manifests.clone() else {
        // Held, so that the readers of generations do not take its end for the agent's.
        shutdown.cancelled().await;
        return;
    };

    let mut events = follow(directory, &shared, &shutdown);
    let mut batch = Vec::with_capacity(EVENT_CAPACITY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            count = events.recv_many(&mut batch, EVENT_CAPACITY) => if count == 0 { break },
        }
        let burst = Instant::now();
        let mut changed = false;
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
        shared.metadata.hear();
        if changed {
            let snapshot = state.compile();
            let generation = snapshot.generation;
            tracing::debug!(%generation, services = snapshot.services.len(), "snapshot");
            shared.snapshots.store(Arc::new(snapshot));
            published.send_replace(generation);
        }
        if changed && !state.is_stale() {
            shared.metadata.offer(&state);
        }
    }
    shared.metadata.close_journal();
}

fn follow(
    directory: PathBuf,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) -> mpsc::Receiver<SourceEvent> {
    let (sender, events) = mpsc::channel(EVENT_CAPACITY);
    let source = Box::new(ManifestDir::new(directory, "default"));
    let run = source.run(sender, Arc::new(Board(shared.clone())));
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run => {}
        }
    });
    events
}
