use edgemesh_apiserver::{
    Availability, Delivery, EventObjects, FaultSet, ItemTypes, ListFaults, ListVersion, Reply, Resource,
    Scope, Selectors, Server, ServerOptions, ServingFaults, WatchFaults,
};
use futures::FutureExt as _;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, Watch, attempt, get, list, names, pod, server, service, start, version};

const SERVICES: &str = "/api/v1/services";

async fn with_services(names: &[&str]) -> Server {
    let server = server().await;
    for name in names {
        server.store().create(service(name)).expect("created");
    }
    server
}

fn lists(list: ListFaults) -> FaultSet {
    FaultSet { list, ..FaultSet::default() }
}

fn watches(watch: WatchFaults) -> FaultSet {
    FaultSet { watch, ..FaultSet::default() }
}

fn serving(serving: ServingFaults) -> FaultSet {
    FaultSet { serving, ..FaultSet::default() }
}

/// Whether the server answers about a resource that no fault concerns.
async fn answers(server: &Server) {
    assert_eq!(get(server, "/api/v1/nodes").await.status, 200);
}

#[tokio::test]
async fn replies_are_replaced() {
    let server = with_services(&["a"]).await;
    for (reply, expected) in [
        (Reply::Error { status: 500, retry_after: None }, (500, "InternalError")),
        (Reply::Error { status: 503, retry_after: None }, (503, "ServiceUnavailable")),
        (Reply::Error { status: 429, retry_after: Some(7) }, (429, "TooManyRequests")),
    ] {
        server.faults().set(FaultSet::reply(reply));
        for path in [SERVICES, "/api/v1/services?watch=1", "/api/v1/namespaces/default/services/a", "/apis"] {
            let answer = get(&server, path).await;
            assert_eq!(answer.refusal(), (expected.0, expected.1.to_owned()), "{path}");
            let waits = answer.headers.get("retry-after").map(|value| value.as_bytes());
            assert_eq!(waits, (expected.0 == 429).then_some(&b"7"[..]), "{path}");
        }
    }
    for status in [200, 502] {
        server.faults().set(FaultSet::reply(Reply::Html { status }));
        let answer = get(&server, SERVICES).await;
        assert_eq!(answer.status, status);
        assert!(answer.headers["content-type"].as_bytes().starts_with(b"text/html"));
        assert!(answer.body.starts_with(b"<!DOCTYPE html>"));
    }
    for reply in [Reply::Garbage, Reply::Halved] {
        server.faults().set(FaultSet::reply(reply));
        let answer = get(&server, SERVICES).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (StatusCode::OK, &"application/json".parse().expect("a value"))
        );
        assert!(
            serde_json::from_slice::<serde_json::Value>(&answer.body).is_err(),
            "{reply:?}: {:?}",
            answer.body
        );
    }
    server.faults().set(FaultSet::reply(Reply::Broken));
    let broken = timeout(DEADLINE, attempt(server.addr(), Method::GET, SERVICES, &[], "")).await;
    assert!(broken.expect("in time").is_err(), "the connection breaks within the list");
    server.faults().clear();
    assert_eq!(names(&list(&server, SERVICES).await), "a");
}

/// A large list breaks after half of it was sent.
#[tokio::test]
async fn a_broken_list_arrives_by_half() {
    use http_body_util::BodyExt as _;
    let server = server().await;
    server.store().load(edgemesh_apiserver::Load { services: 400, ..Default::default() }).expect("loaded");
    let whole = get(&server, SERVICES).await.body.len();
    server.faults().set(FaultSet::reply(Reply::Broken));
    let stream = TcpStream::connect(server.addr()).await.expect("connected");
    let request = crate::support::request(Method::GET, SERVICES, &[], "");
    let mut body = crate::support::send(stream, request).await.expect("headers").into_body();
    let (mut read, mut broken) = (0, false);
    while let Some(frame) = timeout(DEADLINE, body.frame()).await.expect("in time") {
        match frame {
            Ok(frame) => read += frame.into_data().expect("data").len(),
            Err(_) => broken = true,
        }
    }
    assert_eq!((read, broken), (whole / 2, true));
}

