//! What the agent makes of Services, their endpoints and their rules, in whatever order they come.

use edgemesh_e2e::{
    Agent, Lab, Place, alarms, destination_rule, endpoints, eventually, findings, kind, labelled,
    service_object, slices,
};
use serde_json::{Value, json};

use crate::{FILE, PORTS, addresses, assert_serves, lab, service, until_served};

/// Both modes of `serviceFilterMode`, the label of other proxies, and the API server's own Service.
#[test]
fn services_of_other_proxies_are_left_alone() {
    const FILTER: &str = "service.edgemesh.kubeedge.io/service-proxy-name";
    let lab = lab("filter");
    let server = lab.api_server("n2", &[]);
    let with = |name: &str, number: u8, labels: Value| {
        let mut objects = service(&lab, name, number, &["s1"]);
        objects[0] = labelled(objects[0].clone(), &labels);
        objects
    };
    server.apply_all(&lab.node_objects());
    server.apply_all(&with("plain", 31, json!({})));
    server.apply_all(&with("filtered", 32, json!({ FILTER: "" })));
    server.apply_all(&with(
        "foreign",
        33,
        json!({ "service.kubernetes.io/service-proxy-name": "other", FILTER: "x" }),
    ));
    server.apply_all(&with("headless", 34, json!({ "service.kubernetes.io/headless": "" })));
    server.apply_all(&with("kubernetes", 1, json!({ "component": "apiserver" })));
    let by_default = lab.spawn_by_file("n1", FILE);
    let only_labelled = FILE.replace(
        "edgeProxy:\n    enable: true\n",
        "edgeProxy:\n    enable: true\n    serviceFilterMode: FilterIfLabelDoesNotExists\n",
    );
    let only_labelled = lab.spawn_by_file("n2", &only_labelled);
    for (agent, intercepted) in [(&by_default, 31), (&only_labelled, 32)] {
        agent.until_ready();
        agent.until("all Services", |status| {
            let applied = &status["applied"][0]["generation"];
            status["metadata"]["services"] == 5 && *applied == status["metadata"]["generation"]
        });
        let rules = agent.page("/rules");
        for number in [31, 32, 33, 34, 1] {
            for address in [format!("10.96.0.{number} "), format!("fd96::{number} ")] {
                assert_eq!(rules.contains(&address), number == intercepted, "{address}:\n{rules}");
            }
        }
    }
    // Left alone are connections, not names.
    for (name, address) in
        [("filtered", "10.96.0.32"), ("foreign", "10.96.0.33"), ("kubernetes", "10.96.0.1")]
    {
        assert_eq!(addresses(&lab, name), json!([address]), "{name}");
    }
    assert_serves(&lab, "plain", 31);
    // A label that comes later counts too.
    let mut plain = with("plain", 31, json!({ FILTER: "" }));
    server.apply(&plain.remove(0));
    for (agent, intercepted) in [(&by_default, false), (&only_labelled, true)] {
        agent.until("the label", |_| agent.page("/rules").contains("10.96.0.31 ") == intercepted);
    }
}

fn policy(agent: &Agent, name: &str) -> String {
    let trace = agent.explain(&format!("{name}:80"));
    trace["frontends"][0]["policy"].as_str().unwrap_or_default().to_owned()
}

fn until_policy(agent: &Agent, name: &str, expected: &str) {
    eventually(&format!("policy {expected} of {name}"), || (policy(agent, name) == expected).then_some(()));
}

/// Which pods answer so many requests.
fn spread(lab: &Lab, count: &str) -> Value {
    lab.workload("c1", &["http", "both:80", "--count", count])["pods"].clone()
}

/// DestinationRules in Go EdgeMesh's form, over pods of two nodes.
#[test]
fn destination_rules_of_the_api_server() {
    let lab = lab("rules");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&lab.node_objects());
    server.apply_all(&service(&lab, "both", 41, &["s1", "s2"]));
    let [agent, other] = ["n1", "n2"].map(|node| lab.spawn_by_file(node, FILE));
    agent.until_ready();
    other.until_ready();
    agent.until_path("n2");
    until_served(&lab, "both");
    for simple in ["ROUND_ROBIN", "RANDOM"] {
        server.apply(&destination_rule("both", &json!({ "simple": simple })));
        until_policy(&agent, "both", &simple.to_lowercase());
        // Half of the endpoints are the kernel's, which draws by lot for either policy: one chance in 2^39 that it is
        // always the same.
        assert_eq!(spread(&lab, "40").as_object().map(serde_json::Map::len), Some(2));
    }
    // C6: Go EdgeMesh hashes the client's port too. With another host Go EdgeMesh goes by the rule's name.
    let mut hash = destination_rule("both", &json!({ "consistentHash": { "useSourceIp": true } }));
    hash["spec"]["host"] = json!("elsewhere");
    server.apply(&hash);
    until_policy(&agent, "both", "source_ip_hash");
    assert_eq!(spread(&lab, "10").as_object().map(serde_json::Map::len), Some(1), "one client, one pod");
}

