use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use edgemesh_tunnel_proto::session::CarrierId;
use edgemesh_tunnel_proto::{ClaimRefused, Conflict, RelayView, UnreachableReason};
use serde::Serialize;

use crate::carrier::session::PeerSession;
use crate::circuit::CircuitStatus;
use crate::go::GoPeers;
use crate::inbound::Gate;
use crate::secrets::Secrets;
use crate::stream::PeerCounts;

/// The tunnel as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelStatus {
    /// The own identity.
    pub peer_id: String,
    /// Where the tunnel listens.
    pub listen: Vec<String>,
    /// The relays of the configuration.
    pub relays: Vec<RelayView>,
    /// Every connected peer.
    pub peers: Vec<PeerStatus>,
    /// How many of them are agents of Go EdgeMesh, whose identity anybody in the private network can have.
    pub legacy_peers: usize,
    /// Nodes with endpoints that no connection leads to.
    pub unreachable: Vec<UnreachableNode>,
    /// Whose claims of node names are believed: `require`, `prefer` or `off`.
    pub identity: &'static str,
    /// Claims of node names that are not believed.
    pub conflicts: Vec<Conflict>,
    /// Claims that were refused since the start, by reason.
    pub refused_claims: BTreeMap<&'static str, u64>,
    /// Files of keys and tokens whose newest content is not taken over.
    pub problems: Vec<String>,
    /// What was refused since the start.
    pub refused: RefusedCounts,
    /// The circuits of others; `None` where this node does not relay.
    pub circuits: Option<CircuitStatus>,
}

/// A node that cannot be reached now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreachableNode {
    /// Its name.
    pub node: String,
    /// Why.
    pub reason: UnreachableReason,
    /// The same in words, with what to look at.
    pub words: &'static str,
}

/// A connected peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The node it speaks for; `None` for relays without one, and for peers whose claim is refused.
    pub node: Option<String>,
    /// Its identity.
    pub peer: String,
    /// The zone of its node.
    pub zone: Option<String>,
    /// Version of its software.
    pub version: Option<String>,
    /// It is an agent of Go EdgeMesh.
    pub legacy: bool,
    /// The path new streams take.
    pub path: &'static str,
    /// The remote address of that path.
    pub address: String,
    /// Smoothed round-trip time of that path.
    pub rtt_ms: Option<f64>,
    /// Connections to it, of any path.
    pub connections: usize,
    /// Bytes of streams received from it.
    pub bytes_in: u64,
    /// Bytes of streams sent to it.
    pub bytes_out: u64,
    /// Streams it has open to this node.
    pub streams_in: u32,
    /// Streams this node has open to it.
    pub streams_out: u32,
    /// For how many seconds the path stands.
    pub since_s: u64,
    /// The carriers of its session, the one of new streams first.
    pub carriers: Vec<CarrierStatus>,
}

/// A byte pipe that the session with a peer rides.
#[derive(Clone, Debug, Serialize)]
pub struct CarrierStatus {
    /// `tls`, `circuit` or `substream`.
    pub kind: &'static str,
    /// The path it takes.
    pub path: &'static str,
    /// The relay of a circuit.
    pub relay: Option<String>,
    /// Whether new streams use it.
    pub best: bool,
    /// Smoothed round-trip time.
    pub rtt_ms: Option<f64>,
    /// Streams that ride it, in either direction.
    pub streams: usize,
    /// Payload bytes received by it.
    pub bytes_in: u64,
    /// Payload bytes sent by it.
    pub bytes_out: u64,
}

/// What was refused; each field is a metric label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusedCounts {
    /// Handshakes that failed as they do with another pre-shared key.
    pub psk_mismatch: u64,
    /// Streams with a malformed header.
    pub malformed_header: u64,
    /// Streams beyond the bounds.
    pub overloaded: u64,
    /// Peer records that do not verify.
    pub bad_record: u64,
    /// Node names that Go agents claimed and that do not go with their identity.
    pub go_name: u64,
    /// Carriers of peers that do not have the private network's key.
    pub not_member: u64,
    /// Streams of peers whose names are not proven.
    pub unproven: u64,
}

/// The parts of the status that change by events; counters are read when it is asked for.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) listen: Vec<String>,
    pub(crate) relays: Vec<RelayView>,
    pub(crate) peers: Vec<PublishedPeer>,
    pub(crate) unreachable: Vec<UnreachableNode>,
    pub(crate) conflicts: Vec<Conflict>,
}

pub(crate) struct PublishedPeer {
    pub(crate) status: PeerStatus,
    pub(crate) since: Instant,
    pub(crate) counts: Arc<PeerCounts>,
    pub(crate) session: Option<Arc<PeerSession>>,
    /// The carriers of the session; what moves is asked for with the status.
    pub(crate) carriers: Vec<(CarrierId, CarrierStatus)>,
}

impl Published {
    pub(crate) fn status(
        &self,
        peer_id: String,
        gate: &Gate,
        go: Option<&GoPeers>,
        secrets: &Secrets,
        circuits: Option<CircuitStatus>,
    ) -> TunnelStatus {
        let refused = &gate.refused;
        TunnelStatus {
            peer_id,
            listen: self.listen.clone(),
            relays: self.relays.clone(),
            peers: self.peers.iter().map(PublishedPeer::now).collect(),
            legacy_peers: self.peers.iter().filter(|peer| peer.status.legacy).count(),
            unreachable: self.unreachable.clone(),
            identity: secrets.policy.as_str(),
            conflicts: self.conflicts.clone(),
            refused_claims: ClaimRefused::ALL
                .iter()
                .zip(&refused.claims)
                .map(|(reason, count)| (reason.as_str(), count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            problems: secrets.problems(),
            refused: RefusedCounts {
                psk_mismatch: refused.psk_mismatch.load(Ordering::Relaxed),
                malformed_header: refused.malformed_header.load(Ordering::Relaxed),
                overloaded: refused.overloaded.load(Ordering::Relaxed),
                bad_record: refused.bad_record.load(Ordering::Relaxed),
                go_name: go.map_or(0, |go| go.refused.load(Ordering::Relaxed)),
                not_member: refused.not_member.load(Ordering::Relaxed),
                unproven: refused.unproven.load(Ordering::Relaxed),
            },
            circuits,
        }
    }
}

impl PublishedPeer {
    fn now(&self) -> PeerStatus {
        PeerStatus {
            bytes_in: self.counts.received.load(Ordering::Relaxed),
            bytes_out: self.counts.sent.load(Ordering::Relaxed),
            streams_in: self.counts.streams_in.load(Ordering::Relaxed),
            streams_out: self.counts.streams_out.load(Ordering::Relaxed),
            since_s: self.since.elapsed().as_secs(),
            carriers: self.carriers_now(),
            ..self.status.clone()
        }
    }

    fn carriers_now(&self) -> Vec<CarrierStatus> {
        let Some(session) = &self.session else { return Vec::new() };
        let view = session.view();
        let mut carriers: Vec<CarrierStatus> = self
            .carriers
            .iter()
            .filter_map(|(id, status)| {
                let carrier = view.carriers.iter().find(|carrier| carrier.id == *id)?;
                Some(CarrierStatus {
                    best: carrier.best,
                    rtt_ms: carrier.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                    streams: carrier.sending.max(carrier.receiving),
                    bytes_in: carrier.received,
                    bytes_out: carrier.sent,
                    ..status.clone()
                })
            })
            .collect();
        carriers.sort_by_key(|carrier| !carrier.best);
        carriers
    }
}
