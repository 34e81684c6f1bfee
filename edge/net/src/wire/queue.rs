use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes one direction holds while they are delayed: 10 Gbit/s for 25 ms, more than one thread carries.
const IN_FLIGHT: usize = 32 << 20;

/// How long a frame may wait for a slow wire to be free. Home routers queue for 100 ms and more (bufferbloat
/// measurements of RFC 8290's authors); a full-size frame always fits.
const QUEUE: Duration = Duration::from_millis(100);

/// What becomes of a frame.
pub(super) enum Verdict {
    /// It leaves at once.
    Now,
    /// It leaves then.
    At(Instant),
    /// There is no room.
    Full,
}

/// The frames of one direction that have not left yet, in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    frames: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
    /// When the wire has put everything admitted so far on the line.
    free: Option<Instant>,
}

impl Queue {
    /// Decides when a frame of `length` bytes leaves.
    pub(super) fn admit(&mut self, now: Instant, length: u64, delay: Duration, rate: Option<u64>) -> Verdict {
        let mut due = now;
        if let Some(rate) = rate {
            let free = self.free.map_or(now, |free| free.max(now));
            if free - now > QUEUE {
                return Verdict::Full;
            }
            let nanos = u128::from(length) * 8 * 1_000_000_000 / u128::from(rate.max(1));
            due = free + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2));
            self.free = Some(due);
        }
        due += delay;
        // A delay that shrinks must not let a frame overtake the one before it.
        if let Some((last, _)) = self.frames.back() {
            due = due.max(*last);
        }
        if due <= now {
            Verdict::Now
        } else if self.bytes >= IN_FLIGHT {
            Verdict::Full
        } else {
            Verdict::At(due)
        }
    }

    pub(super) fn push(&mut self, due: Instant, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.frames.push_back((due, bytes.into()));
    }

    /// When the next frame leaves.
    pub(super) fn due(&self) -> Option<Instant> {
        self.frames.front().map(|(due, _)| *due)
    }

    /// The next frame, if its time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Box<[u8]>> {
        if self.due()? > now {
            return None;
        }
        let (_, bytes) = self.frames.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}
