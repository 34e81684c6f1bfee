//! How the agent starts: without a network, without a source, with mistakes.

use std::process::Command;

use edgemesh_e2e::{
    Lab, NEAR, ODD_NEAR, TWO_NODES, eventually, findings, output, program, service, services, site, v4, v6,
};

/// Name, address and backend work, for a pod and for a process of the node.
fn assert_serves(lab: &Lab) {
    let dns = lab.workload("c1", &["dns", "near.default.svc.cluster.local"]);
    assert!(dns.to_string().contains("10.96.0.11"), "{dns}");
    let http = lab.workload("c1", &["http", "near:80"]);
    assert_eq!(http["pods"]["s1"], 1, "{http}");
    for frontend in [v4(NEAR, 80), v6(NEAR, 80)] {
        assert_eq!(lab.outcome("n1", &["tcp", &frontend]), "connected", "{frontend}");
    }
}

#[test]
fn without_relay_route_or_name_server() {
    let lab = Lab::two_nodes("offline");
    let script = "ip route del default; ip -6 route del default; ip link set eth0 down; ip route; cat /etc/resolv.conf";
    let left = lab.exec("n1", &["sh", "-c", script]);
    assert!(!left.contains("default") && !left.lines().any(|line| line.starts_with("nameserver")), "{left}");
    let agent = lab.agent("n1", &["--relay", "203.0.113.99:20006"]);
    assert_serves(&lab);
    let status =
        agent.until("the relay's reason", |status| status["tunnel"]["relays"][0]["reason"] == "unreachable");
    assert!(status["alarms"].to_string().contains("203.0.113.99"), "{:#}", status["alarms"]);
    // The network comes up while the agent runs.
    let script = "ip link set eth0 up; ip route add default via 10.1.0.1; ip -6 addr replace fd00:1::b/64 dev eth0 nodad";
    lab.exec("n1", &["sh", "-c", script]);
    let _other = lab.agent("n2", &[]);
    agent.until_path("n2");
}

#[test]
fn from_the_journal_when_the_manifests_are_gone() {
    let lab = Lab::two_nodes("journal");
    let manifests = lab.copy_of_manifests("spoilt");
    let path = manifests.display().to_string();
    let mut agent = lab.agent("n1", &["--manifests", &path]);
    assert_serves(&lab);
    agent.until("the journal", |status| {
        status["metadata"]["journal"].as_str().is_some_and(|journal| journal.starts_with("saved"))
    });
    std::fs::remove_dir_all(&manifests).expect("the copy is ours");
    agent.until("a finding", |status| findings(status).iter().any(|finding| finding.contains(&path)));
    assert_serves(&lab);
    agent.kill();
    let agent = lab.spawn_agent("n1", &["--manifests", &path]);
    let status = agent.until_applied();
    assert_eq!(status["metadata"]["stale"], true, "{:#}", status["metadata"]);
    assert!(status["alarms"].to_string().contains("journal"), "{:#}", status["alarms"]);
    assert_serves(&lab);
    // The folder comes back with something new.
    let new = lab.copy_of_manifests("new");
    std::fs::write(new.join("new.yaml"), service("late", 77, &[("TCP", 80, 8080)])).expect("a manifest");
    std::fs::rename(&new, &manifests).expect("a new folder");
    agent.until("the folder", |status| {
        status["metadata"]["stale"] == false && status["metadata"]["services"] == 6
    });
    assert_serves(&lab);
}

