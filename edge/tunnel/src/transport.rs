//! TCP, the private network's key, Noise, yamux; and the same inside relays' circuits.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use edgemesh_net::socket::{self, canonical};
use edgemesh_tunnel_proto::Failure;
use edgemesh_tunnel_proto::circuit::{Kind, PREFACE, Sniff, sniff};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, OrTransport, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::identity::Keypair;
use libp2p::relay::client::transport::Error as CircuitError;
use libp2p::relay::outbound::hop::{ConnectError, ReserveError};
use libp2p::{Multiaddr, PeerId, Transport, noise, relay, tcp};
use thiserror::Error as ThisError;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::circuit::LIVENESS;

use crate::go::{GoPeers, veil};
use crate::muxer;
use crate::pnet::{self, Psk, Role};

/// A TCP handshake that took longer is given up, and the next attempt sends a SYN at once: the kernel would double
/// its pauses (1, 2, 4 s, RFC 6298) and find a healed link late.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything from the first byte to the multiplexer: five round trips, each up to 2 s over a bad link.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Unacknowledged data ends a connection after this (TCP_USER_TIMEOUT, RFC 5482). The state declares death earlier;
/// this frees streams and sockets whose closing handshake cannot get through either.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(4);

/// Streams per connection. yamux asks for 256 KiB of its 1 GiB receive window for each: this is the most it takes.
pub(crate) const MAX_STREAMS: usize = 4096;

