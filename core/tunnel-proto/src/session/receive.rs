//! Frames that come.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::carrier::Reply;
use super::frame::Frame;
use super::state::Session;
use super::stream::Reset;
use super::types::{CarrierId, MAX_STREAMS, ResetReason, StreamId, Violation};

/// Unacknowledged bytes after which an acknowledgement leaves: four full frames, a quarter of the initial window.
pub const ACK_BYTES: u64 = 64 << 10;

/// How long an acknowledgement waits for a frame to go along with: what a request and its answer take on one node;
/// half of TCP's least delayed acknowledgement on Linux (40 ms).
pub const ACK_DELAY: Duration = Duration::from_millis(20);

/// Streams of the peer that may be remembered: those it has open, and as many that it has finished and whose bytes
/// wait here for their reader.
const MAX_PEER_STREAMS: u32 = 2 * MAX_STREAMS;

impl Session {
    /// Takes a frame that came by a carrier. An error ends the carrier: close it and call [`Session::carrier_down`].
    ///
    /// A frame of a carrier that is not up is ignored: its streams have moved, and what it brings is sent again.
    pub fn receive(&mut self, id: CarrierId, frame: Frame, now: Instant) -> Result<(), Violation> {
        let Some(index) = self.index(id) else { return Ok(()) };
        let carrier = &mut self.carriers[index];
        carrier.pulse.heard(now);
        if !frame.is_pulse() {
            carrier.pulse.traffic(now);
        }
        match frame {
            Frame::Data { stream, offset, open, fin, payload } => {
                carrier.received += payload.len() as u64;
                self.take_data(index, stream, Segment { offset, open, fin, payload }, now)
            }
            Frame::Ack { stream, received, limit } => self.take_ack(stream, received, limit),
            Frame::Reset { stream, reason } => self.take_reset(index, stream, reason),
            Frame::ResetAck { stream } => {
                self.known(stream)?;
                if let Some(reset) = self.streams.get_mut(&stream).and_then(|stream| stream.reset.as_mut()) {
                    reset.acked = true;
                    reset.due = false;
                    self.settle(stream);
                }
                Ok(())
            }
            Frame::Moved { stream } => {
                self.known(stream)?;
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.recv.by = Some(id);
                }
                self.carriers[index].reply(Reply::Received(stream))
            }
            Frame::Ping { number } => {
                carrier.queues.pong = Some(number);
                carrier.signal();
                Ok(())
            }
            Frame::Pong { number } => {
                carrier.pulse.pong(number, now);
                // Another carrier may be the best now.
                self.signal_datagrams();
                Ok(())
            }
            Frame::Datagram { channel, payload } => {
                carrier.received += payload.len() as u64;
                // A copy, so that a short one does not keep the buffer it came in.
                self.incoming.push(channel, Bytes::copy_from_slice(&payload));
                self.waits.datagrams = true;
                Ok(())
            }
            Frame::GoAway => {
                self.going.there = true;
                Ok(())
            }
        }
    }

    /// Part of a frame came by a carrier: a sign of life where one frame takes long.
    pub fn heard(&mut self, id: CarrierId, now: Instant) {
        if let Some(index) = self.index(id) {
            self.carriers[index].pulse.heard(now);
        }
    }

    /// Something beside the carriers says that a path broke: each is asked at once whether it is alive, and as
    /// impatiently as one in use.
    pub fn suspect(&mut self, now: Instant) {
        for carrier in &mut self.carriers {
            carrier.pulse.traffic(now);
        }
    }

    /// Refuses an id of this side that was never given out.
    fn known(&self, id: StreamId) -> Result<(), Violation> {
        if self.side.opens(id) && id.0 >= self.ids.next { Err(Violation::UnknownStream) } else { Ok(()) }
    }

    fn take_data(
        &mut self,
        index: usize,
        id: StreamId,
        segment: Segment,
        now: Instant,
    ) -> Result<(), Violation> {
        let Segment { offset, open, fin, payload } = segment;
        self.known(id)?;
        let own = self.side.opens(id);
        if open && (own || offset != 0) {
            return Err(Violation::NotOpened);
        }
        if !own && !self.ids.seen.contains(id) {
            if !open {
                return Err(Violation::NotOpened);
            }
            self.admit(id, now)?;
        }
        let by = self.carriers[index].id;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else {
            // Finished and forgotten here, and the peer does not know it: it has lost the answer to its end. Whatever it
            // repeats closes with the end, so that is what is answered.
            return if fin { self.carriers[index].reply(Reply::Received(id)) } else { Ok(()) };
        };
        if stream.reset.is_some() {
            return Ok(());
        }
        stream.recv.by = Some(by);
        let (new, ended) = stream.recv.accept(offset, payload, fin)?;
        if ended {
            self.totals.windows -= stream.recv.close_window();
        }
        self.totals.held += new;
        let abandoned = stream.abandoned;
        if abandoned && new > 0 {
            self.give_up(id, ResetReason::Cancelled, true);
            return Ok(());
        }
        if abandoned {
            stream.recv.tell_end();
        }
        if (new > 0 || ended) && std::mem::take(&mut stream.recv.starved) {
            stream.events.readable = true;
            self.announce(id);
        }
        if fin {
            // On the carrier it came by and at once, doubled or not: after that the stream may be forgotten, and there alone
            // the sender is sure to be listening. If it moves it sends the end again.
            self.carriers[index].reply(Reply::Received(id))?;
        } else {
            let due = stream_due(&self.streams[&id].recv, now);
            self.acknowledge(id, due, now);
        }
        if abandoned {
            self.settle(id);
        }
        self.shed();
        Ok(())
    }

    /// A stream that the peer opens. Beyond what is allowed here it is refused by a reset, since the peer's own limit may
    /// be higher; beyond the protocol's bound the peer is not honest.
    fn admit(&mut self, id: StreamId, now: Instant) -> Result<(), Violation> {
        if self.ids.peer >= MAX_PEER_STREAMS {
            return Err(Violation::TooManyStreams);
        }
        self.ids.seen.mark(id)?;
        let full = self.ids.peer >= self.limits.streams;
        self.insert(id, false, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.events.opened = true;
        }
        if full {
            self.give_up(id, ResetReason::Full, true);
        } else {
            self.announce(id);
        }
        Ok(())
    }

    fn take_ack(&mut self, id: StreamId, received: u64, limit: u64) -> Result<(), Violation> {
        self.known(id)?;
        // Of a stream that has not come yet, or is forgotten: nothing was sent, or everything was acknowledged.
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over && stream.reset.is_none())
        else {
            return Ok(());
        };
        self.totals.replay -= stream.send.acknowledge(received, limit)?;
        if stream.blocked && stream.send.room() > 0 {
            stream.blocked = false;
            stream.events.writable = true;
            self.announce(id);
        }
        self.settle(id);
        self.improve_one(id);
        self.wake_writers();
        Ok(())
    }

    fn take_reset(&mut self, index: usize, id: StreamId, reason: ResetReason) -> Result<(), Violation> {
        self.known(id)?;
        if !self.side.opens(id) {
            self.ids.seen.mark(id)?;
        }
        if let Some(stream) =
            self.streams.get_mut(&id).filter(|stream| !stream.over && stream.reset.is_none())
        {
            let told = stream.application_done();
            stream.reset = Some(Reset { reason, due: false, acked: true, told });
            self.clear(id);
            self.settle(id);
        }
        self.carriers[index].reply(Reply::Reset(id))
    }

    /// Owes the peer an acknowledgement, at `due` at the latest. It rides the carrier that the peer's half came by last:
    /// if that is alive in the peer's view it arrives, and if it is not, the peer has asked or will ask by MOVED. While
    /// there is no carrier nothing is owed: the first that comes up brings an acknowledgement of every stream.
    pub(super) fn acknowledge(&mut self, id: StreamId, due: Instant, now: Instant) {
        let best = self.best();
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over && stream.reset.is_none())
        else {
            return;
        };
        let by = stream.recv.by;
        if by.is_none() {
            return;
        }
        let place = self.carriers.iter().position(|carrier| Some(carrier.id) == by);
        let Some(index) = place.or(best) else { return };
        let to = Some(self.carriers[index].id);
        let from = stream.queued.ack;
        if from != to {
            stream.queued.ack = to;
            self.carriers[index].queues.acks.push_back(id);
            if let Some(old) = self.carriers.iter_mut().find(|carrier| Some(carrier.id) == from) {
                old.went(&self.streams);
            }
        }
        self.carriers[index].acknowledge_by(due, now);
    }

    /// Keeps what was received and not consumed below its bound, at the cost of the stream that holds most. Every look at
    /// all streams ends one of them.
    fn shed(&mut self) {
        while self.totals.held > self.limits.total_window {
            let holds = self.streams.iter().filter(|(_, stream)| stream.reset.is_none() && !stream.over);
            let Some(id) = holds.max_by_key(|(_, stream)| stream.recv.held()).map(|(id, _)| *id) else {
                return;
            };
            self.totals.shed += 1;
            self.give_up(id, ResetReason::Overloaded, false);
        }
    }
}

struct Segment {
    offset: u64,
    open: bool,
    fin: bool,
    payload: Bytes,
}

fn stream_due(recv: &super::recv::RecvHalf, now: Instant) -> Instant {
    if recv.unacked() >= ACK_BYTES { now } else { now + ACK_DELAY }
}
