use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::socket::Pipe;

/// The most an ordinary user may have (pipe(7)). With a quarter of it the CPU per byte was 1.3 times as high: more
/// calls, more turns, and more wake-ups of the receiver.
const CAPACITY: usize = 1024 * 1024;

/// Pipes of the whole process: 16 MiB when all are full, as much as the agent itself may have, and a quarter of what
/// pipe(7) leaves to an ordinary user. A connection holds one only while its receiver is slow; those past the bound are
/// copied.
const MAX_PIPES: usize = 16;

/// Empty pipes a thread keeps: both directions of the connection that is being served, each once.
const KEPT: usize = 2;

static MADE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static EMPTY: RefCell<Vec<Counted>> = const { RefCell::new(Vec::new()) };
}

/// A pipe that counts as one of [`MAX_PIPES`] as long as it is open.
#[derive(Debug)]
struct Counted(Pipe);

impl Drop for Counted {
    fn drop(&mut self) {
        MADE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe for as long as bytes go through it or wait in it.
#[derive(Debug)]
pub(super) struct Lent(Option<Counted>);

impl Lent {
    /// A pipe with nothing in it; `None` when there are enough already, or none can be made.
    pub(super) fn take() -> Option<Self> {
        let kept = EMPTY.with_borrow_mut(Vec::pop);
        kept.or_else(make).map(|pipe| Self(Some(pipe)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|pipe| pipe.0.held() == 0)
    }

    pub(super) fn pipe(&mut self) -> &mut Pipe {
        &mut self.0.as_mut().expect("it is there until the drop").0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What is left in a pipe belongs to a connection that broke: nobody else may get it.
        if let Some(pipe) = self.0.take_if(|pipe| pipe.0.held() == 0) {
            // A thread that ends has no place any more, and closes the pipe.
            let _ = EMPTY.try_with(|empty| {
                let mut empty = empty.borrow_mut();
                if empty.len() < KEPT {
                    empty.push(pipe);
                }
            });
        }
    }
}

fn make() -> Option<Counted> {
    if MADE.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES {
        MADE.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    match Pipe::new(CAPACITY) {
        Ok(pipe) => Some(Counted(pipe)),
        Err(error) => {
            MADE.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(%error, "no pipe, bytes are copied");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as the count is the process's; each test binary of the crate has its own.
    #[test]
    fn pipes_are_used_again_and_bounded() {
        let mut held: Vec<Lent> = std::iter::from_fn(Lent::take).take(MAX_PIPES + 1).collect();
        assert!(!held.is_empty() && held.len() <= MAX_PIPES, "{}", held.len());
        assert!(held.iter_mut().all(|lent| lent.pipe().held() == 0));
        assert!(Lent::take().is_none());
        held.clear();
        assert_eq!(EMPTY.with_borrow(Vec::len), KEPT);
        assert!(Lent::take().is_some());
    }
}
