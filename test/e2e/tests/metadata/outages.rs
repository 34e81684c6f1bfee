//! API servers that go, come back, and talk nonsense.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use edgemesh_e2e::{Agent, alarms, eventually, findings, kind, service_object};
use serde_json::{Value, json};

use crate::{
    FILE, SERVER, assert_serves, is_away, is_live, lab, objects, service, txt, until_saved, until_served,
};

/// Steps of a stream of changes that the agent has not seen yet.
const AHEAD: usize = 20;

/// The API server dies while connections run, and another one takes its place that has nothing.
#[test]
fn an_api_server_that_comes_back_empty_takes_nothing_away() {
    let lab = lab("empty");
    let mut server = lab.api_server("n2", &[]);
    let all = objects(&lab);
    server.apply_all(&all);
    let agents = ["n1", "n2"].map(|node| lab.spawn_by_file(node, FILE));
    agents.iter().for_each(Agent::until_ready);
    agents[0].until_path("n2");
    let flows = ["near:81", "far:81"].map(|target| lab.background("c1", &["flow", target]));
    server.kill();
    for agent in &agents {
        agent.until("the alarm", is_away);
    }
    assert_serves(&lab, "near", 11);
    assert_serves(&lab, "far", 12);

    server.begin();
    for agent in &agents {
        let status = agent.until("held objects", |status| {
            let alarms = alarms(status);
            !is_away(status)
                && alarms.contains("2 Service objects")
                && alarms.contains("4 EndpointSlice objects")
        });
        assert!(alarms(&status).contains("is empty"), "{}", alarms(&status));
    }
    assert_serves(&lab, "near", 11);
    assert_serves(&lab, "far", 12);
    // What is created now serves at once, beside what is held, and where it takes its place.
    server.apply_all(&service(&lab, "anew", 21, &["s1"]));
    until_served(&lab, "anew");
    assert_serves(&lab, "anew", 21);
    server.apply_all(&all);
    for agent in &agents {
        agent.until("nothing held", |status| !alarms(status).contains("served on"));
    }
    assert_serves(&lab, "near", 11);
    for flow in flows {
        let flow = flow.end();
        assert!(flow["rounds"].as_u64() > Some(10) && flow["failures"] == json!([]), "{flow}");
    }
}

/// The way to the API server is cut; what changes behind the cut arrives with the way.
#[test]
fn what_changes_behind_a_cut_arrives_afterwards() {
    let lab = lab("cut");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&objects(&lab));
    server.apply_all(&service(&lab, "leaving", 22, &["s1"]));
    // Over IPv6.
    let agent = lab.spawn_by_file("n1", &FILE.replace("10.1.0.12:6443", "[fd00:1::c]:6443"));
    agent.until_ready();
    until_served(&lab, "leaving");
    let flow = lab.background("c1", &["flow", "near:81"]);
    server.cut_off("n1", SERVER);
    agent.until("the alarm", is_away);
    server.apply_all(&service(&lab, "coming", 23, &["s1"]));
    let mut leaving = service(&lab, "leaving", 22, &["s1"]);
    for object in leaving.drain(..) {
        server.delete(&object);
    }
    let status = agent.status();
    assert!(is_away(&status) && status["metadata"]["services"] == 3, "{status:#}");
    assert_serves(&lab, "leaving", 22);
    server.join("n1", SERVER);
    agent.until("the changes", |status| {
        is_live(status) && status["metadata"]["services"] == 3 && {
            agent.explain("coming:80")["frontends"][0]["service"] == "default/coming"
        }
    });
    until_served(&lab, "coming");
    assert_serves(&lab, "coming", 23);
    assert_eq!(agent.explain("leaving:80")["frontends"], json!([]));
    agent.until("no alarm", |status| alarms(status).is_empty());
    assert_eq!(flow.end()["failures"], json!([]));
}

/// The node boots where nobody is: no API server, no relay, no route, no name server.
#[test]
fn without_api_server_relay_and_route_the_journal_serves() {
    let lab = lab("api-journal");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&objects(&lab));
    let file = FILE
        .replace("#relayNodes:", "relayNodes: [{ nodeName: far-away, advertiseAddress: [203.0.113.99] }]");
    let mut agent = lab.spawn_by_file("n1", &file);
    agent.until_ready();
    until_saved(&agent);
    agent.kill();
    server.cut_off("n1", SERVER);
    lab.exec("n1", &["sh", "-c", "ip route del default; ip -6 route del default; true"]);

    let agent = lab.spawn_by_file("n1", &file);
    let status = agent.until_applied();
    assert_eq!(status["metadata"]["stale"], true, "{:#}", status["metadata"]);
    assert_serves(&lab, "near", 11);
    let answer = lab.http("n1").get("127.0.0.1:9999", "/readyz").expect("the agent answers");
    assert_eq!(answer.status, 200, "the journal is enough: {answer:?}");
    agent.until("the alarm", is_away);
    if let Some(text) = txt(&lab) {
        assert!(
            text.contains("state=journal") && text.contains("age=") && text.contains("source=kubernetes"),
            "{text}"
        );
    }
    server.apply_all(&service(&lab, "late", 20, &["s1"]));
    server.join("n1", SERVER);
    agent.until("the source", |status| is_live(status) && status["metadata"]["services"] == 3);
    until_served(&lab, "late");
    assert_serves(&lab, "late", 20);
    if let Some(text) = txt(&lab) {
        assert!(text.contains("state=live"), "{text}");
    }
}

