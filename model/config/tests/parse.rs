//! What a file may say, and what is said about it.

use edgemesh_config::{Cause, Problem, Role, Severity, fields, parse};

/// What is said about an agent's file, one line each, without notices.
fn said(text: &str) -> Vec<String> {
    said_to(Role::Agent, text)
}

fn said_to(role: Role, text: &str) -> Vec<String> {
    all(role, text)
        .iter()
        .filter(|problem| problem.severity != Severity::Notice && problem.cause != Cause::Header)
        .map(|problem| format!("{}: {problem}", problem.severity.as_str()))
        .collect()
}

fn all(role: Role, text: &str) -> Vec<Problem> {
    parse(role, text).map_or_else(|problems| problems, |parsed| parsed.problems)
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(said(text), expected, "{text}");
}

#[test]
fn go_defaults_are_accepted_with_notices_only() {
    for (role, text) in [
        (Role::Agent, include_str!("fixtures/go-agent-default.yaml")),
        (Role::Gateway, include_str!("fixtures/go-gateway-default.yaml")),
    ] {
        let problems = parse(role, text).expect("accepted").problems;
        let others: Vec<_> = problems.iter().filter(|problem| problem.severity != Severity::Notice).collect();
        assert_eq!(others, Vec::<&Problem>::new());
        let limits =
            problems.iter().find(|problem| problem.path.contains("tunnelLimitConfig")).expect("told");
        assert_eq!(
            limits.path,
            "modules.edgeTunnel.tunnelLimitConfig.{enable, tunnelBaseStreamIn, tunnelBaseStreamOut, \
             tunnelPeerBaseStreamIn, tunnelPeerBaseStreamOut}"
        );
        assert!(limits.text.contains("bounds are fixed"), "{limits}");
    }
}

#[test]
fn go_examples_are_accepted() {
    check(
        "modules:\n  edgeProxy:\n    enable: true\n  edgeTunnel:\n    enable: true\n    #relayNodes:\n",
        &[],
    );
    check(
        "modules:
  edgeTunnel:
    enable: true
    relayNodes:
    - nodeName: k8s-master
      advertiseAddress:
      - 1.1.1.1
    - nodeName: ke-edge1
      advertiseAddress: [2.2.2.2, 3.3.3.3]
",
        &[],
    );
    assert_eq!(
        said_to(
            Role::Gateway,
            "modules: {edgeGateway: {enable: true, nic: 'lo,eth0', includeIP: '192.168.0.1, 172.16.0.0/12', excludeIP: ''}}"
        ),
        Vec::<String>::new()
    );
    assert_eq!(all(Role::Agent, ""), []);
    assert_eq!(all(Role::Agent, "# nothing\n"), []);
    assert_eq!(all(Role::Agent, "null"), []);
}

/// Go EdgeMesh's chart writes serviceFilterMode twice.
#[test]
fn a_key_given_twice_counts_the_last_time() {
    let text = "modules:
  edgeProxy:
    enable: true
    serviceFilterMode: FilterIfLabelExists
    serviceFilterMode: FilterIfLabelDoesNotExists
";
    check(
        text,
        &[
            "warning: line 5: modules.edgeProxy.serviceFilterMode: given more than once (lines 4, 5); the last one counts",
        ],
    );
    let mut raw = parse(Role::Agent, text).expect("accepted").raw;
    assert!(raw.says("modules.edgeProxy.serviceFilterMode"));
    raw.set("modules.edgeProxy.serviceFilterMode", "null").expect("back to the default");
    assert!(!raw.says("modules.edgeProxy.serviceFilterMode"));
}

