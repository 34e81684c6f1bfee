//! One test for each pain of users that the mesh must not cause: `em_N` is kubeedge/edgemesh issue N, `ke_N` is
//! kubeedge/kubeedge issue N, `go_cN` and `go_pN` are faults of Go EdgeMesh's code.

use std::path::Path;

use edgemesh_e2e::{
    FAR, Lab, NEAR, NOBODY, ODD_FAR, ODD_NEAR, TWO_NODES, eventually, findings, installed, service, services,
    site, skipped, v4, v6,
};

/// kubeedge/edgemesh#567: after some hundred UDP sessions no stream could be opened any more.
#[test]
fn em_567_udp_goes_on_after_hundreds_of_sessions() {
    let lab = Lab::two_nodes("em-567");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    for frontend in [v4(FAR, 85), v6(FAR, 85)] {
        lab.probe("c1", &["udp-storm", &frontend, "900"]);
        assert_eq!(lab.outcome("c1", &["udp", &frontend]), "answered", "{frontend}");
    }
    let status = near.status();
    assert_eq!(status["connections"]["unserved"], 0, "{}", near.page("/metrics"));
}

/// Past the bound of streams between two nodes the sessions that were idle longest make room.
#[test]
fn em_567_udp_goes_on_past_the_bound_of_streams() {
    let lab = Lab::two_nodes("em-567-bound");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    lab.probe("c1", &["udp-storm", &v4(FAR, 85), "2400"]);
    assert!(near.metric("edgemesh_sessions_evicted_total ") > 0.0);
    assert_eq!(lab.outcome("c1", &["udp", &v6(FAR, 85)]), "answered");
}

/// kubeedge/edgemesh#463 and #472: load balancing policies of other meshes ended the agent.
#[test]
fn em_463_foreign_destination_rules_are_told_and_passed_over() {
    const FOREIGN: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: { name: near }
spec:
  host: near
  trafficPolicy: { loadBalancer: { simple: PASSTHROUGH } }
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: { name: ml-pipeline, namespace: kubeflow }
spec:
  host: ml-pipeline.kubeflow.svc.cluster.local
  trafficPolicy: { tls: { mode: ISTIO_MUTUAL }, loadBalancer: { warmup: { duration: 30s } } }
";
    let manifests = services();
    let lab = Lab::up("em-463", &site(TWO_NODES), &[("services.yaml", &manifests), ("istio.yaml", FOREIGN)]);
    lab.until_listening("s1", &[8080]);
    let mut agent = lab.agent("n1", &[]);
    assert_eq!(lab.outcome("c1", &["tcp", &v4(NEAR, 80)]), "connected");
    let status = agent.status();
    let told = |name: &str, word: &str| {
        findings(&status).iter().any(|line| line.contains(name) && line.contains(word))
    };
    assert!(told("near", "PASSTHROUGH"), "{:#}", status["metadata"]);
    // Changing and deleting them is where the policy map of Go EdgeMesh was empty.
    let file = lab.manifests().join("istio.yaml");
    std::fs::write(&file, FOREIGN.replace("PASSTHROUGH", "LEAST_CONN")).expect("a manifest");
    agent
        .until("another finding", |status| !findings(status).iter().any(|line| line.contains("PASSTHROUGH")));
    std::fs::remove_file(&file).expect("a manifest");
    agent.until("no finding", |status| !findings(status).iter().any(|line| line.contains("near")));
    assert_eq!(lab.outcome("c1", &["tcp", &v4(NEAR, 80)]), "connected");
    assert!(agent.terminate().success());
}

/// kubeedge/edgemesh#443: two nodes of one name had one identity, and nothing said so.
#[test]
fn em_443_two_nodes_with_one_name_are_named() {
    let text = site(TWO_NODES) + "      - { name: n3 }\n";
    let lab = Lab::up("em-443", &text, &[("services.yaml", &services())]);
    lab.until_listening("s2", &[8080]);
    let watcher = lab.agent("n1", &[]);
    let _first = lab.agent("n2", &[]);
    watcher.until_path("n2");
    let second = lab.spawn_agent("n3", &["--node-name", "n2"]);
    let status = watcher.until("a conflict", |status| {
        status["tunnel"]["conflicts"].as_array().is_some_and(|conflicts| !conflicts.is_empty())
    });
    assert_eq!(status["tunnel"]["conflicts"][0]["node"], "n2");
    let alarms = status["alarms"].to_string();
    let refused = second.status()["tunnel"]["peer_id"].as_str().expect("an identity").to_owned();
    assert!(alarms.contains("two peers claim one name") && alarms.contains(&refused), "{alarms}");
    assert_eq!(lab.outcome("c1", &["tcp", &v4(FAR, 80)]), "connected", "the first one goes on");
}

