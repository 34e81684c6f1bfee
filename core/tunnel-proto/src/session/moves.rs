//! Carriers come, go and change, and the sending halves of streams move between them.

use std::time::{Duration, Instant};

use super::carrier::Carrier;
use super::frame::FRAME_PAYLOAD;
use super::state::Session;
use super::types::{CarrierId, MAX_CARRIERS, StreamId};

/// How long streams wait for a carrier: the restart of a relay, a new lease, a modem that attaches again. Clients of a
/// node that is gone learn of it after this, and not after the hours of TCP's own keep-alive.
pub const NO_PATH_AFTER: Duration = Duration::from_secs(15);

/// Unacknowledged bytes up to which a stream that lost its carrier sends them again at once instead of asking first
/// what has arrived: one frame costs less than the round trip, and a person who types waits for it.
pub const RESEND_AT_ONCE: u64 = FRAME_PAYLOAD as u64;

/// From so many bytes on a stream counts as bulk and is taken to a better carrier although that stops it for a round
/// trip; a shorter one is likely over before it pays.
const BULK: u64 = 1 << 20;

/// How long a bulk stream may stand still at most to move: the round-trip time of a carrier that is left includes what
/// has piled up in its buffers.
const DRAIN_CAP: Duration = Duration::from_secs(1);

impl Session {
    /// A carrier can be used; the lower its cost the better, and among equals the shorter round trip. False when there
    /// are [`MAX_CARRIERS`] already or the id is in use, and the carrier is to be closed.
    pub fn carrier_up(&mut self, id: CarrierId, cost: u32, now: Instant) -> bool {
        if self.carriers.len() >= MAX_CARRIERS || self.index(id).is_some() {
            return false;
        }
        let first = self.carriers.is_empty();
        let mut carrier = Carrier::new(id, cost, now);
        if self.going.here {
            carrier.queues.go_away = true;
            carrier.signal();
        }
        self.carriers.push(carrier);
        if first {
            self.waits.carrier.clear();
            for id in self.ids() {
                self.assign(id, 0);
                self.acknowledge(id, now, now);
            }
        } else {
            self.improve();
        }
        self.signal_datagrams();
        true
    }

    /// The carrier's cost has changed.
    pub fn carrier_cost(&mut self, id: CarrierId, cost: u32, _now: Instant) {
        if let Some(index) = self.index(id) {
            self.carriers[index].cost = cost;
            self.improve();
            self.signal_datagrams();
        }
    }

    /// The carrier is lost, or has been closed. What was under way on it is asked for and sent again on others.
    pub fn carrier_down(&mut self, id: CarrierId, now: Instant) {
        let Some(index) = self.index(id) else { return };
        self.carriers.remove(index);
        let (lost, best) = (Some(id), self.best());
        for id in self.ids() {
            let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { continue };
            // An acknowledgement may be lost with the carrier. Where the peer's half still rides the carrier in its view
            // it will see the loss and ask by MOVED; where it does not, this one reaches it.
            let owes = stream.queued.ack == lost || stream.recv.by == lost;
            if stream.queued.ack == lost {
                stream.queued.ack = None;
            }
            if stream.carrier == lost {
                stream.carrier = None;
                stream.queued.unacked = None;
                match best {
                    Some(best) => self.assign(id, best),
                    None => self.waits.carrier.push_back((now, id)),
                }
            } else if stream.send.draining() {
                // It may have drained towards the carrier that is lost.
                stream.send.drain(false);
                stream.enqueue(id, &mut self.carriers);
            }
            if owes {
                self.acknowledge(id, now, now);
            }
        }
        self.signal_datagrams();
    }

    pub(super) fn index(&self, id: CarrierId) -> Option<usize> {
        self.carriers.iter().position(|carrier| carrier.id == id)
    }

    pub(super) fn best(&self) -> Option<usize> {
        (0..self.carriers.len()).min_by_key(|index| self.carriers[*index].rank())
    }

