use std::collections::BTreeMap;

use edgemesh_net::netlink::nft::{BaseChain, Family, Hook};

use super::host::{compares, differences, shown};
use super::ports::{parse, purpose};
use super::{Agent, Facts, Grade, Table, Taken, lines};

/// Facts of a host where nothing is in the way.
fn healthy() -> Facts {
    Facts {
        forwarding: [Some(true), Some(true)],
        bridged: [Some(true), Some(true)],
        bridges: vec!["cni0".to_owned()],
        agent: Agent::Runs { error: None },
        table: Table::Present,
        ..Facts::default()
    }
}

/// The words of all lines that are not fine, after a change of a healthy host.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: &[(Grade, &str)]) {
    let mut facts = healthy();
    change(&mut facts);
    let lines = lines(&facts);
    let found: Vec<(Grade, &str)> = lines
        .iter()
        .filter(|line| line.grade != Grade::Fine)
        .map(|line| (line.grade, line.what.as_str()))
        .collect();
    assert_eq!(found, expected);
    for line in lines.iter().filter(|line| line.grade == Grade::Conflict) {
        assert!(!line.why.is_empty() && !line.fix.is_empty(), "{line}");
    }
}

fn chain(family: Family, table: &str, name: &str, hook: Hook, priority: i32) -> BaseChain {
    let kind = if priority == 0 { "filter" } else { "nat" }.to_owned();
    let (table, name) = (table.to_owned(), name.to_owned());
    BaseChain { family, table, name, kind, hook: hook.code(), priority, drop: false }
}

fn dropping(family: Family, table: &str, name: &str, hook: Hook) -> BaseChain {
    BaseChain { drop: true, ..chain(family, table, name, hook, 0) }
}

#[test]
fn nothing_is_said_of_a_healthy_host() {
    check(|_| {}, &[]);
}

#[test]
fn a_line_says_what_and_why_and_what_to_do() {
    let mut facts = healthy();
    facts.forwarding = [Some(true), Some(false)];
    let text: Vec<String> = lines(&facts).iter().map(ToString::to_string).collect();
    assert_eq!(
        text.join("\n"),
        "ok        the agent runs, and table inet edgemesh is as it wrote it
ok        net.ipv4.ip_forward is on
CONFLICT  net.ipv6.conf.all.forwarding is off
          why: the kernel does not carry Pods' connections: all of them go through the proxy
          fix: `sysctl -w net.ipv6.conf.all.forwarding=1`, and the same line in /etc/sysctl.d"
    );
}

#[test]
fn the_agent_and_its_table() {
    let gone = "the agent runs, and table inet edgemesh is not there";
    check(|it| it.table = Table::Absent, &[(Grade::Conflict, gone)]);
    check(
        |it| it.table = Table::Changed(vec!["chain input is not there".to_owned()]),
        &[(Grade::Conflict, "table inet edgemesh was changed by somebody else: chain input is not there")],
    );
    check(
        |it| it.agent = Agent::Runs { error: Some("no nf_tables".to_owned()) },
        &[(Grade::Conflict, "the agent cannot bring the kernel to its rules: no nf_tables")],
    );
    check(
        |it| it.agent = Agent::Silent,
        &[(Grade::Conflict, "no agent answers at the admin socket, and table inet edgemesh is there")],
    );
    check(
        |it| (it.agent, it.table) = (Agent::Silent, Table::Absent),
        &[(Grade::Note, "no agent answers at the admin socket")],
    );
}

#[test]
fn chains_that_drop_what_is_forwarded() {
    let docker = dropping(Family::Ip, "filter", "FORWARD", Hook::Forward);
    let words = "chain FORWARD of table ip filter drops what none of its rules accepts";
    check(|it| it.chains.push(docker), &[(Grade::Conflict, words)]);
    check(
        |it| it.legacy_drops = [false, true],
        &[(Grade::Conflict, "chain FORWARD of ip6tables-legacy drops what none of its rules accepts")],
    );
    check(|it| it.chains.push(dropping(Family::Inet, "f", "out", Hook::Output)), &[]);
    // NFPROTO_BRIDGE, whose hooks are the bridge's own.
    check(|it| it.chains.push(dropping(Family::Other(7), "f", "forward", Hook::Forward)), &[]);
}

#[test]
fn chains_that_keep_connections_from_the_listener() {
    let input = dropping(Family::Inet, "filter", "input", Hook::Input);
    let words = "chain input of table inet filter drops what none of its rules accepts";
    check(|it| it.chains.push(input), &[(Grade::Note, words)]);
    let firewalld = chain(Family::Inet, "firewalld", "filter_INPUT", Hook::Input, 10);
    check(|it| it.chains.push(firewalld), &[(Grade::Note, "firewalld filters what comes to this host")]);
}

#[test]
fn chains_that_translate_before_ours() {
    for (hook, priority, expected) in [
        (
            Hook::Prerouting,
            -105,
            Some("chain early of table ip x translates at priority -105, before ours (-105)"),
        ),
        (
            Hook::Output,
            -200,
            Some("chain early of table ip x translates at priority -200, before ours (-105)"),
        ),
        (Hook::Prerouting, -104, None),
        (Hook::Postrouting, -200, None),
    ] {
        let expected: Vec<_> = expected.map(|words| (Grade::Conflict, words)).into_iter().collect();
        check(|it| it.chains.push(chain(Family::Ip, "x", "early", hook, priority)), &expected);
    }
}

