//! Decisions from a few lines of text.
//!
//! `node NAME [ZONE]` is the own node, `path NODE KIND` a path, `client ADDR` who connects (a stranger by default),
//! `svc VIP:PORT[/udp] [flags]` the Service, and each `ep ADDR NODE|- ZONE|- [flags]` an endpoint. The expectation is one
//! `address verdict` per endpoint, with the order of those that are tried, or the reason of a rejection.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_balance::{Feedback, PickCtx};
use edgemesh_mesh::{
    Backend, Distribution, Frontend, FrontendEntry, Hints, MeshSnapshot, NodePath, Path, PathSnapshot,
    Policy, PortEntry, Scope, ServiceEntry, ServiceKind, TunnelRule, TunnelRules,
};
use edgemesh_route::{
    Admission, Asker, Conn, Decision, Hop, Origin, RejectReason, Router, Target, admission, admit,
    candidates, candidates_from,
};

struct World {
    snapshot: MeshSnapshot,
    paths: PathSnapshot,
    frontends: Vec<Frontend>,
    client: SocketAddr,
}

fn world(text: &str) -> World {
    let mut snapshot = MeshSnapshot::empty(Name::from("n1"));
    let mut paths = PathSnapshot::default();
    let mut frontends: Vec<Frontend> = Vec::new();
    let mut service: Option<ServiceEntry> = None;
    let mut backends: Vec<Backend> = Vec::new();
    let mut scope = Scope::Cluster;
    let mut client: SocketAddr = "10.9.9.9:1234".parse().unwrap();
    snapshot.node.pod_ranges = vec!["10.1.1.0/24".parse().unwrap()];
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["node", name, zone @ ..] => {
                snapshot.node.name = Name::from(*name);
                snapshot.node.zone = zone.first().map(|zone| Name::from(*zone));
            }
            ["path", node, kind] => {
                let path = match *kind {
                    "lan" => Path::Lan,
                    "direct" => Path::Direct,
                    "relayed" => Path::Relayed,
                    _ => Path::Unreachable,
                };
                paths.nodes.insert(Name::from(*node), NodePath::new(path));
            }
            ["client", ip] => client.set_ip(ip.parse().unwrap()),
            ["svc", frontend, flags @ ..] => {
                scope = parse_scope(flags);
                frontends.push(parse_frontend(frontend));
                service = Some(parse_service(frontends[0], flags));
            }
            ["ep", addr, node, zone, flags @ ..] => backends.push(parse_backend(addr, node, zone, flags)),
            [] => {}
            _ => panic!("unknown line: {line}"),
        }
    }
    if let Some(mut service) = service {
        service.ports[0].backends = backends.into();
        let service = Arc::new(service);
        for frontend in &frontends {
            let entry = FrontendEntry { service: service.clone(), port: 0, scope };
            match scope {
                Scope::NodePort => {
                    snapshot.node_ports.insert((frontend.protocol, frontend.port), entry);
                }
                Scope::Cluster | Scope::External | Scope::LoadBalancer => {
                    snapshot.frontends.insert(*frontend, entry);
                }
            }
        }
    }
    World { snapshot, paths, frontends, client }
}