/// C4: policies that Go EdgeMesh has no object for end it when they are set, changed and deleted.
#[test]
fn go_c4_policies_without_an_equal_are_told_and_passed_over() {
    let lab = lab("go-c4");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&service(&lab, "near", 11, &["s1"]));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    for simple in ["LEAST_CONN", "PASSTHROUGH", "LEAST_REQUEST"] {
        server.apply(&destination_rule("near", &json!({ "simple": simple })));
        let status =
            agent.until(simple, |status| findings(status).iter().any(|finding| finding.contains(simple)));
        assert_eq!(findings(&status).len(), 1, "{:#?}", findings(&status));
        assert_eq!(policy(&agent, "near"), "round_robin");
    }
    server.delete(&destination_rule("near", &Value::Null));
    agent.until("no finding", |status| findings(status).is_empty());
    // Without any policy, and at once gone; the rule after it tells that both were met.
    server.apply(&destination_rule("near", &Value::Null));
    server.delete(&destination_rule("near", &Value::Null));
    server.apply(&destination_rule("near", &json!({ "simple": "RANDOM" })));
    until_policy(&agent, "near", "random");
    until_served(&lab, "near");
    assert_serves(&lab, "near", 11);
}

/// C11: Go EdgeMesh forgets a rule that is there before its Service, and keeps one whose Service is gone.
#[test]
fn go_c11_a_rule_before_its_service_counts() {
    let lab = lab("go-c11");
    let server = lab.api_server("n2", &[]);
    server.apply(&destination_rule("near", &json!({ "simple": "RANDOM" })));
    let agent = lab.spawn_by_file("n1", FILE);
    let unused = |status: &Value| findings(status).iter().any(|finding| finding.contains("no known Service"));
    agent.until("the rule without a Service", unused);
    let near = service(&lab, "near", 11, &["s1"]);
    server.apply_all(&near);
    until_policy(&agent, "near", "random");
    let status = agent.until("no finding", |status| findings(status).is_empty());
    assert_eq!(status["metadata"]["services"], 1);
    server.delete(&near[0]);
    agent.until("the rule without a Service again", unused);
    server.delete(&destination_rule("near", &Value::Null));
    server.apply(&near[0]);
    until_policy(&agent, "near", "round_robin");
    until_served(&lab, "near");
    assert_serves(&lab, "near", 11);
}

/// C12: endpoints before their Service, and after it; the persistence is the Service's in either order.
#[test]
fn go_c12_the_affinity_timeout_counts_in_either_order() {
    let lab = lab("go-c12");
    let server = lab.api_server("n2", &[]);
    let objects = |name: &str, number: u8| {
        let mut objects = service(&lab, name, number, &["s1"]);
        objects[0]["spec"]["sessionAffinity"] = json!("ClientIP");
        objects[0]["spec"]["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 77 } });
        objects
    };
    let [first, second] = [objects("first", 42), objects("second", 43)];
    server.apply_all(&first[1..]);
    server.apply(&second[0]);
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until("what there is", |status| {
        status["metadata"]["services"] == 1 && kind(status, "EndpointSlice")["objects"] == 2
    });
    server.apply(&first[0]);
    server.apply_all(&second[1..]);
    for name in ["first", "second"] {
        until_served(&lab, name);
        assert_eq!(agent.explain(&format!("{name}:80"))["frontends"][0]["affinity_seconds"], 77, "{name}");
    }
    agent.until_ready();
}

/// C5: Go EdgeMesh's hash ring had room for a hundred endpoints.
#[test]
fn go_c5_more_than_a_hundred_endpoints_can_be_hashed() {
    let lab = lab("go-c5");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&lab.node_objects());
    // One pod that has many addresses is as good as many pods.
    let place = lab.place("s1");
    let [net4, net6] = ["172.17.0.", "::"].map(|end| {
        let of = place.addresses.iter().find_map(|address| address.split_once(end).map(|(net, _)| net));
        format!("{}{end}", of.expect("the addresses of the pod's net"))
    });
    let script = format!(
        "for n in $(seq 100 219); do ip addr add {net4}$n/24 dev eth0 && ip addr add {net6}$n/64 dev eth0 nodad || exit; done"
    );
    lab.exec("s1", &["sh", "-c", &script]);
    let places: Vec<Place> = (100..220)
        .map(|number| Place {
            addresses: [format!("{net4}{number}"), format!("{net6}{number}")],
            ..place.clone()
        })
        .collect();
    let many = service_object("many", 44, &PORTS);
    server.apply(&destination_rule("many", &json!({ "consistentHash": { "useSourceIp": true } })));
    server.apply(&many);
    server.apply_all(&slices(&many, &places.iter().collect::<Vec<_>>()));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    until_policy(&agent, "many", "source_ip_hash");
    let status = agent.until("all endpoints", |_| {
        let trace = agent.explain("many:80");
        trace["frontends"][0]["candidates"].as_array().is_some_and(|candidates| candidates.len() >= 120)
    });
    assert_eq!(findings(&status), Vec::<String>::new());
    until_served(&lab, "many");
    assert_serves(&lab, "many", 44);
}

