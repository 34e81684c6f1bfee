//! What follows from the state as time passes.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::connection::{ConnId, Pulse};
use crate::control::Frame;
use crate::event::{Action, DialId, DialTo, LinkKind, Report};
use crate::path::rank;
use crate::peer::{
    CIRCUIT_GRACE, DEMAND_RETRY, DEMAND_TTL, DRAIN_GRACE, IDLE_CLOSE, LAN_TTL, LAN_WAIT, MAX_DIAL_ADDRESSES,
    TELL_WAIT, UNKNOWN_WAIT, WARM_RETRY,
};
use crate::record::{Address, PeerId, PeerRecord};
use crate::relay::{IDENTIFY_WAIT, RelayReason, Reservation};
use crate::state::{MAX_WARM, TunnelState};

/// Relays named in one circuit dial: the own ones are at most four, and a dial tries all at once.
const MAX_CIRCUITS: usize = 8;

/// Circuits being opened at a time; libp2p's relay client drops more than ten per relay without a word.
const MAX_CIRCUIT_DIALS: usize = 8;

/// Collects the earliest of several times.
#[derive(Default)]
pub(crate) struct Wake(Option<Instant>);

impl Wake {
    pub(crate) fn at(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |wake| wake.min(at)));
    }

    pub(crate) fn maybe(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            self.at(at);
        }
    }
}

