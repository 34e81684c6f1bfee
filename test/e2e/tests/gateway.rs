//! The gateway: it follows its objects and tells of them, and says of itself that it serves none.

use std::path::Path;

use edgemesh_e2e::{Agent, Lab, TWO_NODES, alarms, eventually, findings, kind, service_object, site, slices};
use serde_json::{Value, json};

/// The file of a ConfigMap `edgemesh-gateway-cfg`, with the paths of the laboratory.
const FILE: &str = "
apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1
kind: EdgeMeshGateway
kubeAPIConfig:
  master: http://10.1.0.12:6443
commonConfig:
  stateDir: STATE
  adminSocket: ADMIN
modules:
  edgeGateway:
    enable: true
    nic: '*'
    includeIP: 10.1.0.0/16,fd00:1::/64
    excludeIP: '*'
";

/// Words that no file and no page may have.
const KEY: &str = "U0VDUkVULUtFWQ==";

fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"},
    });
    let Value::Object(rest) = rest else { panic!("{rest} is no map") };
    object.as_object_mut().expect("a map").extend(rest);
    object
}

fn objects(lab: &Lab) -> Vec<Value> {
    let service = service_object("near", 11, &[("http", "TCP", 80, 8080)]);
    let place = lab.place("s1");
    let slices: Vec<Value> = slices(&service, &[&place]).into_iter().collect();
    let istio = json!({"spec": {"servers": [
        {"port": {"number": 80, "name": "web", "protocol": "HTTP"}, "hosts": ["a.example", "*.b.example"]},
        {"port": {"number": 443, "name": "secure", "protocol": "HTTPS"}, "hosts": ["*"],
         "tls": {"mode": "SIMPLE", "credentialname": "tls"}},
    ]}});
    let api = json!({"spec": {"gatewayClassName": "edge", "listeners": [
        {"name": "db", "port": 5432, "protocol": "TCP"},
        {"name": "web", "port": 80, "protocol": "HTTP", "hostname": "c.example"},
    ]}});
    let secret = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": KEY, "tls.key": KEY}});
    let own = vec![
        service,
        object("networking.istio.io/v1", "Gateway", "edge", istio),
        object("networking.istio.io/v1", "VirtualService", "shop", json!({"spec": {"hosts": ["*"]}})),
        object("gateway.networking.k8s.io/v1", "Gateway", "edge", api),
        object("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "db", json!({"spec": {}})),
        object("v1", "Secret", "certificate", secret),
    ];
    [lab.node_objects(), slices, own].concat()
}

fn servers(status: &Value) -> Vec<String> {
    let servers = status["servers"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    servers
        .map(|server| {
            let hosts: Vec<String> = server["hosts"].as_array().into_iter().flatten().map(text).collect();
            let [gateway, name, protocol, state] =
                ["gateway", "name", "protocol", "state"].map(|field| text(&server[field]));
            format!("{gateway} {name} {} {protocol} {}: {state}", server["port"], hosts.join(","))
        })
        .collect()
}

const SERVERS: [&str; 4] = [
    "Gateway.networking.istio.io default/edge web 80 HTTP a.example,*.b.example: not served by this version",
    "Gateway.networking.istio.io default/edge secure 443 HTTPS *: not served by this version",
    "Gateway.gateway.networking.k8s.io default/edge db 5432 TCP *: not served by this version",
    "Gateway.gateway.networking.k8s.io default/edge web 80 HTTP c.example: not served by this version",
];

/// No file of a folder has the key, or the Secret's name.
fn assert_no_secret(folder: &Path) {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_secret(&path);
        } else if path.is_file() {
            files += 1;
            let text = std::fs::read(&path).expect("readable");
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains(KEY) && !text.contains("certificate"), "{}", path.display());
        }
    }
    assert!(files > 0, "{} has no file", folder.display());
}

