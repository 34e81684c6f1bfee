use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::settings::ResolverSettings;
use crate::stored::Stored;

/// What an entry takes besides its message and its key: the entry itself, its slots in the table and in the queue.
const ENTRY_OVERHEAD: usize = 160;
/// A larger answer is not kept: a few of them would push out everything else.
const LARGEST: usize = 8 * 1024;

/// Stale answers older than this mislead more than they help (RFC 8767 section 5), whatever the settings say.
const LONGEST_STALE: Duration = Duration::from_secs(7 * 86_400);
/// Longest time an answer is fresh, whatever the settings say: the cap of RFC 8767 section 4.
const LONGEST_FRESH: Duration = Duration::from_secs(7 * 86_400);

/// One kept answer.
pub(crate) struct Entry {
    pub(crate) stored: Stored,
    pub(crate) at: Instant,
    fresh_until: Instant,
    stale_until: Instant,
    /// Read since the hand of the clock last passed.
    read: bool,
}

/// What the cache has for a question.
pub(crate) enum Lookup<'c> {
    Fresh(&'c Entry),
    Stale,
    Nothing,
}

/// Answers of upstreams, bounded in number and octets; the one that has not been read for a round goes first
/// (second chance, an approximation of least recently used that costs a hit one store).
pub(crate) struct Cache {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Every key of `entries` exactly once.
    queue: VecDeque<Arc<[u8]>>,
    octets: usize,
    max_entries: usize,
    max_octets: usize,
    max_ttl: Duration,
    max_negative_ttl: Duration,
    max_stale: Duration,
}

impl Cache {
    pub(crate) fn new(settings: &ResolverSettings) -> Self {
        Self {
            entries: HashMap::new(),
            queue: VecDeque::new(),
            octets: 0,
            max_entries: settings.cache_entries,
            max_octets: settings.cache_bytes,
            max_ttl: settings.max_ttl.min(LONGEST_FRESH),
            max_negative_ttl: settings.max_negative_ttl.min(LONGEST_FRESH),
            max_stale: settings.max_stale.min(LONGEST_STALE),
        }
    }

    pub(crate) fn get(&mut self, key: &[u8], now: Instant) -> Lookup<'_> {
        match self.entries.get_mut(key) {
            Some(entry) if now < entry.stale_until => {
                entry.read = true;
                if now < entry.fresh_until { Lookup::Fresh(entry) } else { Lookup::Stale }
            }
            _ => Lookup::Nothing,
        }
    }

    /// The answer past its TTL, if it may still be served.
    pub(crate) fn stale(&self, key: &[u8], now: Instant) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| now < entry.stale_until)
    }

    /// Keeps an answer of an upstream for as long as it says, within our caps.
    pub(crate) fn insert(&mut self, key: &Arc<[u8]>, stored: Stored, now: Instant) {
        let Some(lifetime) = stored.lifetime else { return };
        let cap = if stored.negative { self.max_negative_ttl } else { self.max_ttl };
        let fresh_until = now + lifetime.min(cap);
        let stale_until = fresh_until + self.max_stale;
        self.put(key, Entry { stored, at: now, fresh_until, stale_until, read: false });
    }

    /// Keeps a failure for its lifetime and not beyond; never in the place of an answer that may yet be served, and
    /// never in the second half of the room: a day without upstreams must not push the answers out.
    pub(crate) fn insert_failure(&mut self, key: &Arc<[u8]>, stored: Stored, now: Instant) {
        let (Some(lifetime), None) = (stored.lifetime, self.stale(key, now)) else { return };
        if self.entries.len() >= self.max_entries / 2 || self.octets >= self.max_octets / 2 {
            return;
        }
        let until = now + lifetime;
        self.put(key, Entry { stored, at: now, fresh_until: until, stale_until: until, read: false });
    }

    fn put(&mut self, key: &Arc<[u8]>, entry: Entry) {
        let cost = cost_of(key, &entry);
        if cost > LARGEST.min(self.max_octets) || self.max_entries == 0 {
            return;
        }
        match self.entries.insert(key.clone(), entry) {
            Some(old) => self.octets -= cost_of(key, &old),
            None => self.queue.push_back(key.clone()),
        }
        self.octets += cost;
        while self.entries.len() > self.max_entries || self.octets > self.max_octets {
            self.evict();
        }
    }

    fn evict(&mut self) {
        while let Some(key) = self.queue.pop_front() {
            if let Some(entry) = self.entries.get_mut(&key)
                && entry.read
            {
                entry.read = false;
                self.queue.push_back(key);
                continue;
            }
            if let Some(entry) = self.entries.remove(&key) {
                self.octets -= cost_of(&key, &entry);
            }
            return;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn octets(&self) -> usize {
        self.octets
    }
}

fn cost_of(key: &[u8], entry: &Entry) -> usize {
    key.len() + entry.stored.octets() + ENTRY_OVERHEAD
}
