//! A proxy on the loopback. Without TPROXY the address a client connects to is the local address of the accepted
//! socket all the same, so every address 127.0.0.x with the proxy's port can be a frontend.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(dead_code, reason = "every test file uses a part of it")]

use std::collections::VecDeque;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_balance::PickCtx;
use edgemesh_mesh::{
    Backend, Distribution, Frontend, FrontendEntry, Hints, MeshSnapshot, NodePath, Path, PathSnapshot,
    Policy, PortEntry, Scope, ServiceEntry, ServiceKind,
};
use edgemesh_net::meet::{Answer, Connect, Connected, Duplex, Inbound, Refusal, Serve};
use edgemesh_net::socket::Transparency;
use edgemesh_proxy::{Counters, Proxy, ProxyDeps, ProxySettings, Remote};
use edgemesh_route::{Access, Conn, DialError, Direction, Observe, Router, Target};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing on the loopback takes this long; it bounds every wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    told: Mutex<VecDeque<Access>>,
    began: Mutex<usize>,
    changed: Notify,
}

impl Observe for Recorder {
    fn began(&self, _: Direction, _: Protocol) {
        *self.began.lock().unwrap() += 1;
    }

    fn ended(&self, access: Access) {
        self.told.lock().unwrap().push_back(access);
        self.changed.notify_one();
    }
}

impl Recorder {
    pub(crate) async fn next(&self) -> Access {
        within("an access", async {
            loop {
                if let Some(access) = self.told.lock().unwrap().pop_front() {
                    *self.began.lock().unwrap() -= 1;
                    return access;
                }
                self.changed.notified().await;
            }
        })
        .await
    }

    /// Waits until everything that began has ended, and throws it away.
    pub(crate) async fn all_ended(&self) {
        while *self.began.lock().unwrap() > 0 {
            self.next().await;
        }
    }
}

/// Leads to other nodes as the test says.
type Lead = dyn Fn(Target, Bytes) -> BoxFuture<'static, Result<Connected, DialError>> + Send + Sync;

pub(crate) struct Fake {
    lead: Mutex<Arc<Lead>>,
}

impl Connect for Fake {
    fn connect(&self, target: Target, first: Bytes) -> BoxFuture<'static, Result<Connected, DialError>> {
        let lead = self.lead.lock().unwrap().clone();
        lead(target, first)
    }
}

pub(crate) struct Bed {
    pub(crate) port: u16,
    pub(crate) snapshots: Arc<ArcSwap<MeshSnapshot>>,
    pub(crate) observe: Arc<Recorder>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) router: Arc<Router>,
    pub(crate) shutdown: CancellationToken,
    paths: Arc<ArcSwap<PathSnapshot>>,
    fake: Arc<Fake>,
    proxy: Option<Proxy>,
    pub(crate) task: Option<JoinHandle<()>>,
}

pub(crate) fn settings() -> ProxySettings {
    ProxySettings {
        listen: vec![Ipv4Addr::UNSPECIFIED.into()],
        port: 0,
        transparency: Transparency::Plain,
        ..ProxySettings::default()
    }
}

