//! Scenarios in virtual time.

mod sim;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::{
    CONFLICT_HOLD, Input, PeerId, RelayReason, RelayState, Report, UnreachableReason,
};
use sim::Sim;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A relay, and two hosts behind NATs that use it.
fn two_lans() -> (Sim, usize, usize, usize) {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let a = sim.host("a", true, false, &[relay]);
    let b = sim.host("b", true, false, &[relay]);
    (sim, relay, a, b)
}

fn up(sim: &Sim, host: usize) -> bool {
    sim.at(host).state.relays().iter().all(|relay| relay.state == RelayState::Up)
}

fn warm(sim: &mut Sim, host: usize, node: &str) {
    let nodes = BTreeSet::from([node.into()]);
    sim.tell(host, Input::Mesh { nodes, vouched: BTreeMap::new() });
}

#[test]
fn relayed_on_demand() {
    let (mut sim, _, a, b) = two_lans();
    assert!(sim.run(2 * S, |sim| up(sim, a) && up(sim, b)), "relays: {:?}", sim.at(a).state.relays());
    sim.pass(S);
    assert_eq!(sim.path(a, "b"), None, "nobody asked for it");
    sim.demand(a, "b");
    assert!(sim.run(S, |sim| sim.path(a, "b") == Some(Path::Relayed)));
    assert_eq!(sim.path(b, "a"), Some(Path::Relayed));
    sim.pass(120 * S);
    assert_eq!(sim.path(a, "b"), Some(Path::Relayed), "stays while NATs forbid more");
}

#[test]
fn demands_before_the_relay_is_up_wait_for_it() {
    let (mut sim, _, a, _) = two_lans();
    sim.demand(a, "b");
    assert!(sim.run(3 * S, |sim| sim.path(a, "b").is_some()));
    assert!(sim.at(a).gave_up.is_empty());
}

#[test]
fn reasons() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let alone = sim.host("alone", true, false, &[]);
    let a = sim.host("a", true, false, &[relay]);
    sim.run(2 * S, |sim| up(sim, a));
    sim.pass(3 * S);
    for (host, node, expected) in
        [(alone, "b", UnreachableReason::PeerUnknown), (a, "b", UnreachableReason::PeerUnknown)]
    {
        sim.demand(host, node);
        assert!(sim.run(5 * S, |sim| !sim.at(host).gave_up.is_empty()), "{}", sim.at(host).name);
        assert_eq!(sim.at(host).state.unreachable_reason(node), expected);
    }
    sim.cut(relay);
    sim.pass(10 * S);
    assert_eq!(sim.at(a).state.unreachable_reason("b"), UnreachableReason::RelayUnreachable);
    assert_eq!(sim.at(a).state.relays()[0].reason, Some(RelayReason::Unreachable));
}

#[test]
fn a_punched_connection_takes_new_streams_and_the_circuit_drains() {
    let (mut sim, _, a, b) = two_lans();
    sim.punchable = true;
    sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
    sim.demand(a, "b");
    assert!(sim.run(2 * S, |sim| sim.path(a, "b") == Some(Path::Relayed)));
    let (circuit, _) = sim.at(a).state.best("b").unwrap();
    sim.streams(a, circuit, 1);
    assert!(sim.run(2 * S, |sim| sim.path(a, "b") == Some(Path::Punched)));
    assert_eq!(sim.path(b, "a"), Some(Path::Punched));
    let connections = |sim: &Sim| sim.at(a).state.peers().iter().map(|peer| peer.connections.len()).max();
    // The stream is known to `a` only in this simulation: `b` must leave closing to it.
    assert_eq!(connections(&sim), Some(2));
    sim.streams(a, circuit, 0);
    assert!(
        sim.run(12 * S, |sim| connections(sim) == Some(1)),
        "the circuit is closed when its stream ended"
    );
    sim.pass(60 * S);
    assert_eq!(sim.path(a, "b"), Some(Path::Punched));
}

#[test]
fn punching_is_tried_again() {
    let (mut sim, _, a, b) = two_lans();
    sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
    warm(&mut sim, a, "b");
    assert!(sim.run(2 * S, |sim| sim.path(a, "b") == Some(Path::Relayed)));
    sim.pass(5 * S);
    sim.punchable = true;
    assert!(
        sim.run(10 * S, |sim| sim.path(a, "b") == Some(Path::Punched)),
        "within 10 s of the first failure"
    );
}

