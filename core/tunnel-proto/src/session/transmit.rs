//! Frames that leave.

use std::time::Instant;

use super::carrier::Reply;
use super::frame::Frame;
use super::state::Session;
use super::types::{CarrierId, StreamId};

impl Session {
    /// The next frame for a carrier: what is short and waited for first, then datagrams and streams in turn.
    pub fn transmit(&mut self, id: CarrierId, now: Instant) -> Option<Frame> {
        let index = self.index(id)?;
        let frame = self.next_frame(index, now);
        let carrier = &mut self.carriers[index];
        match &frame {
            Some(frame) => {
                carrier.sent += frame.payload().len() as u64;
                if !frame.is_pulse() {
                    carrier.pulse.traffic(now);
                }
            }
            None => carrier.drained(),
        }
        frame
    }

    fn next_frame(&mut self, index: usize, now: Instant) -> Option<Frame> {
        if let Some(frame) = self.carriers[index].queues.heartbeat() {
            return Some(frame);
        }
        while let Some(reply) = self.carriers[index].queues.next_reply() {
            if let Some(frame) = self.answer(reply) {
                return Some(frame);
            }
        }
        while let Some(id) = self.carriers[index].queues.control.pop_front() {
            if let Some(frame) = self.control(index, id) {
                return Some(frame);
            }
        }
        let datagram = !self.outgoing.is_empty() && self.best() == Some(index);
        let queues = &self.carriers[index].queues;
        // Acknowledgements that could wait go along with whatever leaves anyway.
        if (datagram || !queues.ready.is_empty() || queues.ack_at.is_some_and(|due| due <= now))
            && let Some(frame) = self.next_ack(index)
        {
            return Some(frame);
        }
        let streams_first = self.carriers[index].queues.datagram_last;
        self.carriers[index].queues.datagram_last = false;
        if streams_first && let Some(frame) = self.next_data(index, now) {
            return Some(frame);
        }
        if datagram && let Some((channel, payload)) = self.outgoing.pop() {
            self.carriers[index].queues.datagram_last = true;
            return Some(Frame::Datagram { channel, payload });
        }
        self.next_data(index, now)
    }

    fn answer(&mut self, reply: Reply) -> Option<Frame> {
        let stream = match reply {
            Reply::Reset(stream) => return Some(Frame::ResetAck { stream }),
            Reply::Received(stream) => stream,
        };
        if let Some(live) = self.streams.get_mut(&stream).filter(|stream| !stream.over) {
            // The RESET that was sent or came says more.
            return live.reset.is_none().then(|| {
                let (received, limit) = live.recv.acknowledgement();
                Frame::Ack { stream, received, limit }
            });
        }
        if !self.side.opens(stream) && !self.ids.seen.contains(stream) {
            return Some(Frame::Ack { stream, received: 0, limit: u64::from(self.limits.initial_window) });
        }
        Some(Frame::Ack { stream, received: u64::MAX, limit: 0 })
    }

    fn control(&mut self, index: usize, id: StreamId) -> Option<Frame> {
        let here = Some(self.carriers[index].id);
        let stream =
            self.streams.get_mut(&id).filter(|stream| !stream.over && stream.queued.control == here)?;
        stream.queued.control = None;
        if let Some(reset) = &mut stream.reset {
            return std::mem::take(&mut reset.due)
                .then_some(Frame::Reset { stream: id, reason: reset.reason });
        }
        std::mem::take(&mut stream.moved).then_some(Frame::Moved { stream: id })
    }

    fn next_ack(&mut self, index: usize) -> Option<Frame> {
        let here = Some(self.carriers[index].id);
        while let Some(id) = self.carriers[index].queues.acks.pop_front() {
            let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.queued.ack == here) else {
                continue;
            };
            stream.queued.ack = None;
            if stream.reset.is_none() && !stream.over {
                let (received, limit) = stream.recv.acknowledgement();
                return Some(Frame::Ack { stream: id, received, limit });
            }
        }
        self.carriers[index].queues.ack_at = None;
        None
    }

    fn next_data(&mut self, index: usize, now: Instant) -> Option<Frame> {
        let here = Some(self.carriers[index].id);
        while let Some(id) = self.carriers[index].queues.ready.pop_front() {
            let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.queued.ready == here) else {
                continue;
            };
            stream.queued.ready = None;
            if !stream.sendable() || self.leave(id, index, now) {
                continue;
            }
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let piece = stream.send.take();
            let open = stream.own && piece.offset == 0;
            stream.enqueue(id, &mut self.carriers);
            return Some(Frame::Data {
                stream: id,
                offset: piece.offset,
                open,
                fin: piece.fin,
                payload: piece.payload,
            });
        }
        None
    }
}
