//! What the swarm tells, and what it is asked for.

use std::time::Instant;

use edgemesh_tunnel_proto::LinkKind;
use libp2p::core::ConnectedPoint;
use libp2p::relay::client::Event as ClientEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError as SwarmDialError, ListenError, SwarmEvent};

use super::*;
use crate::behaviour::BehaviourEvent;
use crate::streams::Event as StreamEvent;
use crate::text::{is_relayed, relay_of, socket_of};
use crate::transport::{failure_of, is_diverted};

impl Driver {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.established(peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { connection_id, peer_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                if let Some(conn) = self.conns.remove(&connection_id) {
                    self.links.remove(&conn);
                    self.state.handle(Input::Disconnected { conn }, now);
                    self.dirty = true;
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, peer_id } => {
                let failure = dial_failure(&error);
                tracing::debug!(?peer_id, reason = failure.as_str(), %error, "dial failed");
                if let (Some(dial), _) = self.dials.ended(connection_id) {
                    self.state.handle(Input::DialFailed { dial, failure }, now);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.refused(&send_back_addr, &error);
            }
            SwarmEvent::Dialing { connection_id, .. } => self.dials.foreign(connection_id),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening(listener_id, &address, true, now);
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                self.listening(listener_id, &address, false, now);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(relay) = self.reservations.remove(&listener_id) {
                    let failure = reason.as_ref().err().map_or(Failure::Other, failure_of);
                    tracing::debug!(%relay, reason = failure.as_str(), "reservation ended");
                    let relay = peer_text(&relay);
                    self.state.handle(Input::ReservationLost { relay, failure }, now);
                    self.dirty = true;
                } else if let Err(error) = reason {
                    tracing::warn!(%error, "the tunnel stopped listening on an address");
                }
            }
            SwarmEvent::NewExternalAddrCandidate { address } => self.observed(&address),
            SwarmEvent::Behaviour(event) => self.on_behaviour(event, now),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Identify(libp2p::identify::Event::Received { connection_id, info, .. }) => {
                self.seen_at(&info.observed_addr);
                self.tell_apart(connection_id, &info.protocols, now);
                if let Some(&conn) = self.conns.get(&connection_id) {
                    self.state.handle(Input::Identified { conn }, now);
                }
            }
            BehaviourEvent::Client(ClientEvent::ReservationReqAccepted {
                relay_peer_id,
                renewal: false,
                ..
            }) => {
                self.state.handle(Input::Reserved { relay: peer_text(&relay_peer_id) }, now);
                self.dirty = true;
            }
            BehaviourEvent::Dcutr(event) => {
                tracing::debug!(peer = %event.remote_peer_id, result = ?event.result, "hole punching ended");
            }
            BehaviourEvent::Streams(StreamEvent::Carrier(connection, peer, stream)) => {
                let Some(&conn) = self.conns.get(&connection) else { return };
                let Some(entry) = self.links.get(&conn) else { return };
                let path = entry.link.counts.path();
                self.carriers.take_substream(*stream, peer, Way::Substream(conn), path);
            }
            BehaviourEvent::Streams(StreamEvent::Woken(connection)) => {
                let Some(&conn) = self.conns.get(&connection) else { return };
                let Some(entry) = self.links.get(&conn) else { return };
                let (streams, received) = (entry.link.counts.streams(), entry.meter.load(Ordering::Relaxed));
                self.state.handle(Input::Activity { conn, streams, received }, now);
            }
            BehaviourEvent::Streams(StreamEvent::Mute(connection)) => {
                self.mute(connection);
            }
            BehaviourEvent::Ping(event) if event.result.is_err() => self.unanswered(event.connection),
            _ => {}
        }
    }

    fn established(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) {
        let (dial, foreign) = self.dials.ended(connection);
        let streams = &self.swarm.behaviour().streams;
        let (Some(link), counts) = (streams.link(connection).cloned(), streams.counts(peer)) else { return };
        let remote = endpoint.get_remote_address().clone();
        if let Some(ip) = ip_of(&remote).filter(|ip| self.complaints.get(ip) == Some(&1)) {
            self.complaints.remove(&ip);
        }
        let meter = self.meters.of(&remote);
        let kind = self.kind(peer, endpoint, foreign);
        link.counts.set_path(kind.path());
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        tracing::debug!(%peer, %remote, path = %kind.path(), "connection made");
        let dialled = endpoint.is_dialer().then(|| socket_of(&remote)).flatten();
        self.links.insert(
            conn,
            LinkEntry { connection, peer, dialled, link, meter, counts, legacy: None, mute: false },
        );
        self.conns.insert(connection, conn);
        let address = address_text(&without_peer(remote));
        self.state.handle(Input::Connected { conn, peer: peer_text(&peer), kind, address, dial }, now);
        self.dirty = true;
    }

