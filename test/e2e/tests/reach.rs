//! Who reaches what: the ways between pods, nodes and devices that are easily forgotten.

use edgemesh_e2e::{FAR, Lab, NEAR, TWO_NODES, eventually, services, site, v4, v6};

/// Endpoints that are no pods: a process of a node (as hostNetwork pods are), and a device that is no node.
const ELSEWHERE: &str = "
---
apiVersion: v1
kind: Service
metadata: { name: of-node }
spec: { clusterIP: 10.96.0.41, ports: [{ port: 80, targetPort: 7001 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: of-node-1, labels: { kubernetes.io/service-name: of-node } }
addressType: IPv4
ports: [{ name: '', port: 7001, protocol: TCP }]
endpoints:
  - { addresses: [10.1.0.12], nodeName: n2, conditions: { ready: true } }
---
apiVersion: v1
kind: Service
metadata: { name: of-device }
spec: { clusterIP: 10.96.0.42, ports: [{ port: 80, targetPort: 7002 }] }
---
apiVersion: v1
kind: Endpoints
metadata: { name: of-device }
subsets:
  - addresses: [{ ip: 10.1.0.13 }]
    ports: [{ port: 7002, protocol: TCP }]
";

const OF_NODE: u8 = 41;
const OF_DEVICE: u8 = 42;

#[test]
fn every_place_reaches_every_endpoint() {
    let text = site(TWO_NODES) + "      - { name: device }\n";
    let manifests = services() + ELSEWHERE;
    let lab = Lab::up("reach", &text, &[("services.yaml", &manifests)]);
    for server in ["s1", "s2"] {
        lab.until_listening(server, &[8080, 8085]);
    }
    let _of_node = lab.background("n2", &["hold", "10.1.0.12:7001"]);
    let _of_device = lab.background("device", &["hold", "10.1.0.13:7002"]);
    let agents = ["n1", "n2"].map(|node| lab.agent(node, &[]));
    agents[0].until_path("n2");
    agents[1].until_path("n1");
    // Pods and processes of both nodes; a server asks for itself too.
    for host in ["c1", "s1", "n1", "c2", "s2", "n2"] {
        for number in [NEAR, FAR] {
            for (tcp, udp) in [(v4(number, 80), v4(number, 85)), (v6(number, 80), v6(number, 85))] {
                assert_eq!(lab.outcome(host, &["tcp", &tcp]), "connected", "{tcp} from {host}");
                assert_eq!(lab.outcome(host, &["udp", &udp]), "answered", "{udp} from {host}");
            }
        }
        for number in [OF_NODE, OF_DEVICE] {
            let frontend = v4(number, 80);
            assert_eq!(lab.outcome(host, &["tcp", &frontend]), "connected", "{frontend} from {host}");
        }
    }
    let unserved = agents.map(|agent| agent.status()["connections"]["unserved"].clone());
    assert_eq!(unserved, [0, 0]);
}

#[test]
fn datagrams_of_every_size_pass() {
    let lab = Lab::two_nodes("sizes");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    for service in ["near", "far"] {
        for family in ["4", "6"] {
            // The least the client sends, around the path's 1500 bytes, Go EdgeMesh's 4096, and all that UDP holds.
            for size in ["4", "1400", "1472", "1473", "4096", "4097", "20000", "65507"] {
                let words =
                    ["udp", &format!("{service}:85"), "--size", size, "--count", "3", "--family", family];
                let answer = lab.workload("c1", &words);
                assert_eq!(answer["received"], 3, "{words:?}: {answer}");
                assert_eq!(answer["wrong"], 0, "{words:?}: {answer}");
            }
        }
    }
}

#[test]
fn a_node_without_ipv6_serves_over_ipv4() {
    let lab = Lab::two_nodes("four");
    let script = "for all in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $all; done";
    lab.exec("n1", &["sh", "-c", script]);
    let agent = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    agent.until_path("n2");
    for (host, number) in [("c1", NEAR), ("c1", FAR), ("n1", NEAR), ("n1", FAR)] {
        assert_eq!(lab.outcome(host, &["tcp", &v4(number, 80)]), "connected", "{number} from {host}");
        assert_eq!(lab.outcome(host, &["udp", &v4(number, 85)]), "answered", "{number} from {host}");
    }
    let answer = lab.workload("c1", &["dns", "near.default.svc.cluster.local"]);
    assert!(answer.to_string().contains("10.96.0.11"), "{answer}");
    assert_eq!(agent.status()["alarms"], serde_json::json!([]));
}

/// Somebody flushes the whole ruleset, as firewall reloads do; the agent notices without being told.
#[test]
fn flushed_rules_are_repaired() {
    let lab = Lab::two_nodes("flush");
    let agent = lab.agent("n1", &[]);
    if !edgemesh_e2e::installed("nft") {
        return edgemesh_e2e::skipped("flushed rules", "nft");
    }
    lab.exec("n1", &["nft", "flush", "ruleset"]);
    eventually("the repair", || (agent.logged(&["changed by somebody else"]) > 0).then_some(()));
    for frontend in [v4(NEAR, 80), v6(NEAR, 80)] {
        eventually("a connection", || (lab.outcome("c1", &["tcp", &frontend]) == "connected").then_some(()));
    }
}
