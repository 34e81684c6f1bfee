//! What the metaServer of a KubeEdge node keeps for itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::Resource;
use crate::store::{Change, ChangeKind, Stored};

/// Objects by namespace and name.
pub(crate) type Rows = BTreeMap<(String, String), Arc<Stored>>;

/// What watches and gets have told a node. It lacks what nobody watched, and keeps what was deleted while the cloud was
/// away.
#[derive(Debug)]
pub(crate) struct NodeStore(Vec<Rows>);

impl NodeStore {
    pub(crate) fn new() -> Self {
        Self(Resource::all().map(|_| Rows::new()).collect())
    }

    pub(crate) fn rows(&self, resource: Resource) -> &Rows {
        &self.0[resource.index()]
    }

    pub(crate) fn keep(&mut self, resource: Resource, object: &Arc<Stored>) {
        let key = (object.namespace.clone(), object.name.clone());
        self.0[resource.index()].insert(key, object.clone());
    }

    pub(crate) fn hear(&mut self, resource: Resource, change: &Change) {
        if change.kind != ChangeKind::Deleted {
            return self.keep(resource, &change.object);
        }
        let key = (change.object.namespace.clone(), change.object.name.clone());
        self.0[resource.index()].remove(&key);
    }

    /// The version that its lists tell: the highest of all resources.
    pub(crate) fn version(&self) -> u64 {
        self.0.iter().flat_map(Rows::values).map(|object| object.version).max().unwrap_or(0)
    }
}