#[tokio::test]
async fn silence_is_kept_and_broken() {
    let server = with_services(&["a"]).await;
    let mut watch = Watch::open(&server, "/api/v1/services?watch=1").await;
    watch.expect(&["ADDED a"]).await;
    server.faults().set_for(Resource::Services, FaultSet::reply(Reply::Silence));
    server.store().create(service("b")).expect("created");
    let addr = server.addr();
    let mut asked = tokio::spawn(async move { attempt(addr, Method::GET, SERVICES, &[], "").await.is_ok() });
    server.requests().until(|counts| counts[Resource::Services].faults == 1).await;
    answers(&server).await;
    assert!((&mut asked).now_or_never().is_none(), "no answer");
    assert!(watch.is_silent());
    server.faults().clear();
    watch.expect(&["ADDED b"]).await;
    answers(&server).await;
    assert!((&mut asked).now_or_never().is_none(), "it is never answered");
    server.cut();
    assert!(!timeout(DEADLINE, asked).await.expect("in time").expect("no panic"));
}

#[tokio::test]
async fn connections_are_refused() {
    let server = server().await;
    server.faults().refuse_connections(true);
    server.requests().until(|counts| !counts.listening).await;
    let refused = TcpStream::connect(server.addr()).await.expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.faults().clear();
    server.requests().until(|counts| counts.listening).await;
    answers(&server).await;
}

#[tokio::test]
async fn answers_are_late_or_slow_and_whole() {
    let server = with_services(&["a", "b"]).await;
    let size = u64::try_from(get(&server, SERVICES).await.body.len()).expect("small");
    for faults in [
        FaultSet { latency_ms: 200, ..FaultSet::default() },
        FaultSet { bytes_per_second: size * 5, ..FaultSet::default() },
    ] {
        server.faults().set_for(Resource::Services, faults);
        let addr = server.addr();
        let asked = server.requests().counts()[Resource::Services].requests;
        let mut late = tokio::spawn(async move { attempt(addr, Method::GET, SERVICES, &[], "").await });
        server.requests().until(|counts| counts[Resource::Services].requests == asked + 1).await;
        assert!((&mut late).now_or_never().is_none());
        let answer = timeout(DEADLINE, late).await.expect("in time").expect("no panic").expect("an answer");
        assert_eq!(names(&answer.json()), "a b");
    }
}

#[tokio::test]
async fn faults_are_scoped() {
    let server = server().await;
    let one: Scope = "destinationrules.v1.networking.istio.io".parse().expect("a scope");
    server.faults().set(FaultSet::error(500));
    server.faults().set_for(Resource::Services, FaultSet::default());
    server.faults().set_availability(Resource::DestinationRules, Availability::Forbidden);
    server.faults().set_availability(one.clone(), Availability::Absent);
    for (path, expected) in [
        ("/api/v1/services", 200),
        ("/api/v1/pods", 500),
        ("/apis/networking.istio.io/v1/destinationrules", 404),
        ("/apis/networking.istio.io/v1beta1/destinationrules", 403),
        ("/apis/networking.istio.io/v1beta1/destinationrules?watch=1", 403),
    ] {
        assert_eq!(get(&server, path).await.status, expected, "{path}");
    }
    let absent = get(&server, "/apis/networking.istio.io/v1/destinationrules").await;
    assert_eq!(absent.refusal(), (404, "404 page not found\n".to_owned()));
    assert_eq!(server.requests().counts()[Resource::DestinationRules].absent_watches, 0);
    let forbidden = get(&server, "/apis/networking.istio.io/v1beta1/destinationrules").await.json();
    assert_eq!(
        (&forbidden["reason"], &forbidden["details"]["group"]),
        (&json!("Forbidden"), &json!("networking.istio.io"))
    );
    for (text, expected) in [
        ("services", Ok(Resource::Services.into())),
        ("gateways.networking.istio.io", Ok(Resource::IstioGateways.into())),
        ("destinationrules.v1.networking.istio.io", Ok(one)),
        ("gateways", Err("ambiguous")),
        ("gadgets", Err("unknown")),
        ("services.v2", Err("unknown")),
    ] {
        let parsed = text.parse::<Scope>();
        assert_eq!(
            parsed.as_ref().map_err(|error| error.as_str()),
            expected.as_ref().map_err(|word| *word),
            "{text}"
        );
        assert!(parsed.is_err() || parsed.is_ok_and(|scope| scope.to_string() == text), "{text}");
    }
}