    /// The best carrier, where it costs less than `than`. A shorter round trip alone moves no stream: it is measured anew
    /// every 200 ms.
    pub(super) fn cheaper(&self, than: u32) -> Option<usize> {
        self.best().filter(|best| self.carriers[*best].cost < than)
    }

    pub(super) fn signal_datagrams(&mut self) {
        if !self.outgoing.is_empty()
            && let Some(best) = self.best()
        {
            self.carriers[best].signal();
        }
    }

    /// Every stream, for the rare calls that look at all of them.
    fn ids(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Makes the sending half of a stream ride a carrier. If the peer may have seen anything of it, MOVED tells where its
    /// acknowledgements are waited for from now on, and asks for one. Sending begins again at what was acknowledged, after
    /// the answer when there is much. The receiver has at least that, so there is no gap whatever the old carrier still
    /// delivers, before or after.
    pub(super) fn assign(&mut self, id: StreamId, index: usize) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { return };
        let to = Some(self.carriers[index].id);
        let from = std::mem::replace(&mut stream.carrier, to);
        if let Some(reset) = &mut stream.reset {
            reset.due = !reset.acked;
        } else if stream.send.began() && !stream.send.fin_acked() {
            stream.send.rewind(RESEND_AT_ONCE);
            stream.moved = true;
            self.totals.moved += 1;
        }
        let stale =
            [&mut stream.queued.ready, &mut stream.queued.control].map(|queued| queued.take().is_some());
        stream.enqueue(id, &mut self.carriers);
        if let Some(old) = self.carriers.iter_mut().find(|carrier| Some(carrier.id) == from) {
            for _ in stale.into_iter().filter(|stale| *stale) {
                old.went(&self.streams);
            }
        }
    }

    /// Takes to the best carrier every stream that can go there without any of its bytes being under way, so that a
    /// carrier that is left runs empty. Those with bytes under way follow when these are acknowledged or, in bulk, when
    /// their turn to send comes.
    fn improve(&mut self) {
        for id in self.ids() {
            self.improve_one(id);
        }
    }

    pub(super) fn improve_one(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.over && stream.reset.is_none())
        else {
            return;
        };
        // One that waits for its turn is looked at then, and stays the only entry of its queue.
        if !stream.send.all_acked() || stream.send.fin_acked() || stream.queued.ready.is_some() {
            return;
        }
        let Some(cost) =
            self.carriers.iter().find(|carrier| Some(carrier.id) == stream.carrier).map(|c| c.cost)
        else {
            return;
        };
        if let Some(best) = self.cheaper(cost) {
            self.assign(id, best);
        } else if stream.send.draining() {
            self.stop_draining(id);
        }
    }

    /// Before a stream's turn on a carrier: takes it to a cheaper one, or makes a bulk stream stop for that. True when the
    /// turn is not used.
    pub(super) fn leave(&mut self, id: StreamId, index: usize, now: Instant) -> bool {
        let Some(best) = self.cheaper(self.carriers[index].cost) else { return false };
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        if stream.send.all_acked() {
            self.assign(id, best);
            return true;
        }
        if stream.send.sent() < BULK {
            return false;
        }
        // What is under way is acknowledged within a round trip; what is not by then is sent again.
        stream.send.drain(true);
        let wait = self.carriers[index].pulse.rtt().unwrap_or_default().min(DRAIN_CAP);
        self.waits.drain.insert((now + wait, id));
        true
    }

    /// The time to stand still is over: goes on where it is best.
    pub(super) fn stop_draining(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over && stream.send.draining())
        else {
            return;
        };
        stream.send.drain(false);
        let here = stream.carrier;
        let cost =
            self.carriers.iter().find(|carrier| Some(carrier.id) == here).map_or(0, |carrier| carrier.cost);
        match self.cheaper(cost) {
            Some(best) => self.assign(id, best),
            None => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.enqueue(id, &mut self.carriers);
                }
            }
        }
    }
}
