use std::fmt;
use std::net::SocketAddr;

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::ServiceId;
use serde::{Deserialize, Serialize};

/// Where the next hop of a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Dialled from this node: the backend runs here, or belongs to no node.
    Socket,
    /// Through the tunnel to the agent of this node.
    Node(Name),
}

/// One backend to try for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Service it was picked for.
    pub service: ServiceId,
    /// The backend's address.
    pub backend: SocketAddr,
    /// Transport.
    pub protocol: Protocol,
    /// How to get there.
    pub hop: Hop,
    /// The client's namespace, where it is known and a TunnelPolicy of the backend asks for one.
    pub namespace: Option<Name>,
}

/// Why a connection has no target. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// No Service has this address and port.
    UnknownFrontend,
    /// The Service has no ready endpoint.
    NoEndpoints,
    /// `internalTrafficPolicy` or `externalTrafficPolicy` is `Local` and no ready endpoint is here.
    NoLocalEndpoints,
    /// The client is in none of `loadBalancerSourceRanges`.
    SourceNotAllowed,
    /// A peer asked for something that is no ready endpoint of a Service on this node.
    NotAnEndpoint,
    /// A TunnelPolicy of the Service does not name the peer's node or the client's namespace.
    NotAllowed,
    /// The peer speaks for no node, and the identity policy is `require`.
    PeerNotProven,
    /// The port is SCTP, which only the kernel's rules carry.
    UnsupportedProtocol,
    /// The bound on concurrent connections or sessions is reached.
    Overloaded,
}

impl RejectReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownFrontend => "unknown_frontend",
            Self::NoEndpoints => "no_endpoints",
            Self::NoLocalEndpoints => "no_local_endpoints",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::NotAnEndpoint => "not_an_endpoint",
            Self::NotAllowed => "not_allowed",
            Self::PeerNotProven => "peer_not_proven",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::Overloaded => "overloaded",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a target could not be connected. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialError {
    /// The backend answered with a reset, or its port is closed.
    Refused,
    /// No answer in time.
    Timeout,
    /// No route to the address.
    Unreachable,
    /// No peer is known for the node.
    PeerUnknown,
    /// The peer is known, and neither a direct way nor a relay leads to it.
    NoPath,
    /// The relay has no room for a circuit or a reservation.
    RelayFull,
    /// The remote agent does not admit the backend.
    NotAdmitted,
    /// The remote agent has no room for the stream.
    Overloaded,
    /// The stream broke before it was answered.
    Broken,
}

impl DialError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::PeerUnknown => "peer_unknown",
            Self::NoPath => "no_path",
            Self::RelayFull => "relay_full",
            Self::NotAdmitted => "not_admitted",
            Self::Overloaded => "overloaded",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
