use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use edgemesh_balance::Feedback;
use edgemesh_mesh::Path;
use edgemesh_net::meet::{Connected, Duplex};
use edgemesh_net::socket::{backend_udp, send_now};
use edgemesh_net::splice::scratch;
use edgemesh_route::{Conn, DialError, Hop, Outcome, Target};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Queued, Reply, dead, readable};
use crate::dial::{Failure, connect_node, failure};
use crate::frame::Frames;
use crate::listen::Shared;
use crate::record::Record;

/// Datagrams that wait for the path of one session; more than a client sends while a stream is opened.
const QUEUE: usize = 64;

/// Memory for the datagrams that wait in one session: a few of the largest size.
const QUEUE_BYTES: usize = 256 * 1024;

/// Replies in a row before the other sessions of the thread get their turn.
const BURST: usize = 32;

/// At a full path a session tries this often, for a second in all: the end of the one that made room has to arrive on the
/// other side of a slow link.
const ROOM_TRIES: usize = 40;
const ROOM_WAIT: Duration = Duration::from_millis(25);
/// After so many tries, two round trips of a usual link, it makes room once more.
const ROOM_AGAIN: usize = 8;

/// A session that only receives is moved to the young end of the table this often.
const REFRESH: Duration = Duration::from_secs(1);

/// What the receive loop and the task of one session share.
pub(crate) struct Session {
    id: u64,
    conn: Conn,
    target: Mutex<Target>,
    reply: Arc<Reply>,
    stop: CancellationToken,
    evicted: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the last datagram in either direction.
    last: AtomicU64,
    sent: AtomicU64,
    failed: Mutex<Option<DialError>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Session {
    pub(crate) fn new(shared: &Shared, conn: Conn, target: Target, reply: Arc<Reply>) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            conn,
            target: Mutex::new(target),
            reply,
            stop: shared.sessions.stopped(),
            evicted: AtomicBool::new(false),
            started: Instant::now(),
            last: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: Mutex::new(None),
        })
    }

    /// Distinguishes this session from a later one of the same client.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A datagram of the client left.
    pub(crate) fn sent(&self, length: usize) {
        self.sent.fetch_add(length as u64, Ordering::Relaxed);
        self.touch();
    }

    /// Ends the session because a newer one needs its place.
    pub(crate) fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Ends the session because its backend does not take its datagrams.
    pub(crate) fn fail(&self, error: DialError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.stop.cancel();
    }

    /// Tells the router that the backend failed.
    pub(crate) fn blame(&self, shared: &Shared) {
        shared.feedback(&self.conn, &self.target(), Feedback::Failed);
    }

    pub(crate) fn target(&self) -> Target {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn touch(&self) {
        self.last.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn expires(&self, idle: Duration) -> Instant {
        self.started + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle
    }

    /// Waits until nothing moved for `idle`.
    async fn expired(&self, idle: Duration) {
        let mut timer = pin!(tokio::time::sleep_until(self.expires(idle)));
        loop {
            timer.as_mut().await;
            let expires = self.expires(idle);
            if expires <= Instant::now() {
                return;
            }
            timer.as_mut().reset(expires);
        }
    }

    /// Why a stopped session ended.
    fn stopped(&self) -> Outcome {
        match *self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Outcome::Failed(error),
            None if self.evicted.load(Ordering::Relaxed) => Outcome::Evicted,
            None => Outcome::Drained,
        }
    }
}