#[tokio::test]
async fn lists_are_wrong() {
    let server = with_services(&["a", "b"]).await;
    let rule =
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "a"}});
    server.store().create(rule).expect("created");
    let rules = "/apis/networking.istio.io/v1/destinationrules";
    let read = async |faults, path: &str| {
        server.faults().set(lists(faults));
        list(&server, path).await
    };

    let unpaged = ListFaults { unpaged: true, ..ListFaults::default() };
    let whole = read(unpaged, "/api/v1/services?limit=1").await;
    assert_eq!((names(&whole).as_str(), whole["metadata"].get("continue")), ("a b", None));

    for (version, expected, empty) in [
        (ListVersion::Right, Some("4"), Some("4")),
        (ListVersion::MissingWhenEmpty, Some("4"), None),
        (ListVersion::Missing, None, None),
        (ListVersion::Zero, Some("0"), Some("0")),
    ] {
        let faults = ListFaults { version, ..ListFaults::default() };
        let told = read(faults.clone(), SERVICES).await["metadata"]["resourceVersion"].clone();
        assert_eq!(told.as_str(), expected, "{version:?}");
        let told = read(faults, "/api/v1/pods").await["metadata"]["resourceVersion"].clone();
        assert_eq!(told.as_str(), empty, "{version:?}");
    }

    for (item_types, built_in, custom) in [
        (ItemTypes::OfCustomResources, None, Some("DestinationRule")),
        (ItemTypes::OfAll, Some("Service"), Some("DestinationRule")),
        (ItemTypes::OfNone, None, None),
    ] {
        let faults = ListFaults { item_types, ..ListFaults::default() };
        assert_eq!(
            read(faults.clone(), SERVICES).await["items"][0]["kind"].as_str(),
            built_in,
            "{item_types:?}"
        );
        let item = read(faults, rules).await["items"][0].clone();
        assert_eq!((item["kind"].as_str(), item["apiVersion"].is_null()), (custom, custom.is_none()));
    }

    for (resource, kind) in [
        (Resource::Services, "ServiceList"),
        (Resource::Endpoints, "EndpointsList"),
        (Resource::Nodes, "NodeList"),
        (Resource::Pods, "PodList"),
        (Resource::EndpointSlices, "EndpointslicList"),
        (Resource::DestinationRules, "DestinationrulList"),
        (Resource::VirtualServices, "VirtualservicList"),
        (Resource::GatewayClasses, "GatewayclassList"),
        (Resource::ConfigMaps, "ConfigmapList"),
    ] {
        let faults = ListFaults { guessed_kind: true, ..ListFaults::default() };
        assert_eq!(read(faults, &resource.path()).await["kind"], kind);
    }
}

#[tokio::test]
async fn lists_are_empty_for_a_while() {
    let server = with_services(&["a"]).await;
    let faults = lists(ListFaults { empty_requests: 2, ..ListFaults::default() });
    for round in ["set", "restarted"] {
        if round == "set" {
            server.faults().set(faults.clone());
        } else {
            server.restart().await.expect("restarted");
        }
        for expected in ["", "", "a"] {
            let list = list(&server, SERVICES).await;
            assert_eq!((names(&list).as_str(), version(&list)), (expected, 2), "{round}");
        }
    }
    server.faults().set(lists(ListFaults { empty_ms: 60_000, ..ListFaults::default() }));
    assert_eq!(names(&list(&server, SERVICES).await), "");
    server.faults().clear();
    assert_eq!(names(&list(&server, SERVICES).await), "a");
}

#[tokio::test]
async fn watches_replay_or_lose() {
    let server = with_services(&["a", "b"]).await;
    let resumed = format!("{SERVICES}?watch=1&resourceVersion=3");
    server.store().create(service("c")).expect("created");
    server.store().delete(Resource::Services, "default", "a").expect("deleted");
    for (faults, expected) in [
        (WatchFaults::default(), &["ADDED c", "DELETED a"][..]),
        (WatchFaults { missed_deletions_lost: true, ..WatchFaults::default() }, &["ADDED c"]),
        (WatchFaults { replay: true, ..WatchFaults::default() }, &["ADDED b", "ADDED c"]),
    ] {
        server.faults().set(watches(faults));
        let mut watch = Watch::open(&server, &resumed).await;
        watch.expect(expected).await;
        server.store().create(service("live")).expect("created");
        server.store().delete(Resource::Services, "default", "live").expect("deleted");
        watch.expect(&["ADDED live", "DELETED live"]).await;
        // Back to the history that the next case expects.
        server.cut();
        let server = &server;
        server.requests().until(|counts| counts[Resource::Services].open_watches == 0).await;
        server.restart_empty();
        for name in ["a", "b", "c"] {
            server.store().create(service(name)).expect("created");
        }
        server.store().delete(Resource::Services, "default", "a").expect("deleted");
    }
}

