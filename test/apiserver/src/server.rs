use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::Requests;
use crate::faults::Faults;
use crate::http;
use crate::store::{Bounds, Store};
use crate::tls::{Identity, Tls, TlsError, TlsOptions};

/// Connections that wait to be accepted: what the kernel allows by default is 4096; tests open a few dozen at once.
const BACKLOG: u32 = 1024;

/// A handshake takes milliseconds; a client that needs longer is no client.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where it listens; port zero takes a free one.
    pub listen: SocketAddr,
    /// A second listener, never spoilt by faults, for `/_test/` only.
    pub control: Option<SocketAddr>,
    /// TLS on the first listener.
    pub tls: Option<TlsOptions>,
    /// The bearer token that requests must carry.
    pub token: Option<String>,
    /// Changes kept per resource for watches that resume. The default is the 100 that a watch cache starts with, times
    /// hundred: what a cluster of 20,000 pods changes in a rollout of half of them.
    pub history: usize,
    /// Changes that wait for one watch before it is closed. The default holds a load of 20,000 pods at once.
    pub watch_queue: usize,
    /// How often a watch that allows bookmarks gets one. The default is the minute of Kubernetes.
    pub bookmark_every: Duration,
    /// Connections open at once; more are dropped. The default is ten per node of a cluster of a hundred nodes.
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            control: None,
            tls: None,
            token: None,
            history: 10_000,
            watch_queue: 1 << 15,
            bookmark_every: Duration::from_secs(60),
            max_connections: 1000,
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("listen on {addr}: {source} (choose another address)")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl StartError {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "listen",
            Self::Tls(_) => "tls",
        }
    }
}

/// What every connection shares.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) requests: Requests,
    pub(crate) bookmark_every: Duration,
    /// Whether `/_test/` can be reached while connections are refused.
    pub(crate) has_control: bool,
    token: Mutex<Option<String>>,
    cut: Mutex<CancellationToken>,
}

impl Shared {
    pub(crate) fn token(&self) -> Option<String> {
        self.token.lock().expect("not poisoned").clone()
    }

    pub(crate) fn set_token(&self, token: Option<String>) {
        *self.token.lock().expect("not poisoned") = token;
    }

    pub(crate) fn cut(&self) {
        let old = std::mem::take(&mut *self.cut.lock().expect("not poisoned"));
        old.cancel();
    }

    pub(crate) fn restart_empty(&self) {
        // Before, as watches of an emptied store end cleanly, and after, for whoever came in between.
        self.cut();
        self.store.restart_empty();
        self.faults.restarted();
        self.cut();
    }

    fn cut_token(&self) -> CancellationToken {
        self.cut.lock().expect("not poisoned").clone()
    }
}

/// A running server. Dropping it ends its tasks soon; `stop` waits for them.
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    control: Option<SocketAddr>,
    tls: Option<Arc<Tls>>,
    connections: Arc<Semaphore>,
    /// Bound to the ports and never listening, so that nobody else takes them while the server is down.
    _reserved: Vec<TcpSocket>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Binds, and serves on the tokio runtime that it is called on.
    pub async fn start(options: ServerOptions) -> Result<Self, StartError> {
        let (requests, faults) = (Requests::default(), Faults::default());
        let bounds = Bounds { history: options.history, queue: options.watch_queue.max(1) };
        let shared = Arc::new(Shared {
            store: Store::new(bounds, requests.clone(), faults.clone()),
            faults,
            requests,
            bookmark_every: options.bookmark_every,
            has_control: options.control.is_some(),
            token: Mutex::new(options.token),
            cut: Mutex::default(),
        });
        let tls = options.tls.map(|tls| Tls::new(&tls, options.listen.ip())).transpose()?.map(Arc::new);
        let (reserved, addr) = reserve(options.listen)?;
        let mut reserved = vec![reserved];
        let mut control = None;
        if let Some(listen) = options.control {
            let (socket, addr) = reserve(listen)?;
            reserved.push(socket);
            control = Some(addr);
        }
        let server = Self {
            shared,
            addr,
            control,
            tls,
            connections: Arc::new(Semaphore::new(options.max_connections)),
            _reserved: reserved,
            running: Mutex::default(),
        };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens for `/_test/` only.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Its URL, with the address it listens on.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Its objects.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Its switches.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Its counters.
    pub fn requests(&self) -> &Requests {
        &self.shared.requests
    }

    /// The authority that signed its certificate, as PEM.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.ca.as_str())
    }

    /// A certificate for a client, and its key.
    pub fn client_identity(&self) -> Option<&Identity> {
        self.tls.as_ref().map(|tls| &tls.client)
    }

    /// Changes the bearer token that requests must carry.
    pub fn set_token(&self, token: Option<String>) {
        self.shared.set_token(token);
    }

    /// Closes all connections; the server goes on.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Loses everything, as a server whose storage was replaced: no objects, versions from one, other uids, no
    /// connections.
    pub fn restart_empty(&self) {
        self.shared.restart_empty();
    }

    /// Stops listening, closes all connections, and waits until all tasks ended. The objects stay, and so does the port.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        if let Some(running) = running {
            running.stop.cancel();
            running.tasks.wait().await;
        }
    }

    /// Stops if it runs, and serves again on the same port with the same objects.
    pub async fn restart(&self) -> Result<(), StartError> {
        self.stop().await;
        self.shared.faults.restarted();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let acceptor = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.config.clone()));
        let port = |addr, acceptor, spoilt| Port {
            addr,
            acceptor,
            spoilt,
            shared: self.shared.clone(),
            connections: self.connections.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let main = port(self.addr, acceptor, true);
        let control = self.control.map(|addr| port(addr, None, false));
        for port in [Some(main), control].into_iter().flatten() {
            let listener = (!port.refuses()).then(|| listen(port.addr)).transpose()?;
            port.note(listener.is_some());
            tasks.spawn(port.serve(listener));
        }
        tasks.close();
        *self.running.lock().expect("not poisoned") = Some(Running { stop, tasks });
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().ok().and_then(|mut running| running.take()) {
            running.stop.cancel();
        }
    }
}

