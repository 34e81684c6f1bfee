//! One carrier: its pulse and what waits to leave by it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::frame::Frame;
use super::pulse::Pulse;
use super::stream::Stream;
use super::types::{CarrierId, MAX_STREAMS, StreamId, Violation};

/// Answers that wait: a peer that has all its streams and all of ours moved to one carrier asks once for each, with
/// as many ends and resets in the same flight.
const MAX_REPLIES: usize = 4 * MAX_STREAMS as usize;

/// An answer that leaves by the carrier that the question came by, for only there is it waited for. What it says is
/// looked up when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Received(StreamId),
    Reset(StreamId),
}

#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) id: CarrierId,
    pub(super) cost: u32,
    pub(super) pulse: Pulse,
    pub(super) queues: Queues,
    /// Streams whose peer has yet to answer something that went by this carrier.
    pub(super) unacked: u32,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The caller knows that there is something to send.
    signalled: bool,
    announce: bool,
}

/// In the order in which they leave. Entries whose stream has gone, or waits elsewhere by now, are skipped.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) pong: Option<u64>,
    pub(super) ping: Option<u64>,
    pub(super) go_away: bool,
    replies: VecDeque<Reply>,
    /// Streams with a RESET or MOVED to send.
    pub(super) control: VecDeque<StreamId>,
    pub(super) acks: VecDeque<StreamId>,
    /// When acknowledgements leave even if nothing else does.
    pub(super) ack_at: Option<Instant>,
    pub(super) ready: VecDeque<StreamId>,
    /// Whether the last frame was a datagram: then a stream's turn comes first.
    pub(super) datagram_last: bool,
    /// How many entries of streams that have gone there may be.
    stale: u32,
}

impl Carrier {
    pub(super) fn new(id: CarrierId, cost: u32, now: Instant) -> Self {
        Self {
            id,
            cost,
            pulse: Pulse::new(now),
            queues: Queues::default(),
            unacked: 0,
            sent: 0,
            received: 0,
            signalled: false,
            announce: false,
        }
    }

    /// Lower is better.
    pub(super) fn rank(&self) -> (u32, Duration, CarrierId) {
        (self.cost, self.pulse.rtt().unwrap_or(Duration::MAX), self.id)
    }

    pub(super) fn signal(&mut self) {
        if !self.signalled {
            self.signalled = true;
            self.announce = true;
        }
    }

    pub(super) fn drained(&mut self) {
        self.signalled = false;
    }

    pub(super) fn take_announce(&mut self) -> bool {
        std::mem::take(&mut self.announce)
    }

    pub(super) fn reply(&mut self, reply: Reply) -> Result<(), Violation> {
        if self.queues.replies.len() >= MAX_REPLIES {
            return Err(Violation::Flood);
        }
        self.queues.replies.push_back(reply);
        self.signal();
        Ok(())
    }

    /// An acknowledgement is due at `at`, or sooner with whatever else leaves.
    pub(super) fn acknowledge_by(&mut self, at: Instant, now: Instant) {
        if self.queues.ack_at.is_none_or(|due| at < due) {
            self.queues.ack_at = Some(at);
        }
        if at <= now {
            self.signal();
        }
    }

    /// An entry of a queue has become stale, since its stream has gone or waits elsewhere. They are swept when there may
    /// be as many of them as streams, so that the queues stay bounded where nothing leaves.
    pub(super) fn went(&mut self, streams: &BTreeMap<StreamId, Stream>) {
        self.queues.stale += 1;
        if self.queues.stale < MAX_STREAMS {
            return;
        }
        self.queues.stale = 0;
        let own = Some(self.id);
        sweep(&mut self.queues.control, |id| {
            streams.get(id).is_some_and(|s| !s.over && s.queued.control == own)
        });
        sweep(&mut self.queues.acks, |id| streams.get(id).is_some_and(|s| !s.over && s.queued.ack == own));
        sweep(&mut self.queues.ready, |id| streams.get(id).is_some_and(|s| !s.over && s.queued.ready == own));
    }

    /// Whether the caller has yet to take what there is to send.
    pub(super) fn is_signalled(&self) -> bool {
        self.signalled
    }
}

/// One entry of each stream that waits.
fn sweep(queue: &mut VecDeque<StreamId>, waits: impl Fn(&StreamId) -> bool) {
    let remaining: BTreeSet<StreamId> = queue.drain(..).filter(|id| waits(id)).collect();
    queue.extend(remaining);
}

impl Queues {
    pub(super) fn heartbeat(&mut self) -> Option<Frame> {
        if let Some(number) = self.pong.take() {
            return Some(Frame::Pong { number });
        }
        if let Some(number) = self.ping.take() {
            return Some(Frame::Ping { number });
        }
        std::mem::take(&mut self.go_away).then_some(Frame::GoAway)
    }

    pub(super) fn next_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }
}
