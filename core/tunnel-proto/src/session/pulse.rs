//! The pulse of a carrier: its round-trip time, and whether it is alive.

use std::time::{Duration, Instant};

/// Pause between pings of a carrier in use: with [`PATIENCE`] a cut in the middle of a transfer is noticed within
/// 600 ms of the last byte, the time that a path may take to be given up.
pub const PING_BUSY: Duration = Duration::from_millis(200);

/// Pause between pings otherwise: below the time after which NATs forget a mapping (30 s in the shortest-lived that
/// are sold, 2 h 4 min by RFC 5382), and four packets a minute.
pub const PING_IDLE: Duration = Duration::from_secs(15);

/// The least silence after a ping that means death of a carrier in use: 600 ms less the pause between pings.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// The longest silence that is waited for: five round trips of a geostationary satellite (600 ms). Also for a carrier
/// that nobody waits for and for one whose round-trip time is not known yet.
pub const PATIENCE_CAP: Duration = Duration::from_secs(3);

/// How long after its last frame a carrier counts as in use: the pauses of a person who types.
pub const BUSY_FOR: Duration = Duration::from_secs(2);

/// A caller who comes so much later than he was asked to was not running himself, and the answer may lie unread. Half
/// the pause between pings, far above the delay of a busy scheduler.
const LATE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Fine,
    Ask(u64),
    Dead(Duration),
}

#[derive(Debug)]
pub(super) struct Pulse {
    smoothed: Option<Duration>,
    asked: Option<(u64, Instant)>,
    number: u64,
    last_asked: Option<Instant>,
    last_life: Instant,
    busy_since: Instant,
    last_traffic: Option<Instant>,
    /// Until when a caller who came late may read what has come meanwhile.
    grace: Option<Instant>,
    born: Instant,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            smoothed: None,
            asked: None,
            number: 0,
            last_asked: None,
            last_life: now,
            busy_since: now,
            last_traffic: None,
            grace: None,
            born: now,
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) fn last_life(&self) -> Instant {
        self.last_life
    }

    /// Anything came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_life = now;
        self.grace = None;
    }

    /// Something that is no pulse came or went.
    pub(super) fn traffic(&mut self, now: Instant) {
        if self.last_traffic.is_none_or(|last| now.saturating_duration_since(last) > BUSY_FOR) {
            self.busy_since = now;
        }
        self.last_traffic = Some(now);
    }

    pub(super) fn pong(&mut self, number: u64, now: Instant) {
        let Some((_, at)) = self.asked.filter(|(asked, _)| *asked == number) else { return };
        self.asked = None;
        let sample = now.saturating_duration_since(at);
        // Gain of 1/8: RFC 6298, section 2.3.
        self.smoothed = Some(self.smoothed.map_or(sample, |old| old * 7 / 8 + sample / 8));
    }

    /// What is due. The question counts from when it was due, not from when it left: behind a cut the socket is full
    /// and nothing leaves any more.
    pub(super) fn beat(&mut self, unacked: bool, now: Instant) -> Beat {
        let Some((_, at)) = self.asked else {
            if self.ask_at(unacked) > now {
                return Beat::Fine;
            }
            self.number += 1;
            self.asked = Some((self.number, now));
            self.last_asked = Some(now);
            return Beat::Ask(self.number);
        };
        let deadline = self.deadline(at, unacked);
        if now < deadline {
            return Beat::Fine;
        }
        if self.grace.is_none() && now >= deadline + LATE {
            self.grace = Some(now + LATE);
            return Beat::Fine;
        }
        Beat::Dead(now.saturating_duration_since(self.last_life))
    }

    /// When [`Pulse::beat`] has something to say.
    pub(super) fn next(&self, unacked: bool) -> Instant {
        match self.asked {
            Some((_, at)) => self.deadline(at, unacked),
            None => self.ask_at(unacked),
        }
    }

    fn busy_at(&self, time: Instant, unacked: bool) -> bool {
        unacked || self.last_traffic.is_some_and(|last| time < last + BUSY_FOR)
    }

    fn ask_at(&self, unacked: bool) -> Instant {
        // At once, so that the first choice between two carriers knows their round-trip times.
        let Some(last) = self.last_asked else { return self.born };
        if self.busy_at(last + PING_BUSY, unacked) { last + PING_BUSY } else { last + PING_IDLE }
    }

    fn deadline(&self, asked: Instant, unacked: bool) -> Instant {
        let since = asked.max(self.last_life);
        let deadline = match self.smoothed {
            Some(rtt) if self.busy_at(since, unacked) || self.busy_since > since => {
                since.max(self.busy_since) + (rtt * 4).clamp(PATIENCE, PATIENCE_CAP)
            }
            _ => since + PATIENCE_CAP,
        };
        self.grace.map_or(deadline, |grace| grace.max(deadline))
    }
}