#[test]
fn go_c23_unknown_keys_are_named() {
    check(
        "modules:
  edgeDns:
    enable: true
  edgeProxy:
    enabled: true
    colour: blue
  edgeTunnel:
    relayNode: []
    psk: {pth: /k}
    bridgeDeviceIP: 10.0.0.1
relayNodes: []
edgeTunel: {}
",
        &[
            "warning: line 2: modules.edgeDns: read as modules.edgeDNS, as Go EdgeMesh does; write modules.edgeDNS",
            "warning: line 5: modules.edgeProxy.enabled: there is no such key; is modules.edgeProxy.enable meant?",
            "warning: line 6: modules.edgeProxy.colour: there is no such key",
            "warning: line 8: modules.edgeTunnel.relayNode: there is no such key; is modules.edgeTunnel.relayNodes meant?",
            "warning: line 9: modules.edgeTunnel.psk.pth: there is no such key; is modules.edgeTunnel.psk.path meant?",
            "warning: line 10: modules.edgeTunnel.bridgeDeviceIP: there is no such key; is commonConfig.bridgeDeviceIP meant?",
            "warning: line 11: relayNodes: there is no such key; is modules.edgeTunnel.relayNodes meant?",
            "warning: line 12: edgeTunel: there is no such key",
        ],
    );
}

#[test]
fn keys_in_other_letter_case_are_read_and_exact_ones_count_over_them() {
    check(
        "modules: {edgeTunnel: {tunnelLimitConfig: {TunnelPeerBaseStreamIn: 7}}}",
        &["warning: line 1: modules.edgeTunnel.tunnelLimitConfig.TunnelPeerBaseStreamIn: read as \
           modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn, as Go EdgeMesh does; write \
           modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn"],
    );
    let both = "modules: {edgeDNS: {listenPort: 1, ListenPort: 2}}";
    let only = "modules: {edgeDNS: {listenPort: 1}}";
    let raw = |text| parse(Role::Agent, text).expect("accepted").raw;
    assert_eq!(raw(both), raw(only));
}

#[test]
fn keys_of_the_other_program_are_named() {
    check(
        "pprofConfig: {}\nmodules:\n  edgeGateway:\n    enable: true\n",
        &[
            "warning: line 1: pprofConfig: only the gateway reads this key",
            "warning: line 3: modules.edgeGateway: only the gateway reads this key",
        ],
    );
    assert_eq!(
        said_to(Role::Gateway, "commonConfig: {bridgeDeviceIP: 10.0.0.1, logLevel: debug}"),
        ["warning: line 1: commonConfig.bridgeDeviceIP: only the agent reads this key"]
    );
}

#[test]
fn the_header_says_which_program_is_meant() {
    let error = |role, text: &str| {
        let problems = parse(role, text).expect_err("refused");
        let errors: Vec<_> =
            problems.iter().filter(|problem| problem.is_error()).map(Problem::to_string).collect();
        errors.join("; ")
    };
    assert_eq!(
        error(Role::Agent, "kind: EdgeMeshGateway"),
        "line 1: kind: this is a file of edgemesh gateway, and this is edgemesh agent"
    );
    let version = "apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1\nkind: EdgeMeshAgent";
    assert_eq!(error(Role::Gateway, version).matches("this is a file of edgemesh agent").count(), 2);
    assert!(
        error(Role::Agent, "kind: EdgeMeshServer").contains("the agent of each node in relayNodes relays")
    );
    assert!(error(Role::Agent, "kind: ConfigMap\ndata: {}").contains("what stands under its data"));
    let told = |text: &str| all(Role::Agent, text).iter().map(Problem::to_string).collect::<Vec<_>>();
    assert_eq!(
        told("modules: {}"),
        ["apiVersion and kind: not given; the file is read as apiVersion: \
             agent.edgemesh.config.kubeedge.io/v1alpha1, kind: EdgeMeshAgent"]
    );
    assert_eq!(told(version), Vec::<String>::new());
    let other = version.replace("v1alpha1", "v1beta1");
    assert_eq!(
        told(&other),
        [
            "line 1: apiVersion: \"agent.edgemesh.config.kubeedge.io/v1beta1\" is unknown; the file is read as \
             agent.edgemesh.config.kubeedge.io/v1alpha1"
        ]
    );
}

