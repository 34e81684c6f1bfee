//! The laboratory on the real kernel: what it builds behaves as the site says, and nothing of it remains.

mod support;

use std::path::Path;
use std::process::Stdio;

use support::{TestLab, daemon_of, eventually, lab, processes_in, run};

/// Not a test of its own: what runs inside the laboratory.
#[test]
fn probe() {
    support::run_probe();
}

const ONE_LAN: &str = "
cloud:
  nodes: [{ name: c1 }]
lans:
  - name: home
    uplink: { delay: 10ms }
    nodes:
      - { name: n1, pods: [{ name: p1, run: [sleep, '1000'] }] }
      - { name: n2 }
";

fn pid_namespace(daemon: u32) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{daemon}/ns/pid")).expect("the daemon runs")
}

#[test]
fn comes_up_and_goes_without_a_rest() {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let before = mounts();
    let site = TestLab::up("updown", ONE_LAN);
    let status = site.status();
    assert_eq!(status["nodes"][1]["name"], "n1");
    assert_eq!(status["nodes"][1]["pods"][0]["process"], "running");
    let namespace = pid_namespace(site.daemon());
    assert!(processes_in(&namespace).len() >= 2, "the daemon and the pod");
    let folder = site.folder();

    let own = run(lab(&["exec", "--name", &site.name, "p1", "--", "cat", "/etc/resolv.conf"]));
    assert!(own.contains("nameserver 169.254.96.16"), "{own}");
    let code = lab(&["exec", "--name", &site.name, "n1", "--", "sh", "-c", "exit 7"]).status();
    assert_eq!(code.expect("exec").code(), Some(7));

    site.ask(&["down"]);
    assert_eq!(processes_in(&namespace), Vec::<String>::new());
    assert!(!folder.exists());
    assert_eq!(mounts(), before);
}

#[test]
fn what_runs_in_it_ends_with_it() {
    let site = TestLab::up("exec", ONE_LAN);
    let namespace = pid_namespace(site.daemon());
    // A process that left its shell and its session behind.
    let script = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo started";
    run(lab(&["exec", "--name", &site.name, "n1", "--", "sh", "-c", script]));
    site.ask(&["down"]);
    assert_eq!(processes_in(&namespace), Vec::<String>::new());
}

#[test]
fn nothing_outlives_a_killed_daemon() {
    for victim in ["daemon", "keeper"] {
        let site = TestLab::up(victim, ONE_LAN);
        let daemon = site.daemon();
        let namespace = pid_namespace(daemon);
        let pid = if victim == "daemon" { daemon } else { parent_of(daemon) };
        run({
            let mut kill = std::process::Command::new("sh");
            kill.args(["-c", &format!("kill -9 {pid}")]);
            kill
        });
        eventually("the end of every process", || processes_in(&namespace).is_empty());
        // The folder is what is left, and `down` removes it.
        let again = lab(&["status", "--name", &site.name]).output().expect("status");
        assert!(String::from_utf8_lossy(&again.stderr).contains("no laboratory"));
        site.ask(&["down"]);
    }
}

fn parent_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("PPid");
    line.trim().parse().expect("a number")
}

#[test]
fn nothing_outlives_a_killed_command() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let never = "tests: [{ from: n1, run: [sleep, '1000'], within: 1000s }]";
    std::fs::write(file.path(), format!("agents: false\n{ONE_LAN}{never}\n")).expect("site file");
    let path = file.path().display().to_string();
    let mut test = lab(&["test", &path]).stdout(Stdio::null()).spawn().expect("test");
    let children = format!("/proc/{0}/task/{0}/children", test.id());
    let mut keeper = 0;
    eventually("the keeper", || {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        keeper = text.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        keeper != 0 && Path::new(&format!("/proc/{keeper}/task/{keeper}/children")).exists()
    });
    let mut folder = Vec::new();
    eventually("the daemon", || {
        folder = std::fs::read(format!("/proc/{keeper}/cmdline")).unwrap_or_default();
        let path = folder.split(|byte| *byte == 0).nth(3).unwrap_or_default();
        let path = Path::new(std::ffi::OsStr::new(std::str::from_utf8(path).expect("a path")));
        path.join("control").exists()
    });
    let path = folder.split(|byte| *byte == 0).nth(3).expect("the folder");
    let path = Path::new(std::str::from_utf8(path).expect("a path")).to_owned();
    let namespace = pid_namespace(daemon_of(&path));
    test.kill().expect("SIGKILL");
    test.wait().expect("ends");
    eventually("the end of every process", || processes_in(&namespace).is_empty());
    std::fs::remove_dir_all(path).expect("the folder is left");
}

