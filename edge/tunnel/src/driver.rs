//! Joins libp2p's swarm with the state that decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::Name;
use edgemesh_mesh::{Generation, MeshSnapshot, PathSnapshot};
use edgemesh_net::meet::Serve;
use edgemesh_route::DialError;
use edgemesh_tunnel_proto::{
    Action, AttemptId, CarryId, ConnId, DialId, DialTo, Enrolment, Failure, Frame, IdentityPolicy,
    IdentitySpec, Input, PeerRecord, Proof, RecordError, RelayTarget, Report, SIGNING_DOMAIN, Sign,
    SignedRecord, TunnelSpec, TunnelState, Way,
};
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::identity::{Keypair, PublicKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::behaviour::Behaviour;
use crate::carrier::{CarrierEvent, Carriers, EVENT_QUEUE};
use crate::circuit::server::{RING_QUEUE, Relay, Ring};
use crate::circuit::{Member, Taps};
use crate::control::{FRAME_QUEUE, Received};
use crate::dials::{Dials, LookedUp};
use crate::go::{Claim, GoLink, GoPeers};
use crate::handle::{DEMAND_QUEUE, Demand, Route, Shared, TunnelHandle};
use crate::inbound::Gate;
use crate::interfaces::Interfaces;
use crate::key::node_key;
use crate::mdns::{self, Found};
use crate::secrets::Secrets;
use crate::settings::{RelayAddress, TunnelError, TunnelSettings};
use crate::status::{PeerStatus, Published, PublishedPeer, UnreachableNode};
use crate::stream::PeerCounts;
use crate::streams::Link;
use crate::text::{address_text, ip_of, peer_from, peer_text, tcp_multiaddr, without_peer};
use crate::transport::{self, DIVERTED_QUEUE, Diverted, Meters};
use carry::Ridden;

mod carry;
mod circuits;
mod enrol;
mod events;
mod legacy;

/// How often the snapshot of the mesh is compared: a new node is warm a second after its endpoint is known.
const MESH_PERIOD: Duration = Duration::from_secs(1);

/// Addresses dialled at once: all that DCUtR may offer (20), as an attempt is in time for the other side's or fails.
const DIAL_AT_ONCE: NonZeroU8 = NonZeroU8::new(32).expect("32 is not zero");

/// With many connections the state is asked at most this often for what time brings; far below its shortest pause.
const CROWD_PAUSE: Duration = Duration::from_millis(50);
const CROWD: usize = 64;

/// Inputs taken in one turn before the state decides: a relay tells of thousands of peers at once.
const BATCH: usize = 256;

/// Streams waiting for a route. As many as there may be inbound.
const MAX_WAITING: usize = 4096;

/// A stream that waited this long shares the fate of an attempt that began before it came.
const WAITED: Duration = Duration::from_secs(2);

/// Remote addresses whose failed handshakes are counted.
const MAX_COMPLAINTS: usize = 1024;

/// The tunnel of a node.
pub struct Tunnel;

impl Tunnel {
    /// Starts the tunnel and returns at once: relays, peers and the cloud are found while it runs. It ends with
    /// `shutdown`.
    pub fn start(
        settings: TunnelSettings,
        serve: Arc<dyn Serve>,
        snapshots: Arc<ArcSwap<MeshSnapshot>>,
        shutdown: CancellationToken,
    ) -> Result<TunnelHandle, TunnelError> {
        let key = node_key(&settings.key_file)?;
        let own = key.public().to_peer_id();
        let secrets = Arc::new(Secrets::load(&settings, own)?);
        let meters = Meters::default();
        let takes_listeners = Arc::new(AtomicBool::new(false));
        let (go, claims) = GoPeers::new(settings.node.clone());
        let go = settings.go_peers.then(|| Arc::new(go));
        let (ours_in, ours) = mpsc::channel(DIVERTED_QUEUE);
        let (transport, client) = transport::build(
            &key,
            secrets.psks.clone(),
            &meters,
            takes_listeners.clone(),
            ours_in,
            go.clone(),
        )
        .map_err(|error| TunnelError::Transport(error.to_string()))?;
        let gate = Arc::new(Gate::new(
            serve,
            settings.limits,
            secrets.policy == IdentityPolicy::Require,
            shutdown.clone(),
        ));
        let (frames_in, frames) = mpsc::channel(FRAME_QUEUE);
        let behaviour = Behaviour::new(&key, &settings, client, gate.clone(), frames_in, go.clone());
        let (carrier_events, carried) = mpsc::channel(EVENT_QUEUE);
        let peers = behaviour.streams.peers();
        let carriers = Carriers::new(
            &key,
            secrets.psks.clone(),
            gate.clone(),
            move |peer| peers.counts(peer),
            carrier_events,
        )
        .map_err(|error| TunnelError::Transport(error.to_string()))?;
        let config = libp2p::swarm::Config::with_tokio_executor()
            .with_dial_concurrency_factor(DIAL_AT_ONCE)
            // Saves the round trip of multistream-select on every stream.
            .with_substream_upgrade_protocol_override(libp2p::core::upgrade::Version::V1Lazy);
        let mut swarm = Swarm::new(transport, behaviour, own, config);
        let outgoing = listen_outgoing(&mut swarm, &settings, &takes_listeners);
        listen(&mut swarm, &settings)?;

        let (rings_in, rings) = mpsc::channel(RING_QUEUE);
        let relay = settings.relay.then(|| {
            let member = Member::new(key.clone(), secrets.psks.clone());
            Relay::new(member, settings.limits.circuits(), rings_in, shutdown.child_token())
        });
        let shared = Arc::new(Shared {
            peer_id: own.to_base58(),
            routes: ArcSwap::default(),
            paths: Arc::new(ArcSwap::from_pointee(PathSnapshot::default())),
            status: ArcSwap::default(),
            gate,
            go,
            relay,
            taps: Taps::default(),
            secrets: secrets.clone(),
            changes: watch::channel(0).0,
        });
        let member = Arc::new(Member::new(key.clone(), secrets.psks.clone()));
        let (demands_in, demands) = mpsc::channel(DEMAND_QUEUE);
        let (dials, lookups) = Dials::new();
        let (advertised, told) = watch::channel(Vec::new());
        let found = mdns::start(&settings, own, told, &shared.gate);
        let (relays_in, relays) = watch::channel(settings.relays.clone());
        let proofs = secrets.proof();
        shared.gate.spawn(secrets.clone().follow());
        let (enrolled, proven) = watch::channel(Vec::new());
        shared.gate.spawn(secrets.clone().keep(proven));
        let now = Instant::now();
        let driver = Driver {
            state: TunnelState::new(spec(&settings, own, &secrets), Box::new(Signer(key)), now),
            swarm,
            shared: shared.clone(),
            snapshots,
            generation: None,
            links: BTreeMap::new(),
            conns: HashMap::new(),
            next_conn: 0,
            dials,
            pending_relays: HashMap::new(),
            reservations: HashMap::new(),
            outgoing,
            outgoing_ports: BTreeSet::new(),
            listening: BTreeSet::new(),
            own_ips: HashSet::new(),
            advertised,
            observed: HashSet::new(),
            interfaces: Interfaces::new(settings.skip_interfaces.clone()),
            meters,
            member,
            carriers,
            ridden: BTreeMap::new(),
            waiting: BTreeMap::new(),
            complaints: HashMap::new(),
            relays: settings.relays.iter().map(|relay| (relay.name(), relay.multiaddr())).collect(),
            settings,
            enrolled,
            ran: now,
            dirty: true,
        };
        let inbox = Inbox { frames, demands, lookups, found, relays, claims, carried, ours, rings, proofs };
        tokio::spawn(driver.run(inbox, shutdown));
        Ok(TunnelHandle { shared, demands: demands_in, relays: relays_in })
    }
}

/// The relays as the state knows them; the node itself is none.
fn targets(relays: &[RelayAddress], own: PeerId) -> Vec<RelayTarget> {
    let others = relays.iter().filter(|relay| relay.peer != Some(own));
    others
        .map(|relay| RelayTarget {
            address: edgemesh_tunnel_proto::Address::new(relay.name()),
            peer: relay.peer.as_ref().map(peer_text),
        })
        .collect()
}

fn spec(settings: &TunnelSettings, own: PeerId, secrets: &Secrets) -> TunnelSpec {
    TunnelSpec {
        node: settings.node.clone(),
        peer: peer_text(&own),
        zone: settings.zone.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        relay: settings.relay,
        relays: targets(&settings.relays, own),
        sequence: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        seed: fastrand::u64(..),
        identity: IdentitySpec {
            policy: secrets.policy,
            proof: secrets.proof().borrow().clone(),
            enrolled: secrets.files.enrolments(),
        },
    }
}

/// Binds the listen addresses. `[::]` means both families, each with a socket of its own; a kernel without IPv6 is
/// served by IPv4 alone.
fn listen(swarm: &mut Swarm<Behaviour>, settings: &TunnelSettings) -> Result<(), TunnelError> {
    for &address in &settings.listen {
        let both = address.ip() == IpAddr::from([0u16; 8]);
        if both {
            let v4 = SocketAddr::new(IpAddr::from([0u8; 4]), address.port());
            bind(swarm, v4)?;
            if let Err(error) = bind(swarm, address) {
                tracing::info!(%error, "the tunnel listens on IPv4 only");
            }
        } else {
            bind(swarm, address)?;
        }
    }
    for &address in &settings.advertise {
        swarm.add_external_address(tcp_multiaddr(address));
    }
    Ok(())
}

/// Opens the ports from which is dialled, one for each family.
fn listen_outgoing(
    swarm: &mut Swarm<Behaviour>,
    settings: &TunnelSettings,
    takes_listeners: &AtomicBool,
) -> HashSet<ListenerId> {
    if !settings.punch {
        return HashSet::new();
    }
    takes_listeners.store(true, Ordering::Relaxed);
    let families = [IpAddr::from([0u8; 4]), IpAddr::from([0u16; 8])];
    let listeners = families
        .into_iter()
        // A family the kernel lacks needs no port.
        .filter_map(|ip| swarm.listen_on(tcp_multiaddr(SocketAddr::new(ip, 0))).ok())
        .collect();
    takes_listeners.store(false, Ordering::Relaxed);
    listeners
}

fn bind(swarm: &mut Swarm<Behaviour>, address: SocketAddr) -> Result<(), TunnelError> {
    match swarm.listen_on(tcp_multiaddr(address)) {
        Ok(_) => Ok(()),
        Err(libp2p::TransportError::Other(error)) => Err(TunnelError::Listen { address, source: error }),
        Err(error) => Err(TunnelError::Listen { address, source: std::io::Error::other(error.to_string()) }),
    }
}

/// Signs records with the node's key.
struct Signer(Keypair);

impl Sign for Signer {
    fn sign(&self, body: Bytes) -> SignedRecord {
        let signature = self.0.sign(&signed_bytes(&body)).unwrap_or_default();
        SignedRecord { body, key: self.0.public().encode_protobuf().into(), signature: signature.into() }
    }
}

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNING_DOMAIN, body].concat()
}