#[test]
fn wrong_types_are_named_all_of_them() {
    check(
        "commonConfig: [1]
kubeAPIConfig:
  master: {a: b}
modules:
  edgeDNS:
    enable: 1
    listenPort: \"53\"
    cacheDNS: true
    listenAddresses: 10.0.0.1
  edgeProxy:
    loadBalancer:
      consistentHash:
        load: much
  edgeTunnel:
    relayNodes:
    - 1.1.1.1
    - nodeName: [a]
      advertiseAddress: 1.1.1.1
",
        &[
            "error: line 1: commonConfig: a list was found, a block is expected, with bridgeDeviceName, bridgeDeviceIP, \
             pprofConfig, stateDir, adminSocket, metricsListen, accessLog, logLevel, logFormat",
            "error: line 3: kubeAPIConfig.master: a block of keys was found, a URL such as https://10.0.0.1:6443 is expected",
            "error: line 6: modules.edgeDNS.enable: the number 1 was found, true or false is expected",
            "error: line 7: modules.edgeDNS.listenPort: the text \"53\" was found, a port, 1 to 65535 without quotes is expected",
            "error: line 8: modules.edgeDNS.cacheDNS: true was found, a block is expected, with enable, autoDetect, \
             upstreamServers, cacheTTL",
            "error: line 9: modules.edgeDNS.listenAddresses: the text \"10.0.0.1\" was found, a list of IP, IP:PORT or \
             [IPv6]:PORT is expected",
            "error: line 13: modules.edgeProxy.loadBalancer.consistentHash.load: the text \"much\" was found, a number is \
             expected",
            "error: line 16: modules.edgeTunnel.relayNodes[0]: the text \"1.1.1.1\" was found, a block with nodeName and \
             advertiseAddress is expected",
            "error: line 17: modules.edgeTunnel.relayNodes[1].nodeName: a list was found, text is expected",
            "error: line 18: modules.edgeTunnel.relayNodes[1].advertiseAddress: the text \"1.1.1.1\" was found, a list of \
             IP, IP:PORT, [IPv6]:PORT, host names or multiaddrs is expected",
        ],
    );
}

/// One key of a module that is on, and what is said of its value.
#[track_caller]
fn check_value(path: &str, value: &str, expected: Option<&str>) {
    let role = if path.starts_with("modules.edgeGateway") { Role::Gateway } else { Role::Agent };
    let parts: Vec<_> = path.split('.').collect();
    let mut text = format!("{}: {value}", parts[parts.len() - 1]);
    if parts.len() == 3 && parts[0] == "modules" {
        text.push_str(", enable: true");
    }
    for (depth, part) in parts[..parts.len() - 1].iter().enumerate().rev() {
        text = format!("{part}: {{{text}}}");
        if depth == 2 {
            text.push_str(", enable: true");
        }
    }
    let said = said_to(role, &text);
    match expected {
        None => assert_eq!(said, Vec::<String>::new(), "{text}"),
        Some(expected) => {
            assert_eq!(said.len(), 1, "{text}: {said:?}");
            assert!(said[0].starts_with("error: ") && said[0].contains(expected), "{text}: {said:?}");
        }
    }
}

