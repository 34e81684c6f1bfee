//! How the agent comes to its API server, and what it says of it.

use std::net::SocketAddr;

use edgemesh_e2e::{
    Agent, Place, alarms, eventually, installed, kind, service_object, skipped, slices, v4, v6,
};
use serde_json::{Value, json};

use crate::{
    FILE, GO_DEFAULT, PORTS, SERVER, addresses, assert_serves, is_away, is_live, lab, objects, service, txt,
    until_served,
};

/// A node that has Go EdgeMesh's file and nothing else changed: name, environment, file.
#[test]
fn the_file_of_go_edgemesh_is_enough() {
    let lab = lab("api");
    let agent = lab.spawn_by_file("n1", FILE);
    let http = lab.http("n1");
    let page = |path: &str| {
        let answer = http.get("127.0.0.1:9999", path).unwrap_or_else(|error| panic!("{path}: {error}"));
        (answer.status, answer.body)
    };
    // It is there before its API server.
    let status = agent.until("the alarm", is_away);
    assert!(alarms(&status).contains("10.1.0.12:6443"), "{}", alarms(&status));
    let (code, body) = page("/readyz");
    assert!(code == 503 && body.contains("no source has answered yet"), "{code} {body}");
    assert_eq!(page("/healthz").0, 200);
    assert_eq!(status["metadata"]["age_seconds"], Value::Null);

    let server = lab.api_server("n2", &[]);
    server.apply_all(&objects(&lab));
    agent.until_ready();
    until_served(&lab, "near");
    assert_serves(&lab, "near", 11);
    assert_eq!(page("/readyz"), (200, "ok\n".to_owned()));
    let status =
        agent.until("both Services", |status| status["metadata"]["services"] == 2 && is_live(status));
    assert_eq!(status["metadata"]["source"], "kubernetes http://10.1.0.12:6443");
    assert!(status["metadata"]["age_seconds"].as_u64() < Some(15), "{:#}", status["metadata"]);
    for (name, state, count) in
        [("Service", "watching", 2), ("EndpointSlice", "watching", 4), ("Node", "watching", 2)]
    {
        let line = kind(&status, name);
        assert_eq!(line["state"], state, "{line}");
        let known =
            line["objects"].as_u64().unwrap_or_default() + line["events"].as_u64().unwrap_or_default();
        assert_eq!(known, count, "{line}");
    }
    assert_eq!(kind(&status, "Endpoints")["state"], "unused", "slices are enough");
    if let Some(text) = txt(&lab) {
        for part in
            ["\"source=kubernetes http://10.1.0.12:6443\"", "\"age=", "\"state=live\"", "\"generation="]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    // A Service that comes while the agent runs, changes, and goes.
    let late = service(&lab, "late", 20, &["s1"]);
    server.apply_all(&late);
    until_served(&lab, "late");
    assert_serves(&lab, "late", 20);
    let mut moved = late[0].clone();
    moved["spec"]["ports"][1]["port"] = json!(8181);
    server.apply(&moved);
    eventually("the new port", || (lab.outcome("c1", &["tcp", &v4(20, 8181)]) == "connected").then_some(()));
    assert_eq!(lab.outcome("c1", &["tcp", &v6(20, 81)]), "refused");
    server.delete(&late[0]);
    agent.until("the deletion", |status| status["metadata"]["services"] == 2);
    assert_eq!(addresses(&lab, "late"), json!([]));
}

/// KubeEdge's metaServer at the edge, with Go EdgeMesh's own default file: watches that tell everything anew and no
/// deletion they missed, lists without versions, no discovery.
#[test]
fn the_meta_server_of_an_edge_node() {
    let lab = lab("meta");
    let server = lab.api_server("n2", &["--metaserver"]);
    server.apply_all(&objects(&lab));
    server.apply_all(&service(&lab, "leaving", 22, &["s1"]));
    let file = GO_DEFAULT
        .replace("http://127.0.0.1:10550", "http://10.1.0.12:6443")
        .replace("commonConfig:\n", "commonConfig:\n  stateDir: STATE\n  adminSocket: ADMIN\n")
        .replace("edgeProxy:\n", "edgeProxy:\n    enable: true\n")
        .replace("edgeTunnel:\n", "edgeTunnel:\n    enable: true\n")
        .replace("/etc/edgemesh/psk", "PSK");
    let agent = lab.spawn_by_file("n1", &file);
    agent.until_ready();
    until_served(&lab, "leaving");
    assert_serves(&lab, "near", 11);
    assert_eq!(agent.status()["metadata"]["source"], "metaServer http://10.1.0.12:6443");

    // Deleted while nobody watches.
    server.cut_off("n1", SERVER);
    agent.until("the alarm", is_away);
    server.delete(&service_object("leaving", 22, &PORTS));
    assert_serves(&lab, "leaving", 22);
    server.join("n1", SERVER);
    agent.until("the deletion", |status| is_live(status) && status["metadata"]["services"] == 2);
    assert_serves(&lab, "near", 11);

    // A watch that stands and says nothing (kubeedge/kubeedge#4699).
    let silent = json!({ "metaserver": true, "resources": {
        "services": { "watch": { "delivery": "never", "noBookmarks": true } },
    } });
    server.switch("faults", &silent);
    server.apply_all(&service(&lab, "unheard", 24, &["s1"]));
    let status = agent.until("what no watch told", |status| status["metadata"]["services"] == 3);
    assert!(kind(&status, "Service")["missed"].as_u64() >= Some(1), "{:#}", kind(&status, "Service"));
    until_served(&lab, "unheard");
    assert_serves(&lab, "unheard", 24);
}

/// A kubeconfig: TLS over IPv6, a client certificate, and a token that is renewed in its file.
#[test]
fn a_kubeconfig_with_certificates_and_a_token_that_changes() {
    let lab = lab("tls");
    let folder = lab.folder().join("tls");
    let path = folder.display().to_string();
    let server = lab.api_server(
        "n2",
        &["--tls-dir", &path, "--tls-name", "fd00:1::c", "--require-client-cert", "--token", "first"],
    );
    let kubeconfig = "
apiVersion: v1
kind: Config
current-context: edge
contexts: [{ name: edge, context: { cluster: cloud, user: agent } }]
clusters: [{ name: cloud, cluster: { server: 'https://[fd00:1::c]:6443', certificate-authority: ca.crt } }]
users: [{ name: agent, user: { client-certificate: client.crt, client-key: client.key, tokenFile: token } }]
";
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("the folder is ours");
    write("kubeconfig", kubeconfig);
    write("token", "first\n");
    let file = FILE.replace("master: http://10.1.0.12:6443", &format!("kubeConfig: {path}/kubeconfig"));
    server.switch("load?services=1&endpoints=1", &Value::Null);
    let agent = lab.spawn_by_file("n1", &file);
    agent.until_ready();
    assert_eq!(agent.status()["metadata"]["source"], "kubernetes https://[fd00:1::c]:6443");
    let known = |number: u32| {
        let services = agent.explain(&format!("load-{number}.load:80"))["frontends"].clone();
        services.as_array().is_some_and(|frontends| !frontends.is_empty()).then_some(())
    };
    eventually("the Service", || known(0));

    // The token is no longer taken, and nobody has renewed the file yet.
    server.switch("token?value=second", &Value::Null);
    server.switch("cut", &Value::Null);
    agent.until("the alarm", |status| alarms(status).contains("401"));
    assert!(known(0).is_some(), "what is known is served on");
    write("token", "second\n");
    server.switch("load?services=2&endpoints=1", &Value::Null);
    eventually("the new Service", || known(1));
    agent.until("no alarm", |status| alarms(status).is_empty());

    // Without its certificate the node is told apart from one that has no network.
    write("kubeconfig", &kubeconfig.replace("client-certificate: client.crt, client-key: client.key, ", ""));
    drop(agent);
    let agent = lab.spawn_by_file("n1", &file);
    let status = agent.until("the alarm", is_away);
    assert!(alarms(&status).to_lowercase().contains("certificate"), "{}", alarms(&status));
}

/// In the cloud: the environment and the service account of a pod, and the address of default/kubernetes, which is a
/// Service itself. An agent that intercepted it would cut itself off.
#[test]
fn the_address_of_the_cluster_itself_is_not_hijacked() {
    const ADDRESS: [&str; 2] = ["10.96.0.1", "fd96::1"];
    if !installed("curl") {
        return skipped("the_address_of_the_cluster_itself_is_not_hijacked", "curl");
    }
    let lab = lab("cloud");
    let folder = lab.folder().join("tls");
    let path = folder.display().to_string();
    let [v4, v6] = ADDRESS;
    let server =
        lab.api_server("n2", &["--tls-dir", &path, "--tls-name", v4, "--tls-name", v6, "--token", "account"]);
    // What kube-proxy does on a node of the cloud: the address leads to the API server.
    let script = format!("ip addr add {v4}/32 dev lo && ip -6 addr add {v6}/128 dev lo nodad");
    lab.exec("n2", &["sh", "-c", &script]);
    let script = format!("ip route add {v4}/32 via 10.1.0.12 && ip -6 route add {v6}/128 via fd00:1::c");
    lab.exec("n1", &["sh", "-c", &script]);
    std::fs::write(folder.join("token"), "account").expect("the folder is ours");
    // The mounts are the node's own.
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let script =
        format!("mount -t tmpfs none /var && mkdir -p {account} && cp {path}/ca.crt {path}/token {account}");
    lab.exec("n1", &["sh", "-c", &script]);
    let kubernetes = service_object("kubernetes", 1, &[("https", "TCP", 6443, 6443)]);
    let backend = Place { pod: "apiserver".into(), node: "n2".into(), addresses: SERVER.map(Into::into) };
    for (kind, object) in std::iter::once(("services", kubernetes.clone()))
        .chain(slices(&kubernetes, &[&backend]).map(|slice| ("endpointslices", slice)))
    {
        let version = object["apiVersion"].as_str().expect("a version");
        let root = if version.contains('/') { "apis" } else { "api" };
        let url = format!("https://127.0.0.1:6443/{root}/{version}/namespaces/default/{kind}");
        let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--cacert"];
        let ca = format!("{path}/ca.crt");
        let body = object.to_string();
        let rest =
            ["--header", "Authorization: Bearer account", "--header", "Content-Type: application/json"];
        lab.exec("n2", &[&curl[..], &[&ca], &rest, &["--data", &body, &url]].concat());
    }
    server.switch("load?services=1&endpoints=1", &Value::Null);

    let file = FILE.replace("kubeAPIConfig:\n  master: http://10.1.0.12:6443\n", "");
    for (address, url) in ADDRESS.into_iter().zip(["https://10.96.0.1:6443", "https://[fd96::1]:6443"]) {
        let mut command = lab.agent_by_file("n1", &file);
        command.env("KUBERNETES_PORT", format!("tcp://{address}:443"));
        command.env("KUBERNETES_SERVICE_HOST", address).env("KUBERNETES_SERVICE_PORT", "6443");
        let agent = Agent::start(&lab, "n1", command);
        agent.until_ready();
        let status = agent.until("both Services", |status| status["metadata"]["services"] == 2);
        assert_eq!(status["metadata"]["source"], format!("kubernetes {url}"));
        assert_eq!(
            status["dns"],
            Value::Null,
            "in the cloud the cluster's own DNS serves, as with Go EdgeMesh"
        );
        let rules = agent.page("/rules");
        assert!(
            rules.contains("11.0.0.1 ") && !ADDRESS.iter().any(|own| rules.contains(&format!("{own} "))),
            "{rules}"
        );
        // With the rules in place the way to the API server is still there.
        let before = server.count("services", "watches");
        server.switch("cut", &Value::Null);
        eventually("another watch", || (server.count("services", "watches") > before).then_some(()));
        agent.until("no alarm", |status| alarms(status).is_empty());
        assert_eq!(
            lab.outcome(
                "c1",
                &["tcp", &SocketAddr::new(address.parse().expect("an address"), 6443).to_string()]
            ),
            "connected"
        );
    }
}
