use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_mesh::{
    Backend, Distribution, Frontend, FrontendEntry, Hints, MeshSnapshot, Policy, PortEntry, ServiceEntry,
    ServiceKind,
};
use edgemesh_ruleset::{Ruleset, RulesetSettings};

pub(crate) fn settings(host_addresses: &[&str]) -> RulesetSettings {
    let parse = |text: &&str| text.parse::<IpAddr>().expect("a host address");
    RulesetSettings {
        host_addresses: host_addresses.iter().map(parse).collect::<BTreeSet<_>>(),
        ..RulesetSettings::default()
    }
}

pub(crate) fn compile(fixture: &str) -> Ruleset {
    Ruleset::compile(&snapshot(fixture), &settings(&[]))
}

pub(crate) fn snapshot(fixture: &str) -> MeshSnapshot {
    let mut snapshot = MeshSnapshot::empty(Name::from("here"));
    let mut services: Vec<ServiceEntry> = Vec::new();
    for line in fixture.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["node", name] => snapshot.node.name = Name::from(name),
            ["svc", name, vips, ref flags @ ..] => services.push(service(name, vips, flags)),
            ["port", port] => add_port(services.last_mut().expect("a service"), port),
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
    for service in services.into_iter().map(Arc::new) {
        for ip in &service.cluster_ips {
            for (port, entry) in service.ports.iter().enumerate() {
                let frontend = Frontend { ip: *ip, port: entry.port, protocol: entry.protocol };
                snapshot.frontends.insert(frontend, FrontendEntry { service: service.clone(), port });
            }
        }
        snapshot.services.insert(service.id.clone(), service);
    }
    snapshot
}

fn service(name: &str, vips: &str, flags: &[&str]) -> ServiceEntry {
    ServiceEntry {
        id: ObjectKey::new("default", name),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vips.split(',').map(|vip| vip.parse().expect("a VIP")).collect(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        affinity: None,
        distribution: Distribution::Spread,
        internal_local: flags.contains(&"local"),
        policy: Policy::RoundRobin,
        publish_not_ready: false,
        intercepted: true,
    }
}

fn add_port(service: &mut ServiceEntry, text: &str) {
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
