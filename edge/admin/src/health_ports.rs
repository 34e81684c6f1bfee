use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_mesh::{Generation, MeshSnapshot, ServiceId};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::accept_failed;

/// Health check ports open at once. The default range of node ports, from which the API server takes these too, has
/// 2,768 numbers; this is a tenth of it, one for each load balancer of the cluster that keeps client addresses.
pub const MAX_HEALTH_PORTS: usize = 256;

/// Connections served at once at each port: the probers of one load balancer, which ask every few seconds and are
/// answered from memory.
const CONNECTIONS_PER_PORT: usize = 32;

/// Connections the kernel holds for us between two accepts, as many again.
const BACKLOG: i32 = 32;

/// A probe is one short request; what takes longer is no probe.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The request line and headers of a probe have some hundred bytes; this is the least hyper works with.
const MAX_REQUEST: usize = 8 * 1024;

/// How soon a port that somebody else has is tried again. Load balancers take several probes, tens of seconds, to change
/// their mind.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Tells a load balancer how much of the traffic the node should get.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Whether the node forwards what load balancers send to it.
pub type ProxyHealth = Arc<dyn Fn() -> bool + Send + Sync>;

/// Health check ports that are not open though they should be, in words.
#[derive(Debug, Default)]
pub struct HealthPortFaults(Mutex<Vec<String>>);

impl HealthPortFaults {
    /// One line per port.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, faults: Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter().filter(|fault| !known.contains(fault)) {
            tracing::warn!("{fault}");
        }
        *known = faults;
    }
}

/// Answers load balancers at the `healthCheckNodePort` of every Service with `externalTrafficPolicy: Local`: whether
/// this node has ready endpoints of it, in the words of kube-proxy.
pub struct HealthPorts {
    shared: Arc<Shared>,
    faults: Arc<HealthPortFaults>,
    /// The Services that want a port, as of `seen`.
    wanted: BTreeMap<ServiceId, u16>,
    seen: Arc<MeshSnapshot>,
    open: BTreeMap<u16, Open>,
}

struct Shared {
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    healthy: ProxyHealth,
}

/// A port that is served.
struct Open {
    service: Arc<ArcSwap<ServiceId>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl HealthPorts {
    /// Nothing is open before [`HealthPorts::run`].
    pub fn new(snapshots: Arc<ArcSwap<MeshSnapshot>>, healthy: ProxyHealth) -> Self {
        let seen = Arc::new(MeshSnapshot::empty(snapshots.load().node.name.clone()));
        Self {
            shared: Arc::new(Shared { snapshots, healthy }),
            faults: Arc::default(),
            wanted: BTreeMap::new(),
            seen,
            open: BTreeMap::new(),
        }
    }

    /// What is not as it should be.
    pub fn faults(&self) -> Arc<HealthPortFaults> {
        self.faults.clone()
    }

    /// Follows the snapshots until shutdown.
    pub async fn run(mut self, mut generations: watch::Receiver<Generation>, shutdown: CancellationToken) {
        generations.mark_changed();
        let mut retry = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = generations.changed() => if changed.is_err() { break },
                () = sleep_until(retry) => {}
            }
            let faults = self.follow().await;
            retry = (!faults.is_empty()).then(|| Instant::now() + RETRY_AFTER);
            self.faults.set(faults);
        }
        for (_, open) in self.open {
            open.close().await;
        }
    }

    /// Brings the open ports to the newest snapshot; gives what could not be done.
    async fn follow(&mut self) -> Vec<String> {
        self.note_changes();
        let mut faults = Vec::new();
        let mut wanted: BTreeMap<u16, &ServiceId> = BTreeMap::new();
        for (id, port) in &self.wanted {
            if let Some(owner) = wanted.get(port) {
                faults.push(format!("health check port {port} of Service {id} belongs to Service {owner}"));
                continue;
            }
            wanted.insert(*port, id);
        }
        let gone: Vec<u16> = self.open.keys().filter(|port| !wanted.contains_key(port)).copied().collect();
        for port in gone {
            if let Some(open) = self.open.remove(&port) {
                open.close().await;
            }
        }
        for (port, id) in wanted {
            if let Some(open) = self.open.get(&port) {
                open.service.store(Arc::new(id.clone()));
                continue;
            }
            if self.open.len() >= MAX_HEALTH_PORTS {
                faults.push(format!(
                    "health check port {port} of Service {id} is not opened: {MAX_HEALTH_PORTS} others are"
                ));
                continue;
            }
            match listen(port) {
                Ok(listener) => drop(self.open.insert(port, Open::start(listener, id, &self.shared))),
                Err(error) => {
                    faults.push(format!("health check port {port} of Service {id}: {}", words(&error)));
                }
            }
        }
        faults
    }

    /// Costs what the snapshots do not share.
    fn note_changes(&mut self) {
        let snapshot = self.shared.snapshots.load_full();
        for id in snapshot.services.unshared(&self.seen.services) {
            let entry = snapshot.services.get(id).filter(|entry| entry.intercepted);
            match entry.and_then(|entry| entry.health_check_node_port) {
                Some(port) => drop(self.wanted.insert(id.clone(), port)),
                None => drop(self.wanted.remove(id)),
            }
        }
        self.seen = snapshot;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has it, kube-proxy perhaps; it is tried again".to_owned()
        }
        _ => format!("{error}; it is tried again"),
    }
}

impl Open {
    fn start(listener: TcpListener, service: &ServiceId, shared: &Arc<Shared>) -> Self {
        let service = Arc::new(ArcSwap::from_pointee(service.clone()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, service.clone(), shared.clone(), stop.clone()));
        Self { service, stop, task }
    }

    /// Returns when the port is free.
    async fn close(self) {
        self.stop.cancel();
        // It has nothing to tell, and the runtime has told of a panic.
        let _ = self.task.await;
    }
}

/// A listener for both families, or for IPv4 where the node has no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    match listen_at(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        bound => bound,
    }
}

fn listen_at(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(
    listener: TcpListener,
    service: Arc<ArcSwap<ServiceId>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_PER_PORT));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (service, shared, stop) = (service.clone(), shared.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(stream, service, shared) => {}
            }
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, service: Arc<ArcSwap<ServiceId>>, shared: Arc<Shared>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), &service.load(), &shared);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_REQUEST);
    let served = tokio::time::timeout(REQUEST_TIMEOUT, http.serve_connection(TokioIo::new(stream), answer));
    if let Ok(Err(error)) = served.await {
        tracing::debug!(%error, "health check failed");
    }
}

/// The body; its names are kube-proxy's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn answer(method: &Method, id: &ServiceId, shared: &Shared) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let snapshot = shared.snapshots.load();
    let local_endpoints = snapshot.services.get(id).map_or(0, |entry| entry.ready_on(&snapshot.node.name));
    let service_proxy_healthy = (shared.healthy)();
    let service = Named { namespace: &id.namespace, name: &id.name };
    let body = serde_json::to_vec(&Body { service, local_endpoints, service_proxy_healthy });
    // Two names, a number and a truth value always serialize.
    let mut response = Response::new(Full::new(Bytes::from(body.unwrap_or_default())));
    *response.status_mut() = match local_endpoints > 0 && service_proxy_healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(local_endpoints));
    response
}
