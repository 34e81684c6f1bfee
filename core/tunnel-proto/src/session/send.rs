//! The sending half of a stream: what was written and is not acknowledged yet.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use super::frame::FRAME_PAYLOAD;
use super::types::Violation;

/// A write of at least this begins a chunk of full size, which following writes fill without moving it; half a chunk,
/// so that no chunk takes more than twice its bytes.
const FULL_CHUNK_FROM: usize = FRAME_PAYLOAD / 2;

/// The least memory of a chunk that small writes are packed into.
const SMALL_CHUNK: usize = 256;

/// Offsets, in order: `base <= next <= end`, `next <= high <= end`, `end <= limit`.
///
/// A byte stays in `chunks` until it is acknowledged, so whatever becomes of a carrier, sending can begin again at
/// `base`: the receiver acknowledged `base`, hence expects it or more, hence sees no gap. A frame is always one whole
/// chunk (or what an acknowledgement left of it), so `next` lies between two chunks.
#[derive(Debug)]
pub(super) struct SendHalf {
    chunks: VecDeque<Bytes>,
    /// Written, not sent yet, and still growing.
    tail: BytesMut,
    /// How many of `chunks` lie below `next`.
    sent_chunks: usize,
    /// Acknowledged up to here.
    base: u64,
    /// Sent on the present carrier up to here.
    next: u64,
    /// Sent on any carrier up to here.
    high: u64,
    /// Written up to here.
    end: u64,
    limit: u64,
    fin: Fin,
    /// Waits for an acknowledgement that tells where to begin again.
    asking: bool,
    /// Sends nothing more until all is acknowledged and a better carrier can go on without a gap.
    draining: bool,
}

/// The end of the direction counts like one more byte.
#[derive(Debug, Default)]
struct Fin {
    written: bool,
    /// On the present carrier.
    sent: bool,
    /// On any carrier.
    ever_sent: bool,
    acked: bool,
}

/// What one frame carries.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) payload: Bytes,
    pub(super) fin: bool,
}

impl SendHalf {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            sent_chunks: 0,
            base: 0,
            next: 0,
            high: 0,
            end: 0,
            limit,
            fin: Fin::default(),
            asking: false,
            draining: false,
        }
    }

    /// How many bytes are kept.
    pub(super) fn held(&self) -> u64 {
        self.end - self.base
    }

    pub(super) fn acked(&self) -> u64 {
        self.base
    }

    pub(super) fn sent(&self) -> u64 {
        self.high
    }

    pub(super) fn finished(&self) -> bool {
        self.fin.written
    }

    pub(super) fn fin_acked(&self) -> bool {
        self.fin.acked
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    /// Whether the peer may know of this half.
    pub(super) fn began(&self) -> bool {
        self.high > 0 || self.fin.ever_sent
    }

    /// Whether the peer has everything that ever left.
    pub(super) fn all_acked(&self) -> bool {
        self.base == self.high && self.fin.acked == self.fin.ever_sent
    }

    /// How many bytes the peer's grant leaves room for.
    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.end)
    }

    /// Takes from `bytes` what `room` allows. Small writes are packed into a chunk that has not been sent, so that they
    /// do not cost a head each.
    pub(super) fn write(&mut self, bytes: &[u8], room: u64) -> usize {
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let space = if self.tail.is_empty() { 0 } else { FRAME_PAYLOAD - self.tail.len() };
            if space > 0 {
                let (head, more) = rest.split_at(rest.len().min(space));
                self.tail.extend_from_slice(head);
                rest = more;
            } else if let Some((chunk, more)) = rest.split_at_checked(FRAME_PAYLOAD) {
                self.chunks.push_back(Bytes::copy_from_slice(chunk));
                rest = more;
            } else {
                let full = rest.len() >= FULL_CHUNK_FROM;
                let capacity = if full { FRAME_PAYLOAD } else { rest.len().max(SMALL_CHUNK) };
                self.tail = BytesMut::with_capacity(capacity);
                self.tail.extend_from_slice(rest);
                rest = &[];
            }
            if self.tail.len() == FRAME_PAYLOAD {
                self.close_tail();
            }
        }
        self.end += taken as u64;
        taken
    }

    pub(super) fn finish(&mut self) {
        self.fin.written = true;
    }

    pub(super) fn sendable(&self) -> bool {
        !self.asking
            && !self.draining
            && (self.next < self.end || (self.fin.written && !self.fin.sent && !self.fin.acked))
    }

    /// Whether an answer of the peer is waited for.
    pub(super) fn outstanding(&self) -> bool {
        self.asking || self.next > self.base || (self.fin.sent && !self.fin.acked)
    }

    /// The next frame's contents; only when [`SendHalf::sendable`].
    pub(super) fn take(&mut self) -> Piece {
        if self.sent_chunks == self.chunks.len() && !self.tail.is_empty() {
            self.close_tail();
        }
        let payload = self.chunks.get(self.sent_chunks).cloned().unwrap_or_default();
        let offset = self.next;
        if !payload.is_empty() {
            self.sent_chunks += 1;
            self.next += payload.len() as u64;
            self.high = self.high.max(self.next);
        }
        let fin = self.fin.written && self.next == self.end;
        self.fin.sent |= fin;
        self.fin.ever_sent |= fin;
        Piece { offset, payload, fin }
    }

    /// Takes an acknowledgement and says how many bytes it freed. Acknowledgements come by several carriers and in any
    /// order: what they say was true when it was said and only grows, so the greatest counts. Any of them ends the
    /// waiting after a move, an old one at the cost of some bytes sent twice.
    pub(super) fn acknowledge(&mut self, received: u64, limit: u64) -> Result<u64, Violation> {
        let whole = received == self.end + 1 || received == u64::MAX;
        let past_fin = self.fin.ever_sent && whole;
        if received > self.high && !past_fin {
            return Err(Violation::NotSent);
        }
        let before = self.base;
        let upto = received.min(self.end);
        while self.base < upto {
            let Some(front) = self.chunks.front_mut() else { break };
            let step = usize::try_from(upto - self.base).unwrap_or(usize::MAX).min(front.len());
            if step == front.len() {
                self.chunks.pop_front();
                self.sent_chunks = self.sent_chunks.saturating_sub(1);
            } else {
                front.advance(step);
            }
            self.base += step as u64;
        }
        // A peer that had more than was thought makes sending go on behind it.
        self.next = self.next.max(self.base);
        self.fin.acked |= past_fin;
        self.asking = false;
        self.limit = self.limit.max(limit);
        Ok(self.base - before)
    }

    /// Begins again at what was acknowledged, on another carrier. `at_once` is the number of bytes up to which it is
    /// not worth a round trip to ask what the peer has.
    pub(super) fn rewind(&mut self, at_once: u64) {
        self.asking = self.high - self.base > at_once;
        self.next = self.base;
        self.sent_chunks = 0;
        self.fin.sent = self.fin.acked;
        self.draining = false;
    }

    pub(super) fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Frees everything, since the stream was reset.
    pub(super) fn clear(&mut self) {
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.sent_chunks = 0;
        self.end = self.base;
        self.next = self.base;
        self.asking = false;
        self.draining = false;
        self.fin.sent = self.fin.acked;
    }

    fn close_tail(&mut self) {
        self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
    }
}
