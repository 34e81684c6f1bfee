use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use edgemesh_api::{Name, Protocol};
use edgemesh_net::meet::{Answer, Duplex, Inbound, Refusal};
use edgemesh_route::DialError;
use edgemesh_tunnel_proto::{MessageType, Proxy};
use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::GoPeers;
use super::datagrams::Datagrams;
use super::stream::GoStream;
use super::wire::{MESSAGE_TIMEOUT, read, write};
use crate::inbound::Gate;
use crate::stream::PeerCounts;

/// Asks a Go agent for a backend on its node, and sends what the client said first.
pub(crate) async fn connect(
    mut stream: GoStream,
    node: &Name,
    protocol: Protocol,
    backend: SocketAddr,
    first: Bytes,
) -> Result<Box<dyn Duplex>, DialError> {
    let word = word(protocol).ok_or(DialError::Unreachable)?;
    let request = Proxy {
        kind: MessageType::Connect,
        protocol: word.to_owned(),
        node: node.to_string(),
        ip: backend.ip().to_string(),
        port: backend.port().into(),
    };
    write(&mut stream, request.encode()).await.map_err(|_| DialError::Broken)?;
    let answer = read(&mut stream, Proxy::decode).await.map_err(|_| DialError::Broken)?;
    if answer.kind == MessageType::Failed {
        // It tells no reason; an agent that lacks the Service dials all the same.
        return Err(DialError::Refused);
    }
    let mut stream = payload(stream, protocol);
    if !first.is_empty() {
        stream.write_all(&first).await.map_err(|_| DialError::Broken)?;
        stream.flush().await.map_err(|_| DialError::Broken)?;
    }
    Ok(stream)
}

/// Reads a Go agent's request and hands it to whoever admits and dials.
pub(crate) async fn serve(
    peers: &GoPeers,
    gate: &Gate,
    mut stream: GoStream,
    peer: PeerId,
    counts: Arc<PeerCounts>,
) {
    let request = match timeout(MESSAGE_TIMEOUT, read(&mut stream, Proxy::decode)).await {
        Ok(Ok(request)) => request,
        // The peer gave up, or its connection broke.
        Err(_) => return,
        Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => return,
        Ok(Err(error)) => {
            gate.refused.malformed_header.fetch_add(1, Ordering::Relaxed);
            if !counts.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!(%peer, %error, "a Go agent sends malformed requests");
            }
            return refuse(stream).await;
        }
    };
    let asked = (request.kind == MessageType::Connect
        && peers.node.as_deref() == Some(request.node.as_str()))
    .then(|| Some((transport(&request.protocol)?, backend(&request)?)))
    .flatten();
    let Some((protocol, backend)) = asked else {
        gate.refused.malformed_header.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, ?request, "a Go agent asks for what this node has not");
        return refuse(stream).await;
    };
    let Ok(node) = gate.proven(peer, &counts).await else { return refuse(stream).await };
    tracing::debug!(%peer, %backend, %protocol, "stream from a Go agent");
    let path = stream.path();
    let answer = Box::new(Waiting { stream, request, protocol });
    gate.hand_over(Inbound {
        node,
        peer: peer.to_base58(),
        path,
        protocol,
        backend,
        namespace: None,
        answer,
    })
    .await;
}

pub(super) fn word(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some("tcp"),
        Protocol::Udp => Some("udp"),
        Protocol::Sctp => None,
    }
}

pub(super) fn transport(word: &str) -> Option<Protocol> {
    match word {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

pub(super) fn backend(request: &Proxy) -> Option<SocketAddr> {
    let ip: IpAddr = request.ip.parse().ok()?;
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn payload(stream: GoStream, protocol: Protocol) -> Box<dyn Duplex> {
    match protocol {
        Protocol::Udp => Box::new(Datagrams::new(stream)),
        Protocol::Tcp | Protocol::Sctp => Box::new(stream),
    }
}

async fn refuse(mut stream: GoStream) {
    let told = async {
        stream.write_all(&Proxy::FAILED).await?;
        stream.shutdown().await
    };
    // A peer that does not take its refusal has none.
    let _ = timeout(MESSAGE_TIMEOUT, told).await;
}

/// A stream whose request is not answered yet.
struct Waiting {
    stream: GoStream,
    request: Proxy,
    protocol: Protocol,
}

impl Answer for Waiting {
    fn accept(mut self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        async move {
            self.request.kind = MessageType::Success;
            write(&mut self.stream, self.request.encode()).await?;
            Ok(payload(self.stream, self.protocol))
        }
        .boxed()
    }

    fn refuse(self: Box<Self>, _: Refusal) -> BoxFuture<'static, ()> {
        refuse(self.stream).boxed()
    }
}
