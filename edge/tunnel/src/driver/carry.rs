//! Carriers: made as the state asks for them, taken as peers make them, weighed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::session::CarrierId;
use edgemesh_tunnel_proto::{AttemptId, CarryId, Failure, Input, Way};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::Driver;
use crate::carrier::CarrierEvent;
use crate::carrier::session::PeerSession;
use crate::status::CarrierStatus;
use crate::streams::{Kind, OpenRequest};
use crate::text::{peer_from, peer_text, socket_of};

/// A carrier that stands.
pub(super) struct Ridden {
    session: Arc<PeerSession>,
    way: Way,
}

impl Driver {
    pub(super) fn carry(
        &mut self,
        attempt: AttemptId,
        peer: &edgemesh_tunnel_proto::PeerId,
        way: Way,
        now: Instant,
    ) {
        let failed = Input::CarryFailed { attempt, peer: peer.clone(), failure: Failure::Other };
        let Some(id) = peer_from(peer) else { return self.state.handle(failed, now) };
        match &way {
            Way::Substream(conn) => {
                let Some(entry) = self.links.get(conn) else { return self.state.handle(failed, now) };
                let (open, path) = (entry.link.open.clone(), entry.link.counts.path());
                self.carriers.substream(attempt, id, way, path, async move {
                    let (reply, answer) = oneshot::channel();
                    open.send(OpenRequest { kind: Kind::Carrier, reply }).await.ok()?;
                    answer.await.ok()
                });
            }
            Way::Direct { address, path } => {
                let socket = address.as_ref().and_then(|address| address.as_str().parse::<Multiaddr>().ok());
                let Some(socket) = socket.as_ref().and_then(socket_of) else {
                    return self.state.handle(failed, now);
                };
                let path = *path;
                self.carriers.direct(attempt, id, way, path, socket);
            }
            Way::Circuit { relay, address } => {
                let socket: Option<SocketAddr> = address
                    .as_ref()
                    .and_then(|address| address.as_str().parse::<Multiaddr>().ok())
                    .as_ref()
                    .and_then(socket_of);
                let (Some(socket), Some(relay)) = (socket, peer_from(relay)) else {
                    return self.state.handle(failed, now);
                };
                self.carry_circuit(attempt, id, way, relay, socket);
            }
        }
    }

    pub(super) fn end_carrier(&mut self, carrier: CarryId) {
        if let Some(ridden) = self.ridden.get(&carrier) {
            ridden.session.end_carrier(CarrierId(carrier.0));
        }
    }

    pub(super) fn on_carrier(&mut self, event: CarrierEvent) {
        let now = Instant::now();
        self.dirty = true;
        match event {
            CarrierEvent::Up { carrier, attempt, session, way } => {
                let peer = peer_text(&session.peer());
                self.ridden.insert(carrier, Ridden { session, way: way.clone() });
                self.state.handle(Input::CarrierUp { carrier, attempt, peer, way }, now);
                // A session begun anew takes the place of the old one.
                self.publish_routes();
            }
            CarrierEvent::Down { carrier, peer, silent } => {
                self.ridden.remove(&carrier);
                if let Some(silent) = silent {
                    tracing::info!(%peer, silent_ms = silent.as_millis() as u64, "carrier is dead");
                }
                let peer = peer_text(&peer);
                self.state.handle(Input::CarrierDown { carrier, peer, dead: silent.is_some() }, now);
            }
            CarrierEvent::Failed { attempt, peer, failure } => {
                let peer = peer_text(&peer);
                self.state.handle(Input::CarryFailed { attempt, peer, failure }, now);
            }
        }
    }

    /// Tells the state what the sessions carry, and ends those that are of no more use.
    pub(super) fn weigh(&mut self) {
        let now = Instant::now();
        let mut loads: BTreeMap<_, u32> = BTreeMap::new();
        for session in self.carriers.sessions() {
            let peer = peer_text(&session.peer());
            let view = session.view();
            let streams = session.counts().streams();
            for carrier in &view.carriers {
                let ridden = self.ridden.get(&CarryId(carrier.id.0));
                if let Some(Way::Substream(conn)) = ridden.map(|ridden| &ridden.way) {
                    let load = (carrier.sending + carrier.receiving) as u32;
                    *loads.entry(*conn).or_default() += load;
                }
            }
            let connected = self.links.values().any(|entry| entry.peer == session.peer());
            if streams == 0 && view.carriers.is_empty() && !connected {
                self.carriers.forget(&session);
            }
            self.state.handle(Input::SessionLoad { peer, streams }, now);
        }
        for (conn, entry) in &self.links {
            entry.link.counts.carried.store(loads.get(conn).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    pub(super) fn carriers_of(&self, peer: PeerId) -> Vec<(CarrierId, CarrierStatus)> {
        let ridden = self.ridden.iter().filter(|(_, ridden)| ridden.session.peer() == peer);
        let carriers = ridden.filter_map(|(carrier, ridden)| {
            let (kind, path, relay) = match &ridden.way {
                Way::Substream(conn) => ("substream", self.links.get(conn)?.link.counts.path(), None),
                Way::Direct { path, .. } => ("tls", *path, None),
                Way::Circuit { relay, .. } => ("circuit", Path::Relayed, Some(relay.to_string())),
            };
            let status = CarrierStatus {
                kind,
                path: path.as_str(),
                relay,
                best: false,
                rtt_ms: None,
                streams: 0,
                bytes_in: 0,
                bytes_out: 0,
            };
            Some((CarrierId(carrier.0), status))
        });
        carriers.collect()
    }
}
