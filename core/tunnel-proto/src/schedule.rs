//! Retry times and the random draws that spread them.

use std::time::{Duration, Instant};

/// The first pause after a failure: long enough to not spin, short enough to not be noticed.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(250);

/// A connection that lasted as long was not refused.
const STOOD: Duration = Duration::from_secs(5);

/// A deterministic source of draws (SplitMix64, Steele et al. 2014); the seed is an argument of the state.
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between three quarters of `pause` and `pause`, so that peers cut off together do not return in one instant.
    pub(crate) fn jitter(&mut self, pause: Duration) -> Duration {
        pause - pause * u32::try_from(self.next() % 256).unwrap_or(0) / 1024
    }
}

/// Doubling pauses between attempts, counted from the start of the failed one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// Whether an attempt may start now.
    pub(crate) fn ready(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next attempt may start at once, the pauses stay as long as they have become.
    pub(crate) fn hasten(&mut self, now: Instant) {
        self.at = self.at.map(|at| at.min(now));
    }

    /// Notes a failure of the attempt that began at `started`. A dial that took longer than the pause is followed at
    /// once by the next: a SYN leaves about every second during a cut, whatever its length.
    pub(crate) fn failed(&mut self, started: Instant, now: Instant, most: Duration, draws: &mut Draws) {
        let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        self.at = Some((started + draws.jitter(pause)).max(now));
    }

    /// Notes the loss of a connection. One that stood is looked for at once; one that fell as soon as it came up
    /// counts as a failure, lest a peer that hangs up is dialled without pause.
    pub(crate) fn lost(&mut self, since: Instant, now: Instant, most: Duration, draws: &mut Draws) {
        if now.saturating_duration_since(since) >= STOOD {
            self.reset();
        } else {
            self.failed(now, now, most, draws);
        }
    }

    /// Notes a failure after which only waiting helps.
    pub(crate) fn hold(&mut self, until: Instant) {
        self.failures += 1;
        self.at = Some(until);
    }
}
