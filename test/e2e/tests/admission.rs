//! Who may enter the mesh, and what a member may reach.

use edgemesh_e2e::{FAR, Lab, NEAR, eventually, program, run, v4};

const OTHERS: &str = "
lans:
  - name: home
    nodes:
      - name: n1
        pods:
          - { name: c1 }
          - name: s1
            labels: { app: near }
            run: &server [edgemesh-workload, serve, --http=8080, --echo=8081, --https=8443, --udp-echo=8085]
      - name: n2
        pods4: 172.18.0.0/24
        pods6: fd00:18::/64
        pods: [{ name: s2, labels: { app: far }, run: *server }]
      - { name: n3 }
";

fn lab(test: &str) -> Lab {
    let lab = Lab::up(test, OTHERS, &[("services.yaml", &edgemesh_e2e::services())]);
    lab.until_listening("s1", &[8080, 8085]);
    lab.until_listening("s2", &[8080]);
    lab
}

/// A node with another key is no member: it reaches nothing, is counted, and told once.
#[test]
fn a_peer_without_the_key_stays_outside() {
    let lab = lab("psk");
    let other = lab.folder().join("other-psk");
    run(std::process::Command::new(program("edgemesh")).arg("psk").arg(&other));
    let other = other.display().to_string();
    let member = lab.agent("n1", &["--no-mdns"]);
    let count = || member.status()["tunnel"]["refused"]["psk_mismatch"].as_u64().expect("a count");
    assert_eq!(count(), 0);
    let stranger = ["--psk-file", &other, "--no-mdns", "--relay", "10.1.0.11:20006"];
    let agent = lab.agent("n3", &stranger);
    agent.until("the reason", |status| {
        status["tunnel"]["relays"][0]["reason"].as_str().is_some_and(|reason| reason.contains("psk"))
    });
    assert_eq!(agent.status()["tunnel"]["peers"], serde_json::json!([]));
    drop(agent);
    // What was encrypted with another key is noise, and only sometimes looks like a message that goes on; this never
    // does, so that nobody waits for the rest.
    for _ in 0..5 {
        lab.probe("n3", &["noise", "10.1.0.11:20006"]);
    }
    eventually("refused handshakes", || (count() >= 6).then_some(()));
    assert_eq!(member.status()["tunnel"]["peers"], serde_json::json!([]));
    assert_eq!(member.logged(&["WARN", "psk_mismatch_suspected"]), 1, "told once");
}

/// A member gets ready endpoints of the node it asks, over the tunnel, and nothing else.
#[test]
fn a_peer_gets_ready_endpoints_of_the_node_and_nothing_else() {
    const TIMES: usize = 5;
    let lab = lab("admit");
    let agent = lab.agent("n1", &[]);
    let [v4_pod, v6_pod] = ["172.17.0.3", "fd00:17::3"];
    let refused = [
        "127.0.0.1:22".to_owned(),
        "[::1]:22".into(),
        "169.254.169.254:80".into(),
        "10.1.0.11:22".into(),
        // The agent's own listeners.
        "127.0.0.1:9999".into(),
        "127.0.0.1:15001".into(),
        "udp:169.254.96.16:53".into(),
        // A virtual address, an endpoint of another node, and what is no endpoint of a pod that has some.
        v4(NEAR, 80),
        v4(FAR, 80),
        "172.18.0.2:8080".into(),
        "[fd00:18::2]:8080".into(),
        format!("{v4_pod}:22"),
        format!("{v4_pod}:8085"),
        format!("udp:{v4_pod}:8080"),
        // The same pod's port behind an address that only looks like another one.
        format!("[::ffff:{v4_pod}]:22"),
    ];
    let admitted = [
        format!("{v4_pod}:8080"),
        format!("[{v6_pod}]:8080"),
        format!("udp:{v4_pod}:8085"),
        format!("{v4_pod}:8081"),
    ];
    let state = lab.state("n3");
    std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
    let (psk, state, times) =
        (lab.psk().display().to_string(), state.display().to_string(), TIMES.to_string());
    let mut words = vec!["rogue", "n1", &psk, &state, &times];
    words.extend(refused.iter().chain(&admitted).map(String::as_str));
    let answers = lab.probe("n3", &words);
    for backend in &refused {
        assert_eq!(answers[backend], serde_json::json!(["not_admitted"]), "{backend}");
        let plain = backend.trim_start_matches("udp:");
        let lines = agent.logged(&["WARN", "refused a peer", &format!("backend={plain} ")]);
        // Two lines where the same address was asked for over both protocols, each of them once.
        assert!(lines == 1, "{backend} is told {lines} times");
    }
    for backend in &admitted {
        assert_eq!(answers[backend], serde_json::json!(["connected"]), "{backend}");
    }
    let count = agent.metric("edgemesh_inbound_refused_total ");
    assert_eq!(count, (refused.len() * TIMES) as f64);
}