/// A role that lacks EndpointSlices, as those of Go EdgeMesh's installation do: Endpoints stand in, and an operator learns
/// what to add.
#[test]
fn go_c20_endpoints_stand_in_for_forbidden_slices() {
    let lab = lab("go-c20");
    let server = lab.api_server("n2", &[]);
    let forbidden =
        json!({ "resources": { "endpointslices": { "serving": { "availability": "forbidden" } } } });
    server.switch("faults", &forbidden);
    let near = service_object("near", 11, &PORTS);
    server.apply(&near);
    server.apply(&endpoints(&near, &[&lab.place("s1")]));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    until_served(&lab, "near");
    assert_serves(&lab, "near", 11);
    let status = agent.status();
    assert_eq!(kind(&status, "Endpoints")["state"], "watching", "{:#}", status["metadata"]);
    assert!(alarms(&status).contains("EndpointSlice may not be read"), "{}", alarms(&status));
    // The role is mended while the agent runs: the next attempt finds it.
    server.switch("faults", &json!({}));
    server.apply_all(&slices(&near, &[&lab.place("s1")]));
    agent.until("slices", |status| {
        kind(status, "EndpointSlice")["state"] == "watching" && kind(status, "Endpoints")["state"] == "unused"
    });
    agent.until("no alarm", |status| alarms(status).is_empty());
    assert_serves(&lab, "near", 11);
}

/// Headless Services were left out; their pods have names of their own and addresses of both families.
#[test]
fn go_c20_headless_services_have_both_families() {
    let lab = lab("go-c20-headless");
    let server = lab.api_server("n2", &[]);
    let mut headless = service_object("headless", 45, &PORTS);
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["clusterIPs"] = json!(["None"]);
    server.apply(&headless);
    let place = lab.place("s1");
    let mut both = slices(&headless, &[&place]);
    for slice in &mut both {
        slice["endpoints"][0]["hostname"] = json!("member-0");
    }
    server.apply_all(&both);
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    for name in ["headless", "member-0.headless"] {
        let name = format!("{name}.default.svc.cluster.local");
        for (family, address) in ["A", "AAAA"].into_iter().zip(&place.addresses) {
            let dns = lab.workload("c1", &["dns", &name, "--type", family]);
            assert_eq!(dns["addresses"], json!([address]), "{name} {family}");
        }
    }
    let http = lab.workload("c1", &["http", "member-0.headless:8080"]);
    assert_eq!(http["pods"]["s1"], 1, "{http}");
    assert!(!agent.page("/rules").contains("10.96.0.45"), "no address is intercepted");
}

/// What a thousand Services with three endpoints each may take: twice the 6.5 MiB that an unoptimised build took.
const GROWTH_KIB: usize = 13 << 10;

/// Go EdgeMesh has a socket for every port of every Service, starts programs for each of them twice a minute (P4), and
/// keeps three copies of each (P6).
#[test]
fn go_p4_go_p6_a_thousand_services_take_no_sockets_no_programs_and_one_copy() {
    let lab = lab("go-p4");
    let server = lab.api_server("n2", &[]);
    server.apply_all(&service(&lab, "near", 11, &["s1"]));
    let agent = lab.spawn_by_file("n1", FILE);
    agent.until_ready();
    until_served(&lab, "near");
    let few = agent.footprint();
    server.switch("load?services=1000&endpoints=3", &Value::Null);
    let status = agent.until("all Services", |status| status["metadata"]["services"] == 1001);
    let generation = status["metadata"]["generation"].as_u64();
    agent.until("the rules", |status| status["applied"][0]["generation"].as_u64() >= generation);
    let many = agent.footprint();
    // A connection more or less to the API server; Go EdgeMesh had a thousand.
    assert!(many.descriptors <= few.descriptors + 8, "{few:?} and {many:?}");
    assert!(many.anon_kib <= few.anon_kib + GROWTH_KIB, "{few:?} and {many:?}");
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    assert_eq!(std::fs::read_to_string(children).expect("the agent runs"), "");
    let traced = agent.explain("load-999.load:80")["frontends"][0]["service"].clone();
    assert_eq!(traced, "load/load-999");
    assert_serves(&lab, "near", 11);
}
