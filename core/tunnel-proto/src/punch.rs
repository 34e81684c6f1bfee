//! When a relayed peer is tried directly again.

use std::time::{Duration, Instant};

/// Pauses between attempts; the last repeats. The first attempt is the circuit itself: DCUtR runs on every new one.
/// NAT mappings that stood in the way of an attempt expire within 2 min (RFC 4787, REQ-5) to 4 min (RFC 5382, REQ-5
/// for closing connections), so nothing is gained by more than a few early tries.
pub const PUNCH_STEPS: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];

/// The schedule of one peer; it runs while the best connection is relayed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Punch {
    step: usize,
    at: Option<Instant>,
}

impl Punch {
    /// Starts, unless it runs already.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.at.is_none() {
            self.restart(now);
        }
    }

    /// Begins anew: something changed that may let an attempt succeed.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.step = 0;
        self.at = Some(now + PUNCH_STEPS[0]);
    }

    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn running(&self) -> bool {
        self.at.is_some()
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// True once when an attempt is due.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        match self.at {
            Some(at) if at <= now => {
                self.step = (self.step + 1).min(PUNCH_STEPS.len() - 1);
                self.at = Some(now + PUNCH_STEPS[self.step]);
                true
            }
            _ => false,
        }
    }
}
