use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use edgemesh_api::Name;
use edgemesh_tunnel_proto::identity_seed;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;

/// Claims on their way to the driver; it takes them within one turn of its loop.
const CLAIM_QUEUE: usize = 64;

/// Identities whose circuits are known to have the private network's layer; as many as peers have records.
const MAX_KNOWN: usize = 4096;

/// Names whose identities are remembered: making one takes some ten microseconds.
const MAX_DERIVED: usize = 4096;

/// A Go agent said which node it speaks for, and its identity is the one that follows from the name.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) connection: ConnectionId,
    pub(crate) node: Name,
}

/// What is known of Go agents.
pub(crate) struct GoPeers {
    /// The own node's name, which they are told.
    pub(crate) node: Option<Name>,
    claims: mpsc::Sender<Claim>,
    known: Mutex<Vec<PeerId>>,
    derived: Mutex<BTreeMap<Name, PeerId>>,
    /// Names that did not go with the identity.
    pub(crate) refused: AtomicU64,
    complained: AtomicBool,
}

impl GoPeers {
    pub(crate) fn new(node: Option<Name>) -> (Self, mpsc::Receiver<Claim>) {
        let (claims, receiver) = mpsc::channel(CLAIM_QUEUE);
        let peers = Self {
            node,
            claims,
            known: Mutex::default(),
            derived: Mutex::default(),
            refused: AtomicU64::new(0),
            complained: AtomicBool::new(false),
        };
        (peers, receiver)
    }

    /// The identity of a Go agent on a node.
    pub(crate) fn identity(&self, node: &Name) -> Option<PeerId> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = derived.get(node) {
            return Some(*peer);
        }
        let peer = Keypair::ed25519_from_bytes(identity_seed(node)).ok()?.public().to_peer_id();
        if derived.len() >= MAX_DERIVED {
            derived.pop_first();
        }
        derived.insert(node.clone(), peer);
        Some(peer)
    }

    /// Whether the peer is known to be a Go agent, or can be nothing else.
    pub(crate) fn knows(&self, peer: &PeerId) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).binary_search(peer).is_ok()
    }

    pub(crate) fn learn(&self, peer: PeerId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(place) = known.binary_search(&peer)
            && known.len() < MAX_KNOWN
        {
            known.insert(place, peer);
        }
    }

    /// Passes a name on if it goes with the identity, which is its only proof; says whether it does.
    pub(crate) async fn claim(&self, connection: ConnectionId, peer: PeerId, node: &str) -> bool {
        let name = Name::from(node);
        let proven = !node.is_empty() && self.identity(&name) == Some(peer);
        if proven {
            self.learn(peer);
            // The driver may be gone.
            let _ = self.claims.send(Claim { connection, node: name }).await;
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!(%peer, ?node, reason = "go_name", "an agent claims a node name that its identity does not follow from");
            }
        }
        proven
    }
}
