//! The agent and an API server: Kubernetes' own, or KubeEdge's metaServer, with their faults.

mod access;
mod outages;
mod services;

use edgemesh_e2e::{
    Agent, Lab, TWO_NODES, alarms, eventually, installed, program, service_object, site, skipped, slices, v4,
    v6,
};
use serde_json::Value;

/// Where the API server's node is.
const SERVER: [&str; 2] = ["10.1.0.12", "fd00:1::c"];

/// The file of a ConfigMap `edgemesh-agent-cfg` as users of Go EdgeMesh have it, with the paths of the laboratory.
const FILE: &str = "
apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
kind: EdgeMeshAgent
kubeAPIConfig:
  master: http://10.1.0.12:6443
commonConfig:
  stateDir: STATE
  adminSocket: ADMIN
modules:
  edgeProxy:
    enable: true
  edgeTunnel:
    enable: true
    #relayNodes:
    psk:
      path: PSK
";

/// What Go EdgeMesh prints for `--defaultconfig` where it takes itself to be at the edge.
const GO_DEFAULT: &str = include_str!("../../../../model/config/tests/fixtures/go-agent-default.yaml");

const PORTS: [(&str, &str, u16, u16); 3] =
    [("http", "TCP", 80, 8080), ("echo", "TCP", 81, 8081), ("udp-echo", "UDP", 85, 8085)];

fn lab(test: &str) -> Lab {
    let lab = Lab::up(test, &site(TWO_NODES), &[]);
    for server in ["s1", "s2"] {
        lab.until_listening(server, &[8080, 8081, 8085]);
    }
    lab
}

/// A Service and its EndpointSlices.
fn service(lab: &Lab, name: &str, number: u8, pods: &[&str]) -> Vec<Value> {
    let service = service_object(name, number, &PORTS);
    let places: Vec<_> = pods.iter().map(|pod| lab.place(pod)).collect();
    let slices = slices(&service, &places.iter().collect::<Vec<_>>());
    [service].into_iter().chain(slices).collect()
}

/// `near` is number 11 on node `n1`, `far` number 12 on `n2`.
fn objects(lab: &Lab) -> Vec<Value> {
    [lab.node_objects(), service(lab, "near", 11, &["s1"]), service(lab, "far", 12, &["s2"])].concat()
}

/// Name, both addresses and backend work for a pod.
fn assert_serves(lab: &Lab, name: &str, number: u8) {
    let http = lab.workload("c1", &["http", &format!("{name}:80")]);
    assert!(http["pods"].as_object().is_some_and(|pods| pods.len() == 1), "{http}");
    for frontend in [v4(number, 80), v6(number, 80)] {
        assert_eq!(lab.outcome("c1", &["tcp", &frontend]), "connected", "{name} at {frontend}");
    }
}

/// The IPv4 addresses that DNS has for a Service.
fn addresses(lab: &Lab, name: &str) -> Value {
    let workload = program("edgemesh-workload").display().to_string();
    // The program fails where there are none, and says so in JSON all the same.
    let output = lab.output("c1", &[&workload, "dns", &format!("{name}.default.svc.cluster.local")]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    answer["addresses"].clone()
}

/// Waits until a Service can be reached by its name.
fn until_served(lab: &Lab, name: &str) {
    let workload = program("edgemesh-workload").display().to_string();
    eventually(name, || {
        lab.output("c1", &[&workload, "http", &format!("{name}:80")]).status.success().then_some(())
    });
}

/// The strings of the TXT record about the metadata.
fn txt(lab: &Lab) -> Option<String> {
    if !installed("dig") {
        skipped("the TXT record", "dig");
        return None;
    }
    Some(lab.exec("c1", &["dig", "+short", "+tries=1", "+time=5", "TXT", "edgemesh-metadata.cluster.local"]))
}

fn is_away(status: &Value) -> bool {
    alarms(status).contains("API server is away")
}

fn is_live(status: &Value) -> bool {
    status["metadata"]["stale"] == false && !is_away(status)
}

fn until_saved(agent: &Agent) {
    agent.until("the journal", |status| {
        status["metadata"]["journal"].as_str().is_some_and(|journal| journal.starts_with("saved"))
    });
}