#[test]
fn values_are_checked() {
    for (path, good, bad, message) in [
        ("kubeAPIConfig.kubeConfig", "/root/.kube/config", ".kube/config", "is not an absolute path"),
        ("kubeAPIConfig.master", "'https://[fd00::1]:6443'", "ftp://a", "is not a URL"),
        ("kubeAPIConfig.manifests", "/m", "m", "is not an absolute path"),
        ("kubeAPIConfig.mode", "EdgeMode", "Edge", "is not one of ManualMode, CloudMode, EdgeMode"),
        ("commonConfig.bridgeDeviceIP", "fd00::10", "169.254.96.256", "is not an IPv4 or IPv6 address"),
        ("commonConfig.bridgeDeviceName", "edgemesh0", "a-name-that-is-too-long", "is not a device name"),
        ("commonConfig.metricsListen", "'[::1]:9999'", "'9999'", "is not IP:PORT"),
        ("commonConfig.metricsListen", "'off'", "nowhere", "is not IP:PORT"),
        ("commonConfig.logLevel", "'info,edgemesh_tunnel=debug'", "loud", "is not error, warn"),
        ("commonConfig.accessLog", "errors", "some", "is not one of all, errors, off"),
        ("modules.edgeDNS.listenPort", "5353", "0", "0 is not a port"),
        ("modules.edgeDNS.listenPort", "65535", "65536", "65536 is not a port"),
        ("modules.edgeDNS.clusterDomain", "k8s.example.org.", "a..b", "is not a DNS name"),
        (
            "modules.edgeDNS.listenAddresses",
            "['10.0.0.1', '[fd00::1]:53']",
            "[localhost]",
            "[0]: \"localhost\" is not",
        ),
        (
            "modules.edgeDNS.cacheDNS.upstreamServers",
            "['fd00::1', '1.1.1.1:53']",
            "[1.1.1]",
            "is not an IP address",
        ),
        ("modules.edgeDNS.cacheDNS.cacheTTL", "1", "0", "is not a whole number from 1 to 604800"),
        (
            "modules.edgeProxy.serviceFilterMode",
            "FilterIfLabelDoesNotExists",
            "Filter",
            "is not one of FilterIfLabelExists",
        ),
        ("modules.edgeProxy.maxConnections", "1", "-1", "is not a whole number"),
        ("modules.edgeTunnel.transport", "quic", "udp", "is not one of tcp, ws, quic"),
        (
            "modules.edgeTunnel.psk.enable",
            "true",
            "false",
            "a tunnel without a private-network key is not offered",
        ),
        ("modules.edgeTunnel.listenInterfaces", "'eth0, wlan0'", "a/b", "is not interface names"),
        ("modules.edgeTunnel.advertiseAddress", "['192.0.2.1:7000']", "['name']", "is not an IP address"),
        (
            "modules.edgeTunnel.relayNodes",
            "[{nodeName: a, advertiseAddress: ['192.0.2.1', 'relay.example.org:443', '/ip6/2001:db8::1/tcp/1/p2p/Q']}]",
            "[{nodeName: a, advertiseAddress: ['300.1.2.3']}]",
            "relayNodes[0].advertiseAddress[0]: \"300.1.2.3\" is not an IP address",
        ),
        (
            "modules.edgeCNI.meshCIDRConfig.cloudCIDR",
            "[10.244.0.0/16, 'fd00::/64']",
            "[10.244.0.0]",
            "is not a CIDR block",
        ),
        (
            "modules.edgeGateway.includeIP",
            "'10.0.0.1,fd00::/8'",
            "'10.0.0.1/33'",
            "is not IP addresses and CIDR blocks",
        ),
    ] {
        check_value(path, good, None);
        check_value(path, bad, Some(message));
    }
}

#[test]
fn values_of_a_module_that_is_off_are_warnings() {
    for text in ["transport: udp, listenPort: 0", "psk: {enable: false}, transport: udp"] {
        for (open, close) in [("modules: {edgeTunnel: {", "}}"), ("modules: {tunnel: {", "}}")] {
            let said = said(&format!("{open}{text}{close}"));
            let told: Vec<_> = said.iter().filter(|line| line.contains("the module is off")).collect();
            assert_eq!(told.len(), 2, "{said:?}");
            assert!(said.iter().all(|line| line.starts_with("warning: ")), "{said:?}");
        }
    }
    assert_eq!(said("modules: {edgeTunnel: {listenPort: x}}").len(), 1, "a wrong type stops Go EdgeMesh too");
    assert!(parse(Role::Agent, "modules: {edgeTunnel: {listenPort: x}}").is_err());
}

#[test]
fn what_go_took_for_text_and_flags_is_taken() {
    check(
        "modules:\n  edgeTunnel:\n    enable: yes\n    relayNodes:\n    - {nodeName: 7, advertiseAddress: [1.1.1.1]}\n",
        &[
            "warning: line 3: modules.edgeTunnel.enable: the text \"yes\" is taken for true; write true",
            "warning: line 5: modules.edgeTunnel.relayNodes[0].nodeName: the number 7 is taken for the text \"7\"; write quotes",
        ],
    );
    check("modules: {edgeDNS: {listenPort: 53.0}}", &[]);
}

