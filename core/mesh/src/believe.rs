//! Which listings of a kind are believed when they leave objects out.
//!
//! A server that lost its store, was replaced by another one, or has just restarted behind its cache answers with
//! lists that look complete. What such a listing has is taken over at once; what it leaves out is *held*: it goes on
//! being served until a later listing gives proof, or time does.
//!
//! A listing that leaves objects out is believed when it *shares* an object with what was known: one with the same key
//! and the same uid. It is doubted
//! * as *empty* when it has no object at all,
//! * as *foreign* when it shares none: another server, or one that was set up anew,
//! * as *shrunk* when the server is a cache (KubeEdge's metaServer) and more than half of at least
//!   [`SHRUNK_MIN`] objects are missing: it fills its cache object by object after a restart.
//!
//! Each object is held for itself. It is gone
//! * when a listing at least a hold after the first that left it out leaves it out too, or
//! * when others that were held with it come again with the same uid: then the server is the old one, and what it
//!   leaves out is gone. A cache may be filling still, so what it leaves out is held as shrunk from then on.
//!
//! While objects are held because of an empty or foreign listing, what such a server brought and leaves out again is
//! held as well. Single deletes are always believed: an empty or foreign server does not know what to delete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edgemesh_api::{Kind, Object, ObjectKey};

/// How long losses of an empty or foreign listing are held: a restore from a backup, or the start of a cluster's
/// controllers, is over by then.
pub const HOLD: Duration = Duration::from_secs(600);

/// How long losses of a shrunk listing are held: edgecore fills its cache within seconds of its start.
pub const HOLD_SHRUNK: Duration = Duration::from_secs(30);

/// Fewer objects than this are deleted at once by hand now and then.
const SHRUNK_MIN: usize = 8;

/// Why a listing is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It has nothing.
    Empty,
    /// It shares no object with what was known.
    Foreign,
    /// A cache has less than half.
    Shrunk,
}

impl Doubt {
    /// The word for status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Foreign => "foreign",
            Self::Shrunk => "shrunk",
        }
    }

    fn hold(self) -> Duration {
        match self {
            Self::Empty | Self::Foreign => HOLD,
            Self::Shrunk => HOLD_SHRUNK,
        }
    }
}

/// A listing of one kind that is under way.
#[derive(Debug, Default)]
pub(crate) struct KindListing {
    seen: BTreeSet<ObjectKey>,
    /// Objects that were known before.
    known: usize,
    /// One of them came again as the same object.
    shared: bool,
}

/// Why and since when an object is served though its kind's listing left it out.
#[derive(Clone, Copy, Debug)]
struct Hold {
    doubt: Doubt,
    /// `None` without a clock: the next listing of the same kind decides.
    since: Option<Instant>,
}

impl Hold {
    fn is_over(self, now: Option<Instant>) -> bool {
        self.since.zip(now).is_none_or(|(since, now)| now >= since + self.doubt.hold())
    }
}

/// Objects of one kind that are held.
#[derive(Debug)]
struct Held {
    /// Why the last listing was doubted.
    doubt: Doubt,
    keys: BTreeMap<ObjectKey, Hold>,
    /// One of them came again as the same object: the server is the old one.
    came: bool,
}

/// The listings under way and what is held, kind by kind.
#[derive(Debug, Default)]
pub(crate) struct Beliefs {
    /// The source is a cache.
    cached: bool,
    listings: BTreeMap<Kind, KindListing>,
    held: BTreeMap<Kind, Held>,
}

/// What the end of a listing means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No listing of the kind was under way.
    None,
    /// These objects are gone.
    Gone(Vec<ObjectKey>),
    /// The listing leaves out objects that are held; these others are gone.
    Doubted(Doubt, Vec<ObjectKey>),
}

impl Beliefs {
    pub(crate) fn new(cached: bool) -> Self {
        Self { cached, ..Self::default() }
    }

    pub(crate) fn reset(&mut self, kind: Kind, known: usize) {
        self.listings.insert(kind, KindListing { known, ..KindListing::default() });
    }

