//! What is kept of an object.

use edgemesh_api::{Kind, SourceEvent};
use edgemesh_reflector::Consistency;

use crate::driver::Bench;

/// Lists one object and compares what is told of it, as JSON.
#[track_caller]
fn check(kind: Kind, object: &str, expected: &str) {
    let mut bench = Bench::new(kind, Consistency::Consistent);
    bench.play(&format!(r#"raw {{"items":[{object}],"metadata":{{"resourceVersion":"5"}}}}"#));
    let [SourceEvent::ResetKind(_), SourceEvent::Upsert(object), SourceEvent::SyncedKind(_)] =
        &bench.told[..]
    else {
        panic!("{:?}", bench.told)
    };
    assert_eq!(serde_json::to_string(object).expect("an object"), expected);
}

#[test]
fn labels_annotations_and_selectors_that_decide_nothing_are_dropped() {
    check(
        Kind::Service,
        r#"{"metadata":{"name":"a","labels":{"app":"x","service.kubernetes.io/headless":""},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"},"managedFields":[{}]},"spec":{"selector":{"app":"x"},"ports":[{"port":80,"targetPort":"http"}]}}"#,
        r#"{"kind":"Service","metadata":{"namespace":"default","name":"a","labels":{"service.kubernetes.io/headless":""}},"spec":{"ports":[{"protocol":"TCP","port":80}],"publishNotReadyAddresses":false}}"#,
    );
}

#[test]
fn labels_of_pods_are_what_selectors_look_at() {
    check(
        Kind::Pod,
        r#"{"metadata":{"name":"p","namespace":"x","labels":{"app":"x"}},"status":{"podIP":"10.1.0.1"}}"#,
        r#"{"kind":"Pod","metadata":{"namespace":"x","name":"p","labels":{"app":"x"}},"spec":{"containers":[]},"status":{"podIP":"10.1.0.1"}}"#,
    );
}

#[test]
fn slices_keep_what_names_their_service_and_their_controller() {
    check(
        Kind::EndpointSlice,
        r#"{"metadata":{"name":"s","labels":{"kubernetes.io/service-name":"web","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","x":"y"}},"addressType":"IPv6","endpoints":[{"addresses":["fd00::1"],"nodeName":"n","targetRef":{"kind":"Pod","name":"p","namespace":"default","uid":"u"}}],"ports":null}"#,
        r#"{"kind":"EndpointSlice","metadata":{"namespace":"default","name":"s","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web"}},"addressType":"IPv6","endpoints":[{"addresses":["fd00::1"],"conditions":{},"nodeName":"n","targetRef":{"kind":"Pod","name":"p","namespace":"default"}}],"ports":[]}"#,
    );
}

#[test]
fn endpoints_keep_the_word_that_they_are_not_all() {
    check(
        Kind::Endpoints,
        r#"{"metadata":{"name":"web","annotations":{"endpoints.kubernetes.io/over-capacity":"truncated","endpoints.kubernetes.io/last-change-trigger-time":"x"}},"subsets":null}"#,
        r#"{"kind":"Endpoints","metadata":{"namespace":"default","name":"web","annotations":{"endpoints.kubernetes.io/over-capacity":"truncated"}},"subsets":[]}"#,
    );
}

#[test]
fn nodes_keep_zone_and_peer() {
    check(
        Kind::Node,
        r#"{"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"lan-1","x":"y"},"annotations":{"edgemesh.kubeedge.io/peer-id":"12D3","x":"y"}}}"#,
        r#"{"kind":"Node","metadata":{"namespace":"","name":"n","labels":{"topology.kubernetes.io/zone":"lan-1"},"annotations":{"edgemesh.kubeedge.io/peer-id":"12D3"}},"spec":{},"status":{"addresses":[]}}"#,
    );
}

#[test]
fn the_same_names_are_one_text_in_memory() {
    let mut bench = Bench::new(Kind::EndpointSlice, Consistency::Consistent);
    let slice =
        |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}},"endpoints":[{{"nodeName":"n1"}}]}}"#);
    bench.play(&format!(r#"raw {{"items":[{},{}]}}"#, slice("s"), slice("t")));
    let nodes: Vec<_> = bench
        .told
        .iter()
        .filter_map(|event| match event {
            SourceEvent::Upsert(object) => match &**object {
                edgemesh_api::Object::EndpointSlice(slice) => slice.endpoints[0].node_name.clone(),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert!(std::sync::Arc::ptr_eq(&nodes[0], &nodes[1]));
}