/// The record, if its signature is that of the peer it is about.
fn verify(signed: &SignedRecord) -> Result<PeerRecord, RecordError> {
    let record = PeerRecord::decode(&signed.body)?;
    let key = PublicKey::try_decode_protobuf(&signed.key).map_err(|_| RecordError::Signature)?;
    let belongs = peer_text(&key.to_peer_id()) == record.peer;
    if belongs && key.verify(&signed_bytes(&signed.body), &signed.signature) {
        Ok(record)
    } else {
        Err(RecordError::Signature)
    }
}

/// Where others leave word for the driver.
struct Inbox {
    frames: mpsc::Receiver<Received>,
    demands: mpsc::Receiver<Demand>,
    lookups: mpsc::Receiver<LookedUp>,
    found: mpsc::Receiver<Found>,
    relays: watch::Receiver<Vec<RelayAddress>>,
    claims: mpsc::Receiver<Claim>,
    carried: mpsc::Receiver<CarrierEvent>,
    ours: mpsc::Receiver<Diverted>,
    rings: mpsc::Receiver<Ring>,
    proofs: watch::Receiver<Proof>,
}

/// A connection, with both its names.
struct LinkEntry {
    connection: ConnectionId,
    peer: PeerId,
    /// Where the peer listens, when that is where it was reached.
    dialled: Option<SocketAddr>,
    link: Link,
    meter: Arc<AtomicU64>,
    counts: Arc<PeerCounts>,
    /// Whether it is a Go agent's, once identify told.
    legacy: Option<bool>,
    /// It could not open a control stream.
    mute: bool,
}