    /// An object comes, in a listing or as a change; whether it was held. `known` is its form so far.
    pub(crate) fn note(&mut self, object: &Object, known: Option<&Object>) -> bool {
        let (kind, key) = (object.kind(), object.key());
        let (new, old) = (object.metadata().uid, known.map(|known| known.metadata().uid));
        // Objects from files have no uid; the key is all there is.
        let same = old.is_some_and(|old| old == new || old.is_none() || new.is_none());
        let mut was_held = false;
        if let Some(held) = self.held.get_mut(&kind) {
            was_held = held.keys.remove(&key).is_some();
            held.came |= was_held && same;
        }
        if let Some(listing) = self.listings.get_mut(&kind) {
            listing.shared |= same;
            listing.seen.insert(key);
        }
        was_held
    }

    /// An object is there and cannot be used.
    pub(crate) fn keep(&mut self, kind: Kind, key: ObjectKey) {
        if let Some(listing) = self.listings.get_mut(&kind) {
            listing.seen.insert(key);
        }
    }

    pub(crate) fn deleted(&mut self, kind: Kind, key: &ObjectKey) {
        if let Some(listing) = self.listings.get_mut(&kind) {
            listing.seen.remove(key);
        }
        if let Some(held) = self.held.get_mut(&kind) {
            held.keys.remove(key);
        }
    }

    /// The listing of a kind is complete; `present` are the keys that are known now.
    pub(crate) fn judge<'a>(
        &mut self,
        kind: Kind,
        present: impl Iterator<Item = &'a ObjectKey>,
        now: Option<Instant>,
    ) -> Verdict {
        let Some(listing) = self.listings.remove(&kind) else { return Verdict::None };
        let missing: Vec<ObjectKey> = present.filter(|key| !listing.seen.contains(*key)).cloned().collect();
        let count = missing.len();
        let (before, came) =
            self.held.remove(&kind).map_or_else(Default::default, |held| (held.keys, held.came));
        // What a watch told does not make an empty or foreign listing the old server's.
        let came = came && listing.shared;
        let (mut keys, mut gone, mut fresh) = (BTreeMap::new(), Vec::new(), Vec::new());
        for key in missing {
            match before.get(&key) {
                None => fresh.push(key),
                Some(hold) if hold.is_over(now) => gone.push(key),
                Some(hold) if !came || hold.doubt == Doubt::Shrunk => {
                    keys.insert(key, *hold);
                }
                Some(_) if self.cached => {
                    keys.insert(key, Hold { doubt: Doubt::Shrunk, since: now });
                }
                Some(_) => gone.push(key),
            }
        }
        let unproved = keys.values().map(|hold| hold.doubt).find(|doubt| *doubt != Doubt::Shrunk);
        match self.doubt(&listing, count, unproved).filter(|_| !fresh.is_empty()) {
            Some(doubt) => keys.extend(fresh.into_iter().map(|key| (key, Hold { doubt, since: now }))),
            None => gone.append(&mut fresh),
        }
        let Some(doubt) = unproved.or_else(|| keys.values().map(|hold| hold.doubt).next()) else {
            return Verdict::Gone(gone);
        };
        self.held.insert(kind, Held { doubt, keys, came: false });
        Verdict::Doubted(doubt, gone)
    }

    /// Whether a listing is doubted that leaves out what was not held before. `unproved` is why others are still held.
    fn doubt(&self, listing: &KindListing, missing: usize, unproved: Option<Doubt>) -> Option<Doubt> {
        if listing.seen.is_empty() {
            return Some(Doubt::Empty);
        }
        // What a foreign listing brought is no proof for the next one.
        if unproved.is_some() {
            return unproved;
        }
        if !listing.shared {
            return Some(Doubt::Foreign);
        }
        let shrunk = self.cached && listing.known >= SHRUNK_MIN && missing * 2 > listing.known;
        shrunk.then_some(Doubt::Shrunk)
    }

    /// Keys of a kind that are held.
    pub(crate) fn is_held(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.held.get(&kind).is_some_and(|held| held.keys.contains_key(key))
    }

    /// Kinds with held objects: why, and their keys.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Kind, Doubt, impl Iterator<Item = &ObjectKey>)> {
        self.held.iter().map(|(kind, held)| (*kind, held.doubt, held.keys.keys()))
    }
}
