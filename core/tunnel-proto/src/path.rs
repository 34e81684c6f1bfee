//! Which connection is better, and why there is none.

use std::fmt;

use edgemesh_mesh::Path;
use edgemesh_route::DialError;
use serde::Serialize;

/// Why no stream can be opened to a node now. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreachableReason {
    /// The peer is not in reach directly and this node has no relay configured.
    NoRelay,
    /// No relay answers.
    RelayUnreachable,
    /// Something answers at the address, and the handshake fails: most often another pre-shared key.
    PskMismatchSuspected,
    /// The relay has no room for a reservation or a circuit.
    RelayFull,
    /// No peer speaks for the node, as far as this node was told.
    PeerUnknown,
    /// The peer is known and did not answer on any way.
    DialFailed,
}

impl UnreachableReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRelay => "no_relay",
            Self::RelayUnreachable => "relay_unreachable",
            Self::PskMismatchSuspected => "psk_mismatch_suspected",
            Self::RelayFull => "relay_full",
            Self::PeerUnknown => "peer_unknown",
            Self::DialFailed => "dial_failed",
        }
    }

    /// What it means and what to look at.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoRelay => "it is not in reach directly, and no relay is configured: name one with --relay",
            Self::RelayUnreachable => {
                "no relay answers: the link is away, or the relay's address or port is wrong"
            }
            Self::PskMismatchSuspected => {
                "the handshake fails as it does with another private-network key: compare the key files"
            }
            Self::RelayFull => "the relay has no room for a reservation or circuit",
            Self::PeerUnknown => {
                "no agent has told that it speaks for this node: is it running, under this --node-name, with the same relay?"
            }
            Self::DialFailed => "its agent is known and does not answer on any way",
        }
    }

    /// What the proxy is told.
    pub fn dial_error(self) -> DialError {
        match self {
            Self::PeerUnknown => DialError::PeerUnknown,
            Self::RelayFull => DialError::RelayFull,
            Self::NoRelay | Self::RelayUnreachable | Self::PskMismatchSuspected | Self::DialFailed => {
                DialError::NoPath
            }
        }
    }
}

impl fmt::Display for UnreachableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Smaller is better.
pub(crate) fn rank(path: Path) -> u8 {
    match path {
        Path::Local => 0,
        Path::Lan => 1,
        Path::Direct => 2,
        Path::Punched => 3,
        Path::Relayed => 4,
        Path::Unreachable => 5,
    }
}
