use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// How the server speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Names and addresses of the certificate besides `localhost`, the loopback addresses, `kubernetes.default.svc` and
    /// the address the server listens on.
    pub names: Vec<String>,
    /// Whether a client must show a certificate of the same authority.
    pub require_client: bool,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key, as PKCS #8.
    pub key: String,
}

/// An authority made for one server, and what it signed.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) ca: String,
    pub(crate) client: Identity,
}

/// What cannot be made of the names that were asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate.
    #[error("no certificate for {names:?}: {source} (give DNS names and IP addresses)")]
    Certificate {
        /// The names.
        names: Vec<String>,
        /// What is wrong with them.
        source: rcgen::Error,
    },
    /// A configuration with it.
    #[error("no TLS with the certificates just made: {0}")]
    Config(String),
}

impl TlsError {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificate",
            Self::Config(_) => "config",
        }
    }
}

impl Tls {
    pub(crate) fn new(options: &TlsOptions, listen: IpAddr) -> Result<Self, TlsError> {
        let mut names: Vec<_> =
            ["localhost", "127.0.0.1", "::1", "kubernetes.default.svc"].map(str::to_owned).into();
        if !listen.is_unspecified() && !listen.is_loopback() {
            names.push(listen.to_string());
        }
        names.extend(options.names.iter().cloned());
        let failed = |source| TlsError::Certificate { names: names.clone(), source };
        let ca = authority().map_err(failed)?;
        let server =
            signed(&ca, names.clone(), "apiserver", ExtendedKeyUsagePurpose::ServerAuth).map_err(failed)?;
        let client =
            signed(&ca, Vec::new(), "client", ExtendedKeyUsagePurpose::ClientAuth).map_err(failed)?;
        let config = config(&ca, server.0, &server.1, options.require_client)
            .map_err(|error| TlsError::Config(error.to_string()))?;
        let client = Identity { certificate: client.2, key: client.1.serialize_pem() };
        Ok(Self { config: Arc::new(config), ca: ca.pem(), client })
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn signed(
    ca: &CertifiedIssuer<'_, KeyPair>,
    names: Vec<String>,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(CertificateDer<'static>, KeyPair, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.der().clone(), key, certificate.pem()))
}

fn config(
    ca: &CertifiedIssuer<'_, KeyPair>,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    require_client: bool,
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if require_client {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(builder.with_single_cert(vec![certificate], key)?)
}
