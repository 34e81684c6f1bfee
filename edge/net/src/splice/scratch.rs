//! The buffer that a thread's copies share.

use std::cell::RefCell;

use crate::socket::MAX_DATAGRAM;

thread_local! {
    /// One buffer per worker thread instead of one or two per connection: it is used between two waits only, so
    /// that an idle connection holds no buffer at all.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's buffer of 65,535 bytes, which is also about where larger copies stop to pay.
pub fn with<T>(use_buffer: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            buffer.resize(MAX_DATAGRAM, 0);
        }
        use_buffer(buffer)
    })
}
