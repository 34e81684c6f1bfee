use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use edgemesh_apiserver::{Load, Resource, ServerOptions};
use hyper::Method;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{Watch, ask, get, list, names, pod, server, service, start, version};

const SERVICES: &str = "/api/v1/services";

#[tokio::test]
async fn a_watch_begins_with_what_there_is() {
    let server = server().await;
    server.store().create(service("a")).expect("created");
    for since in ["", "&resourceVersion=", "&resourceVersion=0"] {
        let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=true{since}")).await;
        watch.expect(&["ADDED a"]).await;
        server.store().create(service("b")).expect("created");
        server.store().apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"clusterIP": "fd00::2"},
        })).expect("applied");
        server.store().delete(Resource::Services, "default", "b").expect("deleted");
        server.store().create(pod("p", "n", "a")).expect("another resource");
        server.store().delete(Resource::Pods, "default", "p").expect("deleted");
        watch.expect(&["ADDED b", "MODIFIED b", "DELETED b"]).await;
    }
    let counts = server.requests().until(|counts| counts[Resource::Services].open_watches == 0).await;
    assert_eq!((counts[Resource::Services].watches, counts[Resource::Services].events), (3, 12));
}

#[tokio::test]
async fn events_carry_the_object_and_its_version() {
    let server = server().await;
    let rule =
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "r"}});
    server.store().create(rule).expect("created");
    let path = "/apis/networking.istio.io/v1alpha3/destinationrules?watch=1";
    let event = Watch::open(&server, path).await.event().await;
    assert_eq!(event["object"]["apiVersion"], "networking.istio.io/v1alpha3");
    assert_eq!((&event["object"]["kind"], version(&event["object"])), (&json!("DestinationRule"), 2));

    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    server.store().create(service("a")).expect("created");
    let deleted = server.store().delete(Resource::Services, "default", "a").expect("deleted");
    let added = watch.event().await;
    assert_eq!((&added["object"]["kind"], version(&added["object"])), (&json!("Service"), 3));
    let event = watch.event().await;
    assert_eq!(version(&event["object"]), deleted, "a deletion has a version of its own");
    assert_eq!(event["object"]["metadata"]["uid"], added["object"]["metadata"]["uid"]);
}

#[tokio::test]
async fn a_watch_resumes_from_a_version() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        server.store().create(service(name)).expect("created");
    }
    let listed = version(&list(&server, SERVICES).await);
    server.store().delete(Resource::Services, "default", "b").expect("deleted");
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={listed}")).await;
    watch.expect(&["DELETED b"]).await;
    let mut earlier = Watch::open(&server, &format!("{SERVICES}?watch=1&resourceVersion=3")).await;
    earlier.expect(&["ADDED c", "DELETED b"]).await;
    // What a client of a former life asks for.
    let next = server.store().version() + 2;
    let mut future = Watch::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={next}")).await;
    for name in ["d", "e", "f"] {
        server.store().create(service(name)).expect("created");
    }
    future.expect(&["ADDED f"]).await;
    watch.expect(&["ADDED d", "ADDED e", "ADDED f"]).await;
    let bad = get(&server, &format!("{SERVICES}?watch=1&resourceVersion=x")).await;
    assert_eq!(bad.refusal(), (400, "BadRequest".to_owned()));
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/pods?watch=1&labelSelector=app=web&fieldSelector=spec.nodeName=n1";
    let mut watch = Watch::open(&server, path).await;
    let mut foreign = pod("x", "n1", "web");
    foreign["metadata"]["namespace"] = json!("other");
    for object in [
        foreign,
        pod("a", "n2", "web"),
        pod("a", "n1", "web"),
        pod("a", "n1", "db"),
        pod("a", "n2", "db"),
        pod("b", "n1", "web"),
    ] {
        server.store().apply(object).expect("applied");
    }
    let mut relabelled = pod("b", "n1", "web");
    relabelled["metadata"]["labels"]["more"] = json!("yes");
    server.store().apply(relabelled).expect("applied");
    server.store().delete(Resource::Pods, "default", "a").expect("deleted");
    server.store().delete(Resource::Pods, "default", "b").expect("deleted");
    watch.expect(&["ADDED a", "DELETED a", "ADDED b", "MODIFIED b", "DELETED b"]).await;
}