fn parse_frontend(text: &str) -> Frontend {
    let (addr, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let addr: SocketAddr = addr.parse().unwrap();
    Frontend { ip: addr.ip(), port: addr.port(), protocol: protocol.parse().unwrap() }
}

fn parse_scope(flags: &[&str]) -> Scope {
    match () {
        () if flags.contains(&"external") => Scope::External,
        () if flags.contains(&"load-balancer") => Scope::LoadBalancer,
        () if flags.contains(&"node-port") => Scope::NodePort,
        () => Scope::Cluster,
    }
}

fn parse_service(frontend: Frontend, flags: &[&str]) -> ServiceEntry {
    let has = |flag| flags.contains(&flag);
    ServiceEntry {
        id: ObjectKey::new("default", "web"),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![frontend.ip],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![PortEntry {
            name: None,
            port: frontend.port,
            protocol: frontend.protocol,
            node_port: None,
            backends: Vec::new().into(),
        }],
        affinity: has("affinity").then_some(Duration::from_secs(60)),
        distribution: match () {
            () if has("same-node") => Distribution::PreferSameNode,
            () if has("same-zone") => Distribution::PreferSameZone,
            () => Distribution::Spread,
        },
        internal_local: has("local"),
        external_local: has("external-local"),
        source_ranges: flags.iter().find_map(|flag| flag.strip_prefix("sources=")).map(|ranges| {
            ranges.split(',').filter(|range| !range.is_empty()).map(|range| range.parse().unwrap()).collect()
        }),
        health_check_node_port: None,
        policy: if has("hash") { Policy::SourceIpHash } else { Policy::RoundRobin },
        publish_not_ready: false,
        intercepted: true,
    }
}

fn parse_backend(addr: &str, node: &str, zone: &str, flags: &[&str]) -> Backend {
    let some = |text: &str| (text != "-").then(|| Name::from(text));
    let hints = |key: &str| flags.iter().filter_map(|it| it.strip_prefix(key)).map(Name::from).collect();
    let has = |flag| flags.contains(&flag);
    Backend {
        addr: addr.parse().unwrap(),
        node: some(node),
        zone: some(zone),
        hostname: None,
        pod: None,
        ready: !has("unready") && !has("leaving"),
        serving: !has("unready"),
        terminating: has("leaving"),
        hints: Hints { zones: hints("zone="), nodes: hints("node=") },
    }
}

fn ctx() -> PickCtx {
    // With this draw, endpoints of the same rank are first tried in the order of the tables below.
    PickCtx { now: Instant::now(), client: "10.9.9.9".parse().unwrap(), draw: 1 }
}

fn conn(world: &World) -> Conn {
    let frontend = world.frontends.first().copied().unwrap_or_else(|| parse_frontend("10.96.0.1:80"));
    Conn { frontend, client: world.client }
}

/// Explains, routes, and compares both: the explanation must tell the decision.
fn check(text: &str, expected: &str) {
    let world = world(text);
    let (router, conn, ctx) = (Router::new(), conn(&world), ctx());
    let explanation = router.explain(&world.snapshot, &world.paths, &conn, &ctx);
    let mut lines: Vec<String> = explanation
        .candidates
        .iter()
        .map(|it| {
            let ip = it.backend.ip();
            match it.order {
                Some(_) if it.verdict.as_str() == "chosen" => format!("{ip} chosen"),
                Some(_) => format!("{ip} next {}", it.verdict.as_str()),
                None => format!("{ip} {}", it.verdict.as_str()),
            }
        })
        .collect();
    match router.route(&world.snapshot, &world.paths, &conn, &ctx) {
        Decision::Targets(targets) => {
            let mut ordered: Vec<_> = explanation.candidates.iter().filter(|it| it.order.is_some()).collect();
            ordered.sort_by_key(|it| it.order);
            let told: Vec<_> = ordered.iter().map(|it| it.backend).collect();
            let done: Vec<_> = targets.iter().map(|it| it.backend).collect();
            assert_eq!(told, done, "{text}");
            assert_eq!(explanation.reject, None);
        }
        Decision::Reject(reason) => {
            assert_eq!(explanation.reject, Some(reason), "{text}");
            lines.push(reason.as_str().to_owned());
        }
    }
    // Which of several equals is chosen is the balancer's affair; it is tested there.
    let expected: Vec<&str> = expected.split(" | ").collect();
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn rejections_have_reasons() {
    check("node n1", "unknown_frontend");
    check("svc 10.96.0.1:80", "no_endpoints");
    check("svc 10.96.0.1:80/sctp\nep 10.0.0.1:80 n1 -", "unsupported_protocol");
    check("svc 10.96.0.1:80\nep 10.0.0.1:80 n1 - unready", "10.0.0.1 not_ready | no_endpoints");
    check("svc 10.96.0.1:80 local\nep 10.0.0.1:80 n2 -", "10.0.0.1 other_node | no_local_endpoints");
}

#[test]
fn ready_endpoints_first_and_leaving_ones_when_there_is_none() {
    check(
        "svc 10.96.0.1:80
         ep 10.0.0.1:80 n1 - unready
         ep 10.0.0.2:80 n1 - leaving
         ep 10.0.0.3:80 n1 -",
        "10.0.0.1 not_ready | 10.0.0.2 terminating | 10.0.0.3 chosen",
    );
    check(
        "svc 10.96.0.1:80
         ep 10.0.0.1:80 n1 - unready
         ep 10.0.0.2:80 n1 - leaving",
        "10.0.0.1 not_ready | 10.0.0.2 chosen",
    );
}

#[test]
fn internal_traffic_policy_is_for_cluster_addresses() {
    let endpoints = "\nep 10.0.0.1:80 n2 -\nep 10.0.0.2:80 n1 - leaving\npath n2 lan";
    check(&format!("svc 10.96.0.1:80 local{endpoints}"), "10.0.0.1 other_node | 10.0.0.2 chosen");
    check(&format!("svc 10.96.0.1:80 local external{endpoints}"), "10.0.0.1 chosen | 10.0.0.2 terminating");
}

const OUTER: [&str; 3] = ["external", "load-balancer", "node-port"];

#[test]
fn external_traffic_policy_is_for_outer_addresses() {
    let endpoints = "\nep 10.0.0.1:80 n2 -\nep 10.0.0.2:80 n1 -\npath n2 lan";
    let far = "\nep 10.0.0.1:80 n2 -\npath n2 lan";
    for (scope, policies, near, alone) in [
        ("", "external-local", "10.0.0.1 next other_turn | 10.0.0.2 chosen", "10.0.0.1 chosen"),
        ("", "local", "10.0.0.1 other_node | 10.0.0.2 chosen", "10.0.0.1 other_node | no_local_endpoints"),
    ] {
        check(&format!("svc 10.96.0.1:80 {scope} {policies}{endpoints}"), near);
        check(&format!("svc 10.96.0.1:80 {scope} {policies}{far}"), alone);
    }
    for scope in OUTER {
        check(
            &format!("svc 192.0.2.1:30080 {scope} external-local{endpoints}"),
            "10.0.0.1 other_node | 10.0.0.2 chosen",
        );
        check(
            &format!("svc 192.0.2.1:30080 {scope} external-local{far}"),
            "10.0.0.1 other_node | no_local_endpoints",
        );
        check(&format!("svc 192.0.2.1:30080 {scope} local{far}"), "10.0.0.1 chosen");
        check(
            &format!("svc [2001:db8::1]:30080 {scope} external-local{far}"),
            "10.0.0.1 other_node | no_local_endpoints",
        );
        // KEP-1669.
        check(
            &format!(
                "svc 192.0.2.1:30080 {scope} external-local
                 ep 10.0.0.1:80 n2 -
                 ep 10.0.0.2:80 n1 - leaving
                 ep 10.0.0.3:80 n1 - unready"
            ),
            "10.0.0.1 other_node | 10.0.0.2 chosen | 10.0.0.3 not_ready",
        );
    }
}

#[test]
fn clients_inside_reach_outer_addresses_as_they_reach_the_cluster() {
    let far = "\nep 10.0.0.1:80 n2 -\npath n2 lan";
    for scope in OUTER {
        for client in ["10.1.1.9", "127.0.0.1", "169.254.96.16"] {
            check(
                &format!("client {client}\nsvc 192.0.2.1:30080 {scope} external-local{far}"),
                "10.0.0.1 chosen",
            );
        }
        check(
            &format!("client 10.1.2.9\nsvc 192.0.2.1:30080 {scope} external-local{far}"),
            "10.0.0.1 other_node | no_local_endpoints",
        );
    }
    check(
        &format!("client 10.1.1.9\nsvc 10.96.0.1:80 local external-local{far}"),
        "10.0.0.1 other_node | no_local_endpoints",
    );
}

#[test]
fn source_ranges_are_for_load_balancer_addresses() {
    let endpoint = "\nep 10.0.0.1:80 n1 -";
    let refused = "10.0.0.1 source_not_allowed | source_not_allowed";
    for (sources, client, expected) in [
        ("sources=198.51.100.0/24,2001:db8::/32", "198.51.100.9", "10.0.0.1 chosen"),
        ("sources=198.51.100.0/24,2001:db8::/32", "2001:db8::9", "10.0.0.1 chosen"),
        ("sources=198.51.100.0/24,2001:db8::/32", "198.51.101.9", refused),
        ("sources=198.51.100.0/24,2001:db8::/32", "2001:db9::9", refused),
        ("sources=198.51.100.0/24", "2001:db8::9", refused),
        // A client inside is a client.
        ("sources=198.51.100.0/24", "10.1.1.9", refused),
        ("sources=", "198.51.100.9", refused),
        ("", "198.51.100.9", "10.0.0.1 chosen"),
    ] {
        let world = |scope: &str| format!("client {client}\nsvc 192.0.2.1:80 {scope} {sources}{endpoint}");
        check(&world("load-balancer"), expected);
        for open in ["", "external", "node-port"] {
            check(&world(open), "10.0.0.1 chosen");
        }
    }
}

#[test]
fn node_ports_are_of_their_protocol() {
    let mut world = world("svc 192.0.2.1:30080 node-port\nep 10.0.0.1:80 n1 -");
    let reject =
        |world: &World| match Router::new().route(&world.snapshot, &world.paths, &conn(world), &ctx()) {
            Decision::Targets(_) => None,
            Decision::Reject(reason) => Some(reason),
        };
    assert_eq!(reject(&world), None);
    world.frontends[0].protocol = Protocol::Udp;
    assert_eq!(reject(&world), Some(RejectReason::UnknownFrontend));
    world.frontends[0].protocol = Protocol::Sctp;
    assert_eq!(reject(&world), Some(RejectReason::UnsupportedProtocol));
    world.frontends[0] = parse_frontend("192.0.2.1:80");
    assert_eq!(reject(&world), Some(RejectReason::UnknownFrontend));
}

/// What the kernel's rules are told: the endpoints of the best rank, else whether to refuse or to drop.
#[track_caller]
fn check_candidates(text: &str, outside: &str, inside: &str) {
    let world = world(text);
    let frontend = world.frontends[0];
    let entry = world.snapshot.lookup(&frontend, true).unwrap();
    for (origin, expected) in [(Origin::Outside, outside), (Origin::Inside, inside)] {
        let found = candidates_from(&world.snapshot, &world.paths, entry, &frontend, origin);
        let told = match (found.backends.as_slice(), found.has_endpoints) {
            ([], true) => "drop".to_owned(),
            ([], false) => "refuse".to_owned(),
            (backends, has_endpoints) => {
                assert!(has_endpoints);
                backends.iter().map(|it| it.addr.ip().to_string()).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(told, expected, "{origin:?}: {text}");
    }
    let default = candidates(&world.snapshot, &world.paths, entry, &frontend);
    assert_eq!(default, candidates_from(&world.snapshot, &world.paths, entry, &frontend, Origin::Outside));
}

#[test]
fn candidates_are_those_of_the_best_rank() {
    let endpoints = "
        path n2 lan
        path n3 direct
        ep 10.0.0.1:80 n1 za
        ep 10.0.0.2:80 n1 za unready
        ep 10.0.0.3:80 n2 za
        ep 10.0.0.4:80 n3 zb
        ep 10.0.0.5:80 n4 zb
        ep 10.0.0.6:80 - -
        ep [fd00::1]:80 n1 za";
    for (flags, outside, inside) in [
        ("", "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.6", "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.6"),
        ("same-zone", "10.0.0.1 10.0.0.3", "10.0.0.1 10.0.0.3"),
        ("same-node", "10.0.0.1", "10.0.0.1"),
        ("local", "10.0.0.1", "10.0.0.1"),
        ("external-local", "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.6", "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.6"),
    ] {
        check_candidates(&format!("node n1 za\nsvc 10.96.0.1:80 {flags}{endpoints}"), outside, inside);
    }
    for scope in OUTER {
        check_candidates(
            &format!("node n1 za\nsvc 192.0.2.1:80 {scope} external-local{endpoints}"),
            "10.0.0.1",
            "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.6",
        );
    }
    check_candidates(&format!("node n1 za\nsvc [fd00::96]:80{endpoints}"), "fd00::1", "fd00::1");
}

#[test]
fn without_candidates_a_connection_is_refused_or_dropped() {
    for (flags, endpoints, outside, inside) in [
        ("", "", "refuse", "refuse"),
        ("", "ep 10.0.0.1:80 n1 - unready", "refuse", "refuse"),
        ("", "ep 10.96.0.1:80 n1 -", "refuse", "refuse"),
        ("local", "", "refuse", "refuse"),
        ("local", "ep 10.0.0.1:80 n2 -", "drop", "drop"),
        ("local", "ep 10.0.0.1:80 - -", "drop", "drop"),
        ("local", "ep 10.0.0.1:80 n2 - leaving", "drop", "drop"),
        ("local", "ep 10.0.0.1:80 n2 - unready", "refuse", "refuse"),
        ("local", "ep 10.0.0.1:80 n2 -\nep 10.0.0.2:80 n1 - leaving", "10.0.0.2", "10.0.0.2"),
        ("external external-local", "ep 10.0.0.1:80 n2 -", "drop", "10.0.0.1"),
        ("load-balancer external-local", "ep 10.0.0.1:80 n2 -", "drop", "10.0.0.1"),
        ("node-port external-local", "ep 10.0.0.1:80 n2 -", "drop", "10.0.0.1"),
        ("node-port external-local", "ep 10.0.0.1:80 n2 - unready", "refuse", "refuse"),
        ("node-port external-local", "ep 10.0.0.1:80 n2 - leaving", "drop", "10.0.0.1"),
        ("node-port local", "ep 10.0.0.1:80 n2 -", "10.0.0.1", "10.0.0.1"),
    ] {
        check_candidates(&format!("svc 10.96.0.1:80 {flags}\n{endpoints}"), outside, inside);
    }
    // The kernel carries what the router refuses.
    check_candidates("svc 10.96.0.1:80/sctp\nep 10.0.0.1:80 n1 -", "10.0.0.1", "10.0.0.1");
}

#[test]
fn hints_are_not_asked_under_a_policy_or_of_the_last_that_serve() {
    // Both endpoints are here, and one is hinted to another zone.
    let here = "
        ep 10.0.0.1:80 n1 za zone=za
        ep 10.0.0.2:80 n1 za zone=zb";
    check_candidates(&format!("node n1 za\nsvc 10.96.0.1:80{here}"), "10.0.0.1", "10.0.0.1");
    check_candidates(
        &format!("node n1 za\nsvc 10.96.0.1:80 local{here}"),
        "10.0.0.1 10.0.0.2",
        "10.0.0.1 10.0.0.2",
    );
    check_candidates(
        &format!("node n1 za\nsvc 10.96.0.1:80 node-port external-local{here}"),
        "10.0.0.1 10.0.0.2",
        "10.0.0.1",
    );
    check_candidates(
        "node n1 za
         svc 10.96.0.1:80
         ep 10.0.0.1:80 n1 za leaving zone=za
         ep 10.0.0.2:80 n1 za leaving zone=zb",
        "10.0.0.1 10.0.0.2",
        "10.0.0.1 10.0.0.2",
    );
    // Hints of endpoints that are not ready do not count, nor does it when these have none.
    check_candidates(
        "node n1 za
         svc 10.96.0.1:80
         ep 10.0.0.1:80 n1 za zone=za
         ep 10.0.0.2:80 n1 za zone=zb
         ep 10.0.0.3:80 n1 za unready
         ep 10.0.0.4:80 n1 za leaving",
        "10.0.0.1",
        "10.0.0.1",
    );
    // Only the hint of one that is not ready is for us.
    check_candidates(
        "node n1 za
         svc 10.96.0.1:80
         ep 10.0.0.1:80 n1 za zone=zb
         ep 10.0.0.2:80 n1 za zone=za unready",
        "10.0.0.1",
        "10.0.0.1",
    );
}

#[test]
fn hints_for_nodes_then_for_zones_and_those_that_are_for_us_are_alike() {
    let paths = "\npath n2 lan\npath n3 direct";
    for (endpoints, expected) in [
        // KEP-3015: without a hint for this node, those for its zone count.
        ("ep 10.0.0.1:80 n2 za zone=za node=n2\nep 10.0.0.2:80 n3 zb zone=zb node=n3", "10.0.0.1"),
        // One without a hint for nodes: zones count.
        ("ep 10.0.0.1:80 n2 za zone=za node=n1\nep 10.0.0.2:80 n3 zb zone=za", "10.0.0.1 10.0.0.2"),
        // One without any hint: none counts.
        ("ep 10.0.0.1:80 n2 za zone=za node=n1\nep 10.0.0.2:80 n3 zb", "10.0.0.1 10.0.0.2"),
        // Several nodes and zones in one hint.
        ("ep 10.0.0.1:80 n2 za zone=zb zone=za\nep 10.0.0.2:80 n3 zb zone=zb", "10.0.0.1"),
    ] {
        check_candidates(&format!("node n1 za\nsvc 10.96.0.1:80\n{endpoints}{paths}"), expected, expected);
    }
    // A node without a zone has no hint for zones.
    let zones = "ep 10.0.0.1:80 n2 za zone=za\nep 10.0.0.2:80 n3 zb zone=zb";
    check_candidates(
        &format!("node n1\nsvc 10.96.0.1:80\n{zones}{paths}"),
        "10.0.0.1 10.0.0.2",
        "10.0.0.1 10.0.0.2",
    );
    // The hint has the last word where an endpoint of another zone is given to this one (KEP-2433).
    let given = "ep 10.0.0.1:80 n2 za zone=za\nep 10.0.0.2:80 n3 zb zone=za\nep 10.0.0.3:80 n3 zb zone=zb";
    check_candidates(
        &format!("node n1 za\nsvc 10.96.0.1:80 same-zone\n{given}{paths}"),
        "10.0.0.1 10.0.0.2",
        "10.0.0.1 10.0.0.2",
    );
}

#[test]
fn a_ready_endpoint_counts_even_while_it_is_deleted() {
    // publishNotReadyAddresses makes slices say so.
    let mut world = world("svc 10.96.0.1:80\nep 10.0.0.1:80 n1 - leaving\nep 10.0.0.2:80 n1 - leaving");
    let frontend = world.frontends[0];
    let mut entry = world.snapshot.frontend(&frontend).unwrap().clone();
    let mut service = ServiceEntry::clone(&entry.service);
    let mut backends = service.ports[0].backends.to_vec();
    backends[1].ready = true;
    service.ports[0].backends = backends.into();
    entry.service = Arc::new(service);
    world.snapshot.frontends.insert(frontend, entry.clone());
    let found = candidates(&world.snapshot, &world.paths, &entry, &frontend);
    let found: Vec<_> = found.backends.iter().map(|it| it.addr.ip().to_string()).collect();
    assert_eq!(found, ["10.0.0.2"]);
}

#[test]
fn the_clients_family_is_preferred() {
    let endpoints = "\nep 10.0.0.1:80 n1 -\nep [fd00::1]:80 n1 -";
    check(&format!("svc 10.96.0.1:80{endpoints}"), "10.0.0.1 chosen | fd00::1 other_family");
    check(&format!("svc [fd00::96]:80{endpoints}"), "10.0.0.1 other_family | fd00::1 chosen");
    check("svc 10.96.0.1:80\nep [fd00::1]:80 n1 -", "fd00::1 chosen");
    check(
        "svc 10.96.0.1:80\nep 10.0.0.1:80 n1 - unready\nep [fd00::1]:80 n1 -",
        "10.0.0.1 not_ready | fd00::1 chosen",
    );
}

#[test]
fn unreachable_nodes_are_tried_last() {
    check(
        "svc 10.96.0.1:80
         path n3 relayed
         ep 10.0.0.1:80 n2 -
         ep 10.0.0.2:80 n3 -",
        "10.0.0.1 next path_unreachable | 10.0.0.2 chosen",
    );
    check("svc 10.96.0.1:80\nep 10.0.0.1:80 n2 -", "10.0.0.1 chosen");
}

#[test]
fn same_node_then_same_zone_then_all() {
    let paths = "\npath n2 direct\npath n3 direct\npath n4 lan";
    check(
        &format!(
            "node n1 za
             svc 10.96.0.1:80 same-node
             ep 10.0.0.1:80 n3 zb
             ep 10.0.0.2:80 n2 za
             ep 10.0.0.3:80 n1 za{paths}"
        ),
        "10.0.0.1 next farther | 10.0.0.2 next farther | 10.0.0.3 chosen",
    );
    check(
        &format!(
            "node n1 za
             svc 10.96.0.1:80 same-node
             ep 10.0.0.1:80 n3 zb
             ep 10.0.0.2:80 n2 za{paths}"
        ),
        "10.0.0.1 next farther | 10.0.0.2 chosen",
    );
    // Without zone labels the LAN is the zone.
    check(
        &format!("svc 10.96.0.1:80 same-node\nep 10.0.0.1:80 n3 -\nep 10.0.0.2:80 n4 -{paths}"),
        "10.0.0.1 next farther | 10.0.0.2 chosen",
    );
}

#[test]
fn same_zone_by_label_or_by_lan() {
    let paths = "\npath n2 direct\npath n3 lan";
    check(
        &format!("node n1 za\nsvc 10.96.0.1:80 same-zone\nep 10.0.0.1:80 n3 zb\nep 10.0.0.2:80 n2 za{paths}"),
        "10.0.0.1 next farther | 10.0.0.2 chosen",
    );
    check(
        &format!("svc 10.96.0.1:80 same-zone\nep 10.0.0.1:80 n2 -\nep 10.0.0.2:80 n3 -{paths}"),
        "10.0.0.1 next farther | 10.0.0.2 chosen",
    );
    check(&format!("node n1 zc\nsvc 10.96.0.1:80 same-zone\nep 10.0.0.1:80 n2 za{paths}"), "10.0.0.1 chosen");
}

#[test]
fn hints_count_when_every_endpoint_has_them_and_one_is_for_us() {
    let paths = "\npath n2 lan\npath n3 lan";
    check(
        &format!(
            "node n1 za
             svc 10.96.0.1:80
             ep 10.0.0.1:80 n2 zb zone=zb
             ep 10.0.0.2:80 n3 za zone=za{paths}"
        ),
        "10.0.0.1 next not_hinted | 10.0.0.2 chosen",
    );
    check(
        &format!(
            "node n1 za
             svc 10.96.0.1:80
             ep 10.0.0.1:80 n2 zb zone=zb node=n1
             ep 10.0.0.2:80 n3 za zone=za node=n3{paths}"
        ),
        "10.0.0.1 chosen | 10.0.0.2 next not_hinted",
    );
    for not_for_us in ["zone=zb", ""] {
        let world = world(&format!(
            "node n1 za
             svc 10.96.0.1:80
             ep 10.0.0.1:80 n2 zb zone=zb
             ep 10.0.0.2:80 n3 za {not_for_us}{paths}"
        ));
        let explained = Router::new().explain(&world.snapshot, &world.paths, &conn(&world), &ctx());
        assert!(explained.candidates.iter().all(|it| it.verdict.as_str() != "not_hinted"), "{explained:?}");
    }
}

#[test]
fn a_virtual_address_is_no_endpoint() {
    check(
        "svc 10.96.0.1:80\nep 10.96.0.1:80 - -\nep 10.0.0.2:80 - -",
        "10.96.0.1 is_frontend | 10.0.0.2 chosen",
    );
}

#[test]
fn targets_on_this_node_or_on_none_are_dialled_from_here() {
    let world = world(
        "svc 10.96.0.1:80
         path n2 lan
         ep 10.0.0.1:80 n1 -
         ep 10.0.0.2:80 - -
         ep 10.0.0.3:80 n2 -",
    );
    let decision = Router::new().route(&world.snapshot, &world.paths, &conn(&world), &ctx());
    let Decision::Targets(targets) = decision else { panic!("{decision:?}") };
    for Target { backend, hop, .. } in targets {
        match backend.ip().to_string().as_str() {
            "10.0.0.3" => assert_eq!(hop, Hop::Node(Name::from("n2"))),
            _ => assert_eq!(hop, Hop::Socket),
        }
    }
}

#[test]
fn a_failed_target_comes_last_and_the_explanation_says_so() {
    let world = world("svc 10.96.0.1:80 affinity\nep 10.0.0.1:80 n2 -\nep 10.0.0.2:80 n2 -\npath n2 lan");
    let (router, conn, ctx) = (Router::new(), conn(&world), ctx());
    let targets = || match router.route(&world.snapshot, &world.paths, &conn, &ctx) {
        Decision::Targets(targets) => targets,
        Decision::Reject(reason) => panic!("{reason}"),
    };
    let before = targets();
    router.feedback(&conn, &before[0], Feedback::Failed, ctx.now);
    router.feedback(&conn, &before[1], Feedback::Connected, ctx.now);
    let after = targets();
    assert_eq!((&after[0], &after[1]), (&before[1], &before[0]), "the session moved");
    let explained = router.explain(&world.snapshot, &world.paths, &conn, &ctx);
    let of = |target: &Target| explained.candidates.iter().find(|it| it.backend == target.backend).unwrap();
    assert_eq!(of(&before[0]).verdict.as_str(), "ejected");
    assert!(of(&before[1]).session);
}

#[test]
fn peers_reach_ready_endpoints_of_this_node_only() {
    let mut snapshot = MeshSnapshot::empty(Name::from("n1"));
    let backend: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let id = ObjectKey::new("default", "web");
    snapshot.local_backends.insert((backend, Protocol::Tcp), id.clone());
    assert_eq!(admit(&snapshot, Protocol::Tcp, backend, Asker::default()), Ok(id));
    for (protocol, addr, reason) in [
        (Protocol::Udp, "10.0.0.1:80", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "127.0.0.1:22", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "169.254.169.254:80", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "10.0.0.2:80", RejectReason::NotAnEndpoint),
        (Protocol::Sctp, "10.0.0.1:80", RejectReason::UnsupportedProtocol),
    ] {
        let admitted = admit(&snapshot, protocol, addr.parse().unwrap(), Asker::default());
        assert_eq!(admitted, Err(reason), "{addr}");
    }
}

#[test]
fn tunnel_policies_close_backends() {
    let rule = |nodes: &[&str], namespaces: &[&str]| TunnelRule {
        nodes: nodes.iter().map(|name| Name::from(*name)).collect(),
        namespaces: namespaces.iter().map(|name| Name::from(*name)).collect(),
    };
    let backend: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let (a, shop) = (Some("a"), Some("shop"));
    for (rules, asker, admitted, here) in [
        (None, (None, None), true, Admission::Open),
        (Some(vec![]), (a, shop), false, Admission::NotAllowed),
        (Some(vec![rule(&["a"], &[])]), (a, None), true, Admission::Allowed),
        (Some(vec![rule(&["a"], &[])]), (Some("b"), shop), false, Admission::Allowed),
        (Some(vec![rule(&["b"], &[])]), (Some("b"), None), true, Admission::NotAllowed),
        // Whose node is not proven is on none.
        (Some(vec![rule(&["a"], &[])]), (None, shop), false, Admission::Allowed),
        (Some(vec![rule(&[], &["shop"])]), (None, shop), true, Admission::SomeNamespaces),
        (Some(vec![rule(&[], &["shop"])]), (a, None), false, Admission::SomeNamespaces),
        (Some(vec![rule(&["a"], &["shop"])]), (a, shop), true, Admission::SomeNamespaces),
        (Some(vec![rule(&["a"], &["shop"])]), (Some("b"), shop), false, Admission::SomeNamespaces),
        (Some(vec![rule(&["b"], &["shop"])]), (a, shop), false, Admission::NotAllowed),
        (Some(vec![rule(&["b"], &[]), rule(&["a"], &[])]), (a, None), true, Admission::Allowed),
    ] {
        let mut snapshot = MeshSnapshot::empty(Name::from("a"));
        let id = ObjectKey::new("default", "web");
        snapshot.local_backends.insert((backend, Protocol::Tcp), id.clone());
        let mut compiled = TunnelRules::default();
        if let Some(rules) = &rules {
            compiled.add(backend, Protocol::Tcp, None);
            rules.iter().for_each(|rule| compiled.add(backend, Protocol::Tcp, Some(rule.clone())));
        }
        snapshot.tunnel_rules = Arc::new(compiled);
        let (node, namespace) = asker;
        let found = admit(&snapshot, Protocol::Tcp, backend, Asker { node, namespace });
        let expected = if admitted { Ok(id) } else { Err(RejectReason::NotAllowed) };
        assert_eq!(found, expected, "{rules:?} {asker:?}");
        assert_eq!(admission(&snapshot, Protocol::Tcp, backend), here, "{rules:?}");
        assert_eq!(admission(&snapshot, Protocol::Udp, backend), Admission::Open, "of another protocol");
    }
}