#[test]
fn a_gateway_tells_of_its_objects_and_is_never_ready() {
    let lab = Lab::up("gateway", &site(TWO_NODES), &[]);
    let server = lab.api_server("n2", &[]);
    let availability = |word: &str| json!({ "serving": { "availability": word } });
    let missing = json!({ "resources": {
        "tcproutes.gateway.networking.k8s.io": availability("absent"),
        "virtualservices.networking.istio.io": availability("forbidden"),
    } });
    server.apply_all(&objects(&lab));
    server.switch("faults", &missing);
    // With the words that command lines of Go EdgeMesh's have besides.
    let mut command = lab.gateway_by_file("n1", FILE);
    command.args(["--logtostderr=true", "-v", "2"]);
    let mut gateway = Agent::start(&lab, "n1", command);

    let status = gateway.until("every server", |status| {
        servers(status).len() == SERVERS.len()
            && kind(status, "TCPRoute")["state"] == "absent"
            && kind(status, "VirtualService")["state"] == "forbidden"
            && kind(status, "Secret")["objects"] == 1
            && status["metadata"]["services"] == 1
            && status["metadata"]["stale"] == false
    });
    assert_eq!(servers(&status), SERVERS);
    assert_eq!(status["addresses"], json!(["10.1.0.11", "fd00:1::b"]), "of this node and selected");
    assert!(
        alarms(&status).contains("4 servers of Gateways are not served by this version"),
        "{}",
        alarms(&status)
    );
    for (name, state) in [("HTTPRoute", "watching"), ("GatewayClass", "watching"), ("Service", "watching")] {
        assert_eq!(kind(&status, name)["state"], state, "{:#}", kind(&status, name));
    }
    let found = findings(&status).join("\n");
    assert!(
        found.contains("Gateway.networking.istio.io default/edge: fields that the API does not define: spec.servers[].tls.credentialname (is credentialName meant?)"),
        "{found}"
    );
    assert!(found.contains("TCPRoute of ") && found.contains("VirtualService of "), "{found}");
    let text = gateway.page("/status?text");
    for line in [
        "gateway    on node n1",
        "addresses  10.1.0.11 fd00:1::b\n",
        "server     Gateway.networking.istio.io default/edge web: port 80 HTTP for a.example *.b.example: not served by this version\n",
        "server     Gateway.gateway.networking.k8s.io default/edge db: port 5432 TCP for * (class edge): not served by this version\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains(KEY) && !gateway.page("/metrics").contains(KEY));
    assert_eq!(gateway.metric("edgemesh_gateway_servers_unserved"), 4.0);

    // Who waits for readiness keeps the gateway that works; who looks whether it lives does not restart it.
    let http = lab.http("n1");
    let page = |path: &str| http.get("127.0.0.1:10000", path).map(|answer| (answer.status, answer.body));
    assert_eq!(
        page("/readyz"),
        Ok((503, "Gateways are not served by this version: it has no listeners\n".to_owned()))
    );
    assert_eq!(page("/healthz"), Ok((200, "ok\n".to_owned())));
    for words in [
        &["WARN", "keep the gateway that works", "servers=4"][..],
        &["TCPRoute of ", "does not have this kind"],
        &["VirtualService of ", "ClusterRole"],
    ] {
        assert_eq!(gateway.logged(words), 1, "{words:?} once: {}", gateway.log());
    }

    // What is installed and allowed later is followed, and the file too.
    server.switch("faults", &json!({}));
    gateway.until("every kind", |status| {
        ["TCPRoute", "VirtualService"]
            .iter()
            .all(|name| kind(status, name)["state"] == "watching" && kind(status, name)["objects"] == 1)
    });
    lab.write_config("n1", &FILE.replace("commonConfig:\n", "commonConfig:\n  logLevel: debug\n"));
    eventually("the log level", || (gateway.logged(&["is taken over", "logLevel"]) == 1).then_some(()));
    lab.write_config("n1", &FILE.replace("nic: '*'", "nic: lo"));
    gateway.until("what needs a restart", |status| alarms(status).contains("modules.edgeGateway.nic"));

    // Without its API server it has what the journal has: everything but the Secrets.
    assert!(gateway.terminate().success());
    assert_no_secret(&lab.state("n1").join("journal"));
    drop(server);
    let gateway = Agent::start(&lab, "n1", lab.gateway_by_file("n1", FILE));
    let status = gateway.until("the journal's copy", |status| alarms(status).contains("API server is away"));
    assert_eq!(status["metadata"]["stale"], true);
    assert_eq!(servers(&status), SERVERS);
    assert_eq!(page("/readyz").map(|(code, _)| code), Ok(503));
}
