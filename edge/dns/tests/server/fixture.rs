//! A server with a small world, clients, and upstreams that behave as told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, Ttl};
use domain::rdata::A;
use edgemesh_api::{Object, Service, ServicePort, ServiceSpec, SourceEvent};
use edgemesh_dns::{DnsCounters, DnsServer, DnsSettings, UpstreamSource};
use edgemesh_mesh::{MeshSnapshot, MeshState};
use edgemesh_resolver::ResolverSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// More than any exchange here takes, also on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const WEB: &str = "web.default.svc.cluster.local";

fn service(name: &str, cluster_ip: &str) -> Object {
    let mut service = Service {
        spec: ServiceSpec {
            cluster_ip: Some(cluster_ip.into()),
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    service.metadata.name = name.into();
    service.metadata.namespace = "default".into();
    Object::Service(service)
}

/// `web` has an address; `big` has a hundred endpoints.
pub(crate) fn snapshot() -> MeshSnapshot {
    use edgemesh_api::{Endpoint, EndpointPort, EndpointSlice, label};
    let mut slice = EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: (0..100)
            .map(|index| Endpoint {
                addresses: vec![format!("10.1.0.{index}").into()],
                ..Endpoint::default()
            })
            .collect(),
        ports: vec![EndpointPort { port: Some(80), ..EndpointPort::default() }],
        ..EndpointSlice::default()
    };
    slice.metadata.name = "big-1".into();
    slice.metadata.namespace = "default".into();
    slice.metadata.labels.insert(label::SERVICE_NAME.into(), "big".into());
    let mut state = MeshState::new("edge-1".into());
    state.apply(SourceEvent::Reset);
    for object in [service("web", "10.96.0.1"), service("big", "None"), Object::EndpointSlice(slice)] {
        state.apply(SourceEvent::Upsert(object.into()));
    }
    state.apply(SourceEvent::Synced);
    state.compile()
}

pub(crate) struct Running {
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) counters: Arc<DnsCounters>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn settings(upstreams: &[SocketAddr]) -> DnsSettings {
    DnsSettings {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()],
        upstreams: UpstreamSource::Servers(upstreams.to_vec()),
        resolver: ResolverSettings::default(),
    }
}

pub(crate) fn start(settings: DnsSettings) -> Running {
    let snapshots = Arc::new(ArcSwap::from_pointee(snapshot()));
    let server = DnsServer::bind(settings, snapshots).unwrap();
    let (addrs, counters, shutdown) = (server.local_addrs(), server.counters(), CancellationToken::new());
    let task = tokio::spawn(server.run(shutdown.clone()));
    Running { addrs, counters, shutdown, task }
}

impl Running {
    pub(crate) async fn udp(&self, name: &str) -> Message<Vec<u8>> {
        udp(self.addrs[0], &query(name)).await
    }
}

pub(crate) fn query(name: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x4242);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name.parse::<Name<Vec<u8>>>().unwrap(), Rtype::A, Class::IN)).unwrap();
    builder.finish()
}

/// Asks over UDP from a fresh socket.
pub(crate) async fn udp(server: SocketAddr, query: &[u8]) -> Message<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut reply = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut reply)).await.unwrap().unwrap();
    reply.truncate(length);
    Message::from_octets(reply).unwrap()
}

pub(crate) async fn write_frame(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
    stream.write_all(message).await.unwrap();
}

pub(crate) async fn read_frame(stream: &mut TcpStream) -> Message<Vec<u8>> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(length)];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
    Message::from_octets(reply).unwrap()
}

pub(crate) fn addresses(reply: &Message<Vec<u8>>) -> Vec<String> {
    let records = reply.answer().unwrap().limit_to::<A>();
    records.map(|record| record.unwrap().data().to_string()).collect()
}

/// How an upstream behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    /// Truncated over UDP, whole over TCP.
    Truncates,
    /// First with a wrong id.
    Forges,
    Silent,
    /// Hands the question to another server and its answer back.
    Relays(SocketAddr),
}

pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
    manner: Arc<ArcSwap<Manner>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) async fn start(manner: Manner) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let (asked, manner) = (Arc::new(AtomicUsize::new(0)), Arc::new(ArcSwap::from_pointee(manner)));
        let tasks = vec![
            tokio::spawn(upstream_udp(udp, asked.clone(), manner.clone())),
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let question = read_frame(&mut stream).await;
                    write_frame(&mut stream, &answer(question.as_slice(), false)).await;
                }
            }),
        ];
        Self { addr, asked, manner, tasks }
    }

    pub(crate) fn becomes(&self, manner: Manner) {
        self.manner.store(Arc::new(manner));
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Closes its sockets, so that questions to it are refused.
    pub(crate) async fn die(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

async fn upstream_udp(socket: UdpSocket, asked: Arc<AtomicUsize>, manner: Arc<ArcSwap<Manner>>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        let question = &buffer[..length];
        let manner = **manner.load();
        let reply = match manner {
            Manner::Silent => continue,
            Manner::Relays(server) => udp(server, question).await.as_slice().to_vec(),
            Manner::Answers | Manner::Truncates | Manner::Forges => {
                answer(question, manner == Manner::Truncates)
            }
        };
        if manner == Manner::Forges {
            let mut forged = answer(question, false);
            forged[0] ^= 0xff;
            socket.send_to(&forged, peer).await.unwrap();
        }
        socket.send_to(&reply, peer).await.unwrap();
    }
}

fn answer(question: &[u8], truncated: bool) -> Vec<u8> {
    let question = Message::from_octets(question).unwrap();
    let name = question.sole_question().unwrap().qname().to_string();
    let mut answer = MessageBuilder::new_vec().start_answer(&question, Rcode::NOERROR).unwrap();
    answer.header_mut().set_ra(true);
    answer.header_mut().set_tc(truncated);
    if !truncated {
        let name = name.parse::<Name<Vec<u8>>>().unwrap();
        answer.push((name, Ttl::from_secs(60), A::from_octets(192, 0, 2, 1))).unwrap();
    }
    answer.finish()
}
