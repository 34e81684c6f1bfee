//! Streams that peers open to this node.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::ServiceId;
use edgemesh_net::meet::{Answer, Duplex, Inbound, Refusal, Serve};
use edgemesh_route::{DialError, RejectReason};
use edgemesh_tunnel_proto::{Answer as AnswerByte, ClaimRefused, HeaderError, MAX_HEADER, StreamHeader};
use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::carrier::session::MuxStream;
use crate::go::{self, GoPeers, GoStream};
use crate::settings::TunnelLimits;
use crate::stream::PeerCounts;

/// A header leaves in one flight with the stream; a peer that takes longer is not one of ours, or gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stream waits for its peer's record, which leaves with the connection's first bytes: a round trip over a
/// bad link.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a peer may take to take a refusal.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Refusals being told at a time; beyond it streams are reset without a word.
const MAX_REFUSING: u32 = 64;

/// Counts of what was refused; the words are metric labels.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) psk_mismatch: AtomicU64,
    pub(crate) malformed_header: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) bad_record: AtomicU64,
    pub(crate) not_member: AtomicU64,
    pub(crate) unproven: AtomicU64,
    /// Claims of node names, by [`ClaimRefused`].
    pub(crate) claims: [AtomicU64; ClaimRefused::ALL.len()],
}

impl Refused {
    pub(crate) fn claim(&self, reason: ClaimRefused) {
        let counter = ClaimRefused::ALL.iter().zip(&self.claims).find(|(known, _)| **known == reason);
        if let Some((_, counter)) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bounds and serves inbound streams.
pub(crate) struct Gate {
    /// Peers that speak for no node may open no stream.
    proven_only: bool,
    serve: Arc<dyn Serve>,
    limits: TunnelLimits,
    open: AtomicU32,
    refusing: AtomicU32,
    pub(crate) refused: Refused,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Gives a place back, however its stream ends.
struct Place(Arc<Gate>, fn(&Gate) -> &AtomicU32);

impl Drop for Place {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(crate) fn new(
        serve: Arc<dyn Serve>,
        limits: TunnelLimits,
        proven_only: bool,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            proven_only,
            serve,
            limits,
            open: AtomicU32::new(0),
            refusing: AtomicU32::new(0),
            refused: Refused::default(),
            tasks: TaskTracker::new(),
            shutdown,
        }
    }

    /// Runs a task until the tunnel ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs a task that sees the shutdown by itself.
    pub(crate) fn spawn_to_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Waits for every task after the shutdown.
    pub(crate) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A place for a stream, which its peer's counts have already; `None` beyond the bounds.
    fn place(self: &Arc<Self>, counts: &PeerCounts) -> Option<Place> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone(), |gate| &gate.open);
        let of_peer = counts.streams_in.load(Ordering::Relaxed);
        if open < self.limits.inbound_streams && of_peer <= self.limits.inbound_streams_per_peer {
            return Some(place);
        }
        self.refused.overloaded.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Takes a stream, within the bounds.
    pub(crate) fn admit(self: &Arc<Self>, stream: MuxStream, peer: PeerId, counts: Arc<PeerCounts>) {
        if let Some(place) = self.place(&counts) {
            let gate = self.clone();
            self.spawn(async move {
                gate.serve_stream(stream, peer, counts).await;
                drop(place);
            });
            return;
        }
        let refusing = self.refusing.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone(), |gate| &gate.refusing);
        if refusing < MAX_REFUSING {
            self.spawn(async move {
                refuse(stream, AnswerByte::Dial(DialError::Overloaded)).await;
                drop(place);
            });
        }
    }

    /// Takes a Go agent's stream, within the same bounds; beyond them it is reset.
    pub(crate) fn admit_go(
        self: &Arc<Self>,
        stream: GoStream,
        peer: PeerId,
        counts: Arc<PeerCounts>,
        peers: Arc<GoPeers>,
    ) {
        let Some(place) = self.place(&counts) else { return };
        let gate = self.clone();
        self.spawn(async move {
            go::serve(&peers, &gate, stream, peer, counts).await;
            drop(place);
        });
    }

    /// Whoever admits and dials takes a stream whose header is read.
    pub(crate) async fn hand_over(&self, inbound: Inbound) {
        self.serve.serve(inbound).await;
    }

    async fn serve_stream(&self, mut stream: MuxStream, peer: PeerId, counts: Arc<PeerCounts>) {
        let mut bytes = Vec::with_capacity(256);
        let read = tokio::time::timeout(HEADER_TIMEOUT, read_header(&mut stream, &mut bytes)).await;
        let (header, taken) = match read {
            Ok(Ok(Some(header))) => header,
            // The peer gave up, or its connection broke.
            Err(_) | Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                self.refused.malformed_header.fetch_add(1, Ordering::Relaxed);
                if !counts.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%peer, reason = error.as_str(), "a peer sends malformed stream headers");
                }
                return refuse(stream, AnswerByte::Dial(DialError::Broken)).await;
            }
        };
        bytes.drain(..taken);
        let node = match self.proven(peer, &counts).await {
            Ok(node) => node,
            Err(reason) => return refuse(stream, AnswerByte::NotAdmitted(reason)).await,
        };
        tracing::debug!(%peer, backend = %header.backend, protocol = %header.protocol, "stream from a peer");
        let inbound = Inbound {
            node,
            peer: peer.to_base58(),
            path: stream.path(),
            protocol: header.protocol,
            backend: header.backend,
            namespace: header.namespace,
            answer: Box::new(Waiting { stream, early: bytes }),
        };
        self.serve.serve(inbound).await;
    }
}

