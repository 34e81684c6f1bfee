//! What the state is told and what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edgemesh_api::Name;
use edgemesh_mesh::Path;
use serde::Serialize;

use crate::claim::{Claim, ClaimRefused, Enrolment, IdentityPolicy, Proof};
use crate::connection::ConnId;
use crate::control::Frame;
use crate::record::{Address, PeerId, PeerRecord, SignedRecord};
use crate::relay::RelayReason;
use crate::ways::{AttemptId, CarryId, Way};

/// What the tunnel is, fixed at its start.
#[derive(Clone, Debug)]
pub struct TunnelSpec {
    /// The own node's name; a relay or gateway may have none.
    pub node: Option<Name>,
    /// The own identity.
    pub peer: PeerId,
    /// The zone of the own node.
    pub zone: Option<Name>,
    /// Version of the software.
    pub version: Name,
    /// Whether the own node serves as a relay.
    pub relay: bool,
    /// The relays to use.
    pub relays: Vec<RelayTarget>,
    /// Sequence of the first own record; the time of start serves, so that it grows from run to run.
    pub sequence: u64,
    /// Seed of the random draws.
    pub seed: u64,
    /// What proves the own name, and whose proofs are asked for.
    pub identity: IdentitySpec,
}

/// What the tunnel knows of identities when it starts.
#[derive(Clone, Debug, Default)]
pub struct IdentitySpec {
    /// Whose claims of node names are believed.
    pub policy: IdentityPolicy,
    /// What the own record offers in proof of its name.
    pub proof: Proof,
    /// Names that tokens proved before the start.
    pub enrolled: Vec<Enrolment>,
}

/// A relay to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTarget {
    /// Where it listens: a multiaddr without identity, or `host:port` to be looked up at every dial.
    pub address: Address,
    /// Its identity, when it is known beforehand.
    pub peer: Option<PeerId>,
}

/// Names an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// How a connection was made, as the edge saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// To or from an address in a subnet of the own node.
    Lan,
    /// To or from any other address.
    Direct,
    /// By DCUtR.
    Punched,
    /// Through a relay's circuit; names the relay where it is known.
    Relayed(Option<PeerId>),
}

impl LinkKind {
    /// The path it means.
    pub fn path(&self) -> Path {
        match self {
            Self::Lan => Path::Lan,
            Self::Direct => Path::Direct,
            Self::Punched => Path::Punched,
            Self::Relayed(_) => Path::Relayed,
        }
    }
}

/// Why a dial or a reservation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nothing answers at the address.
    Unreachable,
    /// Something answers and the handshake fails.
    Handshake,
    /// Another peer answers.
    WrongPeer,
    /// The address is the own node's.
    Myself,
    /// The relay has no room.
    RelayFull,
    /// The relay knows no reservation of the peer.
    NoReservation,
    /// The relay does not serve as one, or denies.
    Denied,
    /// Anything else.
    Other,
}

