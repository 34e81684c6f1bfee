//! YAML in, one line of text per fact out.

use std::fmt::Write;
use std::sync::Arc;

use edgemesh_api::{Object, SourceEvent, decode_value};
use edgemesh_mesh::{
    Backend, Distribution, FrontendEntry, MeshSnapshot, MeshState, Policy, Scope, ServiceEntry, ServiceKind,
};
use serde::Deserialize;

/// Objects of a multi-document fixture; the namespace is `default` where it is left out.
pub(crate) fn objects(yaml: &str) -> Vec<Arc<Object>> {
    let documents = yaml_serde::Deserializer::from_str(yaml);
    let values = documents.map(|document| serde_json::Value::deserialize(document).expect("YAML"));
    let mut objects = Vec::new();
    for value in values.filter(|value| !value.is_null()) {
        let mut object = decode_value(value).expect("an object of the mesh");
        object.default_namespace("default");
        objects.push(Arc::new(object));
    }
    objects
}

/// A complete listing.
pub(crate) fn listing(yaml: &str) -> Vec<SourceEvent> {
    let upserts = objects(yaml).into_iter().map(SourceEvent::Upsert);
    [SourceEvent::Reset].into_iter().chain(upserts).chain([SourceEvent::Synced]).collect()
}

/// The state on node `here` after one listing.
pub(crate) fn state(yaml: &str) -> MeshState {
    let mut state = MeshState::new("here".into());
    for event in listing(yaml) {
        state.apply(event);
    }
    state
}

/// What a snapshot says; defaults are left out.
pub(crate) fn render(snapshot: &MeshSnapshot) -> String {
    let mut out = String::new();
    for entry in snapshot.services.values() {
        service(&mut out, entry);
    }
    for (frontend, entry) in &snapshot.frontends {
        writeln!(out, "frontend {frontend} {} {}{}", entry.service.id, entry.port, scope(entry))
            .expect("text");
    }
    for ((protocol, number), entry) in &snapshot.node_ports {
        assert_eq!(entry.scope, Scope::NodePort);
        writeln!(out, "node-port {number}/{protocol} {} {}", entry.service.id, entry.port).expect("text");
    }
    let mut local: Vec<_> = snapshot.local_backends.iter().collect();
    local.sort();
    for ((addr, protocol), service) in local {
        writeln!(out, "local {addr}/{protocol} {service}").expect("text");
    }
    for finding in &snapshot.findings {
        writeln!(out, "finding {}: {}", finding.object, finding.message).expect("text");
    }
    out
}

/// The default, a cluster address, is left out.
fn scope(entry: &FrontendEntry) -> &'static str {
    match entry.scope {
        Scope::Cluster => "",
        Scope::External => " external",
        Scope::LoadBalancer => " load-balancer",
        Scope::NodePort => " node-port",
    }
}

fn service(out: &mut String, entry: &ServiceEntry) {
    write!(out, "service {}", entry.id).expect("text");
    match &entry.kind {
        ServiceKind::ClusterIp => {}
        ServiceKind::Headless => out.push_str(" headless"),
        ServiceKind::ExternalName(name) => write!(out, " alias={name}").expect("text"),
    }
    for ip in &entry.cluster_ips {
        write!(out, " {ip}").expect("text");
    }
    for ip in &entry.external_ips {
        write!(out, " external={ip}").expect("text");
    }
    for ip in &entry.load_balancer_ips {
        write!(out, " load-balancer={ip}").expect("text");
    }
    if let Some(ranges) = &entry.source_ranges {
        let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        write!(out, " sources={}", ranges.join(",")).expect("text");
    }
    if let Some(port) = entry.health_check_node_port {
        write!(out, " health={port}").expect("text");
    }
    if let Some(affinity) = entry.affinity {
        write!(out, " affinity={}", affinity.as_secs()).expect("text");
    }
    let words = [
        (entry.distribution == Distribution::PreferSameZone, "same-zone"),
        (entry.distribution == Distribution::PreferSameNode, "same-node"),
        (entry.policy == Policy::Random, "random"),
        (entry.policy == Policy::SourceIpHash, "source-ip-hash"),
        (entry.internal_local, "internal-local"),
        (entry.external_local, "external-local"),
        (entry.publish_not_ready, "publish-not-ready"),
        (!entry.intercepted, "not-intercepted"),
    ];
    flags(out, &words);
    out.push('\n');
    for port in &entry.ports {
        let name = port.name.as_deref().unwrap_or("-");
        let node_port = port.node_port.map(|number| format!(" node-port={number}")).unwrap_or_default();
        writeln!(out, "  port {name} {}/{}{node_port}", port.port, port.protocol).expect("text");
        port.backends.iter().for_each(|one| backend(out, one));
    }
}

fn backend(out: &mut String, backend: &Backend) {
    write!(out, "    {}", backend.addr).expect("text");
    let places = [
        ("node", backend.node.as_deref().map(str::to_owned)),
        ("zone", backend.zone.as_deref().map(str::to_owned)),
        ("host", backend.hostname.as_deref().map(str::to_owned)),
        ("pod", backend.pod.as_ref().map(ToString::to_string)),
        ("for-zones", Some(backend.hints.zones.join(",")).filter(|zones| !zones.is_empty())),
        ("for-nodes", Some(backend.hints.nodes.join(",")).filter(|nodes| !nodes.is_empty())),
    ];
    for (word, value) in places.into_iter().filter_map(|(word, value)| value.map(|value| (word, value))) {
        write!(out, " {word}={value}").expect("text");
    }
    let words = [
        (!backend.ready, "not-ready"),
        (!backend.ready && backend.serving, "serving"),
        (backend.terminating, "terminating"),
    ];
    flags(out, &words);
    out.push('\n');
}

fn flags(out: &mut String, words: &[(bool, &str)]) {
    for (_, word) in words.iter().filter(|(holds, _)| *holds) {
        write!(out, " {word}").expect("text");
    }
}

/// Compiles a fixture and compares what the snapshot says.
#[track_caller]
pub(crate) fn check(yaml: &str, expected: &str) {
    let actual = render(&state(yaml).compile());
    let trim = |text: &str| text.trim_matches('\n').trim_end().to_owned();
    assert_eq!(trim(&actual), trim(expected), "\n--- actual ---\n{actual}");
}
