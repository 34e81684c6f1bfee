use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use edgemesh_apiserver::{Resource, ServerOptions};
use hyper::Method;
use serde_json::json;
use tokio::time::timeout;

use crate::support::{Answer, DEADLINE, Watch, ask, attempt, get, list, names, server, service, start};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgemesh-test-apiserver");

#[tokio::test]
async fn switches_are_set_over_http() {
    let server = server().await;
    server.store().create(service("a")).expect("created");
    let document = json!({
        "all": {"reply": {"type": "error", "status": 503, "retryAfter": 1}},
        "resources": {
            "services": {"list": {"emptyRequests": 1, "version": "zero"}, "watch": {"delivery": "never"}},
            "destinationrules.v1.networking.istio.io": {"serving": {"availability": "absent"}},
        },
    });
    let set = ask(&server, Method::PUT, "/_test/faults", &[], &document.to_string()).await;
    assert_eq!(set.status, 200);
    let told = get(&server, "/_test/faults").await.json();
    assert_eq!(set.json(), told);
    assert_eq!(told["resources"]["services"]["list"]["version"], "zero");
    assert_eq!(ask(&server, Method::PUT, "/_test/faults", &[], &told.to_string()).await.json(), told);
    for (path, expected) in [
        ("/api/v1/pods", 503),
        ("/apis/networking.istio.io/v1/destinationrules", 404),
        ("/apis/networking.istio.io/v1beta1/destinationrules", 503),
    ] {
        assert_eq!(get(&server, path).await.status, expected, "{path}");
    }
    let empty = list(&server, "/api/v1/services").await;
    assert_eq!((names(&empty).as_str(), &empty["metadata"]["resourceVersion"]), ("", &json!("0")));

    assert_eq!(ask(&server, Method::PUT, "/_test/faults", &[], r#"{"metaserver":true}"#).await.status, 200);
    assert_eq!(get(&server, "/apis").await.status, 500);
    let away = r#"{"metaserverConnected":true,"cloudAway":true}"#;
    let told = ask(&server, Method::PUT, "/_test/faults", &[], away).await.json();
    assert_eq!((&told["cloudAway"], &told["all"]["serving"]["byNode"]), (&json!(true), &json!(true)));
    let unknown = json!({"apiVersion": "v1", "items": [], "kind": "ServiceList"});
    assert_eq!(list(&server, "/api/v1/services").await, unknown);
    assert_eq!(ask(&server, Method::DELETE, "/_test/faults", &[], "").await.status, 200);
    assert_eq!(get(&server, "/apis").await.status, 200);
}

#[tokio::test]
async fn bad_switches_name_what_is_wrong() {
    let server = server().await;
    for (method, path, body, named) in [
        (Method::PUT, "faults", r#"{"all":{"list":{"emtpyMs":1}}}"#, "emtpyMs"),
        (Method::PUT, "faults", r#"{"resources":{"gateways":{}}}"#, "gateways.networking.istio.io"),
        (Method::PUT, "faults", r#"{"metaserver":true,"all":{}}"#, "metaserver and all"),
        (Method::PUT, "faults", r#"{"refuseConnections":true}"#, "--control"),
        (Method::PUT, "faults", "nothing", "no JSON"),
        (Method::PUT, "load?service=1", "", "service"),
        (Method::PUT, "load?services=many", "", "many"),
        (Method::PUT, "load?services=9999999", "", "services is larger"),
        (Method::PUT, "expire?resource=x", "", "resource"),
        (Method::GET, "cut", "", "PUT faults"),
    ] {
        let answer = ask(&server, method, &format!("/_test/{path}"), &[], body).await;
        assert!(answer.status.is_client_error(), "{path} {body}");
        answer.refusal();
        let message = answer.json()["message"].to_string();
        assert!(message.contains(named), "{path} {body}: {message}");
    }
}

#[tokio::test]
async fn the_store_is_ruled_over_http() {
    let any = ServerOptions::default().listen;
    let options =
        ServerOptions { control: Some(any), token: Some("t".to_owned()), ..ServerOptions::default() };
    let server = start(options).await;
    let control = server.control_addr().expect("asked for");
    let put = async |path: &str| {
        let path = format!("/_test/{path}");
        let asked = timeout(DEADLINE, attempt(control, Method::PUT, &path, &[], "")).await;
        asked.expect("in time").expect("an answer")
    };
    assert_eq!(put("load?services=3&endpoints=2&pods=4").await.json(), json!({"resourceVersion": "11"}));
    assert_eq!(put("token").await.status, 200);
    assert_eq!(names(&list(&server, "/api/v1/services").await), "load-0 load-1 load-2");
    let mut watch = Watch::open(&server, "/api/v1/pods?watch=1&resourceVersion=11").await;
    assert_eq!(put("expire?resource=pods").await.status, 200);
    watch.expect(&["ERROR 410", "end"]).await;
    assert_eq!(put("compact").await.status, 200);
    Watch::open(&server, "/api/v1/pods?watch=1&resourceVersion=10").await.expect(&["ERROR 410", "end"]).await;

    let counts = timeout(DEADLINE, attempt(control, Method::GET, "/_test/requests", &[], "")).await;
    let counts = counts.expect("in time").expect("an answer").json();
    assert_eq!(counts["resources"]["services"]["lists"], 1);
    assert_eq!(counts["resources"]["pods"]["gone"], 2);

    let mut watch = Watch::open(&server, "/api/v1/pods?watch=1&resourceVersion=11").await;
    assert_eq!(put("cut").await.status, 200);
    assert!(!watch.ends_cleanly().await);
    assert_eq!(put("restart-empty").await.json(), json!({"resourceVersion": "1"}));
    assert_eq!(server.store().count(Resource::Pods), 0);
    // The connection that asks for it gets its answer.
    let cut: Answer = ask(&server, Method::PUT, "/_test/cut", &[], "").await;
    assert_eq!(cut.status, 200);
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already where the test got that far.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_program_serves_and_ends() {
    let root = std::env::temp_dir().join(format!("edgemesh-test-apiserver-{}", std::process::id()));
    let mut program = Program(
        Command::new(PROGRAM)
            .args([
                "--listen",
                "[::1]:0",
                "--control",
                "127.0.0.1:0",
                "--metaserver",
                "--tls-name",
                "api.example",
            ])
            .arg("--tls-dir")
            .arg(&root)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts"),
    );
    let mut line = String::new();
    let mut out = BufReader::new(program.0.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("a line");
    let addresses: Vec<SocketAddr> = line
        .strip_prefix("ready ")
        .expect("ready")
        .split_whitespace()
        .map(|addr| addr.parse().expect("an address"))
        .collect();
    let [main, control] = addresses[..] else { panic!("{line}") };
    assert!(main.is_ipv6() && control.is_ipv4(), "{line}");
    for (name, mark) in
        [("ca.crt", "CERTIFICATE"), ("client.crt", "CERTIFICATE"), ("client.key", "PRIVATE KEY")]
    {
        let text = std::fs::read_to_string(root.join(name)).expect("written");
        assert!(text.starts_with(&format!("-----BEGIN {mark}-----")), "{name}");
    }
    std::fs::remove_dir_all(&root).expect("removed");
    let answer = timeout(DEADLINE, attempt(control, Method::GET, "/_test/faults", &[], "")).await;
    assert_eq!(answer.expect("in time").expect("an answer").json()["all"]["watch"]["replay"], true);
    let killed = Command::new("sh").args(["-c", &format!("kill -TERM {}", program.0.id())]).status();
    assert!(killed.expect("a shell").success());
    assert!(program.0.wait().expect("ends").success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("its end");
    assert_eq!(rest, "");
}

#[test]
fn the_program_explains_itself() {
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output().expect("runs");
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"edgemesh-test-apiserver:"));
    for (arguments, named) in [
        (&["--listen", "nowhere"][..], "nowhere"),
        (&["--bookmark-every", "0"], "--bookmark-every"),
        (&["--what"], "--what"),
    ] {
        let refused = run(arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(named), "{arguments:?}: {told}");
    }
}
