//! An application at one end of a stream, and what it may be told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_tunnel_proto::session::{Read, ResetReason, Session, StreamId, Write};

use crate::draws::Draws;

/// Prime, so that bytes shifted by any power of two are seen.
const PERIOD: usize = 65_521;

/// What each direction of each stream says: a place in one fixed text.
pub(crate) struct Reference(Vec<u8>);

impl Reference {
    pub(crate) fn new() -> Self {
        let mut draws = Draws(7);
        Self(
            (0..PERIOD * 2).map(|_| draws.next().to_le_bytes()[0]).take(PERIOD).collect::<Vec<_>>().repeat(2),
        )
    }

    /// At most `len` bytes from `offset` on.
    pub(crate) fn text(&self, side: usize, stream: StreamId, offset: u64, len: usize) -> &[u8] {
        let start = (offset + stream.0 * 977 + side as u64 * 31) % PERIOD as u64;
        &self.0[start as usize..][..len.min(PERIOD)]
    }
}

/// How an application behaves.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) to_write: u64,
    pub(crate) write_size: u64,
    pub(crate) write_pause: Duration,
    pub(crate) read_pause: Duration,
    /// Reads nothing before.
    pub(crate) read_from: Duration,
    /// Gives the stream up when it has written and read so many bytes together.
    pub(crate) reset_after: Option<u64>,
}

impl Plan {
    pub(crate) const fn bulk(to_write: u64) -> Self {
        let none = Duration::ZERO;
        let write_size = 64 << 10;
        Self { to_write, write_size, write_pause: none, read_pause: none, read_from: none, reset_after: None }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    /// The application gave up.
    Gave(ResetReason),
    /// The application was told.
    Told(ResetReason),
}

pub(crate) struct App {
    pub(crate) side: usize,
    pub(crate) stream: StreamId,
    pub(crate) plan: Plan,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) finished_writing: bool,
    pub(crate) finished_reading: bool,
    pub(crate) end: Option<End>,
    born: Instant,
    write_at: Instant,
    read_at: Instant,
    /// Read and not consumed yet.
    unconsumed: usize,
    pub(crate) last_read: Instant,
    pub(crate) longest_silence: Duration,
}

impl App {
    pub(crate) fn new(side: usize, stream: StreamId, plan: Plan, now: Instant) -> Self {
        let read_at = now + plan.read_from;
        Self {
            side,
            stream,
            plan,
            written: 0,
            read: 0,
            finished_writing: false,
            finished_reading: false,
            end: None,
            born: now,
            write_at: now,
            read_at,
            unconsumed: 0,
            last_read: now,
            longest_silence: Duration::ZERO,
        }
    }

    /// Does what it can and says when it wants to be called without an event.
    pub(crate) fn step(&mut self, session: &mut Session, text: &Reference, now: Instant) -> Option<Instant> {
        self.write(session, text, now);
        self.read(session, text, now);
        if self.end.is_some() {
            return None;
        }
        if self.plan.reset_after.is_some_and(|limit| self.written + self.read >= limit)
            && !(self.finished_writing && self.finished_reading)
        {
            let reason =
                if self.stream.0.is_multiple_of(3) { ResetReason::Broken } else { ResetReason::Cancelled };
            session.reset(self.stream, reason, now);
            self.end = Some(End::Gave(reason));
            return None;
        }
        if self.finished_writing && self.finished_reading {
            self.end = Some(End::Finished);
        }
        let times = [(!self.finished_writing, self.write_at), (!self.finished_reading, self.read_at)];
        times.into_iter().filter(|(open, at)| *open && *at > now).map(|(_, at)| at).min()
    }

    fn write(&mut self, session: &mut Session, text: &Reference, now: Instant) {
        while self.end.is_none() && !self.finished_writing && self.write_at <= now {
            if self.written == self.plan.to_write {
                session.finish(self.stream, now);
                self.finished_writing = true;
                return;
            }
            let len = self.plan.write_size.min(self.plan.to_write - self.written) as usize;
            let bytes = text.text(self.side, self.stream, self.written, len);
            match session.write(self.stream, bytes, now) {
                Write::Taken(taken) => {
                    assert!(taken <= bytes.len());
                    self.written += taken as u64;
                    if taken < bytes.len() {
                        return;
                    }
                    self.write_at = now + self.plan.write_pause;
                }
                Write::Finished => panic!("{:?} was not finished", self.stream),
                Write::Reset(reason) => self.end = Some(End::Told(reason)),
            }
        }
    }

    fn read(&mut self, session: &mut Session, text: &Reference, now: Instant) {
        while self.end.is_none() && !self.finished_reading && self.read_at <= now {
            session.consumed(self.stream, std::mem::take(&mut self.unconsumed), now);
            match session.read(self.stream, now) {
                Read::Chunk(bytes) => {
                    self.check(&bytes, text);
                    self.longest_silence = self.longest_silence.max(now - self.last_read);
                    self.last_read = now;
                    self.unconsumed = bytes.len();
                    self.read_at = now + self.plan.read_pause;
                }
                Read::Pending => return,
                Read::Finished => self.finished_reading = true,
                Read::Reset(reason) => self.end = Some(End::Told(reason)),
            }
        }
    }

    fn check(&mut self, mut bytes: &[u8], text: &Reference) {
        assert!(!bytes.is_empty(), "an empty chunk");
        while !bytes.is_empty() {
            let expected = text.text(1 - self.side, self.stream, self.read, bytes.len());
            let (head, rest) = bytes.split_at(expected.len());
            assert!(head == expected, "{:?} at {}: other bytes than were written", self.stream, self.read);
            self.read += head.len() as u64;
            bytes = rest;
        }
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now - self.born
    }
}

/// Bytes as they come out of a codec.
pub(crate) fn joined(head: &[u8], payload: &[u8]) -> Bytes {
    [head, payload].concat().into()
}
