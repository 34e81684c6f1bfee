use edgemesh_apiserver::{Availability, Load, Resource, ServerOptions};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{ask, get, list, names, pod, server, service, start, version};

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[tokio::test]
async fn objects_are_stamped() {
    let server = server().await;
    let store = server.store();
    let read = || store.get(Resource::Services, "default", "a").expect("is there");
    let first = store.create(service("a")).expect("created");
    let created = read();
    assert_eq!((first, version(&created), store.version()), (2, 2, 2));
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["metadata"]["creationTimestamp"].as_str().expect("a time").ends_with('Z'));

    assert_eq!(store.apply(service("a")).expect("applied"), first, "nothing differs");
    let mut changed = service("a");
    changed["metadata"]["labels"] = json!({"app": "a"});
    assert_eq!(store.apply(changed.clone()).expect("applied"), 3);
    assert_eq!(read()["metadata"]["generation"], 1, "metadata is not counted");
    changed["spec"]["clusterIP"] = json!("10.96.0.2");
    assert_eq!(store.apply(changed.clone()).expect("applied"), 4);
    changed["status"] = json!({"loadBalancer": {}});
    assert_eq!(store.apply(changed).expect("applied"), 5);
    let now = read();
    assert_eq!(now["metadata"]["generation"], 2, "status is not counted");
    for key in ["uid", "creationTimestamp"] {
        assert_eq!(now["metadata"][key], created["metadata"][key], "{key}");
    }

    store.apply(pod("a", "n", "a")).expect("another resource");
    assert_eq!(store.delete(Resource::Services, "default", "a").expect("deleted"), 7);
    assert_eq!(store.create(service("a")).expect("created"), 8);
    assert_ne!(read()["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(store.delete(Resource::Services, "other", "a").expect_err("not there").as_str(), "absent");
    assert_eq!(store.create(json!({"kind": "Gadget"})).expect_err("unknown").as_str(), "unknown_kind");
}

#[tokio::test]
async fn every_resource_is_listed_under_its_kind() {
    let server = server().await;
    for (resource, kind) in [
        (Resource::Services, "Service"),
        (Resource::Endpoints, "Endpoints"),
        (Resource::Pods, "Pod"),
        (Resource::Nodes, "Node"),
        (Resource::Namespaces, "Namespace"),
        (Resource::Secrets, "Secret"),
        (Resource::ConfigMaps, "ConfigMap"),
        (Resource::EndpointSlices, "EndpointSlice"),
        (Resource::DestinationRules, "DestinationRule"),
        (Resource::VirtualServices, "VirtualService"),
        (Resource::IstioGateways, "Gateway"),
        (Resource::GatewayClasses, "GatewayClass"),
        (Resource::Gateways, "Gateway"),
        (Resource::HttpRoutes, "HTTPRoute"),
        (Resource::TcpRoutes, "TCPRoute"),
        (Resource::TlsRoutes, "TLSRoute"),
    ] {
        let api_version = resource.api_version();
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}});
        server.store().create(object).expect("created");
        let list = list(&server, &resource.path()).await;
        assert_eq!(
            (&list["kind"], &list["apiVersion"]),
            (&json!(format!("{kind}List")), &json!(api_version)),
            "{resource}"
        );
        assert_eq!((names(&list).as_str(), version(&list)), ("a", server.store().version()), "{resource}");
        // Kubernetes leaves the types out of the items of its own lists.
        let types = list["items"][0]["kind"].as_str();
        let built_in = api_version == "v1" || api_version == "discovery.k8s.io/v1";
        assert_eq!(types, (!built_in).then_some(kind), "{resource}");
    }
    assert_eq!(Resource::all().count(), Resource::COUNT);
}

#[tokio::test]
async fn versions_of_a_resource_serve_the_same_objects() {
    let server = server().await;
    let rule = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "DestinationRule", "metadata": {"name": "a"}});
    server.store().create(rule).expect("created");
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let path = format!("/apis/networking.istio.io/{version}/destinationrules");
        let list = list(&server, &path).await;
        assert_eq!(list["items"][0]["apiVersion"], format!("networking.istio.io/{version}"));
        let object = get(&server, &path.replace("destination", "namespaces/default/destination")).await;
        assert_eq!(object.status, 200);
    }
    let path = "/apis/networking.istio.io/v2/destinationrules";
    assert_eq!(get(&server, path).await.refusal(), (404, "404 page not found\n".to_owned()));
}