impl Gate {
    /// The node a peer speaks for, which must be one where names are to be proven.
    pub(crate) async fn proven(
        &self,
        peer: PeerId,
        counts: &PeerCounts,
    ) -> Result<Option<Name>, RejectReason> {
        let node = self.node_of(counts).await;
        if self.proven_only && node.is_none() {
            self.refused.unproven.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "a peer without a proven name opens streams");
            return Err(RejectReason::PeerNotProven);
        }
        Ok(node)
    }

    /// The node a peer speaks for. A stream may be here before the record that proves it.
    async fn node_of(&self, counts: &PeerCounts) -> Option<Name> {
        let told = counts.proven.notified();
        let known = || counts.node.load_full().map(|node| (*node).clone());
        if self.proven_only && known().is_none() {
            // Without word in time there is nothing to wait for.
            let _ = tokio::time::timeout(PROOF_TIMEOUT, told).await;
        }
        known()
    }
}

/// Reads until the header is complete; what follows it stays in `bytes`. `None` when the stream ends before.
async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<Option<(StreamHeader, usize)>, HeaderError> {
    loop {
        if let Some(header) = StreamHeader::decode(bytes)? {
            return Ok(Some(header));
        }
        if bytes.len() >= MAX_HEADER {
            return Err(HeaderError::Name);
        }
        match stream.read_buf(bytes).await {
            Ok(count) if count > 0 => {}
            _ => return Ok(None),
        }
    }
}

async fn refuse(mut stream: MuxStream, answer: AnswerByte) {
    let told = async {
        stream.write_all(&[answer.encode()]).await?;
        stream.shutdown().await?;
        // Bytes that nobody reads would reset the stream, and the refusal with it.
        let mut unread = [0; 256];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // A peer that does not take its refusal has none.
    let _ = tokio::time::timeout(REFUSE_TIMEOUT, told).await;
}

/// A stream whose header is not answered yet.
struct Waiting {
    stream: MuxStream,
    early: Vec<u8>,
}

impl Answer for Waiting {
    fn accept(mut self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        async move {
            self.stream.write_all(&[AnswerByte::Accepted.encode()]).await?;
            self.stream.flush().await?;
            let stream: Box<dyn Duplex> = if self.early.is_empty() {
                Box::new(self.stream)
            } else {
                Box::new(Early { stream: self.stream, bytes: self.early, taken: 0 })
            };
            Ok(stream)
        }
        .boxed()
    }

    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<'static, ()> {
        let answer = match refusal {
            Refusal::NotAdmitted(reason) => AnswerByte::NotAdmitted(reason),
            Refusal::Dial(error) => AnswerByte::Dial(error),
        };
        refuse(self.stream, answer).boxed()
    }
}

/// A stream that begins with payload which came together with its header.
struct Early {
    stream: MuxStream,
    bytes: Vec<u8>,
    taken: usize,
}

impl AsyncRead for Early {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let early = &this.bytes[this.taken..];
        if early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = early.len().min(buf.remaining());
        buf.put_slice(&early[..count]);
        this.taken += count;
        if this.taken == this.bytes.len() {
            (this.bytes, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The header for a target; `None` for what the tunnel does not carry.
pub(crate) fn header(
    protocol: Protocol,
    backend: std::net::SocketAddr,
    service: &ServiceId,
    namespace: Option<&Name>,
) -> Option<Vec<u8>> {
    let namespace = namespace.cloned();
    StreamHeader { protocol, backend, service: service.clone(), namespace }.encode().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn headers_in_pieces() {
        let service = ServiceId::new("default", "web");
        let backend = "10.0.0.1:80".parse().unwrap();
        let mut whole = header(Protocol::Tcp, backend, &service, Some(&"shop".into())).unwrap();
        let len = whole.len();
        whole.extend_from_slice(b"payload");
        for cut in 0..whole.len() {
            let (mut near, mut far) = tokio::io::duplex(4096);
            let mut bytes = Vec::new();
            let write = async {
                near.write_all(&whole[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                near.write_all(&whole[cut..]).await.unwrap();
            };
            let (_, read) = tokio::join!(write, read_header(&mut far, &mut bytes));
            let (header, taken) = read.unwrap().unwrap();
            assert_eq!((header.backend, taken), (backend, len));
            assert!(b"payload".starts_with(&bytes[taken..]), "what follows stays");
        }
    }

    #[tokio::test]
    async fn what_is_no_header() {
        for (sent, expected) in [
            (&b"GET / HTTP/1.1"[..], Err(HeaderError::Magic)),
            (&b"\xe5\x01"[..], Ok(None)),
            (&b""[..], Ok(None)),
        ] {
            let (mut near, mut far) = tokio::io::duplex(4096);
            near.write_all(sent).await.unwrap();
            drop(near);
            assert_eq!(read_header(&mut far, &mut Vec::new()).await, expected, "{sent:?}");
        }
    }
}
