use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::counters::Requests;
use crate::faults::Faults;
use crate::node::NodeStore;
use crate::resource::Resource;
use crate::selector::Selector;
use crate::stamp::{self, Uids};

/// Listings that can be paged through at once; a client has one or two under way. The oldest expires first.
const PAGED_LISTINGS: usize = 64;

/// An object as it was at one version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) labels: BTreeMap<String, String>,
    /// `spec.nodeName`, which is empty where there is none.
    pub(crate) node: String,
    /// `type`, which is empty where there is none.
    pub(crate) type_: String,
    /// Its JSON without `{"apiVersion":…,"kind":…,`: those depend on the version that is asked for.
    pub(crate) tail: Bytes,
}

impl Stored {
    pub(crate) fn value(&self) -> Map<String, Value> {
        let text = [b"{", &*self.tail].concat();
        serde_json::from_slice(&text).expect("the store wrote it")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One write.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) object: Arc<Stored>,
    pub(crate) previous: Option<Arc<Stored>>,
}

impl Change {
    /// What a watcher sees of it: an object that begins or ceases to be picked is added or deleted for this watcher.
    pub(crate) fn seen_by(&self, selector: &Selector) -> Option<ChangeKind> {
        let before = self.previous.as_ref().is_some_and(|object| selector.picks(object));
        let after = self.kind != ChangeKind::Deleted && selector.picks(&self.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(ChangeKind::Added),
            (true, true) => Some(ChangeKind::Modified),
            (true, false) => Some(ChangeKind::Deleted),
        }
    }
}

/// What reaches an established watch.
#[derive(Debug)]
pub(crate) enum Signal {
    Change(Arc<Change>),
    /// It shall be told that its version is too old.
    Expired,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what there is, as added objects.
    State,
    /// With what comes.
    Now,
    /// After a version.
    After(u64),
}

pub(crate) struct Subscription {
    pub(crate) objects: Vec<Arc<Stored>>,
    pub(crate) missed: Vec<Arc<Change>>,
    pub(crate) version: u64,
    pub(crate) queue: mpsc::Receiver<Signal>,
}

/// A version that is not kept any more; the oldest that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld(pub(crate) u64);

/// The objects of a listing that is read page by page.
pub(crate) struct Listing {
    pub(crate) version: u64,
    pub(crate) objects: Arc<[Arc<Stored>]>,
}

/// Why a write was refused.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is no object of a resource that is served.
    #[error("an object of apiVersion {api_version:?} and kind {kind:?} is not served (add it to the table)")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A field has the wrong form.
    #[error("{field} is missing or has the wrong type (give {expected})")]
    Malformed {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// There is one of this name.
    #[error("{resource} {name:?} already exists")]
    Exists {
        /// Where.
        resource: Resource,
        /// Which.
        name: String,
    },
    /// There is none of this name.
    #[error("{resource} {name:?} not found")]
    Absent {
        /// Where.
        resource: Resource,
        /// Which.
        name: String,
    },
    /// The writer saw another version.
    #[error("operation cannot be fulfilled on {resource} {name:?}: the object has been modified")]
    Conflict {
        /// Where.
        resource: Resource,
        /// Which.
        name: String,
    },
}

impl WriteError {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::UnknownKind { .. } => "unknown_kind",
            Self::Malformed { .. } => "malformed",
            Self::Exists { .. } => "exists",
            Self::Absent { .. } => "absent",
            Self::Conflict { .. } => "conflict",
        }
    }
}

/// The objects, their history, and who watches.
///
/// One version counts for all resources, as in etcd. Every write is stamped, serialised once, and told to every watch
/// of its resource before it returns.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    bounds: Bounds,
    requests: Requests,
    faults: Faults,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Changes kept per resource.
    pub(crate) history: usize,
    /// Changes that wait for one watch.
    pub(crate) queue: usize,
}

#[derive(Debug)]
struct State {
    version: u64,
    uids: Uids,
    shelves: Vec<Shelf>,
    node: NodeStore,
    paged: VecDeque<(u64, Listed)>,
    listings: u64,
}

#[derive(Debug)]
struct Listed {
    version: u64,
    objects: Arc<[Arc<Stored>]>,
}

/// One resource.
#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<(String, String), Arc<Stored>>,
    history: VecDeque<Arc<Change>>,
    /// The newest version that the history does not tell any more.
    forgotten: u64,
    watches: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    queue: mpsc::Sender<Signal>,
    /// It goes through a node's metaServer.
    by_node: bool,
}

