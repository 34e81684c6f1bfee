use std::sync::Arc;

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_mesh::{
    Backend, DeviceKind, Distribution, Frontend, FrontendEntry, Hints, HostFacts, HostRoute, MeshSnapshot,
    NodePath, Path, PathSnapshot, Policy, PortEntry, Scope, ServiceEntry, ServiceKind,
};
use edgemesh_ruleset::{Ruleset, RulesetSettings};
use ipnet::IpNet;

/// A snapshot with the host it is compiled for.
pub(crate) struct Scene {
    pub(crate) snapshot: MeshSnapshot,
    pub(crate) paths: PathSnapshot,
    pub(crate) settings: RulesetSettings,
}

impl Scene {
    pub(crate) fn compile(&self) -> Ruleset {
        Ruleset::compile(&self.snapshot, &self.paths, &self.settings)
    }
}

pub(crate) fn compile(fixture: &str) -> Ruleset {
    scene(fixture).compile()
}

pub(crate) fn scene(fixture: &str) -> Scene {
    let mut snapshot = MeshSnapshot::empty(Name::from("here"));
    let mut paths = PathSnapshot::default();
    let settings = RulesetSettings::default();
    let mut host = HostFacts { forward_v4: true, forward_v6: true, ..HostFacts::default() };
    let mut services: Vec<ServiceEntry> = Vec::new();
    for line in fixture.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["node", name] => snapshot.node.name = Name::from(name),
            ["host", ip] => drop(host.addresses.insert(ip.parse().expect("an address"))),
            ["noforward"] => (host.forward_v4, host.forward_v6) = (false, false),
            ["filtered-bridges"] => host.bridges_filtered = true,
            ["refused-untranslated"] => host.untranslated_refused = true,
            ["route", prefix, ref flags @ ..] => host.routes.push(route(prefix, flags)),
            ["path", node, kind, ref address @ ..] => {
                paths.nodes.insert(Name::from(node), path(kind, address));
            }
            ["range", node, prefix] => {
                let prefix: IpNet = prefix.parse().expect("a range");
                if snapshot.node.name == Name::from(node) {
                    host.pod_ranges.push(prefix);
                }
                Arc::make_mut(&mut snapshot.pod_ranges).entry(Name::from(node)).or_default().push(prefix);
            }
            ["svc", name, vips, ref flags @ ..] => services.push(service(name, vips, flags)),
            ["port", port] => add_port(services.last_mut().expect("a service"), port, None),
            ["port", port, at] => add_port(services.last_mut().expect("a service"), port, Some(at)),
            ["ep", addr, ref flags @ ..] => {
                let ports = &mut services.last_mut().expect("a service").ports;
                let port = ports.last_mut().expect("a port");
                let mut backends = port.backends.to_vec();
                backends.push(backend(addr, flags));
                port.backends = backends.into();
            }
            _ => panic!("fixture line: {line}"),
        }
    }
    host.routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.prefix_len()));
    for service in services.into_iter().map(Arc::new) {
        let scopes = [
            (&service.cluster_ips, Scope::Cluster),
            (&service.external_ips, Scope::External),
            (&service.load_balancer_ips, Scope::LoadBalancer),
        ];
        for (port, entry) in service.ports.iter().enumerate() {
            for (ips, scope) in scopes {
                for ip in ips {
                    let frontend = Frontend { ip: *ip, port: entry.port, protocol: entry.protocol };
                    let service = service.clone();
                    snapshot.frontends.insert(frontend, FrontendEntry { service, port, scope });
                }
            }
            if let Some(node_port) = entry.node_port {
                let entry_of = FrontendEntry { service: service.clone(), port, scope: Scope::NodePort };
                snapshot.node_ports.insert((entry.protocol, node_port), entry_of);
            }
        }
        snapshot.services.insert(service.id.clone(), service);
    }
    paths.host = Arc::new(host);
    Scene { snapshot, paths, settings }
}

fn route(prefix: &str, flags: &[&str]) -> HostRoute {
    let has = |word| flags.contains(&word);
    HostRoute {
        prefix: prefix.parse().expect("a prefix"),
        gateway: has("gateway"),
        device: match () {
            () if has("pods") => DeviceKind::Pods,
            () if has("overlay") => DeviceKind::Overlay,
            () => DeviceKind::Shared,
        },
        bridge_filtered: has("filtered"),
        one_way: has("oneway"),
        discards: has("discards"),
    }
}

fn path(kind: &str, address: &[&str]) -> NodePath {
    let path = match kind {
        "lan" => Path::Lan,
        "direct" => Path::Direct,
        "punched" => Path::Punched,
        "relayed" => Path::Relayed,
        "unreachable" => Path::Unreachable,
        _ => panic!("path: {kind}"),
    };
    let lan_address = address.first().map(|ip| ip.parse().expect("an address"));
    NodePath { lan_address, ..NodePath::new(path) }
}

fn service(name: &str, vips: &str, flags: &[&str]) -> ServiceEntry {
    ServiceEntry {
        id: ObjectKey::new("default", name),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vips.split(',').map(|vip| vip.parse().expect("a VIP")).collect(),
        external_ips: addresses(flags, "external="),
        load_balancer_ips: addresses(flags, "lb="),
        ports: Vec::new(),
        affinity: flags.contains(&"affinity").then_some(std::time::Duration::from_secs(10_800)),
        distribution: Distribution::Spread,
        internal_local: flags.contains(&"local"),
        external_local: flags.contains(&"outlocal"),
        source_ranges: flags
            .iter()
            .find_map(|flag| flag.strip_prefix("from="))
            .map(|ranges| ranges.split(',').map(|range| range.parse().expect("a range")).collect()),
        health_check_node_port: None,
        policy: if flags.contains(&"hash") { Policy::SourceIpHash } else { Policy::RoundRobin },
        publish_not_ready: false,
        intercepted: true,
    }
}

fn addresses(flags: &[&str], word: &str) -> Vec<std::net::IpAddr> {
    let list = flags.iter().find_map(|flag| flag.strip_prefix(word)).into_iter();
    list.flat_map(|list| list.split(',')).map(|ip| ip.parse().expect("an address")).collect()
}

fn add_port(service: &mut ServiceEntry, text: &str, node_port: Option<&str>) {
    let (port, protocol) = text.split_once('/').expect("port/protocol");
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => panic!("protocol: {protocol}"),
    };
    service.ports.push(PortEntry {
        name: None,
        port: port.parse().expect("a port"),
        protocol,
        node_port: node_port.map(|port| port.parse().expect("a node port")),
        backends: Arc::from([]),
    });
}

fn backend(addr: &str, flags: &[&str]) -> Backend {
    let node = flags.iter().find_map(|flag| flag.strip_prefix('@'));
    let has = |word| flags.contains(&word);
    Backend {
        addr: addr.parse().expect("an endpoint"),
        node: node.map(Name::from),
        zone: None,
        hostname: None,
        pod: None,
        ready: !has("notready") && !has("leaving"),
        serving: !has("notready"),
        terminating: has("leaving"),
        hints: Hints::default(),
    }
}
