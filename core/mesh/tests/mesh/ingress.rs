//! Objects that only a gateway acts on: held by the same rules as all others, and exposed as one value.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{Kind, ObjectKey, SourceEvent, decode_value};
use edgemesh_mesh::{Applied, HOLD, MeshState};
use serde_json::{Value, json};

fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> SourceEvent {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"namespace": "shop", "name": name, "uid": name},
    });
    object.as_object_mut().expect("a map").extend(rest.as_object().expect("a map").clone());
    SourceEvent::Upsert(Arc::new(decode_value(object).expect("an object")))
}

const ISTIO: &str = "networking.istio.io/v1";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

fn gateway(name: &str) -> SourceEvent {
    object(
        ISTIO,
        "Gateway",
        name,
        json!({"spec": {"servers": [{"port": {"number": 80, "protocol": "HTTP"}}]}}),
    )
}

fn names(state: &mut MeshState) -> Vec<String> {
    state.compile().ingress.istio_gateways().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn every_kind_is_there_in_the_order_of_names() {
    let mut state = MeshState::new("here".into());
    assert!(state.compile().ingress.is_empty());
    let secret = |name: &str, type_: &str| {
        object("v1", "Secret", name, json!({"type": type_, "data": {"tls.key": "S0VZ"}}))
    };
    for event in [
        gateway("b"),
        gateway("a"),
        object(ISTIO, "VirtualService", "v", json!({"spec": {"hosts": ["*"]}})),
        object(GATEWAY_API, "GatewayClass", "c", json!({"spec": {"controllerName": "x/y"}})),
        object(GATEWAY_API, "Gateway", "a", json!({"spec": {"gatewayClassName": "c"}})),
        object(GATEWAY_API, "HTTPRoute", "h", json!({})),
        object(GATEWAY_API, "TCPRoute", "t", json!({})),
        object(GATEWAY_API, "TLSRoute", "s", json!({})),
        secret("tls", "kubernetes.io/tls"),
    ] {
        assert_eq!(state.apply(event), Applied::Changed);
    }
    let ingress = state.compile().ingress;
    let keys = |keys: Vec<&ObjectKey>| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(keys(ingress.istio_gateways().map(|(key, _)| key).collect()), "shop/a shop/b");
    assert_eq!(keys(ingress.virtual_services().map(|(key, _)| key).collect()), "shop/v");
    assert_eq!(keys(ingress.gateway_classes().map(|(key, _)| key).collect()), "shop/c");
    let classes: Vec<_> = ingress.gateways().map(|(_, gateway)| &*gateway.spec.gateway_class_name).collect();
    assert_eq!(classes, ["c"]);
    assert_eq!(keys(ingress.http_routes().map(|(key, _)| key).collect()), "shop/h");
    assert_eq!(keys(ingress.tcp_routes().map(|(key, _)| key).collect()), "shop/t");
    assert_eq!(keys(ingress.tls_routes().map(|(key, _)| key).collect()), "shop/s");
    let key = |name: &str| {
        ingress.certificate(&ObjectKey::new("shop", name)).and_then(|secret| secret.data.key.as_ref())
    };
    assert_eq!(key("tls").map(|key| key.expose()), Some("S0VZ"));
    assert_eq!(key("other"), None);
}

#[test]
fn what_is_equal_is_shared_from_snapshot_to_snapshot() {
    let mut state = MeshState::new("here".into());
    state.apply(gateway("a"));
    let first = state.compile();
    state.apply(object("v1", "Service", "s", json!({"spec": {"clusterIP": "10.96.0.1"}})));
    let second = state.compile();
    assert!(Arc::ptr_eq(&first.ingress, &second.ingress), "a Service changes nothing of it");
    assert_eq!(state.apply(gateway("a")), Applied::Unchanged);
    state.apply(SourceEvent::Delete(Kind::IstioGateway, ObjectKey::new("shop", "a")));
    assert!(state.compile().ingress.is_empty());
    assert_eq!(first.ingress.istio_gateways().count(), 1, "who holds a snapshot keeps it");
}

#[test]
fn what_is_not_understood_is_a_finding() {
    let mut state = MeshState::new("here".into());
    state.apply(object(ISTIO, "Gateway", "a", json!({"spec": {"colour": "blue"}})));
    let found = state.compile().findings;
    let told: Vec<String> =
        found.iter().map(|finding| format!("{}: {}", finding.object, finding.message)).collect();
    assert_eq!(
        told,
        ["Gateway.networking.istio.io shop/a: fields that the API does not define: spec.colour"]
    );
    state.apply(gateway("a"));
    assert_eq!(state.compile().findings, []);
}

/// A definition that is removed, or a server without its store, lists nothing: what is known serves on until that was so
/// for a hold.
#[test]
fn an_empty_listing_takes_no_gateway_along() {
    let kind = Kind::IstioGateway;
    let start = Instant::now();
    let mut state = MeshState::new("here".into());
    let mut list = |at: Duration, events: &[SourceEvent]| {
        state.handle_time(start + at);
        state.apply(SourceEvent::ResetKind(kind));
        for event in events {
            state.apply(event.clone());
        }
        let applied = state.apply(SourceEvent::SyncedKind(kind));
        (applied, names(&mut state))
    };
    let both = vec!["shop/a".to_owned(), "shop/b".to_owned()];
    assert_eq!(list(Duration::ZERO, &[gateway("a"), gateway("b")]).1, both);
    assert_eq!(list(Duration::from_secs(1), &[]), (Applied::ListingDoubted, both.clone()));
    assert_eq!(list(HOLD, &[]), (Applied::ListingDoubted, both));
    assert_eq!(list(HOLD + Duration::from_secs(1), &[]), (Applied::Changed, vec![]));
    assert_eq!(list(HOLD * 2, &[gateway("a"), gateway("b")]).1.len(), 2);
    assert_eq!(list(HOLD * 3, &[gateway("b")]), (Applied::Changed, vec!["shop/b".to_owned()]));
}