/// kubeedge/edgemesh#241, #93, #31: kinds that are not installed gave errors without end.
#[test]
fn em_241_missing_kinds_are_no_trouble() {
    let only = service("near", NEAR, &[("TCP", 80, 8080)]);
    let lab = Lab::up("em-241", &site(TWO_NODES), &[("services.yaml", &only)]);
    lab.until_listening("s1", &[8080]);
    let agent = lab.agent("n1", &[]);
    assert_eq!(lab.outcome("c1", &["tcp", &v4(NEAR, 80)]), "connected");
    assert_eq!(findings(&agent.status()), Vec::<&str>::new());
    // A node without a name server is worth one line, and the only one.
    let warnings: Vec<String> =
        agent.log().lines().filter(|line| line.contains(" WARN ")).map(Into::into).collect();
    assert!(warnings.len() <= 1 && warnings.iter().all(|line| line.contains("upstream")), "{warnings:#?}");
}

/// kubeedge/kubeedge#2845: a Service without endpoints was answered by another one, or by nobody.
#[test]
fn ke_2845_a_service_without_endpoints_refuses_at_once() {
    let lab = Lab::two_nodes("ke-2845");
    let _agent = lab.agent("n1", &[]);
    for host in ["c1", "n1"] {
        for (tcp, udp) in [(v4(NOBODY, 80), v4(NOBODY, 85)), (v6(NOBODY, 80), v6(NOBODY, 85))] {
            assert_eq!(lab.outcome(host, &["tcp", &tcp]), "refused", "{tcp} from {host}");
            assert_eq!(lab.outcome(host, &["udp", &udp]), "refused", "{udp} from {host}");
        }
        // A port that the Service has not.
        for (tcp, udp) in [(v4(NEAR, 7), v4(NEAR, 7)), (v6(NEAR, 7), v6(NEAR, 7))] {
            assert_eq!(lab.outcome(host, &["tcp", &tcp]), "refused", "{tcp} from {host}");
            assert_eq!(lab.outcome(host, &["udp", &udp]), "refused", "{udp} from {host}");
        }
    }
    if !installed("curl") {
        return skipped("ke_2845", "curl");
    }
    let curl = ["curl", "--silent", "--show-error", "--max-time", "10", "http://nobody/"];
    let output = lab.output("c1", &curl);
    let said = String::from_utf8_lossy(&output.stderr);
    // 7 is CURLE_COULDNT_CONNECT; a timeout would be 28.
    assert_eq!(output.status.code(), Some(7), "{said}");
}

/// The pod of a Service ends, and a new one comes: from served to refused and back.
#[test]
fn ke_2845_endpoints_that_go_and_come() {
    let lab = Lab::two_nodes("ke-2845-again");
    let agent = lab.agent("n1", &[]);
    let file = lab.manifests().join("edgemesh-lab.json");
    let text = std::fs::read_to_string(&file).expect("the Pods");
    let frontend = v4(NEAR, 80);
    let replace = |text: &str| {
        let new = Path::new(&file).with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("an atomic change");
    };
    assert_eq!(lab.outcome("c1", &["tcp", &frontend]), "connected");
    replace(&text.replace("\"True\"", "\"False\""));
    eventually("a refusal", || (lab.outcome("c1", &["tcp", &frontend]) == "refused").then_some(()));
    replace(&text);
    eventually("a connection", || (lab.outcome("c1", &["tcp", &frontend]) == "connected").then_some(()));
    agent.until_ready();
}

