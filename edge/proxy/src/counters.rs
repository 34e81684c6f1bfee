use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to the proxy outside of any one connection.
#[derive(Debug, Default)]
pub struct Counters {
    accept_failed: AtomicU64,
    datagrams_dropped: AtomicU64,
    datagrams_rejected: AtomicU64,
    sessions_evicted: AtomicU64,
    inbound_refused: AtomicU64,
}

impl Counters {
    /// Accepts that failed because the process or the system ran out of something.
    pub fn accept_failed(&self) -> u64 {
        self.accept_failed.load(Ordering::Relaxed)
    }

    /// Datagrams dropped because a queue or a socket was full.
    pub fn datagrams_dropped(&self) -> u64 {
        self.datagrams_dropped.load(Ordering::Relaxed)
    }

    /// Datagrams dropped because there was no target for them.
    pub fn datagrams_rejected(&self) -> u64 {
        self.datagrams_rejected.load(Ordering::Relaxed)
    }

    /// Sessions that had to go for newer ones.
    pub fn sessions_evicted(&self) -> u64 {
        self.sessions_evicted.load(Ordering::Relaxed)
    }

    /// Streams of peers that were refused.
    pub fn inbound_refused(&self) -> u64 {
        self.inbound_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_accept_failed(&self) {
        self.accept_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_datagram_dropped(&self) {
        self.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_datagram_rejected(&self) {
        self.datagrams_rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_session_evicted(&self) {
        self.sessions_evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_inbound_refused(&self) {
        self.inbound_refused.fetch_add(1, Ordering::Relaxed);
    }
}