#[tokio::test]
async fn watches_carry_hollow_events() {
    let server = with_services(&[]).await;
    let mut watch = Watch::open(&server, "/api/v1/services?watch=1").await;
    for (objects, expected) in [
        (EventObjects::Empty, r#"ADDED {}"#),
        (EventObjects::Null, "ADDED null"),
        (EventObjects::Whole, "ADDED a"),
    ] {
        server.faults().set(watches(WatchFaults { objects, ..WatchFaults::default() }));
        server.store().create(service("a")).expect("created");
        watch.expect(&[expected]).await;
        server.faults().clear();
        server.store().delete(Resource::Services, "default", "a").expect("deleted");
        watch.expect(&["DELETED a"]).await;
    }
}

#[tokio::test]
async fn watches_are_silent_or_short() {
    let server = with_services(&["a"]).await;
    let path = format!("{SERVICES}?watch=1&allowWatchBookmarks=true&resourceVersion=2&timeoutSeconds=1");
    server.faults().set(watches(WatchFaults { delivery: Delivery::Never, ..WatchFaults::default() }));
    let mut never = Watch::open(&server, &path.replace("&resourceVersion=2", "")).await;
    server.store().create(service("b")).expect("created");
    never.expect(&["end"]).await;
    assert_eq!(names(&list(&server, SERVICES).await), "a b", "lists work");

    server.faults().set(watches(WatchFaults { delivery: Delivery::Stalled, ..WatchFaults::default() }));
    let mut stalled = Watch::open(&server, &path.replace("&timeoutSeconds=1", "")).await;
    answers(&server).await;
    assert!(stalled.is_silent());
    server.faults().set(watches(WatchFaults { close_after_ms: Some(60_000), ..WatchFaults::default() }));
    stalled.expect(&["ADDED b"]).await;
    server.faults().set(watches(WatchFaults { close_after_ms: Some(1), ..WatchFaults::default() }));
    stalled.expect(&["end"]).await;

    server.faults().set(watches(WatchFaults { no_bookmarks: true, ..WatchFaults::default() }));
    Watch::open(&server, &path).await.expect(&["ADDED b", "end"]).await;
    assert_eq!(server.requests().counts()[Resource::Services].bookmarks, 0);
}

#[tokio::test]
async fn versions_that_are_gone_are_refused_with_a_status() {
    let server = with_services(&["a", "b"]).await;
    server.store().compact();
    server.faults().set(watches(WatchFaults { gone_as_status: true, ..WatchFaults::default() }));
    let answer = get(&server, "/api/v1/services?watch=1&resourceVersion=2").await;
    assert_eq!(answer.refusal(), (410, "Expired".to_owned()));
}

#[tokio::test]
async fn selectors_discovery_and_refusals_are_wrong() {
    let server = server().await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        server.store().create(pod(name, node, "web")).expect("created");
    }
    for (selectors, label, name, node) in [
        (Selectors::Followed, "", "a", "a"),
        (Selectors::NamesOnly, "", "a", ""),
        (Selectors::Ignored, "a b", "a b", "a b"),
    ] {
        server.faults().set(serving(ServingFaults { selectors, ..ServingFaults::default() }));
        for (query, expected) in [
            ("labelSelector=app=db", label),
            ("fieldSelector=metadata.name=a", name),
            ("fieldSelector=spec.nodeName=n1", node),
        ] {
            let found = names(&list(&server, &format!("/api/v1/pods?{query}")).await);
            assert_eq!(found, expected, "{selectors:?} {query}");
        }
    }
    server.faults().set(serving(ServingFaults {
        discovery: Some(404),
        refusals_as_internal: true,
        no_initial_events: true,
        ..ServingFaults::default()
    }));
    for (path, expected) in [
        ("/api", 404),
        ("/api/v1", 404),
        ("/apis", 404),
        ("/apis/discovery.k8s.io/v1", 404),
        ("/version", 200),
        ("/api/v1/pods", 200),
        ("/api/v1/namespaces/default/pods/none", 500),
    ] {
        assert_eq!(get(&server, path).await.status, expected, "{path}");
    }
    server.faults().set(serving(ServingFaults { no_initial_events: true, ..ServingFaults::default() }));
    let path = "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(get(&server, path).await.refusal(), (422, "Invalid".to_owned()));
}

