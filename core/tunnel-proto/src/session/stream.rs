//! One stream: two halves, how it ended, and in which queues it waits.

use std::time::Instant;

use super::carrier::Carrier;
use super::recv::RecvHalf;
use super::send::SendHalf;
use super::types::{CarrierId, ResetReason, StreamId};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) own: bool,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    pub(super) reset: Option<Reset>,
    /// The carrier of the sending half.
    pub(super) carrier: Option<CarrierId>,
    pub(super) queued: Queued,
    pub(super) events: Events,
    /// A MOVED is to be sent.
    pub(super) moved: bool,
    /// A write took less than was offered.
    pub(super) blocked: bool,
    /// The application has let go; only the peer's end is awaited.
    pub(super) abandoned: bool,
    /// Over: only its last event is left.
    pub(super) over: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub(super) reason: ResetReason,
    /// A RESET is to be sent.
    pub(super) due: bool,
    /// The peer knows.
    pub(super) acked: bool,
    /// The application knows.
    pub(super) told: bool,
}

/// In which carrier's queue the stream waits; an entry elsewhere is stale.
#[derive(Debug, Default)]
pub(super) struct Queued {
    pub(super) ready: Option<CarrierId>,
    pub(super) control: Option<CarrierId>,
    pub(super) ack: Option<CarrierId>,
    /// Which carrier counts it as unacknowledged.
    pub(super) unacked: Option<CarrierId>,
}

/// Flags instead of a queue of events: a stream has each event at most once.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) opened: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) queued: bool,
}

impl Stream {
    pub(super) fn new(own: bool, window: u64, now: Instant) -> Self {
        Self {
            own,
            send: SendHalf::new(window),
            recv: RecvHalf::new(window, now),
            reset: None,
            carrier: None,
            queued: Queued::default(),
            events: Events::default(),
            moved: false,
            blocked: false,
            abandoned: false,
            over: false,
        }
    }

    pub(super) fn sendable(&self) -> bool {
        self.reset.is_none() && !self.over && self.send.sendable()
    }

    fn has_control(&self) -> bool {
        self.moved || self.reset.is_some_and(|reset| reset.due)
    }

    fn outstanding(&self) -> bool {
        !self.over && self.reset.map_or_else(|| self.send.outstanding(), |reset| !reset.acked)
    }

    /// Whether nobody needs to remember it: the peer has all of ours or knows of the reset, and the application has all
    /// of the peer's or knows of the reset.
    pub(super) fn finished(&self) -> bool {
        match self.reset {
            Some(reset) => reset.acked && reset.told,
            None => self.send.fin_acked() && self.recv.finished(),
        }
    }

    /// Whether the application has written its end and was told the other.
    pub(super) fn application_done(&self) -> bool {
        self.send.finished() && self.recv.finished()
    }

    pub(super) fn sends_no_more(&self) -> bool {
        self.reset.map_or_else(|| self.send.fin_acked(), |reset| reset.acked)
    }

    pub(super) fn receives_no_more(&self) -> bool {
        self.reset.is_some() || self.recv.ended()
    }

    /// Puts the stream into the queues of its carrier that it belongs in.
    pub(super) fn enqueue(&mut self, id: StreamId, carriers: &mut [Carrier]) {
        let counted = self.carrier.filter(|_| self.outstanding());
        if counted != self.queued.unacked {
            for carrier in carriers.iter_mut() {
                if Some(carrier.id) == self.queued.unacked {
                    carrier.unacked = carrier.unacked.saturating_sub(1);
                }
                if Some(carrier.id) == counted {
                    carrier.unacked += 1;
                }
            }
            self.queued.unacked = counted;
        }
        let control = self.has_control() && self.queued.control != self.carrier;
        let ready = self.sendable() && self.queued.ready != self.carrier;
        if !control && !ready {
            return;
        }
        let Some(carrier) = carriers.iter_mut().find(|carrier| Some(carrier.id) == self.carrier) else {
            return;
        };
        if control {
            self.queued.control = Some(carrier.id);
            carrier.queues.control.push_back(id);
        }
        if ready {
            self.queued.ready = Some(carrier.id);
            carrier.queues.ready.push_back(id);
        }
        carrier.signal();
    }
}
