//! Files that are written, and what changes from one to the next.

use edgemesh_config::{
    Changes, Environment, Role, Settings, Severity, changes, convert, default_config, document, fields,
    min_config, parse, resolve, show,
};

fn environments() -> [Environment; 2] {
    let edge = Environment {
        node_name: Some("node-1".to_owned()),
        namespace: Some("kubeedge".to_owned()),
        in_cluster: false,
        kubernetes_service: Some(("10.96.0.1".to_owned(), 443)),
    };
    [Environment { in_cluster: true, ..edge.clone() }, edge]
}

#[track_caller]
fn settings(role: Role, text: &str, environment: &Environment) -> Settings {
    let raw = parse(role, text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}")).raw;
    resolve(&raw, environment).unwrap_or_else(|problems| panic!("{problems:?}\n{text}")).settings
}

/// Files with something in each block.
const FILES: [(Role, &str); 4] = [
    (Role::Agent, include_str!("fixtures/go-agent-default.yaml")),
    (Role::Gateway, include_str!("fixtures/go-gateway-default.yaml")),
    (
        Role::Agent,
        r#"
kubeAPIConfig: {manifests: "/m \"quoted\" # and more", qps: 7}
commonConfig: {metricsListen: off, logLevel: "info,edgemesh_tunnel=debug", dummyDeviceName: "off"}
colour: "blue
  and red"
modules:
  edgeDNS: {enable: false, kubeAPIConfig: {qps: x}, clusterDomain: "7.example", listenAddresses: ["::1", "10.0.0.1:54"]}
  edgeProxy: {enable: yes, loadBalancer: {consistentHash: {load: 2}}}
  edgeGateway: {enable: true}
  edgeTunnel:
    enable: true
    transport: ws
    psk: {path: "päth\u2028\u0007"}
    relayNodes: [{nodeName: null, advertiseAddress: ["192.0.2.1:1"]}, {nodeName: "7"}]
  edgeCNI: {meshCIDRConfig: {edgeCIDR: [10.0.0.0/8]}}
"#,
    ),
    (
        Role::Gateway,
        "modules: {edgeGateway: {enable: true, nic: 'lo,eth0', includeIP: 'fd00::/8'}, edgeTunnel: {listenPort: 0, metricConfig: {enable: true}}}",
    ),
];

#[test]
fn what_is_shown_says_the_same_as_the_file() {
    for environment in &environments() {
        for (role, text) in FILES {
            let before = settings(role, text, environment);
            assert_eq!(settings(role, &show(&before), environment), before, "{}", show(&before));
        }
    }
}