/// A client that resumes a watch keeps what was deleted meanwhile: it has to list again.
#[tokio::test]
async fn the_metaserver_tells_no_deletion_that_was_missed() {
    let server = with_services(&["a", "b"]).await;
    server.faults().set(FaultSet::metaserver());
    let empty = list(&server, &Resource::EndpointSlices.path()).await;
    assert_eq!((&empty["kind"], &empty["metadata"]), (&json!("EndpointslicList"), &json!({})));
    let listed = list(&server, "/api/v1/services?limit=1").await;
    assert_eq!((names(&listed).as_str(), &listed["items"][0]["kind"]), ("a b", &json!("Service")));
    let path = format!("{SERVICES}?watch=1&allowWatchBookmarks=true&resourceVersion={}", version(&listed));
    let mut watch = Watch::open(&server, &path).await;
    watch.expect(&["ADDED a", "ADDED b"]).await;
    server.cut();
    assert!(!watch.ends_cleanly().await);
    server.store().delete(Resource::Services, "default", "a").expect("deleted");
    let mut watch = Watch::open(&server, &format!("{path}&timeoutSeconds=1")).await;
    watch.expect(&["ADDED b", "end"]).await;
    assert_eq!(names(&list(&server, SERVICES).await), "b");
    assert_eq!(get(&server, "/apis").await.refusal(), (500, "InternalError".to_owned()));
}

/// Who may ask nothing is not told what is there.
#[tokio::test]
async fn what_is_not_there_is_forbidden_first() {
    let server = server().await;
    let forbidden = ServingFaults { availability: Availability::Forbidden, ..ServingFaults::default() };
    server.faults().set(serving(forbidden));
    for path in ["/api/v1/services", "/apis/example.com/v1/gadgets", "/api/v1/gadgets"] {
        assert_eq!(get(&server, path).await.refusal(), (403, "Forbidden".to_owned()), "{path}");
    }
}

/// What a client asks for that has seen another life of the server.
#[tokio::test]
async fn a_watch_from_the_future_is_deaf() {
    let every = std::time::Duration::from_millis(1);
    let server = start(ServerOptions { bookmark_every: every, ..ServerOptions::default() }).await;
    let path = format!("{SERVICES}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=99");
    let mut watch = Watch::open(&server, &path).await;
    server.store().create(service("a")).expect("created");
    watch.expect(&["end"]).await;
    assert_eq!(server.requests().counts()[Resource::Services].bookmarks, 0);
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn slice(address: &str) -> serde_json::Value {
    let endpoints = [[address], ["10.0.0.9"]].map(|addresses| json!({"addresses": addresses}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "https", "port": 443}],
    })
}