#[test]
fn half_written_manifests_take_nothing_away() {
    let lab = Lab::two_nodes("half");
    let manifests = lab.copy_of_manifests("spoilt");
    let path = manifests.display().to_string();
    let file = manifests.join("services.yaml");
    let whole = std::fs::read_to_string(&file).expect("the Services");
    let agent = lab.agent("n1", &["--manifests", &path]);
    // In the middle of the second Service's ports, where the text is no YAML.
    let middle = whole.find("name: far").expect("the second Service");
    let cut = middle + whole[middle..].find("targetPort:").expect("its ports");
    for text in [&whole[..cut], "", "\u{0}\u{1}"] {
        std::fs::write(&file, text).expect("a manifest");
        agent.until("a finding", |status| {
            findings(status).iter().any(|finding| finding.contains("services.yaml"))
        });
        assert_serves(&lab);
        std::fs::write(&file, &whole).expect("a manifest");
        agent.until("no finding", |status| {
            !findings(status).iter().any(|finding| finding.contains("services.yaml"))
        });
        assert_eq!(agent.status()["metadata"]["services"], 5);
    }
    // A start with a broken file serves what the journal knows.
    drop(agent);
    std::fs::write(&file, &whole[..cut]).expect("a manifest");
    let agent = lab.spawn_agent("n1", &["--manifests", &path]);
    agent.until_applied();
    assert_serves(&lab);
    agent.until("a finding", |status| {
        findings(status).iter().any(|finding| finding.contains("services.yaml"))
    });
}

#[test]
fn what_is_not_understood_is_told_with_file_and_line() {
    const STRANGE: &str = "# a comment
apiVersion: kafka.strimzi.io/v1beta2
kind: Kafka
metadata: { name: broker }
spec: { replicas: 3 }
---
apiVersion: v1
kind: Service
metadata: { name: crooked }
spec:
  clusterIP: 10.96.0.999
  ports: [{ port: 80 }]
---
- just
- a list
";
    let manifests = services();
    let lab =
        Lab::up("strange", &site(TWO_NODES), &[("services.yaml", &manifests), ("strange.yaml", STRANGE)]);
    lab.until_listening("s1", &[8080]);
    let agent = lab.agent("n1", &[]);
    let found = findings(&agent.status());
    let told = |place: &str, word: &str| found.iter().any(|line| line.contains(place) && line.contains(word));
    assert!(told("strange.yaml:2", "Kafka"), "{found:#?}");
    assert!(told("default/crooked", "10.96.0.999"), "{found:#?}");
    assert!(told("strange.yaml:14", ""), "{found:#?}");
    assert_serves(&lab);
    let ask = |words: &[&str]| {
        let mut command = Command::new(program("edgemesh"));
        let output = output(command.args(words).arg("--admin-socket").arg(lab.admin("n1")));
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask(&["status"]).contains("strange.yaml:2"), "people see it too");
    let why = ask(&["explain", "near:80"]);
    assert!(why.contains("10.96.0.11") && why.contains("172.17.0.3:8080"), "{why}");
    assert!(ask(&["explain", "nobody:80"]).contains("no_endpoints"));
    assert!(ask(&["rules"]).contains("table inet edgemesh"));
}

