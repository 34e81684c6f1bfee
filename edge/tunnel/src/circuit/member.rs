//! The proof that a peer is who it says and belongs to the private network.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use edgemesh_tunnel_proto::PeerId;
use edgemesh_tunnel_proto::circuit::{
    CIRCUIT_KEY_DOMAIN, MAC_LEN, Nonce, Op, Request, RequestError, Status, Token,
};
use libp2p::identity::{Keypair, PublicKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::key::{KeyError, node_key, pre_shared_keys};
use crate::pnet::Psk;
use crate::text::peer_text;

/// A peer with its key and the private network's: what proves a request, and what checks one.
#[derive(Clone)]
pub struct Member {
    key: Keypair,
    peer: PeerId,
    /// The first is used, each is believed: keys are changed without an outage.
    psks: Arc<ArcSwap<Vec<Psk>>>,
}

impl Member {
    /// From the files the tunnel starts from, and whether Go agents have the private network's key too.
    pub fn load(key_file: &Path, psk_file: &Path, go_peers: bool) -> Result<Self, KeyError> {
        let psks = pre_shared_keys(psk_file, go_peers)?;
        Ok(Self::new(node_key(key_file)?, Arc::new(ArcSwap::from_pointee(psks))))
    }

    pub(crate) fn new(key: Keypair, psks: Arc<ArcSwap<Vec<Psk>>>) -> Self {
        Self { peer: peer_text(&key.public().to_peer_id()), key, psks }
    }

    /// The own identity.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The bytes of a request to a relay that greeted with a nonce.
    pub(crate) fn request(&self, op: Op, nonce: &Nonce, relay: &PeerId) -> Result<Vec<u8>, RequestError> {
        let mut request = Request {
            op,
            peer: self.peer.clone(),
            key: self.key.public().encode_protobuf().into(),
            signature: Default::default(),
            mac: [0; MAC_LEN],
        };
        let signature = self.key.sign(&request.signed(nonce, relay)?).map_err(|_| RequestError::Field)?;
        request.signature = signature.into();
        let psks = self.psks.load();
        let psk = psks.first().ok_or(RequestError::Field)?;
        let code = hmac::sign(&network(psk), &request.authenticated(nonce, relay)?);
        request.mac.copy_from_slice(code.as_ref());
        request.encode()
    }

    /// Whether a request to this relay is its peer's own, and the peer's a member's. The code comes first: what it
    /// keeps out costs no signature.
    pub(crate) fn proves(&self, request: &Request, nonce: &Nonce) -> Result<(), Status> {
        let covered = request.authenticated(nonce, &self.peer).map_err(RequestError::status)?;
        let believed = |psk: &Psk| hmac::verify(&network(psk), &covered, &request.mac).is_ok();
        if !self.psks.load().iter().any(believed) {
            return Err(Status::NotMember);
        }
        let signed = request.signed(nonce, &self.peer).map_err(RequestError::status)?;
        let key = PublicKey::try_decode_protobuf(&request.key).map_err(|_| Status::NotMember)?;
        let belongs = peer_text(&key.to_peer_id()) == request.peer;
        if belongs && key.verify(&signed, &request.signature) { Ok(()) } else { Err(Status::NotMember) }
    }
}

/// A nonce; `None` when the system has no randomness, and then nothing may be granted.
pub(crate) fn nonce() -> Option<Nonce> {
    let mut nonce = Nonce::default();
    SystemRandom::new().fill(&mut nonce).ok()?;
    Some(nonce)
}

/// Derived, so that no code of ours tells anything of the key that libp2p encrypts with.
fn network(psk: &Psk) -> hmac::Key {
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, psk), CIRCUIT_KEY_DOMAIN);
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

/// A token.
pub(crate) fn token() -> Option<Token> {
    let mut token = [0; 16];
    SystemRandom::new().fill(&mut token).ok()?;
    Some(Token(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(psk: u8) -> Member {
        Member::new(Keypair::generate_ed25519(), Arc::new(ArcSwap::from_pointee(vec![[psk; 32]])))
    }

    #[test]
    fn a_request_is_believed_to_its_own_key_at_its_own_relay_once() {
        let (relay, other, client, stranger) = (member(1), member(1), member(1), member(2));
        let (nonce, later) = ([1; 32], [2; 32]);
        let read = |from: &Member, op: Op| {
            let bytes = from.request(op, &nonce, relay.peer()).expect("within the bounds");
            Request::decode(&bytes).expect("a request").expect("whole").0
        };
        let token = Token([7; 16]);
        for op in [Op::Observe, Op::Accept(token), Op::Connect(other.peer().clone())] {
            let good = read(&client, op.clone());
            assert_eq!(relay.proves(&good, &nonce), Ok(()), "{op:?}");
            let refused = Err(Status::NotMember);
            assert_eq!(relay.proves(&good, &later), refused, "another connection's nonce");
            assert_eq!(other.proves(&good, &nonce), refused, "another relay");
            assert_eq!(relay.proves(&read(&stranger, op.clone()), &nonce), refused, "another network");
            let foreign = Request { peer: other.peer().clone(), ..good.clone() };
            assert_eq!(relay.proves(&foreign, &nonce), refused, "another peer's name");
            // A member that knows the network's key signs with its own and claims another's name.
            let mut forged = foreign.clone();
            let covered = forged.authenticated(&nonce, relay.peer()).expect("within the bounds");
            forged.mac.copy_from_slice(hmac::sign(&network(&[1; 32]), &covered).as_ref());
            let signed = forged.signed(&nonce, relay.peer()).expect("within the bounds");
            forged.signature = client.key.sign(&signed).expect("signed").into();
            assert_eq!(relay.proves(&forged, &nonce), refused, "another peer's name, with a code");
            let changed = Request { op: Op::Accept(Token([8; 16])), ..good.clone() };
            assert_eq!(relay.proves(&changed, &nonce), refused, "another operation");
            for bit in 0..8 {
                let mut mac = good.mac;
                mac[31] ^= 1 << bit;
                assert_eq!(relay.proves(&Request { mac, ..good.clone() }, &nonce), refused);
            }
        }
    }
}