#[test]
fn keys_before_1_12_are_read_under_their_new_names() {
    let old = "commonConfig:
  mode: DebugMode
  dummyDeviceName: mesh0
goChassisConfig: {protocol: {tcpBufferSize: 8192}}
modules:
  edgeProxy: {subNet: 10.96.0.0/12}
  tunnel:
    enable: true
    listenPort: 20007
    enableHolePunch: true
";
    check(
        old,
        &[
            "warning: line 2: commonConfig.mode: a key until EdgeMesh 1.11 that is not read any more: the mode is found out",
            "warning: line 3: commonConfig.dummyDeviceName: the name until EdgeMesh 1.11, read as \
             commonConfig.bridgeDeviceName; write commonConfig.bridgeDeviceName",
            "warning: line 4: goChassisConfig: a key until EdgeMesh 1.11 that is not read any more: DestinationRules say how \
             endpoints of a Service are picked",
            "warning: line 6: modules.edgeProxy.subNet: a key until EdgeMesh 1.11 that is not read any more: the addresses of \
             the Services say what is intercepted",
            "warning: line 7: modules.tunnel: the name until EdgeMesh 1.11, read as modules.edgeTunnel; write \
             modules.edgeTunnel",
            "warning: line 10: modules.tunnel.enableHolePunch: a key until EdgeMesh 1.11 that is not read any more: holes are \
             always punched",
        ],
    );
    let new =
        "commonConfig: {bridgeDeviceName: mesh0}\nmodules: {edgeTunnel: {enable: true, listenPort: 20007}}";
    let raw = |text| parse(Role::Agent, text).expect("accepted").raw;
    assert_eq!(raw(old), raw(new));
}

#[test]
fn text_that_is_no_file_is_an_error() {
    for (text, cause, expected) in [
        ("modules: {", Cause::Syntax, "this is no YAML"),
        ("just words", Cause::Syntax, "the text \"just words\" was found, a block of keys is expected"),
        ("- a", Cause::Syntax, "a list was found"),
        ("? [a]\n: b", Cause::Syntax, "a key that is no text"),
        ("nic: *", Cause::Syntax, "this is no YAML"),
    ] {
        let problems = parse(Role::Agent, text).expect_err("refused");
        assert_eq!(problems[0].cause, cause, "{text}");
        assert!(problems[0].to_string().contains(expected), "{text}: {}", problems[0]);
    }
    let error = parse(Role::Agent, "modules:\n  edgeDNS:\n  - a: [\n").expect_err("refused");
    assert!(error[0].line.is_some_and(|line| line >= 3), "{:?}", error[0]);
}

#[test]
fn what_grows_past_all_bounds_is_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x]\n".to_owned();
    for (last, next) in ["a", "b", "c", "d", "e", "f"].into_iter().zip(["b", "c", "d", "e", "f", "g"]) {
        let alias = format!("*{last}");
        bomb.push_str(&format!("{next}: &{next} [{}]\n", [alias.as_str(); 8].join(", ")));
    }
    let many = format!("modules: [{}]", "x, ".repeat(70_000));
    let deep = format!("modules: {}", "[".repeat(10_000));
    let long = format!("# {}", "x".repeat(1 << 20));
    for (text, cause) in
        [(bomb, Cause::Syntax), (many, Cause::TooLarge), (deep, Cause::Syntax), (long, Cause::TooLarge)]
    {
        assert_eq!(parse(Role::Agent, &text).expect_err("refused")[0].cause, cause);
    }
}

