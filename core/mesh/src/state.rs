use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use edgemesh_api::{Kind, Name, Object, ObjectKey, SourceEvent};

use crate::assembly::Assembly;
use crate::believe::{Beliefs, Doubt, Verdict};
use crate::objects::Objects;
use crate::policy::policies;
use crate::{Generation, MeshOptions, MeshSnapshot, Provenance, ServiceId};

/// What an event did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that a snapshot shows.
    Unchanged,
    /// The next snapshot differs.
    Changed,
    /// A listing ended that is not believed; what it left out is kept until a later one confirms it, and gives way to
    /// what it brought.
    ListingDoubted,
}

impl Applied {
    /// Whether a compile is due.
    pub fn is_change(self) -> bool {
        self != Self::Unchanged
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
///
/// Sources that list kind by kind (`ResetKind … SyncedKind`) are judged by [`Doubt`]'s rule, kind by kind, with the time
/// that [`MeshState::handle_time`] tells.
#[derive(Debug)]
pub struct MeshState {
    node: Name,
    options: MeshOptions,
    provenance: Option<Arc<Provenance>>,
    now: Option<Instant>,
    objects: Objects,
    listing: Option<Listing>,
    doubted: bool,
    beliefs: Beliefs,
    synced: bool,
    synced_kinds: BTreeSet<Kind>,
    generation: Generation,
    assembly: Assembly,
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
        Self::with_options(node, MeshOptions::default())
    }

    /// The state of nothing, with options.
    pub fn with_options(node: Name, options: MeshOptions) -> Self {
        Self {
            node,
            objects: Objects::new(options.cached_source),
            beliefs: Beliefs::new(options.cached_source),
            options,
            provenance: None,
            now: None,
            listing: None,
            doubted: false,
            synced: false,
            synced_kinds: BTreeSet::new(),
            generation: Generation(0),
            assembly: Assembly::default(),
        }
    }

    /// Takes in the journal's events. Snapshots stay stale until a source completes a listing.
    pub fn restore(&mut self, events: impl IntoIterator<Item = SourceEvent>) {
        let (synced, empty) = (self.synced, self.objects.is_empty());
        if empty {
            self.objects.touch_all();
        }
        for event in events {
            match event {
                // Nothing is known that the listing could leave out, so what it has need not be remembered.
                SourceEvent::Reset | SourceEvent::Synced if empty => {}
                SourceEvent::Upsert(object) if empty => drop(self.objects.upsert(object)),
                other => drop(self.apply(other)),
            }
        }
        self.synced = synced;
        self.doubted = false;
    }

    /// Tells where the objects come from; snapshots carry it.
    pub fn set_provenance(&mut self, provenance: Arc<Provenance>) {
        self.provenance = Some(provenance);
    }

    /// Tells the time; events that follow happen then.
    pub fn handle_time(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// Changes which Services the mesh intercepts; whether that changes anything.
    pub fn set_options(&mut self, options: MeshOptions) -> bool {
        let changed = self.options != options;
        self.options = options;
        if changed {
            self.objects.touch_all();
        }
        changed
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
                // What was held and comes again no longer gives way to others.
                let was_held = self.beliefs.note(&object, self.objects.get(object.kind(), &object.key()));
                Applied::from_change(self.objects.upsert(object) || was_held)
            }
            SourceEvent::Delete(kind, key) => {
                let known = self.objects.remove(kind, &key);
                self.beliefs.deleted(kind, &key);
                if let Some(listing) = &mut self.listing {
                    listing.seen.remove(&(kind, key));
                }
                Applied::from_change(known)
            }
            SourceEvent::Synced => {
                self.listing.take().map_or(Applied::Unchanged, |listing| self.finish(listing))
            }
            SourceEvent::ResetKind(kind) => {
                self.beliefs.reset(kind, self.objects.count(kind));
                Applied::Unchanged
            }
            SourceEvent::Keep(kind, key) => {
                self.beliefs.keep(kind, key);
                Applied::Unchanged
            }
            SourceEvent::SyncedKind(kind) => self.finish_kind(kind),
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
            self.beliefs.deleted(*kind, key);
        }
        let was_stale = !std::mem::replace(&mut self.synced, true);
        Applied::from_change(was_stale || !gone.is_empty())
    }

    fn finish_kind(&mut self, kind: Kind) -> Applied {
        let (gone, doubted) = match self.beliefs.judge(kind, self.objects.keys_of(kind), self.now) {
            Verdict::None => return Applied::Unchanged,
            Verdict::Doubted(_, gone) => (gone, true),
            Verdict::Gone(gone) => (gone, false),
        };
        for key in &gone {
            self.objects.remove(kind, key);
        }
        if doubted {
            return Applied::ListingDoubted;
        }
        if kind == Kind::EndpointSlice {
            self.objects.slices_are_listed();
        }
        self.synced_kinds.insert(kind);
        let synced =
            [Kind::EndpointSlice, Kind::Endpoints].iter().any(|kind| self.synced_kinds.contains(kind))
                && self.synced_kinds.contains(&Kind::Service);
        let was_stale = synced && !std::mem::replace(&mut self.synced, true);
        Applied::from_change(was_stale || !gone.is_empty())
    }

    /// Objects that are served though the last listing of their kind left them out: the kind, why, and how many. Endpoints
    /// are not among them where slices serve in their place.
    pub fn held(&self) -> impl Iterator<Item = (Kind, Doubt, usize)> {
        let serves =
            |kind, key: &ObjectKey| kind != Kind::Endpoints || self.objects.slices(key).next().is_none();
        let held = self.beliefs.held();
        let counts =
            held.map(move |(kind, doubt, keys)| (kind, doubt, keys.filter(|key| serves(kind, key)).count()));
        counts.filter(|(_, _, count)| *count > 0)
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
        let touched = self.objects.take_touched();
        let mut findings = Vec::new();
        let policies = policies(&self.objects, &mut findings);
        let held = |id: &ServiceId| self.beliefs.is_held(Kind::Service, id);
        self.assembly.update(&self.node, &self.objects, &self.options, touched, policies, &held);
        let mut snapshot = self.assembly.snapshot(&self.node, &self.objects, findings);
        snapshot.generation = self.generation;
        snapshot.stale = self.is_stale();
        snapshot.provenance.clone_from(&self.provenance);
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
