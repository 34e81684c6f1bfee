//! Datagrams that wait to be sent or to be taken: boundaries are kept, nothing is repeated.

use std::collections::VecDeque;

use bytes::Bytes;

/// Datagrams that wait in one direction: what UDP's default receive buffer of Linux (212,992 bytes, counted with
/// 832 bytes for a small packet) holds.
pub const MAX_QUEUED_DATAGRAMS: usize = 256;

/// Bytes that wait in one direction: sixteen of the longest datagrams.
pub const MAX_QUEUED_BYTES: usize = 1 << 20;

/// The oldest datagram makes room: whoever waits for it has asked again by then.
#[derive(Debug, Default)]
pub(super) struct DatagramQueue {
    queue: VecDeque<(u64, Bytes)>,
    bytes: usize,
    dropped: u64,
}

impl DatagramQueue {
    pub(super) fn push(&mut self, channel: u64, payload: Bytes) {
        while self.queue.len() >= MAX_QUEUED_DATAGRAMS
            || (self.bytes + payload.len() > MAX_QUEUED_BYTES && !self.queue.is_empty())
        {
            self.pop();
            self.dropped += 1;
        }
        self.bytes += payload.len();
        self.queue.push_back((channel, payload));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Bytes)> {
        let (channel, payload) = self.queue.pop_front()?;
        self.bytes -= payload.len();
        Some((channel, payload))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
