//! The receiving half of a stream: what came and was not read yet, and what may come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};

use super::frame::FRAME_PAYLOAD;
use super::types::{CarrierId, Violation};

/// Payloads below this are copied together. A payload kept as it came keeps the whole buffer that the carrier read
/// into; with this bound a peer that sends crumbs cannot make a window of bytes hold more than eight times its size
/// (buffers of 64 KiB).
const COPY_BELOW: usize = FRAME_PAYLOAD / 2;

/// A round trip below this is shorter than the turn-taking of two busy tasks, and what is consumed within it says
/// nothing about the link.
const LEAST_RTT: Duration = Duration::from_millis(4);

/// The round trip that is assumed before one was measured: a link between two cities.
const ASSUMED_RTT: Duration = Duration::from_millis(20);

/// The receiver takes data from any carrier, whichever way it came to be sent there: only what begins at or below
/// `received` is taken, and of that only what is new. So no byte can be doubled or reordered, whatever two carriers
/// deliver in which order, and a gap shows a peer that breaks the rules.
#[derive(Debug)]
pub(super) struct RecvHalf {
    chunks: VecDeque<Bytes>,
    /// Small payloads, still growing.
    tail: BytesMut,
    received: u64,
    read: u64,
    consumed: u64,
    limit: u64,
    window: u64,
    fin: bool,
    told: bool,
    /// Bytes since the last acknowledgement.
    unacked: u64,
    /// Whether a read found nothing.
    pub(super) starved: bool,
    /// The carrier that something of the peer's direction came by last.
    pub(super) by: Option<CarrierId>,
    /// Where and when the present measurement of the reader's speed began.
    mark: u64,
    mark_at: Instant,
}

/// What the session's other streams leave to this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// How much the window may grow by.
    pub(super) growth: u64,
    /// To what it shrinks, since windows have outgrown their bound.
    pub(super) shrink: Option<u64>,
    /// What is granted at most while the session holds much.
    pub(super) cap: u64,
}

impl RecvHalf {
    pub(super) fn new(window: u64, now: Instant) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            received: 0,
            read: 0,
            consumed: 0,
            limit: window,
            window,
            fin: false,
            told: false,
            unacked: 0,
            starved: true,
            by: None,
            mark: 0,
            mark_at: now,
        }
    }

    /// Bytes that were received and not consumed.
    pub(super) fn held(&self) -> u64 {
        self.received - self.consumed
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Whether the application was told the end.
    pub(super) fn finished(&self) -> bool {
        self.told
    }

    pub(super) fn ended(&self) -> bool {
        self.fin
    }

    /// Whether bytes wait for the application.
    pub(super) fn unread(&self) -> bool {
        self.read < self.received
    }

    /// What an acknowledgement says: the next offset expected, and the grant.
    pub(super) fn acknowledgement(&mut self) -> (u64, u64) {
        self.unacked = 0;
        (self.received + u64::from(self.fin), self.limit)
    }

    /// Takes a frame and says how many of its bytes are new and whether the end is.
    pub(super) fn accept(
        &mut self,
        offset: u64,
        mut payload: Bytes,
        fin: bool,
    ) -> Result<(u64, bool), Violation> {
        let end = offset.checked_add(payload.len() as u64).ok_or(Violation::Window)?;
        if offset > self.received {
            return Err(Violation::Gap);
        }
        if (self.fin && end > self.received) || (fin && end < self.received) {
            return Err(Violation::PastEnd);
        }
        if end > self.limit {
            return Err(Violation::Window);
        }
        self.unacked += payload.len() as u64;
        let new = end.saturating_sub(self.received);
        if new > 0 {
            let doubled = usize::try_from(self.received - offset).unwrap_or(usize::MAX).min(payload.len());
            payload.advance(doubled);
            self.received = end;
            self.keep(payload);
        }
        let ended = fin && !self.fin;
        self.fin |= fin;
        Ok((new, ended))
    }

    fn keep(&mut self, payload: Bytes) {
        if payload.len() < COPY_BELOW {
            if !self.tail.is_empty() && self.tail.len() + payload.len() > FRAME_PAYLOAD {
                self.close_tail();
            }
            self.tail.extend_from_slice(&payload);
        } else {
            self.close_tail();
            self.chunks.push_back(payload);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    pub(super) fn read(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.close_tail();
        }
        let chunk = self.chunks.pop_front()?;
        self.read += chunk.len() as u64;
        Some(chunk)
    }

    /// Whether everything up to the end was read; tells the application.
    pub(super) fn tell_end(&mut self) -> bool {
        self.told |= self.fin && self.read == self.received;
        self.told
    }

    /// Whether an acknowledgement is worth a frame of its own.
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// The application has taken bytes: how many count, and whether the grant grew by so much that the sender is told.
    /// A quarter of the window is early enough that the sender's last three quarters cover the way back.
    pub(super) fn consume(
        &mut self,
        bytes: u64,
        rtt: Option<Duration>,
        share: Share,
        now: Instant,
    ) -> (u64, bool) {
        let bytes = bytes.min(self.read - self.consumed);
        self.consumed += bytes;
        if self.fin {
            return (bytes, false);
        }
        match share.shrink {
            Some(initial) => self.window = self.window.min(initial),
            None => self.measure(rtt, share, now),
        }
        let window = self.window.min(share.cap.max(1));
        let limit = self.consumed + window;
        // A grant is never taken back: a smaller window shows when the reader has caught up.
        if limit >= self.limit + (window / 4).max(1) {
            self.limit = limit;
            return (bytes, true);
        }
        (bytes, false)
    }

    /// A window that is consumed within two round trips was what held the sender up.
    fn measure(&mut self, rtt: Option<Duration>, share: Share, now: Instant) {
        if self.consumed - self.mark < self.window {
            return;
        }
        let rtt = rtt.unwrap_or(ASSUMED_RTT).max(LEAST_RTT);
        if now.saturating_duration_since(self.mark_at) <= rtt * 2 {
            self.window += self.window.min(share.growth);
        }
        self.mark = self.consumed;
        self.mark_at = now;
    }

    /// Frees everything, since the stream was reset; what the application still holds is no longer counted.
    pub(super) fn clear(&mut self) {
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.consumed = self.received;
        self.read = self.received;
        self.unacked = 0;
    }

    /// The window counts no more: nothing can come.
    pub(super) fn close_window(&mut self) -> u64 {
        std::mem::take(&mut self.window)
    }
}
