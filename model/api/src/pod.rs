use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{Name, ObjectMeta, Protocol};

/// core/v1 Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// Where it runs and its ports.
    pub spec: PodSpec,
    /// Its addresses and readiness.
    pub status: PodStatus,
}

/// The part of PodSpec the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Name>,
    /// Uses the node's own network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Host label, used with `subdomain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// The headless Service that names the Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<Name>,
    /// Containers, for their named ports.
    #[serde(deserialize_with = "null_is_default")]
    pub containers: Vec<Container>,
    /// Restartable init containers (sidecars) may carry named ports too.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub init_containers: Vec<Container>,
}

/// The part of a container the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Declared ports.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` marks a sidecar among the init containers (KEP-753).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<Name>,
}

/// A declared port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// The name `targetPort` may refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The number.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// The part of PodStatus the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`; absent in manifests written by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Name>,
    /// First address.
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<Name>,
    /// All addresses, at most one per family.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions, of which `Ready` counts.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub conditions: Vec<PodCondition>,
}

/// One address of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: Name,
}

/// One condition of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// `Ready`, among others.
    #[serde(rename = "type")]
    pub type_: Name,
    /// `True`, `False` or `Unknown`.
    pub status: Name,
}
