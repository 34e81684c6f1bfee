use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of bounded size that forgets the entry used longest ago when it is full.
#[derive(Debug)]
pub struct Recent<K, V> {
    capacity: usize,
    uses: u64,
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// An empty map for at most `capacity` entries, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), uses: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value, left at its place in the order.
    pub fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The value, now the one used last.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (used, value) = self.entries.get_mut(key)?;
        if let Some(key) = self.order.remove(used) {
            self.uses += 1;
            *used = self.uses;
            self.order.insert(self.uses, key);
        }
        Some(value)
    }

    /// Adds or replaces an entry, now the one used last, and returns the one that had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        if let Some(present) = self.get(&key) {
            *present = value;
            return None;
        }
        let evicted = if self.entries.len() >= self.capacity { self.pop_oldest() } else { None };
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        self.entries.insert(key, (self.uses, value));
        evicted
    }

    /// Takes an entry out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (used, value) = self.entries.remove(key)?;
        self.order.remove(&used);
        Some(value)
    }

    /// The entry used longest ago.
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let (_, key) = self.order.first_key_value()?;
        Some((key, self.peek(key)?))
    }

    /// The key of the entry used longest ago among those that are wanted. Walks the map.
    pub fn oldest_where(&self, wanted: impl Fn(&V) -> bool) -> Option<&K> {
        self.order.values().find(|key| self.peek(*key).is_some_and(&wanted))
    }

    /// Takes out the entry used longest ago.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }
}