/// Whom a watch asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// The API server itself.
    Server,
    /// A node's metaServer.
    Node {
        /// What the first watch should tell and is not newer than the node's store stays untold.
        loses: bool,
    },
}

/// Whether a write may create, replace, or both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    Replace,
    Apply,
}

impl State {
    fn new() -> Self {
        Self {
            // etcd counts from one; the first write is the second revision.
            version: 1,
            uids: Uids::new(),
            shelves: Resource::all().map(|_| Shelf::default()).collect(),
            node: NodeStore::new(),
            paged: VecDeque::new(),
            listings: 0,
        }
    }
}

impl Store {
    pub(crate) fn new(bounds: Bounds, requests: Requests, faults: Faults) -> Self {
        Self { state: Arc::new(Mutex::new(State::new())), bounds, requests, faults }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no writer panics")
    }

    /// Creates an object; its resource follows from `apiVersion` and `kind`. Gives the version it was written at.
    pub fn create(&self, object: Value) -> Result<u64, WriteError> {
        self.write(object, Mode::Create, None).map(|(_, stored)| stored.version)
    }

    /// Replaces an object. One that carries another `resourceVersion` than the stored one is a conflict.
    pub fn replace(&self, object: Value) -> Result<u64, WriteError> {
        self.write(object, Mode::Replace, None).map(|(_, stored)| stored.version)
    }

    /// Creates or replaces an object, whatever version it carries. One that equals the stored one changes nothing.
    pub fn apply(&self, object: Value) -> Result<u64, WriteError> {
        self.write(object, Mode::Apply, None).map(|(_, stored)| stored.version)
    }

    pub(crate) fn put(
        &self,
        resource: Resource,
        object: Value,
        create: bool,
    ) -> Result<Arc<Stored>, WriteError> {
        let mode = if create { Mode::Create } else { Mode::Replace };
        self.write(object, mode, Some(resource)).map(|(_, stored)| stored)
    }

    fn write(
        &self,
        object: Value,
        mode: Mode,
        expected: Option<Resource>,
    ) -> Result<(Resource, Arc<Stored>), WriteError> {
        let Value::Object(mut object) = object else {
            return Err(WriteError::Malformed { field: "the object", expected: "a JSON object" });
        };
        let mut take = |key| match object.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (api_version, kind) = (take("apiVersion"), take("kind"));
        let resource = Resource::of_kind(&api_version, &kind)
            .filter(|resource| expected.is_none_or(|expected| expected == *resource))
            .ok_or(WriteError::UnknownKind { api_version, kind })?;
        let key = key_of(resource, &mut object)?;
        let mut state = self.state();
        let state = &mut *state;
        let old = state.shelves[resource.index()].objects.get(&key).cloned();
        let name = || key.1.clone();
        match (&old, mode) {
            (Some(_), Mode::Create) => return Err(WriteError::Exists { resource, name: name() }),
            (None, Mode::Replace) => return Err(WriteError::Absent { resource, name: name() }),
            (Some(old), Mode::Replace) if !agrees(&object, old) => {
                return Err(WriteError::Conflict { resource, name: name() });
            }
            _ => {}
        }
        let before = old.as_ref().map(|old| old.value());
        if !inherit(&mut object, before.as_ref(), resource, &mut state.uids)
            && let Some(old) = old
        {
            return Ok((resource, old));
        }
        state.version += 1;
        let stored = Arc::new(seal(object, key.clone(), state.version));
        state.shelves[resource.index()].objects.insert(key, stored.clone());
        let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.tell(state, resource, Change { kind, object: stored.clone(), previous: old });
        Ok((resource, stored))
    }

