use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::Name;

use crate::HostFacts;

/// How a node is reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The node itself.
    Local,
    /// A direct connection inside one LAN.
    Lan,
    /// A direct connection to an address that is reachable from outside its LAN.
    Direct,
    /// A direct connection through two NATs, made by hole punching.
    Punched,
    /// Through a relay's circuit.
    Relayed,
    /// Known, and no way to it at the moment.
    Unreachable,
}

impl Path {
    /// The word for status, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Relayed => "relayed",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The best path to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePath {
    /// Its kind.
    pub path: Path,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Where the node was authenticated inside the LAN, for [`Path::Lan`]: an address that is certainly the node's.
    pub lan_address: Option<IpAddr>,
}

impl NodePath {
    /// A path without a measurement or address.
    pub fn new(path: Path) -> Self {
        Self { path, rtt: None, lan_address: None }
    }
}

/// The best path to every node a peer was found for, as the tunnel publishes it, and what the host itself reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSnapshot {
    /// By node name.
    pub nodes: BTreeMap<Name, NodePath>,
    /// What the host is.
    pub host: Arc<HostFacts>,
}

impl PathSnapshot {
    /// The path to a node; a node nobody heard of yet is unreachable.
    pub fn path(&self, node: &str) -> Path {
        self.nodes.get(node).map_or(Path::Unreachable, |entry| entry.path)
    }

    /// The address at which a node of the own LAN proved who it is.
    pub fn lan_address(&self, node: &str) -> Option<IpAddr> {
        self.nodes.get(node)?.lan_address
    }
}