#[tokio::test]
async fn a_version_that_is_too_old_is_gone() {
    let server = start(ServerOptions { history: 2, ..ServerOptions::default() }).await;
    for name in ["a", "b", "c", "d"] {
        server.store().create(service(name)).expect("created");
    }
    let at = |version: u64| format!("{SERVICES}?watch=1&resourceVersion={version}");
    Watch::open(&server, &at(3)).await.expect(&["ADDED c", "ADDED d"]).await;
    let mut old = Watch::open(&server, &at(2)).await;
    let event = old.event().await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    assert_eq!((&event["object"]["kind"], &event["object"]["reason"]), (&json!("Status"), &json!("Expired")));
    old.expect(&["end"]).await;
    // The history of one resource is not that of another.
    Watch::open(&server, "/api/v1/pods?watch=1&resourceVersion=1&timeoutSeconds=1")
        .await
        .expect(&["end"])
        .await;

    let mut established = Watch::open(&server, &at(5)).await;
    server.store().compact();
    let now = server.store().version();
    Watch::open(&server, &at(now - 1)).await.expect(&["ERROR 410", "end"]).await;
    let mut current = Watch::open(&server, &at(now)).await;
    server.store().create(service("e")).expect("created");
    current.expect(&["ADDED e"]).await;
    established.expect(&["ADDED e"]).await;
    server.store().expire_watches(Resource::Services);
    current.expect(&["ERROR 410", "end"]).await;
    established.expect(&["ERROR 410", "end"]).await;
    assert_eq!(server.requests().counts()[Resource::Services].gone, 4);
}

#[tokio::test]
async fn bookmarks_tell_the_version() {
    let every = Duration::from_millis(5);
    let server = start(ServerOptions { bookmark_every: every, ..ServerOptions::default() }).await;
    server.store().create(service("a")).expect("created");
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1&allowWatchBookmarks=true")).await;
    watch.expect(&["ADDED a", "BOOKMARK 2"]).await;
    server.store().create(pod("p", "n", "a")).expect("another resource");
    let event = loop {
        let event = watch.event().await;
        if version(&event["object"]) != 2 {
            break event;
        }
    };
    assert_eq!(
        event["object"],
        json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "3", "creationTimestamp": null},
            "spec": {}, "status": {"loadBalancer": {}},
        })
    );
    for resource in Resource::all() {
        let path = format!("{}?watch=1&allowWatchBookmarks=1&resourceVersion=3", resource.path());
        let event = Watch::open(&server, &path).await.event().await;
        assert_eq!((&event["type"], version(&event["object"])), (&json!("BOOKMARK"), 3), "{resource}");
        assert_eq!(event["object"]["apiVersion"], resource.api_version(), "{resource}");
    }
}

/// A bookmark never tells a version whose events are still to come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_do_not_overtake() {
    const WRITES: u64 = 2000;
    let every = Duration::from_millis(1);
    let server = start(ServerOptions { bookmark_every: every, ..ServerOptions::default() }).await;
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1&allowWatchBookmarks=true")).await;
    let store = server.store().clone();
    let writer = std::thread::spawn(move || {
        for number in 0..WRITES {
            store.create(service(&format!("s{number}"))).expect("created");
        }
    });
    let (mut seen, mut bookmarks) = (1, 0);
    while seen < 1 + WRITES || bookmarks < 3 {
        let event = watch.event().await;
        let told = version(&event["object"]);
        if event["type"] == "BOOKMARK" {
            assert_eq!(told, seen);
            bookmarks += 1;
        } else {
            assert_eq!(told, seen + 1);
            seen = told;
        }
    }
    writer.join().expect("no panic");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let server = server().await;
    server.store().create(service("a")).expect("created");
    let path = format!("{SERVICES}?watch=1&resourceVersion=2&timeoutSeconds=1");
    let mut marked = Watch::open(&server, &format!("{path}&allowWatchBookmarks=true")).await;
    let mut plain = Watch::open(&server, &path).await;
    tokio::join!(marked.expect(&["BOOKMARK 2", "end"]), plain.expect(&["end"]));
}

