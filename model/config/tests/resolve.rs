//! What a file and the environment come to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use edgemesh_config::{
    AccessLog, Environment, Preset, Problem, RelayNode, Resolved, Role, ServiceFilter, Settings, Severity,
    Shape, SourceSettings, changes, fields, parse, resolve,
};

fn edge() -> Environment {
    Environment {
        node_name: Some("node-1".to_owned()),
        namespace: Some("kubeedge".to_owned()),
        in_cluster: false,
        kubernetes_service: None,
    }
}

fn cloud() -> Environment {
    Environment { in_cluster: true, kubernetes_service: Some(("10.96.0.1".to_owned(), 443)), ..edge() }
}

fn resolved(role: Role, text: &str, environment: &Environment) -> Result<Resolved, Vec<Problem>> {
    let raw = parse(role, text).expect("a valid file").raw;
    resolve(&raw, environment)
}

#[track_caller]
fn agent(text: &str) -> Settings {
    resolved(Role::Agent, text, &edge()).expect("settings").settings
}

#[track_caller]
fn gateway(text: &str) -> Settings {
    resolved(Role::Gateway, text, &edge()).expect("settings").settings
}

#[track_caller]
fn errors(role: Role, text: &str, environment: &Environment) -> Vec<String> {
    resolved(role, text, environment).expect_err("refused").iter().map(Problem::to_string).collect()
}

