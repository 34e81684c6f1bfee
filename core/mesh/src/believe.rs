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
//! The losses of a doubted listing become final when a listing at least a hold later leaves them out too, or when one
//! comes that has some of them again, with the same uid: then the server is the old one, and what it leaves out is gone.
//! Single deletions are always believed: an empty or foreign server does not know what to delete.

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

/// Objects that are served though the last listing of their kind left them out.
#[derive(Debug)]
struct Held {
    doubt: Doubt,
    /// `None` without a clock: the next listing of the same kind decides.
    since: Option<Instant>,
    keys: BTreeSet<ObjectKey>,
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
    /// Nothing is deleted.
    Doubted(Doubt),
}

impl Beliefs {
    pub(crate) fn new(cached: bool) -> Self {
        Self { cached, ..Self::default() }
    }

    pub(crate) fn reset(&mut self, kind: Kind, known: usize) {
        self.listings.insert(kind, KindListing { known, ..KindListing::default() });
    }

    /// An object comes, in a listing or as a change. `known` is its form so far.
    pub(crate) fn note(&mut self, object: &Object, known: Option<&Object>) {
        let (kind, key) = (object.kind(), object.key());
        let (new, old) = (object.metadata().uid, known.map(|known| known.metadata().uid));
        // Objects from files have no uid; the key is all there is.
        let same = old.is_some_and(|old| old == new || old.is_none() || new.is_none());
        if let Some(held) = self.held.get_mut(&kind) {
            held.came |= held.keys.remove(&key) && same;
        }
        if let Some(listing) = self.listings.get_mut(&kind) {
            listing.shared |= same;
            listing.seen.insert(key);
        }
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
        let Some(doubt) = self.doubt(kind, &listing, missing.len()) else {
            self.held.remove(&kind);
            return Verdict::Gone(missing);
        };
        let over = |held: &Held| match held.since.zip(now) {
            Some((since, now)) => now >= since + held.doubt.hold(),
            None => true,
        };
        let since = match self.held.get(&kind) {
            Some(held) if over(held) => {
                self.held.remove(&kind);
                return Verdict::Gone(missing);
            }
            Some(held) => held.since,
            None => now,
        };
        self.held.insert(kind, Held { doubt, since, keys: missing.into_iter().collect(), came: false });
        Verdict::Doubted(doubt)
    }

    fn doubt(&self, kind: Kind, listing: &KindListing, missing: usize) -> Option<Doubt> {
        if missing == 0 {
            return None;
        }
        if listing.seen.is_empty() {
            return Some(Doubt::Empty);
        }
        match self.held.get(&kind) {
            // What a foreign listing brought is no proof for the next one; what it left out is.
            Some(held) if held.doubt != Doubt::Shrunk && !held.came => return Some(held.doubt),
            Some(_) => {}
            None if !listing.shared => return Some(Doubt::Foreign),
            None => {}
        }
        let shrunk = self.cached && listing.known >= SHRUNK_MIN && missing * 2 > listing.known;
        shrunk.then_some(Doubt::Shrunk)
    }

    /// Keys of a kind that are held.
    pub(crate) fn is_held(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.held.get(&kind).is_some_and(|held| held.keys.contains(key))
    }

    /// Kinds with held objects: why, and how many.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Kind, Doubt, usize)> {
        let held = self.held.iter().filter(|(_, held)| !held.keys.is_empty());
        held.map(|(kind, held)| (*kind, held.doubt, held.keys.len()))
    }
}
