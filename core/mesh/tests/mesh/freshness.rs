//! KubeEdge's metaServer may serve slices for ever that its cloud no longer follows (kubeedge/kubeedge#6088); then the
//! Endpoints of the same Service tell the truth.

use edgemesh_api::{Kind, ObjectKey, SourceEvent};
use edgemesh_mesh::{MeshOptions, MeshState};

use crate::fixture::objects;

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";

const CONTROLLER: &str = "endpointslice-controller.k8s.io";

fn slice_by(controller: &str, name: &str, endpoints: &str) -> String {
    let family = if endpoints.contains("fd00") { "IPv6" } else { "IPv4" };
    format!(
        r#"{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: {controller}}}}}, addressType: {family}, endpoints: [{endpoints}], ports: [{{port: 80}}]}}"#
    )
}

fn addresses(ips: &str) -> Vec<&str> {
    ips.split_whitespace().collect()
}

fn slice(name: &str, ips: &str) -> String {
    let endpoints: Vec<String> =
        addresses(ips).iter().map(|ip| format!(r#"{{addresses: ["{ip}"]}}"#)).collect();
    slice_by(CONTROLLER, name, &endpoints.join(", "))
}

fn endpoints(ips: &str) -> String {
    annotated_endpoints("{}", ips)
}

fn annotated_endpoints(annotations: &str, ips: &str) -> String {
    let ips: Vec<String> = addresses(ips).iter().map(|ip| format!(r#"{{ip: "{ip}"}}"#)).collect();
    format!(
        "{{apiVersion: v1, kind: Endpoints, metadata: {{name: web, annotations: {annotations}}}, subsets: [{{addresses: [{}], ports: [{{port: 80}}]}}]}}",
        ips.join(", ")
    )
}

struct Mesh(MeshState);

impl Mesh {
    fn new(cached: bool) -> Self {
        let options = MeshOptions { cached_source: cached, ..MeshOptions::default() };
        let mut mesh = Self(MeshState::with_options("here".into(), options));
        mesh.list(Kind::Service, &[SERVICE]);
        mesh
    }

    fn list(&mut self, kind: Kind, documents: &[&str]) {
        self.0.apply(SourceEvent::ResetKind(kind));
        documents.iter().for_each(|document| self.change(document));
        self.0.apply(SourceEvent::SyncedKind(kind));
    }

    fn change(&mut self, document: &str) {
        for object in objects(document) {
            self.0.apply(SourceEvent::Upsert(object));
        }
    }

    fn serves(&mut self) -> String {
        let snapshot = self.0.compile();
        let ports = &snapshot.service("default", "web").expect("the Service").ports;
        let backends: Vec<String> =
            ports[0].backends.iter().map(|backend| backend.addr.ip().to_string()).collect();
        backends.join(" ")
    }

    /// A metaServer's first lists; then one change, and what is served.
    #[track_caller]
    fn check(first: &[(Kind, &str)], change: &str, before: &str, after: &str) -> Self {
        let mut mesh = Self::new(true);
        for (kind, document) in first {
            mesh.list(*kind, &[document]);
        }
        assert_eq!(mesh.serves(), before, "before the change");
        mesh.change(change);
        assert_eq!(mesh.serves(), after, "after the change");
        mesh
    }
}

fn both() -> (String, String) {
    (slice("s", "10.1.0.1 10.1.0.2"), endpoints("10.1.0.1 10.1.0.2"))
}

#[test]
fn ke_6088_endpoints_that_change_win_over_slices_that_do_not() {
    let (slice, ends) = both();
    for first in [
        [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())],
        [(Kind::Endpoints, ends.as_str()), (Kind::EndpointSlice, slice.as_str())],
    ] {
        Mesh::check(&first, &endpoints("10.1.0.2 10.1.0.3"), "10.1.0.1 10.1.0.2", "10.1.0.2 10.1.0.3");
    }
}

#[test]
fn ke_6088_slices_that_were_frozen_before_the_start_lose_in_either_order() {
    let (slice, _) = both();
    let ends = endpoints("10.1.0.9");
    for first in [
        [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())],
        [(Kind::Endpoints, ends.as_str()), (Kind::EndpointSlice, slice.as_str())],
    ] {
        Mesh::check(&first, &endpoints("10.1.0.8"), "10.1.0.9", "10.1.0.8");
    }
}

#[test]
fn slices_that_catch_up_serve_again_and_nothing_is_counted_twice() {
    let (frozen, ends) = both();
    let first = [(Kind::EndpointSlice, frozen.as_str()), (Kind::Endpoints, ends.as_str())];
    let mut mesh = Mesh::check(&first, &endpoints("10.1.0.3"), "10.1.0.1 10.1.0.2", "10.1.0.3");
    mesh.change(&slice("s", "10.1.0.3 10.1.0.4"));
    assert_eq!(mesh.serves(), "10.1.0.3 10.1.0.4", "slices changed last");
    mesh.change(&endpoints("10.1.0.3 10.1.0.4"));
    assert_eq!(mesh.serves(), "10.1.0.3 10.1.0.4", "they agree");
    mesh.change(&slice("s2", "10.1.0.5"));
    assert_eq!(mesh.serves(), "10.1.0.3 10.1.0.4 10.1.0.5");
    mesh.0.apply(SourceEvent::Delete(Kind::EndpointSlice, ObjectKey::new("default", "s2")));
    assert_eq!(mesh.serves(), "10.1.0.3 10.1.0.4");
}

#[test]
fn endpoints_without_any_address_are_a_truth_too() {
    let (slice, ends) = both();
    let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
    Mesh::check(&first, &endpoints(""), "10.1.0.1 10.1.0.2", "");
}

#[test]
fn endpoints_that_leave_addresses_out_do_not_win() {
    let (slice, ends) = both();
    let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
    let truncated = annotated_endpoints("{endpoints.kubernetes.io/over-capacity: truncated}", "10.1.0.1");
    Mesh::check(&first, &truncated, "10.1.0.1 10.1.0.2", "10.1.0.1 10.1.0.2");
}

#[test]
fn endpoints_do_not_win_over_slices_that_others_write() {
    let own = slice_by("operator.example.com", "s", "{addresses: [10.1.0.1]}");
    let unlabelled = own.replace(", endpointslice.kubernetes.io/managed-by: operator.example.com", "");
    assert_ne!(own, unlabelled);
    for slice in [&own, &unlabelled] {
        let ends = endpoints("10.1.0.1");
        let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
        Mesh::check(&first, &endpoints("10.1.0.9"), "10.1.0.1", "10.1.0.1");
    }
}

#[test]
fn endpoints_have_one_family_and_prove_nothing_about_the_other() {
    let v4 = slice("s4", "10.1.0.1");
    let v6 = slice("s6", "fd00::1");
    let mut mesh = Mesh::new(true);
    mesh.list(Kind::EndpointSlice, &[&v4, &v6]);
    mesh.list(Kind::Endpoints, &[&endpoints("10.1.0.1")]);
    assert_eq!(mesh.serves(), "10.1.0.1 fd00::1", "dual stack");
    mesh.change(&endpoints("10.1.0.2"));
    assert_eq!(mesh.serves(), "10.1.0.2", "frozen in one family is frozen");
}

#[test]
fn endpoints_of_an_ipv6_service_win_as_well() {
    let (slice, ends) = (slice("s", "fd00::1"), endpoints("fd00::1"));
    let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
    Mesh::check(&first, &endpoints("fd00::2"), "fd00::1", "fd00::2");
}

#[test]
fn what_is_not_ready_is_no_contradiction() {
    let slice = slice_by(
        CONTROLLER,
        "s",
        "{addresses: [10.1.0.1]}, {addresses: [10.1.0.2], conditions: {ready: false}}",
    );
    let mut mesh = Mesh::new(true);
    mesh.list(Kind::EndpointSlice, &[&slice]);
    mesh.list(Kind::Endpoints, &[&endpoints("10.1.0.1")]);
    let snapshot = mesh.0.compile();
    let backends = &snapshot.service("default", "web").expect("the Service").ports[0].backends;
    assert_eq!(
        backends.iter().map(|backend| backend.ready).collect::<Vec<_>>(),
        [true, false],
        "slices serve"
    );
}

#[test]
fn a_consistent_server_keeps_its_slices_and_they_serve() {
    let (slice, ends) = both();
    let mut mesh = Mesh::new(false);
    mesh.list(Kind::EndpointSlice, &[&slice]);
    mesh.list(Kind::Endpoints, &[&ends]);
    mesh.change(&endpoints("10.1.0.9"));
    assert_eq!(mesh.serves(), "10.1.0.1 10.1.0.2");
}

#[test]
fn endpoints_that_go_leave_the_slices() {
    let (slice, ends) = both();
    let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
    let mut mesh = Mesh::check(&first, &endpoints("10.1.0.3"), "10.1.0.1 10.1.0.2", "10.1.0.3");
    mesh.0.apply(SourceEvent::Delete(Kind::Endpoints, ObjectKey::new("default", "web")));
    assert_eq!(mesh.serves(), "10.1.0.1 10.1.0.2");
}

#[test]
fn slices_that_go_leave_the_endpoints() {
    let (slice, ends) = both();
    let first = [(Kind::EndpointSlice, slice.as_str()), (Kind::Endpoints, ends.as_str())];
    let mut mesh = Mesh::check(&first, &endpoints("10.1.0.3"), "10.1.0.1 10.1.0.2", "10.1.0.3");
    mesh.0.apply(SourceEvent::Delete(Kind::EndpointSlice, ObjectKey::new("default", "s")));
    assert_eq!(mesh.serves(), "10.1.0.3");
}
