use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{Name, ObjectMeta};

/// Transport protocol of a port (core/v1 `Protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// The default of every port.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams.
    #[serde(rename = "UDP")]
    Udp,
    /// Carried by the kernel's rules only.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// Lower-case name as DNS SRV labels and rules use it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(()),
        }
    }
}

/// A number or a name, as `targetPort` allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A port number.
    Int(u16),
    /// The name of a container port.
    String(Name),
}

/// core/v1 Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What a load balancer gave.
    #[serde(skip_serializing_if = "is_default")]
    pub status: ServiceStatus,
}

/// The part of ServiceSpec the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP` (default), `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<Name>,
    /// The first virtual address; `None` as text means headless.
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<Name>,
    /// All virtual addresses, one per family.
    #[serde(
        rename = "clusterIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub cluster_ips: Vec<Name>,
    /// Further addresses at which the Service answers.
    #[serde(
        rename = "externalIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub external_ips: Vec<Name>,
    /// The CNAME target of an ExternalName Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<Name>,
    /// Labels of the Pods behind the Service; empty for a Service whose endpoints are given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub selector: BTreeMap<Name, Name>,
    /// The ports.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ServicePort>,
    /// `None` (default) or `ClientIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<Name>,
    /// Timeout of `ClientIP` affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `PreferClose`, `PreferSameZone` or `PreferSameNode` (KEP-4444, KEP-3015).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<Name>,
    /// `Cluster` (default) or `Local` (KEP-2086).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<Name>,
    /// `Cluster` (default) or `Local`, for node ports, external and load-balancer addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<Name>,
    /// Clients that may use the load-balancer addresses, as CIDRs; everybody when empty.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub load_balancer_source_ranges: Vec<Name>,
    /// Where a load balancer asks whether this node has endpoints (`externalTrafficPolicy: Local`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// DNS names even endpoints that are not ready.
    pub publish_not_ready_addresses: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Needed when there is more than one port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Transport.
    pub protocol: Protocol,
    /// The port at the virtual address.
    pub port: u16,
    /// The port of the Pod, a number or a container port's name; the same as `port` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// The port at every address of a node (types `NodePort` and `LoadBalancer`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// The application's protocol, opaque to the mesh at layer 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Name>,
}

/// Settings of session affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// Settings of `ClientIP` affinity.
    #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

/// Timeout of `ClientIP` affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds a client sticks to its endpoint after its last connection; 10800 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// The part of ServiceStatus the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Addresses a load balancer gave.
    pub load_balancer: LoadBalancerStatus,
}

/// Addresses a load balancer gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// One entry per address.
    #[serde(deserialize_with = "null_is_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// The address, when the load balancer works by address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Name>,
    /// `VIP` (default) or `Proxy` (KEP-1860).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_mode: Option<Name>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
