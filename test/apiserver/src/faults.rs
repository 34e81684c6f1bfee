use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::resource::{Resource, Scope};

/// What goes wrong. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultSet {
    /// With every answer.
    pub reply: Reply,
    /// How long every answer is held back.
    pub latency_ms: u64,
    /// How fast bodies are sent, in bytes per second; unbounded when zero.
    pub bytes_per_second: u64,
    /// With what is served at all.
    pub serving: ServingFaults,
    /// With lists.
    pub list: ListFaults,
    /// With watches.
    pub watch: WatchFaults,
}

/// What comes instead of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "type")]
pub enum Reply {
    /// The answer.
    #[default]
    Answer,
    /// A `Status` of this code, for instance 500, or 429 with a `Retry-After`.
    Error {
        /// The HTTP status.
        status: u16,
        /// Seconds to wait, told as header and in the details.
        #[serde(default, rename = "retryAfter")]
        retry_after: Option<u32>,
    },
    /// A page for people, as of a captive portal (200) or a broken load balancer (502).
    Html {
        /// The HTTP status.
        status: u16,
    },
    /// Nothing, for ever: the request is read, the connection stays. Established watches fall silent, and go on when
    /// the fault is over.
    Silence,
    /// Bytes that are no JSON, as JSON.
    Garbage,
    /// The first half of a list, then the connection breaks.
    Broken,
    /// The first half of a list, as a complete HTTP message.
    Halved,
}

/// What is wrong with what is served at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServingFaults {
    /// Whether the resource is there.
    pub availability: Availability,
    /// The status that discovery (`/api`, `/apis` and below) fails with, when it does.
    pub discovery: Option<u16>,
    /// Whether `labelSelector` and `fieldSelector` are followed.
    pub selectors: Selectors,
    /// Every refusal is told as 500 InternalError.
    pub refusals_as_internal: bool,
    /// `sendInitialEvents` is refused with 422, as by servers that do not know it.
    pub no_initial_events: bool,
    /// A node's metaServer answers: from the cloud, and from what it has kept of watches and gets while the cloud is away
    /// (`Faults::cloud_away`). Every watch begins with what it has kept, deleted or not.
    pub by_node: bool,
}

/// Whether a resource is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Availability {
    /// It is.
    #[default]
    Served,
    /// 404: the CRD is not installed. Discovery does not tell it.
    Absent,
    /// 403: the role does not allow it.
    Forbidden,
}

/// How selectors are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selectors {
    /// As asked.
    #[default]
    Followed,
    /// Lists compare fields other than name and namespace with the empty string, so that `spec.nodeName=n` lists
    /// nothing.
    NamesOnly,
    /// Everything is sent.
    Ignored,
}

/// What is wrong with lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListFaults {
    /// `limit` and `continue` are ignored.
    pub unpaged: bool,
    /// Slices in lists of the cloud have their first endpoint only, at 127.0.0.1 (kubeedge/kubeedge#7194).
    pub loopback_slices: bool,
    /// The items come before the metadata, as they do in lists of custom resources.
    pub items_first: bool,
    /// The kind of the list is guessed from the plural: `EndpointslicList`.
    pub guessed_kind: bool,
    /// `apiVersion` and `kind` in the items.
    pub item_types: ItemTypes,
    /// The version in the metadata.
    pub version: ListVersion,
    /// So many lists of each resource are empty after the faults were set or the server restarted.
    pub empty_requests: u64,
    /// Lists are empty for so long after the faults were set or the server restarted.
    pub empty_ms: u64,
}

/// Whether items of lists say what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemTypes {
    /// As Kubernetes: items of built-in types do not, custom resources do.
    #[default]
    OfCustomResources,
    /// All do.
    OfAll,
    /// None does.
    OfNone,
}

/// The `resourceVersion` of lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListVersion {
    /// Is there.
    #[default]
    Right,
    /// Is missing from empty lists.
    MissingWhenEmpty,
    /// Is missing.
    Missing,
    /// Is `0`.
    Zero,
}

/// What is wrong with watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WatchFaults {
    /// Whether events arrive.
    pub delivery: Delivery,
    /// Watches end after so long, counted from their start.
    pub close_after_ms: Option<u64>,
    /// Every watch begins with everything as added, whatever version it asks for.
    pub replay: bool,
    /// A watch through a node leaves out what its store had no news of though it should have: a race that the first watch
    /// of a resource loses.
    pub first_loses: bool,
    /// There are none, not even after the initial events.
    pub no_bookmarks: bool,
    /// A watch that resumes is not told what was deleted in between.
    pub missed_deletions_lost: bool,
    /// What events carry.
    pub objects: EventObjects,
    /// A watch from a version that is too old is refused with HTTP status 410 instead of an error event.
    pub gone_as_status: bool,
}

/// Whether the events of watches arrive. It concerns established watches too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Delivery {
    /// They do.
    #[default]
    Live,
    /// Not while this is on; they wait, and the connection stays.
    Stalled,
    /// They never do, nor do bookmarks; watches end in time.
    Never,
}

/// What the events of watches carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventObjects {
    /// Their objects.
    #[default]
    Whole,
    /// `{}` instead.
    Empty,
    /// `null` instead.
    Null,
}