/// The agent is killed while changes stream in. What its journal has is the state of one moment: Services are created
/// one by one, each after a change of the Service `clock`.
#[test]
fn killed_in_a_stream_of_changes_the_journal_is_of_one_moment() {
    let lab = lab("stream");
    let mut server = lab.api_server("n2", &[]);
    server.apply_all(&lab.node_objects());
    let port = |number: usize| u16::try_from(10_000 + number).expect("few steps");
    let clock = |number: usize| service_object("clock", 250, &[("tick", "TCP", port(number), 8080)]);
    // An alias: it needs no address of its own, and there are more steps than addresses.
    let step = |number: usize| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "namespace": "default", "name": format!("step-{number}") },
            "spec": { "type": "ExternalName", "externalName": "step.example.org" },
        })
    };
    server.apply(&clock(0));
    let mut agent = lab.spawn_by_file("n1", FILE);
    agent.until("the clock", |status| status["metadata"]["services"] == 1);
    let (over, written, known) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed) + 1;
                // Ahead of the agent, and not by so much that the test takes long.
                if number > known.load(Ordering::Relaxed) + AHEAD {
                    std::thread::yield_now();
                    continue;
                }
                written.store(number, Ordering::Relaxed);
                server.apply(&clock(number));
                server.apply(&step(number));
            }
        });
        let mut aged = false;
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            agent.until("a write of the journal in the middle of the stream", |status| {
                let services = status["metadata"]["services"].as_u64().unwrap_or_default();
                known.store(usize::try_from(services).expect("few"), Ordering::Relaxed);
                let journal = status["metadata"]["journal"].as_str().unwrap_or_default();
                // The first write is of the start; the next one has steps in it.
                aged |= journal == "saved 3s ago";
                aged && journal == "saved 0s ago"
            })
        }));
        agent.kill();
        over.store(true, Ordering::Relaxed);
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    server.kill();
    let agent = lab.spawn_by_file("n1", FILE);
    let status = agent.until_applied();
    assert_eq!(status["metadata"]["stale"], true, "{:#}", status["metadata"]);
    let services = status["metadata"]["services"].as_u64().and_then(|count| usize::try_from(count).ok());
    let steps = services.expect("a count") - 1;
    assert!(steps > 0 && steps <= written.load(Ordering::Relaxed), "{steps} steps");
    let answer =
        |number: usize| agent.explain(&format!("step-{number}:80"))["names"][0]["answer"].to_string();
    let [known, unknown] = [answer(steps), answer(steps + 1)];
    assert_ne!(known, unknown, "the last step and the one after it");
    for number in 1..steps {
        assert_eq!(answer(number), known, "step {number} of {steps}");
    }
    let ticks: Vec<usize> = (0..=written.load(Ordering::Relaxed))
        .filter(|number| {
            !agent.explain(&format!("clock:{}", port(*number)))["frontends"][0]["policy"].is_null()
        })
        .collect();
    assert!(ticks == [steps] || ticks == [steps + 1], "{steps} steps at the ticks {ticks:?}");
}

/// kubeedge/edgemesh#241, #31: kinds that are not installed or not allowed gave errors without end.
#[test]
fn em_241_absent_and_forbidden_kinds_are_told_once() {
    let lab = lab("em-241-api");
    let server = lab.api_server("n2", &[]);
    let availability = |word: &str| json!({ "serving": { "availability": word } });
    server.switch(
        "faults",
        &json!({ "resources": { "destinationrules": availability("absent"), "nodes": availability("forbidden") } }),
    );
    server.apply_all(&service(&lab, "near", 11, &["s1"]));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    until_served(&lab, "near");
    assert_serves(&lab, "near", 11);
    eventually("further attempts", || (server.count("nodes", "requests") >= 3).then_some(()));
    let status = agent.until("both kinds", |status| {
        kind(status, "DestinationRule")["state"] == "absent" && kind(status, "Node")["state"] == "forbidden"
    });
    assert!(kind(&status, "Node")["reason"].to_string().contains("forbidden"), "{:#}", kind(&status, "Node"));
    let told = |name: &str| findings(&status).iter().filter(|finding| finding.contains(name)).count();
    assert_eq!((told("DestinationRule"), told("Node of")), (1, 1), "{:#?}", findings(&status));
    for (name, lines) in [("DestinationRule of", 1), ("Node of", 1)] {
        assert_eq!(agent.logged(&[name]), lines, "{name} in the log");
    }
}

/// An API server that answers with nonsense of every kind empties nothing and is named.
#[test]
fn nonsense_of_an_api_server_takes_nothing_away() {
    let lab = lab("nonsense");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&objects(&lab));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    until_served(&lab, "near");
    // The second word is what shows that the agent met it: half a list is no fault before it has begun.
    for (reply, met) in [
        (json!({ "type": "html", "status": 200 }), "faults"),
        (json!({ "type": "garbage" }), "faults"),
        (json!({ "type": "error", "status": 500 }), "faults"),
        (json!({ "type": "broken" }), "lists"),
        (json!({ "type": "halved" }), "lists"),
    ] {
        let before = server.count("services", met);
        server.switch("faults", &json!({ "all": { "reply": reply } }));
        // A watch that could resume would not list.
        server.switch("expire?resource=services", &Value::Null);
        server.switch("cut", &Value::Null);
        eventually("attempts", || (server.count("services", met) >= before + 2).then_some(()));
        agent.until(met, |status| alarms(status).contains("Service") && status["metadata"]["services"] == 2);
        assert_serves(&lab, "near", 11);
    }
    server.switch("faults", &json!({}));
    server.apply_all(&service(&lab, "late", 20, &["s1"]));
    agent.until("the change", |status| status["metadata"]["services"] == 3 && alarms(status).is_empty());
    until_served(&lab, "late");
}
