use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{Name, ObjectMeta};

/// core/v1 Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, zone label, peer identity annotation.
    pub metadata: ObjectMeta,
    /// Pod ranges.
    pub spec: NodeSpec,
    /// Addresses.
    pub status: NodeStatus,
}

/// The part of NodeSpec the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Ranges from which the node's Pods get their addresses.
    #[serde(
        rename = "podCIDRs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub pod_cidrs: Vec<Name>,
}

/// The part of NodeStatus the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The node's addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<NodeAddress>,
}

/// One address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub type_: Name,
    /// The address or name.
    pub address: Name,
}

/// core/v1 Namespace: its existence decides NXDOMAIN for names under it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: ObjectMeta,
}