#[test]
fn a_converted_file_says_the_same() {
    for environment in &environments() {
        for (role, text) in FILES {
            let converted = convert(role, text).expect("converted");
            let (before, after) =
                (settings(role, text, environment), settings(role, &converted, environment));
            let changed = changes(&before, &after);
            assert_eq!(changed, Changes::default(), "{converted}");
            assert_eq!(
                convert(role, &converted)
                    .expect("converted")
                    .lines()
                    .filter(|line| !line.starts_with('#'))
                    .collect::<Vec<_>>(),
                converted.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_converted_file_is_the_shortest_and_names_what_it_leaves_out() {
    let (role, text) = FILES[2];
    assert_eq!(
        convert(role, text).expect("converted"),
        r#"apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
kind: EdgeMeshAgent
kubeAPIConfig:
  manifests: "/m \"quoted\" # and more"
commonConfig:
  bridgeDeviceName: "off"
  metricsListen: "off"
  logLevel: "info,edgemesh_tunnel=debug"
modules:
  edgeDNS:
    enable: false
    clusterDomain: "7.example"
    listenAddresses:
    - "::1"
    - "10.0.0.1:54"
  edgeProxy:
    enable: true
  edgeTunnel:
    enable: true
    transport: ws
    relayNodes:
    - nodeName: ""
      advertiseAddress:
      - "192.0.2.1:1"
    - nodeName: "7"
      advertiseAddress: []
    psk:
      path: "päth\U00002028\U00000007"
"#
        .to_owned()
            + "# left out: kubeAPIConfig.qps: without effect: objects are listed once and then watched: there is no rate to limit
# left out: colour: there is no such key
# left out: modules.edgeDNS.kubeAPIConfig: without effect: the program sets it itself
# left out: modules.edgeProxy.loadBalancer.consistentHash.load: without effect: endpoints are hashed without a ring of fixed size
# left out: modules.edgeGateway: only the gateway reads this key
# left out: modules.edgeCNI.meshCIDRConfig.edgeCIDR: without effect: this version has no pod network; an agent that is told to have one says so in its status
"
    );
    assert_eq!(
        convert(Role::Gateway, "").expect("converted"),
        "apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1\nkind: EdgeMeshGateway\n"
    );
    assert!(convert(Role::Agent, "kind: EdgeMeshGateway").is_err());
}

#[test]
fn the_default_file_is_one_of_defaults_and_names_every_key() {
    for environment in &environments() {
        for role in [Role::Agent, Role::Gateway] {
            let text = default_config(role);
            assert_eq!(settings(role, &text, environment), settings(role, "", environment), "{text}");
            for field in fields().filter(|field| field.roles.include(role) && !field.path.contains("[]")) {
                let key = format!("{}:", field.key());
                assert!(field.path == "modules.edgeDNS.kubeAPIConfig" || text.contains(&key), "{key} {text}");
            }
        }
    }
}

#[test]
fn the_minimal_file_works_and_turns_on_what_is_wanted() {
    let [_, edge] = environments();
    for role in [Role::Agent, Role::Gateway] {
        let text = min_config(role);
        assert_eq!(parse(role, &text).expect("accepted").problems, [], "{text}");
        let settings = settings(role, &text, &edge);
        assert!(settings.tunnel.is_some_and(|tunnel| tunnel.relays.len() == 1));
        assert_eq!(settings.proxy.is_some(), role == Role::Agent);
        assert_eq!(settings.gateway.is_some(), role == Role::Gateway);
    }
}

#[test]
fn changes_are_told_apart_by_when_they_count() {
    let [_, edge] = environments();
    let from = |text: &str| settings(Role::Agent, text, &edge);
    let check = |old: &str, new: &str, running: &[&str], restart: &[&str]| {
        let changes = changes(&from(old), &from(new));
        assert_eq!(
            (changes.running.as_slice(), changes.restart.as_slice()),
            (running, restart),
            "{old} -> {new}"
        );
    };
    let relays =
        "modules: {edgeTunnel: {enable: true, relayNodes: [{nodeName: a, advertiseAddress: [192.0.2.1]}]}}";
    check("modules: {edgeTunnel: {enable: true}}", relays, &["modules.edgeTunnel.relayNodes"], &[]);
    check(
        "",
        "commonConfig: {accessLog: off, logLevel: debug, logFormat: json}",
        &["commonConfig.accessLog", "commonConfig.logLevel"],
        &["commonConfig.logFormat"],
    );
    check("", "modules: {edgeProxy: {proxyPort: 1}, edgeTunnel: {maxCandidates: 3}}", &[], &[]);
    check(
        "",
        "modules: {edgeDNS: {enable: false, listenPort: 54}}",
        &[],
        &["modules.edgeDNS.enable", "modules.edgeDNS.listenPort"],
    );
    check(relays, relays, &[], &[]);
}

#[test]
fn notices_stand_in_the_shown_file_too() {
    let [_, edge] = environments();
    let text = show(&settings(Role::Agent, "", &edge));
    let notices = parse(Role::Agent, &text).expect("accepted").problems;
    assert!(notices.iter().all(|problem| problem.severity == Severity::Notice), "{notices:?}");
    assert!(
        text.contains("    maxCandidates: 15  # without effect: every relay of relayNodes is a candidate\n"),
        "{text}"
    );
}

#[test]
fn the_document_is_the_one_in_the_repository() {
    assert!(
        document() == include_str!("../../../docs/config.md"),
        "docs/config.md differs from the table in model/config; `cargo xtask docs` writes it anew"
    );
}