    /// Deletes an object; the namespace of a cluster-wide one is empty. Gives the version of the deletion.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Result<u64, WriteError> {
        let mut state = self.state();
        let state = &mut *state;
        let shelf = &mut state.shelves[resource.index()];
        let key = (namespace.to_owned(), name.to_owned());
        let Some(old) = shelf.objects.remove(&key) else {
            return Err(WriteError::Absent { resource, name: key.1 });
        };
        state.version += 1;
        let object = Arc::new(seal(old.value(), key, state.version));
        self.tell(state, resource, Change { kind: ChangeKind::Deleted, object, previous: Some(old) });
        Ok(state.version)
    }

    fn tell(&self, state: &mut State, resource: Resource, change: Change) {
        let change = Arc::new(change);
        let cloud_away = self.faults.is_cloud_away();
        let shelf = &mut state.shelves[resource.index()];
        let mut node_hears = false;
        shelf.watches.retain(|watch| {
            if watch.queue.is_closed() {
                return false;
            }
            // What a node's watch misses while the cloud is away, it is never told.
            if watch.by_node && cloud_away {
                return true;
            }
            node_hears |= watch.by_node;
            let sent = watch.queue.try_send(Signal::Change(change.clone()));
            if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                self.requests.count(resource, |counts| counts.overflows += 1);
            }
            sent.is_ok()
        });
        if node_hears {
            state.node.hear(resource, &change);
        }
        shelf.history.push_back(change);
        while shelf.history.len() > self.bounds.history {
            if let Some(change) = shelf.history.pop_front() {
                shelf.forgotten = change.object.version;
            }
        }
    }

    /// An object as a client would read it, in the preferred version of its resource.
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.find(resource, namespace, name)?.value();
        object.insert("apiVersion".to_owned(), json!(resource.api_version()));
        object.insert("kind".to_owned(), json!(resource.row().kind));
        Some(Value::Object(object))
    }

    pub(crate) fn find(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.state().shelves[resource.index()].objects.get(&key).cloned()
    }

    /// How many objects of a resource there are.
    pub fn count(&self, resource: Resource) -> usize {
        self.state().shelves[resource.index()].objects.len()
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Forgets the history: a watch from any version before the last write is answered with 410, and so is the next
    /// page of any listing. Established watches go on.
    pub fn compact(&self) {
        let mut state = self.state();
        let version = state.version;
        state.paged.clear();
        for shelf in &mut state.shelves {
            shelf.history.clear();
            shelf.forgotten = version;
        }
    }

    /// Tells every established watch of a resource that its version is too old, which ends it.
    pub fn expire_watches(&self, resource: Resource) {
        for watch in self.state().shelves[resource.index()].watches.drain(..) {
            // One whose queue is full ends anyway, as its queue is closed here.
            let _ = watch.queue.try_send(Signal::Expired);
        }
    }

    /// Begins a new life: no objects, versions from one, other uids. Every watch ends. What a node keeps for itself stays.
    pub fn restart_empty(&self) {
        let mut state = self.state();
        let node = std::mem::replace(&mut state.node, NodeStore::new());
        *state = State { node, ..State::new() };
    }

    /// Begins a watch through a node: with what its store has, deleted or not, and what the cloud has that is news to it.
    fn subscribe_node(&self, resource: Resource, loses: bool) -> Subscription {
        let mut state = self.state();
        let state = &mut *state;
        let (known, highest) = (state.node.rows(resource).clone(), state.node.version());
        let mut objects: Vec<_> = known.values().cloned().collect();
        let shelf = &mut state.shelves[resource.index()];
        if !self.faults.is_cloud_away() {
            for (key, object) in &shelf.objects {
                if known.get(key).is_some_and(|known| known.version == object.version) {
                    continue;
                }
                state.node.keep(resource, object);
                if !loses || object.version > highest + 1 {
                    objects.push(object.clone());
                }
            }
        }
        let (sender, queue) = mpsc::channel(self.bounds.queue);
        shelf.watches.push(Watcher { queue: sender, by_node: true });
        Subscription { objects, missed: Vec::new(), version: state.version, queue }
    }

    /// What a node lists while the cloud is away; nothing when it has no object of the resource.
    pub(crate) fn list_node(&self, resource: Resource, selector: &Selector) -> Option<Listing> {
        let state = self.state();
        let rows = state.node.rows(resource);
        let objects = rows.values().filter(|object| selector.picks(object)).cloned().collect();
        (!rows.is_empty()).then(|| Listing { version: state.node.version(), objects })
    }

    /// An object as a node has it: the cloud's, which it keeps, or its own while the cloud is away.
    pub(crate) fn find_by_node(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Stored>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut state = self.state();
        if self.faults.is_cloud_away() {
            return state.node.rows(resource).get(&key).cloned();
        }
        let found = state.shelves[resource.index()].objects.get(&key).cloned()?;
        state.node.keep(resource, &found);
        Some(found)
    }

    pub(crate) fn subscribe(
        &self,
        resource: Resource,
        start: Start,
        through: Through,
    ) -> Result<Subscription, TooOld> {
        if let Through::Node { loses } = through {
            return Ok(self.subscribe_node(resource, loses));
        }
        let mut state = self.state();
        let version = state.version;
        let shelf = &mut state.shelves[resource.index()];
        let (mut objects, mut missed) = (Vec::new(), Vec::new());
        match start {
            Start::State => objects.extend(shelf.objects.values().cloned()),
            Start::Now => {}
            Start::After(since) if since < shelf.forgotten => return Err(TooOld(shelf.forgotten)),
            Start::After(since) => {
                missed.extend(shelf.history.iter().filter(|change| change.object.version > since).cloned());
            }
        }
        let (sender, queue) = mpsc::channel(self.bounds.queue);
        shelf.watches.push(Watcher { queue: sender, by_node: false });
        Ok(Subscription { objects, missed, version, queue })
    }

    pub(crate) fn list(&self, resource: Resource, selector: &Selector) -> Listing {
        let state = self.state();
        let objects = state.shelves[resource.index()].objects.values();
        let objects = objects.filter(|object| selector.picks(object)).cloned().collect();
        Listing { version: state.version, objects }
    }

    /// Keeps a listing for its later pages.
    pub(crate) fn keep_listing(&self, listing: &Listing) -> u64 {
        let mut state = self.state();
        state.listings += 1;
        let id = state.listings;
        let listed = Listed { version: listing.version, objects: listing.objects.clone() };
        state.paged.push_back((id, listed));
        if state.paged.len() > PAGED_LISTINGS {
            state.paged.pop_front();
        }
        id
    }

    /// A kept listing, unless it has expired.
    pub(crate) fn kept_listing(&self, id: u64) -> Option<Listing> {
        let state = self.state();
        let (_, listed) = state.paged.iter().find(|(kept, _)| *kept == id)?;
        Some(Listing { version: listed.version, objects: listed.objects.clone() })
    }
}

