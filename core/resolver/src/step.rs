use std::net::SocketAddr;
use std::time::Instant;

use crate::upstream::AskFailure;
use crate::wire::Transport;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The answer is in the buffer.
    Reply(Origin),
    /// The client waits; its answer comes as [`Output::Answer`].
    Pending,
    /// Nothing is sent.
    Drop(DropReason),
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The snapshot.
    Cluster,
    /// The cache, within its TTL.
    Cache,
    /// The cache, past its TTL.
    Stale,
    /// An upstream, just now.
    Upstream,
    /// Nowhere: no upstream answered, or no snapshot is there yet.
    Failed,
    /// Nowhere: too many questions are in flight.
    Shed,
    /// Nowhere: the query is malformed or asks for what is not given.
    Refused,
}

impl Origin {
    /// Every origin, for counters.
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Cache, Self::Stale, Self::Upstream, Self::Failed, Self::Shed, Self::Refused];

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Failed => "failed",
            Self::Shed => "shed",
            Self::Refused => "refused",
        }
    }
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It has no complete header, so there is no id to answer to.
    Short,
    /// It is a response.
    Response,
}

impl DropReason {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
        }
    }
}

/// Names one attempt at one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskId {
    pub(crate) slot: usize,
    pub(crate) serial: u32,
}

/// A question to send to an upstream. Exactly one `handle_upstream` must follow, at the deadline at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// For `handle_upstream`.
    pub id: AskId,
    /// The upstream.
    pub server: SocketAddr,
    /// How to ask.
    pub transport: Transport,
    /// The message, to be sent from a fresh socket so that its source port is a random one (RFC 5452).
    pub message: Vec<u8>,
    /// When to give up.
    pub deadline: Instant,
}

/// Something for the log; each is said once per change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This upstream sends our questions back to us; it is passed over for a while. Said once per list of upstreams.
    Loop(SocketAddr),
    /// This upstream does not answer.
    UpstreamDown(SocketAddr, AskFailure),
    /// This upstream answers again.
    UpstreamUp(SocketAddr),
}

/// What the resolver wants done. `C` names a client as the caller likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<C> {
    /// Ask an upstream.
    Ask(Ask),
    /// Send an answer to a client that was [`Step::Pending`].
    Answer {
        /// The client.
        client: C,
        /// The answer.
        message: Vec<u8>,
        /// Where it came from.
        origin: Origin,
    },
    /// Tell the operator.
    Notice(Notice),
}