impl FaultSet {
    /// The ways of the metaServer of KubeEdge, cut off from the cloud: every watch replays the local store and tells no
    /// deletion that it missed, there are neither bookmarks nor pages nor initial events nor discovery, lists guess
    /// their kind and have no version when they are empty, fields other than names select nothing in lists, and
    /// every refusal is an internal error.
    pub fn metaserver() -> Self {
        Self {
            serving: ServingFaults {
                // It has no handler for paths that name no resource, and says so as an internal error.
                discovery: Some(500),
                selectors: Selectors::NamesOnly,
                refusals_as_internal: true,
                no_initial_events: true,
                ..ServingFaults::default()
            },
            list: ListFaults {
                unpaged: true,
                guessed_kind: true,
                item_types: ItemTypes::OfAll,
                version: ListVersion::MissingWhenEmpty,
                ..ListFaults::default()
            },
            watch: WatchFaults {
                replay: true,
                no_bookmarks: true,
                missed_deletions_lost: true,
                ..WatchFaults::default()
            },
            ..Self::default()
        }
    }

    /// The ways of the metaServer of KubeEdge 1.21 and later: lists come from the cloud, items first and with slices that
    /// are cut to 127.0.0.1; watches replay the node's store before what the cloud tells and know no bookmarks; a list
    /// that fails is an empty one without metadata. While `Faults::cloud_away` is on, all comes from the store.
    pub fn metaserver_connected() -> Self {
        Self {
            serving: ServingFaults { by_node: true, ..ServingFaults::default() },
            list: ListFaults {
                loopback_slices: true,
                items_first: true,
                item_types: ItemTypes::OfAll,
                ..ListFaults::default()
            },
            watch: WatchFaults { no_bookmarks: true, ..WatchFaults::default() },
            ..Self::default()
        }
    }

    /// An error with every answer.
    pub fn error(status: u16) -> Self {
        Self::reply(Reply::Error { status, retry_after: None })
    }

    /// This instead of every answer.
    pub fn reply(reply: Reply) -> Self {
        Self { reply, ..Self::default() }
    }
}

/// All switches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    pub(crate) refuse: bool,
    pub(crate) cloud_away: bool,
    pub(crate) all: FaultSet,
    pub(crate) scoped: BTreeMap<Scope, FaultSet>,
}

/// The switches of a server. Clones share them; a change concerns requests and watches that are under way too.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    switches: Arc<watch::Sender<Switches>>,
    age: Arc<Mutex<Age>>,
}

/// Since when the switches stand so.
#[derive(Debug)]
struct Age {
    since: Instant,
    lists: [u64; Resource::COUNT],
}

impl Default for Age {
    fn default() -> Self {
        Self { since: Instant::now(), lists: [0; Resource::COUNT] }
    }
}

impl Faults {
    /// Sets what goes wrong with every resource that has no set of its own, and with what is no resource.
    pub fn set(&self, faults: FaultSet) {
        self.change(|switches| switches.all = faults);
    }

    /// Sets what goes wrong with one resource, or one version of it, instead of what goes wrong with all.
    pub fn set_for(&self, scope: impl Into<Scope>, faults: FaultSet) {
        self.change(|switches| {
            switches.scoped.insert(scope.into(), faults);
        });
    }

    /// Whether connections are refused: nobody listens.
    pub fn refuse_connections(&self, refuse: bool) {
        self.change(|switches| switches.refuse = refuse);
    }

    /// Whether nodes are cut off from the cloud: it goes on, and what is `by_node` hears nothing of it and answers from
    /// what it has kept.
    pub fn cloud_away(&self, away: bool) {
        self.change(|switches| switches.cloud_away = away);
    }

    pub(crate) fn is_cloud_away(&self) -> bool {
        self.switches.borrow().cloud_away
    }

    /// Sets how the resource is served: shorthand for one fault alone.
    pub fn set_availability(&self, scope: impl Into<Scope>, availability: Availability) {
        let serving = ServingFaults { availability, ..ServingFaults::default() };
        self.set_for(scope, FaultSet { serving, ..FaultSet::default() });
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.change(|switches| *switches = Switches::default());
    }

    /// What goes wrong with a resource in a version.
    pub fn of(&self, resource: Resource, version: &str) -> FaultSet {
        let switches = self.switches.borrow();
        let single = Scope { resource, version: Some(version.to_owned()) };
        let scoped = switches.scoped.get(&single).or_else(|| switches.scoped.get(&resource.into()));
        scoped.unwrap_or(&switches.all).clone()
    }

    /// What goes wrong with everything else.
    pub fn general(&self) -> FaultSet {
        self.switches.borrow().all.clone()
    }

    pub(crate) fn refuses(&self) -> bool {
        self.switches.borrow().refuse
    }

    pub(crate) fn switches(&self) -> Switches {
        self.switches.borrow().clone()
    }

    pub(crate) fn replace(&self, new: Switches) {
        self.change(|switches| *switches = new);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Switches> {
        self.switches.subscribe()
    }

    /// What is said of the time after a restart counts anew.
    pub(crate) fn restarted(&self) {
        *self.age.lock().expect("not poisoned") = Age::default();
    }

    /// Whether a list is to be empty; counts it.
    pub(crate) fn empties(&self, resource: Resource, faults: &ListFaults) -> bool {
        let mut age = self.age.lock().expect("not poisoned");
        let lists = &mut age.lists[resource.index()];
        *lists += 1;
        *lists <= faults.empty_requests || age.since.elapsed() < Duration::from_millis(faults.empty_ms)
    }

    fn change(&self, change: impl FnOnce(&mut Switches)) {
        self.restarted();
        self.switches.send_modify(change);
    }
}