/// A mistake on the command line: what the message must name.
fn check_mistake(words: &[&str], expected: &[&str]) {
    let output = output(Command::new(program("edgemesh")).args(words).env_remove("NODE_NAME"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
    for part in expected {
        assert!(said.contains(part), "{words:?}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn mistakes_on_the_command_line_are_named() {
    let agent = |words: &[&str], expected: &[&str]| {
        check_mistake(&[&["agent", "--node-name", "n", "--manifests", "/m"], words].concat(), expected);
    };
    agent(&["--speed", "9"], &["--speed", "--help"]);
    agent(&["--proxy-port", "many"], &["--proxy-port", "many"]);
    agent(&["--proxy-port", "70000"], &["--proxy-port"]);
    agent(&["--dns-listen", "localhost"], &["--dns-listen", "localhost"]);
    agent(&["--role", "king"], &["--role", "king"]);
    agent(&["--udp-idle", "-1"], &["--udp-idle"]);
    agent(&["--metrics-listen", "9999"], &["--metrics-listen", "9999"]);
    agent(&["--access-log", "some"], &["--access-log", "some"]);
    agent(&["--relay"], &["--relay"]);
    agent(&["stray"], &["stray"]);
    check_mistake(&["agent", "--manifests", "/m"], &["--node-name"]);
    check_mistake(&["agent", "--node-name", "n"], &["--manifests"]);
    check_mistake(&["agnet"], &["agnet", "help"]);
    check_mistake(
        &["status", "--admin-socket", "/nowhere/agent.sock"],
        &["/nowhere/agent.sock", "--admin-socket"],
    );
}

#[test]
fn mistakes_in_files_and_addresses_are_named() {
    let lab = Lab::two_nodes("mistakes");
    let missing = lab.folder().join("no-psk").display().to_string();
    let refused = |flags: &[&str], expected: &[&str]| {
        let (code, said) = lab.failing_agent("n1", flags);
        assert_eq!(code, 1, "{flags:?}: {said}");
        for part in expected {
            assert!(said.contains(part), "{flags:?} without {part:?}: {said}");
        }
    };
    refused(&["--psk-file", &missing], &[&missing, "missing", "make"]);
    refused(&["--relay", "::::"], &["--relay", "::::"]);
    refused(&["--state-dir", "/proc/nowhere"], &["--state-dir", "/proc/nowhere"]);
    {
        let _taken = lab.background("n1", &["hold", "0.0.0.0:53"]);
        refused(&[], &["169.254.96.16:53", "in use"]);
    }
    {
        let _taken = lab.background("n1", &["hold", "127.0.0.1:15001"]);
        refused(&[], &["127.0.0.1:15001", "in use"]);
    }
    {
        let _taken = lab.background("n1", &["hold", "0.0.0.0:20006"]);
        refused(&[], &["20006", "in use"]);
    }
    {
        let _taken = lab.background("n1", &["hold", "127.0.0.1:9999"]);
        refused(&[], &["127.0.0.1:9999", "in use", "--metrics-listen"]);
    }
    lab.agent("n1", &[]);
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let lab = Lab::two_nodes("second");
    let first = lab.agent("n1", &[]);
    let (code, said) = lab.failing_agent("n1", &[]);
    assert_eq!(code, 1, "{said}");
    let socket = lab.admin("n1").display().to_string();
    assert!(said.contains(&socket) && said.contains("another agent"), "{said}");
    assert_serves(&lab);
    first.until_ready();
}

/// An agent that was killed is back before a client that tries again gives up; idle time in between changes nothing.
#[test]
fn after_a_crash_the_next_start_serves() {
    let lab = Lab::two_nodes("crash");
    let mut agent = lab.agent("n1", &[]);
    for _ in 0..3 {
        agent.kill();
        agent = lab.spawn_agent("n1", &[]);
        eventually("a connection", || {
            (lab.probe("c1", &["half-close", &v4(ODD_NEAR, 91), "9"])["answer"] == "9").then_some(())
        });
    }
}

/// A node that only relays has nothing in its kernel, and others find it by its address.
#[test]
fn a_relay_leaves_its_kernel_alone() {
    let lab = Lab::two_nodes("relay");
    let kernel = || {
        let script =
            "ip route show table all; ip -6 route show table all; ip -oneline address; cat /proc/net/udp";
        lab.exec("n1", &["sh", "-c", script])
    };
    let before = kernel();
    let relay = lab.spawn_agent("n1", &["--role", "relay", "--no-mdns"]);
    let status = relay.until("a status", |status| status["node"] == "n1");
    assert_eq!(status["metadata"]["source"], "none", "{status:#}");
    let node = lab.agent("n2", &["--no-mdns", "--relay", "10.1.0.11:20006"]);
    let status = node.until("the relay", |status| {
        let relays = status["tunnel"]["relays"].as_array();
        relays.is_some_and(|relays| relays.len() == 1 && relays[0]["reason"].is_null())
    });
    assert!(!status["alarms"].to_string().contains("relay"), "{:#}", status["alarms"]);
    relay.until("the node", |status| status["tunnel"]["peers"][0]["node"] == "n2");
    assert_eq!(kernel(), before);
    assert_eq!(relay.page("/healthz"), "ok\n");
}