    /// Others see this node at an address. A NAT that keeps ports where it can keeps the own port towards a peer also
    /// when it had to choose another towards the observer: so that address is offered as well.
    fn observed(&mut self, address: &Multiaddr) {
        /// More faces than this a node has not; beyond it the question is settled anyway.
        const MAX_OBSERVED: usize = 64;
        let Some(ip) = ip_of(address).filter(|_| !is_relayed(address)) else { return };
        if self.observed.len() < MAX_OBSERVED {
            self.observed.insert(ip);
        }
        let own =
            |part: Protocol<'_>| matches!(part, Protocol::Tcp(port) if self.outgoing_ports.contains(&port));
        if address.iter().any(own) {
            return;
        }
        for port in self.outgoing_ports.clone() {
            let kept = tcp_multiaddr(SocketAddr::new(ip, port));
            self.swarm.behaviour_mut().streams.offer(kept);
        }
    }

    /// Where a peer saw this node. Identify itself offers the address with the listen port in place of the one that
    /// was seen, which is right for an ephemeral port. Connections here leave from the listen port, so another port
    /// is the NAT's choice, and with an endpoint-independent mapping it is the only one that can be punched.
    fn seen_at(&mut self, address: &Multiaddr) {
        let port =
            address.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None });
        let mapped = port.is_some_and(|port| self.listening.iter().all(|own| own.port() != port));
        if mapped && !is_relayed(address) {
            self.swarm.behaviour_mut().streams.offer(address.clone());
        }
    }

    /// A connection that DCUtR dialled is punched. One that came in while a circuit stood is too, when this node is
    /// behind a NAT: nothing but a hole could have let it in.
    fn kind(&mut self, peer: PeerId, endpoint: &ConnectedPoint, foreign: bool) -> LinkKind {
        if endpoint.is_relayed() {
            let by = match endpoint {
                ConnectedPoint::Dialer { address, .. } => relay_of(address),
                ConnectedPoint::Listener { local_addr, .. } => relay_of(local_addr),
            };
            return LinkKind::Relayed(by.as_ref().map(peer_text));
        }
        if ip_of(endpoint.get_remote_address()).is_some_and(|ip| self.interfaces.in_lan(ip)) {
            return LinkKind::Lan;
        }
        let circuit = self
            .links
            .values()
            .any(|entry| entry.peer == peer && entry.link.counts.path() == edgemesh_mesh::Path::Relayed);
        let behind_nat = !self.observed.is_empty() && self.observed.is_disjoint(&self.own_ips);
        if circuit && (foreign || (endpoint.is_listener() && behind_nat)) {
            LinkKind::Punched
        } else {
            LinkKind::Direct
        }
    }

    /// A handshake that failed before anything was authenticated: most often another pre-shared key. Told once per
    /// address, as a port scanner or a health check looks the same. Two members that dial each other at one moment
    /// can meet in one connection of which both believe to be the dialler; it fails alike, and they are connected a
    /// moment later. So the first failure is no suspicion yet.
    fn refused(&mut self, from: &Multiaddr, error: &ListenError) {
        let ListenError::Transport(failed) = error else { return };
        if let libp2p::TransportError::Other(failed) = failed
            && is_diverted(failed)
        {
            return;
        }
        let Some(ip) = ip_of(from) else { return };
        if self.complaints.len() >= MAX_COMPLAINTS && !self.complaints.contains_key(&ip) {
            return;
        }
        let failures = self.complaints.entry(ip).or_default();
        *failures += 1;
        match *failures {
            1 => return,
            2 => self.shared.gate.refused.psk_mismatch.fetch_add(2, Ordering::Relaxed),
            _ => self.shared.gate.refused.psk_mismatch.fetch_add(1, Ordering::Relaxed),
        };
        if *failures == 2 {
            tracing::warn!(%ip, reason = "psk_mismatch_suspected", "a peer failed the handshake");
        }
        self.dirty = true;
    }

    fn listening(&mut self, listener: ListenerId, address: &Multiaddr, added: bool, now: Instant) {
        let mut parts = address.iter();
        let (Some(ip), Some(Protocol::Tcp(port))) = (ip_of(address), parts.nth(1)) else { return };
        if is_relayed(address) {
            return;
        }
        if added {
            self.own_ips.insert(ip);
        } else {
            self.own_ips.remove(&ip);
        }
        if self.outgoing.contains(&listener) {
            self.outgoing_ports.insert(port);
            return;
        }
        let address = SocketAddr::new(ip, port);
        if added {
            self.listening.insert(address);
        } else {
            self.listening.remove(&address);
        }
        // Of all interfaces loopback is named first, and alone it tells nothing.
        let any = self.settings.listen.iter().any(|listen| listen.ip().is_unspecified());
        if !(any && self.listening.iter().all(|address| address.ip().is_loopback())) {
            self.advertise(now);
        }
    }

    /// Tells the addresses at which others may reach this node. Loopback counts where there is nothing else.
    fn advertise(&mut self, now: Instant) {
        let interfaces = &mut self.interfaces;
        let mut outer: Vec<SocketAddr> =
            self.listening.iter().copied().filter(|address| !interfaces.is_inner(address.ip())).collect();
        if outer.iter().any(|address| !address.ip().is_loopback()) || !self.settings.advertise.is_empty() {
            outer.retain(|address| !address.ip().is_loopback());
        }
        let mut told: Vec<Multiaddr> = self.settings.advertise.iter().copied().map(tcp_multiaddr).collect();
        for address in outer.into_iter().map(tcp_multiaddr) {
            if !told.contains(&address) {
                told.push(address);
            }
        }
        if *self.advertised.borrow() == told {
            return;
        }
        if self.settings.relay {
            // A reservation without an address of the relay in it is refused by libp2p's clients.
            let before = self.advertised.borrow().clone();
            before
                .iter()
                .filter(|old| !told.contains(old))
                .for_each(|old| self.swarm.remove_external_address(old));
            told.iter().for_each(|new| self.swarm.add_external_address(new.clone()));
        }
        let addresses = told.iter().map(address_text).collect();
        self.advertised.send_replace(told);
        self.state.handle(Input::Listening { addresses }, now);
        self.dirty = true;
    }

    pub(super) fn dial_relay(
        &mut self,
        dial: DialId,
        peer: Option<PeerId>,
        address: Multiaddr,
        now: Instant,
    ) {
        match peer {
            Some(peer) => self.dial_peer(dial, peer, vec![address], now),
            None => {
                let opts = DialOpts::unknown_peer_id().address(address).build();
                self.start_dial(dial, opts, now);
            }
        }
    }

    pub(super) fn dial_peer(&mut self, dial: DialId, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        let opts = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always).build();
        self.start_dial(dial, opts, now);
    }

    fn start_dial(&mut self, dial: DialId, opts: DialOpts, now: Instant) {
        let connection = opts.connection_id();
        self.dials.started(connection, dial);
        if let Err(error) = self.swarm.dial(opts) {
            self.dials.ended(connection);
            let failure = dial_failure(&error);
            tracing::debug!(reason = failure.as_str(), %error, "dial failed");
            self.state.handle(Input::DialFailed { dial, failure }, now);
        }
    }

    pub(super) fn on_lookup(&mut self, result: LookedUp) {
        let now = Instant::now();
        for (dial, address) in self.dials.looked_up(result) {
            let Some(peer) = self.pending_relays.remove(&dial) else { continue };
            match address {
                Some(address) => self.dial_relay(dial, peer, tcp_multiaddr(address), now),
                None => self.state.handle(Input::DialFailed { dial, failure: Failure::Unreachable }, now),
            }
        }
    }

    pub(super) fn reserve(&mut self, relay: &edgemesh_tunnel_proto::PeerId, address: &str, now: Instant) {
        // The end of an older listener on the same relay says nothing of this one.
        let id = peer_from(relay);
        self.reservations.retain(|_, holder| Some(*holder) != id);
        let listener = id.and_then(|id| {
            let address: Multiaddr = address.parse().ok()?;
            let circuit = address.with(Protocol::P2p(id)).with(Protocol::P2pCircuit);
            Some((self.swarm.listen_on(circuit).ok()?, id))
        });
        match listener {
            Some((listener, id)) => {
                self.reservations.insert(listener, id);
            }
            None => {
                let input = Input::ReservationLost { relay: relay.clone(), failure: Failure::Other };
                self.state.handle(input, now);
            }
        }
    }

    pub(super) fn on_frame(&mut self, received: Received) {
        let now = Instant::now();
        let Some(&conn) = self.conns.get(&received.connection) else { return };
        match received.frame {
            // Opened without a round trip, a refused control stream looks like a broken one.
            None => self.mute(received.connection),
            Some(Frame::Record(signed)) => match verify(&signed) {
                Ok(record) => self.on_record(conn, record, signed, now),
                Err(error) => {
                    self.shared.gate.refused.bad_record.fetch_add(1, Ordering::Relaxed);
                    let peer = self.links.get(&conn).map(|entry| entry.peer);
                    tracing::debug!(?peer, reason = error.as_str(), "a peer record does not verify");
                }
            },
            Some(Frame::Token(token)) => self.on_token(&token),
            Some(frame) => {
                self.on_offer(conn, &frame);
                self.state.handle(Input::Frame { conn, frame }, now);
            }
        }
    }
}

/// The most telling reason of a dial's several addresses.
fn dial_failure(error: &SwarmDialError) -> Failure {
    match error {
        SwarmDialError::WrongPeerId { .. } => Failure::WrongPeer,
        SwarmDialError::LocalPeerId { .. } => Failure::Myself,
        SwarmDialError::Transport(errors) => {
            let failures: Vec<Failure> = errors
                .iter()
                .map(|(_, error)| match error {
                    libp2p::TransportError::Other(error) => failure_of(error),
                    libp2p::TransportError::MultiaddrNotSupported(_) => Failure::Other,
                })
                .collect();
            [
                Failure::RelayFull,
                Failure::Handshake,
                Failure::NoReservation,
                Failure::Denied,
                Failure::Unreachable,
            ]
            .into_iter()
            .find(|failure| failures.contains(failure))
            .unwrap_or(Failure::Other)
        }
        SwarmDialError::NoAddresses
        | SwarmDialError::DialPeerConditionFalse(_)
        | SwarmDialError::Aborted
        | SwarmDialError::Denied { .. } => Failure::Other,
    }
}
