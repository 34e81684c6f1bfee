//! Carriers: the byte pipes that sessions with peers ride, made and taken.

mod hello;
mod pipe;
pub(crate) mod session;
mod tls;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::circuit::Kind;
use edgemesh_tunnel_proto::session::CarrierId;
use edgemesh_tunnel_proto::{AttemptId, CarryId, Failure, Way};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Stream};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsStream;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use self::hello::{Hello, exchange};
use self::session::{Lives, PeerSession};
use self::tls::{PROOF, Tls};
use crate::inbound::Gate;
use crate::pnet::Psk;
use crate::stream::PeerCounts;

/// Everything from the first packet to the greeting: four round trips of a bad link.
const MAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes that peers may have going at a time; a whole cluster may return at once after a cut.
const MAX_HANDSHAKES: usize = 512;

/// Word of carriers on its way to the driver; it takes them within one turn of its loop.
pub(crate) const EVENT_QUEUE: usize = 256;

/// What is not yet sent stays with us beyond this (TCP_NOTSENT_LOWAT), where a ping, an acknowledgement or another
/// stream can still go before it. 256 KiB are one batch of frames.
const NOT_SENT: u32 = 256 * 1024;

/// rustls asks the socket for 4 KiB at a time; this brings several records by one call.
const READ_AHEAD: usize = 64 * 1024;

/// An acknowledgement of the other end's TCP that is no older is a sign of life: less than what the session waits, so
/// that one that came just before a cut does not delay its discovery by more than this.
const ANSWERED: Duration = Duration::from_millis(200);

/// Unacknowledged data ends a pipe after this; the session's pulse gives it up long before.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver is told.
pub(crate) enum CarrierEvent {
    Up { carrier: CarryId, attempt: Option<AttemptId>, session: Arc<PeerSession>, way: Way },
    Down { carrier: CarryId, peer: PeerId, silent: Option<Duration> },
    Failed { attempt: AttemptId, peer: PeerId, failure: Failure },
}

/// Makes carriers, takes those of peers, and keeps the sessions that ride them.
pub(crate) struct Carriers {
    tls: Tls,
    own: String,
    epoch: u64,
    gate: Arc<Gate>,
    sessions: Mutex<HashMap<PeerId, Arc<PeerSession>>>,
    counts: Box<dyn Fn(PeerId) -> Arc<PeerCounts> + Send + Sync>,
    events: mpsc::Sender<CarrierEvent>,
    next: AtomicU64,
    handshakes: Arc<Semaphore>,
}