/// The bounded way into the task of a session.
#[derive(Clone)]
pub(crate) struct Feed {
    session: Arc<Session>,
    queue: mpsc::Sender<Queued>,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Feed {
    pub(crate) fn new(shared: &Shared, session: Arc<Session>) -> (Self, mpsc::Receiver<Queued>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let own = Arc::new(Semaphore::new(QUEUE_BYTES));
        (Self { session, queue, own, all: shared.sessions.queued_bytes.clone() }, receiver)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Queues a datagram; false when there is no room, and the datagram is dropped.
    pub(crate) fn push(&self, payload: &[u8]) -> bool {
        let size = payload.len() as u32 + 2;
        let share = |of: &Arc<Semaphore>| of.clone().try_acquire_many_owned(size).ok();
        let (Some(own), Some(all)) = (share(&self.own), share(&self.all)) else { return false };
        let Some(framed) = crate::frame::frame(payload) else { return false };
        self.queue.try_send(Queued { framed, _shares: [own, all] }).is_ok()
    }
}

/// What is needed to open the path of a session.
pub(crate) struct Dialling {
    pub(crate) targets: smallvec::SmallVec<[Target; 3]>,
    /// The first datagram, framed: it leaves with the header of the stream.
    pub(crate) first: Bytes,
    pub(crate) first_length: usize,
    pub(crate) queue: mpsc::Receiver<Queued>,
}

/// The task of a session whose backend is dialled from here: brings the replies back, and sends what is queued
/// if it began with a tunnel in mind.
pub(crate) async fn direct(
    shared: Arc<Shared>,
    session: Arc<Session>,
    backend: Arc<UdpSocket>,
    mut queue: Option<mpsc::Receiver<Queued>>,
    mut record: Record,
) {
    let mut back = Back::new(&shared, &session);
    let outcome = {
        let mut expired = pin!(session.expired(shared.settings.udp_idle));
        loop {
            tokio::select! {
                ready = readable(&backend) => {
                    let gone = match ready {
                        Ok(()) => back.burst(&backend),
                        Err(error) => Some(back.broken(&error)),
                    };
                    if let Some(outcome) = gone {
                        break outcome;
                    }
                }
                Some(queued) = next(&mut queue) => {
                    match send_now(&backend, &queued.framed[2..]) {
                        Ok(()) => session.sent(queued.framed.len() - 2),
                        Err(error) if dead(&error) => break back.broken(&error),
                        Err(_) => shared.counters.count_datagram_dropped(),
                    }
                }
                () = &mut expired => break Outcome::Idle,
                () = session.stop.cancelled() => break session.stopped(),
            }
        }
    };
    shared.sessions.remove(&session.conn, session.id);
    record.moved(session.sent.load(Ordering::Relaxed), back.received);
    record.end(outcome);
}

async fn next(queue: &mut Option<mpsc::Receiver<Queued>>) -> Option<Queued> {
    match queue {
        Some(queue) => queue.recv().await,
        None => None,
    }
}

/// The task of a session that begins with a tunnel: opens the path, then carries datagrams both ways.
pub(crate) async fn queued(
    shared: Arc<Shared>,
    session: Arc<Session>,
    dialling: Dialling,
    mut record: Record,
) {
    let Dialling { targets, first, first_length, queue } = dialling;
    let opened = tokio::select! {
        opened = Box::pin(open(&shared, &session, &targets, &first)) => opened.map_err(Outcome::Failed),
        () = session.stop.cancelled() => Err(session.stopped()),
    };
    // The session may last for long, the datagram it began with need not.
    drop(first);
    let outcome = match opened {
        Ok((target, Link::Socket(backend))) => {
            record.connected(target.backend, Path::Local);
            session.sent(first_length);
            return direct(shared, session, backend, Some(queue), record).await;
        }
        Ok((target, Link::Stream(stream, path))) => {
            record.connected(target.backend, path);
            session.sent(first_length);
            let mut back = Back::new(&shared, &session);
            let mut outcome = tunnelled(&session, stream, queue, &mut back, shared.settings.udp_idle).await;
            // An eviction ends the queue too, and either may be seen first.
            if session.evicted.load(Ordering::Relaxed) {
                outcome = Outcome::Evicted;
            }
            // The remote agent ends a stream whose backend refuses; that it ended before any reply is the sign.
            if back.received == 0 && matches!(outcome, Outcome::Closed | Outcome::Reset) {
                session.blame(&shared);
            }
            record.moved(0, back.received);
            outcome
        }
        Err(outcome) => outcome,
    };
    shared.sessions.remove(&session.conn, session.id);
    record.moved(session.sent.load(Ordering::Relaxed), 0);
    record.end(outcome);
}

/// An opened path.
enum Link {
    Socket(Arc<UdpSocket>),
    Stream(Box<dyn Duplex>, Path),
}

async fn open<'a>(
    shared: &Shared,
    session: &Session,
    targets: &'a [Target],
    first: &Bytes,
) -> Result<(&'a Target, Link), DialError> {
    let deadline = Instant::now() + shared.settings.connect_total;
    let mut last = DialError::Timeout;
    for (index, target) in targets.iter().enumerate() {
        *session.target.lock().unwrap_or_else(PoisonError::into_inner) = target.clone();
        let link = match &target.hop {
            Hop::Socket => backend_udp(target.backend).map_err(|error| failure(&error)).map(|socket| {
                // Lost like any datagram if the socket is full.
                let _ = send_now(&socket, &first[2..]);
                Link::Socket(Arc::new(socket))
            }),
            Hop::Node(_) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let more = index + 1 < targets.len();
                carry(shared, session, target, first, left, more)
                    .await
                    .map(|connected| Link::Stream(connected.stream, connected.path))
            }
        };
        match link {
            Ok(link) => return Ok((target, link)),
            Err(failure) => {
                if let Some(feedback) = failure.feedback {
                    shared.feedback(&session.conn, target, feedback);
                }
                last = failure.error;
            }
        }
    }
    Err(last)
}

