use std::net::SocketAddr;

use edgemesh_api::Name;
use edgemesh_mesh::{Distribution, Frontend, FrontendEntry, Policy};
use serde::Serialize;

use crate::{Admission, RejectReason};

/// What becomes of one endpoint in a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Tried first.
    Chosen,
    /// As good as the chosen one; its turn is another time.
    OtherTurn,
    /// A nearer one is preferred.
    Farther,
    /// Its hints give it to other nodes or zones.
    NotHinted,
    /// No path leads to its node.
    PathUnreachable,
    /// A dial to it just failed.
    Ejected,
    /// Not ready.
    NotReady,
    /// Being deleted while others are ready.
    Terminating,
    /// On another node, and the traffic policy for the frontend is `Local`.
    OtherNode,
    /// The client is in none of `loadBalancerSourceRanges`.
    SourceNotAllowed,
    /// Of the other address family, and the client's family has endpoints.
    OtherFamily,
    /// A virtual address, which cannot be an endpoint.
    IsFrontend,
}

impl Verdict {
    /// The log word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::OtherTurn => "other_turn",
            Self::Farther => "farther",
            Self::NotHinted => "not_hinted",
            Self::PathUnreachable => "path_unreachable",
            Self::Ejected => "ejected",
            Self::NotReady => "not_ready",
            Self::Terminating => "terminating",
            Self::OtherNode => "other_node",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::OtherFamily => "other_family",
            Self::IsFrontend => "is_frontend",
        }
    }

    /// The same in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Chosen => "tried first",
            Self::OtherTurn => "as good as the chosen one, its turn is another time",
            Self::Farther => "a nearer endpoint is preferred (trafficDistribution)",
            Self::NotHinted => "its hints give it to other nodes or zones",
            Self::PathUnreachable => "no path leads to its node at the moment",
            Self::Ejected => "a dial to it failed a moment ago",
            Self::NotReady => "not ready",
            Self::Terminating => "being deleted while other endpoints are ready",
            Self::OtherNode => "on another node, and the traffic policy for this address is Local",
            Self::SourceNotAllowed => "the client is in none of loadBalancerSourceRanges",
            Self::OtherFamily => "of the other address family",
            Self::IsFrontend => "a Service address cannot be an endpoint",
        }
    }
}

/// One endpoint in an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its address.
    pub backend: SocketAddr,
    /// The node it runs on.
    pub node: Option<Name>,
    /// The zone it runs in.
    pub zone: Option<Name>,
    /// The Pod behind it.
    pub pod: Option<String>,
    /// The path to its node.
    pub path: &'static str,
    /// How the kernel of this node reaches it, or the word for why it does not.
    pub kernel: &'static str,
    /// Why the kernel does not reach it, in words.
    pub kernel_reason: Option<&'static str>,
    /// What TunnelPolicies say, when it is on another node.
    pub admission: Admission,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The verdict in words.
    pub reason: &'static str,
    /// At which place it is tried, from 1; `None` when it is not.
    pub order: Option<usize>,
    /// Whether the client's session leads to it.
    pub session: bool,
}

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was asked for, as `address:port/protocol`.
    pub frontend: String,
    /// The Service, as `namespace/name`.
    pub service: Option<String>,
    /// From where clients know the frontend: `cluster`, `external`, `load_balancer` or `node_port`.
    pub scope: Option<&'static str>,
    /// How one endpoint is picked.
    pub policy: Option<&'static str>,
    /// Which endpoints are preferred.
    pub distribution: Option<&'static str>,
    /// The timeout of `ClientIP` persistence.
    pub affinity_seconds: Option<u64>,
    /// Every endpoint, in the snapshot's order.
    pub candidates: Vec<Candidate>,
    /// Why the connection goes nowhere.
    pub reject: Option<RejectReason>,
}

impl Explanation {
    pub(crate) fn rejected(frontend: &Frontend, reason: RejectReason) -> Self {
        Self {
            frontend: frontend.to_string(),
            service: None,
            scope: None,
            policy: None,
            distribution: None,
            affinity_seconds: None,
            candidates: Vec::new(),
            reject: Some(reason),
        }
    }

    pub(crate) fn of_service(
        frontend: &Frontend,
        entry: &FrontendEntry,
        candidates: Vec<Candidate>,
        reject: Option<RejectReason>,
    ) -> Self {
        let service = &entry.service;
        Self {
            frontend: frontend.to_string(),
            scope: Some(entry.scope.as_str()),
            service: Some(service.id.to_string()),
            policy: Some(match service.policy {
                Policy::RoundRobin => "round_robin",
                Policy::Random => "random",
                Policy::SourceIpHash => "source_ip_hash",
            }),
            distribution: Some(match service.distribution {
                Distribution::Spread => "spread",
                Distribution::PreferSameZone => "prefer_same_zone",
                Distribution::PreferSameNode => "prefer_same_node",
            }),
            affinity_seconds: service.affinity.map(|timeout| timeout.as_secs()),
            candidates,
            reject,
        }
    }
}
