//! UDP sessions: one per client and frontend, so that replies find their way back.

mod carry;
mod session;
mod table;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_mesh::{Frontend, Path};
use edgemesh_net::socket::{FrontendUdp, MAX_DATAGRAM, backend_udp, send_now, send_to_now};
use edgemesh_route::{Conn, Decision, Direction, Hop, Outcome, Target};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

pub(crate) use carry::carry;
pub(crate) use table::Sessions;

use crate::dial::{failure, ran_out};
use crate::listen::Shared;
use crate::record::Record;
use session::{Dialling, Feed, Session};
use table::Forward;

/// Wait after a receive that failed, which only a system out of memory does.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Receives until `shutdown`. It waits for nothing but the next datagram: sessions that are slow lose their own.
pub(crate) async fn receive(socket: Arc<FrontendUdp>, shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let received = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            received = socket.recv(&mut buffer) => received,
        };
        match received {
            Ok(datagram) => {
                let ip = datagram.destination.ip();
                let frontend = Frontend { ip, port: datagram.destination.port(), protocol: Protocol::Udp };
                let conn = Conn { frontend, client: datagram.source };
                forward(&socket, &shared, conn, &buffer[..datagram.length]);
            }
            Err(error) => {
                shared.counters.count_accept_failed();
                tracing::debug!(%error, ran_out = ran_out(&error), "cannot receive datagrams, trying on");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Sends one datagram on its way, in its session or in a new one.
fn forward(socket: &Arc<FrontendUdp>, shared: &Arc<Shared>, conn: Conn, payload: &[u8]) {
    match shared.sessions.find(&conn) {
        Some(Forward::Socket(backend, session)) => match send_now(&backend, payload) {
            Ok(()) => session.sent(payload.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shared.counters.count_datagram_dropped();
            }
            // The backend is gone, and the error of an earlier datagram keeps this one: it starts a session anew.
            Err(error) if dead(&error) => {
                session.fail(failure(&error).error);
                shared.sessions.remove(&conn, session.id());
                session.blame(shared);
                open(socket, shared, conn, payload);
            }
            Err(_) => shared.counters.count_datagram_dropped(),
        },
        Some(Forward::Queue(feed)) => {
            if !feed.push(payload) {
                shared.counters.count_datagram_dropped();
            }
        }
        None => open(socket, shared, conn, payload),
    }
}

/// Whether an error of a connected socket says that its backend takes no datagrams.
fn dead(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// Waits for a datagram from a backend. An ICMP error, which makes a socket neither readable nor writable, is the
/// error.
async fn readable(backend: &UdpSocket) -> io::Result<()> {
    if backend.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
        if let Some(error) = backend.take_error()? {
            return Err(error);
        }
        // A send took the error already; only the runtime still knows of it.
        let _ = backend.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(())
}

/// Begins a session with its first datagram.
fn open(socket: &Arc<FrontendUdp>, shared: &Arc<Shared>, conn: Conn, payload: &[u8]) {
    let mut targets = match shared.route(&conn) {
        Decision::Targets(targets) => targets,
        Decision::Reject(reason) => return reject(shared, &conn, Outcome::Rejected(reason)),
    };
    let reply = match shared.sessions.reply_path(socket, conn.frontend.socket_addr(), shared) {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(frontend = %conn.frontend, %error, "cannot reply from the frontend");
            return reject(shared, &conn, Outcome::Failed(failure(&error).error));
        }
    };
    // A datagram socket needs no waiting: sessions to direct backends do without a queue.
    while let Some(target) = targets.first().filter(|target| target.hop == Hop::Socket) {
        match backend_udp(target.backend) {
            Ok(backend) => {
                let backend = Arc::new(backend);
                let mut record = begin(shared, &conn, target);
                record.connected(target.backend, Path::Local);
                let session = Session::new(shared, conn, targets.remove(0), reply);
                if send_now(&backend, payload).is_ok() {
                    session.sent(payload.len());
                }
                shared.sessions.insert(&conn, Forward::Socket(backend.clone(), session.clone()), shared);
                shared.tasks.spawn(session::direct(shared.clone(), session, backend, None, record));
                return;
            }
            Err(error) => {
                let failure = failure(&error);
                if let Some(feedback) = failure.feedback {
                    shared.feedback(&conn, target, feedback);
                }
                if targets.len() == 1 {
                    return reject(shared, &conn, Outcome::Failed(failure.error));
                }
                targets.remove(0);
            }
        }
    }
    let (Some(target), Some(first)) = (targets.first().cloned(), crate::frame::frame(payload)) else {
        return;
    };
    let record = begin(shared, &conn, &target);
    let session = Session::new(shared, conn, target, reply);
    let (feed, queue) = Feed::new(shared, session.clone());
    shared.sessions.insert(&conn, Forward::Queue(feed), shared);
    let dialling = Dialling { targets, first, first_length: payload.len(), queue };
    shared.tasks.spawn(session::queued(shared.clone(), session, dialling, record));
}

fn begin(shared: &Shared, conn: &Conn, target: &Target) -> Record {
    let (observe, frontend) = (shared.observe.clone(), conn.frontend.socket_addr());
    let client = conn.client.to_string();
    let mut record = Record::begin(observe, Direction::Outbound, Protocol::Udp, client, frontend);
    record.service(Some(target.service.clone()));
    record
}

/// Accounts for a datagram that begins no session. Nothing tells its client, which may send any number of them.
fn reject(shared: &Shared, conn: &Conn, outcome: Outcome) {
    shared.counters.count_datagram_rejected();
    let (observe, frontend) = (shared.observe.clone(), conn.frontend.socket_addr());
    if shared.sessions.tell_rejected(frontend) {
        let client = conn.client.to_string();
        let mut record = Record::begin(observe, Direction::Outbound, Protocol::Udp, client, frontend);
        record.service(shared.service(conn));
        record.end(outcome);
    }
}

/// One queued datagram, framed, with its share of the memory for queued datagrams.
pub(crate) struct Queued {
    pub(crate) framed: Bytes,
    _shares: [OwnedSemaphorePermit; 2],
}

/// A frontend's way back to its clients.
pub(crate) enum Reply {
    /// The frontend has the port of the listener, which can send from its address.
    Listener(Arc<FrontendUdp>, IpAddr),
    /// A socket bound to the frontend.
    Own(UdpSocket),
}

impl Reply {
    pub(crate) fn send(&self, payload: &[u8], client: SocketAddr) -> io::Result<()> {
        match self {
            Self::Listener(socket, from) => socket.send_from(payload, *from, client),
            Self::Own(socket) => send_to_now(socket, payload, client),
        }
    }
}
