use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use crate::serve::DATAGRAM;
use crate::{Ask, dns, transfer};

/// Runs the client of this name.
pub(crate) async fn run(verb: &str, ask: &Ask) -> anyhow::Result<Value> {
    match verb {
        "dns" => dns::look_up(ask).await,
        "udp" => udp(ask).await,
        "up" | "down" => bulk(ask, verb == "up").await,
        "http" | "https" | "ws" | "banner" => repeated(verb, ask).await,
        other => bail!("{other}: no such client"),
    }
}

/// Median and maximum in milliseconds.
pub(crate) fn latency(times: &mut [Duration]) -> Value {
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    json!({ "median": ms(times.get(times.len() / 2)), "max": ms(times.last()) })
}

/// Asks `count` times, and counts which pod answered.
async fn repeated(verb: &str, ask: &Ask) -> anyhow::Result<Value> {
    let mut pods = BTreeMap::<String, usize>::new();
    let mut order = Vec::new();
    let mut times = Vec::new();
    let mut kept = None;
    for _ in 0..ask.count {
        let began = Instant::now();
        let one = async {
            match verb {
                "http" => http(ask, &mut kept, false).await,
                "https" => http(ask, &mut kept, true).await,
                "ws" => web_socket(ask).await,
                _ => banner(ask).await,
            }
        };
        let pod = tokio::time::timeout(ask.timeout, one).await.context("no answer in time")??;
        times.push(began.elapsed());
        *pods.entry(pod.clone()).or_default() += 1;
        order.push(pod);
    }
    Ok(json!({ "pods": pods, "order": order, "latency_ms": latency(&mut times) }))
}

async fn resolve(ask: &Ask) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(&ask.target).await.with_context(|| ask.target.clone())?;
    let wanted = |address: &SocketAddr| match ask.family {
        Some(4) => address.is_ipv4(),
        Some(6) => address.is_ipv6(),
        _ => true,
    };
    found.find(wanted).with_context(|| format!("{}: no address of this family", ask.target))
}

async fn connect(ask: &Ask) -> anyhow::Result<TcpStream> {
    let address = resolve(ask).await?;
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn http(ask: &Ask, kept: &mut Option<SendRequest<Empty<Bytes>>>, tls: bool) -> anyhow::Result<String> {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None if tls => handshake(tls_connect(ask).await?).await?,
        None => handshake(connect(ask).await?).await?,
    };
    sender.ready().await?;
    let request = hyper::Request::get("/").header("host", &ask.target).body(Empty::new())?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        bail!("HTTP {}", response.status());
    }
    let body = response.into_body().collect().await?.to_bytes();
    if ask.keep_alive {
        *kept = Some(sender);
    }
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn tls_connect(ask: &Ask) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("edgemesh-workload")?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, connect(ask).await?).await?)
}

/// The servers' certificates are made at start: that the bytes arrive is tested, not whose they are.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

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
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn web_socket(ask: &Ask) -> anyhow::Result<String> {
    let stream = connect(ask).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{}/", ask.target), stream).await?;
    let name = socket.next().await.context("closed before the name")??.into_text()?.to_string();
    let sent = "a message of the laboratory";
    socket.send(sent.into()).await?;
    let back = socket.next().await.context("closed before the echo")??.into_text()?;
    if back.as_str() != sent {
        bail!("another message came back");
    }
    socket.close(None).await?;
    Ok(name)
}

async fn banner(ask: &Ask) -> anyhow::Result<String> {
    let mut stream = BufReader::new(connect(ask).await?);
    let mut name = String::new();
    stream.read_line(&mut name).await?;
    stream.write_all(b"echo\n").await?;
    stream.shutdown().await?;
    let mut back = String::new();
    stream.read_line(&mut back).await?;
    if back != "echo\n" {
        bail!("another line came back: {back:?}");
    }
    Ok(name.trim().to_owned())
}

async fn udp(ask: &Ask) -> anyhow::Result<Value> {
    let target = resolve(ask).await?;
    let local = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(target).await?;
    let size = ask.size.clamp(4, DATAGRAM);
    let mut payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let mut buffer = vec![0; DATAGRAM];
    let mut times = Vec::new();
    let mut wrong = 0usize;
    for number in 0..u32::try_from(ask.count)? {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let began = Instant::now();
        socket.send(&payload).await?;
        let echo = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer[..length] == payload[..] {
                    return anyhow::Ok(());
                }
                wrong += 1;
            }
        };
        if let Ok(came) = tokio::time::timeout(ask.timeout, echo).await {
            came?;
            times.push(began.elapsed());
        }
    }
    let came = times.len();
    Ok(json!({
        "ok": came == ask.count,
        "sent": ask.count,
        "received": came,
        "wrong": wrong,
        "size": size,
        "latency_ms": latency(&mut times),
    }))
}

async fn bulk(ask: &Ask, up: bool) -> anyhow::Result<Value> {
    let mut stream = tokio::time::timeout(ask.timeout, connect(ask)).await.context("connect in time")??;
    let began = Instant::now();
    let whole = transfer::ask(&mut stream, up, ask.size as u64);
    tokio::time::timeout(ask.timeout, whole).await.context("transfer in time")??;
    let seconds = began.elapsed().as_secs_f64();
    Ok(json!({ "bytes": ask.size, "seconds": seconds, "mbit_per_s": ask.size as f64 * 8e-6 / seconds }))
}
