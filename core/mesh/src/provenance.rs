use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edgemesh_api::Name;

/// Where objects come from, and when the source was heard last. One is shared by everything that shows it: the age
/// grows while no snapshot changes.
pub struct Provenance {
    source: Name,
    origin: Instant,
    /// Age of the journal's copy at `origin`.
    saved: Option<Duration>,
    /// Milliseconds after `origin` at which the source was last heard, plus one; 0 before that.
    heard: AtomicU64,
}

impl Provenance {
    /// A source that was not heard yet; `saved` is the age of the journal's copy now, if there is one.
    pub fn new(source: Name, now: Instant, saved: Option<Duration>) -> Self {
        Self { source, origin: now, saved, heard: AtomicU64::new(0) }
    }

    /// The source, in words.
    pub fn source(&self) -> &Name {
        &self.source
    }

    /// Notes that the source was heard.
    pub fn hear(&self, now: Instant) {
        let after =
            u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(after + 1, Ordering::Relaxed);
    }

    /// Age of what is known: since the source was last heard, or since the journal's copy was saved; `None` when nothing
    /// was ever known.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.origin);
        match self.heard.load(Ordering::Relaxed) {
            0 => self.saved.map(|saved| saved + elapsed),
            after => Some(elapsed.saturating_sub(Duration::from_millis(after - 1))),
        }
    }
}

impl fmt::Debug for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provenance({})", self.source)
    }
}
