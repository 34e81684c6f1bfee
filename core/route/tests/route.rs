//! Decisions from a few lines of text.
//!
//! `node NAME [ZONE]` is the own node, `path NODE KIND` a path, `svc VIP:PORT[/udp] [flags]` the Service, and each
//! `ep ADDR NODE|- ZONE|- [flags]` an endpoint. The expectation is one `address verdict` per endpoint, with the
//! order of those that are tried, or the reason of a rejection.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_balance::{Feedback, PickCtx};
use edgemesh_mesh::{
    Backend, Distribution, Frontend, FrontendEntry, Hints, MeshSnapshot, NodePath, Path, PathSnapshot,
    Policy, PortEntry, ServiceEntry, ServiceKind,
};
use edgemesh_route::{Conn, Decision, Hop, RejectReason, Router, Target, admit};

struct World {
    snapshot: MeshSnapshot,
    paths: PathSnapshot,
    frontends: Vec<Frontend>,
}

fn world(text: &str) -> World {
    let mut snapshot = MeshSnapshot::empty(Name::from("n1"));
    let mut paths = PathSnapshot::default();
    let mut frontends: Vec<Frontend> = Vec::new();
    let mut service: Option<ServiceEntry> = None;
    let mut backends: Vec<Backend> = Vec::new();
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
                paths.nodes.insert(Name::from(*node), NodePath { path, rtt: None });
            }
            ["svc", frontend, flags @ ..] => {
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
            let entry = FrontendEntry { service: service.clone(), port: 0 };
            snapshot.frontends.insert(*frontend, entry);
        }
    }
    World { snapshot, paths, frontends }
}

fn parse_frontend(text: &str) -> Frontend {
    let (addr, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let addr: SocketAddr = addr.parse().unwrap();
    Frontend { ip: addr.ip(), port: addr.port(), protocol: protocol.parse().unwrap() }
}

fn parse_service(frontend: Frontend, flags: &[&str]) -> ServiceEntry {
    let has = |flag| flags.contains(&flag);
    ServiceEntry {
        id: ObjectKey::new("default", "web"),
        kind: ServiceKind::ClusterIp,
        cluster_ips: if has("external") { Vec::new() } else { vec![frontend.ip] },
        external_ips: Vec::new(),
        ports: vec![PortEntry {
            name: None,
            port: frontend.port,
            protocol: frontend.protocol,
            backends: Vec::new().into(),
        }],
        affinity: has("affinity").then_some(Duration::from_secs(60)),
        distribution: match () {
            () if has("same-node") => Distribution::PreferSameNode,
            () if has("same-zone") => Distribution::PreferSameZone,
            () => Distribution::Spread,
        },
        internal_local: has("local"),
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
    Conn { frontend, client: "10.9.9.9:1234".parse().unwrap() }
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
    assert_eq!(admit(&snapshot, Protocol::Tcp, backend), Ok(id));
    for (protocol, addr, reason) in [
        (Protocol::Udp, "10.0.0.1:80", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "127.0.0.1:22", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "169.254.169.254:80", RejectReason::NotAnEndpoint),
        (Protocol::Tcp, "10.0.0.2:80", RejectReason::NotAnEndpoint),
        (Protocol::Sctp, "10.0.0.1:80", RejectReason::UnsupportedProtocol),
    ] {
        assert_eq!(admit(&snapshot, protocol, addr.parse().unwrap()), Err(reason), "{addr}");
    }
}
