//! TLS 1.3 between two agents: raw public keys (RFC 7250), which are the nodes' libp2p keys, and proof of membership.
//!
//! A TLS handshake proves the identity of both ends; whoever holds the private network's key proves it by a MAC over
//! keying material that only the two ends of this connection have (RFC 8446 section 7.5), so that a relay between
//! them can neither read nor take part.

use std::sync::Arc;

use arc_swap::ArcSwap;
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use ring::hmac;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme, version,
};

use crate::pnet::Psk;

/// What the two ends speak; a TLS end of something else is told apart by it.
const ALPN: &[u8] = b"edgemesh/1";

/// Label of the keying material that membership is proven over.
const MEMBER_LABEL: &[u8] = b"EXPORTER-edgemesh-member";

/// An Ed25519 key as SubjectPublicKeyInfo (RFC 8410 section 4) is this and 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 private key as PKCS #8 (RFC 8410 section 7) is this and its seed of 32 bytes.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The length of a proof of membership, that of SHA-256.
pub(crate) const PROOF: usize = 32;

/// The TLS of a node.
pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// The first is used, each is believed: keys are changed without an outage.
    psks: Arc<ArcSwap<Vec<Psk>>>,
}

impl Tls {
    /// Builds both roles from the node's key and the private network's.
    pub(crate) fn new(key: &Keypair, psks: Arc<ArcSwap<Vec<Psk>>>) -> Result<Self, Error> {
        let ed25519 = key.clone().try_into_ed25519().map_err(|error| Error::General(error.to_string()))?;
        let provider = Arc::new(crypto());
        let certified = Arc::new(certified(&ed25519, &provider)?);
        let peers = Arc::new(Peers { algorithms: provider.signature_verification_algorithms });

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(peers.clone())
            .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
                certified.clone(),
            )));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        // A resumed session would skip the proof of identity, and carriers are too few to gain from it.
        client.resumption = rustls::client::Resumption::disabled();

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(peers)
            .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified)));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;

        Ok(Self { client: Arc::new(client), server: Arc::new(server), psks })
    }

    /// Proves membership at one end of a connection; the two ends prove different things, so that neither can send
    /// the other's proof back. `None` without a key.
    pub(crate) fn prove(&self, material: &[u8; PROOF], dialler: bool) -> Option<[u8; PROOF]> {
        let psks = self.psks.load();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, psks.first()?), &message(material, dialler));
        tag.as_ref().try_into().ok()
    }

    /// Whether the other end proved membership.
    pub(crate) fn proven(&self, material: &[u8; PROOF], dialler: bool, proof: &[u8; PROOF]) -> bool {
        let message = message(material, dialler);
        let believed =
            |psk: &Psk| hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, psk), &message, proof).is_ok();
        self.psks.load().iter().any(believed)
    }
}

fn message(material: &[u8; PROOF], dialler: bool) -> Vec<u8> {
    let role: &[u8] = if dialler { b"dialler" } else { b"listener" };
    [role, material].concat()
}

/// What only the two ends of a connection know.
pub(crate) fn material<D>(connection: &rustls::ConnectionCommon<D>) -> Result<[u8; PROOF], Error> {
    connection.export_keying_material([0; PROOF], MEMBER_LABEL, None)
}

/// The peer at the other end of a finished handshake.
pub(crate) fn peer<D>(connection: &rustls::ConnectionCommon<D>) -> Option<PeerId> {
    let certificate = connection.peer_certificates()?.first()?;
    peer_of(certificate)
}

fn peer_of(spki: &[u8]) -> Option<PeerId> {
    let bytes = spki.strip_prefix(&SPKI_PREFIX)?;
    let key = ed25519::PublicKey::try_from_bytes(bytes).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

fn certified(key: &ed25519::Keypair, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let spki = [&SPKI_PREFIX[..], &key.public().to_bytes()].concat();
    let pkcs8 = [&PKCS8_PREFIX[..], key.secret().as_ref()].concat();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let signing = provider.key_provider.load_private_key(private)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(spki)], signing))
}

/// ring's provider with the cipher first that the processor has instructions for: without them AES costs several
/// times as much as ChaCha20.
fn crypto() -> CryptoProvider {
    let mut crypto = provider::default_provider();
    let first = if has_aes() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    crypto.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    crypto
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// Takes any Ed25519 key: who it is is told after the handshake, and compared with whom the caller wants.
#[derive(Debug)]
struct Peers {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Peers {
    fn known(certificate: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<(), Error> {
        if further.is_empty() && peer_of(certificate).is_some() {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::BadEncoding))
        }
    }

    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

fn not_tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::known(certificate, further).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Peers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::known(certificate, further).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
