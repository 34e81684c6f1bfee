//! The tunnel brain without I/O: peers, paths, relays, punching, stream headers.
//!
//! [`TunnelState`] is told what happened ([`Input`]) and says what to do ([`Action`]); the caller drains
//! [`TunnelState::poll_action`] after every input, publishes [`TunnelState::paths`] when
//! [`TunnelState::take_changed`] says so, and calls [`TunnelState::handle_timeout`] at
//! [`TunnelState::poll_timeout`]. Peer identities and multiaddrs are text here; libp2p stays at the edge.

pub mod circuit;
mod claim;
mod connection;
mod control;
mod decide;
mod directory;
mod event;
mod go;
mod header;
mod nat;
mod path;
mod peer;
mod punch;
mod record;
mod relay;
mod schedule;
pub mod session;
mod state;
mod ways;
mod wire;

pub use claim::{
    CLOCK_SKEW, Claim, ClaimRefused, Enrolment, IdentityPolicy, MAX_FORMER, MAX_TOKEN, Proof,
    SUCCESSION_DOMAIN, SignedToken, Succession, TOKEN_DOMAIN, Token, TokenError, TokenId, succession,
};
pub use connection::{ConnId, DEAD_AFTER, PING_BUSY, PING_IDLE};
pub use control::{CONTROL_PROTOCOL, Frame, FrameError, MAX_FRAME};
pub use directory::{CONFLICT_HOLD, Conflict, MAX_RECORDS};
pub use event::{
    Action, DialId, DialTo, Failure, IdentitySpec, Input, LinkKind, RelayTarget, Report, TunnelSpec,
};
pub use go::{
    DISCOVERY_PROTOCOL, Discovery, GoMessageError, MAX_GO_DATAGRAM, MAX_GO_MESSAGE, MessageType,
    PROXY_PROTOCOL, Proxy, identity_seed, private_network_key,
};
pub use header::{
    Answer, CARRIER_PROTOCOL, HeaderError, MAX_DATAGRAM, MAX_HEADER, StreamHeader, datagram_prefix,
    split_datagram,
};
pub use nat::{NatKind, expected};
pub use path::UnreachableReason;
pub use punch::PUNCH_STEPS;
pub use record::{Address, MAX_RECORD, PeerId, PeerRecord, RecordError, SIGNING_DOMAIN, Sign, SignedRecord};
pub use relay::{RelayReason, RelayState, RelayView};
pub use state::{ConnectionView, PeerView, TunnelState};
pub use ways::{AttemptId, CarryId, Way};
