//! Health check ports over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edgemesh_admin::{HealthPortFaults, HealthPorts, MAX_HEALTH_PORTS};
use edgemesh_api::{SourceEvent, decode_value};
use edgemesh_mesh::{Generation, MeshSnapshot, MeshState};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Within this time everything a test waits for has happened, or never will.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    state: MeshState,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    published: watch::Sender<Generation>,
    healthy: Arc<AtomicBool>,
    faults: Arc<HealthPortFaults>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn bed() -> Bed {
    let state = MeshState::new("here".into());
    let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty("here".into())));
    let (published, generations) = watch::channel(Generation(0));
    let healthy = Arc::new(AtomicBool::new(true));
    let health = healthy.clone();
    let ports = HealthPorts::new(snapshots.clone(), Arc::new(move || health.load(Ordering::Relaxed)));
    let (faults, shutdown) = (ports.faults(), CancellationToken::new());
    let task = tokio::spawn(ports.run(generations, shutdown.clone()));
    Bed { state, snapshots, published, healthy, faults, shutdown, task }
}

impl Bed {
    fn publish(&mut self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            self.state.apply(SourceEvent::Upsert(Arc::new(decode_value(object).unwrap())));
        }
        let snapshot = self.state.compile();
        let generation = snapshot.generation;
        self.snapshots.store(Arc::new(snapshot));
        self.published.send_replace(generation);
    }
}

fn service(name: &str, port: Option<u16>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": port, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}],
        },
    })
}

fn slice(name: &str, family: &str, endpoints: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node, ready)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "name": format!("{name}-{family}").to_lowercase(), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": endpoints,
        "ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
    })
}

/// A port that nobody has and that no outgoing connection gets: below `net.ipv4.ip_local_port_range`.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