#[test]
fn kube_proxy_and_what_both_serve() {
    let iptables = (Grade::Note, "kube-proxy has rules here: chain KUBE-SERVICES of table ip nat");
    check(|it| it.kube_proxy = vec!["chain KUBE-SERVICES of table ip nat".to_owned()], &[iptables]);
    check(
        |it| {
            it.kube_proxy = vec!["table ip kube-proxy".to_owned()];
            it.both_claim = (1..=7).map(|number| format!("10.96.0.{number}:80/tcp")).collect();
        },
        &[
            (Grade::Note, "kube-proxy has rules here: table ip kube-proxy"),
            (
                Grade::Note,
                "kube-proxy in mode nftables refuses what goes to a Service's address untranslated",
            ),
            (
                Grade::Note,
                "7 addresses are served by kube-proxy and by the agent: 10.96.0.1:80/tcp, 10.96.0.2:80/tcp, \
                 10.96.0.3:80/tcp, 10.96.0.4:80/tcp, 10.96.0.5:80/tcp and 2 more",
            ),
        ],
    );
}

#[test]
fn both_flavours_of_iptables() {
    let nat = || chain(Family::Ip, "nat", "PREROUTING", Hook::Prerouting, -100);
    check(
        |it| {
            it.legacy[0].push("filter".to_owned());
            it.chains.push(nat());
        },
        &[(
            Grade::Conflict,
            "iptables is used in both flavours: legacy (filter) and nft (chain PREROUTING of table ip nat)",
        )],
    );
    check(|it| it.legacy[0].push("filter".to_owned()), &[]);
    check(|it| it.chains.push(nat()), &[]);
}

#[test]
fn what_the_kernel_and_the_process_lack() {
    check(
        |it| it.missing.push(("masquerade", "nft_masq")),
        &[(Grade::Conflict, "the kernel cannot masquerade")],
    );
    check(
        |it| it.unseen.push("nftables cannot be read: not permitted".to_owned()),
        &[(Grade::Conflict, "nftables cannot be read: not permitted")],
    );
    let taken = |owner| Taken { socket: "udp 0.0.0.0:53".to_owned(), purpose: "its DNS server", owner };
    check(
        |it| it.taken = vec![taken(Some("dnsmasq (process 7)".to_owned())), taken(None)],
        &[
            (
                Grade::Conflict,
                "dnsmasq (process 7) has udp 0.0.0.0:53, which the agent wants for its DNS server",
            ),
            (
                Grade::Conflict,
                "a process that cannot be seen has udp 0.0.0.0:53, which the agent wants for its DNS server",
            ),
        ],
    );
}

#[test]
fn bridges_and_sysctls() {
    check(
        |it| it.hairpin_off.push(("cni0".to_owned(), "veth1".to_owned())),
        &[(Grade::Note, "bridge ports without hairpin mode: veth1 of cni0")],
    );
    check(
        |it| it.bridged = [Some(false), None],
        &[
            (Grade::Note, "net.bridge.bridge-nf-call-iptables is off"),
            (Grade::Note, "net.bridge.bridge-nf-call-ip6tables is not there (br_netfilter is not loaded)"),
        ],
    );
    check(
        |it| {
            it.bridges.clear();
            it.bridged = [None, None];
        },
        &[],
    );
    check(|it| it.strict.push("eth0".to_owned()), &[(Grade::Note, "rp_filter is strict on eth0")]);
    check(|it| it.route_localnet = true, &[(Grade::Note, "net.ipv4.conf.all.route_localnet is on")]);
}

#[test]
fn tables_are_compared_chain_by_chain() {
    let table = |chains: &[(&str, usize)]| -> BTreeMap<String, usize> {
        chains.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let found = differences(&table(&[("a", 1), ("b", 2), ("c", 3)]), &table(&[("a", 1), ("b", 3), ("d", 0)]));
    assert_eq!(found, ["chain b has 3 rules for 2 written", "chain c is not there", "chain d is not ours"]);
}

#[test]
fn keys_and_values_of_rules() {
    assert_eq!(shown(&[10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]), "10.96.0.1:80/tcp");
    let mut v6 = vec![0xfd, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    v6.extend([17, 0, 0, 0, 0, 53, 0, 0]);
    assert_eq!(shown(&v6), "[fd96::1]:53/udp");
    let [length, kind] = [8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()];
    let rule = [&[9, 9][..], &length, &kind, &[10, 96, 0, 1], &[9]].concat();
    assert!(compares(&rule, &[10, 96, 0, 1]));
    assert!(!compares(&rule, &[10, 96, 0, 2]));
}

#[test]
fn sockets_that_hold_a_port() {
    let line = "   3: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0";
    let held = parse(line, "udp", "07").expect("a socket");
    assert_eq!((held.address.to_string().as_str(), held.inode), ("0.0.0.0:53", 4711));
    assert_eq!(parse(line, "udp", "0A"), None);
    assert_eq!(parse("  sl  local_address rem_address   st", "udp", "07"), None);
    for (address, expected) in [
        ("0.0.0.0:53", Some("its DNS server")),
        ("169.254.96.16:53", Some("its DNS server")),
        ("127.0.0.53:53", None),
        ("[::]:15001", Some("its proxy")),
        ("192.0.2.1:15001", None),
        ("192.0.2.1:20006", Some("its tunnel")),
        ("0.0.0.0:80", None),
    ] {
        assert_eq!(purpose(&address.parse().expect("an address")), expected, "{address}");
    }
}