#[test]
fn lines_are_those_of_the_keys() {
    let text = "# a comment
commonConfig:   # another
  logLevel: \"info\"

  'accessLog': |
    modules:
      colour: 1
modules:
  \"edgeTunnel\":
    rendezvous: >-
      colour: 2
    psk: {
      colour: 3,
      path: /k
    }
    relayNodes:
    - nodeName: a
      advertiseAddress:
        - 192.0.2.1
        - colour: 4
    -
      nodeName: b
      colour: 5
      advertiseAddress: [192.0.2.2]
  edgeProxy:
    colour: 6
---
colour: 7
";
    let told: Vec<_> = all(Role::Agent, text)
        .into_iter()
        .filter(|problem| problem.severity != Severity::Notice && problem.cause != Cause::Header)
        .map(|problem| (problem.line, problem.path))
        .collect();
    let told: Vec<_> = told.iter().map(|(line, path)| (line.unwrap_or_default(), path.as_str())).collect();
    assert_eq!(
        told,
        [
            (5, "commonConfig.accessLog"),
            (12, "modules.edgeTunnel.psk.colour"),
            (20, "modules.edgeTunnel.relayNodes[0].advertiseAddress[1]"),
            (23, "modules.edgeTunnel.relayNodes[1].colour"),
            (26, "modules.edgeProxy.colour"),
            (0, ""),
        ]
    );
}

#[test]
fn anchors_and_merges_are_followed_and_foreign_tags_passed_over() {
    let merged = "base: &base {enable: true}\nmodules:\n  edgeProxy:\n    <<: *base\n  edgeTunnel: !!map {<<: [*base], enable: false}\n";
    let plain = "modules: {edgeProxy: {enable: !odd true}, edgeTunnel: {enable: false}}";
    let raw = |text| parse(Role::Agent, text).expect("accepted").raw;
    assert_eq!(raw(merged), raw(plain));
    check(merged, &["warning: line 1: base: there is no such key"]);
}

#[test]
fn a_command_line_value_is_checked_as_a_file_is() {
    let mut raw = parse(Role::Agent, "").expect("accepted").raw;
    raw.set("commonConfig.logLevel", "debug").expect("valid");
    raw.set("modules.edgeDNS.listenAddresses", "[10.0.0.1]").expect("valid");
    assert!(raw.says("commonConfig.logLevel") && raw.says("modules.edgeDNS.listenAddresses"));
    for (path, value, expected) in [
        ("commonConfig.logLevels", "debug", "is commonConfig.logLevel meant?"),
        ("commonConfig", "{}", "no such key"),
        ("kind", "x", "no such key"),
        ("modules.edgeTunnel.relayNodes[].nodeName", "x", "no such key"),
        ("modules.edgeDNS.listenPort", "0", "is not a port"),
        ("modules.edgeTunnel.psk.enable", "false", "not offered"),
    ] {
        let problems = raw.set(path, value).expect_err("refused");
        assert!(problems[0].to_string().contains(expected), "{path}: {}", problems[0]);
    }
}

/// A key without a line in the table is read by nothing; a block that comes twice cannot be written as YAML.
#[test]
fn the_table_names_every_key_once_and_block_by_block() {
    for role in [Role::Agent, Role::Gateway] {
        let paths: Vec<_> =
            fields().filter(|field| field.roles.include(role)).map(|field| field.path).collect();
        let mut seen = std::collections::BTreeSet::new();
        let mut closed = std::collections::BTreeSet::new();
        let mut open: Vec<String> = Vec::new();
        for path in paths {
            assert!(seen.insert(path), "{path} is there twice");
            let parts: Vec<_> = path.split('.').collect();
            let blocks: Vec<_> = (1..parts.len()).map(|depth| parts[..depth].join(".")).collect();
            for block in open.iter().filter(|block| !blocks.contains(block)) {
                closed.insert(block.clone());
            }
            assert!(blocks.iter().all(|block| !closed.contains(block)), "{path} opens its block again");
            open = blocks;
        }
    }
}

/// Without a key Go EdgeMesh joins the public network of IPFS nodes.
#[test]
fn go_s6_a_tunnel_without_a_key_is_refused() {
    let text = "modules: {edgeTunnel: {enable: true, psk: {enable: false}}}";
    let problems = parse(Role::Agent, text).expect_err("refused");
    assert!(
        problems.iter().any(|problem| problem.is_error() && problem.path == "modules.edgeTunnel.psk.enable"),
        "{problems:?}"
    );
}
