//! The relay's side: handshakes, pairing, and the copy.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_net::socket;
use edgemesh_net::splice::pump;
use edgemesh_tunnel_proto::PeerId;
use edgemesh_tunnel_proto::circuit::{
    ACCEPT_WAIT, CircuitAnswer, CircuitId, CircuitLimits, CircuitTable, Greeting, Nonce, Op, PREFACE,
    PeerUse, Request, Status, Token,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Member;
use super::member;

/// From the preface to the end of the request; a peer that takes longer is not one of ours, or gone.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a refused peer may take to take its answer and close.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a refused peer may have sent after its request: a socket closed over unread bytes is reset, and the answer
/// with it. As much as one segment; who sends more is not waiting for an answer.
const REFUSED_EXTRA: usize = 1500;

/// A circuit on which nothing moves for so long is over: sessions speak every 15 s on every carrier, so that four such
/// turns were missed. It ends what a half-closed circuit with a vanished end would hold.
const IDLE: Duration = Duration::from_secs(60);

/// Targets to be told of a circuit; the driver takes them within one turn of its loop. As many as may be pending.
pub(crate) const RING_QUEUE: usize = 4096;

/// Asks the driver to tell a target of a circuit.
pub(crate) struct Ring {
    pub(crate) target: PeerId,
    pub(crate) from: PeerId,
    pub(crate) token: Token,
    /// Whether the target is connected and was told.
    pub(crate) reply: oneshot::Sender<bool>,
}

/// The circuits of a relay as an operator sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CircuitStatus {
    /// Circuits that bytes flow on.
    pub open: usize,
    /// Circuits whose target has not come yet.
    pub pending: usize,
    /// Connections that have not said yet what they want.
    pub handshakes: usize,
    /// Circuits that were opened since the start.
    pub opened: u64,
    /// Bytes carried since the start, both directions together.
    pub bytes: u64,
    /// What was refused since the start, by reason; each is a metric label.
    pub refused: BTreeMap<&'static str, u64>,
    /// Peers with circuits, by identity.
    pub peers: BTreeMap<String, PeerCircuits>,
}

/// What one peer takes of a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerCircuits {
    /// Its circuits.
    #[serde(flatten)]
    pub circuits: PeerUse,
    /// Bytes carried by those that are open, both directions together.
    pub bytes: u64,
}

/// A relay's circuits.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Inner>);

struct Inner {
    member: Member,
    core: Mutex<Core>,
    rings: mpsc::Sender<Ring>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Core {
    table: CircuitTable,
    /// Tasks that wait for the target of their circuit.
    waiting: HashMap<CircuitId, oneshot::Sender<TcpStream>>,
    /// Bytes of circuits.
    moved: HashMap<CircuitId, Arc<AtomicU64>>,
}

/// Refuses a connection that has sent its preface and nothing else, at once and without a task.
pub(crate) fn turn_away(stream: &TcpStream, status: Status) {
    // Left unread it would turn the close into a reset, and the answer would be lost.
    socket::take_available(stream, PREFACE.len() + 1);
    let socket = socket2::SockRef::from(stream);
    // Whoever does not get the answer sees the end.
    let _ = (&*socket).write(&Greeting::Refused(status).encode());
}

impl Relay {
    /// `stop` ends every circuit at once.
    pub(crate) fn new(
        member: Member,
        limits: CircuitLimits,
        rings: mpsc::Sender<Ring>,
        stop: CancellationToken,
    ) -> Self {
        let table = CircuitTable::new(limits);
        let core = Mutex::new(Core { table, waiting: HashMap::new(), moved: HashMap::new() });
        Self(Arc::new(Inner { member, core, rings, tasks: TaskTracker::new(), stop }))
    }

    /// Serves a connection that begins with the preface, in a task of its own.
    pub(crate) fn serve(&self, stream: TcpStream, remote: SocketAddr) {
        if let Err(status) = self.0.core().table.greet() {
            return turn_away(&stream, status);
        }
        let asking = Asking(self.0.clone());
        let inner = self.0.clone();
        self.0.tasks.spawn(inner.connection(stream, remote, asking));
    }

