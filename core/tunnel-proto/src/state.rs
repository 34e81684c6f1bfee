//! The state and its inputs; what follows from them is decided in `decide`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use edgemesh_api::Name;
use edgemesh_mesh::{NodePath, Path, PathSnapshot};

use crate::claim::{Claim, Enrolment, Proof};
use crate::connection::{ConnId, Connection};
use crate::control::Frame;
use crate::directory::{Conflict, Directory, Learned};
use crate::event::{Action, DialId, Failure, Input, LinkKind, Report, TunnelSpec};
use crate::path::{UnreachableReason, rank};
use crate::peer::{DEMAND_PAUSE, DEMAND_TTL, Peer};
use crate::record::{Address, PeerId, PeerRecord, Sign, SignedRecord};
use crate::relay::{MAX_RELAYS_USED, Relay, RelayReason, RelayView, Reservation};
use crate::schedule::Draws;

/// Nodes kept warm: each costs a ping every 15 s; a node that serves more neighbours at once is no edge node.
pub(crate) const MAX_WARM: usize = 64;

/// Nodes with a remembered demand; beyond it demands are told the present state at once.
pub(crate) const MAX_DEMANDED: usize = 1024;

/// How long listening may take to begin; a node that does not listen at all loses no more than this.
const LISTEN_WAIT: Duration = Duration::from_millis(250);

/// How long after the first own address the others follow.
const LISTEN_SETTLE: Duration = Duration::from_millis(20);

/// A connection as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its name.
    pub conn: ConnId,
    /// How it was made.
    pub path: Path,
    /// The remote address.
    pub address: Address,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// When it came up.
    pub since: Instant,
    /// Whether new streams use it.
    pub best: bool,
}

/// A peer as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its identity.
    pub peer: PeerId,
    /// The node it speaks for, once settled.
    pub node: Option<Name>,
    /// Its zone.
    pub zone: Option<Name>,
    /// Version of its software.
    pub version: Option<Name>,
    /// Its connections.
    pub connections: Vec<ConnectionView>,
}

/// Decides whom to connect to, over which path, when to give a connection up and when to try a better one.
///
/// Drain order: any number of [`TunnelState::handle`], then [`TunnelState::handle_timeout`] when
/// [`TunnelState::poll_timeout`] is due (an input may make it due at once), then [`TunnelState::poll_action`] until
/// it is empty.
pub struct TunnelState {
    pub(crate) spec: TunnelSpec,
    pub(crate) signer: Box<dyn Sign>,
    pub(crate) own: Option<(PeerRecord, SignedRecord)>,
    pub(crate) addresses: Vec<Address>,
    /// No dial before: its socket should have the listen port, and that is known when listening has begun.
    pub(crate) dial_from: Option<Instant>,
    pub(crate) born: Instant,
    pub(crate) relays: Vec<Relay>,
    pub(crate) connections: BTreeMap<ConnId, Connection>,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) directory: Directory,
    pub(crate) wanted: Wanted,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) draws: Draws,
    pub(crate) counter: u64,
    pub(crate) wake: Option<Instant>,
    pub(crate) published: Published,
}

/// Nodes that are wanted, and why.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) warm: BTreeSet<Name>,
    /// First and last demand.
    pub(crate) demanded: BTreeMap<Name, (Instant, Instant)>,
}

/// What readers were last told.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) dirty: bool,
    pub(crate) changed: bool,
    pub(crate) paths: PathSnapshot,
}

