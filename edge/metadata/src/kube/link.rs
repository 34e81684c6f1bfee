//! The one link that all kinds of a server share: while it is down, one of them tries and the others wait.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use edgemesh_reflector::{Failure, FailureReason, backoff};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

/// Whether the server can be reached, and when it may be tried again.
#[derive(Debug)]
pub(crate) struct Link {
    up: watch::Sender<bool>,
    attempt: Arc<Mutex<()>>,
    state: std::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    not_before: Option<Instant>,
    failure: Option<Failure>,
}

impl Default for Link {
    fn default() -> Self {
        Self { up: watch::channel(true).0, attempt: Arc::default(), state: std::sync::Mutex::default() }
    }
}

/// Held by who may try while the link is down.
pub(crate) type Turn = Option<OwnedMutexGuard<()>>;

impl Link {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when it is this task's turn to talk to the server: at once while the link is up.
    pub(crate) async fn turn(&self) -> Turn {
        let mut up = self.up.subscribe();
        loop {
            if *up.borrow_and_update() {
                return None;
            }
            let guard = tokio::select! {
                _ = up.changed() => continue,
                guard = self.attempt.clone().lock_owned() => guard,
            };
            let not_before = self.state().not_before.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                _ = up.changed() => {}
                () = tokio::time::sleep_until(not_before) => return Some(guard),
            }
        }
    }

    /// The server answered, whatever it said; whether it had been away.
    pub(crate) fn answered(&self) -> bool {
        let was_down = self.up.send_if_modified(|up| !std::mem::replace(up, true));
        if was_down {
            *self.state() = State::default();
        }
        was_down
    }

    /// An attempt failed; whether that is news.
    pub(crate) fn failed(&self, failure: &Failure) -> bool {
        if !is_of_link(failure.reason) {
            return false;
        }
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let pause: Duration = backoff(failure.reason, state.failures, None, fastrand::u64(..));
        state.not_before = Some(Instant::now() + pause);
        // A cure that changes the words of an ailing file or certificate is news; other words name the address in turn.
        let of_files = matches!(failure.reason, FailureReason::Credentials | FailureReason::Tls);
        let same =
            |known: &Failure| known.reason == failure.reason && (!of_files || known.detail == failure.detail);
        let news = state.failure.as_ref().is_none_or(|known| !same(known));
        state.failure = Some(failure.clone());
        drop(state);
        self.up.send_if_modified(|up| std::mem::replace(up, false));
        news
    }

    /// Why the server cannot be reached.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }
}

/// Whether a failure is one of the way to the server, and so of every kind alike.
fn is_of_link(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::Resolve
            | FailureReason::Unreachable
            | FailureReason::Tls
            | FailureReason::Credentials
            | FailureReason::Timeout
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use edgemesh_reflector::MAX_BACKOFF;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_tries_while_the_link_is_down() {
        let link = Arc::new(Link::default());
        assert!(link.turn().await.is_none(), "up at the start");
        assert!(link.failed(&Failure::new(FailureReason::Unreachable, "refused")));
        assert!(!link.failed(&Failure::new(FailureReason::Unreachable, "refused")), "no news");
        let turn = link.turn().await;
        assert!(turn.is_some());
        let other = link.clone();
        let waiting = tokio::spawn(async move { other.turn().await.is_none() });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished(), "it is the first one's turn");
        assert!(link.answered());
        drop(turn);
        assert!(waiting.await.expect("no panic"), "free for all");
        assert!(!link.failed(&Failure::new(FailureReason::Forbidden, "")), "not of the link");
        assert!(link.turn().await.is_none());
    }

    /// Kinds that follow a server which is away for an hour.
    const KINDS: u32 = 6;

    #[tokio::test(start_paused = true)]
    async fn an_hour_away_costs_few_attempts_and_no_time_at_the_end() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (link, start) = (Link::default(), Instant::now());
        let (attempts, back) = (Cell::new(0), start + HOUR);
        let kind = async || loop {
            let turn = link.turn().await;
            if Instant::now() >= back {
                link.answered();
                drop(turn);
                return Instant::now();
            }
            attempts.set(attempts.get() + 1);
            link.failed(&Failure::new(FailureReason::Unreachable, "no route"));
            drop(turn);
        };
        let answered = futures::future::join_all((0..KINDS).map(|_| kind())).await;
        let bound = KINDS + 3600 * 1000 / (MAX_BACKOFF.as_millis() as u32 / 2) + 1;
        assert!((1..=bound).contains(&attempts.get()), "{} attempts", attempts.get());
        assert!(answered.iter().all(|at| *at <= back + MAX_BACKOFF), "{:?}", answered.iter().max());
    }

    #[test]
    fn a_cure_that_does_not_help_is_told() {
        for (reason, told) in [
            (FailureReason::Credentials, true),
            (FailureReason::Tls, true),
            (FailureReason::Unreachable, false),
        ] {
            let link = Link::default();
            assert!(link.failed(&Failure::new(reason, "one")));
            assert!(!link.failed(&Failure::new(reason, "one")), "{reason:?} is told once");
            assert_eq!(link.failed(&Failure::new(reason, "another")), told, "{reason:?}");
        }
    }
}