/// A stream that waits for a route.
struct Waiter {
    since: Instant,
    reply: oneshot::Sender<Result<Route, DialError>>,
}

struct Driver {
    state: TunnelState,
    swarm: Swarm<Behaviour>,
    settings: TunnelSettings,
    shared: Arc<Shared>,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    generation: Option<(Generation, bool)>,
    links: BTreeMap<ConnId, LinkEntry>,
    conns: HashMap<ConnectionId, ConnId>,
    next_conn: u64,
    dials: Dials,
    /// Relay attempts that wait for a name.
    pending_relays: HashMap<DialId, Option<PeerId>>,
    reservations: HashMap<ListenerId, PeerId>,
    /// Listeners on the ports from which is dialled.
    outgoing: HashSet<ListenerId>,
    outgoing_ports: BTreeSet<u16>,
    listening: BTreeSet<SocketAddr>,
    own_ips: HashSet<IpAddr>,
    advertised: watch::Sender<Vec<Multiaddr>>,
    /// Addresses as which others see this node.
    observed: HashSet<IpAddr>,
    interfaces: Interfaces,
    meters: Meters,
    member: Arc<Member>,
    carriers: Arc<Carriers>,
    /// The carriers that stand.
    ridden: BTreeMap<CarryId, Ridden>,
    waiting: BTreeMap<Name, Vec<Waiter>>,
    complaints: HashMap<IpAddr, u32>,
    /// What the state calls the relays, with their addresses where no name must be looked up.
    relays: HashMap<String, Option<Multiaddr>>,
    /// Proven names on their way to the disk.
    enrolled: watch::Sender<Vec<Enrolment>>,
    /// When the state was last asked what time brings.
    ran: Instant,
    dirty: bool,
}

