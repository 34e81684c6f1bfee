use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use edgemesh_balance::{Feedback, PickCtx};
use edgemesh_mesh::{MeshSnapshot, PathSnapshot, ServiceId};
use edgemesh_net::meet::Connect;
use edgemesh_net::socket::{self, FrontendUdp};
use edgemesh_route::{Conn, Decision, Observe, Router, Target};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::udp::Sessions;
use crate::{Counters, ProxyDeps, ProxySettings, tcp, udp};

/// A free port must be free for every family and transport; a few tries find one.
const PORT_TRIES: usize = 16;

/// Why the proxy cannot start.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// A TCP listener cannot be bound.
    #[error("cannot listen on TCP {0}: {1}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// A UDP socket cannot be bound.
    #[error("cannot listen on UDP {0}: {1}")]
    Udp(SocketAddr, #[source] io::Error),
    /// There is no address to listen on.
    #[error("no address to listen on")]
    NoAddress,
}

impl ProxyError {
    /// The log word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp(..) => "tcp_bind",
            Self::Udp(..) => "udp_bind",
            Self::NoAddress => "no_address",
        }
    }
}

/// The proxy for the clients of this node: bound by [`Proxy::bind`], served by [`Proxy::run`].
pub struct Proxy {
    tcp: Vec<TcpListener>,
    udp: Vec<Arc<FrontendUdp>>,
    port: u16,
    shared: Arc<Shared>,
}

/// What every connection of the proxy works with.
pub(crate) struct Shared {
    pub(crate) settings: ProxySettings,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) observe: Arc<dyn Observe>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) sessions: Sessions,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the drain is over.
    pub(crate) stop: CancellationToken,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    paths: Arc<ArcSwap<PathSnapshot>>,
    router: Arc<Router>,
}

impl Proxy {
    /// Binds every listener; the kernel queues clients from here on. Must be called within the runtime.
    pub fn bind(settings: ProxySettings, deps: ProxyDeps) -> Result<Self, ProxyError> {
        let mut tries = if settings.port == 0 { PORT_TRIES } else { 1 };
        let (tcp, udp, port) = loop {
            tries -= 1;
            match bind_all(&settings) {
                Err(_) if tries > 0 => {}
                result => break result?,
            }
        };
        let shared = Shared {
            connections: Arc::new(Semaphore::new(settings.max_connections)),
            sessions: Sessions::new(settings.max_sessions),
            settings,
            connect: deps.connect,
            observe: deps.observe,
            counters: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            snapshots: deps.snapshots,
            paths: deps.paths,
            router: deps.router,
        };
        Ok(Self { tcp, udp, port, shared: Arc::new(shared) })
    }

    /// The port every listener is bound to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happens outside of any one connection.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Serves until `shutdown`, then lets open TCP connections go on for the drain time, and returns when the
    /// last task is gone.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { tcp, udp, port, shared } = self;
        tracing::info!(port, listeners = tcp.len() + udp.len(), "proxy serves");
        for listener in tcp {
            shared.tasks.spawn(tcp::accept(listener, shared.clone(), shutdown.clone()));
        }
        for socket in udp {
            shared.tasks.spawn(udp::receive(socket, shared.clone(), shutdown.clone()));
        }
        shutdown.cancelled().await;
        // Nothing more is received for the sessions, and nobody can tell when one is complete.
        shared.sessions.stop();
        shared.tasks.close();
        let open = shared.settings.max_connections - shared.connections.available_permits();
        tracing::info!(open, "proxy drains");
        if tokio::time::timeout(shared.settings.drain, shared.tasks.wait()).await.is_err() {
            shared.stop.cancel();
            shared.tasks.wait().await;
        }
    }
}

impl Shared {
    pub(crate) fn route(&self, conn: &Conn) -> Decision {
        let ctx = PickCtx { now: Instant::now(), client: conn.client.ip(), draw: fastrand::u64(..) };
        self.router.route(&self.snapshots.load(), &self.paths.load(), conn, &ctx)
    }

    pub(crate) fn feedback(&self, conn: &Conn, target: &Target, feedback: Feedback) {
        self.router.feedback(conn, target, feedback, Instant::now());
    }

    /// The Service that was meant, for the account of a connection that has no target.
    pub(crate) fn service(&self, conn: &Conn) -> Option<ServiceId> {
        self.snapshots.load().lookup(&conn.frontend, true).map(|entry| entry.service.id.clone())
    }
}

type Bound = (Vec<TcpListener>, Vec<Arc<FrontendUdp>>, u16);

fn bind_all(settings: &ProxySettings) -> Result<Bound, ProxyError> {
    let (mut tcp, mut udp, mut port) = (Vec::new(), Vec::new(), settings.port);
    for &ip in &settings.listen {
        let addr = SocketAddr::new(ip, port);
        let listener = match socket::listen(addr, settings.transparency) {
            Ok(listener) => listener,
            Err(error) if no_family(ip, &error) => {
                tracing::info!(%addr, %error, "no IPv6 here, Services are served by IPv4 only");
                continue;
            }
            Err(error) => return Err(ProxyError::Tcp(addr, error)),
        };
        port = listener.local_addr().map_err(|error| ProxyError::Tcp(addr, error))?.port();
        let addr = SocketAddr::new(ip, port);
        let datagrams =
            FrontendUdp::bind(addr, settings.transparency).map_err(|error| ProxyError::Udp(addr, error))?;
        tcp.push(listener);
        udp.push(Arc::new(datagrams));
    }
    if tcp.is_empty() { Err(ProxyError::NoAddress) } else { Ok((tcp, udp, port)) }
}

/// Whether the kernel has no IPv6 at all (first code), or it is disabled on the loopback (second).
fn no_family(ip: IpAddr, error: &io::Error) -> bool {
    ip.is_ipv6() && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
