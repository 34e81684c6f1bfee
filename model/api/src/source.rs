use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    DestinationRule, EndpointSlice, Endpoints, Name, Namespace, Node, ObjectKey, ObjectMeta, Pod, Service,
};

/// What a source tells. A listing is `Reset, Upsert…, Synced`: objects that were known before the `Reset` and not
/// repeated are deleted at `Synced`, never earlier. Outside a listing, `Upsert` and `Delete` are single changes.
///
/// A source that lists kind by kind, as API servers do, says `ResetKind, Upsert…, SyncedKind`; listings of different
/// kinds may overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceEvent {
    /// A listing begins.
    Reset,
    /// An object exists in this form. Shared: the source, the state and the journal keep one copy between them.
    Upsert(Arc<Object>),
    /// An object is gone.
    Delete(Kind, ObjectKey),
    /// The listing that began with `Reset` is complete.
    Synced,
    /// A listing of one kind begins.
    ResetKind(Kind),
    /// An object exists in a form that cannot be used: what is known of it stays.
    Keep(Kind, ObjectKey),
    /// The listing of one kind is complete.
    SyncedKind(Kind),
}

/// The kinds the mesh reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the variants are the Kubernetes kinds of the same names")]
pub enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
    Namespace,
    DestinationRule,
}

impl Kind {
    /// Every kind, in the order in which listings are written.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::Pod,
        Self::DestinationRule,
    ];

    /// The kind's name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::DestinationRule => "DestinationRule",
        }
    }

    /// Whether objects of the kind have no namespace.
    pub fn cluster_scoped(self) -> bool {
        matches!(self, Self::Node | Self::Namespace)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One object of any kind the mesh reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[expect(missing_docs, reason = "the variants are the Kubernetes kinds of the same names")]
pub enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Endpoints(Endpoints),
    Pod(Pod),
    Node(Node),
    Namespace(Namespace),
    DestinationRule(DestinationRule),
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::Namespace(_) => Kind::Namespace,
            Self::DestinationRule(_) => Kind::DestinationRule,
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Endpoints(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::DestinationRule(object) => &object.metadata,
        }
    }

    /// The object's metadata, to change it.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Service(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
            Self::Endpoints(object) => &mut object.metadata,
            Self::Pod(object) => &mut object.metadata,
            Self::Node(object) => &mut object.metadata,
            Self::Namespace(object) => &mut object.metadata,
            Self::DestinationRule(object) => &mut object.metadata,
        }
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        self.metadata().key()
    }

    /// Fills in the namespace of a namespaced object that leaves it out, and empties it where the kind has none.
    pub fn default_namespace(&mut self, namespace: &str) {
        let cluster_scoped = self.kind().cluster_scoped();
        let metadata = self.metadata_mut();
        if cluster_scoped {
            metadata.namespace = Name::from("");
        } else if metadata.namespace.is_empty() {
            metadata.namespace = Name::from(namespace);
        }
    }
}
