//! The libp2p behaviours of a node, and their limits.

use std::sync::Arc;
use std::time::Duration;

use edgemesh_tunnel_proto::PING_IDLE;
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{connection_limits, dcutr, identify, ping, relay};
use tokio::sync::mpsc;

use crate::control::Received;
use crate::go::GoPeers;
use crate::inbound::Gate;
use crate::settings::TunnelSettings;
use crate::streams;

/// Handshakes in progress; each is bounded by the transport's timeout of 10 s.
const MAX_PENDING: u32 = 512;

/// Connections to one peer: a direct and a relayed one from either side, and their successors while they drain.
const MAX_PER_PEER: u32 = 8;

/// A reservation lasts as long as its connection, which the state watches. libp2p compares the relay's clock with
/// the client's when it reads the expiry, and refuses what seems over: nodes whose clock runs ahead must not fail.
const RESERVATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The longest a circuit may last is what the protocol's 32 bits of seconds hold.
const CIRCUIT: Duration = Duration::from_secs(u32::MAX as u64);

/// libp2p's ping is only answered; the pulse of connections is the control stream's.
const PING: Duration = Duration::from_secs(15 * 60);

/// Go agents have no control stream; as often as idle connections are asked there.
const GO_PING: Duration = PING_IDLE;

/// What identify calls the protocol family.
const PROTOCOL: &str = "/edgemesh/1.0.0";

/// Limits come first: what they deny, no other behaviour must have seen.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    client: relay::client::Behaviour,
    server: Toggle<relay::Behaviour>,
    dcutr: dcutr::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) streams: streams::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        key: &Keypair,
        settings: &TunnelSettings,
        client: relay::client::Behaviour,
        gate: Arc<Gate>,
        frames: mpsc::Sender<Received>,
        go: Option<Arc<GoPeers>>,
    ) -> Self {
        let own = key.public().to_peer_id();
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING))
            .with_max_pending_outgoing(Some(MAX_PENDING))
            .with_max_established(Some(settings.limits.connections))
            .with_max_established_per_peer(Some(MAX_PER_PEER));
        let server = settings.relay.then(|| {
            let mut server = relay::Behaviour::new(own, relay_config(settings));
            server.set_status(Some(relay::Status::Enable));
            server
        });
        let identify = identify::Config::new(PROTOCOL.to_owned(), key.public())
            .with_agent_version(concat!("edgemesh/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_cache_size(0);
        Self {
            limits: connection_limits::Behaviour::new(limits),
            client,
            server: server.into(),
            dcutr: dcutr::Behaviour::new(own),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(if go.is_some() {
                GO_PING
            } else {
                PING
            })),
            streams: streams::Behaviour::new(gate, frames, go),
        }
    }
}

/// No rate limits: a cluster behind one NAT comes from one address, and all of it returns at once after a cut.
fn relay_config(settings: &TunnelSettings) -> relay::Config {
    relay::Config {
        max_reservations: settings.limits.relay_circuits,
        max_reservations_per_peer: MAX_PER_PEER as usize,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: settings.limits.relay_circuits,
        max_circuits_per_peer: settings.limits.relay_circuits_per_peer,
        max_circuit_duration: CIRCUIT,
        // Zero means no limit.
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: Vec::new(),
    }
}
