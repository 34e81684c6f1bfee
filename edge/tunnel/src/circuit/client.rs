//! Asking a relay.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use edgemesh_net::socket;
use edgemesh_tunnel_proto::PeerId;
use edgemesh_tunnel_proto::circuit::{
    ACCEPT_WAIT, CircuitAnswer, Greeting, GreetingError, Kind, MAX_ANSWER, NONCE_LEN, Op, RequestError,
    Status, Token,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LIVENESS, Member};
use crate::transport::CONNECT_TIMEOUT;

/// From the preface to the greeting, and from the request to the answer: a round trip each, up to 2 s over a bad link
/// as for libp2p's handshake. The answer to a connect may take [`ACCEPT_WAIT`] longer.
const TURN: Duration = Duration::from_secs(2);

/// Why there is no circuit.
#[derive(Debug, Error)]
pub enum CircuitError {
    /// Nothing answers at the relay's address.
    #[error("no connection to the relay: {0}")]
    Unreachable(#[source] io::Error),
    /// The relay did not answer in time.
    #[error("the relay did not answer in time")]
    Timeout,
    /// The connection to the relay broke before it answered.
    #[error("the connection to the relay broke: {0}")]
    Broken(#[source] io::Error),
    /// Something else than a relay answers.
    #[error("{0}: is the address the tunnel port of a relay?")]
    NoRelay(#[from] GreetingError),
    /// The request cannot be sent.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The relay refused.
    #[error("{}", .0.words())]
    Refused(Status),
}

impl CircuitError {
    /// The log word and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Broken(_) => "broken",
            Self::NoRelay(_) => "no_relay",
            Self::Request(_) => "request",
            Self::Refused(status) => status.as_str(),
        }
    }
}

/// Asks a relay for a circuit to a peer. What comes back carries the peer's bytes, of which nothing is proven yet.
///
/// `relay` is where the relay listens and `relay_peer` who it is; bounded in time.
pub async fn connect_circuit(
    relay: SocketAddr,
    relay_peer: &PeerId,
    target: &PeerId,
    member: &Member,
) -> Result<TcpStream, CircuitError> {
    let stream = dial(socket::dial(relay)).await?;
    granted(stream, Op::Connect(target.clone()), relay_peer, member, TURN + ACCEPT_WAIT).await
}

/// Comes for a circuit that a relay offered. What comes back carries the bytes of whoever asked.
pub async fn accept_circuit(
    relay: SocketAddr,
    relay_peer: &PeerId,
    token: Token,
    member: &Member,
) -> Result<TcpStream, CircuitError> {
    let stream = dial(socket::dial(relay)).await?;
    granted(stream, Op::Accept(token), relay_peer, member, TURN).await
}

/// Asks a relay as which address and port it sees a connection from a port of this host; from any when it is 0.
pub async fn observe(
    relay: SocketAddr,
    relay_peer: &PeerId,
    local_port: u16,
    member: &Member,
) -> Result<SocketAddr, CircuitError> {
    let mut stream = match local_port {
        0 => dial(socket::dial(relay)).await?,
        port => dial(socket::dial_from(port, relay)).await?,
    };
    ask(&mut stream, Op::Observe, relay_peer, member).await?;
    in_time(TURN, async move {
        let mut bytes = Vec::with_capacity(MAX_ANSWER);
        loop {
            match CircuitAnswer::decode_observed(&bytes)? {
                Some(CircuitAnswer::Observed(address)) => {
                    // The port is wanted again at once: no TIME_WAIT.
                    socket::reset(stream);
                    return Ok(address);
                }
                Some(CircuitAnswer::Status(status)) => return Err(CircuitError::Refused(status)),
                None => bytes.push(stream.read_u8().await.map_err(CircuitError::Broken)?),
            }
        }
    })
    .await
}

async fn dial(connecting: impl Future<Output = io::Result<TcpStream>>) -> Result<TcpStream, CircuitError> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(CircuitError::Unreachable)?;
    socket::adopt(&stream, LIVENESS).map_err(CircuitError::Broken)?;
    Ok(stream)
}

async fn granted(
    mut stream: TcpStream,
    op: Op,
    relay: &PeerId,
    member: &Member,
    wait: Duration,
) -> Result<TcpStream, CircuitError> {
    ask(&mut stream, op, relay, member).await?;
    in_time(wait, async {
        // One byte: what follows it is the other end's.
        let status = stream.read_u8().await.map_err(CircuitError::Broken)?;
        match Status::decode(status).ok_or(GreetingError)? {
            Status::Ok => Ok(stream),
            status => Err(CircuitError::Refused(status)),
        }
    })
    .await
}

/// Everything up to the answer.
async fn ask(stream: &mut TcpStream, op: Op, relay: &PeerId, member: &Member) -> Result<(), CircuitError> {
    in_time(TURN, async {
        stream.write_all(&Kind::Relay.preface()).await.map_err(CircuitError::Broken)?;
        let mut bytes = vec![stream.read_u8().await.map_err(CircuitError::Broken)?];
        if Greeting::decode(&bytes)?.is_none() {
            bytes.resize(1 + NONCE_LEN, 0);
            stream.read_exact(&mut bytes[1..]).await.map_err(CircuitError::Broken)?;
        }
        let nonce = match Greeting::decode(&bytes)?.ok_or(GreetingError)? {
            Greeting::Nonce(nonce) => nonce,
            Greeting::Refused(status) => return Err(CircuitError::Refused(status)),
        };
        let request = member.request(op, &nonce, relay)?;
        stream.write_all(&request).await.map_err(CircuitError::Broken)
    })
    .await
}

async fn in_time<T>(
    limit: Duration,
    task: impl Future<Output = Result<T, CircuitError>>,
) -> Result<T, CircuitError> {
    tokio::time::timeout(limit, task).await.unwrap_or(Err(CircuitError::Timeout))
}
