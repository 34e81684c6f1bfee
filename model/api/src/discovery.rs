use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{Name, ObjectMeta, Protocol};

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name` names the Service.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Name,
    /// The endpoints; all share the ports of the slice.
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// The ports every endpoint of the slice has.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of the slice's type; consumers use the first (API reference).
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<Name>,
    /// Readiness.
    pub conditions: EndpointConditions,
    /// Host label of the endpoint, for `hostname.service.namespace.svc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// The node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Name>,
    /// The zone it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// The Pod behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Who should use it. Few endpoints have any, and in place they would be 48 of 176 bytes of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<EndpointHints>>,
}

/// Conditions of an endpoint; an absent `ready` means ready (API reference).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointConditions {
    /// Takes new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// As `ready`, but may be true while terminating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// The Pod is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// Hints of the endpoint slice controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointHints {
    /// Zones that should use the endpoint.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub for_zones: Vec<ForName>,
    /// Nodes that should use the endpoint (KEP-3015).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub for_nodes: Vec<ForName>,
}

/// A zone or a node named by a hint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForName {
    /// Its name.
    pub name: Name,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `Pod` for Pods.
    pub kind: Name,
    /// Its name.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
}

/// One port of a slice or of an Endpoints subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    /// Matches the Service port of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Transport.
    pub protocol: Protocol,
    /// The port; absent means all ports, which the mesh cannot serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The application's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Name>,
}

/// core/v1 Endpoints, used where a Service has no EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// Has the name of the Service.
    pub metadata: ObjectMeta,
    /// Groups of addresses with the same ports.
    #[serde(deserialize_with = "null_is_default")]
    pub subsets: Vec<EndpointSubset>,
}

/// A group of addresses with the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSubset {
    /// Ready addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<EndpointAddress>,
    /// Addresses that are not ready.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub not_ready_addresses: Vec<EndpointAddress>,
    /// The ports of each.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// One address of an Endpoints object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddress {
    /// The address.
    pub ip: Name,
    /// Host label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Name>,
    /// The Pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}