fn request(ip: IpAddr, port: u16, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

async fn ask(ip: impl Into<IpAddr>, port: u16, line: &str) -> std::io::Result<String> {
    let text = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let ip = ip.into();
    tokio::task::spawn_blocking(move || request(ip, port, &text)).await.unwrap()
}

/// Asks until it is as expected: ports follow a snapshot in a task of their own.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

async fn answered(port: u16) -> String {
    until("an answer", async || {
        ask(Ipv4Addr::LOCALHOST, port, "GET /healthz").await.ok().filter(|answer| !answer.is_empty())
    })
    .await
}

async fn closed(port: u16) {
    until("a closed port", async || {
        let refused = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
}

#[track_caller]
fn check(answer: &str, status: &str, name: &str, endpoints: usize, healthy: bool) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
    assert!(head.lines().any(|line| line == weight), "{answer}");
    assert!(head.lines().any(|line| line == "content-type: application/json"), "{answer}");
    let expected = json!({
        "service": {"namespace": "shop", "name": name},
        "localEndpoints": endpoints, "serviceProxyHealthy": healthy,
    });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_ready_endpoints_of_this_node() {
    let (mut bed, port) = (bed(), free_port());
    bed.publish([service("web", Some(port))]);
    check(&answered(port).await, "503", "web", 0, true);
    let far = ("10.1.0.1", "there", true);
    for (endpoints, status, count) in [
        (vec![far, ("10.1.0.2", "here", false)], "503", 0),
        (vec![far, ("10.1.0.2", "here", true)], "200", 1),
        (vec![far, ("10.1.0.2", "here", true), ("10.1.0.3", "here", true)], "200", 2),
        (vec![far], "503", 0),
    ] {
        bed.publish([slice("web", "IPv4", &endpoints)]);
        check(&answered(port).await, status, "web", count, true);
    }
    bed.publish([
        slice("web", "IPv4", &[("10.1.0.2", "here", true), ("10.1.0.3", "here", true)]),
        slice("web", "IPv6", &[("fd01::2", "here", true), ("fd01::3", "here", true)]),
    ]);
    check(&answered(port).await, "200", "web", 2, true);
    bed.healthy.store(false, Ordering::Relaxed);
    check(&answered(port).await, "503", "web", 2, false);
    assert_eq!(bed.faults.list(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_path_both_families_and_no_method_that_changes() {
    let (mut bed, port) = (bed(), free_port());
    bed.publish([service("web", Some(port)), slice("web", "IPv4", &[("10.1.0.2", "here", true)])]);
    check(&answered(port).await, "200", "web", 1, true);
    for path in ["GET /", "GET /healthz", "GET /any/path?x=y"] {
        check(&ask(Ipv4Addr::LOCALHOST, port, path).await.unwrap(), "200", "web", 1, true);
        check(&ask(Ipv6Addr::LOCALHOST, port, path).await.unwrap(), "200", "web", 1, true);
    }
    let head = ask(Ipv4Addr::LOCALHOST, port, "HEAD /").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let post = ask(Ipv4Addr::LOCALHOST, port, "POST /").await.unwrap();
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    let long = ask(Ipv4Addr::LOCALHOST, port, &format!("GET /{}", "x".repeat(16 * 1024))).await;
    assert!(!long.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")), "a request beyond the bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_come_and_go_with_their_services() {
    let (mut bed, first, second) = (bed(), free_port(), free_port());
    bed.publish([service("web", Some(first))]);
    check(&answered(first).await, "503", "web", 0, true);
    bed.publish([service("web", Some(second))]);
    check(&answered(second).await, "503", "web", 0, true);
    closed(first).await;
    // The port goes over to another Service.
    bed.publish([service("web", None), service("zoo", Some(second))]);
    let zoo = until("the other Service", async || {
        ask(Ipv4Addr::LOCALHOST, second, "GET /").await.ok().filter(|answer| answer.contains("zoo"))
    });
    check(&zoo.await, "503", "zoo", 0, true);
    bed.publish([json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "zoo", "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "healthCheckNodePort": second},
    })]);
    closed(second).await;
    bed.publish([service("web", Some(first))]);
    check(&answered(first).await, "503", "web", 0, true);
    bed.shutdown.cancel();
    bed.task.await.unwrap();
    closed(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_reported_and_had_when_it_is_free() {
    let (mut bed, port) = (bed(), free_port());
    let other = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    bed.publish([service("web", Some(port))]);
    let fault = until("a fault", async || bed.faults.list().into_iter().next()).await;
    let expected = "another program has it, kube-proxy perhaps; it is tried again";
    assert_eq!(fault, format!("health check port {port} of Service shop/web: {expected}"));
    drop(other);
    // Whatever changes is a reason to try, as the time is.
    bed.publish([service("another", None)]);
    check(&answered(port).await, "503", "web", 0, true);
    until("no fault", async || bed.faults.list().is_empty().then_some(())).await;
    bed.publish([service("zoo", Some(port))]);
    let fault = until("a fault", async || bed.faults.list().into_iter().next()).await;
    assert_eq!(fault, format!("health check port {port} of Service shop/zoo belongs to Service shop/web"));
    check(&answered(port).await, "503", "web", 0, true);
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again_without_a_change() {
    let (mut bed, port) = (bed(), free_port());
    let other = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    bed.publish([service("web", Some(port))]);
    until("a fault", async || bed.faults.list().into_iter().next()).await;
    drop(other);
    // No time passes but this, and nothing else changes.
    tokio::time::pause();
    until("no fault", async || {
        tokio::time::advance(Duration::from_secs(1)).await;
        bed.faults.list().is_empty().then_some(())
    })
    .await;
    tokio::time::resume();
    check(&answered(port).await, "503", "web", 0, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_bounded() {
    let mut bed = bed();
    let ports: Vec<u16> = (0..=MAX_HEALTH_PORTS).map(|_| free_port()).collect();
    let services = ports.iter().enumerate().map(|(index, port)| service(&format!("s{index}"), Some(*port)));
    bed.publish(services);
    let faults = until("faults", async || Some(bed.faults.list()).filter(|faults| !faults.is_empty())).await;
    let last = format!("health check port {} of Service shop/s256 is not opened: 256 others are", ports[256]);
    assert_eq!(faults, [last]);
    assert!(answered(ports[255]).await.starts_with("HTTP/1.1 503"));
    closed(ports[256]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_their_places_come_free() {
    let (mut bed, port) = (bed(), free_port());
    bed.publish([service("web", Some(port))]);
    answered(port).await;
    until("a connection that is closed unserved", async || {
        let silent = tokio::task::spawn_blocking(move || -> Vec<TcpStream> {
            (0..32).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()).collect()
        });
        let silent = silent.await.unwrap();
        let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await;
        drop(silent);
        answer.map_or(true, |answer| answer.is_empty()).then_some(())
    })
    .await;
    answered(port).await;
}