/// Why a carrier was not made or taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    #[error("no answer")]
    Unreachable(#[source] io::Error),
    #[error("the handshake fails")]
    Handshake(#[source] io::Error),
    #[error("another peer answers")]
    WrongPeer,
    #[error("the peer does not have the private network's key")]
    NotMember,
    #[error("the session is over or full")]
    NoSeat,
    #[error("the relay does not connect")]
    Circuit(Failure),
}

impl CarryError {
    fn failure(&self) -> Failure {
        match self {
            Self::Unreachable(_) => Failure::Unreachable,
            Self::Handshake(_) | Self::NotMember => Failure::Handshake,
            Self::WrongPeer => Failure::WrongPeer,
            Self::NoSeat => Failure::Other,
            Self::Circuit(failure) => *failure,
        }
    }
}

/// A pipe that is ready to carry.
struct Made<P> {
    pipe: P,
    lives: Lives,
    peer: PeerId,
    hello: Hello,
}

impl Carriers {
    pub(crate) fn new(
        key: &Keypair,
        psks: Arc<ArcSwap<Vec<Psk>>>,
        gate: Arc<Gate>,
        counts: impl Fn(PeerId) -> Arc<PeerCounts> + Send + Sync + 'static,
        events: mpsc::Sender<CarrierEvent>,
    ) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self {
            tls: Tls::new(key, psks)?,
            own: key.public().to_peer_id().to_base58(),
            epoch: fastrand::u64(..),
            gate,
            sessions: Mutex::default(),
            counts: Box::new(counts),
            events,
            next: AtomicU64::new(1),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        }))
    }

    /// The session with a peer, begun if there is none.
    pub(crate) fn session(&self, peer: PeerId) -> Arc<PeerSession> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || PeerSession::new(&self.own, peer, (self.counts)(peer), self.gate.clone());
        sessions.entry(peer).or_insert_with(new).clone()
    }

    /// The session with a peer if it can carry, or is to be begun because the peer is connected.
    pub(crate) fn session_if(&self, peer: PeerId, connected: bool) -> Option<Arc<PeerSession>> {
        if connected {
            return Some(self.session(peer));
        }
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&peer).filter(|session| session.has_carrier()).cloned()
    }

    /// The session with a peer, if there is one.
    pub(crate) fn known(&self, peer: PeerId) -> Option<Arc<PeerSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// The session with the peer's process of that epoch; one with an earlier process is over.
    fn session_of(&self, peer: PeerId, epoch: u64) -> Arc<PeerSession> {
        let session = self.session(peer);
        if session.speaks(epoch) {
            return session;
        }
        session.end();
        let fresh = PeerSession::new(&self.own, peer, (self.counts)(peer), self.gate.clone());
        fresh.speaks(epoch);
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, fresh.clone());
        fresh
    }

    /// Every session there is.
    pub(crate) fn sessions(&self) -> Vec<Arc<PeerSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets a session that has neither carriers nor streams.
    pub(crate) fn forget(&self, session: &Arc<PeerSession>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&session.peer()).is_some_and(|known| Arc::ptr_eq(known, session)) {
            sessions.remove(&session.peer());
        }
        drop(sessions);
        session.end();
    }

    /// Makes a carrier by an attempt and carries on it.
    fn attempt<P>(
        self: &Arc<Self>,
        attempt: AttemptId,
        peer: PeerId,
        way: Way,
        path: Path,
        make: impl Future<Output = Result<Made<P>, CarryError>> + Send + 'static,
    ) where
        P: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let this = self.clone();
        let shutdown = self.gate.shutdown();
        self.gate.spawn_to_end(async move {
            let made = tokio::select! {
                () = shutdown.cancelled() => return,
                made = tokio::time::timeout(MAKE_TIMEOUT, make) => made,
            };
            let made = match made {
                Ok(made) => made
                    .and_then(|made| if made.peer == peer { Ok(made) } else { Err(CarryError::WrongPeer) }),
                Err(_) => Err(CarryError::Unreachable(io::ErrorKind::TimedOut.into())),
            };
            let failed = match made {
                Ok(made) => match this.run(made, Some(attempt), way, path).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::debug!(%peer, %path, reason = failed.failure().as_str(), error = ?failed, "no carrier");
            let event = CarrierEvent::Failed { attempt, peer, failure: failed.failure() };
            // The driver may be gone.
            let _ = this.events.send(event).await;
        });
    }

    /// Carries on a pipe until it ends.
    async fn run<P>(
        &self,
        made: Made<P>,
        attempt: Option<AttemptId>,
        way: Way,
        path: Path,
    ) -> Result<(), CarryError>
    where
        P: AsyncRead + AsyncWrite + Unpin,
    {
        let Made { pipe, lives, peer, hello } = made;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (carrier, id) = (CarryId(number), CarrierId(number));
        let session = self.session_of(peer, hello.epoch);
        let seat = session.seat(id, cost(&way, path), path, lives).ok_or(CarryError::NoSeat)?;
        tracing::debug!(%peer, %path, ?way, "carrier made");
        let up = CarrierEvent::Up { carrier, attempt, session: session.clone(), way };
        // The driver may be gone.
        let _ = self.events.send(up).await;
        let ended = pipe::carry(pipe, session.clone(), seat, self.gate.shutdown()).await;
        let silent = session.unseat(id);
        tracing::debug!(%peer, %path, ?ended, ?silent, "carrier ended");
        let _ = self.events.send(CarrierEvent::Down { carrier, peer, silent }).await;
        Ok(())
    }

    /// A substream of a libp2p connection, opened here.
    pub(crate) fn substream(
        self: &Arc<Self>,
        attempt: AttemptId,
        peer: PeerId,
        way: Way,
        path: Path,
        open: impl Future<Output = Option<Stream>> + Send + 'static,
    ) {
        let epoch = self.epoch;
        self.attempt(attempt, peer, way, path, async move {
            let unreachable = || CarryError::Unreachable(io::ErrorKind::NotConnected.into());
            let stream = open.await.ok_or_else(unreachable)?;
            greet(stream.compat(), peer, Hello { epoch, proof: [0; PROOF] }).await
        });
    }

    /// TLS over TCP to an address of the peer.
    pub(crate) fn direct(
        self: &Arc<Self>,
        attempt: AttemptId,
        peer: PeerId,
        way: Way,
        path: Path,
        address: SocketAddr,
    ) {
        let this = self.clone();
        self.attempt(attempt, peer, way, path, async move {
            let mut socket = TcpStream::connect(address).await.map_err(CarryError::Unreachable)?;
            let preface = Kind::Carrier.preface();
            socket.write_all(&preface).await.map_err(CarryError::Unreachable)?;
            this.secure(socket, true, true).await
        });
    }

    /// TLS between the two ends over a circuit that is made first.
    pub(crate) fn circuit(
        self: &Arc<Self>,
        attempt: AttemptId,
        peer: PeerId,
        way: Way,
        connect: impl Future<Output = Result<TcpStream, CarryError>> + Send + 'static,
    ) {
        let this = self.clone();
        self.attempt(attempt, peer, way, Path::Relayed, async move {
            let socket = connect.await?;
            this.secure(socket, true, false).await
        });
    }

    /// Takes a pipe that a peer makes.
    fn take<P>(
        self: &Arc<Self>,
        way: Way,
        path: Path,
        make: impl Future<Output = Result<Made<P>, CarryError>> + Send + 'static,
    ) where
        P: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
            return tracing::debug!(%path, "a peer's carrier is refused: too many handshakes");
        };
        let this = self.clone();
        let shutdown = self.gate.shutdown();
        self.gate.spawn_to_end(async move {
            let made = tokio::select! {
                () = shutdown.cancelled() => return,
                made = tokio::time::timeout(MAKE_TIMEOUT, make) => made,
            };
            drop(permit);
            let result = match made {
                Ok(Ok(made)) => this.run(made, None, way, path).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(CarryError::Unreachable(io::ErrorKind::TimedOut.into())),
            };
            if let Err(error) = result {
                if matches!(error, CarryError::NotMember) {
                    this.gate.refused.not_member.fetch_add(1, Ordering::Relaxed);
                }
                tracing::debug!(%path, reason = error.failure().as_str(), ?error, "a peer's carrier is refused");
            }
        });
    }

    /// A substream that a peer opened.
    pub(crate) fn take_substream(self: &Arc<Self>, stream: Stream, peer: PeerId, way: Way, path: Path) {
        let hello = Hello { epoch: self.epoch, proof: [0; PROOF] };
        self.take(way, path, greet(stream.compat(), peer, hello));
    }

    /// A socket that a peer dialled.
    pub(crate) fn take_direct(self: &Arc<Self>, socket: TcpStream, path: Path) {
        let this = self.clone();
        self.take(Way::Direct { address: None, path }, path, async move {
            this.secure(socket, false, true).await
        });
    }

    /// The other half of a circuit that a peer makes.
    pub(crate) fn take_circuit(
        self: &Arc<Self>,
        relay: &PeerId,
        accept: impl Future<Output = Result<TcpStream, CarryError>> + Send + 'static,
    ) {
        let this = self.clone();
        let way = Way::Circuit { relay: crate::text::peer_text(relay), address: None };
        self.take(way, Path::Relayed, async move { this.secure(accept.await?, false, false).await });
    }

    /// The handshake, the proofs, the greetings.
    async fn secure(
        &self,
        socket: TcpStream,
        dialler: bool,
        direct: bool,
    ) -> Result<Made<TlsStream<BufReader<TcpStream>>>, CarryError> {
        options(&socket).map_err(CarryError::Unreachable)?;
        let lives = if direct { lives(&socket) } else { None };
        let socket = BufReader::with_capacity(READ_AHEAD, socket);
        let mut stream = if dialler {
            let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
            let connect = tokio_rustls::TlsConnector::from(self.tls.client.clone()).connect(name, socket);
            TlsStream::Client(connect.await.map_err(CarryError::Handshake)?)
        } else {
            let accept = tokio_rustls::TlsAcceptor::from(self.tls.server.clone()).accept(socket);
            TlsStream::Server(accept.await.map_err(CarryError::Handshake)?)
        };
        let (peer, material) = match &stream {
            TlsStream::Client(stream) => (tls::peer(stream.get_ref().1), tls::material(stream.get_ref().1)),
            TlsStream::Server(stream) => (tls::peer(stream.get_ref().1), tls::material(stream.get_ref().1)),
        };
        let material = material.map_err(|error| CarryError::Handshake(io::Error::other(error)))?;
        let peer = peer.ok_or(CarryError::WrongPeer)?;
        let proof = self.tls.prove(&material, dialler).ok_or(CarryError::NotMember)?;
        let own = Hello { epoch: self.epoch, proof };
        let hello = exchange(&mut stream, own).await.map_err(CarryError::Handshake)?;
        if !self.tls.proven(&material, !dialler, &hello.proof) {
            return Err(CarryError::NotMember);
        }
        Ok(Made { pipe: stream, lives, peer, hello })
    }
}

async fn greet<P>(mut pipe: P, peer: PeerId, own: Hello) -> Result<Made<P>, CarryError>
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let hello = exchange(&mut pipe, own).await.map_err(CarryError::Handshake)?;
    Ok(Made { pipe, lives: None, peer, hello })
}

/// Asks by a descriptor of its own, since the socket itself is deep in its TLS.
fn lives(socket: &TcpStream) -> Lives {
    let own = socket.as_fd().try_clone_to_owned().ok()?;
    Some(Box::new(move || edgemesh_net::socket::since_ack(&own).is_ok_and(|age| age < ANSWERED)))
}

fn options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = socket2::SockRef::from(socket);
    // What an old kernel does not know costs latency, not function.
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    Ok(())
}

/// What a byte costs on a carrier, and before that how good its path is: TLS is several times cheaper than a libp2p
/// substream on the same path.
fn cost(way: &Way, path: Path) -> u32 {
    let path = match path {
        Path::Local | Path::Lan => 10,
        Path::Direct => 20,
        Path::Punched => 30,
        Path::Relayed | Path::Unreachable => 60,
    };
    path + if matches!(way, Way::Substream(_)) { 5 } else { 0 }
}
