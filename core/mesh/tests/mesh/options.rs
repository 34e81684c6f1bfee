//! Which Services the operator leaves to others (Go EdgeMesh's `serviceFilterMode`).

use edgemesh_api::SourceEvent;
use edgemesh_mesh::{MeshOptions, MeshState, ServiceFilter};

use crate::fixture::objects;

const SERVICES: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: plain}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: labelled, labels: {service.edgemesh.kubeedge.io/service-proxy-name: edgemesh}}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty-label, labels: {service.edgemesh.kubeedge.io/service-proxy-name: ""}}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other-proxy, labels: {service.kubernetes.io/service-proxy-name: x, service.edgemesh.kubeedge.io/service-proxy-name: x}}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: upstream, labels: {service.kubernetes.io/service-proxy-name: ""}}, spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: no-address, labels: {service.kubernetes.io/headless: "", service.edgemesh.kubeedge.io/service-proxy-name: x}}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: shop}, spec: {clusterIP: "fd00::8", ports: [{port: 443}]}}
"#;

fn state(options: MeshOptions) -> MeshState {
    let mut state = MeshState::with_options("here".into(), options);
    state.restore(objects(SERVICES).into_iter().map(SourceEvent::Upsert));
    state
}

/// Services with a frontend.
fn intercepted(state: &mut MeshState) -> Vec<String> {
    let snapshot = state.compile();
    let mut ids: Vec<_> = snapshot.frontends.values().map(|entry| entry.service.id.to_string()).collect();
    ids.sort();
    let flagged = snapshot.services.values().filter(|entry| entry.intercepted);
    assert!(ids.iter().eq(flagged.map(|entry| entry.id.to_string()).collect::<Vec<_>>().iter()), "{ids:?}");
    ids
}

#[track_caller]
fn check(filter: ServiceFilter, kubernetes_service: bool, expected: &[&str]) {
    let options = MeshOptions { filter, kubernetes_service, ..MeshOptions::default() };
    assert_eq!(intercepted(&mut state(options)), expected);
}

#[test]
fn by_default_labelled_services_are_left_alone() {
    assert_eq!(MeshOptions::default().filter, ServiceFilter::IfLabelExists);
    check(ServiceFilter::IfLabelExists, false, &["default/plain", "shop/kubernetes"]);
}

#[test]
fn the_other_mode_intercepts_labelled_services_only_whatever_the_label_says() {
    check(ServiceFilter::IfLabelDoesNotExist, false, &["default/empty-label", "default/labelled"]);
}

#[test]
fn the_api_servers_own_service_is_intercepted_when_asked_for() {
    check(ServiceFilter::IfLabelExists, true, &["default/kubernetes", "default/plain", "shop/kubernetes"]);
    check(ServiceFilter::IfLabelDoesNotExist, true, &["default/empty-label", "default/labelled"]);
}

#[test]
fn options_change_while_the_mesh_runs() {
    let mut state = state(MeshOptions::default());
    assert_eq!(intercepted(&mut state), ["default/plain", "shop/kubernetes"]);
    let other = MeshOptions { filter: ServiceFilter::IfLabelDoesNotExist, ..MeshOptions::default() };
    assert!(state.set_options(other));
    assert!(!state.set_options(other), "the same options are no change");
    assert_eq!(intercepted(&mut state), ["default/empty-label", "default/labelled"]);
    assert!(state.set_options(MeshOptions::default()));
    assert_eq!(intercepted(&mut state), ["default/plain", "shop/kubernetes"]);
}

#[test]
fn a_service_whose_label_comes_or_goes_is_left_or_taken() {
    let mut state = state(MeshOptions::default());
    let with = |labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: plain, labels: {{{labels}}}}}, spec: {{clusterIP: 10.96.0.2, ports: [{{port: 80}}]}}}}"
        )
    };
    for (labels, expected) in [
        ("service.kubernetes.io/service-proxy-name: cilium", vec!["shop/kubernetes"]),
        ("", vec!["default/plain", "shop/kubernetes"]),
        ("service.edgemesh.kubeedge.io/service-proxy-name: x", vec!["shop/kubernetes"]),
        ("app: x", vec!["default/plain", "shop/kubernetes"]),
    ] {
        state.restore(objects(&with(labels)).into_iter().map(SourceEvent::Upsert));
        assert_eq!(intercepted(&mut state), expected, "{labels}");
    }
}