impl Driver {
    async fn run(mut self, mut inbox: Inbox, shutdown: CancellationToken) {
        let mut mesh = tokio::time::interval(MESH_PERIOD);
        loop {
            let wake = self.settle();
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(received) = inbox.frames.recv() => {
                    self.on_frame(received);
                    for _ in 0..BATCH {
                        let Ok(received) = inbox.frames.try_recv() else { break };
                        self.on_frame(received);
                    }
                }
                Ok(()) = inbox.relays.changed() => {
                    let relays = inbox.relays.borrow_and_update().clone();
                    self.set_relays(relays);
                }
                Ok(()) = inbox.proofs.changed() => {
                    let proof = inbox.proofs.borrow_and_update().clone();
                    self.state.handle(Input::Proof(proof), Instant::now());
                }
                Some(demand) = inbox.demands.recv() => {
                    self.on_demand(demand);
                    for _ in 0..BATCH {
                        let Ok(demand) = inbox.demands.try_recv() else { break };
                        self.on_demand(demand);
                    }
                }
                Some(claim) = inbox.claims.recv() => self.on_claim(claim),
                Some(ours) = inbox.ours.recv() => {
                    self.on_diverted(ours);
                    for _ in 0..BATCH {
                        let Ok(ours) = inbox.ours.try_recv() else { break };
                        self.on_diverted(ours);
                    }
                }
                Some(ring) = inbox.rings.recv() => {
                    self.on_ring(ring);
                    for _ in 0..BATCH {
                        let Ok(ring) = inbox.rings.try_recv() else { break };
                        self.on_ring(ring);
                    }
                }
                Some(result) = inbox.lookups.recv() => self.on_lookup(result),
                Some(Found { peer, address }) = inbox.found.recv() => {
                    let input = Input::Discovered { peer: peer_text(&peer), address: address_text(&address) };
                    self.state.handle(input, Instant::now());
                }
                Some(event) = inbox.carried.recv() => {
                    self.on_carrier(event);
                    for _ in 0..BATCH {
                        let Ok(event) = inbox.carried.try_recv() else { break };
                        self.on_carrier(event);
                    }
                }
                _ = mesh.tick() => {
                    self.compare_mesh();
                    self.weigh();
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        if let Some(relay) = &self.shared.relay {
            relay.drain(Duration::ZERO).await;
        }
        self.shared.gate.drained().await;
    }

    fn set_relays(&mut self, relays: Vec<RelayAddress>) {
        self.relays = relays.iter().map(|relay| (relay.name(), relay.multiaddr())).collect();
        let relays = targets(&relays, *self.swarm.local_peer_id());
        self.state.handle(Input::Relays { relays }, Instant::now());
    }

    /// Lets the state decide, does what it asks for, publishes; says when to do so again.
    fn settle(&mut self) -> Instant {
        /// Without anything to do the state is asked anyway; nothing depends on it.
        const LONGEST: Duration = Duration::from_secs(60);
        let now = Instant::now();
        let spaced = if self.links.len() > CROWD { self.ran + CROWD_PAUSE } else { now };
        if self.state.poll_timeout().is_some_and(|wake| wake <= now) && spaced <= now {
            self.ran = now;
            for (conn, entry) in &self.links {
                let streams = entry.link.counts.streams();
                let received = entry.meter.load(Ordering::Relaxed);
                self.state.handle(Input::Activity { conn: *conn, streams, received }, now);
            }
            self.state.handle_timeout(now);
        }
        while let Some(action) = self.state.poll_action() {
            self.act(action, now);
        }
        if self.state.take_changed() {
            self.dirty = true;
            self.publish_routes();
        }
        if let Some(enrolled) = self.state.take_enrolments() {
            self.enrolled.send_replace(enrolled);
        }
        self.answer_waiting();
        if std::mem::take(&mut self.dirty) {
            self.publish_status();
        }
        let spaced = if self.links.len() > CROWD { self.ran + CROWD_PAUSE } else { now };
        self.state.poll_timeout().unwrap_or(now + LONGEST).max(spaced)
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Dial { dial, to } => self.dial(dial, to, now),
            Action::Reserve { relay, address } => self.reserve(&relay, address.as_str(), now),
            Action::Send { conn, frame } => {
                let Some(entry) = self.links.get(&conn) else { return };
                if !entry.link.outbox.push(&frame) {
                    tracing::debug!(peer = %entry.peer, "a peer does not take its control frames");
                    self.swarm.close_connection(entry.connection);
                }
            }
            Action::Close { conn } => {
                if let Some(entry) = self.links.get(&conn) {
                    entry.link.counts.closed.cancel();
                    self.swarm.close_connection(entry.connection);
                }
            }
            Action::Carry { attempt, peer, way } => self.carry(attempt, &peer, way, now),
            Action::EndCarrier { carrier } => self.end_carrier(carrier),
            Action::GaveUp { node, started } => self.give_up(&node, started, now),
            Action::Report(report) => {
                self.dirty = true;
                if let Report::Dead { peer, .. } = &report
                    && let Some(session) = peer_from(peer).and_then(|peer| self.carriers.known(peer))
                {
                    session.suspect();
                }
                if let Report::NameConflict { reason, .. } = &report {
                    self.shared.gate.refused.claim(*reason);
                }
                log(&report);
            }
        }
    }

    fn dial(&mut self, dial: DialId, to: DialTo, now: Instant) {
        match to {
            DialTo::Relay { peer, address } => {
                let peer = peer.as_ref().and_then(peer_from);
                match self.relays.get(address.as_str()).cloned().flatten() {
                    Some(address) => self.dial_relay(dial, peer, address, now),
                    None => match self.dials.resolve(address.as_str(), dial) {
                        Some(found) => self.dial_relay(dial, peer, tcp_multiaddr(found), now),
                        None => {
                            self.pending_relays.insert(dial, peer);
                        }
                    },
                }
            }
            DialTo::Peer { peer, addresses } | DialTo::Circuit { peer, addresses } => {
                let addresses: Vec<Multiaddr> =
                    addresses.iter().filter_map(|address| address.as_str().parse().ok()).collect();
                let Some(peer) = peer_from(&peer).filter(|_| !addresses.is_empty()) else {
                    return self.state.handle(Input::DialFailed { dial, failure: Failure::Other }, now);
                };
                self.dial_peer(dial, peer, addresses, now);
            }
        }
    }

    fn on_demand(&mut self, demand: Demand) {
        let now = Instant::now();
        let waiting: usize = self.waiting.values().map(Vec::len).sum();
        if waiting >= MAX_WAITING {
            // Whoever asked may have given up.
            let _ = demand.reply.send(Err(DialError::Overloaded));
            return;
        }
        self.suspect(&demand.node, now);
        self.state.handle(Input::Demand { node: demand.node.clone() }, now);
        self.waiting.entry(demand.node).or_default().push(Waiter { since: now, reply: demand.reply });
    }

    /// Streams wait in the session for its first carrier when the peer is only just connected.
    fn route(&self, node: &str) -> Option<Route> {
        let peer = peer_from(self.state.peer_of(node)?)?;
        let best = self.state.best(node);
        let link = best.as_ref().and_then(|(conn, _)| self.links.get(conn));
        if let Some(entry) = link.filter(|entry| self.is_go(entry)) {
            let link = GoLink::new(&entry.link, entry.counts.clone());
            return link.stands().then_some(Route::Go(link));
        }
        Some(Route::Session(self.carriers.session_if(peer, best.is_some())?))
    }

    fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let nodes: Vec<Name> = self.waiting.keys().cloned().collect();
        for node in nodes {
            if let Some(route) = self.route(&node) {
                for waiter in self.waiting.remove(&node).unwrap_or_default() {
                    // Whoever asked may have given up.
                    let _ = waiter.reply.send(Ok(route.clone()));
                }
            } else if let Some(waiters) = self.waiting.get_mut(&node) {
                waiters.retain(|waiter| !waiter.reply.is_closed());
                if waiters.is_empty() {
                    self.waiting.remove(&node);
                }
            }
        }
    }

