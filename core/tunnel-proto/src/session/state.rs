//! The session's state and what the application's side calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::carrier::Carrier;
use super::datagram::DatagramQueue;
use super::recv::Share;
use super::seen::Seen;
use super::stream::{Reset, Stream};
use super::types::{
    CarrierId, Event, MAX_STREAMS, OpenRefused, Read, ResetReason, SessionLimits, Side, StreamId, Write,
};
use crate::header::MAX_DATAGRAM;

/// The session of one pair of agents. See the module for the order of calls.
#[derive(Debug)]
pub struct Session {
    pub(super) side: Side,
    pub(super) limits: SessionLimits,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) carriers: Vec<Carrier>,
    pub(super) ids: Ids,
    pub(super) totals: Totals,
    pub(super) waits: Waits,
    pub(super) events: VecDeque<StreamId>,
    pub(super) outgoing: DatagramQueue,
    pub(super) incoming: DatagramQueue,
    pub(super) going: Going,
}

/// Ids and counts of streams, by who opened them.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) next: u64,
    pub(super) seen: Seen,
    pub(super) own: u32,
    pub(super) peer: u32,
}

/// Sums over all streams, and counts since the beginning.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) replay: u64,
    pub(super) held: u64,
    pub(super) windows: u64,
    pub(super) moved: u64,
    pub(super) shed: u64,
}

/// What waits for something else than a carrier's turn.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Streams without a carrier, since when; in the order of time.
    pub(super) carrier: VecDeque<(Instant, StreamId)>,
    /// Streams that drain towards a better carrier, until when.
    pub(super) drain: BTreeSet<(Instant, StreamId)>,
    /// Writers held up by the session's bound.
    pub(super) replay: BTreeSet<StreamId>,
    /// Carriers that the caller is to be told are dead; each was up once, so no more than there may be.
    pub(super) dead: VecDeque<(CarrierId, Duration)>,
    /// The caller is to be told of datagrams.
    pub(super) datagrams: bool,
}

#[derive(Debug, Default)]
pub(super) struct Going {
    pub(super) here: bool,
    pub(super) there: bool,
}

impl Session {
    /// A session without carriers.
    pub fn new(side: Side, limits: SessionLimits, _now: Instant) -> Self {
        let peer = match side {
            Side::A => Side::B,
            Side::B => Side::A,
        };
        let limits = SessionLimits {
            streams: limits.streams.clamp(1, MAX_STREAMS),
            max_window: limits.max_window.max(limits.initial_window),
            ..limits
        };
        Self {
            side,
            limits,
            streams: BTreeMap::new(),
            carriers: Vec::new(),
            ids: Ids { next: side.first(), seen: Seen::new(peer), own: 0, peer: 0 },
            totals: Totals::default(),
            waits: Waits::default(),
            events: VecDeque::new(),
            outgoing: DatagramQueue::default(),
            incoming: DatagramQueue::default(),
            going: Going::default(),
        }
    }

    /// Opens a stream on the best carrier. The peer learns of it with the first bytes or the end; without a carrier
    /// they wait for one.
    pub fn open(&mut self, now: Instant) -> Result<StreamId, OpenRefused> {
        if self.going.here || self.going.there {
            return Err(OpenRefused::GoingAway);
        }
        if self.ids.own >= self.limits.streams {
            return Err(OpenRefused::Full);
        }
        let id = StreamId(self.ids.next);
        self.ids.next += 2;
        self.insert(id, true, now);
        Ok(id)
    }

    /// Copies what there is room for: what the peer has granted, within what the session keeps for replay.
    pub fn write(&mut self, id: StreamId, bytes: &[u8], _now: Instant) -> Write {
        let half = self.limits.total_window / 2;
        // So much every stream may keep even when others keep half of the bound: both sides' streams together fill the
        // other half.
        let share = (half / (2 * u64::from(self.limits.streams))).max(1);
        let common = half.saturating_sub(self.totals.replay);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else {
            return Write::Reset(ResetReason::Unspecified);
        };
        if let Some(reset) = stream.reset {
            self.tell_reset(id);
            return Write::Reset(reset.reason);
        }
        if stream.send.finished() {
            return Write::Finished;
        }
        let held = stream.send.held();
        let granted = stream.send.room().min(u64::from(self.limits.max_window).saturating_sub(held));
        let room = granted.min(common.max(share.saturating_sub(held)));
        let taken = stream.send.write(bytes, room);
        self.totals.replay += taken as u64;
        if taken < bytes.len() {
            stream.blocked = true;
            if room < granted {
                self.waits.replay.insert(id);
            }
        }
        if taken > 0 {
            stream.enqueue(id, &mut self.carriers);
        }
        Write::Taken(taken)
    }

