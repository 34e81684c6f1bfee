//! When to try again, and when to look again though nothing failed.

use std::time::Duration;

use crate::FailureReason;

/// Longest pause between two attempts at a server that is not there. What changed while the cloud was away is to be
/// right within 5 s of its return: a pause, a connection and a list.
pub const MAX_BACKOFF: Duration = Duration::from_millis(1500);

/// First pause; a server that restarts is away for less than its successors add up to.
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// First and longest pause after an answer that says no: roles and kinds are installed by hand, and whoever waits for
/// them looks at a minute's delay as at once.
const MIN_REFUSED: Duration = Duration::from_secs(2);
const MAX_REFUSED: Duration = Duration::from_secs(60);

/// The same for kinds that a node cannot do without: an API server answers 403 until it has loaded its roles, and what
/// changed is to be right within 5 s of its return.
pub(crate) const MAX_REFUSED_NEEDED: Duration = Duration::from_secs(3);

/// Longest wait that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Lifetime asked for a watch, at least; up to twice that is drawn, so that the nodes of a cluster do not come back at
/// the same moment (client-go draws between 5 and 10 minutes too).
pub(crate) const WATCH: Duration = Duration::from_secs(300);

/// The server may be late in ending a watch.
pub(crate) const WATCH_GRACE: Duration = Duration::from_secs(30);

/// Servers that send bookmarks send one a minute (`bookmarkFrequency` of the API server's watch cache); a watch that
/// missed two is dead though its connection stands.
pub(crate) const BOOKMARK_SILENCE: Duration = Duration::from_secs(150);

/// Periods of the watchdog on a server whose watches may be silent (KubeEdge's metaServer on this node).
pub(crate) const MIN_PERIOD: Duration = Duration::from_secs(2);
pub(crate) const FIRST_PERIOD: Duration = Duration::from_secs(5);
/// While the watch was never caught silent.
pub(crate) const MAX_PERIOD: Duration = Duration::from_secs(60);
/// Once a listing showed what the watch had not told.
pub(crate) const MAX_PERIOD_SILENT: Duration = Duration::from_secs(10);

/// While lists come from the node's own store the cloud is away: its return shows in a list first, and what changed is
/// to be right within 5 s of it. Such a list costs a few milliseconds on the loopback.
pub(crate) const MAX_PERIOD_STORE: Duration = Duration::from_secs(4);

/// A listing that is to confirm another one comes this much later than the hold, because `MeshState` hears of both with
/// the delay of a queue and a long list.
pub(crate) const CONFIRM_MARGIN: Duration = Duration::from_secs(10);

/// Longest pause between the lists that stand in for watches which do not open: what changes is to be right within 5 s.
const MAX_POLL: Duration = Duration::from_secs(4);

/// The pause before the `count`th list (from 1) that stands in for a watch.
pub(crate) fn poll_pause(count: u32) -> Duration {
    MIN_BACKOFF.saturating_mul(10 << count.saturating_sub(1).min(16)).min(MAX_POLL)
}

/// The pause before the list that shows what an odd event meant, after `lists` such lists that showed nothing.
pub(crate) fn odd_pause(lists: u32) -> Duration {
    MIN_PERIOD.saturating_mul(1 << lists.min(16)).min(MAX_PERIOD_SILENT)
}

/// Draws for the jitter (SplitMix64): they spread nodes in time and keep no secret.
#[derive(Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A tenth of a time at most.
pub(crate) fn jitter(time: Duration, draw: u64) -> Duration {
    time.mul_f64((draw % 1024) as f64 / 10_240.0)
}

/// The pause after the `failures`th failure in a row (from 1), with up to a half taken off by `draw` (any value).
pub fn backoff(reason: FailureReason, failures: u32, asked: Option<Duration>, draw: u64) -> Duration {
    let (first, last) = match reason {
        FailureReason::Forbidden | FailureReason::Absent => (MIN_REFUSED, MAX_REFUSED),
        FailureReason::Unauthorized | FailureReason::Credentials => (MIN_BACKOFF * 5, MAX_BACKOFF),
        FailureReason::Gone => return Duration::ZERO,
        // Whoever tried has waited for seconds already.
        FailureReason::Timeout | FailureReason::Stalled => (MIN_BACKOFF, MIN_BACKOFF * 5),
        FailureReason::Resolve
        | FailureReason::Unreachable
        | FailureReason::Tls
        | FailureReason::Closed
        | FailureReason::TooManyRequests
        | FailureReason::Status
        | FailureReason::Answer => (MIN_BACKOFF, MAX_BACKOFF),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    let jittered = doubled - doubled.mul_f64((draw % 512) as f64 / 1024.0);
    asked.map_or(jittered, |asked| asked.min(MAX_RETRY_AFTER).max(jittered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let pause = |reason, failures, draw| backoff(reason, failures, None, draw);
        assert_eq!(pause(FailureReason::Unreachable, 1, 0), MIN_BACKOFF);
        assert_eq!(pause(FailureReason::Unreachable, 3, 0), MIN_BACKOFF * 4);
        assert_eq!(pause(FailureReason::Unreachable, u32::MAX, 0), MAX_BACKOFF);
        assert!(pause(FailureReason::Unreachable, 30, 511) > MAX_BACKOFF / 2);
        assert_eq!(pause(FailureReason::Absent, 99, 0), MAX_REFUSED);
        assert_eq!(pause(FailureReason::Gone, 9, 0), Duration::ZERO);
    }

    #[test]
    fn a_server_may_ask_for_a_longer_pause_within_bounds() {
        let asked = |seconds| {
            let asked = Some(Duration::from_secs(seconds));
            backoff(FailureReason::TooManyRequests, 1, asked, 0)
        };
        assert_eq!(asked(7), Duration::from_secs(7));
        assert_eq!(asked(86_400), MAX_RETRY_AFTER);
        assert_eq!(asked(0), MIN_BACKOFF);
    }
}