impl TunnelState {
    /// A state without connections.
    pub fn new(spec: TunnelSpec, signer: Box<dyn Sign>, now: Instant) -> Self {
        let relays = spec.relays.iter().take(MAX_RELAYS_USED).cloned().map(Relay::new).collect();
        let draws = Draws::new(spec.seed);
        let directory = Directory::new(spec.node.clone(), spec.peer.clone(), &spec.identity);
        Self {
            spec,
            signer,
            own: None,
            addresses: Vec::new(),
            dial_from: Some(now + LISTEN_WAIT),
            born: now,
            relays,
            connections: BTreeMap::new(),
            peers: BTreeMap::new(),
            directory,
            wanted: Wanted::default(),
            actions: VecDeque::new(),
            draws,
            counter: 0,
            wake: Some(now),
            published: Published { dirty: true, changed: true, paths: PathSnapshot::default() },
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected { conn, peer, kind, address, dial } => {
                self.connected(conn, peer, kind, address, dial, now);
            }
            Input::Disconnected { conn } => self.disconnected(conn, now),
            Input::Identified { conn } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.identified = true;
                }
            }
            Input::Legacy { conn } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.legacy = true;
                }
            }
            Input::Claimed { conn, node } => self.claimed(conn, node),
            Input::Suspected { node, peer } => self.directory.suspect(node, peer),
            Input::Frame { conn, frame } => return self.frame(conn, frame, now),
            Input::Record { conn, record, signed, claim } => self.record(conn, *record, signed, *claim, now),
            Input::Proof(proof) => self.spec.identity.proof = proof,
            Input::Discovered { peer, address } => self.discovered(peer, address, now),
            Input::Reserved { relay } => self.reserved(&relay),
            Input::ReservationLost { relay, failure } => self.reservation_lost(&relay, failure, now),
            Input::DialFailed { dial, failure } => self.dial_failed(dial, failure, now),
            Input::Demand { node } => self.demand(node, now),
            Input::Activity { conn, streams, received } => {
                if let Some(connection) = self.connections.get_mut(&conn)
                    && !connection.activity(streams, received, now)
                {
                    return;
                }
            }
            Input::Listening { addresses } => {
                self.addresses = addresses;
                // The addresses of the interfaces come one by one.
                self.dial_from = self.dial_from.map(|from| from.min(now + LISTEN_SETTLE));
            }
            Input::CarrierUp { carrier, attempt, peer, way } => {
                self.carrier_up(carrier, attempt, &peer, way, now);
            }
            Input::CarrierDown { carrier, peer, dead } => self.carrier_down(carrier, &peer, dead, now),
            Input::CarryFailed { attempt, peer, failure } => self.carry_failed(attempt, &peer, failure, now),
            Input::SessionLoad { peer, streams } => return self.session_load(&peer, streams, now),
            Input::Mesh { nodes, vouched } => {
                self.wanted.warm = nodes;
                if let Some(own) = &self.spec.node {
                    self.wanted.warm.remove(own);
                }
                if let Some(vouched) = self.directory.vouch(vouched, now) {
                    self.report(Report::NotVouched { vouched });
                }
                self.report_conflicts();
                self.published.dirty = true;
            }
            Input::Relays { relays } => {
                let mut known = std::mem::take(&mut self.relays);
                self.relays = relays
                    .into_iter()
                    .take(MAX_RELAYS_USED)
                    .map(|target| match known.iter().position(|relay| relay.target == target) {
                        Some(index) => known.swap_remove(index),
                        None => Relay::new(target),
                    })
                    .collect();
                self.published.dirty = true;
            }
        }
        self.wake = Some(now);
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`TunnelState::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// The connection that new streams to a node use.
    pub fn best(&self, node: &str) -> Option<(ConnId, Path)> {
        let peer = self.peers.get(self.directory.peer_of(node)?)?;
        self.best_of(peer).map(|(conn, connection)| (conn, connection.path()))
    }

    /// Why there is no connection to a node.
    pub fn unreachable_reason(&self, node: &str) -> UnreachableReason {
        let known = self.directory.peer_of(node).and_then(|peer| self.peers.get(peer));
        let relays_up = self.relays.iter().any(|relay| relay.ready.is_some());
        let psk = self.relays.iter().any(|relay| relay.reason == Some(RelayReason::PskMismatchSuspected));
        match known.and_then(|peer| peer.failure) {
            Some(Failure::RelayFull) => return UnreachableReason::RelayFull,
            Some(Failure::Handshake) => return UnreachableReason::PskMismatchSuspected,
            _ => {}
        }
        if !relays_up && psk {
            UnreachableReason::PskMismatchSuspected
        } else if !relays_up && self.relays.iter().any(|relay| !relay.myself()) {
            UnreachableReason::RelayUnreachable
        } else if self.directory.peer_of(node).is_none() {
            UnreachableReason::PeerUnknown
        } else if self.relays.is_empty() {
            UnreachableReason::NoRelay
        } else {
            UnreachableReason::DialFailed
        }
    }

    /// The nodes with endpoints that no connection leads to, and why.
    pub fn unreachable(&self) -> impl Iterator<Item = (&Name, UnreachableReason)> {
        let away = self.wanted.warm.iter().filter(|node| self.best(node).is_none());
        away.map(|node| (node, self.unreachable_reason(node)))
    }

    /// True once after the paths or the best connections changed.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.published.changed)
    }

    /// The best path to every node somebody speaks for.
    pub fn paths(&self) -> &PathSnapshot {
        &self.published.paths
    }

    /// The peer that speaks for a node.
    pub fn peer_of(&self, node: &str) -> Option<&PeerId> {
        self.directory.peer_of(node)
    }

    /// The node a peer speaks for, once settled.
    pub fn node_of(&self, peer: &PeerId) -> Option<&Name> {
        self.directory.node_of(peer)
    }

    /// Whether a connected peer is a Go agent.
    pub(crate) fn is_legacy(&self, id: &PeerId) -> bool {
        let conns = self.peers.get(id).into_iter().flat_map(|peer| &peer.conns);
        conns.filter_map(|conn| self.connections.get(conn)).any(|connection| connection.legacy)
    }

    /// The last record of a peer.
    pub fn record_of(&self, peer: &PeerId) -> Option<&PeerRecord> {
        self.directory.record(peer)
    }

    /// The connection to a peer that no relay carries.
    pub fn direct(&self, peer: &PeerId) -> Option<ConnId> {
        let (conn, connection) = self.best_of(self.peers.get(peer)?)?;
        // Relayed paths rank last.
        (!connection.relayed()).then_some(conn)
    }

    /// Whether a peer is one of the relays this node uses.
    pub fn uses_relay(&self, peer: &PeerId) -> bool {
        self.relays.iter().any(|relay| relay.conn.is_some() && relay.peer.as_ref() == Some(peer))
    }

    /// The relays of the configuration.
    pub fn relays(&self) -> Vec<RelayView> {
        self.relays
            .iter()
            .map(|relay| RelayView {
                address: relay.target.address.0.clone(),
                peer: relay.peer.as_ref().map(|peer| peer.0.clone()),
                state: relay.state(!self.spec.relay),
                reason: relay.reason,
            })
            .collect()
    }

    /// The names that tokens have proven, when they changed since the last call.
    pub fn take_enrolments(&mut self) -> Option<Vec<Enrolment>> {
        self.directory.take_enrolments()
    }

    /// The proof that the own record offers.
    pub fn proof(&self) -> &Proof {
        &self.spec.identity.proof
    }

    /// Claims of node names that are not believed.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.directory.conflicts()
    }

    /// Every connected peer.
    pub fn peers(&self) -> Vec<PeerView> {
        self.peers
            .iter()
            .filter(|(_, peer)| !peer.conns.is_empty())
            .map(|(id, peer)| {
                let best = self.best_of(peer).map(|(conn, _)| conn);
                let record = self.directory.record(id);
                PeerView {
                    peer: id.clone(),
                    node: self.directory.node_of(id).cloned(),
                    zone: record.and_then(|record| record.zone.clone()),
                    version: record.map(|record| record.version.clone()),
                    connections: peer
                        .conns
                        .iter()
                        .filter_map(|conn| Some((*conn, self.connections.get(conn)?)))
                        .map(|(conn, connection)| ConnectionView {
                            conn,
                            path: connection.path(),
                            address: connection.address.clone(),
                            rtt: connection.rtt,
                            since: connection.since,
                            best: best == Some(conn),
                        })
                        .collect(),
                }
            })
            .collect()
    }

    pub(crate) fn best_of(&self, peer: &Peer) -> Option<(ConnId, &Connection)> {
        peer.conns
            .iter()
            .filter_map(|conn| Some((*conn, self.connections.get(conn)?)))
            .filter(|(_, connection)| !connection.closing)
            .min_by_key(|(conn, connection)| (rank(connection.path()), magnitude(connection.rtt), *conn))
    }

    /// Whether new streams to the peer have a connection.
    pub(crate) fn reached(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| self.best_of(peer).is_some())
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }

    /// A Go agent has no control stream to take it.
    pub(crate) fn send(&mut self, conn: ConnId, frame: Frame) {
        if self.connections.get(&conn).is_some_and(|connection| connection.legacy) {
            return;
        }
        self.actions.push_back(Action::Send { conn, frame });
    }

    fn connected(
        &mut self,
        conn: ConnId,
        id: PeerId,
        kind: LinkKind,
        address: Address,
        dial: Option<DialId>,
        now: Instant,
    ) {
        self.adopt_relay(conn, &id, &kind, &address, dial);
        let relayed = matches!(kind, LinkKind::Relayed(_));
        let ours = dial.is_some() || kind == LinkKind::Punched;
        self.connections.insert(conn, Connection::new(id.clone(), kind, address, ours, now));
        let peer = self.peers.entry(id.clone()).or_default();
        peer.conns.push(conn);
        if let Some(dial) = dial {
            peer.dial_ended(dial);
        }
        peer.failure = None;
        // Whoever is reached through a relay is tried directly at once: only one of the two may be behind a NAT.
        peer.try_direct = relayed;
        if !relayed {
            peer.punch.stop();
        }
        if let Some((_, signed)) = &self.own {
            let frame = Frame::Record(signed.clone());
            self.send(conn, frame);
        }
        if self.spec.relay && !relayed {
            self.tell_directory(conn, &id);
        }
        self.published.dirty = true;
    }

    fn adopt_relay(
        &mut self,
        conn: ConnId,
        id: &PeerId,
        kind: &LinkKind,
        address: &Address,
        dial: Option<DialId>,
    ) {
        if matches!(kind, LinkKind::Relayed(_)) {
            return;
        }
        for relay in &mut self.relays {
            let dialled = dial.is_some() && relay.dial.map(|(dial, _)| dial) == dial;
            if dialled {
                relay.dial = None;
                relay.peer = Some(id.clone());
                relay.reached = Some(address.clone());
            }
            if dialled || (relay.conn.is_none() && relay.peer.as_ref() == Some(id) && relay.reached.is_some())
            {
                relay.conn = relay.conn.or(Some(conn));
                relay.reason = None;
            }
        }
    }

    /// A relay tells a newcomer of every peer that is connected to it.
    fn tell_directory(&mut self, conn: ConnId, newcomer: &PeerId) {
        let known: Vec<SignedRecord> = self
            .peers
            .iter()
            .filter(|(id, peer)| *id != newcomer && self.connected_here(peer))
            .filter_map(|(id, _)| self.directory.entry(id))
            .map(|entry| entry.signed.clone())
            .collect();
        for signed in known {
            self.send(conn, Frame::Record(signed));
        }
    }

    fn connected_here(&self, peer: &Peer) -> bool {
        peer.conns
            .iter()
            .filter_map(|conn| self.connections.get(conn))
            .any(|connection| !connection.relayed() && !connection.closing)
    }

    fn disconnected(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        self.directory.disconnected(conn, now);
        let Self { relays, peers, draws, .. } = self;
        for relay in relays.iter_mut().filter(|relay| relay.conn == Some(conn)) {
            relay.disconnected(connection.since, now, draws);
        }
        let id = connection.peer;
        if let Some(peer) = peers.get_mut(&id) {
            peer.conns.retain(|other| *other != conn);
            peer.retry.lost(connection.since, now, crate::peer::DEMAND_RETRY, draws);
        }
        let left = self.peers.get(&id).is_none_or(|peer| !self.connected_here(peer));
        if self.spec.relay && left && !matches!(connection.kind, LinkKind::Relayed(_)) {
            self.tell_others(&id, &Frame::RecordGone(id.clone()));
        }
        self.published.dirty = true;
    }

    /// Sends to every directly connected peer but one.
    fn tell_others(&mut self, about: &PeerId, frame: &Frame) {
        let to: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                connection.peer != *about && !connection.relayed() && !connection.closing
            })
            .map(|(conn, _)| *conn)
            .collect();
        for conn in to {
            self.send(conn, frame.clone());
        }
    }

    fn frame(&mut self, conn: ConnId, frame: Frame, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.alive(now);
        match frame {
            Frame::Ping(number) => self.send(conn, Frame::Pong(number)),
            Frame::Pong(number) => {
                self.published.dirty |= connection.pong(number, now);
                let again = now + crate::connection::PING_BUSY;
                self.wake = Some(self.wake.map_or(again, |wake| wake.min(again)));
            }
            Frame::RecordGone(peer) => {
                if self.is_relay(conn) {
                    self.directory.gone(conn, &peer, now);
                    self.wake = Some(now);
                }
            }
            Frame::CallMe => {
                self.called(conn);
                self.wake = Some(now);
            }
            // The edge hands offers on to whoever opens carriers.
            Frame::Circuit { .. } => {}
            // The edge verifies these; it hands records in as `Input::Record`, and the own token as `Input::Proof`.
            Frame::Record(_) | Frame::Token(_) => {}
        }
    }

    fn is_relay(&self, conn: ConnId) -> bool {
        self.relays.iter().any(|relay| relay.conn == Some(conn))
    }

    fn record(&mut self, conn: ConnId, record: PeerRecord, signed: SignedRecord, claim: Claim, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.alive(now);
        let direct = connection.peer == record.peer;
        let relayed = connection.relayed();
        if record.peer == self.spec.peer || !(direct || self.is_relay(conn)) {
            return;
        }
        let id = record.peer.clone();
        let before = self.directory.record(&id).map(|known| known.addresses.clone());
        let addresses_differ = before.as_ref() != Some(&record.addresses);
        let learned = self.directory.learn(conn, direct, record, signed.clone(), claim, now);
        self.report_conflicts();
        let reached = self.reached(&id);
        let peer = self.peers.entry(id.clone()).or_default();
        // A record told again means its peer has just come back to the relay.
        if !reached && !peer.dialling() {
            peer.retry.reset();
        }
        if learned == Learned::Changed {
            peer.try_direct |= addresses_differ;
            peer.fresh = true;
            if addresses_differ && peer.punch.running() {
                peer.punch.restart(now);
            }
            self.published.dirty = true;
            if self.spec.relay && direct && !relayed {
                self.tell_others(&id, &Frame::Record(signed));
            }
        }
    }

    fn claimed(&mut self, conn: ConnId, node: Name) {
        let Some(id) = self.connections.get(&conn).filter(|c| c.legacy).map(|c| c.peer.clone()) else {
            return;
        };
        if !self.directory.claim(node.clone(), id.clone()) {
            return;
        }
        // A key that somebody proved to have is never replaced by one that everybody can make.
        let holder = self.directory.peer_of(&node).cloned();
        if holder.as_ref() != Some(&id) {
            let reason = self.directory.refusal_of_derived(&node);
            self.report(Report::NameConflict { node, holder, refused: id, reason });
        }
        self.published.dirty = true;
    }

    /// Tells of claims that were not refused, or not for the same reason, before.
    pub(crate) fn report_conflicts(&mut self) {
        for conflict in self.directory.take_fresh_conflicts() {
            self.report(Report::NameConflict {
                node: conflict.node,
                holder: conflict.holder.map(PeerId),
                refused: PeerId(conflict.refused),
                reason: conflict.reason,
            });
        }
    }

    fn discovered(&mut self, id: PeerId, address: Address, now: Instant) {
        /// Peers found in the LAN; a /22 full of mesh nodes.
        const MAX_LAN_PEERS: usize = 1024;
        if id == self.spec.peer {
            return;
        }
        let crowded = self.peers.values().filter(|peer| !peer.lan.is_empty()).count() >= MAX_LAN_PEERS;
        if crowded && self.peers.get(&id).is_none_or(|peer| peer.lan.is_empty()) {
            return;
        }
        let peer = self.peers.entry(id).or_default();
        if peer.discovered(address, now) {
            peer.try_direct = true;
            peer.retry.reset();
        }
    }

    fn reserved(&mut self, id: &PeerId) {
        for relay in self.relays.iter_mut().filter(|relay| relay.peer.as_ref() == Some(id)) {
            if relay.reservation == Reservation::Asked {
                relay.reservation = Reservation::Held;
                relay.reserve_retry.reset();
                relay.reason = None;
            }
        }
    }

    fn reservation_lost(&mut self, id: &PeerId, failure: Failure, now: Instant) {
        let Self { relays, draws, .. } = self;
        for relay in relays.iter_mut().filter(|relay| relay.peer.as_ref() == Some(id)) {
            if relay.conn.is_none() || relay.reservation == Reservation::None {
                continue;
            }
            relay.reservation = Reservation::None;
            relay.reason = Some(RelayReason::of(failure));
            if matches!(failure, Failure::RelayFull | Failure::Denied) {
                relay.reserve_retry.hold(now + crate::relay::FULL_RETRY);
            } else {
                relay.reserve_retry.failed(now, now, crate::relay::RELAY_RETRY, draws);
            }
        }
    }

    fn dial_failed(&mut self, dial: DialId, failure: Failure, now: Instant) {
        let Self { relays, draws, .. } = self;
        for relay in relays.iter_mut() {
            let Some((_, started)) = relay.dial.filter(|(own, _)| *own == dial) else { continue };
            relay.dial = None;
            relay.retry.failed(started, now, crate::relay::RELAY_RETRY, draws);
            if relay.conn.is_none() {
                relay.reason = Some(RelayReason::of(failure));
            }
            return;
        }
        let Some((id, peer)) = self.peers.iter_mut().find(|(_, peer)| peer.dials(dial)) else { return };
        let id = id.clone();
        peer.dial_ended(dial);
        // Of the two ways the circuit's reason tells more: private addresses fail from elsewhere as a rule.
        let tells_more = matches!(failure, Failure::RelayFull | Failure::Handshake);
        if peer.failure.is_none() || tells_more {
            peer.failure = Some(failure);
        }
        let (dialling, started) = (peer.dialling(), peer.started.unwrap_or(now));
        if !dialling && !self.reached(&id) {
            self.attempt_failed(&id, started, now);
        }
    }

    fn demand(&mut self, node: Name, now: Instant) {
        self.wanted.demanded.retain(|_, (_, last)| now < *last + DEMAND_TTL);
        if self.wanted.demanded.len() >= MAX_DEMANDED && !self.wanted.demanded.contains_key(&node) {
            self.actions.push_back(Action::GaveUp { node, started: now });
            return;
        }
        if let Some(id) = self.directory.peer_of(&node).cloned() {
            let (reached, settled) = (self.reached(&id), !self.awaits_reservation(&id, now));
            let peer = self.peers.entry(id).or_default();
            if !reached && !peer.dialling() {
                match peer.started {
                    // A failure of just now answers this demand too.
                    Some(started) if settled && now < started + DEMAND_PAUSE && !peer.retry.ready(now) => {
                        self.actions.push_back(Action::GaveUp { node: node.clone(), started: now });
                    }
                    _ => peer.retry.hasten(now),
                }
            }
        }
        self.wanted.demanded.entry(node).or_insert((now, now)).1 = now;
    }

    /// Recomputes the paths and tells of changes.
    pub(crate) fn refresh_paths(&mut self) {
        if !std::mem::take(&mut self.published.dirty) {
            return;
        }
        let mut paths = PathSnapshot::default();
        for node in self.directory.nodes() {
            if self.spec.node.as_ref() == Some(&node) {
                continue;
            }
            let peer = self.directory.peer_of(&node).and_then(|peer| self.peers.get(peer));
            // What carries is the path; a connection that no carrier uses yet is the one to be.
            let carried = peer.and_then(|peer| peer.ways.path());
            let path = match (peer.and_then(|peer| self.best_of(peer)), carried) {
                (Some((_, connection)), carried) if carried.is_none_or(|path| path == connection.path()) => {
                    NodePath {
                        path: connection.path(),
                        rtt: connection.rtt,
                        lan_address: connection.lan_address(),
                    }
                }
                (_, carried) => NodePath::new(carried.unwrap_or(Path::Unreachable)),
            };
            paths.nodes.insert(node, path);
        }
        let before = std::mem::replace(&mut self.published.paths, paths);
        let changes: Vec<Report> = self
            .published
            .paths
            .nodes
            .iter()
            .map(|(node, path)| (node, before.path(node), path.path))
            .filter(|(_, from, to)| from != to)
            .map(|(node, from, to)| Report::PathChanged { node: node.clone(), from, to })
            .collect();
        self.published.changed = true;
        self.actions.extend(changes.into_iter().map(Action::Report));
    }
}

/// Round-trip times compare by powers of two of milliseconds: less is noise, and would make equal connections take
/// turns. A connection without one yet comes last of its kind.
fn magnitude(rtt: Option<Duration>) -> u32 {
    rtt.map_or(u32::MAX, |rtt| u128::BITS - rtt.as_millis().leading_zeros())
}
