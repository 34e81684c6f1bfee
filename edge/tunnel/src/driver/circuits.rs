//! Connections that are not libp2p's, and what relays and their targets tell each other of circuits.

use edgemesh_tunnel_proto::circuit::{Kind, PREFACE, Status};

use edgemesh_mesh::Path;

use super::*;
use crate::carrier::CarryError;
use crate::circuit::server::turn_away;
use crate::circuit::{AcceptedCarrier, CircuitError, CircuitOffer, accept_circuit, connect_circuit};
use crate::text::socket_of;

/// Addresses of a relay that are tried for a circuit it offers: the one it was reached at, and one of either family.
const MAX_ADDRESSES: usize = 3;

fn failure_of(error: &CircuitError) -> Failure {
    match error {
        CircuitError::Unreachable(_) | CircuitError::Timeout | CircuitError::Broken(_) => {
            Failure::Unreachable
        }
        CircuitError::NoRelay(_) | CircuitError::Refused(Status::NotARelay) => Failure::Denied,
        CircuitError::Refused(Status::Full | Status::PeerFull) => Failure::RelayFull,
        CircuitError::Refused(Status::NoReservation) => Failure::NoReservation,
        CircuitError::Refused(Status::NotMember) => Failure::Handshake,
        CircuitError::Refused(_) | CircuitError::Request(_) => Failure::Other,
    }
}

impl Driver {
    pub(super) fn carry_circuit(
        &mut self,
        attempt: AttemptId,
        peer: PeerId,
        way: Way,
        relay: PeerId,
        address: SocketAddr,
    ) {
        let (member, relay, target) = (self.member.clone(), peer_text(&relay), peer_text(&peer));
        self.carriers.circuit(attempt, peer, way, async move {
            let connected = connect_circuit(address, &relay, &target, &member).await;
            connected.map_err(|error| CarryError::Circuit(failure_of(&error)))
        });
    }

    pub(super) fn on_diverted(&mut self, Diverted { kind, stream, remote }: Diverted) {
        match (kind, &self.shared.relay) {
            (Kind::Relay, Some(relay)) => relay.serve(stream, remote),
            (Kind::Relay, None) => turn_away(&stream, Status::NotARelay),
            (Kind::Carrier, _) => {
                // It has arrived, or the connection would not be here.
                edgemesh_net::socket::take_available(&stream, PREFACE.len() + 1);
                if let Some(AcceptedCarrier { stream, remote }) =
                    self.shared.taps.carrier(AcceptedCarrier { stream, remote })
                {
                    let ip = remote.ip().to_canonical();
                    let path = if self.interfaces.in_lan(ip) { Path::Lan } else { Path::Direct };
                    self.carriers.take_direct(stream, path);
                }
            }
        }
    }

    /// Tells a target of a circuit, over a connection that is no circuit itself.
    pub(super) fn on_ring(&self, ring: Ring) {
        let entry = self.state.direct(&ring.target).and_then(|conn| self.links.get(&conn));
        let frame = Frame::Circuit { token: ring.token, from: ring.from };
        let told = entry.is_some_and(|entry| entry.link.outbox.push(&frame));
        // Whoever asked may have given up.
        let _ = ring.reply.send(told);
    }

    /// Hands an offer on. Only the relays this node uses can make one: any other peer could have it dial at will.
    pub(super) fn on_offer(&self, conn: ConnId, frame: &Frame) {
        let Frame::Circuit { token, from } = frame else { return };
        let Some(entry) = self.links.get(&conn) else { return };
        let relay = peer_text(&entry.peer);
        if !self.state.uses_relay(&relay) {
            tracing::debug!(%relay, "a peer that is no relay of this node offers a circuit");
            return;
        }
        let record = self.state.record_of(&relay);
        let told = record.into_iter().flat_map(|record| &record.addresses);
        let told = told.filter_map(|address| socket_of(&address.as_str().parse().ok()?));
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in entry.dialled.into_iter().chain(told) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let offer = CircuitOffer { relay, addresses, token: *token, from: from.clone() };
        if let Some(CircuitOffer { relay, addresses, token, .. }) = self.shared.taps.offer(offer) {
            let (member, relay_peer) = (self.member.clone(), relay);
            self.carriers.take_circuit(&entry.peer, async move {
                let mut last = CarryError::Circuit(Failure::Unreachable);
                for address in addresses.into_iter().take(MAX_ADDRESSES) {
                    match accept_circuit(address, &relay_peer, token, &member).await {
                        Ok(socket) => return Ok(socket),
                        Err(error) => last = CarryError::Circuit(failure_of(&error)),
                    }
                }
                Err(last)
            });
        }
    }
}