impl TunnelState {
    /// Decides what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut wake = Wake::default();
        self.pulse(now, &mut wake);
        self.publish_own();
        if let Some(from) = self.dial_from.filter(|from| now < *from) {
            wake.at(from);
        } else {
            self.keep_relays(now, &mut wake);
            self.publish_own();
            self.keep_peers(now, &mut wake);
        }
        self.drain(now, &mut wake);
        wake.maybe(self.directory.expire(now));
        self.report_conflicts();
        self.refresh_paths();
        self.wake = wake.0;
    }

    fn busy(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| connection.streams > 0)
            || self.relays.iter().any(|relay| relay.conn == Some(conn))
    }

    fn pulse(&mut self, now: Instant, wake: &mut Wake) {
        let conns: Vec<ConnId> =
            self.connections.iter().filter(|(_, c)| !c.closing && !c.legacy).map(|(conn, _)| *conn).collect();
        for conn in conns {
            let busy = self.busy(conn);
            let number = self.number();
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            match connection.pulse(busy, now) {
                Pulse::Fine => {}
                Pulse::Ask => {
                    connection.asked(number, busy, now);
                    self.actions.push_back(Action::Send { conn, frame: Frame::Ping(number) });
                }
                Pulse::Dead(silent) => {
                    connection.closing = true;
                    let report =
                        Report::Dead { peer: connection.peer.clone(), path: connection.path(), silent };
                    self.actions.push_back(Action::Close { conn });
                    self.report(report);
                    self.published.dirty = true;
                    continue;
                }
            }
            wake.maybe(self.connections.get(&conn).map(|connection| connection.pulse_at(busy)));
        }
    }

    fn keep_relays(&mut self, now: Instant, wake: &mut Wake) {
        for index in 0..self.relays.len() {
            self.adopt_connected(index, now);
            self.dial_relay(index, now, wake);
            self.ready_relay(index, now, wake);
            self.report_relay(index);
        }
    }

    /// A dead connection is no relay's any more, though its end takes a while; another one to the same peer is.
    fn adopt_connected(&mut self, index: usize, now: Instant) {
        let usable = |conn: &ConnId| {
            self.connections.get(conn).is_some_and(|connection| !connection.closing && !connection.relayed())
        };
        let relay = &self.relays[index];
        if let Some(conn) = relay.conn.filter(|conn| !usable(conn)) {
            let since = self.connections.get(&conn).map_or(now, |connection| connection.since);
            let Self { relays, draws, .. } = self;
            relays[index].disconnected(since, now, draws);
        }
        let relay = &self.relays[index];
        if relay.conn.is_none() && relay.reached.is_some() {
            let peer = relay.peer.as_ref().and_then(|peer| self.peers.get(peer));
            let conn = peer.and_then(|peer| peer.conns.iter().copied().find(usable));
            if conn.is_some() {
                self.relays[index].conn = conn;
                self.relays[index].reason = None;
            }
        }
    }

    fn dial_relay(&mut self, index: usize, now: Instant, wake: &mut Wake) {
        let relay = &self.relays[index];
        if relay.conn.is_some() || relay.dial.is_some() || relay.myself() {
            return;
        }
        if !relay.retry.ready(now) {
            return wake.maybe(relay.retry.at());
        }
        let dial = DialId(self.number());
        let relay = &mut self.relays[index];
        relay.dial = Some((dial, now));
        let to = DialTo::Relay { peer: relay.target.peer.clone(), address: relay.target.address.clone() };
        self.actions.push_back(Action::Dial { dial, to });
    }

    fn ready_relay(&mut self, index: usize, now: Instant, wake: &mut Wake) {
        let relay = &self.relays[index];
        let Some(connection) = relay.conn.and_then(|conn| self.connections.get(&conn)) else { return };
        if !connection.identified && now < connection.since + IDENTIFY_WAIT {
            return wake.at(connection.since + IDENTIFY_WAIT);
        }
        if relay.ready.is_none() {
            self.relays[index].ready = Some(now);
            self.relay_came_up(now);
        }
        wake.maybe(self.relays[index].ready.map(|since| since + TELL_WAIT).filter(|at| *at > now));
        let relay = &self.relays[index];
        if self.spec.relay || relay.reservation != Reservation::None {
            return;
        }
        // Two addresses of one relay get one reservation: libp2p keeps one per connection.
        let taken = self
            .relays
            .iter()
            .any(|other| other.peer == relay.peer && other.reservation != Reservation::None);
        // libp2p reserves over the first connection to the relay, which may be one that is dead and not yet gone.
        let dying = relay.peer.as_ref().and_then(|peer| self.peers.get(peer)).is_some_and(|peer| {
            peer.conns.iter().filter_map(|conn| self.connections.get(conn)).any(|other| other.closing)
        });
        if taken || dying {
            return;
        }
        if !relay.reserve_retry.ready(now) {
            return wake.maybe(relay.reserve_retry.at());
        }
        if let (Some(peer), Some(address)) = (relay.peer.clone(), relay.reached.clone()) {
            self.relays[index].reservation = Reservation::Asked;
            self.actions.push_back(Action::Reserve { relay: peer, address });
        }
    }

    /// Whoever could not be reached may be now.
    fn relay_came_up(&mut self, now: Instant) {
        let Self { peers, connections, .. } = self;
        for peer in peers.values_mut() {
            let reached = |conn: &ConnId| connections.get(conn).is_some_and(|other| !other.closing);
            if !peer.conns.iter().any(reached) && !peer.dialling() {
                peer.retry.reset();
            } else if peer.punch.running() {
                peer.punch.restart(now);
            }
        }
    }

    fn report_relay(&mut self, index: usize) {
        let relay = &mut self.relays[index];
        let up = relay.conn.is_some() && (self.spec.relay || relay.reservation == Reservation::Held);
        let word = match relay.reason {
            _ if up => Ok(()),
            Some(RelayReason::Connecting) | None => return,
            Some(reason) => Err(reason),
        };
        if relay.reported == Some(word) {
            return;
        }
        relay.reported = Some(word);
        let address = relay.target.address.clone();
        self.report(match word {
            Ok(()) => Report::RelayUp { address },
            Err(reason) => Report::RelayDown { address, reason },
        });
    }

    /// Signs and sends the own record when it says something new.
    fn publish_own(&mut self) {
        let relays: BTreeSet<Address> = self
            .relays
            .iter()
            .filter(|relay| relay.reservation == Reservation::Held)
            .filter_map(|relay| relay.full_address())
            .collect();
        let relays: Vec<Address> = relays.into_iter().collect();
        if let Some((own, _)) = &self.own
            && own.addresses == self.addresses
            && own.relays == relays
            && own.proof == self.spec.identity.proof
        {
            return;
        }
        let record = PeerRecord {
            node: self.spec.node.clone(),
            peer: self.spec.peer.clone(),
            addresses: self.addresses.clone(),
            relays,
            zone: self.spec.zone.clone(),
            sequence: self.spec.sequence,
            version: self.spec.version.clone(),
            proof: self.spec.identity.proof.clone(),
        };
        self.spec.sequence += 1;
        let Ok(body) = record.encode() else { return };
        let signed = self.signer.sign(body);
        self.own = Some((record, signed.clone()));
        let conns: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in conns {
            self.send(conn, Frame::Record(signed.clone()));
        }
    }

    fn keep_peers(&mut self, now: Instant, wake: &mut Wake) {
        self.wanted.demanded.retain(|_, (_, last)| now < *last + DEMAND_TTL);
        let mut wanted: BTreeSet<PeerId> = BTreeSet::new();
        let mut demanded: BTreeSet<PeerId> = BTreeSet::new();
        for node in self.wanted.warm.iter().take(MAX_WARM) {
            wanted.extend(self.directory.peer_of(node).or_else(|| self.directory.suspected(node)).cloned());
        }
        for node in self.wanted.demanded.keys().cloned().collect::<Vec<_>>() {
            match self.directory.peer_of(&node).cloned() {
                Some(peer) => {
                    demanded.insert(peer.clone());
                    wanted.insert(peer);
                }
                None => {
                    if let Some(peer) = self.directory.suspected(&node).cloned() {
                        demanded.insert(peer.clone());
                        wanted.insert(peer);
                    }
                    self.look_for(&node, now, wake);
                }
            }
        }
        for (id, peer) in &self.peers {
            if peer.in_lan(now) {
                wanted.insert(id.clone());
                wake.maybe(peer.lan.iter().map(|(_, seen)| *seen + LAN_TTL).filter(|at| *at > now).min());
            }
        }
        wanted.remove(&self.spec.peer);
        for id in &wanted {
            self.peers.entry(id.clone()).or_default();
        }
        for id in self.peers.keys().cloned().collect::<Vec<_>>() {
            self.keep_peer(&id, wanted.contains(&id), demanded.contains(&id), now, wake);
            let named = self.wanted_by_name(&id);
            self.keep_ways(&id, named, now, wake);
        }
        self.peers.retain(|id, peer| {
            !peer.conns.is_empty()
                || !peer.ways.is_empty()
                || peer.dialling()
                || wanted.contains(id)
                || self.directory.record(id).is_some()
        });
    }

    /// Ends the wait for a node nobody speaks for once there is nobody left to hear of it from.
    fn look_for(&mut self, node: &edgemesh_api::Name, now: Instant, wake: &mut Wake) {
        let Some((first, _)) = self.wanted.demanded.get(node).copied() else { return };
        let heard_lan = self.born + LAN_WAIT;
        let told_all = !self.relays.is_empty() && self.relays.iter().all(|relay| relay.settled(now));
        if (told_all && now >= heard_lan) || now >= first + UNKNOWN_WAIT {
            self.wanted.demanded.remove(node);
            self.actions.push_back(Action::GaveUp { node: node.clone(), started: now });
        } else {
            wake.at(if now < heard_lan { heard_lan } else { first + UNKNOWN_WAIT });
        }
    }

    fn keep_peer(&mut self, id: &PeerId, wanted: bool, demanded: bool, now: Instant, wake: &mut Wake) {
        let Some(peer) = self.peers.get(id) else { return };
        let best = self.best_of(peer).map(|(_, connection)| connection.relayed());
        match best {
            None if wanted && !peer.dialling() => {
                if peer.retry.ready(now) {
                    self.attempt(id, demanded, now, wake);
                } else {
                    wake.maybe(peer.retry.at());
                }
            }
            None if wanted && peer.fresh && peer.circuit_dial.is_none() => self.attempt_circuit(id),
            None | Some(false) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.punch.stop();
                    peer.try_direct = false;
                }
            }
            Some(true) => self.improve(id, now, wake),
        }
    }

    /// Tries everything that may lead to a peer without a connection.
    fn attempt(&mut self, id: &PeerId, demanded: bool, now: Instant, wake: &mut Wake) {
        let direct = self.direct_addresses(id, now);
        let circuits = self.circuit_addresses(id);
        let crowded = self.circuit_dials() >= MAX_CIRCUIT_DIALS;
        if direct.is_empty() && (circuits.is_empty() || crowded) {
            let settled = self.relays.iter().all(|relay| relay.settled(now));
            if settled && !crowded {
                self.attempt_failed(id, now, now);
                wake.maybe(self.peers.get(id).and_then(|peer| peer.retry.at()));
            } else {
                wake.at(now + if demanded { DEMAND_RETRY / 8 } else { DEMAND_RETRY });
            }
            return;
        }
        let direct_dial = (!direct.is_empty()).then(|| DialId(self.number()));
        let circuit_dial = (!circuits.is_empty() && !crowded).then(|| DialId(self.number()));
        let Some(peer) = self.peers.get_mut(id) else { return };
        (peer.direct_dial, peer.circuit_dial) = (direct_dial, circuit_dial);
        peer.started = Some(now);
        peer.failure = None;
        peer.try_direct = false;
        peer.fresh = false;
        if let Some(dial) = direct_dial {
            let to = DialTo::Peer { peer: id.clone(), addresses: direct };
            self.actions.push_back(Action::Dial { dial, to });
        }
        if let Some(dial) = circuit_dial {
            let to = DialTo::Circuit { peer: id.clone(), addresses: circuits };
            self.actions.push_back(Action::Dial { dial, to });
        }
    }

    /// Joins a circuit to an attempt in flight: the peer's reservation was not known when it began.
    fn attempt_circuit(&mut self, id: &PeerId) {
        let circuits = self.circuit_addresses(id);
        let crowded = self.circuit_dials() >= MAX_CIRCUIT_DIALS;
        let dial = DialId(self.number());
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.fresh = false;
        if !circuits.is_empty() && !crowded {
            peer.circuit_dial = Some(dial);
            let to = DialTo::Circuit { peer: id.clone(), addresses: circuits };
            self.actions.push_back(Action::Dial { dial, to });
        }
    }

    /// Sets the pause after a failed attempt, and tells whoever waits.
    pub(crate) fn attempt_failed(&mut self, id: &PeerId, started: Instant, now: Instant) {
        let node = self.directory.node_of(id).cloned();
        let demanded = node.as_ref().is_some_and(|node| self.wanted.demanded.contains_key(node));
        let most = if demanded { DEMAND_RETRY } else { WARM_RETRY };
        let Self { peers, draws, .. } = self;
        if let Some(peer) = peers.get_mut(id) {
            peer.started = Some(started);
            peer.retry.failed(started, now, most, draws);
        }
        if let Some(node) = node.filter(|_| !self.awaits_reservation(id, now)) {
            self.actions.push_back(Action::GaveUp { node, started });
        }
    }

    /// A peer, or this node, has just appeared at a relay: the reservation follows in a moment, and no failure is
    /// final before.
    pub(crate) fn awaits_reservation(&self, id: &PeerId, now: Instant) -> bool {
        let recent = |since: Instant| now < since + TELL_WAIT;
        let ready = |relay: &crate::relay::Relay| relay.ready.is_some();
        self.relays.iter().filter_map(|relay| relay.ready).any(recent)
            || self.directory.entry(id).is_some_and(|entry| {
                entry.record.relays.is_empty() && recent(entry.learned) && self.relays.iter().any(ready)
            })
    }

    /// Tries to replace a relayed connection: directly by either side, by a new circuit (on which DCUtR runs) by
    /// the side with the smaller identity, so that not both make one.
    fn improve(&mut self, id: &PeerId, now: Instant, wake: &mut Wake) {
        let direct = self.direct_addresses(id, now);
        let circuits = self.circuit_addresses(id);
        let crowded = self.circuit_dials() >= MAX_CIRCUIT_DIALS;
        let first = self.spec.peer < *id;
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.punch.start(now);
        let due = peer.punch.due(now);
        wake.maybe(peer.punch.at());
        let dial_direct = (due || peer.try_direct) && peer.direct_dial.is_none() && !direct.is_empty();
        let dial_circuit = due && first && !crowded && peer.circuit_dial.is_none() && !circuits.is_empty();
        peer.try_direct = false;
        if dial_direct {
            let dial = DialId(self.number());
            if let Some(peer) = self.peers.get_mut(id) {
                peer.direct_dial = Some(dial);
            }
            let to = DialTo::Peer { peer: id.clone(), addresses: direct };
            self.actions.push_back(Action::Dial { dial, to });
        }
        if dial_circuit {
            let dial = DialId(self.number());
            if let Some(peer) = self.peers.get_mut(id) {
                peer.circuit_dial = Some(dial);
            }
            let to = DialTo::Circuit { peer: id.clone(), addresses: circuits };
            self.actions.push_back(Action::Dial { dial, to });
        }
    }

    fn circuit_dials(&self) -> usize {
        self.peers.values().filter(|peer| peer.circuit_dial.is_some()).count()
    }

    /// Addresses found in the LAN first, then those the peer tells; never the own ones.
    fn direct_addresses(&self, id: &PeerId, now: Instant) -> Vec<Address> {
        let found = self.peers.get(id).into_iter().flat_map(|peer| peer.lan.iter());
        let found = found.filter(|(_, seen)| now < *seen + LAN_TTL).map(|(address, _)| address);
        let told = self.directory.record(id).into_iter().flat_map(|record| record.addresses.iter());
        let mut addresses: Vec<Address> = Vec::new();
        for address in found.chain(told) {
            if !self.addresses.contains(address) && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.truncate(MAX_DIAL_ADDRESSES);
        addresses
    }

    /// Circuits to a peer: through the relays its record names, the own ones before others; through every own relay
    /// while there is no record. A record that names none tells that there is no reservation yet.
    fn circuit_addresses(&self, id: &PeerId) -> Vec<Address> {
        let relays = self.circuit_relays(id);
        let circuits = relays.iter().take(MAX_CIRCUITS);
        circuits.map(|relay| Address::new(format!("{relay}/p2p-circuit/p2p/{id}"))).collect()
    }

    /// The relays that lead to a peer, each as `<address>/p2p/<relay>`.
    pub(crate) fn circuit_relays(&self, id: &PeerId) -> Vec<Address> {
        let record = self.directory.record(id);
        let named: &[Address] = record.map_or(&[], |record| &record.relays);
        let up: Vec<Address> = self
            .relays
            .iter()
            .filter(|relay| relay.ready.is_some() && relay.peer.as_ref() != Some(id))
            .filter(|relay| {
                let suffix = relay.peer.as_ref().map(|peer| format!("/p2p/{peer}")).unwrap_or_default();
                record.is_none() || named.iter().any(|address| address.as_str().ends_with(&suffix))
            })
            .filter_map(|relay| relay.full_address())
            .collect();
        // An own relay that is not ready is dialled already; a second dial at once would have to use another port,
        // and the relay would see this node at an address where nobody can reach it.
        let own = |relay: &&Address| {
            let known = self.relays.iter().filter_map(|relay| relay.peer.as_ref()).chain([&self.spec.peer]);
            known.map(|peer| format!("/p2p/{peer}")).any(|suffix| relay.as_str().ends_with(&suffix))
        };
        let foreign: Vec<Address> = named.iter().filter(|relay| !own(relay)).cloned().collect();
        if up.is_empty() { foreign } else { up }
    }

    /// Closes what a better connection replaces, and what nobody needs.
    fn drain(&mut self, now: Instant, wake: &mut Wake) {
        let mut close = Vec::new();
        for (id, peer) in &self.peers {
            let Some((best, best_connection)) = self.best_of(peer) else { continue };
            let wanted = peer.in_lan(now) || self.wanted_by_name(id);
            for conn in &peer.conns {
                let Some(connection) = self.connections.get(conn).filter(|other| !other.closing) else {
                    continue;
                };
                if self.relays.iter().any(|relay| relay.conn == Some(*conn)) || connection.streams > 0 {
                    continue;
                }
                let idle = connection.idle_since.max(connection.since);
                let at = if *conn == best {
                    if wanted || !connection.ours {
                        continue;
                    }
                    idle + IDLE_CLOSE
                } else if rank(connection.path()) > rank(best_connection.path()) {
                    idle.max(best_connection.since) + DRAIN_GRACE
                } else if self.spec.peer < *id && !self.spec.relay {
                    // Of equals one side closes, lest each closes the other's choice.
                    let grace = if matches!(connection.kind, LinkKind::Relayed(_)) {
                        CIRCUIT_GRACE
                    } else {
                        DRAIN_GRACE
                    };
                    idle.max(best_connection.since) + grace
                } else {
                    continue;
                };
                if at <= now { close.push(*conn) } else { wake.at(at) }
            }
        }
        for conn in close {
            if let Some(connection) = self.connections.get_mut(&conn) {
                connection.closing = true;
            }
            self.actions.push_back(Action::Close { conn });
            self.published.dirty = true;
        }
    }

    pub(crate) fn wanted_by_name(&self, id: &PeerId) -> bool {
        self.directory
            .node_of(id)
            .is_some_and(|node| self.wanted.warm.contains(node) || self.wanted.demanded.contains_key(node))
    }
}