    fn give_up(&mut self, node: &Name, started: Instant, now: Instant) {
        let Some(waiters) = self.waiting.remove(node) else { return };
        let reason = self.state.unreachable_reason(node);
        let over = |waiter: &Waiter| waiter.since <= started || waiter.since + WAITED <= now;
        let (over, on): (Vec<_>, Vec<_>) = waiters.into_iter().partition(over);
        for waiter in over {
            tracing::debug!(%node, %reason, "no way to a node");
            // Whoever asked may have given up.
            let _ = waiter.reply.send(Err(reason.dial_error()));
        }
        if !on.is_empty() {
            self.waiting.insert(node.clone(), on);
        }
    }

    fn compare_mesh(&mut self) {
        let snapshot = self.snapshots.load();
        let generation = Some((snapshot.generation, snapshot.stale));
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let nodes: BTreeSet<Name> = snapshot
            .services
            .values()
            .flat_map(|service| service.ports.iter())
            .flat_map(|port| port.backends.iter())
            .filter(|backend| backend.ready)
            .filter_map(|backend| backend.node.clone())
            .filter(|node| Some(node) != self.settings.node.as_ref())
            .collect();
        let vouched = snapshot
            .peer_ids
            .iter()
            .filter(|(_, peer)| peer.parse::<PeerId>().is_ok())
            .map(|(node, peer)| (node.clone(), edgemesh_tunnel_proto::PeerId::new(peer.clone())))
            .collect();
        self.dirty = true;
        let now = Instant::now();
        for node in &nodes {
            self.suspect(node, now);
        }
        self.state.handle(Input::Mesh { nodes, vouched }, now);
    }

