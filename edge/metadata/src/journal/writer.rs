use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgemesh_api::Object;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Journal, JournalError, is_fresh};

/// Least time between two writes. Every write wears the flash of an edge node by at least a page; what is lost in a
/// crash within this time the source tells again.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Time until a failed write is tried again: a full disk is not freed within seconds.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// How often the time until another attempt doubles. A new generation fills what is left of a full disk at each
/// attempt, and that wears it; four minutes are short against the time in which somebody frees it.
const MAX_DOUBLINGS: u32 = 3;

/// When the writer writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) write: Duration,
    pub(super) retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { write: WRITE_INTERVAL, retry: RETRY_INTERVAL }
    }
}

/// How writing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// When the source was last heard, as the journal says. `None` until the journal has a state that this process
    /// offered.
    pub saved_at: Option<SystemTime>,
    /// Why the last attempt failed; `None` once one succeeded again.
    pub error: Option<JournalError>,
}

/// The state's end of a journal that is being written. Dropping it writes what was offered last and ends the task.
#[derive(Debug)]
pub struct JournalWriter {
    offers: watch::Sender<Option<Offer>>,
    status: watch::Receiver<JournalStatus>,
}

/// One copy of the objects; offering another replaces one that is not written yet.
#[derive(Clone, Debug)]
struct Offer {
    objects: Arc<[Arc<Object>]>,
    heard: SystemTime,
}

impl JournalWriter {
    /// Offers the objects of a state that is complete (`MeshState::is_stale` is false). Never waits, and equal
    /// objects cost no write.
    pub fn offer(&self, objects: impl Iterator<Item = Arc<Object>>) {
        let objects = objects.collect();
        self.offers.send_replace(Some(Offer { objects, heard: SystemTime::now() }));
    }

    /// Says that the source was heard and what was offered last still holds. The journal takes note of that at most
    /// every 10 minutes, so it may be called for every sign of life.
    pub fn touch(&self) {
        let now = SystemTime::now();
        self.offers.send_if_modified(|offer| {
            let due = offer.as_mut().filter(|offer| !is_fresh(offer.heard, now));
            due.map(|offer| offer.heard = now).is_some()
        });
    }

    /// How writing goes.
    pub fn status(&self) -> JournalStatus {
        *self.status.borrow()
    }

    /// Follows how writing goes.
    pub fn watch_status(&self) -> watch::Receiver<JournalStatus> {
        self.status.clone()
    }
}

pub(super) fn start(journal: Journal) -> (JournalWriter, impl Future<Output = ()> + Send + 'static) {
    let (offers, offered) = watch::channel(None);
    let (tell, status) = watch::channel(JournalStatus::default());
    (JournalWriter { offers, status }, keep(journal, offered, tell))
}

async fn keep(
    mut journal: Journal,
    mut offered: watch::Receiver<Option<Offer>>,
    status: watch::Sender<JournalStatus>,
) {
    let pace = journal.pace;
    let mut next_write = Instant::now();
    let mut failures = 0;
    while offered.changed().await.is_ok() {
        // Until it is time to write, only the end of the program is of interest: later offers replace earlier ones.
        let closed = async { while offered.changed().await.is_ok() {} };
        let _ = tokio::time::timeout_at(next_write, closed).await;
        let Some(offer) = offered.borrow_and_update().clone() else { continue };
        let saving = tokio::task::spawn_blocking(move || {
            let result = journal.save(&offer.objects, offer.heard);
            (journal, result)
        });
        let Ok((returned, result)) = saving.await else { return };
        journal = returned;
        tell(&status, result.map(|_| journal.saved_at()));
        let wait = if result.is_ok() {
            failures = 0;
            pace.write
        } else {
            // `has_changed` fails when the writer is gone: nobody waits for a second attempt then.
            if offered.has_changed().is_err() {
                return;
            }
            offered.mark_changed();
            failures += 1;
            pace.retry * (1 << (failures - 1).min(MAX_DOUBLINGS))
        };
        next_write = Instant::now() + wait;
    }
}

/// Publishes a result, and logs it when it differs in kind from the one before.
fn tell(status: &watch::Sender<JournalStatus>, result: Result<Option<SystemTime>, JournalError>) {
    let before = *status.borrow();
    match result {
        Ok(saved_at) => {
            if before.error.is_some() {
                tracing::info!("the journal is written again");
            }
            status.send_replace(JournalStatus { saved_at, error: None });
        }
        Err(error) => {
            if before.error != Some(error) {
                tracing::warn!(%error, reason = error.as_str(), "a restart would not have the present state");
            }
            status.send_replace(JournalStatus { error: Some(error), ..before });
        }
    }
}