#[test]
fn direct_where_the_other_can_be_dialled() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let a = sim.host("a", true, false, &[relay]);
    let b = sim.host("b", false, false, &[relay]);
    sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
    sim.demand(b, "a");
    assert!(sim.run(2 * S, |sim| sim.path(b, "a") == Some(Path::Direct)), "{:?}", sim.path(b, "a"));
    assert_eq!(sim.path(a, "b"), Some(Path::Direct));
}

#[test]
fn neighbours_need_no_relay() {
    let mut sim = Sim::new();
    let a = sim.host("a", false, false, &[]);
    let b = sim.host("b", false, false, &[]);
    sim.tell(a, discovered(1));
    assert!(sim.run(S, |sim| sim.path(a, "b").is_some() && sim.path(b, "a").is_some()));
}

#[test]
fn traffic_returns_within_5_s_after_a_cut_of_any_length() {
    for punchable in [false, true] {
        for cut in [1, 3, 5, 30, 600, 7200] {
            let (mut sim, relay, a, b) = two_lans();
            sim.punchable = punchable;
            sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
            warm(&mut sim, a, "b");
            assert!(sim.run(5 * S, |sim| sim.path(a, "b").is_some()));
            sim.pass(20 * S);
            // The cloud goes: all that is between the LANs.
            for host in [relay, b] {
                sim.cut(host);
            }
            let (conn, _) = sim.at(a).state.best("b").unwrap();
            sim.streams(a, conn, 1);
            sim.pass(cut * S);
            if cut >= 5 {
                assert_eq!(sim.path(a, "b"), None, "death is noticed; cut {cut}");
            }
            let spent: usize = sim.at(a).reports.len();
            assert!(spent < 20, "a cut is no flood of reports");
            for host in [relay, b] {
                sim.heal(host);
            }
            let healed = sim.elapsed();
            // What the client does: asks again and again.
            let back = (0..25).any(|_| {
                sim.demand(a, "b");
                sim.run(200 * MS, |sim| {
                    sim.path(a, "b").is_some() && sim.path(b, "a").is_some() && up(sim, a)
                })
            });
            assert!(back, "cut {cut}, punchable {punchable}: {:?}", sim.at(a).state.relays());
            assert!(sim.elapsed() - healed < 5 * S);
        }
    }
}

#[test]
fn a_dead_relay_is_found_again() {
    let (mut sim, relay, a, b) = two_lans();
    sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
    sim.kill(relay);
    sim.pass(60 * S);
    assert_eq!(sim.at(a).state.relays()[0].state, RelayState::Down);
    sim.heal(relay);
    assert!(sim.run(3 * S, |sim| up(sim, a) && up(sim, b)));
}

#[test]
fn one_relay_of_two_is_enough() {
    let mut sim = Sim::new();
    let first = sim.host("first", false, true, &[]);
    let second = sim.host("second", false, true, &[]);
    let a = sim.host("a", true, false, &[first, second]);
    let b = sim.host("b", true, false, &[first, second]);
    sim.run(2 * S, |sim| up(sim, a) && up(sim, b));
    sim.demand(a, "b");
    assert!(sim.run(2 * S, |sim| sim.path(a, "b").is_some()));
    for relay in [first, second] {
        sim.kill(relay);
        let back = (0..50).any(|_| {
            sim.demand(a, "b");
            sim.run(100 * MS, |sim| sim.path(a, "b").is_some())
        });
        assert!(back, "without {}", sim.at(relay).name);
        sim.heal(relay);
        sim.pass(10 * S);
    }
}