/// Where an attempt failed. libp2p wraps it in layers that show only its source.
#[derive(Debug, ThisError)]
pub(crate) enum Stage {
    #[error("connect")]
    Connect(#[source] NoAnswer),
    #[error("circuit")]
    Circuit(#[source] CircuitError),
    #[error("private network: {0}")]
    Psk(String),
    #[error("not libp2p's")]
    Diverted(#[source] NotLibp2p),
}

/// An accepted connection that is ours.
#[derive(Debug, ThisError)]
#[error("a connection with a preface")]
pub(crate) struct NotLibp2p;

/// Connections taken from libp2p on their way to the driver; it takes them within one turn of its loop. As many
/// handshakes as may be in progress (behaviour's `MAX_PENDING`).
pub(crate) const DIVERTED_QUEUE: usize = 512;

/// An accepted connection that began with our preface, which has not been taken yet.
pub(crate) struct Diverted {
    pub(crate) kind: Kind,
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
}

/// Gives a socket of ours away; libp2p's comes back. Whoever dialled libp2p's port through libp2p has sent a nonce
/// with the end of its TCP handshake, in either role, so that looking first costs libp2p nothing; silence is bounded by
/// the handshake's timeout.
async fn divert(
    accepted: tcp::tokio::TcpStream,
    ours: &mpsc::Sender<Diverted>,
) -> Result<tcp::tokio::TcpStream, Stage> {
    let mut first = [0; PREFACE.len() + 1];
    let looked = socket::peek_while(&accepted.0, &mut first, |seen| sniff(seen) == Sniff::Undecided).await;
    let seen = looked.map_err(|error| Stage::Psk(error.to_string()))?;
    let kind = match sniff(&first[..seen]) {
        Sniff::Foreign => return Ok(accepted),
        // A port scanner, or a peer that gave up: to libp2p a handshake that failed.
        Sniff::Undecided => return Err(Stage::Psk("ended before its first bytes".to_owned())),
        Sniff::Unknown => return Err(Stage::Diverted(NotLibp2p)),
        Sniff::Ours(kind) => kind,
    };
    let stream = accepted.0;
    let adopted = socket::adopt(&stream, LIVENESS).and_then(|()| stream.peer_addr());
    if let Ok(remote) = adopted {
        // With the queue full, the connection is dropped, and its peer tries again.
        let _ = ours.try_send(Diverted { kind, stream, remote: canonical(remote) });
    }
    Err(Stage::Diverted(NotLibp2p))
}

/// An attempt failed before anything answered.
#[derive(Debug, ThisError)]
#[error("no answer: {0}")]
pub(crate) struct NoAnswer(String);

/// Bytes received by remote address: proof of life for the state, even while a bulk transfer delays its pings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Arc<Mutex<HashMap<Multiaddr, Weak<AtomicU64>>>>);

impl Meters {
    /// The meter of connections with a remote address; connections to one address share it.
    pub(crate) fn of(&self, address: &Multiaddr) -> Arc<AtomicU64> {
        let mut meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = meters.get(address).and_then(Weak::upgrade) {
            return meter;
        }
        if meters.len() >= 64 && meters.len().is_power_of_two() {
            meters.retain(|_, meter| meter.strong_count() > 0);
        }
        let meter = Arc::new(AtomicU64::new(0));
        meters.insert(address.clone(), Arc::downgrade(&meter));
        meter
    }
}

/// Counts what is read.
pub(crate) struct Metered<S> {
    inner: S,
    meter: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.meter.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_read_vectored(cx, bufs))?;
        self.meter.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// TCP from a port of its own. libp2p dials from a port it listens on, which is what makes hole punching work; were
/// that the well-known one, all nodes of a LAN would dial from the same port, and their NAT could keep it for only
/// one of them towards each peer. So this transport listens on a port that no other node has, and nowhere else.
struct Outgoing {
    inner: tcp::tokio::Transport,
    /// Whether the next listener is this transport's.
    takes_listeners: Arc<AtomicBool>,
}

impl Transport for Outgoing {
    type Output = <tcp::tokio::Transport as Transport>::Output;
    type Error = <tcp::tokio::Transport as Transport>::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = <tcp::tokio::Transport as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        if self.takes_listeners.load(Ordering::Relaxed) {
            self.inner.listen_on(id, address)
        } else {
            Err(TransportError::MultiaddrNotSupported(address))
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.inner.dial(address, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Who speaks first. Of two that dial each other at one moment DCUtR makes one the listener.
pub(crate) fn role_of(endpoint: &ConnectedPoint) -> Role {
    match endpoint {
        ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. } => Role::Dialler,
        ConnectedPoint::Dialer { role_override: Endpoint::Listener, .. }
        | ConnectedPoint::Listener { .. } => Role::Listener,
    }
}

/// Builds the transport, and the relay client that belongs to it. While `outgoing` is set, listeners are those from
/// whose port is dialled. Accepted connections that are not libp2p's go to `ours`.
pub(crate) fn build(
    key: &Keypair,
    psks: Arc<ArcSwap<Vec<Psk>>>,
    meters: &Meters,
    outgoing: Arc<AtomicBool>,
    ours: mpsc::Sender<Diverted>,
    go: Option<Arc<GoPeers>>,
) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), noise::Error> {
    let noise = noise::Config::new(key)?;
    let yamux = muxer::Config::new(MAX_STREAMS);

    // Closing resets. A connection is closed when it is dead or nothing is open on it, and a reset frees what a
    // closing handshake would leave for a minute or more: the own port towards the peer (TIME_WAIT) and the NATs'
    // mappings (nf_conntrack's FIN_WAIT), either of which makes the next hole punching fail.
    let options = tcp::Config::new().nodelay(true).linger(Some(Duration::ZERO));
    let outgoing = Outgoing { inner: tcp::tokio::Transport::new(options.clone()), takes_listeners: outgoing };
    let sockets = OrTransport::new(outgoing, tcp::tokio::Transport::new(options)).map(|either, _| {
        let stream = either.into_inner();
        // Without the option the state's own death of connections still works, only later for their sockets.
        let _ = socket2::SockRef::from(&stream.0).set_tcp_user_timeout(Some(USER_TIMEOUT));
        stream
    });
    let (tcp_meters, circuit_psks) = (meters.clone(), psks.clone());
    let direct = TransportTimeout::with_outgoing_timeout(sockets, CONNECT_TIMEOUT)
        .map_err(|error| Stage::Connect(NoAnswer(error.to_string())))
        .and_then(move |inner, endpoint| {
            let meter = tcp_meters.of(endpoint.get_remote_address());
            let psks = psks.load_full();
            async move {
                // What was dialled, in either role, is libp2p's on both sides.
                let inner = if endpoint.is_listener() { divert(inner, &ours).await? } else { inner };
                let secured = pnet::handshake(Metered { inner, meter }, psks, role_of(&endpoint)).await;
                secured.map_err(|error| Stage::Psk(error.to_string()))
            }
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux.clone())
        .timeout(DIAL_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));

    let (circuits, client) = relay::client::new(key.public().to_peer_id());
    let circuit_meters = meters.clone();
    let relayed = circuits
        .map_err(Stage::Circuit)
        .and_then(move |inner, endpoint| {
            let meter = circuit_meters.of(endpoint.get_remote_address());
            let (go, psks) = (go.clone(), circuit_psks.load_full());
            async move {
                let veiled = veil(go.as_deref(), psks, Metered { inner, meter }, &endpoint).await;
                veiled.map_err(|error| Stage::Psk(error.to_string()))
            }
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(DIAL_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));

    let either = OrTransport::new(relayed, direct).map(|either, _| either.into_inner()).boxed();
    Ok((either, client))
}

/// Whether a connection was no failure but one of ours.
pub(crate) fn is_diverted(error: &io::Error) -> bool {
    causes(error).any(|cause| cause.is::<NotLibp2p>())
}

/// An error and what it wraps. An `io::Error` hides what it wraps from `source`.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// Why a dial or a reservation failed, from the depths of libp2p's error.
pub(crate) fn failure_of(error: &io::Error) -> Failure {
    for error in causes(error) {
        if error.is::<NoAnswer>() {
            return Failure::Unreachable;
        }
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return match error {
                ConnectError::ResourceLimitExceeded => Failure::RelayFull,
                ConnectError::NoReservation => Failure::NoReservation,
                ConnectError::PermissionDenied | ConnectError::Unsupported => Failure::Denied,
                ConnectError::ConnectionFailed => Failure::Unreachable,
                ConnectError::Io(_) | ConnectError::Protocol(_) => Failure::Other,
            };
        }
        if let Some(error) = error.downcast_ref::<ReserveError>() {
            return match error {
                ReserveError::ResourceLimitExceeded => Failure::RelayFull,
                ReserveError::Refused | ReserveError::Unsupported => Failure::Denied,
                ReserveError::Io(_) | ReserveError::Protocol(_) => Failure::Other,
            };
        }
        if let Some(error) = error.downcast_ref::<CircuitError>()
            && !matches!(error, CircuitError::Connect(_) | CircuitError::Reservation(_))
        {
            return Failure::Other;
        }
    }
    Failure::Handshake
}
