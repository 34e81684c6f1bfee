use std::sync::Arc;

use edgemesh_api::{Kind, ObjectKey, SourceEvent};
use edgemesh_mesh::{Applied, Generation, MeshState};

use crate::fixture::{listing, objects, render, state};

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, spec: {nodeName: here}, status: {podIP: 10.1.0.1}}
";
const DB: &str = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}";
const ENDS: &str = "{apiVersion: v1, kind: Endpoints, metadata: {name: db}, subsets: []}";
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: x}}";

/// Feeds a listing; what its end did, and the Services that are left.
fn relist(state: &mut MeshState, yaml: &str) -> (Applied, Vec<String>) {
    let applied = listing(yaml).into_iter().map(|event| state.apply(event)).last().expect("an end");
    (applied, services(state))
}

fn services(state: &mut MeshState) -> Vec<String> {
    state.compile().services.keys().map(ToString::to_string).collect()
}

#[test]
fn absence_deletes_only_at_the_end_of_a_listing() {
    let mut state = state(WEB);
    assert_eq!(state.apply(SourceEvent::Reset), Applied::Unchanged);
    for object in objects(&format!("{DB}\n---\n{ENDS}")) {
        assert_eq!(state.apply(SourceEvent::Upsert(object)), Applied::Changed);
    }
    assert_eq!(services(&mut state), ["default/db", "default/web"]);
    assert_eq!(state.apply(SourceEvent::Synced), Applied::Changed);
    assert_eq!(services(&mut state), ["default/db"]);
}

#[test]
fn a_listing_that_breaks_off_deletes_nothing() {
    let mut state = state(WEB);
    state.apply(SourceEvent::Reset);
    assert_eq!(relist(&mut state, WEB), (Applied::Unchanged, vec!["default/web".to_owned()]));
    assert_eq!(state.apply(SourceEvent::Synced), Applied::Unchanged, "no listing is under way");
    assert_eq!(services(&mut state), ["default/web"]);
}

#[test]
fn a_listing_without_services_must_be_confirmed() {
    let web = vec!["default/web".to_owned()];
    for empty in ["", NAMESPACE] {
        let mut state = state(WEB);
        assert_eq!(relist(&mut state, empty), (Applied::ListingDoubted, web.clone()));
        assert_ne!(relist(&mut state, WEB).0, Applied::ListingDoubted, "doubt does not add up over time");
        assert_eq!(relist(&mut state, empty), (Applied::ListingDoubted, web.clone()));
        assert_eq!(relist(&mut state, empty), (Applied::Changed, vec![]));
        assert_ne!(relist(&mut state, "").0, Applied::ListingDoubted, "nothing is left to doubt");
    }
}

#[test]
fn a_listing_without_any_endpoint_must_be_confirmed() {
    let mut state = state(WEB);
    let both = vec!["default/db".to_owned(), "default/web".to_owned()];
    assert_eq!(relist(&mut state, DB), (Applied::ListingDoubted, both));
    assert_eq!(relist(&mut state, DB), (Applied::Changed, vec!["default/db".to_owned()]));
}

#[test]
fn single_deletes_are_believed() {
    let mut state = state(WEB);
    let key = ObjectKey::new("default", "web");
    assert_eq!(state.apply(SourceEvent::Delete(Kind::Service, key.clone())), Applied::Changed);
    assert_eq!(state.apply(SourceEvent::Delete(Kind::Service, key)), Applied::Unchanged);
    assert!(services(&mut state).is_empty());
}

#[test]
fn the_journal_is_stale_until_a_source_has_listed() {
    let mut state = MeshState::new("here".into());
    state.restore(listing(WEB));
    let snapshot = state.compile();
    assert!(snapshot.stale);
    assert_eq!(snapshot.frontends.len(), 1);
    assert_eq!(relist(&mut state, ""), (Applied::ListingDoubted, vec!["default/web".to_owned()]));
    assert!(state.compile().stale, "a doubted listing proves nothing");
    assert_eq!(relist(&mut state, WEB).0, Applied::Changed, "the snapshot is no longer stale");
    assert!(!state.compile().stale);
}

#[test]
fn generations_grow_and_unchanged_services_are_shared() {
    let mut state = state(&format!("{WEB}\n---\n{DB}"));
    let first = state.compile();
    assert_eq!(first.generation, Generation(1));
    let pod =
        "{apiVersion: v1, kind: Pod, metadata: {name: q, labels: {app: web}}, status: {podIP: 10.1.0.2}}";
    for object in objects(pod) {
        assert_eq!(state.apply(SourceEvent::Upsert(object.clone())), Applied::Changed);
        assert_eq!(state.apply(SourceEvent::Upsert(object)), Applied::Unchanged);
    }
    let second = state.compile();
    assert_eq!(second.generation, Generation(2));
    let entry = |snapshot: &edgemesh_mesh::MeshSnapshot, name| {
        snapshot.service("default", name).cloned().expect("known")
    };
    assert!(Arc::ptr_eq(&entry(&first, "db"), &entry(&second, "db")));
    assert_eq!(entry(&first, "web").ports[0].backends.len(), 1);
    assert_eq!(entry(&second, "web").ports[0].backends.len(), 2);
}

/// A small generator (the constants are Knuth's MMIX ones): the order of changes must be arbitrary and repeatable.
fn draw(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % below
}

/// Every object in two forms; whatever order of changes leads to a state, compiling step by step must say the same
/// as compiling that state afresh.
#[test]
fn step_by_step_equals_afresh() {
    let forms = |label: &str, ip: u8, zone: &str, policy: &str| {
        objects(&format!(
            r#"
{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{clusterIP: 10.96.0.{ip}, selector: {{app: {label}}}, ports: [{{port: 80}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: b}}, spec: {{clusterIP: 10.96.0.1, selector: {{app: x, v: {label}}}, ports: [{{port: 80}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: x, v: {label}}}}}, spec: {{nodeName: here}}, status: {{podIP: 10.1.0.{ip}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: q, labels: {{app: {label}}}}}, spec: {{hostNetwork: true, nodeName: here}}}}
---
{{apiVersion: v1, kind: Node, metadata: {{name: here, labels: {{topology.kubernetes.io/zone: {zone}}}}}, status: {{addresses: [{{type: InternalIP, address: 192.168.0.{ip}}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, labels: {{kubernetes.io/service-name: {zone}}}}}, endpoints: [{{addresses: [10.2.0.{ip}], nodeName: here}}], ports: [{{port: 80}}]}}
---
{{apiVersion: v1, kind: Endpoints, metadata: {{name: b}}, subsets: [{{addresses: [{{ip: 10.3.0.{ip}}}], ports: [{{port: 80}}]}}]}}
---
{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: {zone}, trafficPolicy: {{loadBalancer: {{simple: {policy}}}}}}}}}
"#
        ))
    };
    let pool = [forms("x", 1, "a", "RANDOM"), forms("y", 2, "b", "LEAST_CONN")].concat();
    let mut seed = 2;
    let mut state = MeshState::new("here".into());
    for step in 0..2000 {
        let object = pool[draw(&mut seed, pool.len())].clone();
        match draw(&mut seed, 3) {
            0 => state.apply(SourceEvent::Delete(object.kind(), object.key())),
            _ => state.apply(SourceEvent::Upsert(object)),
        };
        let snapshot = state.compile();
        let mut fresh = MeshState::new("here".into());
        fresh.restore(state.objects().cloned().map(SourceEvent::Upsert));
        assert_eq!(render(&snapshot), render(&fresh.compile()), "after step {step}");
    }
}
