//! Two nodes behind NATs come to the path that theory allows. `cargo xtask bench nat-matrix` shows every pair.

use edgemesh_e2e::{Agent, FAR, Lab, NEAR, service, v4};
use edgemesh_lab::site::keys_of;
use edgemesh_tunnel_proto::{NatKind, expected};
use serde_json::Value;

/// Two LANs with a node and a pod each, and two relays, of which one listens at the port that firewalls let out.
fn site(kinds: [NatKind; 2]) -> String {
    let lan = |node: &str, kind: NatKind, app: &str| {
        let keys = keys_of(kind);
        format!(
            "  - {{ name: lan-{node}, {keys}, nodes: [{{ name: {node}, pods: [{{ name: {app}, labels: {{ app: {app} }}, \
             run: [edgemesh-workload, serve, --http=8080] }}] }}] }}\n"
        )
    };
    let [one, other] = kinds;
    "cloud:\n  nodes: [{ name: r1 }, { name: r2 }]\nlans:\n".to_owned()
        + &lan("n1", one, "near")
        + &lan("n2", other, "far")
}

fn path(agent: &Agent, to: &str, wanted: &str) {
    agent.until(&format!("a {wanted} path to {to}"), |status: &Value| {
        let peers = status["tunnel"]["peers"].as_array();
        peers.into_iter().flatten().any(|peer| peer["node"] == to && peer["path"] == wanted)
    });
}

fn check(test: &str, kinds: [NatKind; 2]) {
    let ports = [("TCP", 80, 8080)];
    let services = service("near", NEAR, &ports) + &service("far", FAR, &ports);
    let lab = Lab::up(test, &site(kinds), &[("services.yaml", &services)]);
    for server in ["near", "far"] {
        lab.until_listening(server, &[8080]);
    }
    let relay = ["--role", "relay"];
    let _relays =
        [("r1", &relay[..]), ("r2", &["--role", "relay", "--listen", "0.0.0.0:443", "--listen", "[::]:443"])]
            .map(|(node, flags)| lab.spawn_agent(node, flags));
    let relays = ["--relay", "203.0.113.10:20006", "--relay", "203.0.113.11:443"];
    let [one, other] = ["n1", "n2"].map(|node| lab.agent(node, &relays));
    let wanted = expected(kinds[0], kinds[1]).as_str();
    path(&one, "n2", wanted);
    path(&other, "n1", wanted);
    // Processes of the nodes themselves.
    assert_eq!(lab.outcome("n1", &["tcp", &v4(FAR, 80)]), "connected", "{kinds:?}");
    assert_eq!(lab.outcome("n2", &["tcp", &v4(NEAR, 80)]), "connected", "{kinds:?}");
}

#[test]
fn an_open_node_is_dialled_from_behind_any_nat() {
    check("nat-open", [NatKind::Open, NatKind::Symmetric]);
}

#[test]
fn nodes_behind_restricted_ports_stay_on_the_relay_towards_random_ones() {
    check("nat-relay", [NatKind::Symmetric, NatKind::AddressAndPortDependent]);
}

#[test]
fn one_port_is_enough() {
    check("nat-443", [NatKind::Port443Only, NatKind::Open]);
}