#[tokio::test]
async fn a_connected_metaserver_spoils_slices_in_lists_alone() {
    let server = server().await;
    server.faults().set(FaultSet::metaserver_connected());
    server.store().create(slice("10.0.0.1")).expect("created");
    let answer = get(&server, SLICES).await;
    let text = std::str::from_utf8(&answer.body).expect("UTF-8");
    assert!(text.starts_with(r#"{"apiVersion":"discovery.k8s.io/v1","items":[{"#), "{text}");
    let listed = answer.json();
    assert_eq!((&listed["kind"], version(&listed)), (&json!("EndpointSliceList"), 2));
    assert_eq!(listed["items"][0]["endpoints"], json!([{"addresses": ["127.0.0.1"]}]));
    assert_eq!(listed["items"][0]["ports"][0]["port"], 10550);
    let whole = get(&server, &format!("{SLICES}/s")).await.json();
    let told = Watch::open(&server, &format!("{SLICES}?watch=1")).await.event().await;
    for object in [&whole, &told["object"]] {
        assert_eq!(object["endpoints"], slice("10.0.0.1")["endpoints"]);
    }
    let bad = list(&server, &format!("{SERVICES}?resourceVersion=99")).await;
    assert_eq!(bad, json!({"apiVersion": "v1", "items": [], "kind": "ServiceList"}), "an error says nothing");
    assert_eq!(get(&server, "/apis").await.body.as_ref(), b"k8s\0");
}

/// The store keeps what was deleted meanwhile, lacks what nobody watched, and is what watches begin with.
#[tokio::test]
async fn a_metaserver_without_the_cloud_answers_from_its_store() {
    let server = with_services(&["a", "b"]).await;
    let pods = "/api/v1/pods";
    server.store().create(pod("p", "n", "web")).expect("created");
    server.faults().set(FaultSet::metaserver_connected());
    let mut early = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    early.expect(&["ADDED a", "ADDED b"]).await;
    assert_eq!(names(&list(&server, pods).await), "p", "the cloud is asked");

    server.faults().cloud_away(true);
    server.store().delete(Resource::Services, "default", "a").expect("deleted");
    server.store().create(service("c")).expect("created");
    let listed = list(&server, &format!("{SERVICES}?limit=1")).await;
    assert_eq!(names(&listed), "a b");
    let metadata = json!({"resourceVersion": "3", "selfLink": "/core/v1/services/null/null"});
    assert_eq!(listed["metadata"], metadata);
    let none = list(&server, &format!("{SERVICES}?labelSelector=app=x")).await;
    assert_eq!((names(&none).as_str(), &none["metadata"]), ("", &metadata));
    let unknown = list(&server, pods).await;
    assert_eq!(unknown, json!({"apiVersion": "v1", "items": [], "kind": "PodList"}));
    let gone = get(&server, "/api/v1/namespaces/default/services/c").await;
    assert_eq!(gone.refusal(), (404, "NotFound".to_owned()));
    let write =
        attempt(server.addr(), Method::DELETE, "/api/v1/namespaces/default/services/b", &[], "").await;
    assert_eq!(write.expect("an answer").refusal(), (500, String::new()));
    assert_eq!(get(&server, "/apis").await.refusal(), (500, "\"\" not found".to_owned()));
    Watch::open(&server, &format!("{SERVICES}?watch=1&timeoutSeconds=1"))
        .await
        .expect(&["ADDED a", "ADDED b", "end"])
        .await;

    server.faults().cloud_away(false);
    assert_eq!(names(&list(&server, SERVICES).await), "b c");
    for _ in 0..2 {
        let mut late = Watch::open(&server, &format!("{SERVICES}?watch=1&resourceVersion=9")).await;
        late.expect(&["ADDED a", "ADDED b", "ADDED c"]).await;
    }
    server.store().delete(Resource::Services, "default", "b").expect("deleted");
    early.expect(&["DELETED b"]).await;
}

#[tokio::test]
async fn the_first_watch_of_a_metaserver_may_miss_objects() {
    let server = with_services(&["a"]).await;
    let ways = FaultSet::metaserver_connected();
    let watch = WatchFaults { first_loses: true, ..ways.watch.clone() };
    server.store().create(pod("p", "n", "web")).expect("created");
    server.faults().set(FaultSet { watch, ..ways });
    Watch::open(&server, "/api/v1/pods?watch=1").await.expect(&["ADDED p"]).await;
    let path = format!("{SERVICES}?watch=1&timeoutSeconds=1");
    Watch::open(&server, &path).await.expect(&["end"]).await;
    Watch::open(&server, &path).await.expect(&["ADDED a", "end"]).await;
}

#[tokio::test]
async fn watches_of_what_the_cloud_lacks_are_counted() {
    let server = server().await;
    let ways = FaultSet::metaserver_connected();
    let absent = ServingFaults { availability: Availability::Absent, ..ways.serving.clone() };
    server.faults().set(FaultSet { serving: absent, ..ways });
    let rules = Resource::DestinationRules;
    let listed = list(&server, &rules.path()).await;
    assert_eq!((&listed["kind"], listed.get("metadata")), (&json!("DestinationruleList"), None));
    assert_eq!(server.requests().counts()[rules].absent_watches, 0);
    let mut watch = Watch::open(&server, &format!("{}?watch=1", rules.path())).await;
    assert!(watch.is_silent());
    assert_eq!(server.requests().counts()[rules].absent_watches, 1);
}