#[test]
fn links_delay_lose_and_are_cut() {
    let site = TestLab::up(
        "links",
        "
cloud:
  nodes: [{ name: c1 }]
lans:
  - name: far
    uplink: { delay: 30ms }
    nodes: [{ name: n1 }, { name: n2 }]
  - name: deaf
    uplink: { loss: 100% }
    nodes: [{ name: n3 }]
  - name: slow
    uplink: { rate: 5mbit }
    nodes: [{ name: n4 }]
",
    );
    let _far = site.serve("c1", "reflect 203.0.113.10");
    let _near = site.serve("n2", "reflect 10.1.0.12");
    let rtt = |host: &str, target: &str| site.ask_probe(host, &format!("rtt {target}"));
    let far = || rtt("n1", "203.0.113.10:7000");
    let near = || rtt("n1", "10.1.0.12:7000");

    assert!(far().parse::<u64>().expect("an answer") >= 60_000, "two ways of 30 ms");
    assert_eq!(rtt("n3", "203.0.113.10:7000"), "nothing", "all is lost");
    let burst = site.ask_probe("n4", "burst 203.0.113.10:7000");
    let (came, spread) = burst.split_once(' ').expect("two numbers");
    assert_eq!(came, "50", "the queue holds 50 kB, 80 ms at 5 Mbit/s");
    // 49 frames of 1042 bytes at 5 Mbit/s.
    assert!(spread.parse::<u64>().expect("a number") >= 75_000, "{spread} us");

    site.ask(&["cut", "lan:far"]);
    assert_eq!(far(), "nothing");
    assert_ne!(near(), "nothing", "the LAN lives on");
    site.ask(&["heal", "lan:far"]);
    assert_ne!(far(), "nothing");
    site.ask(&["cut", "n2"]);
    assert_eq!(near(), "nothing");
    site.ask(&["heal", "n2"]);
    assert_ne!(near(), "nothing");
    site.ask(&["cut", "cloud"]);
    assert_eq!(far(), "nothing");
    assert_eq!(site.status()["links"][0]["cut"], true);
}

#[test]
fn both_address_families_work() {
    let site = TestLab::up(
        "families",
        "
cloud:
  nodes: [{ name: c1 }]
lans:
  - { name: six, routed6: true, nodes: [{ name: n1 }, { name: n2, pods: [{ name: p2 }] }] }
",
    );
    let _cloud = site.serve("c1", "reflect 2001:db8::a");
    let _near = site.serve("n1", "reflect fd00:1::b");
    for (from, to) in [
        ("n1", "[2001:db8::a]:7000"),
        ("n2", "[fd00:1::b]:7000"),
        ("p2", "[fd00:1::b]:7000"),
        ("p2", "[2001:db8::a]:7000"),
    ] {
        assert_ne!(site.ask_probe(from, &format!("rtt {to}")), "nothing", "{from} to {to}");
    }
}

/// What one router does, seen with UDP sockets from both sides.
fn check_nat(nat: &str, mapping: &str, filtering: &str, knock: &str) {
    let text = format!(
        "
cloud:
  nodes: [{{ name: c1 }}, {{ name: c2 }}]
lans:
  - {{ name: home, nat: {nat}, nodes: [{{ name: n1 }}, {{ name: n2 }}] }}
"
    );
    let site = TestLab::up("nat", &text);
    let _one = site.serve("c1", "reflect 203.0.113.10");
    let _two = site.serve("c2", "reflect 203.0.113.11");
    let targets = "203.0.113.10:7000 203.0.113.10:7001 203.0.113.11:7000";
    // Both nodes use the same port, as agents do.
    let seen = ["n1", "n2"].map(|node| site.ask_probe(node, &format!("mapping 5000 {targets}")));
    let outer = ["203.0.113.101:", "10.1.0.1"];
    for seen in &seen {
        let seen: Vec<&str> = seen.split(' ').collect();
        assert!(
            seen.iter().all(|address| outer.iter().any(|outer| address.starts_with(outer))),
            "{nat}: {seen:?}"
        );
        let same = seen.iter().all(|address| *address == seen[0]);
        let kind = if same { "independent" } else { "dependent" };
        assert_eq!(kind, mapping, "{nat}: {seen:?}");
    }
    assert_ne!(seen[0], seen[1], "{nat}: two hosts share no outer port");
    if mapping == "independent" {
        assert!(
            seen[0].starts_with("203.0.113.101:5000") || seen[0].starts_with("10.1.0.11:5000"),
            "{seen:?}"
        );
    }
    assert_eq!(site.ask_probe("n1", "filtering 203.0.113.10:7000 203.0.113.11:7000"), filtering, "{nat}");
    assert_eq!(site.ask_probe("c1", "knock 203.0.113.101:9"), knock, "{nat}");
}