/// kubeedge/edgemesh#286, #426, #173: rules of kube-proxy came first, or ours came in its way.
#[test]
fn em_286_rules_of_kube_proxy_do_not_matter() {
    // As kube-proxy's: the virtual address is translated to an endpoint that this node cannot reach.
    const KUBE_PROXY: &str = "
table inet kube-proxy {
	map services4 { type ipv4_addr . inet_service : ipv4_addr; elements = { 10.96.0.11 . 80 : 192.0.2.1 } }
	map services6 { type ipv6_addr . inet_service : ipv6_addr; elements = { fd96::11 . 80 : 2001:db8::dead } }
	chain nat { dnat ip to ip daddr . tcp dport map @services4; dnat ip6 to ip6 daddr . tcp dport map @services6; }
	chain prerouting { type nat hook prerouting priority -100; jump nat; }
	chain output { type nat hook output priority -100; jump nat; }
	chain refuse { type filter hook output priority filter; ip daddr 192.0.2.1 reject; ip6 daddr 2001:db8::dead reject; }
	chain forward { type filter hook forward priority filter; ip daddr 192.0.2.1 reject; ip6 daddr 2001:db8::dead reject; }
}
";
    if !installed("nft") {
        return skipped("em_286", "nft");
    }
    let lab = Lab::two_nodes("em-286");
    lab.exec("n1", &["nft", KUBE_PROXY]);
    for host in ["c1", "n1"] {
        assert_ne!(
            lab.outcome(host, &["tcp", &v4(NEAR, 80)]),
            "connected",
            "the rules work without an agent"
        );
    }
    // Before and after the agent's, as either may come first.
    let agent = lab.agent("n1", &[]);
    let check = |when: &str| {
        for (host, frontend) in
            ["c1", "n1"].into_iter().flat_map(|host| [(host, v4(NEAR, 80)), (host, v6(NEAR, 80))])
        {
            assert_eq!(lab.outcome(host, &["tcp", &frontend]), "connected", "{frontend} from {host}, {when}");
        }
    };
    check("installed before");
    lab.exec("n1", &["nft", &format!("delete table inet kube-proxy; {KUBE_PROXY}")]);
    check("installed after");
    drop(agent);
}

/// kubeedge/kubeedge#3763, #3942: a node gets another address; Go EdgeMesh listens at those of its start.
#[test]
fn ke_3763_a_node_gets_another_address() {
    let lab = Lab::two_nodes("ke-3763");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    assert_eq!(lab.outcome("c1", &["tcp", &v4(FAR, 80)]), "connected");
    let script = "ip addr flush dev eth0 && ip addr add 10.1.0.22/24 dev eth0 && ip addr add fd00:1::22/64 dev eth0 nodad";
    lab.exec("n2", &["sh", "-c", script]);
    near.until("the new address", |status| {
        let peers = status["tunnel"]["peers"].as_array();
        peers.into_iter().flatten().any(|peer| {
            let address = peer["address"].as_str().unwrap_or_default();
            peer["node"] == "n2" && (address.contains("10.1.0.22") || address.contains("fd00:1::22"))
        })
    });
    assert_eq!(lab.outcome("c1", &["tcp", &v4(FAR, 80)]), "connected");
}

/// Go EdgeMesh closes both directions when one ends.
#[test]
fn go_c13_half_close_is_kept() {
    let lab = Lab::two_nodes("go-c13");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    for frontend in [v4(ODD_NEAR, 91), v6(ODD_NEAR, 91), v4(ODD_FAR, 91), v6(ODD_FAR, 91)] {
        for bytes in ["0", "1", "1000000"] {
            let answer = lab.probe("c1", &["half-close", &frontend, bytes]);
            assert_eq!(answer["answer"], bytes, "{frontend}");
        }
    }
}

/// Go EdgeMesh loses every UDP reply that takes more than 250 ms; these take a second.
#[test]
fn go_c14_slow_udp_replies_arrive() {
    let lab = Lab::two_nodes("go-c14");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    for frontend in [v4(ODD_NEAR, 92), v6(ODD_NEAR, 92), v4(ODD_FAR, 92), v6(ODD_FAR, 92)] {
        let answer = lab.probe("c1", &["udp", &frontend]);
        assert_eq!(answer["outcome"], "answered", "{frontend}");
        assert!(answer["ms"].as_u64() >= Some(1000), "the server is slow: {answer}");
    }
}

/// Go EdgeMesh waits up to a minute for all relays before DNS and proxy start.
#[test]
fn go_p9_a_dead_relay_delays_nothing() {
    let lab = Lab::two_nodes("go-p9");
    // Nobody has the first address, nobody listens at the second, and no name server knows the third.
    let relays =
        ["--relay", "203.0.113.99:20006", "--relay", "10.1.0.12:20006", "--relay", "relay.invalid:20006"];
    let agent = lab.agent("n1", &relays);
    let status = agent.status();
    let waiting = status["tunnel"]["relays"].as_array().expect("relays").clone();
    assert_eq!(lab.outcome("c1", &["tcp", &v4(NEAR, 80)]), "connected");
    assert_eq!(waiting.len(), 3, "{waiting:#?}");
    assert_eq!(agent.logged(&["agent serves"]), 1);
    // The reasons come later, in words.
    agent.until("a reason for each relay", |status| {
        let relays = status["tunnel"]["relays"].as_array();
        relays.is_some_and(|relays| relays.iter().all(|relay| relay["reason"] == "unreachable"))
    });
}