    fn publish_routes(&mut self) {
        let paths = self.state.paths().clone();
        let routes: BTreeMap<Name, Route> =
            paths.nodes.keys().filter_map(|node| Some((node.clone(), self.route(node)?))).collect();
        self.shared.routes.store(Arc::new(routes));
        // What the host reaches itself is told by others.
        self.shared.paths.rcu(|old| PathSnapshot { nodes: paths.nodes.clone(), host: old.host.clone() });
        for entry in self.links.values() {
            let node = self.state.node_of(&peer_text(&entry.peer)).cloned();
            if entry.counts.node.load().as_deref() != node.as_ref() {
                entry.counts.node.store(node.map(Arc::new));
                entry.counts.proven.notify_waiters();
            }
        }
    }

    fn publish_status(&mut self) {
        let text = |name: &Name| name.to_string();
        let peers = self.state.peers().into_iter().filter_map(|view| {
            let shown = view.connections.iter().find(|other| other.best).or(view.connections.first())?;
            let entry = self.links.get(&shown.conn)?;
            let session = self.carriers.known(entry.peer).filter(|session| session.has_carrier());
            let status = PeerStatus {
                node: view.node.as_ref().map(text),
                peer: view.peer.to_string(),
                zone: view.zone.as_ref().map(text),
                version: view.version.as_ref().map(text),
                legacy: entry.legacy == Some(true),
                path: session.as_ref().map_or(shown.path, |session| session.path()).as_str(),
                address: shown.address.to_string(),
                rtt_ms: shown.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                connections: view.connections.len(),
                bytes_in: 0,
                bytes_out: 0,
                streams_in: 0,
                streams_out: 0,
                since_s: 0,
                carriers: Vec::new(),
            };
            Some(PublishedPeer {
                status,
                since: shown.since,
                counts: entry.counts.clone(),
                session,
                carriers: self.carriers_of(entry.peer),
            })
        });
        let published = Published {
            peers: peers.collect(),
            listen: self.advertised.borrow().iter().map(ToString::to_string).collect(),
            relays: self.state.relays(),
            unreachable: self
                .state
                .unreachable()
                .map(|(node, reason)| UnreachableNode {
                    node: node.to_string(),
                    reason,
                    words: reason.words(),
                })
                .collect(),
            conflicts: self.state.conflicts(),
        };
        self.shared.status.store(Arc::new(published));
        self.shared.changes.send_modify(|count| *count += 1);
    }
}