    /// Grants no more circuits, waits for those that stand, and then ends them.
    pub(crate) async fn drain(&self, wait: Duration) {
        self.0.core().table.drain();
        self.0.tasks.close();
        // Those that are not over then are ended.
        let _ = tokio::time::timeout(wait, self.0.tasks.wait()).await;
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    pub(crate) fn status(&self) -> CircuitStatus {
        let core = self.0.core();
        let totals = core.table.totals();
        let mut status = CircuitStatus {
            open: totals.open,
            pending: totals.pending,
            handshakes: totals.handshakes,
            opened: totals.opened,
            bytes: totals.carried,
            refused: totals.refused.iter().map(|(status, count)| (status.as_str(), *count)).collect(),
            peers: BTreeMap::new(),
        };
        for circuit in core.table.circuits() {
            let bytes = core.moved.get(&circuit.id).map_or(0, |moved| moved.load(Ordering::Relaxed));
            status.bytes += bytes;
            for peer in [circuit.from, circuit.to] {
                let entry = status
                    .peers
                    .entry(peer.to_string())
                    .or_insert_with(|| PeerCircuits { circuits: core.table.usage(&peer), bytes: 0 });
                entry.bytes += bytes;
            }
        }
        status
    }
}

/// A connection that has not said yet what it wants.
struct Asking(Arc<Inner>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.core().table.asked();
    }
}

/// A circuit in the table, which leaves it however its task ends.
struct Held {
    inner: Arc<Inner>,
    id: CircuitId,
    moved: Arc<AtomicU64>,
    /// Why it is over, should it not have opened.
    why: Status,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut core = self.inner.core();
        core.waiting.remove(&self.id);
        core.moved.remove(&self.id);
        if !core.table.give_up(self.id, self.why) {
            core.table.end(self.id, self.moved.load(Ordering::Relaxed));
        }
    }
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream, remote: SocketAddr, asking: Asking) {
        let asked = tokio::select! {
            asked = tokio::time::timeout(REQUEST_TIMEOUT, self.handshake(&mut stream)) => asked,
            () = self.stop.cancelled() => return,
        };
        drop(asking);
        let request = match asked {
            Ok(Ok(request)) => request,
            // A port scanner, or a peer that is gone.
            Err(_) | Ok(Err(None)) => {
                self.core().table.refuse(Status::Malformed);
                return;
            }
            Ok(Err(Some(status))) => {
                self.core().table.refuse(status);
                tracing::debug!(%remote, reason = status.as_str(), "a circuit request is refused");
                return self.answer(stream, CircuitAnswer::Status(status)).await;
            }
        };
        match request.op {
            Op::Connect(target) => self.connect(stream, request.peer, target).await,
            Op::Accept(token) => self.accept(stream, token, &request.peer).await,
            Op::Observe => self.answer(stream, CircuitAnswer::Observed(remote)).await,
        }
    }

    /// A request that is proven; otherwise the answer, or none for a connection that broke.
    async fn handshake(&self, stream: &mut TcpStream) -> Result<Request, Option<Status>> {
        let mut preface = [0; PREFACE.len() + 1];
        stream.read_exact(&mut preface).await.map_err(|_| None)?;
        // Without randomness every request could be used again: better none.
        let nonce: Nonce = member::nonce().ok_or(Some(Status::Full))?;
        stream.write_all(&Greeting::Nonce(nonce).encode()).await.map_err(|_| None)?;
        let request = read_request(stream).await?;
        self.member.proves(&request, &nonce).map_err(Some)?;
        Ok(request)
    }

    async fn connect(self: Arc<Self>, stream: TcpStream, from: PeerId, target: PeerId) {
        let Some(token) = member::token() else {
            self.core().table.refuse(Status::Full);
            return self.answer(stream, CircuitAnswer::Status(Status::Full)).await;
        };
        let (mut held, mut coming) = match self.hold(&from, &target, token) {
            Ok(held) => held,
            Err(status) => return self.answer(stream, CircuitAnswer::Status(status)).await,
        };
        let came = tokio::select! {
            came = tokio::time::timeout(ACCEPT_WAIT, self.call(&from, &target, token, &mut coming)) => came,
            () = gone(&stream) => return,
            () = self.stop.cancelled() => return,
        };
        let other = match came {
            Ok(Ok(other)) => other,
            refused => {
                held.why = match refused {
                    Ok(Err(status)) => status,
                    Ok(Ok(_)) | Err(_) => Status::TargetTimeout,
                };
                let over = self.core().table.give_up(held.id, held.why);
                // It may have come just now.
                match coming.try_recv() {
                    Ok(other) if !over => other,
                    _ => {
                        let answer = CircuitAnswer::Status(held.why);
                        drop(held);
                        return self.answer(stream, answer).await;
                    }
                }
            }
        };
        tracing::debug!(%from, %target, "circuit opened");
        self.carry(stream, other, &held).await;
        tracing::debug!(%from, %target, bytes = held.moved.load(Ordering::Relaxed), "circuit ended");
    }

    fn hold(
        self: &Arc<Self>,
        from: &PeerId,
        target: &PeerId,
        token: Token,
    ) -> Result<(Held, oneshot::Receiver<TcpStream>), Status> {
        let mut core = self.core();
        let id = core.table.connect(from.clone(), target.clone(), token, Instant::now())?;
        let (sender, coming) = oneshot::channel();
        let moved = Arc::new(AtomicU64::new(0));
        core.waiting.insert(id, sender);
        core.moved.insert(id, moved.clone());
        // Until it is known better, whoever asked is gone.
        Ok((Held { inner: self.clone(), id, moved, why: Status::TargetTimeout }, coming))
    }

    /// Has the target told, and waits for it.
    async fn call(
        &self,
        from: &PeerId,
        target: &PeerId,
        token: Token,
        coming: &mut oneshot::Receiver<TcpStream>,
    ) -> Result<TcpStream, Status> {
        let (reply, told) = oneshot::channel();
        let ring = Ring { target: target.clone(), from: from.clone(), token, reply };
        self.rings.try_send(ring).map_err(|_| Status::Full)?;
        if !told.await.unwrap_or(false) {
            return Err(Status::NoReservation);
        }
        coming.await.map_err(|_| Status::TargetTimeout)
    }

    async fn accept(&self, stream: TcpStream, token: Token, peer: &PeerId) {
        let refused = {
            let mut core = self.core();
            match core.table.accept(&token, peer, Instant::now()) {
                // Whoever asked waits in the map for as long as the table has the circuit.
                Ok(id) => match core.waiting.remove(&id) {
                    Some(sender) => sender.send(stream).err(),
                    None => Some(stream),
                },
                Err(_) => Some(stream),
            }
        };
        // Whoever asked may have left in this moment.
        if let Some(stream) = refused {
            self.answer(stream, CircuitAnswer::Status(Status::Stale)).await;
        }
    }

    /// Tells both ends, and copies until both have ended. What did not get everything is reset.
    async fn carry(&self, mut stream: TcpStream, mut other: TcpStream, held: &Held) {
        let ok = CircuitAnswer::Status(Status::Ok).encode();
        // One byte into an empty socket: it does not wait.
        if stream.write_all(&ok).await.is_err() || other.write_all(&ok).await.is_err() {
            socket::reset(stream);
            return socket::reset(other);
        }
        let moved = |sent, received| {
            held.moved.fetch_add(sent + received, Ordering::Relaxed);
        };
        let pumped = pump(&mut stream, &mut other, Bytes::new(), IDLE, &self.stop, moved).await;
        if pumped.first_cut {
            socket::reset(stream);
        }
        if pumped.second_cut {
            socket::reset(other);
        }
    }

    /// The last word on a connection. The peer closes first, so that nothing it has sent destroys the answer.
    async fn answer(&self, mut stream: TcpStream, answer: CircuitAnswer) {
        let told = async {
            stream.write_all(&answer.encode()).await?;
            stream.shutdown().await?;
            let mut rest = [0; REFUSED_EXTRA];
            stream.read(&mut rest).await
        };
        tokio::select! {
            // A peer that does not take its answer has none.
            _ = tokio::time::timeout(REFUSE_TIMEOUT, told) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Reads exactly one request: what follows is not the relay's.
async fn read_request(stream: &mut TcpStream) -> Result<Request, Option<Status>> {
    let mut bytes = vec![0; 3];
    stream.read_exact(&mut bytes).await.map_err(|_| None)?;
    loop {
        match Request::decode(&bytes) {
            Ok(Some((request, _))) => return Ok(request),
            Ok(None) => {
                let body = usize::from(u16::from_be_bytes([bytes[1], bytes[2]]));
                bytes.resize(3 + body, 0);
                stream.read_exact(&mut bytes[3..]).await.map_err(|_| None)?;
            }
            Err(error) => return Err(Some(error.status())),
        }
    }
}

/// Ends when the peer has closed. One that sends too early cannot be watched, and is not.
async fn gone(stream: &TcpStream) {
    match stream.ready(Interest::READABLE).await {
        Ok(ready) if !ready.is_read_closed() => pending().await,
        _ => {}
    }
}