/// Kubernetes writes custom resources in the order of the alphabet, and an empty token where there is none.
#[tokio::test]
async fn lists_of_custom_resources_have_their_items_first() {
    let server = server().await;
    let rule =
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "a"}});
    server.store().create(rule).expect("created");
    let body = get(&server, &Resource::DestinationRules.path()).await.body;
    let text = std::str::from_utf8(&body).expect("UTF-8");
    let end = r#"}],"kind":"DestinationRuleList","metadata":{"continue":"","resourceVersion":"2"}}"#;
    assert!(text.starts_with(r#"{"apiVersion":"networking.istio.io/v1","items":[{"#), "{text}");
    assert_eq!(text.trim_end().split_at(text.trim_end().len() - end.len()).1, end);
    let services = get(&server, "/api/v1/services").await.body;
    let expected =
        r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"2"},"items":[]}"#;
    assert_eq!(services.trim_ascii_end(), expected.as_bytes());
}

#[tokio::test]
async fn objects_are_written_over_http() {
    let server = server().await;
    let merge = [("content-type", "application/merge-patch+json")];
    let stale = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {},
    });
    let one = format!("{SERVICES}/a");
    let status = format!("{SERVICES}/a/status");
    let nameless = json!({"apiVersion": "v1", "kind": "Service", "metadata": {}});
    for (method, path, headers, body, expected) in [
        (Method::POST, SERVICES, &[][..], service("a"), (201, "")),
        (Method::POST, SERVICES, &[], service("a"), (409, "AlreadyExists")),
        (Method::POST, SERVICES, &[], nameless, (422, "Invalid")),
        (Method::POST, SERVICES, &[], pod("a", "n", "a"), (400, "BadRequest")),
        (Method::PUT, &one, &[], service("b"), (400, "BadRequest")),
        (Method::PUT, &one, &[], stale, (409, "Conflict")),
        (Method::PUT, &format!("{SERVICES}/b"), &[], service("b"), (404, "NotFound")),
        (Method::PUT, &one, &[], service("a"), (200, "")),
        (Method::PATCH, &one, &[], json!({}), (415, "UnsupportedMediaType")),
        (Method::PATCH, &one, &merge, json!({"spec": {"clusterIP": null, "type": "ClusterIP"}}), (200, "")),
        (Method::PATCH, &status, &merge, json!({"spec": 1, "status": {"seen": true}}), (200, "")),
        (Method::PATCH, &one, &merge, json!({"metadata": {"resourceVersion": "1"}}), (409, "Conflict")),
        (Method::PATCH, &one, &merge, json!({"metadata": "none"}), (422, "Invalid")),
        (Method::PATCH, &one, &merge, json!([]), (422, "Invalid")),
        (Method::POST, &one, &[], json!({}), (405, "MethodNotAllowed")),
        (Method::GET, &format!("{one}/logs"), &[], json!({}), (404, "NotFound")),
    ] {
        let name = format!("{method} {path} {body}");
        let answer = ask(&server, method, path, headers, &body.to_string()).await;
        match expected {
            (code, "") => assert_eq!(answer.status, code, "{name}"),
            (code, reason) => assert_eq!(answer.refusal(), (code, reason.to_owned()), "{name}"),
        }
    }
    let object = get(&server, &one).await.json();
    assert_eq!(object["spec"], json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "type": "ClusterIP"}));
    assert_eq!((&object["status"], &object["kind"]), (&json!({"seen": true}), &json!("Service")));
    let deleted = ask(&server, Method::DELETE, &one, &[], "").await.json();
    assert_eq!((&deleted["status"], &deleted["details"]["name"]), (&json!("Success"), &json!("a")));
    let missing = get(&server, &one).await;
    assert_eq!(missing.refusal(), (404, "NotFound".to_owned()));
    assert_eq!(missing.json()["details"], json!({"name": "a", "kind": "services"}));
    assert_eq!(server.requests().counts()[Resource::Services].writes, 5);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = server().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.store().create(service(name)).expect("created");
    }
    let first = list(&server, "/api/v1/services?limit=2").await;
    let token = |page: &Value| page["metadata"]["continue"].as_str().expect("a token").to_owned();
    assert_eq!((names(&first).as_str(), &first["metadata"]["remainingItemCount"]), ("a b", &json!(3)));
    // Later pages show what the first one saw.
    server.store().delete(Resource::Services, "default", "c").expect("deleted");
    server.store().create(service("f")).expect("created");
    let second = list(&server, &format!("/api/v1/services?limit=2&continue={}", token(&first))).await;
    assert_eq!((names(&second).as_str(), version(&second)), ("c d", version(&first)));
    let third = list(&server, &format!("/api/v1/services?limit=2&continue={}", token(&second))).await;
    assert_eq!((names(&third).as_str(), third["metadata"].get("continue")), ("e", None));

    let picky = list(&server, "/api/v1/services?limit=2&labelSelector=!app").await;
    assert_eq!((names(&picky).as_str(), picky["metadata"].get("remainingItemCount")), ("a b", None));
    let cached = list(&server, "/api/v1/services?limit=2&resourceVersion=0").await;
    assert_eq!(names(&cached), "a b d e f", "the watch cache knows no pages");

    server.store().compact();
    let late = get(&server, &format!("/api/v1/services?limit=2&continue={}", token(&second))).await;
    assert_eq!(late.refusal(), (410, "Expired".to_owned()));
    let bad = get(&server, "/api/v1/services?continue=none").await;
    assert_eq!(bad.refusal(), (400, "BadRequest".to_owned()));
    let counts = server.requests().counts()[Resource::Services];
    assert_eq!((counts.lists, counts.pages, counts.gone), (3, 2, 1));
}