impl Failure {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Handshake => "handshake",
            Self::WrongPeer => "wrong_peer",
            Self::Myself => "myself",
            Self::RelayFull => "relay_full",
            Self::NoReservation => "no_reservation",
            Self::Denied => "denied",
            Self::Other => "other",
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A connection came up.
    Connected {
        /// Its name.
        conn: ConnId,
        /// Whose it is.
        peer: PeerId,
        /// How it was made.
        kind: LinkKind,
        /// The remote address.
        address: Address,
        /// The attempt it came from, if it was one of ours.
        dial: Option<DialId>,
    },
    /// A connection is gone.
    Disconnected {
        /// Its name.
        conn: ConnId,
    },
    /// The peer told how it sees us: hole punching has an address to offer from now on.
    Identified {
        /// The connection.
        conn: ConnId,
    },
    /// The peer is an agent of Go EdgeMesh: it has no control stream, and the edge watches its pulse.
    Legacy {
        /// The connection.
        conn: ConnId,
    },
    /// A Go agent told which node it speaks for, and its identity is the one that follows from the name.
    Claimed {
        /// The connection.
        conn: ConnId,
        /// The node.
        node: Name,
    },
    /// The identity of the Go agent that a node may have, should nobody speak for it.
    Suspected {
        /// The node.
        node: Name,
        /// The identity that follows from its name.
        peer: PeerId,
    },
    /// A frame arrived on the control stream, but for records.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
    },
    /// A record arrived, and its signature was verified.
    Record {
        /// The connection.
        conn: ConnId,
        /// What it says.
        record: Box<PeerRecord>,
        /// As it came, to be passed on.
        signed: SignedRecord,
        /// What of its proof is true.
        claim: Box<Claim>,
    },
    /// The own record offers another proof from now on.
    Proof(Proof),
    /// A peer was found in the LAN.
    Discovered {
        /// Who.
        peer: PeerId,
        /// Where.
        address: Address,
    },
    /// A relay holds a reservation for us.
    Reserved {
        /// The relay.
        relay: PeerId,
    },
    /// A reservation was refused or has ended.
    ReservationLost {
        /// The relay.
        relay: PeerId,
        /// Why.
        failure: Failure,
    },
    /// An attempt to connect failed.
    DialFailed {
        /// The attempt.
        dial: DialId,
        /// Why.
        failure: Failure,
    },
    /// A stream to a node is wanted and there is no connection for it.
    Demand {
        /// The node.
        node: Name,
    },
    /// What moved on a connection.
    Activity {
        /// The connection.
        conn: ConnId,
        /// Streams open on it now.
        streams: u32,
        /// Bytes received on it so far, whatever they were: proof of life.
        received: u64,
    },
    /// The own listen addresses, complete.
    Listening {
        /// The addresses to tell.
        addresses: Vec<Address>,
    },
    /// A carrier came up.
    CarrierUp {
        /// Its name.
        carrier: CarryId,
        /// The attempt it came from; `None` when the peer made it.
        attempt: Option<AttemptId>,
        /// Whose it is.
        peer: PeerId,
        /// How it was made.
        way: Way,
    },
    /// A carrier is gone.
    CarrierDown {
        /// Its name.
        carrier: CarryId,
        /// Whose it was.
        peer: PeerId,
        /// It gave no sign of life any more.
        dead: bool,
    },
    /// An attempt to make a carrier failed.
    CarryFailed {
        /// The attempt.
        attempt: AttemptId,
        /// Whose it was.
        peer: PeerId,
        /// Why.
        failure: Failure,
    },
    /// What the session with a peer carries.
    SessionLoad {
        /// The peer.
        peer: PeerId,
        /// Streams open in it now.
        streams: u32,
    },
    /// A new snapshot of the mesh.
    Mesh {
        /// Nodes of endpoints: connections to them are kept warm.
        nodes: BTreeSet<Name>,
        /// Identities that Node objects vouch for.
        vouched: BTreeMap<Name, PeerId>,
    },
    /// The relays to use from now on. Those that stay keep their connections and reservations.
    Relays {
        /// All of them.
        relays: Vec<RelayTarget>,
    },
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialTo {
    /// A relay of the configuration.
    Relay {
        /// Its identity, when known.
        peer: Option<PeerId>,
        /// Where.
        address: Address,
    },
    /// A peer at its addresses.
    Peer {
        /// Who.
        peer: PeerId,
        /// Where.
        addresses: Vec<Address>,
    },
    /// A peer through circuits.
    Circuit {
        /// Who.
        peer: PeerId,
        /// Complete circuit addresses.
        addresses: Vec<Address>,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect; answered by [`Input::Connected`] or [`Input::DialFailed`] within the edge's dial timeout.
    Dial {
        /// The attempt.
        dial: DialId,
        /// What to connect to.
        to: DialTo,
    },
    /// Ask a relay for a reservation; answered by [`Input::Reserved`] or [`Input::ReservationLost`].
    Reserve {
        /// The relay, connected.
        relay: PeerId,
        /// Its address.
        address: Address,
    },
    /// Send a frame on the control stream.
    Send {
        /// The connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
    },
    /// Close a connection.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Make a carrier; answered by [`Input::CarrierUp`] or [`Input::CarryFailed`] within the edge's dial timeout.
    Carry {
        /// The attempt.
        attempt: AttemptId,
        /// To whom.
        peer: PeerId,
        /// How.
        way: Way,
    },
    /// End a carrier; what is open on it goes on on others.
    EndCarrier {
        /// Its name.
        carrier: CarryId,
    },
    /// An attempt to reach a node failed in full: whoever waited since before `started` need not wait on.
    GaveUp {
        /// The node.
        node: Name,
        /// When the attempt began.
        started: Instant,
    },
    /// Something an operator may want to know.
    Report(Report),
}

/// A change of state worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A relay is connected and holds a reservation (or needs none).
    RelayUp {
        /// Its address.
        address: Address,
    },
    /// A relay is not usable.
    RelayDown {
        /// Its address.
        address: Address,
        /// Why.
        reason: RelayReason,
    },
    /// The best path to a node changed.
    PathChanged {
        /// The node.
        node: Name,
        /// The path before.
        from: Path,
        /// The path now.
        to: Path,
    },
    /// A peer claims a node's name and is not believed.
    NameConflict {
        /// The node.
        node: Name,
        /// Who speaks for it, if anybody does.
        holder: Option<PeerId>,
        /// Who was refused.
        refused: PeerId,
        /// Why.
        reason: ClaimRefused,
    },
    /// The own Node object names another identity: the other nodes will not take this one for the node.
    NotVouched {
        /// The identity it names.
        vouched: PeerId,
    },
    /// A connection gave no sign of life and is closed.
    Dead {
        /// Whose it was.
        peer: PeerId,
        /// How it was made.
        path: Path,
        /// For how long it was silent.
        silent: Duration,
    },
}
