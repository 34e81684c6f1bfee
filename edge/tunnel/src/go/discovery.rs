use std::sync::Arc;

use edgemesh_tunnel_proto::{Discovery, MessageType};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::GoPeers;
use super::wire::{MESSAGE_TIMEOUT, read, write};

/// How a peer may have been found; Go agents only log it.
const FOUND: &str = "MDNS";

/// Tells a Go agent the own node's name, and hears its.
pub(crate) async fn ask(
    peers: Arc<GoPeers>,
    connection: ConnectionId,
    peer: PeerId,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    // A relay or gateway without a name asks all the same: it is told the other's.
    let own = peers.node.as_deref().unwrap_or("").to_owned();
    let question = Discovery { kind: MessageType::Connect, protocol: FOUND.to_owned(), node: own };
    let exchange = async {
        write(&mut stream, question.encode()).await?;
        read(&mut stream, Discovery::decode).await
    };
    match timeout(MESSAGE_TIMEOUT, exchange).await {
        Ok(Ok(answer)) if answer.kind == MessageType::Success => {
            peers.claim(connection, peer, &answer.node).await;
        }
        Ok(Ok(_)) => tracing::debug!(%peer, "a Go agent does not tell its name"),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a Go agent does not tell its name"),
        Err(_) => tracing::debug!(%peer, "a Go agent does not tell its name in time"),
    }
}

/// Answers a Go agent that tells its name. One whose name is not its own is refused.
pub(crate) async fn answer(
    peers: Arc<GoPeers>,
    connection: ConnectionId,
    peer: PeerId,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let exchange = async {
        let question = read(&mut stream, Discovery::decode).await?;
        let known =
            question.kind == MessageType::Connect && peers.claim(connection, peer, &question.node).await;
        let answer = match &peers.node {
            Some(own) if known => {
                Discovery { kind: MessageType::Success, node: own.to_string(), protocol: question.protocol }
            }
            _ => Discovery { kind: MessageType::Failed, ..question },
        };
        write(&mut stream, answer.encode()).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = timeout(MESSAGE_TIMEOUT, exchange).await {
        tracing::debug!(%peer, %error, "a Go agent asked and left");
    }
}