#[tokio::test]
async fn old_pages_give_way() {
    let server = server().await;
    for name in ["a", "b"] {
        server.store().create(service(name)).expect("created");
    }
    let first = list(&server, "/api/v1/services?limit=1").await;
    for _ in 0..64 {
        list(&server, "/api/v1/services?limit=1").await;
    }
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let late = get(&server, &format!("/api/v1/services?limit=1&continue={token}")).await;
    assert_eq!(late.refusal(), (410, "Expired".to_owned()));
}

#[tokio::test]
async fn lists_at_a_version_are_served_or_refused() {
    let server = server().await;
    for name in ["a", "b"] {
        server.store().create(service(name)).expect("created");
    }
    for (query, expected) in [
        ("resourceVersion=0", (200, "")),
        ("resourceVersion=2", (200, "")),
        ("resourceVersion=2&resourceVersionMatch=NotOlderThan", (200, "")),
        ("resourceVersion=3&resourceVersionMatch=Exact", (200, "")),
        ("resourceVersion=2&resourceVersionMatch=Exact", (410, "Expired")),
        ("resourceVersion=99", (504, "Timeout")),
        ("resourceVersion=x", (400, "BadRequest")),
        ("limit=x", (400, "BadRequest")),
        ("resourceVersionMatch=Exact", (422, "Invalid")),
        ("resourceVersion=2&resourceVersionMatch=Near", (422, "Invalid")),
        ("sendInitialEvents=true", (422, "Invalid")),
    ] {
        let answer = get(&server, &format!("/api/v1/services?{query}")).await;
        match expected {
            (200, _) => assert_eq!(names(&answer.json()), "a b", "{query}"),
            (code, reason) => assert_eq!(answer.refusal(), (code, reason.to_owned()), "{query}"),
        }
    }
    let future = get(&server, "/api/v1/services?resourceVersion=99").await;
    assert_eq!(future.headers["retry-after"].as_bytes(), b"1");
    let told = future.json();
    assert_eq!(told["message"], "Timeout: Too large resource version: 99, current: 3");
    let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    assert_eq!(told["details"], json!({"causes": [cause], "retryAfterSeconds": 1}));
}