/// The namespace and name of an object, after giving a namespaced one a namespace.
fn key_of(resource: Resource, object: &mut Map<String, Value>) -> Result<(String, String), WriteError> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or(WriteError::Malformed { field: "metadata", expected: "an object" })?;
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or(WriteError::Malformed { field: "metadata.name", expected: "a name" })?.to_owned();
    if !resource.row().namespaced {
        metadata.remove("namespace");
        return Ok((String::new(), name));
    }
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or("default").to_owned();
    metadata.insert("namespace".to_owned(), json!(namespace));
    Ok((namespace, name))
}

/// Whether the version that a writer saw, if it says so, is the stored one.
fn agrees(object: &Map<String, Value>, old: &Stored) -> bool {
    let seen = object["metadata"]["resourceVersion"].as_str();
    seen.is_none_or(|seen| seen.is_empty() || seen == old.version.to_string())
}

/// Takes over what the server decides about an object. False when nothing differs from before.
fn inherit(
    object: &mut Map<String, Value>,
    before: Option<&Map<String, Value>>,
    resource: Resource,
    uids: &mut Uids,
) -> bool {
    let old = before.map(|before| &before["metadata"]);
    // Kubernetes counts generations of everything but the few kinds without a spec.
    let counted = !matches!(
        resource,
        Resource::Endpoints
            | Resource::Secrets
            | Resource::ConfigMaps
            | Resource::Nodes
            | Resource::Namespaces
    );
    let generation = counted.then(|| match before {
        None => json!(1),
        Some(before) => {
            let same = spec(object).eq(spec(before));
            let old = before["metadata"]["generation"].as_u64().unwrap_or(1);
            json!(if same { old } else { old + 1 })
        }
    });
    let metadata = object["metadata"].as_object_mut().expect("the key was read from it");
    let decided = |key: &str, new: &dyn Fn() -> Value| match old.map(|old| &old[key]) {
        Some(value) if !value.is_null() => value.clone(),
        _ => new(),
    };
    let uid = match old.map(|old| old["uid"].clone()) {
        Some(uid) => uid,
        None => json!(uids.next()),
    };
    metadata.insert("uid".to_owned(), uid);
    metadata.insert("creationTimestamp".to_owned(), decided("creationTimestamp", &|| json!(stamp::now())));
    metadata
        .insert("resourceVersion".to_owned(), old.map_or(Value::Null, |old| old["resourceVersion"].clone()));
    match generation {
        Some(generation) => metadata.insert("generation".to_owned(), generation),
        None => metadata.remove("generation"),
    };
    before.is_none_or(|before| before != object)
}

/// Everything that a generation counts.
fn spec(object: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    object.iter().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
}

fn seal(mut object: Map<String, Value>, (namespace, name): (String, String), version: u64) -> Stored {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let labels =
        labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
    let type_ = object.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let node = object.get("spec").and_then(|spec| spec["nodeName"].as_str()).unwrap_or_default().to_owned();
    let text = serde_json::to_vec(&object).expect("a JSON value is JSON");
    // The metadata is in it, so something follows the brace.
    let tail = Bytes::from(text).slice(1..);
    Stored { namespace, name, version, labels, node, type_, tail }
}
