//! Kubernetes and Istio objects cut to the fields the mesh reads, and the vocabulary in which sources tell of them.
//!
//! The structs are partial on purpose: a field that nothing acts on is not here, and unknown fields are ignored
//! when decoding; [`unknown_fields`] tells those that the API does not define either. Field names and defaults follow the Kubernetes API reference (v1, discovery.k8s.io/v1),
//! Istio's `networking.istio.io` and the Gateway API's `gateway.networking.k8s.io`.

mod custom;
mod decode;
mod discovery;
pub mod gateway;
pub mod istio;
mod meta;
mod node;
mod pod;
mod secret;
mod service;
mod source;
mod tunnel_policy;
mod unknown;
mod vocabulary;

pub use custom::CustomObject;
pub use decode::{DecodeError, decode_item, decode_stored, decode_value};
pub use discovery::{
    Endpoint, EndpointAddress, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
    EndpointSubset, Endpoints, ForName, TargetRef,
};
pub use gateway::{Gateway, GatewayClass, HttpRoute, TcpRoute, TlsRoute};
pub use istio::{
    ConsistentHash, DestinationRule, DestinationRuleSpec, Gateway as IstioGateway, LoadBalancerSettings,
    TrafficPolicy, VirtualService,
};
pub use meta::{Name, ObjectKey, ObjectMeta, Uid};
pub use node::{Namespace, Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{Container, ContainerPort, Pod, PodCondition, PodIp, PodSpec, PodStatus};
pub use secret::{Secret, Sensitive, TlsData};
pub use service::{
    ClientIpConfig, IntOrString, LoadBalancerIngress, LoadBalancerStatus, Protocol, Service, ServicePort,
    ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
pub use source::{Kind, Object, SourceEvent};
pub use tunnel_policy::{TunnelAllow, TunnelPolicy, TunnelPolicySpec};
pub use unknown::unknown_fields;

/// Labels and annotations with a meaning to the mesh.
pub mod label {
    /// On an EndpointSlice: the name of its Service (Kubernetes, discovery.k8s.io/v1).
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    /// On a Node: the failure zone; the mesh reads it as the LAN.
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    /// On a Service: another proxy owns it (Kubernetes KEP-2447).
    pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
    /// On a Service: EdgeMesh leaves it alone (Go EdgeMesh, pkg/proxy/server.go).
    pub const EDGEMESH_PROXY_NAME: &str = "service.edgemesh.kubeedge.io/service-proxy-name";
    /// On a Service: its endpoints publish no virtual address (Kubernetes).
    pub const HEADLESS: &str = "service.kubernetes.io/headless";
    /// On an EndpointSlice: the controller that writes it (Kubernetes, discovery.k8s.io/v1).
    pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    /// Annotation on an Endpoints object: its controller left addresses out (Kubernetes KEP-752).
    pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
    /// Annotation on a Node: the libp2p peer identity that may speak for the node.
    pub const PEER_ID: &str = "edgemesh.kubeedge.io/peer-id";
}