/// A pod that is not ready is no endpoint; one that becomes ready is.
#[test]
fn readiness_decides_at_the_time_of_asking() {
    let lab = lab("ready");
    let agent = lab.agent("n1", &[]);
    let file = lab.manifests().join("edgemesh-lab.json");
    let text = std::fs::read_to_string(&file).expect("the Pods");
    let state = lab.state("n3");
    std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
    let (psk, state) = (lab.psk().display().to_string(), state.display().to_string());
    let ask =
        || lab.probe("n3", &["rogue", "n1", &psk, &state, "1", "172.17.0.3:8080"])["172.17.0.3:8080"].clone();
    let replace = |text: &str| {
        let new = file.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("an atomic change");
    };
    assert_eq!(ask(), serde_json::json!(["connected"]));
    replace(&text.replace("\"True\"", "\"False\""));
    agent.until("no backend here", |status| status["metadata"]["backends_here"] == 0);
    assert_eq!(ask(), serde_json::json!(["not_admitted"]));
    replace(&text);
    agent.until("backends here", |status| status["metadata"]["backends_here"] != 0);
    assert_eq!(ask(), serde_json::json!(["connected"]));
}

/// A TunnelPolicy closes a Service to all nodes but those it names, as soon as it is there.
#[test]
fn a_tunnel_policy_says_which_nodes_reach_a_service() {
    let lab = lab("policy");
    let agent = lab.agent("n1", &[]);
    let state = lab.state("n3");
    std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
    let (psk, state) = (lab.psk().display().to_string(), state.display().to_string());
    let ask =
        || lab.probe("n3", &["rogue", "n1", &psk, &state, "1", "172.17.0.3:8080"])["172.17.0.3:8080"].clone();
    let policy = |allow: &str| {
        let text = format!(
            "apiVersion: edgemesh.kubeedge.io/v1alpha1\nkind: TunnelPolicy\nmetadata: {{name: near}}\n\
             spec: {{allow: {allow}}}\n"
        );
        let before = agent.status()["metadata"]["generation"].clone();
        let file = lab.manifests().join("policy.yaml");
        let new = file.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("an atomic change");
        agent.until("the policy is taken over", |status| status["metadata"]["generation"] != before);
    };
    assert_eq!(ask(), serde_json::json!(["connected"]));
    policy("[{nodes: [n2]}]");
    assert_eq!(ask(), serde_json::json!(["not_admitted"]));
    assert_eq!(agent.logged(&["WARN", "refused a peer", "reason=not_allowed"]), 1);
    policy("[{nodes: [n2]}, {nodes: [rogue]}]");
    assert_eq!(ask(), serde_json::json!(["connected"]));
    // Whoever tells no namespace is in none.
    policy("[{nodes: [rogue], namespaces: [default]}]");
    assert_eq!(ask(), serde_json::json!(["not_admitted"]));
}

/// With an authority's public key a node asks for proofs; tokens are made and taken by the commands of the handbook.
#[test]
fn a_node_joins_by_a_token() {
    let lab = lab("token");
    let folder = lab.folder().to_owned();
    let edgemesh = |words: &[&str]| {
        let output = std::process::Command::new(program("edgemesh")).args(words).output().expect("it runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let path = |name: &str| folder.join(name).display().to_string();
    let (key, public) = (path("authority.key"), path("authority.pub"));
    let line = edgemesh(&["token", "authority", &key]);
    std::fs::write(&public, line).expect("the laboratory's folder is ours");
    let token = |node: &str| edgemesh(&["token", "create", "--authority", &key, "--node", node]);
    let state = |node: &str| {
        let state = lab.state(node);
        std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
        state.display().to_string()
    };
    let (first, second) = (state("n1"), state("n2"));
    edgemesh(&["join", &token("n1"), "--state-dir", &first]);
    let flags = ["--authority-file", &public, "--no-mdns", "--relay", "10.1.0.11:20006"];
    let n1 = lab.agent("n1", &flags[..3]);
    let n2 = lab.agent("n2", &flags);
    let refused = n1.until("the claim is refused", |status| !status["tunnel"]["conflicts"][0].is_null());
    assert_eq!(refused["tunnel"]["conflicts"][0]["reason"], "unproven");
    assert_eq!(refused["tunnel"]["identity"], "require");
    // A running agent takes the token.
    edgemesh(&["join", &token("n2"), "--state-dir", &second]);
    n1.until("it is believed", |status| status["tunnel"]["peers"][0]["node"] == "n2");
    n2.until("both are", |status| status["tunnel"]["peers"][0]["node"] == "n1");
    assert_eq!(n1.status()["tunnel"]["conflicts"], serde_json::json!([]));
}
