//! What lives through the death of its parts, and what ends with them.

use edgemesh_e2e::{FAR, Lab, NEAR, v4, v6};

fn end(probe: edgemesh_e2e::Background) -> String {
    probe.end()["end"].as_str().expect("a word").to_owned()
}

/// kubeedge/edgemesh#507: UDP to a node stayed away until the own agent was restarted.
#[test]
fn em_507_udp_comes_back_with_the_other_agent() {
    let lab = Lab::two_nodes("em-507");
    let near = lab.agent("n1", &[]);
    let mut far = lab.agent("n2", &[]);
    near.until_path("n2");
    let sensors = [v4(FAR, 85), v6(FAR, 85)].map(|frontend| lab.background("c1", &["udp-held", &frontend]));
    far.kill();
    near.until("the end of the path", |status| {
        status["tunnel"]["peers"].as_array().is_some_and(Vec::is_empty)
    });
    // Long enough that a sensor misses echoes: one more session gets none.
    assert_ne!(lab.outcome("c1", &["udp", &v4(FAR, 85), "1000"]), "answered");
    let _far = lab.agent("n2", &[]);
    for sensor in sensors {
        assert_eq!(end(sensor), "again");
    }
}

#[test]
fn udp_comes_back_with_its_pod() {
    let lab = Lab::two_nodes("udp-pod");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    let sensors = [v4(NEAR, 85), v6(NEAR, 85), v4(FAR, 85)];
    let sensors = sensors.map(|frontend| lab.background("c1", &["udp-held", &frontend]));
    for pod in ["s1", "s2"] {
        lab.ask(&["kill", pod]);
    }
    // As above.
    for frontend in [v4(NEAR, 85), v4(FAR, 85)] {
        assert_ne!(lab.outcome("c1", &["udp", &frontend, "1000"]), "answered");
    }
    for pod in ["s1", "s2"] {
        lab.ask(&["start", pod]);
    }
    for sensor in sensors {
        assert_eq!(end(sensor), "again");
    }
}

/// A client must learn of it, or it waits for hours.
#[test]
fn connections_end_with_the_other_agent() {
    let lab = Lab::two_nodes("tcp-peer");
    let near = lab.agent("n1", &[]);
    let mut far = lab.agent("n2", &[]);
    near.until_path("n2");
    let held = [v4(FAR, 81), v6(FAR, 81)].map(|frontend| lab.background("c1", &["tcp-held", &frontend]));
    far.kill();
    for held in held {
        let end = end(held);
        assert!(["reset", "closed"].contains(&end.as_str()), "{end}");
    }
    near.until("no open connection", |status| status["connections"]["open_tcp"] == 0);
}

/// A node that is cut off sends no reset: only time tells.
#[test]
fn connections_end_with_a_node_that_is_cut_off() {
    let lab = Lab::two_nodes("tcp-cut");
    let near = lab.agent("n1", &[]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    let held = lab.background("c1", &["tcp-held", &v4(FAR, 81)]);
    lab.ask(&["cut", "n2"]);
    let end = end(held);
    assert!(["reset", "closed"].contains(&end.as_str()), "{end}");
    lab.ask(&["heal", "n2"]);
    near.until_path("n2");
    assert_eq!(lab.probe("c1", &["tcp-storm", &v4(FAR, 81), "10"])["done"], 10);
}

/// An agent that is asked to end does so although clients stay.
#[test]
fn open_connections_do_not_hold_an_agent_back() {
    let lab = Lab::two_nodes("drain");
    let mut near = lab.agent("n1", &[]);
    let far = lab.agent("n2", &[]);
    near.until_path("n2");
    let held = [v4(FAR, 81), v6(FAR, 81)].map(|frontend| lab.background("c1", &["tcp-held", &frontend]));
    let _sensor = lab.background("c1", &["udp-held", &v4(FAR, 85)]);
    far.until("the streams", |status| {
        status["connections"]["open_tcp"] == 2 && status["connections"]["open_udp"] == 1
    });
    let status = near.terminate();
    assert!(status.success(), "{status}");
    for held in held {
        let end = end(held);
        assert!(["reset", "closed"].contains(&end.as_str()), "{end}");
    }
    far.until("nothing open", |status| {
        status["connections"]["open_tcp"] == 0 && status["connections"]["open_udp"] == 0
    });
    assert_eq!(near.logged(&["left behind"]), 0);
}

/// Past its bounds an agent refuses with a reason, and goes on with those it has.
#[test]
fn past_the_bound_connections_are_refused_and_counted() {
    let lab = Lab::two_nodes("bounds");
    let agent = lab.agent("n1", &["--max-connections", "2", "--kernel-path", "off"]);
    let frontend = v4(NEAR, 81);
    let held = [&frontend, &frontend].map(|frontend| lab.background("c1", &["tcp-held", frontend]));
    let third = lab.output(
        "c1",
        &[&edgemesh_e2e::program("edgemesh-e2e-probe").display().to_string(), "tcp-storm", &frontend, "1"],
    );
    assert!(!third.status.success(), "{third:?}");
    let status = agent.status();
    assert_eq!(status["connections"]["open_tcp"], 2, "{status:#}");
    assert!(status["connections"]["unserved"].as_u64() >= Some(1), "{status:#}");
    assert!(agent.logged(&["outcome=\"overloaded\""]) >= 1);
    drop(held);
    agent.until("rest", |status| status["connections"]["open_tcp"] == 0);
    assert_eq!(lab.probe("c1", &["tcp-storm", &frontend, "1"])["done"], 1);
}

/// A client that asks from a new port each time, as resolvers do, never fills the table for others.
#[test]
fn past_the_bound_the_oldest_udp_session_makes_room() {
    let lab = Lab::two_nodes("udp-bounds");
    let near = lab.agent("n1", &["--max-udp-sessions", "100"]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    for frontend in [v4(NEAR, 85), v6(FAR, 85)] {
        assert_eq!(lab.probe("c1", &["udp-storm", &frontend, "400"])["done"], 400, "{frontend}");
    }
    let status = near.status();
    assert!(status["connections"]["open_udp"].as_u64() <= Some(100), "{status:#}");
}
