use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::resource::Resource;

/// What was asked of one resource, and what was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceCounts {
    /// Requests of any kind that arrived.
    pub requests: u64,
    /// Single objects served.
    pub gets: u64,
    /// Listings begun: answers to a list request without `continue`.
    pub lists: u64,
    /// Later pages of listings.
    pub pages: u64,
    /// Writes done.
    pub writes: u64,
    /// Watches established; what is written after one was counted reaches it.
    pub watches: u64,
    /// Watches asked for of what is not there. Through a node they end KubeEdge's CloudCore (kubeedge/kubeedge#7303): nobody may
    /// ask for one that has seen no list of the cloud.
    pub absent_watches: u64,
    /// Watches that have not ended.
    pub open_watches: u64,
    /// Events that watches were given, bookmarks and errors left out.
    pub events: u64,
    /// Bookmarks that watches were given.
    pub bookmarks: u64,
    /// Watches that were told that their version is too old, at their start or later, and listings that were.
    pub gone: u64,
    /// Watches that were closed because their queue was full.
    pub overflows: u64,
    /// Bytes of bodies that were handed to connections.
    pub bytes: u64,
    /// Requests that arrived while something else than the answer was to be given.
    pub faults: u64,
}

/// What the server did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    resources: [ResourceCounts; Resource::COUNT],
    /// Whether somebody listens on the first listener's port.
    pub listening: bool,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Connections dropped because there were too many.
    pub dropped_connections: u64,
    /// TLS handshakes that failed.
    pub failed_handshakes: u64,
    /// Requests without the right token.
    pub unauthorized: u64,
}

impl Counts {
    /// Of all resources together.
    pub fn total(&self, of: impl Fn(&ResourceCounts) -> u64) -> u64 {
        self.resources.iter().map(of).sum()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let resources: BTreeMap<_, _> =
            Resource::all().map(|resource| (resource.to_string(), self[resource])).collect();
        serde_json::json!({
            "resources": resources,
            "listening": self.listening,
            "connections": self.connections,
            "openConnections": self.open_connections,
            "droppedConnections": self.dropped_connections,
            "failedHandshakes": self.failed_handshakes,
            "unauthorized": self.unauthorized,
        })
    }
}

impl Index<Resource> for Counts {
    type Output = ResourceCounts;

    fn index(&self, resource: Resource) -> &ResourceCounts {
        &self.resources[resource.index()]
    }
}

/// The counters, which can be waited for.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    counts: Arc<watch::Sender<Counts>>,
}

impl Requests {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// Waits until the counters fulfil a condition, for instance
    /// `until(|counts| counts[Resource::Services].open_watches == 1)`. Gives them as they were then.
    pub async fn until(&self, holds: impl FnMut(&Counts) -> bool) -> Counts {
        let mut changes = self.counts.subscribe();
        let reached = changes.wait_for(holds).await.map(|counts| counts.clone());
        reached.expect("the sender is held here")
    }

    pub(crate) fn count(&self, resource: Resource, change: impl FnOnce(&mut ResourceCounts)) {
        self.counts.send_modify(|counts| change(&mut counts.resources[resource.index()]));
    }

    pub(crate) fn count_all(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }
}