#[tokio::test]
async fn selectors_pick() {
    let server = server().await;
    for (name, node, app) in [("a", "n1", "web"), ("b", "n2", "web"), ("c", "n1", "db")] {
        server.store().create(pod(name, node, app)).expect("created");
    }
    let mut elsewhere = pod("d", "n1", "web");
    elsewhere["metadata"]["namespace"] = json!("other");
    server.store().create(elsewhere).expect("created");
    for (query, expected) in [
        ("pods", "a b c d"),
        ("namespaces/other/pods", "d"),
        ("namespaces/none/pods", ""),
        ("pods?labelSelector=app%3Dweb", "a b d"),
        ("pods?labelSelector=app+in+(db,cache)", "c"),
        ("pods?fieldSelector=spec.nodeName%3Dn1", "a c d"),
        ("pods?fieldSelector=spec.nodeName!%3Dn1", "b"),
        ("pods?fieldSelector=metadata.namespace=other,metadata.name=d", "d"),
        ("namespaces/default/pods?labelSelector=app!=db&fieldSelector=metadata.name!=a", "b"),
    ] {
        assert_eq!(names(&list(&server, &format!("/api/v1/{query}")).await), expected, "{query}");
    }
    for query in [
        "pods?labelSelector=app+of+x",
        "pods?fieldSelector=spec.x=1",
        "services?fieldSelector=spec.nodeName=n",
    ] {
        let answer = get(&server, &format!("/api/v1/{query}")).await;
        assert_eq!(answer.refusal(), (400, "BadRequest".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn discovery_tells_what_is_there() {
    let server = server().await;
    let has = |list: &Value, name: &str| {
        list["resources"].as_array().expect("resources").iter().any(|resource| resource["name"] == name)
    };
    assert_eq!(get(&server, "/api").await.json()["versions"], json!(["v1"]));
    assert!(has(&get(&server, "/api/v1").await.json(), "services"));
    let groups = get(&server, "/apis").await.json();
    let named: Vec<_> =
        groups["groups"].as_array().expect("groups").iter().map(|group| group["name"].clone()).collect();
    assert_eq!(named, ["discovery.k8s.io", "gateway.networking.k8s.io", "networking.istio.io"]);
    let gateway = get(&server, "/apis/gateway.networking.k8s.io").await.json();
    assert_eq!(gateway["preferredVersion"]["version"], "v1");
    assert!(has(&get(&server, "/apis/gateway.networking.k8s.io/v1alpha2").await.json(), "tlsroutes"));
    for path in ["/healthz", "/readyz", "/livez"] {
        assert_eq!(get(&server, path).await.body, "ok", "{path}");
    }
    assert_eq!(get(&server, "/version").await.json()["major"], "1");

    for resource in [Resource::DestinationRules, Resource::VirtualServices, Resource::IstioGateways] {
        server.faults().set_availability(resource, Availability::Absent);
    }
    server.faults().set_availability(Resource::Gateways, Availability::Absent);
    assert_eq!(get(&server, "/apis/networking.istio.io").await.refusal().0, 404);
    assert_eq!(get(&server, "/apis").await.json()["groups"].as_array().map(Vec::len), Some(2));
    let routes = get(&server, "/apis/gateway.networking.k8s.io/v1").await.json();
    assert!(has(&routes, "httproutes") && !has(&routes, "gateways"), "{routes}");
}

#[tokio::test]
async fn what_is_not_served_is_refused() {
    let server = start(ServerOptions { token: Some("secret".to_owned()), ..ServerOptions::default() }).await;
    let token = ("authorization", "Bearer secret");
    let protobuf = ("accept", "application/vnd.kubernetes.protobuf");
    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let both = ("accept", "application/vnd.kubernetes.protobuf, application/json");
    for (path, headers, expected) in [
        ("/api/v1/services", &[token][..], (200, "")),
        ("/api/v1/services", &[], (401, "Unauthorized")),
        ("/api/v1/services", &[("authorization", "Bearer other")], (401, "Unauthorized")),
        ("/apis", &[], (401, "Unauthorized")),
        ("/healthz", &[], (200, "")),
        ("/api/v1/services", &[token, protobuf], (406, "NotAcceptable")),
        ("/api/v1/services", &[token, table], (406, "NotAcceptable")),
        ("/api/v1/services", &[token, both], (200, "")),
        ("/api/v1/services", &[token, ("accept", "*/*")], (200, "")),
        ("/api/v1/gadgets", &[token], (404, "NotFound")),
        ("/apis/example.com/v1", &[token], (404, "404 page not found\n")),
        ("/", &[token], (404, "404 page not found\n")),
    ] {
        let answer = ask(&server, Method::GET, path, headers, "").await;
        match expected {
            (200, _) => assert_eq!(answer.status, 200, "{path} {headers:?}"),
            (code, reason) => assert_eq!(answer.refusal(), (code, reason.to_owned()), "{path} {headers:?}"),
        }
    }
    assert_eq!(server.requests().counts().unauthorized, 3);
    server.set_token(Some("other".to_owned()));
    assert_eq!(ask(&server, Method::GET, "/api/v1/services", &[token], "").await.refusal().0, 401);
    server.set_token(None);
    assert_eq!(get(&server, "/api/v1/services").await.status, 200);
}

#[tokio::test]
async fn a_made_up_cluster_is_served() {
    let server = server().await;
    server.store().load(Load { services: 300, endpoints: 10, pods: 700 }).expect("loaded");
    let slices = list(&server, &Resource::EndpointSlices.path()).await;
    let slices = slices["items"].as_array().expect("items");
    assert_eq!(slices.len(), 300);
    let addresses: std::collections::BTreeSet<_> = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().expect("endpoints"))
        .map(|endpoint| endpoint["addresses"][0].as_str().expect("an address"))
        .collect();
    assert_eq!(addresses.len(), 3000, "no address twice");
    assert_eq!(addresses.iter().filter(|address| address.contains(':')).count(), 1500, "half of IPv6");
    assert!(addresses.iter().all(|address| address.parse::<std::net::IpAddr>().is_ok()));
    assert_eq!((server.store().count(Resource::Pods), server.store().version()), (700, 1301));
}