fn log(report: &Report) {
    match report {
        Report::RelayUp { address } => tracing::info!(relay = %address, "relay is up"),
        Report::RelayDown { address, reason } => match reason {
            edgemesh_tunnel_proto::RelayReason::Myself => {
                tracing::debug!(relay = %address, "the relay is this node");
            }
            edgemesh_tunnel_proto::RelayReason::Lost => tracing::info!(relay = %address, "relay lost"),
            reason => tracing::warn!(relay = %address, %reason, "relay is not usable"),
        },
        Report::PathChanged { node, from, to } => tracing::info!(%node, %from, %to, "path changed"),
        Report::NameConflict { node, holder, refused, reason } => {
            let holder = holder.as_ref().map(tracing::field::display);
            tracing::warn!(%node, holder, %refused, %reason, "a node name is not believed: {}", reason.words());
        }
        Report::NotVouched { vouched } => {
            tracing::warn!(
                annotation = edgemesh_api::label::PEER_ID, %vouched,
                "the Node object of this node names another identity; other nodes will refuse this one"
            );
        }
        Report::Dead { peer, path, silent } => {
            tracing::info!(%peer, %path, silent_ms = silent.as_millis() as u64, "connection is dead");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_to_its_own_key_only() {
        let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let record = PeerRecord {
            node: Some("a".into()),
            peer: peer_text(&key.public().to_peer_id()),
            addresses: Vec::new(),
            relays: Vec::new(),
            zone: None,
            sequence: 1,
            version: "test".into(),
            proof: Proof::default(),
        };
        let body = record.encode().unwrap();
        let good = Signer(key.clone()).sign(body.clone());
        assert_eq!(verify(&good), Ok(record.clone()));
        let foreign = Signer(other).sign(body.clone());
        assert_eq!(verify(&foreign), Err(RecordError::Signature));
        let changed = PeerRecord { node: Some("b".into()), ..record }.encode().unwrap();
        assert_eq!(verify(&SignedRecord { body: changed, ..good }), Err(RecordError::Signature));
        let bare = SignedRecord {
            signature: key.sign(&body).unwrap().into(),
            key: key.public().encode_protobuf().into(),
            body,
        };
        assert_eq!(verify(&bare), Err(RecordError::Signature), "a signature made for something else");
    }
}