#[test]
fn the_second_claim_to_a_name_is_refused_and_told() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let a = sim.host("a", true, false, &[relay]);
    let first = sim.host_as("b", "first", true, false, &[relay]);
    sim.run(3 * S, |sim| up(sim, a) && up(sim, first));
    let second = sim.host_as("b", "another", true, false, &[relay]);
    sim.pass(3 * S);
    assert_eq!(sim.at(a).state.peer_of("b"), Some(&PeerId::new("first")));
    let conflicts = sim.at(a).state.conflicts();
    assert_eq!(conflicts.len(), 1);
    assert_eq!((&*conflicts[0].node, &*conflicts[0].refused), ("b", "another"));
    let told = |report: &&Report| matches!(report, Report::NameConflict { .. });
    assert_eq!(sim.at(a).reports.iter().filter(told).count(), 1, "once");
    sim.kill(first);
    sim.pass(CONFLICT_HOLD / 2);
    assert_eq!(sim.at(a).state.peer_of("b"), Some(&PeerId::new("first")), "the name is held for a while");
    sim.pass(CONFLICT_HOLD);
    assert_eq!(sim.at(a).state.peer_of("b"), Some(&PeerId::new("another")));
    assert!(sim.at(a).state.conflicts().is_empty());
    let _ = second;
}

#[test]
fn the_node_object_decides_who_speaks_for_a_node() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let a = sim.host("a", true, false, &[relay]);
    sim.host_as("b", "thief", true, false, &[relay]);
    sim.run(3 * S, |sim| up(sim, a));
    sim.pass(S);
    assert_eq!(sim.at(a).state.peer_of("b"), Some(&PeerId::new("thief")));
    let vouched = BTreeMap::from([("b".into(), PeerId::new("owner"))]);
    sim.tell(a, Input::Mesh { nodes: BTreeSet::new(), vouched });
    sim.pass(S);
    assert_eq!(sim.at(a).state.peer_of("b"), Some(&PeerId::new("owner")));
    assert_eq!(sim.at(a).state.node_of(&PeerId::new("thief")), None);
    assert_eq!(sim.at(a).state.conflicts().len(), 1, "and the claim is told");
    let vouched = BTreeMap::from([("a".into(), PeerId::new("other"))]);
    sim.tell(a, Input::Mesh { nodes: BTreeSet::new(), vouched });
    sim.pass(S);
    let told =
        |report: &&Report| matches!(report, Report::NotVouched { vouched } if vouched.as_str() == "other");
    assert_eq!(sim.at(a).reports.iter().filter(told).count(), 1);
    assert!(sim.at(a).state.conflicts().is_empty(), "nobody vouches for `b` any more: the claim stands");
}

#[test]
fn bytes_are_proof_of_life() {
    let mut sim = Sim::new();
    let a = sim.host("a", false, false, &[]);
    let b = sim.host("b", false, false, &[]);
    sim.tell(a, discovered(1));
    sim.run(S, |sim| sim.path(a, "b").is_some());
    let (conn, _) = sim.at(a).state.best("b").unwrap();
    // The control stream stands still behind a bulk transfer, whose bytes arrive.
    sim.cut(b);
    for second in 0..10 {
        sim.tell(a, Input::Activity { conn, streams: 1, received: 1000 * (second + 1) });
        sim.pass(S);
    }
    assert_eq!(sim.at(a).state.best("b").map(|(conn, _)| conn), Some(conn));
    sim.pass(4 * S);
    assert_eq!(sim.at(a).state.best("b"), None);
}

#[test]
fn a_claim_to_the_own_name_is_told() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", false, true, &[]);
    let a = sim.host("a", true, false, &[relay]);
    sim.host_as("a", "clone", true, false, &[relay]);
    sim.pass(3 * S);
    let conflicts = sim.at(a).state.conflicts();
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].holder.as_deref(), &*conflicts[0].refused), (Some("peer1"), "clone"));
    assert_eq!(sim.at(a).state.node_of(&PeerId::new("clone")), None);
}

#[test]
fn neighbours_are_waited_for_after_a_restart_without_relays() {
    let mut sim = Sim::new();
    let relay = sim.host("relay", true, true, &[]);
    let a = sim.host("a", false, false, &[relay]);
    sim.host("b", false, false, &[]);
    sim.cut(relay);
    sim.demand(a, "b");
    sim.pass(S);
    sim.tell(a, discovered(2));
    assert!(sim.run(S, |sim| sim.path(a, "b").is_some()));
    assert!(sim.at(a).gave_up.is_empty());
}

/// What multicast DNS tells of a host.
fn discovered(index: usize) -> Input {
    Input::Discovered {
        peer: PeerId::new(format!("peer{index}")),
        address: edgemesh_tunnel_proto::Address::new(format!("/ip4/10.0.0.{index}/tcp/20006")),
    }
}
