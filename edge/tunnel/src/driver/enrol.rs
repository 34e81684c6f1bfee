//! Records with their proofs, and the making out of tokens to those who join.

use std::time::Instant;

use edgemesh_tunnel_proto::{ConnId, Frame, Input, PeerRecord, SignedRecord, SignedToken, Token};

use super::Driver;
use crate::identity::clock;
use crate::text::peer_text;

impl Driver {
    pub(super) fn on_record(&mut self, conn: ConnId, record: PeerRecord, signed: SignedRecord, now: Instant) {
        let claim = self.shared.secrets.authorities.load().claim(&record);
        let joined = claim.token.clone().and_then(Result::ok).filter(|token| token.pinned.is_none());
        let peer = record.peer.clone();
        self.state
            .handle(Input::Record { conn, record: Box::new(record), signed, claim: Box::new(claim) }, now);
        if let Some(token) = joined
            && self.state.node_of(&peer) == Some(&token.node)
            && self.links.get(&conn).is_some_and(|entry| peer_text(&entry.peer) == peer)
        {
            self.pin(conn, &token, peer);
        }
    }

    /// A token that belongs to whoever presents it first is made out to its owner: nodes that come later cannot know who
    /// was first, and its time will be over. Made anew for each record until the owner presents it.
    fn pin(&mut self, conn: ConnId, token: &Token, peer: edgemesh_tunnel_proto::PeerId) {
        let Some(authority) = &self.shared.secrets.registrar else { return };
        // Later than the token it replaces, also when the clock here is behind: the later one counts.
        let issued = clock().max(token.issued.saturating_add(1));
        match authority.sign(&token.node, issued, None, Some(peer.clone())) {
            Ok(pinned) => {
                tracing::info!(node = %token.node, %peer, "a node joined; its token is pinned to its key");
                if let Some(entry) = self.links.get(&conn) {
                    // A peer that does not take its frames is closed by the state.
                    entry.link.outbox.push(&Frame::Token(pinned));
                }
            }
            Err(error) => tracing::warn!(%error, "a token cannot be pinned"),
        }
    }

    /// A node that holds the authority's key has pinned the own token. Whoever brings it: the authority's signature counts.
    pub(super) fn on_token(&mut self, signed: &SignedToken) {
        let secrets = &self.shared.secrets;
        let own = peer_text(self.swarm.local_peer_id());
        let Some(token) = secrets.authorities.load().verify(signed) else { return };
        let known = self.state.proof().token.as_ref().and_then(|known| known.token().ok());
        let replaces = known.is_some_and(|known| {
            known.pinned.is_none() && known.node == token.node && token.issued >= known.issued
        });
        if token.pinned != Some(own) || self.settings.node.as_ref() != Some(&token.node) || !replaces {
            return;
        }
        let (files, signed) = (secrets.files.clone(), signed.clone());
        // Those who follow the file present it.
        tokio::task::spawn_blocking(move || match files.save_token(&signed) {
            Ok(()) => tracing::info!("the join token is pinned to the own key now"),
            Err(error) => tracing::warn!(%error, "the pinned join token cannot be kept"),
        });
    }
}
