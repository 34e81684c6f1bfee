use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    DestinationRule, EndpointSlice, Endpoints, Gateway, GatewayClass, HttpRoute, IstioGateway, Name,
    Namespace, Node, ObjectKey, ObjectMeta, Pod, Secret, Service, TcpRoute, TlsRoute, TunnelPolicy,
    VirtualService,
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

/// The kinds the mesh reads. Two of them are called `Gateway`: they are written with their groups, as Kubernetes writes a
/// kind with its group.
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
    VirtualService,
    #[serde(rename = "Gateway.networking.istio.io")]
    IstioGateway,
    GatewayClass,
    #[serde(rename = "Gateway.gateway.networking.k8s.io")]
    Gateway,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    Secret,
    TunnelPolicy,
}

/// Group of Istio's kinds.
const ISTIO: &str = "networking.istio.io";
/// Group of the Gateway API's kinds.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// Group of the mesh's own kinds.
const EDGEMESH: &str = "edgemesh.kubeedge.io";

impl Kind {
    /// Every kind, in the order in which listings are written.
    pub const ALL: [Self; 16] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::Pod,
        Self::DestinationRule,
        Self::TunnelPolicy,
        Self::VirtualService,
        Self::IstioGateway,
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::Secret,
    ];

    /// Kinds that a node's agent needs of an API server. Pods are not among them: slices say where they are, and a
    /// cluster has many more Pods than a node has neighbours.
    pub const AGENT: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::DestinationRule,
        Self::TunnelPolicy,
    ];

    /// Kinds that a gateway needs besides.
    pub const INGRESS: [Self; 8] = [
        Self::VirtualService,
        Self::IstioGateway,
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::Secret,
    ];

    /// The kind's name in manifests, with its group where another kind has the same name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::DestinationRule => "DestinationRule",
            Self::VirtualService => "VirtualService",
            Self::IstioGateway => "Gateway.networking.istio.io",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway.gateway.networking.k8s.io",
            Self::HttpRoute => "HTTPRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::Secret => "Secret",
            Self::TunnelPolicy => "TunnelPolicy",
        }
    }

    /// The API group, empty for Kubernetes' own core.
    pub fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints | Self::Pod | Self::Node | Self::Namespace | Self::Secret => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::TunnelPolicy => EDGEMESH,
            Self::DestinationRule | Self::VirtualService | Self::IstioGateway => ISTIO,
            Self::GatewayClass | Self::Gateway | Self::HttpRoute | Self::TcpRoute | Self::TlsRoute => {
                GATEWAY_API
            }
        }
    }

    /// The kind that a manifest means by its `apiVersion` and `kind`. The version does not matter: the fields read here
    /// have the same shape in every version that was ever served.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        Self::ALL.into_iter().find(|known| {
            let name = match known {
                Self::IstioGateway | Self::Gateway => "Gateway",
                other => other.as_str(),
            };
            known.group() == group && name == kind
        })
    }

    /// Whether objects of the kind have no namespace.
    pub fn cluster_scoped(self) -> bool {
        matches!(self, Self::Node | Self::Namespace | Self::GatewayClass)
    }

    /// Whether only a gateway acts on the kind.
    pub fn is_ingress(self) -> bool {
        Self::INGRESS.contains(&self)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One object of any kind the mesh reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    VirtualService(VirtualService),
    #[serde(rename = "Gateway.networking.istio.io")]
    IstioGateway(IstioGateway),
    GatewayClass(GatewayClass),
    #[serde(rename = "Gateway.gateway.networking.k8s.io")]
    Gateway(Gateway),
    #[serde(rename = "HTTPRoute")]
    HttpRoute(HttpRoute),
    #[serde(rename = "TCPRoute")]
    TcpRoute(TcpRoute),
    #[serde(rename = "TLSRoute")]
    TlsRoute(TlsRoute),
    Secret(Secret),
    TunnelPolicy(TunnelPolicy),
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
            Self::VirtualService(_) => Kind::VirtualService,
            Self::IstioGateway(_) => Kind::IstioGateway,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::Secret(_) => Kind::Secret,
            Self::TunnelPolicy(_) => Kind::TunnelPolicy,
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
            Self::VirtualService(object) => &object.metadata,
            Self::IstioGateway(object) => &object.metadata,
            Self::GatewayClass(object) => &object.metadata,
            Self::Gateway(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::TlsRoute(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::TunnelPolicy(object) => &object.metadata,
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
            Self::VirtualService(object) => &mut object.metadata,
            Self::IstioGateway(object) => &mut object.metadata,
            Self::GatewayClass(object) => &mut object.metadata,
            Self::Gateway(object) => &mut object.metadata,
            Self::HttpRoute(object) => &mut object.metadata,
            Self::TcpRoute(object) => &mut object.metadata,
            Self::TlsRoute(object) => &mut object.metadata,
            Self::Secret(object) => &mut object.metadata,
            Self::TunnelPolicy(object) => &mut object.metadata,
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