#[tokio::test]
async fn a_watch_may_be_the_list() {
    let server = server().await;
    for name in ["a", "b"] {
        server.store().create(service(name)).expect("created");
    }
    let path = format!(
        "{SERVICES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = Watch::open(&server, &path).await;
    watch.expect(&["ADDED a", "ADDED b"]).await;
    let end = watch.event().await;
    assert_eq!((&end["type"], version(&end["object"])), (&json!("BOOKMARK"), 3));
    assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    server.store().create(service("c")).expect("created");
    watch.expect(&["ADDED c"]).await;

    let path = format!("{SERVICES}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut later = Watch::open(&server, &path).await;
    server.store().create(service("d")).expect("created");
    later.expect(&["ADDED d"]).await;

    for query in [
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
        "resourceVersionMatch=Exact",
    ] {
        let answer = get(&server, &format!("{SERVICES}?watch=1&{query}")).await;
        assert_eq!(answer.refusal(), (422, "Invalid".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn a_watch_that_does_not_keep_up_is_closed() {
    let server = start(ServerOptions { watch_queue: 4, ..ServerOptions::default() }).await;
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    // The server has no turn between these.
    for name in ["a", "b", "c", "d", "e", "f"] {
        server.store().create(service(name)).expect("created");
    }
    assert_eq!(server.requests().counts()[Resource::Services].overflows, 1);
    watch.expect(&["ADDED a", "ADDED b", "ADDED c", "ADDED d", "end"]).await;
}

/// A client that does not read at all holds no more than its queue and what the sockets hold.
#[tokio::test]
async fn a_client_that_does_not_read_overflows() {
    let server = start(ServerOptions { watch_queue: 64, ..ServerOptions::default() }).await;
    let watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    let mut large = service("a");
    for round in 0.. {
        large["metadata"]["annotations"] =
            json!({"filling": "x".repeat(1 << 18), "round": round.to_string()});
        server.store().apply(large.clone()).expect("applied");
        tokio::task::yield_now().await;
        if server.requests().counts()[Resource::Services].overflows > 0 {
            break;
        }
    }
    drop(watch);
    server.requests().until(|counts| counts[Resource::Services].open_watches == 0).await;
}

#[tokio::test]
async fn a_large_change_reaches_a_watch() {
    let server = server().await;
    let mut watch = Watch::open(&server, "/api/v1/pods?watch=1").await;
    server.store().load(Load { pods: 3000, ..Load::default() }).expect("loaded");
    for number in 0..3000 {
        let event = watch.event().await;
        assert_eq!(event["object"]["metadata"]["name"], format!("load-{number}"));
    }
}

#[tokio::test]
async fn watches_end_with_the_server_and_it_comes_back() {
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
    let server = start(ServerOptions { listen: any, ..ServerOptions::default() }).await;
    assert!(server.addr().is_ipv6() && server.addr().port() != 0);
    server.store().create(service("a")).expect("created");
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    watch.expect(&["ADDED a"]).await;
    server.cut();
    assert!(!watch.ends_cleanly().await, "cut");
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    server.stop().await;
    assert!(!watch.ends_cleanly().await, "stopped");
    let counts = server.requests().counts();
    assert_eq!(
        (counts.open_connections, counts.total(|of| of.open_watches), counts.listening),
        (0, 0, false)
    );
    let refused = TcpStream::connect(server.addr()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.store().create(service("b")).expect("created");
    server.restart().await.expect("restarted");
    assert_eq!(names(&list(&server, SERVICES).await), "a b");
}

#[tokio::test]
async fn a_new_life_begins_at_one() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        server.store().create(service(name)).expect("created");
    }
    let uid = |server: &edgemesh_apiserver::Server| {
        server.store().get(Resource::Services, "default", "a").map(|object| object["metadata"]["uid"].clone())
    };
    let before = uid(&server);
    let mut watch = Watch::open(&server, &format!("{SERVICES}?watch=1&resourceVersion=4")).await;
    server.restart_empty();
    assert!(!watch.ends_cleanly().await);
    let empty = list(&server, SERVICES).await;
    assert_eq!((names(&empty).as_str(), version(&empty)), ("", 1));
    server.store().create(service("a")).expect("created");
    assert_eq!(server.store().version(), 2);
    assert!(before.is_some() && uid(&server).is_some() && uid(&server) != before);
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = start(ServerOptions { max_connections: 1, ..ServerOptions::default() }).await;
    let watch = Watch::open(&server, &format!("{SERVICES}?watch=1")).await;
    let mut second = TcpStream::connect(server.addr()).await.expect("the kernel accepts");
    let read = tokio::io::AsyncReadExt::read(&mut second, &mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(server.requests().counts().dropped_connections, 1);
    drop(watch);
    server.requests().until(|counts| counts.open_connections == 0).await;
    assert_eq!(ask(&server, Method::GET, SERVICES, &[], "").await.status, 200);
}