#[test]
fn routers_translate_as_the_site_says() {
    check_nat("{}", "independent", "filtered", "dropped dropped");
    check_nat("{ unsolicited: reset }", "independent", "filtered", "refused refused");
    check_nat("{ filtering: endpoint-independent }", "independent", "open", "dropped dropped");
    check_nat("{ filtering: address-dependent }", "independent", "by-address", "dropped dropped");
    check_nat("{}, carrier: {}", "independent", "filtered", "dropped dropped");
    let wide = "filtering: endpoint-independent";
    check_nat(&format!("{{ {wide} }}, carrier: {{ {wide} }}"), "independent", "open", "dropped dropped");
    check_nat("{}, carrier: { mapping: symmetric }", "dependent", "filtered", "dropped dropped");
    check_nat("{ mapping: symmetric }", "dependent", "filtered", "dropped dropped");
    check_nat(
        "{ mapping: address-and-port-dependent, unsolicited: reset }",
        "dependent",
        "filtered",
        "refused refused",
    );
    check_nat("{ mapping: none }", "independent", "open", "dropped dropped");
}

#[test]
fn routers_let_out_what_the_site_says() {
    let check = |outbound: &str, knocks: [(&str, &str); 2]| {
        let text = format!(
            "cloud: {{ nodes: [{{ name: c1 }}] }}\nlans: [{{ name: home, outbound: {outbound}, nodes: [{{ name: n1 }}] }}]\n"
        );
        let site = TestLab::up("outbound", &text);
        for (port, outcome) in knocks {
            let seen = site.ask_probe("n1", &format!("knock 203.0.113.10:{port}"));
            assert_eq!(seen, outcome, "{outbound}: TCP and UDP to port {port}, where nobody listens");
        }
    };
    check("all", [("443", "refused refused"), ("9", "refused refused")]);
    check("no-udp", [("443", "refused dropped"), ("9", "refused dropped")]);
    check("tcp-443", [("443", "refused dropped"), ("9", "dropped dropped")]);
}

#[test]
fn a_killed_pod_starts_again() {
    let site = TestLab::up("kill", ONE_LAN);
    let process = || site.status()["nodes"][1]["pods"][0]["process"].clone();
    site.ask(&["kill", "p1"]);
    assert_eq!(process()["ended"], "signal 9");
    site.ask(&["start", "p1"]);
    assert_eq!(process(), "running");
}

#[test]
fn tests_of_a_site_pass_and_fail() {
    let check = |tests: &str, succeeds: bool, expected: &str| {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), format!("agents: false\n{ONE_LAN}tests:\n{tests}\n")).expect("site file");
        let path = file.path().display().to_string();
        let output = lab(&["test", &path]).output().expect("test");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), succeeds, "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(expected), "{text}");
        if let Some(logs) = text.lines().find_map(|line| line.strip_prefix("logs: ")) {
            let folder = Path::new(logs).parent().expect("a folder");
            std::fs::remove_dir_all(folder).expect("the logs of a failure are kept");
        }
    };
    check(" - { from: n1, run: [echo, hello], output: hello }", true, "ok      echo hello");
    check(" - { name: no, from: n1, run: ['false'], succeeds: false }", true, "ok      no");
    check(" - { from: n1, run: ['false'], within: 100ms }", false, "FAILED  false");
    check(" - { from: n9, run: ['true'], within: 100ms }", false, "there is no node or pod \"n9\"");
}

#[test]
fn a_busy_name_and_a_missing_one_are_told() {
    let site = TestLab::up("names", ONE_LAN);
    let fails = |args: &[&str], expected: &str| {
        let output = lab(args).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{args:?}: {text}");
    };
    fails(&["cut", "nowhere", "--name", &site.name], "there is no link \"nowhere\": cloud, lan:home, c1");
    fails(&["exec", "nobody", "--name", &site.name, "--", "true"], "there is no node or pod");
    fails(&["status", "--name", "nothing-runs-here"], "no laboratory");
    fails(&["fly"], "is no command");
}
