use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{Name, ObjectMeta};

/// edgemesh.kubeedge.io TunnelPolicy: which nodes and namespaces may reach Services through the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelPolicy {
    /// Its namespace is that of the Services.
    pub metadata: ObjectMeta,
    /// Services, and who may reach them.
    #[serde(deserialize_with = "null_is_default")]
    pub spec: TunnelPolicySpec,
}

/// What a TunnelPolicy asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelPolicySpec {
    /// Names of Services in the policy's namespace; none means all of them.
    #[serde(deserialize_with = "null_is_default")]
    pub services: Vec<Name>,
    /// Who is admitted: whoever one of the items admits. Without an item nobody on another node is.
    #[serde(deserialize_with = "null_is_default")]
    pub allow: Vec<TunnelAllow>,
}

/// One item of `allow`: a client is admitted when both lists admit it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelAllow {
    /// Nodes of clients; none means every node.
    #[serde(deserialize_with = "null_is_default")]
    pub nodes: Vec<Name>,
    /// Namespaces of clients, as the node of the client says; none means every client.
    #[serde(deserialize_with = "null_is_default")]
    pub namespaces: Vec<Name>,
}
