//! Ten thousand connections and a thousand UDP sessions end with what they began with.

use edgemesh_e2e::{Agent, FAR, Footprint, Lab, NEAR, eventually, installed, skipped, v4, v6};
use serde_json::Value;

/// Rounds until one leaves no more than the one before it did: the allocator's arenas and the caches fill over the first
/// few, as chance spreads the work over the threads. What leaks grows in every round.
const ROUNDS: usize = 8;

/// Growth of a round that is no leak: less than 12 bytes for each of its connections.
const TOLERANCE_KIB: usize = 64;

/// Sessions end after this, and not after the 60 s of the default, for which the test would wait. Everything passes the
/// agent, also what the kernel would carry by itself.
const FLAGS: [&str; 4] = ["--udp-idle", "2", "--kernel-path", "off"];

/// Half over both families to a pod of the own node, half through the tunnel.
const TCP_EACH: &str = "2500";
const UDP_EACH: &str = "250";

fn storm(lab: &Lab) {
    for service in [NEAR, FAR] {
        for (tcp, udp) in [(v4(service, 81), v4(service, 85)), (v6(service, 81), v6(service, 85))] {
            lab.probe("c1", &["tcp-storm", &tcp, TCP_EACH]);
            lab.probe("c1", &["udp-storm", &udp, UDP_EACH]);
        }
    }
}

/// Waits until nothing is open; returns what the process holds then, with at most so many descriptors: that of the
/// connection by which the status was asked for goes a moment later.
fn at_rest(agent: &Agent, descriptors: usize) -> Footprint {
    agent.until("rest", |status| {
        let peers = status["tunnel"]["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let streams = |peer: &Value| {
            peer["streams_in"].as_u64().unwrap_or(0) + peer["streams_out"].as_u64().unwrap_or(0)
        };
        status["connections"]["open_tcp"] == 0
            && status["connections"]["open_udp"] == 0
            && peers.iter().all(|peer| streams(peer) == 0)
    });
    eventually("the last descriptor", || Some(agent.footprint()).filter(|now| now.descriptors <= descriptors))
}

/// What the process holds before anything was opened.
fn at_start(agent: &Agent) -> Footprint {
    let first = agent.footprint();
    (0..20).map(|_| at_rest(agent, first.descriptors)).min_by_key(|now| now.descriptors).unwrap_or(first)
}

/// Rules, routes and addresses; connection tracking of virtual addresses too where it can be listed.
fn kernel(lab: &Lab, node: &str) -> String {
    let mut script = "ip route show table all; ip -6 route show table all; ip -oneline address".to_owned();
    if installed("nft") {
        script += "; nft --stateless list ruleset";
    }
    lab.exec(node, &["sh", "-c", &script])
}

fn assert_not_tracked(lab: &Lab, node: &str) {
    if !installed("conntrack") {
        return skipped("connection tracking", "conntrack");
    }
    for family in ["ipv4", "ipv6"] {
        let tracked =
            lab.exec(node, &["sh", "-c", &format!("conntrack --dump --family {family} 2>/dev/null")]);
        let ours: Vec<&str> =
            tracked.lines().filter(|line| line.contains("=10.96.0.") || line.contains("=fd96::")).collect();
        assert!(
            ours.is_empty(),
            "{node} tracks {} connections to frontends: {:#?}",
            ours.len(),
            ours.first()
        );
    }
}

#[test]
fn ten_thousand_connections_and_a_thousand_sessions_leave_nothing() {
    let lab = Lab::two_nodes("leaks");
    let agents = ["n1", "n2"].map(|node| lab.agent(node, &FLAGS));
    // Carriers are made a moment after the path is known, and stay.
    for agent in &agents {
        agent.until("a carrier of each kind", |status| {
            let carriers = status["tunnel"]["peers"][0]["carriers"].as_array();
            carriers.is_some_and(|carriers| {
                ["tls", "substream"]
                    .iter()
                    .all(|kind| carriers.iter().any(|carrier| carrier["kind"] == *kind))
            })
        });
    }
    let start = agents.each_ref().map(at_start);
    storm(&lab);
    let rest = || [at_rest(&agents[0], start[0].descriptors), at_rest(&agents[1], start[1].descriptors)];
    let mut peaks = rest();
    let kernel_before = ["n1", "n2"].map(|node| kernel(&lab, node));
    let ended = || agents[0].status()["connections"]["ended"].as_u64().expect("a count");

    let mut settled = [false; 2];
    for round in 2..=ROUNDS {
        let before = ended();
        storm(&lab);
        let after = rest();
        assert_eq!(ended() - before, 11_000, "{:#}", agents[0].status());
        eprintln!("after round {round}: {after:?}, at most before {peaks:?}");
        for number in 0..2 {
            let (start, peak, after) = (start[number], &mut peaks[number], after[number]);
            // Those for blocking work come with it and go after ten idle seconds, so that there are fewer at times.
            let threads = start.threads.max(peak.threads);
            assert!(after.threads <= threads, "threads of n{}: {threads} -> {}", number + 1, after.threads);
            settled[number] |= after.anon_kib <= peak.anon_kib + TOLERANCE_KIB;
            peak.anon_kib = peak.anon_kib.max(after.anon_kib);
        }
        if settled == [true; 2] {
            break;
        }
    }
    assert_eq!(settled, [true; 2], "memory grew in each of {ROUNDS} rounds, to {peaks:?}");
    assert_eq!(agents[0].status()["connections"]["unserved"], 0, "{:#}", agents[0].status());
    for (node, before) in ["n1", "n2"].into_iter().zip(kernel_before) {
        assert_eq!(kernel(&lab, node), before, "the kernel's objects on {node}");
        assert_not_tracked(&lab, node);
    }
}
