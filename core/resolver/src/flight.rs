use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alias::Aliases;
use crate::query::{Head, Query};
use crate::stored::{AskBits, Stored};
use crate::wire::Transport;

/// Time for one attempt over UDP: longer than nearly every recursion, short enough for five within [`TOTAL`].
pub(crate) const TRY_UDP: Duration = Duration::from_millis(800);
/// Time for one attempt over TCP, which has a handshake in it.
pub(crate) const TRY_TCP: Duration = Duration::from_millis(1500);
/// Time for a question in all: the C library gives up after 5 s.
pub(crate) const TOTAL: Duration = Duration::from_secs(4);
/// Attempts for one question.
pub(crate) const MAX_TRIES: usize = 5;
/// After this a stale answer is better than none (RFC 8767 section 5 recommends 1.8 s).
pub(crate) const STALE_AFTER: Duration = Duration::from_millis(1800);
/// Clients that wait for one question; more are told SERVFAIL. A node runs some hundred Pods.
pub(crate) const MAX_WAITERS: usize = 256;

/// A client that waits for an upstream's answer.
pub(crate) struct Waiter<C> {
    pub(crate) client: C,
    pub(crate) head: Head,
    pub(crate) question: Box<[u8]>,
    pub(crate) aliases: Aliases,
}

impl<C> Waiter<C> {
    pub(crate) fn query(&self) -> Query<'_> {
        Query { head: self.head, question: &self.question }
    }
}

/// The attempt that is on the way.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) serial: u32,
    pub(crate) dns_id: u16,
    pub(crate) server: SocketAddr,
    pub(crate) transport: Transport,
}

/// One question to the upstreams with everybody who waits for it.
pub(crate) struct Flight<C> {
    pub(crate) key: Arc<[u8]>,
    pub(crate) name: Box<[u8]>,
    pub(crate) qtype: u16,
    pub(crate) bits: AskBits,
    pub(crate) waiters: Vec<Waiter<C>>,
    pub(crate) started: Instant,
    /// When the waiters get the stale answer, if there is one.
    pub(crate) stale_at: Option<Instant>,
    /// The server of every attempt so far.
    pub(crate) asked: Vec<SocketAddr>,
    /// Whether an attempt went unanswered: only then is another one to the same server of use.
    pub(crate) silence: bool,
    pub(crate) attempt: Option<Attempt>,
    /// The last reply that was an error.
    pub(crate) error: Option<Stored>,
}

impl<C> Flight<C> {
    pub(crate) fn deadline(&self) -> Instant {
        self.started + TOTAL
    }
}

/// The questions in flight, found by slot and by key.
pub(crate) struct Flights<C> {
    slots: Vec<Option<Flight<C>>>,
    by_key: HashMap<Arc<[u8]>, usize>,
    capacity: usize,
}

impl<C> Flights<C> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: Vec::new(), by_key: HashMap::new(), capacity }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    pub(crate) fn by_key(&mut self, key: &[u8]) -> Option<&mut Flight<C>> {
        let slot = *self.by_key.get(key)?;
        self.slots[slot].as_mut()
    }

    pub(crate) fn get(&mut self, slot: usize) -> Option<&mut Flight<C>> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(crate) fn insert(&mut self, flight: Flight<C>) -> usize {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.by_key.insert(flight.key.clone(), slot);
        self.slots[slot] = Some(flight);
        slot
    }

    pub(crate) fn remove(&mut self, slot: usize) -> Option<Flight<C>> {
        let flight = self.slots.get_mut(slot)?.take()?;
        self.by_key.remove(&flight.key);
        Some(flight)
    }

    /// The next moment at which a stale answer is due.
    pub(crate) fn next_stale(&self) -> Option<Instant> {
        if self.by_key.is_empty() {
            return None;
        }
        self.slots.iter().flatten().filter_map(|flight| flight.stale_at).min()
    }

    pub(crate) fn due(&mut self, now: Instant) -> impl Iterator<Item = &mut Flight<C>> {
        self.slots.iter_mut().flatten().filter(move |flight| flight.stale_at.is_some_and(|at| at <= now))
    }
}
