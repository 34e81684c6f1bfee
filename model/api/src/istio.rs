use serde::{Deserialize, Serialize};

use crate::{Name, ObjectMeta};

/// networking.istio.io DestinationRule: how traffic to a host is balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationRule {
    /// Its namespace resolves a short `spec.host`.
    pub metadata: ObjectMeta,
    /// Host and policy.
    pub spec: DestinationRuleSpec,
}

/// The part of a DestinationRule the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// Service name: short (in the rule's namespace) or fully qualified.
    pub host: Name,
    /// The policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Istio `TrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Balancing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerSettings>,
}

/// Istio `LoadBalancerSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerSettings {
    /// `RANDOM`, `ROUND_ROBIN`, and names the mesh reports and ignores (`PASSTHROUGH`, `LEAST_CONN`, …).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simple: Option<Name>,
    /// Hashing; only the source address is known at layer 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
}

/// Istio `ConsistentHashLB`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    /// Hash on a request header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<Name>,
    /// Hash on the client's address.
    pub use_source_ip: bool,
}