    /// Ends this side's direction behind what was written.
    pub fn finish(&mut self, id: StreamId, _now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { return };
        match &mut stream.reset {
            None => stream.send.finish(),
            // An application that was told the other end already asks no more.
            Some(reset) => reset.told |= stream.recv.finished(),
        }
        self.settle(id);
    }

    /// Ends both directions, also because the application has let go of a stream that is not finished. Nothing happens
    /// to one that is.
    pub fn reset(&mut self, id: StreamId, reason: ResetReason, _now: Instant) {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.over) else { return };
        if stream.reset.is_some() {
            self.tell_reset(id);
        } else if !stream.application_done() {
            self.give_up(id, reason, true);
        }
    }

    /// Resets every stream, and opens no more: this end of the session ends with its process.
    pub fn reset_all(&mut self, reason: ResetReason, now: Instant) {
        self.go_away(now);
        let open = self.streams.iter().filter(|(_, stream)| !stream.over && stream.reset.is_none());
        for id in open.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.give_up(id, reason, false);
        }
    }

    /// The application lets go of a stream. What it has written up to its end still arrives; bytes of the peer that
    /// nobody will read reset the stream, as those that arrive at a closed socket do (RFC 9293 section 3.6).
    pub fn close(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { return };
        if stream.reset.is_some() || !stream.send.finished() || stream.recv.unread() {
            return self.reset(id, ResetReason::Cancelled, now);
        }
        stream.abandoned = true;
        stream.recv.tell_end();
        self.settle(id);
    }

    /// The next chunk.
    pub fn read(&mut self, id: StreamId, _now: Instant) -> Read {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else {
            return Read::Reset(ResetReason::Unspecified);
        };
        if let Some(reset) = stream.reset {
            self.tell_reset(id);
            return Read::Reset(reset.reason);
        }
        if let Some(chunk) = stream.recv.read() {
            return Read::Chunk(chunk);
        }
        if stream.recv.tell_end() {
            self.settle(id);
            return Read::Finished;
        }
        stream.recv.starved = true;
        Read::Pending
    }

    /// The application has taken so many of the bytes that it has read; the peer may send as many again.
    pub fn consumed(&mut self, id: StreamId, bytes: usize, now: Instant) {
        let total = self.limits.total_window;
        let crowded = self.totals.held > total / 2;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) else { return };
        let before = stream.recv.window();
        let most = u64::from(self.limits.max_window).saturating_sub(before);
        let share = Share {
            growth: if crowded { 0 } else { total.saturating_sub(self.totals.windows).min(most) },
            shrink: (self.totals.windows > total).then_some(u64::from(self.limits.initial_window)),
            // As for writers: half of the bound, shared by all that may be open.
            cap: if crowded { total / 4 / u64::from(self.limits.streams) } else { u64::MAX },
        };
        let by = stream.recv.by;
        let rtt = self.carriers.iter().find(|carrier| Some(carrier.id) == by).and_then(|c| c.pulse.rtt());
        let (freed, tell) = stream.recv.consume(bytes as u64, rtt, share, now);
        self.totals.windows = self.totals.windows + stream.recv.window() - before;
        self.totals.held -= freed;
        if tell {
            self.acknowledge(id, now, now);
        }
    }

    /// Sends a datagram once, by the carrier that is best when its turn comes. The oldest that waits makes room; false
    /// when it is longer than a datagram can be.
    pub fn send_datagram(&mut self, channel: u64, payload: Bytes, _now: Instant) -> bool {
        if payload.len() > MAX_DATAGRAM {
            return false;
        }
        self.outgoing.push(channel, payload);
        if let Some(best) = self.best() {
            self.carriers[best].signal();
        }
        true
    }

    /// The next datagram that came, with its channel.
    pub fn poll_datagram(&mut self) -> Option<(u64, Bytes)> {
        self.incoming.pop()
    }

    /// Opens no more streams and asks the peer to open none; those that are open go on.
    pub fn go_away(&mut self, _now: Instant) {
        self.going.here = true;
        for carrier in &mut self.carriers {
            carrier.queues.go_away = true;
            carrier.signal();
        }
    }

    /// What the caller is to know or do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some((id, silent)) = self.waits.dead.pop_front() {
            return Some(Event::CarrierDead(id, silent));
        }
        for carrier in &mut self.carriers {
            if carrier.take_announce() {
                return Some(Event::Transmit(carrier.id));
            }
        }
        if std::mem::take(&mut self.waits.datagrams) {
            return Some(Event::Datagrams);
        }
        while let Some(id) = self.events.front().copied() {
            if let Some(event) = self.stream_event(id) {
                return Some(event);
            }
            self.events.pop_front();
        }
        None
    }

    /// The next event of the stream at the head of the queue.
    fn stream_event(&mut self, id: StreamId) -> Option<Event> {
        let stream = self.streams.get_mut(&id)?;
        let events = &mut stream.events;
        if stream.over {
            let known = !std::mem::take(&mut events.opened);
            let event = Event::Ended {
                stream: id,
                reset: stream.reset.map(|reset| reset.reason),
                sent: stream.send.acked(),
                received: stream.recv.received(),
            };
            self.streams.remove(&id);
            return known.then_some(event);
        }
        if std::mem::take(&mut events.opened) {
            return Some(Event::Opened(id));
        }
        if std::mem::take(&mut events.readable) {
            return Some(Event::Readable(id));
        }
        if std::mem::take(&mut events.writable) {
            return Some(Event::Writable(id));
        }
        events.queued = false;
        None
    }

    pub(super) fn insert(&mut self, id: StreamId, own: bool, now: Instant) {
        let window = u64::from(self.limits.initial_window);
        let mut stream = Stream::new(own, window, now);
        match self.best() {
            Some(best) => stream.carrier = Some(self.carriers[best].id),
            None => self.waits.carrier.push_back((now, id)),
        }
        self.totals.windows += window;
        if own {
            self.ids.own += 1;
        } else {
            self.ids.peer += 1;
        }
        self.streams.insert(id, stream);
    }

    /// Ends a stream from this side. The RESET is as reliable as bytes: it stays due until the peer has answered it.
    pub(super) fn give_up(&mut self, id: StreamId, reason: ResetReason, told: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // An application that has written its end and read the other asks no more; [`Event::Ended`] tells the caller.
        let told = told || stream.application_done();
        stream.reset = Some(Reset { reason, due: true, acked: false, told });
        self.clear(id);
        self.settle(id);
    }

    /// Frees what a stream that was reset holds, and wakes whoever waits for it.
    pub(super) fn clear(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.totals.replay -= stream.send.held();
        self.totals.held -= stream.recv.held();
        self.totals.windows -= stream.recv.close_window();
        stream.send.clear();
        stream.recv.clear();
        stream.moved = false;
        if stream.reset.is_some_and(|reset| !reset.told) {
            stream.events.readable = true;
            stream.events.writable |= std::mem::take(&mut stream.blocked);
            self.announce(id);
        }
        self.wake_writers();
    }

    fn tell_reset(&mut self, id: StreamId) {
        if let Some(reset) = self.streams.get_mut(&id).and_then(|stream| stream.reset.as_mut()) {
            reset.told = true;
            self.settle(id);
        }
    }

    /// Puts a stream where it belongs after a change, and forgets it when it is finished.
    pub(super) fn settle(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { return };
        let finished = stream.finished();
        stream.over = finished;
        stream.enqueue(id, &mut self.carriers);
        if !finished {
            return;
        }
        self.totals.windows -= stream.recv.close_window();
        // What was read and not consumed is the application's now.
        self.totals.held -= stream.recv.held();
        stream.recv.clear();
        if stream.own {
            self.ids.own -= 1;
        } else {
            self.ids.peer -= 1;
        }
        self.waits.replay.remove(&id);
        let queued = [stream.queued.ready, stream.queued.control, stream.queued.ack];
        self.announce(id);
        for at in queued.into_iter().flatten() {
            if let Some(carrier) = self.carriers.iter_mut().find(|carrier| carrier.id == at) {
                carrier.went(&self.streams);
            }
        }
    }

    pub(super) fn announce(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.events.queued, true)
        {
            self.events.push_back(id);
        }
    }

    /// Writers that the session's bound held up try again when half of it is free.
    pub(super) fn wake_writers(&mut self) {
        if self.totals.replay >= self.limits.total_window / 2 {
            return;
        }
        while let Some(id) = self.waits.replay.pop_first() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if std::mem::take(&mut stream.blocked) {
                stream.events.writable = true;
                self.announce(id);
            }
        }
    }
}
