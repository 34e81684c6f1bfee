//! Agents of Go EdgeMesh, as far as the driver has to do with them.

use edgemesh_tunnel_proto::CONTROL_PROTOCOL;
use libp2p::StreamProtocol;

use super::*;
use crate::go::ask_discovery;
use crate::streams::Kind;

impl Driver {
    /// Identify told what a peer speaks. Without a control stream it is a Go agent, which is asked for its name.
    pub(super) fn tell_apart(
        &mut self,
        connection: ConnectionId,
        protocols: &[StreamProtocol],
        now: Instant,
    ) {
        let Some(go) = self.shared.go.clone() else { return };
        let Some(&conn) = self.conns.get(&connection) else { return };
        let Some(entry) = self.links.get_mut(&conn) else { return };
        let legacy = !protocols.iter().any(|protocol| protocol.as_ref() == CONTROL_PROTOCOL);
        if entry.legacy.replace(legacy).is_some() {
            return;
        }
        if !legacy {
            if entry.mute {
                self.swarm.close_connection(connection);
            }
            return;
        }
        let (peer, link) = (entry.peer, GoLink::new(&entry.link, entry.counts.clone()));
        go.learn(peer);
        self.state.handle(Input::Legacy { conn }, now);
        self.dirty = true;
        // A node that speaks for itself in the API may have been taken for one of ours.
        self.publish_routes();
        self.shared.gate.spawn(async move {
            match link.open(Kind::Discovery).await {
                Ok(stream) => ask_discovery(go, connection, peer, stream).await,
                Err(error) => tracing::debug!(%peer, ?error, "a Go agent is not asked for its name"),
            }
        });
    }

    /// Whether streams on a connection are those of a Go agent. Until identify tells, the peer's identity does.
    pub(super) fn is_go(&self, entry: &LinkEntry) -> bool {
        let known = || self.shared.go.as_ref().is_some_and(|go| go.knows(&entry.peer));
        entry.legacy.unwrap_or_else(known)
    }

    /// A peer without a control stream, or with a broken one, is none of ours; whether it is a Go agent, identify tells.
    pub(super) fn mute(&mut self, connection: ConnectionId) {
        let entry = self.conns.get(&connection).and_then(|conn| self.links.get_mut(conn));
        match entry {
            Some(entry) if self.shared.go.is_some() && entry.legacy != Some(false) => entry.mute = true,
            _ => {
                self.swarm.close_connection(connection);
            }
        }
    }

    /// Connections of Go agents have libp2p's ping for a pulse.
    pub(super) fn unanswered(&mut self, connection: ConnectionId) {
        let entry = self.conns.get(&connection).and_then(|conn| self.links.get(conn));
        if let Some(entry) = entry.filter(|entry| entry.legacy == Some(true)) {
            entry.link.counts.closed.cancel();
            self.swarm.close_connection(connection);
        }
    }

    pub(super) fn on_claim(&mut self, claim: Claim) {
        let Some(&conn) = self.conns.get(&claim.connection) else { return };
        self.state.handle(Input::Claimed { conn, node: claim.node }, Instant::now());
    }

    /// A node nobody speaks for may have a Go agent: relays are asked for the identity that it would have.
    pub(super) fn suspect(&mut self, node: &Name, now: Instant) {
        let Some(go) = &self.shared.go else { return };
        if self.state.peer_of(node).is_some() {
            return;
        }
        if let Some(peer) = go.identity(node) {
            go.learn(peer);
            self.state.handle(Input::Suspected { node: node.clone(), peer: peer_text(&peer) }, now);
        }
    }
}
