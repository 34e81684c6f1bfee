use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use edgemesh_api::Name;
use edgemesh_balance::Recent;
use edgemesh_net::socket::{FrontendUdp, reply_udp};
use edgemesh_route::{Conn, Hop};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Reply;
use super::session::{Feed, Session};
use crate::listen::Shared;

/// All datagrams that wait for slow paths may take this much memory: 128 of the largest size.
const QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// Frontends without a target that are remembered, so that each is told once a second and not once a datagram.
const MAX_REJECTED: usize = 256;
const TELL_REJECTED_EVERY: Duration = Duration::from_secs(1);

/// Where the datagrams of a session go.
#[derive(Clone)]
pub(crate) enum Forward {
    /// To a backend that is dialled from here.
    Socket(Arc<UdpSocket>, Arc<Session>),
    /// To the task that dials or holds a stream.
    Queue(Feed),
}

impl Forward {
    fn session(&self) -> &Arc<Session> {
        match self {
            Self::Socket(_, session) => session,
            Self::Queue(feed) => feed.session(),
        }
    }
}

/// Every UDP session of the node.
pub(crate) struct Sessions {
    table: Mutex<Table>,
    pub(crate) queued_bytes: Arc<Semaphore>,
    stop: CancellationToken,
}

struct Table {
    sessions: Recent<Conn, Forward>,
    /// Sockets bound to frontends, shared by the sessions of each; there are at most as many as sessions.
    replies: HashMap<SocketAddr, Weak<Reply>>,
    rejected: Recent<SocketAddr, Instant>,
}

impl Sessions {
    pub(crate) fn new(capacity: usize) -> Self {
        let table = Table {
            sessions: Recent::new(capacity),
            replies: HashMap::new(),
            rejected: Recent::new(MAX_REJECTED),
        };
        Self {
            table: Mutex::new(table),
            queued_bytes: Arc::new(Semaphore::new(QUEUED_BYTES)),
            stop: CancellationToken::new(),
        }
    }

    /// The session of a client, now the one used last.
    pub(crate) fn find(&self, conn: &Conn) -> Option<Forward> {
        self.lock().sessions.get(conn).cloned()
    }

    pub(crate) fn insert(&self, conn: &Conn, forward: Forward, shared: &Shared) {
        let evicted = self.lock().sessions.insert(*conn, forward);
        if let Some((_, evicted)) = evicted {
            shared.counters.count_session_evicted();
            evicted.session().evict();
        }
    }

    /// Ends the session to a node that was idle longest, for another one; false when there is none but `own`.
    pub(crate) fn make_room(&self, node: &Name, own: u64, shared: &Shared) -> bool {
        let mut table = self.lock();
        let there = |forward: &Forward| {
            let session = forward.session();
            session.id() != own && session.target().hop == Hop::Node(node.clone())
        };
        let Some(conn) = table.sessions.oldest_where(there).copied() else { return false };
        let Some(evicted) = table.sessions.remove(&conn) else { return false };
        drop(table);
        shared.counters.count_session_evicted();
        evicted.session().evict();
        true
    }

    /// Removes a session unless another one took its place.
    pub(crate) fn remove(&self, conn: &Conn, id: u64) {
        let mut table = self.lock();
        if table.sessions.peek(conn).is_some_and(|forward| forward.session().id() == id) {
            table.sessions.remove(conn);
        }
    }

    /// The way back from a frontend; sessions that hold it keep it open.
    pub(crate) fn reply_path(
        &self,
        listener: &Arc<FrontendUdp>,
        frontend: SocketAddr,
        shared: &Shared,
    ) -> io::Result<Arc<Reply>> {
        if frontend.port() == listener.local_addr().port() {
            return Ok(Arc::new(Reply::Listener(listener.clone(), frontend.ip())));
        }
        let mut table = self.lock();
        if let Some(reply) = table.replies.get(&frontend).and_then(Weak::upgrade) {
            return Ok(reply);
        }
        let reply = Arc::new(Reply::Own(reply_udp(frontend, shared.settings.transparency)?));
        table.replies.retain(|_, reply| reply.strong_count() > 0);
        table.replies.insert(frontend, Arc::downgrade(&reply));
        Ok(reply)
    }

    /// Whether a rejected datagram is worth an account.
    pub(crate) fn tell_rejected(&self, frontend: SocketAddr) -> bool {
        let now = Instant::now();
        let mut table = self.lock();
        if table.rejected.peek(&frontend).is_some_and(|told| now < *told + TELL_REJECTED_EVERY) {
            return false;
        }
        table.rejected.insert(frontend, now);
        true
    }

    /// Ends every session.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn stopped(&self) -> CancellationToken {
        self.stop.child_token()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