fn sockets(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn an_empty_file_is_one_of_go_defaults() {
    let settings = agent("");
    assert_eq!(settings.node_name, "node-1");
    assert_eq!(settings.namespace.as_deref(), Some("kubeedge"));
    assert_eq!(
        settings.source,
        SourceSettings::MetaServer {
            url: "http://127.0.0.1:10550".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            insecure_skip_verify: false,
            token_file: None,
        }
    );
    let dns = settings.dns.expect("on in EdgeMode");
    assert_eq!(dns.listen, sockets(&["169.254.96.16:53", "[fe80::a9fe:6010]:53"]));
    assert_eq!((dns.cluster_domain.as_str(), dns.cache_ttl), ("cluster.local", Duration::from_secs(30)));
    assert!(dns.upstreams.is_empty() && !dns.auto_detect_cluster_dns && !dns.forward_only);
    assert!(settings.proxy.is_none() && settings.tunnel.is_none() && settings.cni.is_none());
    let device = settings.device.expect("an agent has one");
    assert_eq!(device.name, "edgemesh0");
    assert_eq!(
        device.addresses,
        ["169.254.96.16", "fe80::a9fe:6010"].map(|ip| ip.parse::<IpAddr>().expect("an IP"))
    );
    assert_eq!(settings.process.state_dir, PathBuf::from("/var/lib/edgemesh"));
    assert_eq!(settings.process.admin_socket, PathBuf::from("/run/edgemesh/agent.sock"));
    assert_eq!(settings.process.metrics_listen, Some("127.0.0.1:9999".parse().expect("an address")));
    assert_eq!(
        (settings.log.access, settings.log.level.as_str(), settings.log.json),
        (AccessLog::All, "info", false)
    );
}

#[test]
fn an_agent_and_a_gateway_of_one_node_share_no_file_and_no_port() {
    let text = "modules: {edgeTunnel: {enable: true}}";
    let (agent, gateway) = (agent(text), gateway(text));
    assert_ne!(agent.process.state_dir, gateway.process.state_dir);
    assert_ne!(agent.process.admin_socket, gateway.process.admin_socket);
    assert_ne!(agent.process.metrics_listen, gateway.process.metrics_listen);
    let (agent, gateway) = (agent.tunnel.expect("on"), gateway.tunnel.expect("on"));
    assert_eq!((agent.name.as_str(), agent.listen_port), ("node-1", 20006));
    assert_eq!((gateway.name.as_str(), gateway.listen_port), ("node-1-gateway", 20007));
}

#[test]
fn go_agents_are_spoken_with_where_the_file_asks_for_it() {
    for (tunnel, expected) in [
        ("enable: true", false),
        ("enable: true, goPeers: true", true),
        ("enable: true, goPeers: false", false),
    ] {
        let text = format!("modules: {{edgeTunnel: {{{tunnel}}}}}");
        for settings in [agent(&text), gateway(&text)] {
            assert_eq!(settings.tunnel.expect("on").go_peers, expected, "{tunnel}");
        }
    }
}

#[test]
fn go_c19_missing_modules_is_no_crash() {
    let nothing = agent("");
    for text in [
        "modules: null",
        "modules: {}",
        "modules: {edgeTunnel: null}",
        "modules: {edgeTunnel: {relayNodes: null, psk: null}}",
        "commonConfig:",
        "kubeAPIConfig: {metaServer: {security: null}}",
        "commonConfig: {bridgeDeviceIP: null}",
    ] {
        assert_eq!(agent(text), nothing, "{text}");
    }
    let relays = agent("modules: {edgeTunnel: {enable: true, relayNodes: [null, {nodeName: a}]}}");
    assert_eq!(relays.tunnel.expect("on").relays.len(), 1);
}

#[test]
fn go_d1_documented_defaults_are_those_that_count() {
    let preset = |path: &str| fields().find(|field| field.path == path).expect("a key").default;
    assert_eq!(preset("modules.edgeTunnel.maxCandidates"), Preset::Number(15));
    assert_eq!(preset("modules.edgeTunnel.tunnelLimitConfig.enable"), Preset::Flag(true));
    let document = edgemesh_config::document();
    for row in [
        "| `maxCandidates` | `15` |",
        "| `tunnelLimitConfig.enable` | `true` |",
        "| `listenPort` | `20006` |",
    ] {
        assert!(document.contains(row), "{row}");
    }
}

#[test]
fn the_mode_is_found_out_as_in_go() {
    let manual = |text| {
        let settings = resolved(Role::Agent, text, &cloud()).expect("settings").settings;
        assert!(settings.dns.is_none(), "DNS follows KUBERNETES_PORT, not the mode");
        settings.source
    };
    for (text, environment, mode, dns) in [
        ("", edge(), "EdgeMode", true),
        ("", cloud(), "CloudMode", false),
        ("modules: {edgeDNS: {enable: false}}", edge(), "EdgeMode", false),
        ("modules: {edgeDNS: {enable: true}}", cloud(), "CloudMode", true),
        ("kubeAPIConfig: {master: 'https://10.0.0.1:6443'}", edge(), "ManualMode", true),
        ("kubeAPIConfig: {kubeConfig: /k}", cloud(), "ManualMode", false),
        ("kubeAPIConfig: {manifests: /m}", cloud(), "ManifestMode", false),
        ("kubeAPIConfig: {mode: EdgeMode}", cloud(), "EdgeMode", false),
        ("kubeAPIConfig: {mode: CloudMode}", Environment { in_cluster: false, ..cloud() }, "CloudMode", true),
    ] {
        let settings = resolved(Role::Agent, text, &environment).expect("settings").settings;
        assert_eq!((settings.source.mode(), settings.dns.is_some()), (mode, dns), "{text} {environment:?}");
    }
    assert_eq!(
        manual("kubeAPIConfig: {master: 'https://10.0.0.1:6443', kubeConfig: /root/.kube/config}"),
        SourceSettings::Kubernetes {
            master: Some("https://10.0.0.1:6443".to_owned()),
            kubeconfig: Some("/root/.kube/config".into()),
            in_cluster: false,
        }
    );
    let service = |host: &str| Environment { kubernetes_service: Some((host.to_owned(), 443)), ..cloud() };
    for (host, url) in [
        ("10.96.0.1", "https://10.96.0.1:443"),
        ("fd00::1", "https://[fd00::1]:443"),
        ("api", "https://api:443"),
    ] {
        let source = resolved(Role::Gateway, "", &service(host)).expect("settings").settings.source;
        assert_eq!(
            source,
            SourceSettings::Kubernetes { master: Some(url.to_owned()), kubeconfig: None, in_cluster: true }
        );
    }
    let both =
        resolved(Role::Agent, "kubeAPIConfig: {manifests: /m, kubeConfig: /k}", &edge()).expect("settings");
    assert_eq!(
        both.problems[0].to_string(),
        "kubeAPIConfig.kubeConfig: without effect: kubeAPIConfig.manifests is set"
    );
}

#[test]
fn the_meta_server_is_spoken_to_as_its_security_says() {
    let meta = |security: &str| {
        agent(&format!("kubeAPIConfig: {{metaServer: {{security: {{{security}}}}}}}")).source
    };
    let token = Some(PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token"));
    let url = "https://127.0.0.1:10550".to_owned();
    assert_eq!(
        meta("requireAuthorization: true"),
        SourceSettings::MetaServer {
            url: url.clone(),
            ca_file: Some("/etc/edgemesh/metaserver/rootCA.crt".into()),
            cert_file: Some("/etc/edgemesh/metaserver/server.crt".into()),
            key_file: Some("/etc/edgemesh/metaserver/server.key".into()),
            insecure_skip_verify: false,
            token_file: token.clone(),
        }
    );
    assert_eq!(
        meta("requireAuthorization: true, insecureSkipTLSVerify: true, tlsCaFile: /ca"),
        SourceSettings::MetaServer {
            url,
            ca_file: None,
            cert_file: None,
            key_file: None,
            insecure_skip_verify: true,
            token_file: token,
        }
    );
    assert_eq!(meta("insecureSkipTLSVerify: true"), agent("").source);
}

#[test]
fn the_environment_is_checked() {
    let without = |node_name: Option<&str>| Environment { node_name: node_name.map(str::to_owned), ..edge() };
    for (environment, expected) in [
        (without(None), "NODE_NAME: not set; the downward API gives it"),
        (without(Some("")), "NODE_NAME: not set"),
        (without(Some("a b")), "NODE_NAME: \"a b\" is no name of a Kubernetes node"),
        (without(Some("Node")), "is no name of a Kubernetes node"),
        (Environment { kubernetes_service: None, ..cloud() }, "KUBERNETES_SERVICE_HOST: not set"),
    ] {
        let errors = errors(Role::Agent, "", &environment);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{environment:?}: {errors:?}");
    }
    let nameless = Environment { namespace: None, ..edge() };
    let warned = resolved(Role::Agent, "", &nameless).expect("settings");
    assert_eq!(warned.settings.namespace, None);
    assert_eq!(
        (warned.problems[0].severity, warned.problems[0].path.as_str()),
        (Severity::Warning, "NAMESPACE")
    );
    assert_eq!(resolved(Role::Gateway, "", &nameless).expect("settings").problems, []);
    let several = errors(Role::Agent, "", &Environment { in_cluster: true, ..Environment::default() });
    assert_eq!(several.len(), 3, "{several:?}");
}

#[test]
fn relays_have_their_port_and_know_themselves() {
    let file = "modules:
  edgeTunnel:
    enable: true
    listenPort: 7000
    advertiseAddress: [198.51.100.1, '[2001:db8::9]:1']
    relayNodes:
    - nodeName: node-1
      advertiseAddress: [192.0.2.1, '2001:db8::1', '192.0.2.2:443', relay.example.org, /ip4/192.0.2.3/tcp/5/p2p/Q]
    - nodeName: node-2
      advertiseAddress: ['192.0.2.9/p2p/Q', '192.0.2.1']
";
    let relays = [
        RelayNode {
            node_name: "node-1".to_owned(),
            advertise: [
                "192.0.2.1:7000",
                "[2001:db8::1]:7000",
                "192.0.2.2:443",
                "relay.example.org:7000",
                "/ip4/192.0.2.3/tcp/5/p2p/Q",
            ]
            .map(str::to_owned)
            .to_vec(),
        },
        RelayNode {
            node_name: "node-2".to_owned(),
            advertise: ["192.0.2.9:7000/p2p/Q", "192.0.2.1:7000"].map(str::to_owned).to_vec(),
        },
    ];
    let own = agent(file).tunnel.expect("on");
    assert!(own.is_relay);
    assert_eq!(own.relays, relays);
    assert_eq!(
        own.advertise,
        sockets(&[
            "198.51.100.1:7000",
            "[2001:db8::9]:1",
            "192.0.2.1:7000",
            "[2001:db8::1]:7000",
            "192.0.2.2:443",
            "192.0.2.3:5",
        ])
    );
    let gateway = gateway(file).tunnel.expect("on");
    assert!(!gateway.is_relay, "a gateway is the client of relays");
    assert_eq!(gateway.relays, relays);
    assert_eq!(gateway.advertise, sockets(&["198.51.100.1:7001", "[2001:db8::9]:1"]));
    let last = "modules: {edgeTunnel: {enable: true, listenPort: 65535}}";
    assert!(errors(Role::Gateway, last, &edge())[0].contains("there is none after 65535"));
    assert_eq!(agent(last).tunnel.expect("on").listen_port, 65535);
}

#[test]
fn dns_is_forwarded_only_with_cache_dns() {
    let dns = |text: &str| agent(&format!("modules: {{edgeDNS: {{{text}}}}}")).dns.expect("on");
    let idle = dns("cacheDNS: {upstreamServers: [10.96.0.10], cacheTTL: 5}");
    assert_eq!(idle, dns(""), "as in Go EdgeMesh, the block does nothing before it is enabled");
    let on = dns(
        "cacheDNS: {enable: true, upstreamServers: [10.96.0.10, '10.96.0.10:53', 'fd00::1'], cacheTTL: 5}",
    );
    assert!(on.forward_only && on.auto_detect_cluster_dns);
    assert_eq!(on.upstreams, sockets(&["10.96.0.10:53", "[fd00::1]:53"]));
    assert_eq!(on.cache_ttl, Duration::from_secs(5));
    assert_eq!(dns("upstreamServers: ['192.0.2.1:5353']").upstreams, sockets(&["192.0.2.1:5353"]));
    assert_eq!(
        dns("listenPort: 5353, listenAddresses: [127.0.0.1, '[::1]:54']").listen,
        sockets(&["127.0.0.1:5353", "[::1]:54"])
    );
    for (text, expected) in [
        ("cacheDNS: {enable: true, autoDetect: false}", "there is nobody to ask"),
        ("upstreamServers: [169.254.96.16]", "it would ask itself"),
    ] {
        let errors = errors(Role::Agent, &format!("modules: {{edgeDNS: {{{text}}}}}"), &edge());
        assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
    }
}

#[test]
fn lists_in_one_text_are_taken_apart() {
    let listening = |text: &str| {
        gateway(&format!("modules: {{edgeGateway: {{enable: true, {text}}}}}")).gateway.expect("on")
    };
    let all = listening("nic: '*', includeIP: '', excludeIP: '*'");
    assert!(all.nics.is_empty() && all.include.is_empty() && all.exclude.is_empty());
    let some = listening("nic: ' lo, eth0,', includeIP: '192.0.2.1,fd00::/8', excludeIP: '10.0.0.0/8 , ::1'");
    assert_eq!(some.nics, ["lo", "eth0"]);
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nets(&some.include), ["192.0.2.1/32", "fd00::/8"]);
    assert_eq!(nets(&some.exclude), ["10.0.0.0/8", "::1/128"]);
    let filtered = agent(
        "modules: {edgeTunnel: {enable: true, listenInterfaces: 'eth0,wlan0', extraFilteredInterfaces: wg}}",
    );
    let tunnel = filtered.tunnel.expect("on");
    assert_eq!(tunnel.listen_interfaces, ["eth0", "wlan0"]);
    assert_eq!(tunnel.extra_filtered_interfaces, ["wg"]);
}

#[test]
fn metrics_are_served_once_on_a_port() {
    let with = |common: &str, metrics: &str| {
        format!(
            "commonConfig: {{{common}}}\nmodules: {{edgeTunnel: {{enable: true, metricConfig: {{{metrics}}}}}}}"
        )
    };
    let listen = |text: &str| {
        let settings = agent(text);
        (
            settings.process.metrics_listen.map(|listen| listen.to_string()),
            settings.tunnel.expect("on").metrics,
        )
    };
    assert_eq!(listen(&with("", "")), (Some("127.0.0.1:9999".to_owned()), None));
    assert_eq!(listen(&with("", "enable: true")), (None, Some(9999)));
    assert_eq!(
        listen(&with("", "enable: true, port: 9100")),
        (Some("127.0.0.1:9999".to_owned()), Some(9100))
    );
    assert_eq!(listen(&with("metricsListen: off", "enable: true")), (None, Some(9999)));
    let twice = with("metricsListen: '10.0.0.1:9999'", "enable: true");
    assert!(errors(Role::Agent, &twice, &edge())[0].contains("say off here or another port"));
}

#[test]
fn proxy_and_pod_network_are_typed() {
    let settings = agent(
        "modules:
  edgeProxy: {enable: true, serviceFilterMode: FilterIfLabelDoesNotExists, socks5Proxy: {enable: true}}
  edgeCNI: {enable: true, meshCIDRConfig: {cloudCIDR: [10.244.36.0/24], edgeCIDR: [10.244.13.0/24, 'fd00:1::/64']}}
",
    );
    let proxy = settings.proxy.expect("on");
    assert_eq!((proxy.filter, proxy.socks5), (ServiceFilter::IfLabelDoesNotExist, Some(10800)));
    assert_eq!((proxy.port, proxy.max_connections, proxy.max_udp_sessions), (15001, 10_240, 4_096));
    assert_eq!((proxy.tcp_idle, proxy.udp_idle), (Duration::from_secs(7_200), Duration::from_secs(60)));
    assert!(!proxy.hijack_kubernetes);
    let cni = settings.cni.expect("on");
    assert_eq!((cni.cloud_cidrs.len(), cni.edge_cidrs.len()), (1, 2));
}

/// Another value than the default, as YAML, for each key that does something.
fn another(path: &str, shape: Shape, default: Preset) -> String {
    match (path, shape) {
        ("modules.edgeTunnel.psk.path", _) => "/other".to_owned(),
        (_, Shape::Flag) => (default != Preset::Flag(true)).to_string(),
        (_, Shape::Number(..) | Shape::Port) => "77".to_owned(),
        (_, Shape::File | Shape::AbsolutePath) => "/other".to_owned(),
        (_, Shape::OneOf(words)) => words.last().copied().unwrap_or_default().to_owned(),
        (_, Shape::Url) => "http://other:1".to_owned(),
        (_, Shape::Ip) => "10.9.9.9".to_owned(),
        (_, Shape::Listen) => "127.0.0.9:9".to_owned(),
        (_, Shape::Addresses) => "[10.9.9.9]".to_owned(),
        (_, Shape::Interfaces | Shape::Device) => "other0".to_owned(),
        (_, Shape::Nets) => "10.9.9.9".to_owned(),
        (_, Shape::Cidrs) => "[10.9.0.0/16]".to_owned(),
        (_, Shape::Domain) => "other.example".to_owned(),
        (_, Shape::LogLevel) => "debug".to_owned(),
        (_, Shape::Relays) => "[{nodeName: other, advertiseAddress: [192.0.2.1]}]".to_owned(),
        (path, shape) => panic!("{path} has the shape {shape:?}, for which there is no other value here"),
    }
}

/// What must be set for a key to do something.
const CONDITIONS: [(&str, &str, &str); 8] = [
    ("kubeAPIConfig.mode", "kubeAPIConfig.mode", "CloudMode"),
    ("kubeAPIConfig.metaServer.security", "kubeAPIConfig.metaServer.security.requireAuthorization", "true"),
    ("modules.edgeDNS.cacheDNS.", "modules.edgeDNS.cacheDNS.enable", "true"),
    ("modules.edgeDNS.cacheDNS.autoDetect", "modules.edgeDNS.cacheDNS.upstreamServers", "[10.9.9.1]"),
    ("modules.edgeProxy.socks5Proxy.", "modules.edgeProxy.socks5Proxy.enable", "true"),
    ("modules.edgeTunnel.metricConfig.", "modules.edgeTunnel.metricConfig.enable", "true"),
    ("modules.edgeTunnel.metricConfig.", "commonConfig.metricsListen", "off"),
    ("commonConfig.bridgeDeviceName", "modules.edgeDNS.enable", "false"),
];

#[test]
fn every_key_that_does_something_reaches_the_settings() {
    // Refused or without consequence whatever is set: the key of the private network and what carries the tunnel.
    const CHECKED_ONLY: [&str; 2] = ["modules.edgeTunnel.psk.enable", "modules.edgeTunnel.transport"];
    for role in [Role::Agent, Role::Gateway] {
        let on = match role {
            Role::Agent => {
                "modules: {edgeProxy: {enable: true}, edgeTunnel: {enable: true}, edgeCNI: {enable: true}}"
            }
            Role::Gateway => "modules: {edgeGateway: {enable: true}, edgeTunnel: {enable: true}}",
        };
        let keys = fields().filter(|field| {
            field.is_used()
                && field.roles.include(role)
                && !field.path.contains("[]")
                && !field.block().is_empty()
                && !CHECKED_ONLY.contains(&field.path)
        });
        for field in keys {
            let environment = Environment { kubernetes_service: cloud().kubernetes_service, ..edge() };
            let mut raw = parse(role, on).expect("accepted").raw;
            for (of, condition, value) in CONDITIONS {
                if field.path.starts_with(of) && field.path != condition {
                    raw.set(condition, value).expect("accepted");
                }
            }
            let before = resolve(&raw, &environment).expect("settings").settings;
            let default = if field.path.ends_with(".enable") && raw.says(field.path) {
                Preset::Flag(true)
            } else if field.default == Preset::ByMode {
                Preset::Flag(before.dns.is_some())
            } else {
                field.default
            };
            let value = match field.path {
                "kubeAPIConfig.mode" => "CloudMode".to_owned(),
                path => another(path, field.shape, default),
            };
            raw.set(field.path, &value).expect("accepted");
            let after = resolve(&raw, &environment).expect("settings").settings;
            let shown = |settings: &Settings| {
                let text = format!("{settings:?}");
                text.split(", effective: ").next().map(str::to_owned)
            };
            assert_ne!(
                shown(&before),
                shown(&after),
                "{} {value} changes nothing for the {role}",
                field.path
            );
            let changed = changes(&before, &after);
            let told: Vec<_> = changed.running.iter().chain(&changed.restart).copied().collect();
            assert_eq!(told, [field.path], "{value}");
        }
    }
}
