use std::net::SocketAddr;
use std::time::Duration;

use edgemesh_api::Protocol;
use edgemesh_mesh::{Path, ServiceId};

use crate::{DialError, RejectReason};

/// Which side of the mesh saw a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a client on this node.
    Outbound,
    /// From a peer, to a backend on this node.
    Inbound,
}

impl Direction {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Both directions ended.
    Closed,
    /// Nothing moved for the idle time.
    Idle,
    /// One side broke.
    Reset,
    /// A newer UDP session needed its place.
    Evicted,
    /// The agent is shutting down.
    Drained,
    /// There was no target.
    Rejected(RejectReason),
    /// No target could be connected; carries the last target's reason.
    Failed(DialError),
}

impl Outcome {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Reset => "reset",
            Self::Evicted => "evicted",
            Self::Drained => "drained",
            Self::Rejected(reason) => reason.as_str(),
            Self::Failed(error) => error.as_str(),
        }
    }
}

/// One connection or UDP session, told once when it ends: one access line and one count.
#[derive(Clone, Debug)]
pub struct Access {
    /// Which side saw it.
    pub direction: Direction,
    /// Transport.
    pub protocol: Protocol,
    /// The client, or the peer's address when inbound.
    pub client: String,
    /// What the client connected to.
    pub frontend: SocketAddr,
    /// The Service, when there is one.
    pub service: Option<ServiceId>,
    /// The backend that was connected.
    pub backend: Option<SocketAddr>,
    /// The path it took.
    pub path: Option<Path>,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    /// How long it lasted.
    pub duration: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Told of what happens on the data path. `admin` implements it.
pub trait Observe: Send + Sync + 'static {
    /// A connection or session began; balanced by one [`Observe::ended`].
    fn began(&self, direction: Direction, protocol: Protocol);
    /// A connection or session ended, or was never made.
    fn ended(&self, access: Access);
}
