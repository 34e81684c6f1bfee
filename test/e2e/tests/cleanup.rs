//! What the agent puts into the kernel goes, and nothing else: after SIGTERM by itself, after SIGKILL by
//! `edgemesh cleanup`.

use edgemesh_e2e::{Lab, NEAR, eventually, installed, program, skipped, v4, v6};

/// Things of others, chosen to be as much like ours as they can: our table's name in another family, a set of the same
/// name, a route of the local table to a virtual address, a rule, addresses of our ranges.
const FOREIGN: &str = "
set -e
ip link add foreign0 type veth peer name foreign1
ip link set foreign0 up
ip link set foreign1 up
ip addr add 192.0.2.7/32 dev foreign0
ip addr add 169.254.96.17/32 dev foreign0
ip addr add fe80::a9fe:6011/64 dev foreign0
ip rule add fwmark 0x1 lookup 100
ip -6 rule add fwmark 0x1 lookup 100
ip route add local 10.96.0.200/32 dev lo table local
ip route add local 0.0.0.0/0 dev lo table 100
ip -6 route add local ::/0 dev lo table 100
ip route add 10.96.0.0/12 dev foreign0
ip -6 route add fd96::/64 dev foreign0
nft -f - <<RULES
table ip edgemesh {
	set frontends4 {
		type ipv4_addr
		elements = { 10.96.0.11 }
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr @frontends4 tcp dport 9 counter redirect to :9
	}
}
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid counter drop
		tcp dport 22 accept
	}
}
RULES
";

/// Everything of the kernel's that an agent might touch. Counters are the traffic's, not the agent's.
const DUMP: &str = "
set -e
for command in 'nft --stateless list ruleset' 'ip rule' 'ip -6 rule' 'ip route show table all' \
	'ip -6 route show table all' 'ip addr'; do
	echo \"== $command\"
	$command
done
";

fn dump(lab: &Lab) -> String {
    lab.exec("n1", &["sh", "-c", DUMP])
}

/// The same while an agent runs: without the carrier of its device, which has no port and loses it a moment after its
/// start.
fn dump_running(lab: &Lab) -> String {
    let carrier = ["NO-CARRIER,", ",LOWER_UP", " state UNKNOWN", " state DOWN", " linkdown"];
    carrier.iter().fold(dump(lab), |text, word| text.replace(word, ""))
}

/// Byte by byte; what differs is shown by lines.
fn assert_same(now: &str, before: &str) {
    let lines = |one: &str, other: &str, sign: &str| -> Vec<String> {
        let known: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !known.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let differ = [lines(before, now, "-"), lines(now, before, "+")].concat();
    assert!(now == before, "the kernel is not as it was:\n{}", differ.join("\n"));
}

/// A node with foreign objects; `None` without the programs that make them.
fn lab(test: &str) -> Option<Lab> {
    if let Some(missing) = ["nft", "ip"].into_iter().find(|program| !installed(program)) {
        skipped(test, missing);
        return None;
    }
    let lab = Lab::two_nodes(test);
    lab.exec("n1", &["sh", "-c", FOREIGN]);
    // The kernel tells the state of new devices up to a second later.
    eventually("devices at rest", || {
        let links = lab.exec("n1", &["ip", "-oneline", "link"]);
        links.lines().all(|link| link.contains(" lo: ") || link.contains(" state UP ")).then_some(())
    });
    Some(lab)
}

/// The agent did its work: a pod reaches the Service over both families.
fn assert_serves(lab: &Lab) {
    for frontend in [v4(NEAR, 80), v6(NEAR, 80)] {
        assert_eq!(lab.outcome("c1", &["tcp", &frontend]), "connected", "{frontend}");
    }
}

fn cleanup(lab: &Lab) -> String {
    lab.exec("n1", &[&program("edgemesh").display().to_string(), "cleanup"])
}

/// kubeedge/kubeedge#6566: rules that stay after the removal keep a node from joining again.
#[test]
fn ke_6566_nothing_is_left_after_sigkill_and_cleanup() {
    let Some(lab) = lab("cleanup-kill") else { return };
    let before = dump(&lab);
    let mut agent = lab.agent("n1", &[]);
    assert_serves(&lab);
    assert_ne!(dump(&lab), before, "the dumps see what an agent does");
    agent.kill();
    assert_ne!(dump(&lab), before, "a killed agent leaves its objects to the next one");
    let said = cleanup(&lab);
    assert!(said.contains("removed"), "{said}");
    assert_same(&dump(&lab), &before);
    assert_eq!(cleanup(&lab), "nothing to remove\n");
    assert_same(&dump(&lab), &before);
}

#[test]
fn nothing_is_left_after_sigterm() {
    let Some(lab) = lab("cleanup-term") else { return };
    let before = dump(&lab);
    let mut agent = lab.agent("n1", &[]);
    assert_serves(&lab);
    let status = agent.terminate();
    assert!(status.success(), "{status}");
    assert_same(&dump(&lab), &before);
}

#[test]
fn the_next_agent_takes_over_what_a_killed_one_left() {
    let Some(lab) = lab("cleanup-over") else { return };
    let before = dump(&lab);
    let mut first = lab.agent("n1", &[]);
    let installed = dump_running(&lab);
    first.kill();
    let mut second = lab.agent("n1", &[]);
    assert_serves(&lab);
    assert_same(&dump_running(&lab), &installed);
    assert!(second.terminate().success());
    assert_same(&dump(&lab), &before);
}

/// A start that fails leaves at most what `edgemesh cleanup` removes.
#[test]
fn nothing_is_left_after_a_failed_start_and_cleanup() {
    let Some(lab) = lab("cleanup-fail") else { return };
    let before = dump(&lab);
    let taken = lab.background("n1", &["hold", "0.0.0.0:53"]);
    let (code, said) = lab.failing_agent("n1", &[]);
    assert_eq!(code, 1, "{said}");
    assert_same(&dump(&lab), &before);
    cleanup(&lab);
    assert_same(&dump(&lab), &before);
    drop(taken);
    let mut agent = lab.agent("n1", &[]);
    assert_serves(&lab);
    assert!(agent.terminate().success());
    assert_same(&dump(&lab), &before);
}

/// A second agent, with an admin socket of its own, finds the addresses taken and leaves the first one's rules alone.
#[test]
fn a_second_agent_that_fails_touches_nothing_of_the_first() {
    let Some(lab) = lab("cleanup-two") else { return };
    let _first = lab.agent("n1", &[]);
    let installed = dump_running(&lab);
    let other = lab.folder().join("other");
    let state = other.display().to_string();
    let socket = other.join("admin.sock").display().to_string();
    let flags = ["--admin-socket", &socket, "--state-dir", &state, "--metrics-listen", "off"];
    let (code, said) = lab.failing_agent("n1", &flags);
    assert!(code == 1 && said.contains("in use"), "{said}");
    assert_same(&dump_running(&lab), &installed);
    assert_serves(&lab);
}
