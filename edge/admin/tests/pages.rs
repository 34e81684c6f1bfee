//! Pages over a real Unix socket, metrics over real TCP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_admin::{
    AccessLog, Admin, AdminError, FetchError, Figure, Figures, Health, Metrics, Page, PageResult, Pages,
    fetch,
};
use edgemesh_api::{ObjectKey, Protocol};
use edgemesh_mesh::Path;
use edgemesh_route::{Access, Direction, Observe as _, Outcome, RejectReason};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

struct Two;

impl Figures for Two {
    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure { name: "services", help: "Known Services", counter: false, value: 7 },
            Figure { name: "dns_queries", help: "Queries", counter: true, value: 41 },
        ]
    }
}

struct Fixed {
    ok: bool,
}

impl Pages for Fixed {
    fn health(&self) -> Health {
        Health { ok: self.ok, detail: "rules: applied\n".to_owned() }
    }

    fn ready(&self) -> Health {
        Health { ok: false, detail: "nothing is known\n".to_owned() }
    }

    fn page(&self, path: &str, query: &str) -> BoxFuture<'static, PageResult> {
        let page = match path {
            "/status" => Some(Ok(Page::Json(r#"{"node":"n"}"#.to_owned()))),
            "/explain" => Some(Err(format!("{query:?} is no HOST:PORT"))),
            _ => None,
        };
        Box::pin(async move { page })
    }
}

fn access(outcome: Outcome) -> Access {
    Access {
        direction: Direction::Outbound,
        protocol: Protocol::Tcp,
        client: "10.0.0.1:4000".to_owned(),
        frontend: "10.96.0.1:80".parse().unwrap(),
        service: Some(ObjectKey::new("default", "web")),
        backend: Some("172.17.0.2:8080".parse().unwrap()),
        path: Some(Path::Relayed),
        sent: 100,
        received: 2_000,
        duration: Duration::from_millis(5),
        outcome,
    }
}

struct Served {
    socket: PathBuf,
    metrics: Arc<Metrics>,
    addr: SocketAddr,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

fn serve(ok: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/agent.sock");
    let metrics = Arc::new(Metrics::new(AccessLog::Off, Arc::new(Two)));
    let admin = Admin::bind(&socket, Some("127.0.0.1:0".parse().unwrap())).unwrap();
    let addr = admin.metrics_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(admin.run(metrics.clone(), Arc::new(Fixed { ok }), shutdown.clone()));
    Served { socket, metrics, addr, shutdown, _folder: folder }
}

async fn ask(socket: &std::path::Path, target: &'static str) -> Result<String, FetchError> {
    let socket = socket.to_owned();
    tokio::task::spawn_blocking(move || fetch(&socket, target)).await.unwrap()
}

async fn http(addr: SocketAddr, target: &'static str) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_serves_every_page() {
    let served = serve(true);
    assert_eq!(ask(&served.socket, "/status").await.unwrap(), r#"{"node":"n"}"#);
    assert_eq!(ask(&served.socket, "/healthz").await.unwrap(), "rules: applied\n");
    let refused = ask(&served.socket, "/explain?x").await.unwrap_err();
    assert_eq!(refused.to_string(), "\"x\" is no HOST:PORT");
    assert!(matches!(ask(&served.socket, "/nothing").await, Err(FetchError::Refused { status: 404, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_serves_metrics_and_health_only() {
    let served = serve(false);
    served.metrics.began(Direction::Outbound, Protocol::Tcp);
    served.metrics.began(Direction::Outbound, Protocol::Tcp);
    served.metrics.ended(access(Outcome::Closed));
    let text = http(served.addr, "/metrics").await;
    for line in [
        r#"edgemesh_connections_total{direction="outbound",protocol="tcp",path="relayed",outcome="closed"} 1"#,
        r#"edgemesh_connections_open{direction="outbound",protocol="tcp"} 1"#,
        r#"edgemesh_bytes_total{direction="outbound",path="relayed",flow="received"} 2000"#,
        "edgemesh_services 7",
        "edgemesh_dns_queries_total 41",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(http(served.addr, "/healthz").await.starts_with("HTTP/1.0 503"));
    assert!(http(served.addr, "/status").await.starts_with("HTTP/1.0 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_count_what_was_not_served() {
    let served = serve(true);
    for outcome in [Outcome::Closed, Outcome::Rejected(RejectReason::NoEndpoints)] {
        served.metrics.began(Direction::Inbound, Protocol::Tcp);
        served.metrics.ended(access(outcome));
    }
    let totals = served.metrics.totals();
    assert_eq!((totals.ended, totals.unserved), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_use_is_refused_and_a_dead_one_replaced() {
    let served = serve(true);
    assert!(matches!(Admin::bind(&served.socket, None), Err(AdminError::InUse { .. })));
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    Admin::bind(&dead, None).expect("a dead socket is replaced");
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Admin::bind(&file, None), Err(AdminError::Socket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    served.shutdown.cancel();
}