impl Bed {
    /// Bound, and not yet running.
    pub(crate) fn bind(settings: ProxySettings) -> Self {
        let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty(Name::from("here"))));
        let mut paths = PathSnapshot::default();
        paths.nodes.insert(Name::from("there"), NodePath::new(Path::Lan));
        let paths = Arc::new(ArcSwap::from_pointee(paths));
        let router = Arc::new(Router::new());
        let observe = Arc::new(Recorder::default());
        let fake = Arc::new(Fake {
            lead: Mutex::new(Arc::new(|_, _| Box::pin(async { Err(DialError::PeerUnknown) }))),
        });
        let deps = ProxyDeps {
            snapshots: snapshots.clone(),
            paths: paths.clone(),
            router: router.clone(),
            connect: fake.clone(),
            observe: observe.clone(),
        };
        let proxy = Proxy::bind(settings, deps).unwrap();
        Self {
            port: proxy.port(),
            counters: proxy.counters(),
            snapshots,
            observe,
            router,
            shutdown: CancellationToken::new(),
            paths,
            fake,
            proxy: Some(proxy),
            task: None,
        }
    }

    pub(crate) fn run(&mut self) {
        let proxy = self.proxy.take().unwrap();
        self.task = Some(tokio::spawn(proxy.run(self.shutdown.clone())));
    }

    pub(crate) fn start(settings: ProxySettings) -> Self {
        let mut bed = Self::bind(settings);
        bed.run();
        bed
    }

    /// Makes 127.0.0.`last` a frontend of these backends; a backend with a node goes through the tunnel.
    pub(crate) fn service(
        &self,
        last: u8,
        protocol: Protocol,
        backends: &[(SocketAddr, Option<&str>)],
    ) -> SocketAddr {
        self.service_at(SocketAddr::from(([127, 0, 0, last], self.port)), protocol, backends)
    }

    pub(crate) fn service_at(
        &self,
        addr: SocketAddr,
        protocol: Protocol,
        backends: &[(SocketAddr, Option<&str>)],
    ) -> SocketAddr {
        let backends: Vec<Backend> = backends
            .iter()
            .map(|(addr, node)| Backend {
                addr: *addr,
                node: Some(Name::from(node.unwrap_or("here"))),
                zone: None,
                hostname: None,
                pod: None,
                ready: true,
                serving: true,
                terminating: false,
                hints: Hints::default(),
            })
            .collect();
        let id = ObjectKey::new("default", format!("s{}", addr.ip()));
        let mut snapshot = MeshSnapshot::clone(&self.snapshots.load());
        for backend in &backends {
            snapshot.local_backends.insert((backend.addr, protocol), id.clone());
        }
        let service = Arc::new(ServiceEntry {
            id,
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec![addr.ip()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![PortEntry {
                name: None,
                port: addr.port(),
                protocol,
                node_port: None,
                backends: backends.into(),
            }],
            affinity: None,
            distribution: Distribution::Spread,
            internal_local: false,
            external_local: false,
            source_ranges: None,
            health_check_node_port: None,
            policy: Policy::RoundRobin,
            publish_not_ready: false,
            intercepted: true,
        });
        let frontend = Frontend { ip: addr.ip(), port: addr.port(), protocol };
        snapshot.frontends.insert(frontend, FrontendEntry { service, port: 0, scope: Scope::Cluster });
        self.snapshots.store(Arc::new(snapshot));
        addr
    }

    /// What becomes of a backend in the router's eyes.
    pub(crate) fn verdict(
        &self,
        frontend: SocketAddr,
        protocol: Protocol,
        backend: SocketAddr,
    ) -> &'static str {
        let conn = Conn {
            frontend: Frontend { ip: frontend.ip(), port: frontend.port(), protocol },
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let ctx = PickCtx { now: Instant::now(), client: conn.client.ip(), draw: 1 };
        let told = self.router.explain(&self.snapshots.load(), &self.paths.load(), &conn, &ctx);
        told.candidates.iter().find(|it| it.backend == backend).unwrap().verdict.as_str()
    }

    pub(crate) fn lead(
        &self,
        lead: impl Fn(Target, Bytes) -> BoxFuture<'static, Result<Connected, DialError>> + Send + Sync + 'static,
    ) {
        *self.fake.lead.lock().unwrap() = Arc::new(lead);
    }

    /// Leads every tunnel target to a [`Remote`] that knows the same services.
    pub(crate) fn lead_to_remote(&self, settings: ProxySettings) -> (Remote, Arc<Recorder>) {
        let observe = Arc::new(Recorder::default());
        let stop = CancellationToken::new();
        let remote = Remote::new(settings, self.snapshots.clone(), observe.clone(), stop);
        let serve = remote.clone();
        self.lead(move |target, first| Box::pin(call(serve.clone(), target, first)));
        (remote, observe)
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        within("the drain", self.task.take().unwrap()).await.unwrap();
    }
}

/// Opens a stream to a [`Remote`] as a tunnel does.
pub(crate) async fn call(remote: Remote, target: Target, first: Bytes) -> Result<Connected, DialError> {
    // Room for the first bytes whatever they are, as a stream's window has.
    let (mut near, far) = tokio::io::duplex(256 * 1024);
    near.write_all(&first).await.unwrap();
    let (verdict, answered) = oneshot::channel();
    let inbound = Inbound {
        node: Some(Name::from("here")),
        peer: "12D3KooWtest".to_owned(),
        path: Path::Lan,
        protocol: target.protocol,
        backend: target.backend,
        namespace: target.namespace,
        answer: Box::new(Told { verdict, far }),
    };
    tokio::spawn(remote.serve(inbound));
    match answered.await {
        Ok(Ok(())) => Ok(Connected { stream: Box::new(near), path: Path::Lan }),
        Ok(Err(Refusal::NotAdmitted(_))) => Err(DialError::NotAdmitted),
        Ok(Err(Refusal::Dial(error))) => Err(error),
        Err(_) => Err(DialError::Broken),
    }
}

struct Told {
    verdict: oneshot::Sender<Result<(), Refusal>>,
    far: DuplexStream,
}

impl Answer for Told {
    fn accept(self: Box<Self>) -> BoxFuture<'static, std::io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let _ = self.verdict.send(Ok(()));
            Ok(Box::new(self.far) as Box<dyn Duplex>)
        })
    }

    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = self.verdict.send(Err(refusal));
        })
    }
}

/// A TCP backend that runs `serve` for every connection.
pub(crate) async fn tcp_backend<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

/// Sends back what it gets, and ends when its client does.
pub(crate) async fn echo(mut stream: TcpStream) {
    let (mut reader, mut writer) = stream.split();
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

/// A TCP address at which nobody listens; the socket keeps others from taking it.
pub(crate) fn closed_port() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// A UDP backend that sends back what it gets, each datagram as it came, with a prefix.
pub(crate) async fn udp_backend(prefix: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let reply = [prefix, &buffer[..length]].concat();
            let _ = socket.send_to(&reply, client).await;
        }
    });
    addr
}

/// One client, connected to a frontend: it hears nothing that comes from another address.
pub(crate) async fn udp_client(frontend: SocketAddr) -> UdpSocket {
    let any: SocketAddr = match frontend {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let client = UdpSocket::bind(any).await.unwrap();
    client.connect(frontend).await.unwrap();
    client
}

pub(crate) async fn ask(client: &UdpSocket, payload: &[u8]) -> Vec<u8> {
    client.send(payload).await.unwrap();
    reply(client).await
}

pub(crate) async fn reply(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = within("a reply", client.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

/// Everything until the end of the stream; an error when it was reset.
pub(crate) async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    within("the end of the stream", stream.read_to_end(&mut all)).await?;
    Ok(all)
}
