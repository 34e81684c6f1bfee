use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::credentials::{AccessError, ApiAccess, Pem};

/// What TLS to the server is made with; the files are read now.
pub(crate) fn config(access: &ApiAccess) -> Result<Arc<ClientConfig>, AccessError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|_| missing("the crypto provider", "protocol version"))?;
    let builder = if access.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &access.ca {
            // Bundles of a system hold a certificate now and then that no library takes.
            let (taken, _) = roots.add_parsable_certificates(certificates(ca)?);
            if taken == 0 {
                return Err(missing(&ca.place(), "certificate of an authority"));
            }
        } else {
            return Err(AccessError::NoAuthority);
        }
        builder.with_root_certificates(roots)
    };
    let config = match &access.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let place = key.place();
            let der =
                PrivateKeyDer::from_pem_slice(&key.read()?).map_err(|_| missing(&place, "private key"))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, der)
                .map_err(|_| missing(&place, "private key that belongs to the certificate"))?
        }
    };
    Ok(Arc::new(config))
}

fn missing(place: &str, what: &'static str) -> AccessError {
    AccessError::Pem { place: place.to_owned(), what }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let text = pem.read()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| missing(&pem.place(), "certificate"))
}

/// `insecureSkipTLSVerify`: the connection is encrypted, and with whom is anybody's guess.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