fn socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

fn reserve(addr: SocketAddr) -> Result<(TcpSocket, SocketAddr), StartError> {
    let bind = || {
        // Without the option, as a port that somebody else shares would be taken otherwise.
        if addr.port() != 0 {
            drop(std::net::TcpListener::bind(addr)?);
        }
        let socket = socket(addr)?;
        let addr = socket.local_addr()?;
        Ok((socket, addr))
    };
    bind().map_err(|source| StartError::Listen { addr, source })
}

fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    socket(addr)
        .and_then(|socket| socket.listen(BACKLOG))
        .map_err(|source| StartError::Listen { addr, source })
}

/// One listener.
struct Port {
    addr: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    /// Whether faults concern it.
    spoilt: bool,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Port {
    async fn serve(self, mut listener: Option<TcpListener>) {
        let mut switches = self.shared.faults.changes();
        loop {
            switches.mark_unchanged();
            match (&listener, self.refuses()) {
                (Some(_), true) => listener = None,
                (None, false) => listener = listen(self.addr).ok(),
                _ => {}
            }
            self.note(listener.is_some());
            let accept = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = switches.changed() => if changed.is_err() { break },
                accepted = accept => if let Ok((stream, _)) = accepted {
                    self.connect(stream);
                },
            }
        }
        drop(listener);
        self.note(false);
    }

    fn refuses(&self) -> bool {
        self.spoilt && self.shared.faults.refuses()
    }

    fn note(&self, listening: bool) {
        if self.spoilt {
            self.shared.requests.count_all(|counts| counts.listening = listening);
        }
    }

    fn connect(&self, stream: TcpStream) {
        let Ok(slot) = self.connections.clone().try_acquire_owned() else {
            self.shared.requests.count_all(|counts| counts.dropped_connections += 1);
            return;
        };
        let (shared, stop, acceptor) = (self.shared.clone(), self.stop.clone(), self.acceptor.clone());
        let cut = if self.spoilt { shared.cut_token() } else { CancellationToken::new() };
        shared.requests.count_all(|counts| {
            counts.connections += 1;
            counts.open_connections += 1;
        });
        self.tasks.spawn(async move {
            let requests = shared.requests.clone();
            // A watch sends small lines; each is wanted at once.
            let _ = stream.set_nodelay(true);
            match acceptor {
                None => converse(stream, shared, cut, stop).await,
                Some(acceptor) => {
                    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = cut.cancelled() => {}
                        greeted = handshake => match greeted {
                            Ok(Ok(stream)) => converse(stream, shared, cut.clone(), stop.clone()).await,
                            Ok(Err(_)) | Err(_) => requests.count_all(|counts| counts.failed_handshakes += 1),
                        },
                    }
                }
            }
            requests.count_all(|counts| counts.open_connections -= 1);
            drop(slot);
        });
    }
}

/// Serves the requests of one connection, until it or the server ends or all connections are cut.
async fn converse<S>(stream: S, shared: Arc<Shared>, cut: CancellationToken, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // A connection that asks for a cut lives until it has the answer.
    let asked_to_cut = Arc::new(AtomicBool::new(false));
    let asks = asked_to_cut.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let shared = shared.clone();
        asks.store(request.uri().path().starts_with("/_test/"), Ordering::Relaxed);
        async move { Ok::<_, Infallible>(http::answer(&shared, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A connection that is cut sends nothing more.
        biased;
        () = stop.cancelled() => return,
        () = cut.cancelled() => {}
        // A client that goes away in the middle is what this server is for.
        _ = connection.as_mut() => return,
    }
    if asked_to_cut.load(Ordering::Relaxed) {
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            () = stop.cancelled() => {}
            _ = connection => {}
        }
    }
}
