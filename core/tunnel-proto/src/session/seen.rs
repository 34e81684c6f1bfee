//! Which of the peer's ids have been used.

use std::collections::BTreeSet;

use super::types::{MAX_STREAMS, Side, StreamId, Violation};

/// The peer numbers its streams one after the other, and two carriers can deliver their openings out of order: what
/// lies below the highest id and has not come yet is a gap. Every id comes at last, since a stream that is given up
/// before its first byte is reset like any other; so the gaps are streams that the peer has open, and their number is
/// bounded by what it may have open.
#[derive(Debug)]
pub(super) struct Seen {
    next: u64,
    gaps: BTreeSet<u64>,
}

impl Seen {
    pub(super) fn new(peer: Side) -> Self {
        Self { next: peer.first(), gaps: BTreeSet::new() }
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        id.0 < self.next && !self.gaps.contains(&id.0)
    }

    pub(super) fn mark(&mut self, id: StreamId) -> Result<(), Violation> {
        if id.0 < self.next {
            self.gaps.remove(&id.0);
            return Ok(());
        }
        let skipped = (id.0 - self.next) / 2;
        let room = u64::from(MAX_STREAMS).saturating_sub(self.gaps.len() as u64);
        // The last ids of the space are never reached by counting.
        let Some(next) = id.0.checked_add(2).filter(|_| skipped <= room) else {
            return Err(Violation::TooManyStreams);
        };
        self.gaps.extend((0..skipped).map(|step| self.next + 2 * step));
        self.next = next;
        Ok(())
    }

    pub(super) fn gaps(&self) -> usize {
        self.gaps.len()
    }
}
