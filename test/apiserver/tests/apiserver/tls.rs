use std::sync::Arc;

use edgemesh_apiserver::{Server, ServerOptions, TlsOptions};
use hyper::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::{DEADLINE, Failure, attempt, read, request, send, start};

fn config(server: &Server, identity: bool) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    let ca = server.ca_pem().expect("TLS is on");
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    if !identity {
        return Ok(builder.with_no_client_auth());
    }
    let identity = server.client_identity().expect("TLS is on");
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
    Ok(builder
        .with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?)?)
}

async fn status(server: &Server, name: &'static str, identity: bool) -> Result<u16, Failure> {
    let asked = async {
        let stream = TcpStream::connect(server.addr()).await?;
        let connector = TlsConnector::from(Arc::new(config(server, identity)?));
        let stream = connector.connect(ServerName::try_from(name)?, stream).await?;
        read(send(stream, request(Method::GET, "/api/v1/services", &[], "")).await?).await
    };
    Ok(timeout(DEADLINE, asked).await.expect("in time")?.status.as_u16())
}

#[tokio::test]
async fn its_certificate_is_good_for_its_names() {
    let tls =
        TlsOptions { names: vec!["api.example".to_owned(), "fd00::1".to_owned()], ..TlsOptions::default() };
    let server = start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;
    assert!(server.url().starts_with("https://127.0.0.1:"));
    for (name, accepted) in [
        ("127.0.0.1", true),
        ("::1", true),
        ("localhost", true),
        ("api.example", true),
        ("fd00::1", true),
        ("other.example", false),
    ] {
        assert_eq!(status(&server, name, false).await.ok(), accepted.then_some(200), "{name}");
    }
    let plain = timeout(DEADLINE, attempt(server.addr(), Method::GET, "/api", &[], "")).await;
    assert!(plain.expect("in time").is_err(), "plain HTTP is no TLS");
    server.requests().until(|counts| counts.failed_handshakes >= 1 && counts.open_connections == 0).await;
    server.restart().await.expect("restarted");
    assert_eq!(status(&server, "localhost", false).await.ok(), Some(200), "the certificate is the same");
}

#[tokio::test]
async fn a_client_certificate_may_be_required() {
    let tls = TlsOptions { require_client: true, ..TlsOptions::default() };
    let server = start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;
    assert_eq!(status(&server, "localhost", true).await.ok(), Some(200));
    assert_eq!(status(&server, "localhost", false).await.ok(), None);
}