/// A stream to another node. Where there are as many as there may be, the session to that node that was idle longest
/// makes room: a client that sends from ever new ports, as resolvers do, is served like any other.
async fn carry(
    shared: &Shared,
    session: &Session,
    target: &Target,
    first: &Bytes,
    left: Duration,
    more: bool,
) -> Result<Connected, Failure> {
    let Hop::Node(node) = &target.hop else { return Err(DialError::Unreachable.into()) };
    for tried in 0..ROOM_TRIES {
        let result = connect_node(shared, target, first.clone(), left, more).await;
        let full = result.as_ref().is_err_and(|failure| failure.error == DialError::Overloaded);
        if !full {
            return result;
        }
        // Others that wait may have taken the room that was made.
        if tried % ROOM_AGAIN == 0 {
            shared.sessions.make_room(node, session.id, shared);
        }
        tokio::time::sleep(ROOM_WAIT).await;
    }
    connect_node(shared, target, first.clone(), left, more).await
}

/// Carries datagrams between the queue and the client on one side and a stream on the other.
async fn tunnelled(
    session: &Session,
    stream: Box<dyn Duplex>,
    mut queue: mpsc::Receiver<Queued>,
    back: &mut Back<'_>,
    idle: Duration,
) -> Outcome {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let up = async {
        while let Some(queued) = queue.recv().await {
            if writer.write_all(&queued.framed).await.is_err() || writer.flush().await.is_err() {
                return Outcome::Reset;
            }
            session.sent(queued.framed.len() - 2);
        }
        Outcome::Closed
    };
    let down = async {
        let mut frames = Frames::default();
        loop {
            match frames.next(&mut reader).await {
                Ok(Some(payload)) => back.reply(&payload),
                Ok(None) => return Outcome::Closed,
                Err(_) => return Outcome::Reset,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = up => outcome,
        outcome = down => outcome,
        () = session.expired(idle) => Outcome::Idle,
        () = session.stop.cancelled() => session.stopped(),
    };
    outcome
}

/// The way of the replies.
struct Back<'a> {
    shared: &'a Shared,
    session: &'a Session,
    received: u64,
    refreshed: Instant,
}

impl<'a> Back<'a> {
    fn new(shared: &'a Shared, session: &'a Session) -> Self {
        Self { shared, session, received: 0, refreshed: session.started }
    }

    /// Brings back what the backend sent; the outcome when the backend is gone.
    fn burst(&mut self, backend: &UdpSocket) -> Option<Outcome> {
        for _ in 0..BURST {
            let received = scratch::with(|buffer| {
                let length = backend.try_recv(buffer)?;
                self.reply(&buffer[..length]);
                Ok::<_, io::Error>(())
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(self.broken(&error)),
            }
        }
        None
    }

    fn broken(&self, error: &io::Error) -> Outcome {
        if !dead(error) {
            return Outcome::Reset;
        }
        self.session.blame(self.shared);
        Outcome::Failed(failure(error).error)
    }

    fn reply(&mut self, payload: &[u8]) {
        if self.session.reply.send(payload, self.session.conn.client).is_err() {
            self.shared.counters.count_datagram_dropped();
            return;
        }
        if self.received == 0 {
            self.shared.feedback(&self.session.conn, &self.session.target(), Feedback::Connected);
        }
        self.received += payload.len() as u64;
        self.session.touch();
        if self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            self.shared.sessions.find(&self.session.conn);
        }
    }
}
