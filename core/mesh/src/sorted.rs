use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Index;
use std::slice;
use std::sync::Arc;

/// Entries of one chunk: a change copies the chunk it is in and the list of chunks. With 64, both are about as long in
/// a map of 4,096 entries, and a chunk of addresses is a few KiB.
const CHUNK: usize = 64;

/// A map in the order of its keys whose copies share what is equal.
///
/// Snapshots follow each other by the thousand and differ in a few entries each. A copy costs one reference count, a
/// change copies one chunk, and two maps are compared by skipping the chunks they share.
pub struct SortedMap<K, V> {
    /// None is empty, and none is longer than [`CHUNK`].
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> SortedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, in the order of keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), entries: [].iter() }
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Every value, in the order of keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The value of the key that `compare` finds equal; it must order keys as the map does.
    pub fn get_by(&self, mut compare: impl FnMut(&K) -> Ordering) -> Option<&V> {
        // The last chunk that does not begin after the key.
        let after = self.chunks.partition_point(|chunk| compare(&chunk[0].0) != Ordering::Greater);
        let chunk = &self.chunks[after.checked_sub(1)?];
        let at = chunk.binary_search_by(|(key, _)| compare(key)).ok()?;
        Some(&chunk[at].1)
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_by(|known| known.borrow().cmp(key))
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Index of the chunk that a key belongs into, and its place there.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let after = self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key);
        let index = after.saturating_sub(1);
        let at = self
            .chunks
            .get(index)
            .map_or(Err(0), |chunk| chunk.binary_search_by(|(known, _)| known.borrow().cmp(key)));
        (index, at)
    }

    /// Keys of entries that the two maps do not share, in order and without repetition. A key may have equal values in
    /// both: entries are compared by the chunks they are in, and those by identity.
    pub fn unshared<'a>(&'a self, other: &'a Self) -> Vec<&'a K> {
        let (mut own, mut others) = (self.chunks.as_slice(), other.chunks.as_slice());
        let mut keys = Vec::new();
        while let (Some((first, rest)), Some((second, remaining))) = (own.split_first(), others.split_first())
        {
            if Arc::ptr_eq(first, second) {
                (own, others) = (rest, remaining);
            } else if first[0].0 <= second[0].0 {
                keys.extend(first.iter().map(|(key, _)| key));
                own = rest;
            } else {
                keys.extend(second.iter().map(|(key, _)| key));
                others = remaining;
            }
        }
        keys.extend(own.iter().chain(others).flat_map(|chunk| chunk.iter()).map(|(key, _)| key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl<K: Ord + Clone, V: Clone> SortedMap<K, V> {
    /// Sets the value of a key; gives back the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (index, at) = self.place(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let end = index + 1 == chunks.len();
        let Some(chunk) = chunks.get_mut(index) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let at = match at {
            Ok(at) => return Some(std::mem::replace(&mut Arc::make_mut(chunk)[at].1, value)),
            Err(at) => at,
        };
        self.len += 1;
        if chunk.len() < CHUNK {
            Arc::make_mut(chunk).insert(at, (key, value));
            return None;
        }
        // What comes in order, as most does, leaves full chunks behind.
        if end && at == CHUNK {
            chunks.push(Arc::new(vec![(key, value)]));
            return None;
        }
        let half = CHUNK / 2;
        let mut upper = chunk[half..].to_vec();
        let lower = Arc::make_mut(chunk);
        lower.truncate(half);
        match at.checked_sub(half) {
            Some(at) => upper.insert(at, (key, value)),
            None => lower.insert(at, (key, value)),
        }
        chunks.insert(index + 1, Arc::new(upper));
        None
    }

    /// Removes a key; gives back its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (index, Ok(at)) = self.place(key) else { return None };
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(index)?);
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        let left = chunk.len();
        if left == 0 {
            chunks.remove(index);
        } else if let Some(next) = chunks.get(index + 1).filter(|next| left + next.len() <= CHUNK / 2) {
            // Otherwise a map that shrinks would keep its number of chunks.
            let next = next.clone();
            chunks.remove(index + 1);
            Arc::make_mut(&mut chunks[index]).extend_from_slice(&next);
        }
        Some(value)
    }
}

impl<K, V> Clone for SortedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SortedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for SortedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SortedMap<K, V> {
    type Output = V;

    /// # Panics
    /// When there is no such key.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("a key of the map")
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// The entries of a [`SortedMap`].
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Chunk<K, V>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.iter();
        }
    }
}
