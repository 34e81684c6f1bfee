use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edgemesh_api::{Kind, Name, Object, ObjectKey, SourceEvent};

use crate::compile::{self, Compiled};
use crate::objects::Objects;
use crate::policy::policies;
use crate::{Generation, MeshSnapshot, ServiceId};

/// What an event did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that a snapshot shows.
    Unchanged,
    /// The next snapshot differs.
    Changed,
    /// A listing ended that would have emptied the mesh; what it left out is kept until a second one confirms it.
    ListingDoubted,
}

impl Applied {
    /// Whether a compile is due.
    pub fn is_change(self) -> bool {
        self == Self::Changed
    }

    fn from_change(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

/// Folds source events into objects, and objects into snapshots.
///
/// # A listing never empties a working mesh
/// Objects that a listing leaves out are deleted when it is complete (`Synced`), never earlier; a listing that breaks
/// off and begins again deletes nothing. A complete listing is *doubted* when it has
/// * no Service although Services are known, or
/// * no EndpointSlice, no Endpoints and no Pod although some of them are known,
///
/// because a source that lost its store, its permissions or its upstream looks exactly so (kubeedge/kubeedge#4086,
/// #6641). What a doubted listing has is taken over, what it leaves out is kept; the next complete listing that is
/// doubtful too confirms it and deletes. Single `Delete` events are always believed.
#[derive(Debug)]
pub struct MeshState {
    node: Name,
    objects: Objects,
    listing: Option<Listing>,
    doubted: bool,
    synced: bool,
    generation: Generation,
    compiled: BTreeMap<ServiceId, Compiled>,
}

/// A listing under way.
#[derive(Debug, Default)]
struct Listing {
    seen: BTreeSet<(Kind, ObjectKey)>,
    services: bool,
    endpoints: bool,
}

impl MeshState {
    /// The state of nothing, on a node of this name.
    pub fn new(node: Name) -> Self {
        Self {
            node,
            objects: Objects::default(),
            listing: None,
            doubted: false,
            synced: false,
            generation: Generation(0),
            compiled: BTreeMap::new(),
        }
    }

    /// Takes in the journal's events. Snapshots stay stale until a source completes a listing.
    pub fn restore(&mut self, events: impl IntoIterator<Item = SourceEvent>) {
        let synced = self.synced;
        for event in events {
            self.apply(event);
        }
        self.synced = synced;
        self.doubted = false;
    }

    /// Takes in one event of the source.
    pub fn apply(&mut self, event: SourceEvent) -> Applied {
        match event {
            SourceEvent::Reset => {
                self.listing = Some(Listing::default());
                Applied::Unchanged
            }
            SourceEvent::Upsert(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.note(&object);
                }
                Applied::from_change(self.objects.upsert(object))
            }
            SourceEvent::Delete(kind, key) => {
                let known = self.objects.remove(kind, &key);
                if let Some(listing) = &mut self.listing {
                    listing.seen.remove(&(kind, key));
                }
                Applied::from_change(known)
            }
            SourceEvent::Synced => {
                self.listing.take().map_or(Applied::Unchanged, |listing| self.finish(listing))
            }
        }
    }

    fn finish(&mut self, listing: Listing) -> Applied {
        if self.is_doubtful(&listing) && !self.doubted {
            self.doubted = true;
            return Applied::ListingDoubted;
        }
        self.doubted = false;
        let gone: Vec<_> = self.objects.keys().filter(|(kind, key)| !listing.saw(*kind, key)).collect();
        let gone: Vec<_> = gone.into_iter().map(|(kind, key)| (kind, key.clone())).collect();
        for (kind, key) in &gone {
            self.objects.remove(*kind, key);
        }
        let was_stale = !std::mem::replace(&mut self.synced, true);
        Applied::from_change(was_stale || !gone.is_empty())
    }

    fn is_doubtful(&self, listing: &Listing) -> bool {
        let known = |kind| self.objects.count(kind) > 0;
        (!listing.services && known(Kind::Service))
            || (!listing.endpoints
                && [Kind::EndpointSlice, Kind::Endpoints, Kind::Pod].into_iter().any(known))
    }

    /// Compiles what is known into the next snapshot. Equal states give equal snapshots but for the generation.
    pub fn compile(&mut self) -> MeshSnapshot {
        self.generation = Generation(self.generation.0 + 1);
        let dirty = self.objects.take_dirty();
        let mut findings = Vec::new();
        let policies = policies(&self.objects, &mut findings);
        compile::services(&self.objects, dirty, &policies, &mut self.compiled);
        let mut snapshot = compile::assemble(&self.node, &self.objects, &self.compiled, findings);
        snapshot.generation = self.generation;
        snapshot.stale = self.is_stale();
        snapshot
    }

    /// Whether no source has completed a believable listing yet.
    pub fn is_stale(&self) -> bool {
        !self.synced
    }

    /// Every object that is known, in a fixed order: what the journal keeps.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.all()
    }
}

impl Listing {
    fn note(&mut self, object: &Object) {
        self.services |= object.kind() == Kind::Service;
        self.endpoints |= matches!(object.kind(), Kind::EndpointSlice | Kind::Endpoints | Kind::Pod);
        self.seen.insert((object.kind(), object.key()));
    }

    fn saw(&self, kind: Kind, key: &ObjectKey) -> bool {
        // A tuple of references cannot look up a tuple of values; the clone is two reference counts.
        self.seen.contains(&(kind, key.clone()))
    }
}
