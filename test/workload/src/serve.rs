use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::transfer;

/// Connections served at once by one server; more wait in the listen queue. Ten times what the tests open together.
const CONNECTIONS: usize = 10_000;
/// The listen queue; the kernel cuts it to net.core.somaxconn (4096 by default).
const BACKLOG: i32 = 4096;
/// The largest UDP payload over IPv4 (65535 less the headers).
pub(crate) const DATAGRAM: usize = 65_507;

/// What is served at a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP/1.1 with keep-alive: answers the pod's name.
    Http,
    /// The same over TLS, with a certificate made at start.
    Https,
    /// WebSocket: every message comes back, after the pod's name.
    WebSocket,
    /// The server speaks first: the pod's name and a line end.
    Banner,
    /// Every byte comes back.
    Echo,
    /// Bulk bytes up or down.
    Transfer,
    /// Every datagram comes back.
    UdpEcho,
    /// Every datagram is answered with the pod's name.
    UdpHostname,
}

impl Kind {
    /// By its flag.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "http" => Self::Http,
            "https" => Self::Https,
            "ws" => Self::WebSocket,
            "banner" => Self::Banner,
            "echo" => Self::Echo,
            "transfer" => Self::Transfer,
            "udp-echo" => Self::UdpEcho,
            "udp-hostname" => Self::UdpHostname,
            _ => return None,
        })
    }
}

/// Serves all ports until the process is killed.
pub(crate) async fn run(name: String, ports: Vec<(Kind, u16)>) -> anyhow::Result<()> {
    let name: Arc<str> = name.into();
    let mut servers = tokio::task::JoinSet::new();
    for (kind, port) in ports {
        let name = Arc::clone(&name);
        match kind {
            Kind::UdpEcho | Kind::UdpHostname => {
                let socket = UdpSocket::from_std(bind(Type::DGRAM, port)?.into())?;
                servers.spawn(datagrams(socket, (kind == Kind::UdpHostname).then_some(name)));
            }
            _ => {
                let socket = bind(Type::STREAM, port)?;
                socket.listen(BACKLOG)?;
                let listener = TcpListener::from_std(socket.into())?;
                let tls = if kind == Kind::Https { Some(acceptor()?) } else { None };
                servers.spawn(streams(listener, kind, name, tls));
            }
        }
    }
    match servers.join_next().await {
        Some(ended) => ended?,
        // A pod without servers is there to be entered.
        None => std::future::pending().await,
    }
}

fn bind(kind: Type, port: u16) -> anyhow::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).with_context(|| format!("port {port}"))?;
    Ok(socket)
}

fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(vec!["edgemesh-workload".into()])?;
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn streams(
    listener: TcpListener,
    kind: Kind,
    name: Arc<str>,
    tls: Option<TlsAcceptor>,
) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        let (name, tls) = (Arc::clone(&name), tls.clone());
        tokio::spawn(async move {
            // What a client does wrong ends its own connection only.
            drop(serve_one(stream, kind, &name, tls).await);
            drop(permit);
        });
    }
}

async fn serve_one(
    mut stream: TcpStream,
    kind: Kind,
    name: &Arc<str>,
    tls: Option<TlsAcceptor>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        Kind::Http => http(stream, name).await,
        Kind::Https => match tls {
            Some(tls) => http(tls.accept(stream).await?, name).await,
            None => Ok(()),
        },
        Kind::WebSocket => web_socket(stream, name).await,
        Kind::Banner => {
            stream.write_all(format!("{name}\n").as_bytes()).await?;
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            Ok(())
        }
        Kind::Echo => {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await?;
            Ok(())
        }
        Kind::Transfer => transfer::serve(stream).await,
        Kind::UdpEcho | Kind::UdpHostname => Ok(()),
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, name: &Arc<str>) -> anyhow::Result<()> {
    let body = Bytes::from(format!("{name}\n"));
    let service = service_fn(move |_: Request<hyper::body::Incoming>| {
        let response = Response::new(Full::new(body.clone()));
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn web_socket(stream: TcpStream, name: &str) -> anyhow::Result<()> {
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    socket.send(name.into()).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, name: Option<Arc<str>>) -> anyhow::Result<()> {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = name.as_ref().map_or(&buffer[..length], |name| name.as_bytes());
        // An answer that cannot be sent is a lost datagram.
        drop(socket.send_to(answer, from).await);
    }
}
