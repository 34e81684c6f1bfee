use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// Requests served at once over each listener: a handful of operators and one scraper, never a data path.
const CONCURRENT_REQUESTS: usize = 16;

/// A page is made from memory; a client that does not take it in this time is gone.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the agent works, for probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// False makes `/healthz` or `/readyz` answer 503.
    pub ok: bool,
    /// One line per part.
    pub detail: String,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// For programs.
    Json(String),
    /// For people.
    Text(String),
}

/// What comes of asking for a page: `None` when there is none of that path, `Err` with a message for a request that
/// cannot be answered.
pub type PageResult = Option<Result<Page, String>>;

/// The pages of the agent; the binary makes them.
pub trait Pages: Send + Sync + 'static {
    /// Whether the agent works.
    fn health(&self) -> Health;
    /// Whether it has something to serve.
    fn ready(&self) -> Health;
    /// A page by path (`/status`, `/explain`) and query string.
    fn page(&self, path: &str, query: &str) -> BoxFuture<'static, PageResult>;
}

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket's folder or file cannot be made.
    #[error("admin socket {path}: {source} (choose another with --admin-socket)")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent answers there.
    #[error("admin socket {path}: another agent is running (stop it, or choose another with --admin-socket)")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The address of `/metrics` cannot be had.
    #[error("metrics address {addr}: {source} (choose another with --metrics-listen, or `off`)")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The listeners, bound and not yet serving.
pub struct Admin {
    unix: UnixListener,
    path: PathBuf,
    tcp: Option<TcpListener>,
}

impl Admin {
    /// Binds the Unix socket (mode 0600) and, when an address is given, the listener for `/metrics`, `/healthz` and `/readyz`.
    /// A socket file that nobody answers at is replaced.
    pub fn bind(path: &Path, metrics: Option<SocketAddr>) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Socket { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(AdminError::InUse { path: path.to_owned() });
                }
                fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "is no socket"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let unix = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let tcp = match metrics {
            None => None,
            Some(addr) => {
                let listen = || -> io::Result<TcpListener> {
                    let listener = std::net::TcpListener::bind(addr)?;
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                };
                Some(listen().map_err(|source| AdminError::Listen { addr, source })?)
            }
        };
        Ok(Self { unix, path: path.to_owned(), tcp })
    }

    /// The address of `/metrics`, with the port the system chose.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until shutdown, then removes the socket file.
    pub async fn run(self, metrics: Arc<Metrics>, pages: Arc<dyn Pages>, shutdown: CancellationToken) {
        let local = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
        let remote = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.unix.accept() => match accepted {
                    Ok((stream, _)) => spawn(stream, &local, &metrics, &pages, true),
                    Err(error) => accept_failed(&error).await,
                },
                accepted = accept_tcp(self.tcp.as_ref()) => match accepted {
                    Ok(stream) => spawn(stream, &remote, &metrics, &pages, false),
                    Err(error) => accept_failed(&error).await,
                },
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "admin socket was not removed");
        }
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Running out of descriptors passes; spinning on it would not help it to.
pub(crate) async fn accept_failed(error: &io::Error) {
    tracing::debug!(%error, "admin accept failed");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn spawn<S>(stream: S, slots: &Arc<Semaphore>, metrics: &Arc<Metrics>, pages: &Arc<dyn Pages>, full: bool)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Ok(slot) = slots.clone().try_acquire_owned() else { return };
    let (metrics, pages) = (metrics.clone(), pages.clone());
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let (metrics, pages) = (metrics.clone(), pages.clone());
            async move { Ok::<_, Infallible>(answer(&request, &metrics, &*pages, full).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.keep_alive(false).max_buf_size(16 * 1024);
        let served =
            tokio::time::timeout(REQUEST_TIMEOUT, http.serve_connection(TokioIo::new(stream), service));
        if let Ok(Err(error)) = served.await {
            tracing::debug!(%error, "admin request failed");
        }
        drop(slot);
    });
}

async fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    pages: &dyn Pages,
    full: bool,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n".to_owned());
    }
    match request.uri().path() {
        path @ ("/healthz" | "/readyz") => {
            let health = if path == "/healthz" { pages.health() } else { pages.ready() };
            let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, health.detail)
        }
        "/metrics" => match metrics.render() {
            Ok(body) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                typed(StatusCode::OK, kind, body)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        path if full => match pages.page(path, request.uri().query().unwrap_or_default()).await {
            Some(Ok(Page::Json(body))) => typed(StatusCode::OK, "application/json", body),
            Some(Ok(Page::Text(body))) => text(StatusCode::OK, body),
            Some(Err(message)) => text(StatusCode::BAD_REQUEST, message),
            None => text(StatusCode::NOT_FOUND, format!("no page {path}\n")),
        },
        path => text(StatusCode::NOT_FOUND, format!("no page {path}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
