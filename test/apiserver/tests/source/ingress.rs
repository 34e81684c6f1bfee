//! Kinds that only a gateway follows, on servers that have all of them, some of them, or other versions of them.

use edgemesh_api::{Kind, ObjectKey};
use edgemesh_apiserver::{Availability, FaultSet, Resource, Scope, Server};
use edgemesh_mesh::{IngressObjects, MeshSnapshot};
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::{Consistency, KindState};
use serde_json::{Value, json};

use crate::fixture::{DEADLINE, Mesh, server};
use crate::world::{Family, World};

/// The custom kinds with the version that each is created in.
const CUSTOM: [(Resource, Kind, &str, &str); 7] = [
    (Resource::VirtualServices, Kind::VirtualService, "networking.istio.io/v1beta1", "VirtualService"),
    (Resource::IstioGateways, Kind::IstioGateway, "networking.istio.io/v1", "Gateway"),
    (Resource::GatewayClasses, Kind::GatewayClass, "gateway.networking.k8s.io/v1", "GatewayClass"),
    (Resource::Gateways, Kind::Gateway, "gateway.networking.k8s.io/v1", "Gateway"),
    (Resource::HttpRoutes, Kind::HttpRoute, "gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
    (Resource::TcpRoutes, Kind::TcpRoute, "gateway.networking.k8s.io/v1alpha2", "TCPRoute"),
    (Resource::TlsRoutes, Kind::TlsRoute, "gateway.networking.k8s.io/v1alpha2", "TLSRoute"),
];

fn follow(server: &Server, consistency: Consistency) -> Mesh {
    Mesh::of_gateway(ApiAccess::of_url(&server.url()).expect("a URL"), consistency)
}

fn object(api_version: &str, kind: &str, name: &str, rest: &Value) -> Value {
    let mut metadata = json!({"name": name});
    if kind != "GatewayClass" {
        metadata["namespace"] = json!("shop");
    }
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    object.as_object_mut().expect("a map").extend(rest.as_object().expect("a map").clone());
    object
}

fn create(server: &Server, object: Value) {
    server.store().create(object).expect("created");
}

/// One object of each custom kind, and Secrets of two types.
fn create_all(server: &Server) {
    for (_, _, api_version, kind) in CUSTOM {
        create(server, object(api_version, kind, "a", &json!({"spec": {}})));
    }
    for (name, type_) in [("tls", "kubernetes.io/tls"), ("other", "Opaque")] {
        let rest = json!({"type": type_, "data": {"tls.crt": "Q0VSVA==", "tls.key": "S0VZ"}});
        create(server, object("v1", "Secret", name, &rest));
    }
}

fn count(objects: &IngressObjects, kind: Kind) -> usize {
    match kind {
        Kind::VirtualService => objects.virtual_services().count(),
        Kind::IstioGateway => objects.istio_gateways().count(),
        Kind::GatewayClass => objects.gateway_classes().count(),
        Kind::Gateway => objects.gateways().count(),
        Kind::HttpRoute => objects.http_routes().count(),
        Kind::TcpRoute => objects.tcp_routes().count(),
        Kind::TlsRoute => objects.tls_routes().count(),
        other => panic!("{other} is no custom kind of a gateway"),
    }
}

fn has_all(snapshot: &MeshSnapshot) -> bool {
    CUSTOM.iter().all(|(_, kind, _, _)| count(&snapshot.ingress, *kind) == 1)
}

fn has_certificate(snapshot: &MeshSnapshot) -> bool {
    let secret = snapshot.ingress.certificate(&ObjectKey::new("shop", "tls"));
    secret.is_some_and(|secret| secret.data.key.as_ref().is_some_and(|key| key.expose() == "S0VZ"))
}

#[tokio::test]
async fn every_kind_and_the_certificates_alone() {
    let server = server().await;
    let world = World::of(server.store(), 2);
    create_all(&server);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.until("all objects", DEADLINE, |snapshot| has_all(snapshot) && has_certificate(snapshot)).await;
    mesh.reports("nothing is wrong", |shown| shown.is_empty()).await;
    let listed = mesh.board().kinds().into_iter().find(|status| status.kind == Kind::Secret);
    assert_eq!(listed.map(|status| status.listed), Some(1), "Secrets of other types do not come at all");

    // What comes, changes and goes while it is watched.
    let late = |hosts: Value| {
        object("networking.istio.io/v1", "Gateway", "late", &json!({"spec": {"servers": [{"hosts": hosts}]}}))
    };
    create(&server, late(json!(["a.example"])));
    let hosts = |snapshot: &MeshSnapshot| -> Option<String> {
        let (_, gateway) = snapshot.ingress.istio_gateways().find(|(key, _)| &*key.name == "late")?;
        Some(gateway.spec.servers.first()?.hosts.join(" "))
    };
    mesh.until("the late one", DEADLINE, |snapshot| hosts(snapshot).as_deref() == Some("a.example")).await;
    server.store().delete(Resource::IstioGateways, "shop", "late").expect("deleted");
    mesh.until("its end", DEADLINE, |snapshot| hosts(snapshot).is_none()).await;
}

/// None of them is installed: each is told once, Services work, and all are there once they are installed.
#[tokio::test]
async fn kinds_that_are_missing_and_installed_later() {
    let server = server().await;
    for (resource, ..) in CUSTOM {
        server.faults().set_availability(resource, Availability::Absent);
    }
    let world = World::of(server.store(), 2);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.reports("every kind is told, none is a reason to worry", |shown| {
        let told =
            |kind: &str| shown.keys().filter(|place| place.starts_with(&format!("{kind} of "))).count();
        shown.len() == CUSTOM.len()
            && CUSTOM.iter().all(|(_, kind, _, _)| told(kind.as_str()) == 1)
            && shown
                .values()
                .all(|trouble| !trouble.broken && trouble.message.contains("does not have this kind"))
    })
    .await;
    assert_eq!(mesh.state_of(Kind::Gateway), Some(KindState::Absent));
    assert_eq!(mesh.state_of(Kind::IstioGateway), Some(KindState::Absent));
    create_all(&server);
    server.faults().clear();
    mesh.until("all objects", DEADLINE, has_all).await;
    mesh.reports("nothing is wrong any more", |shown| shown.is_empty()).await;
}

/// A role that has some of them only: the others are told, and everything else works.
#[tokio::test]
async fn kinds_that_a_role_lacks_and_is_given() {
    let server = server().await;
    let refused = [Resource::HttpRoutes, Resource::VirtualServices, Resource::Secrets];
    for resource in refused {
        server.faults().set_availability(resource, Availability::Forbidden);
    }
    let world = World::of(server.store(), 2);
    create_all(&server);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.until("the other kinds", DEADLINE, |snapshot| {
        snapshot.ingress.gateways().count() == 1 && snapshot.ingress.istio_gateways().count() == 1
    })
    .await;
    mesh.reports("three are told", |shown| shown.len() == refused.len()).await;
    mesh.told("cannot list resource \"httproutes\"").await;
    // Rights to all Secrets are nothing to advise.
    mesh.reports("what to do", |shown| {
        shown.iter().all(|(place, trouble)| {
            trouble.broken && trouble.message.contains("ClusterRole") != place.starts_with("Secret of ")
        })
    })
    .await;
    server.faults().clear();
    mesh.until("all objects", DEADLINE, |snapshot| has_all(snapshot) && has_certificate(snapshot)).await;
    mesh.reports("nothing is wrong any more", |shown| shown.is_empty()).await;
}

/// A definition that keeps whatever is written lets typing errors through: they are told per object.
#[tokio::test]
async fn fields_and_words_that_are_not_understood() {
    let server = server().await;
    let spec = json!({"spec": {"colour": "blue", "servers": [{"port": {"number": 80, "protocol": "QUIC"}, "hosts": ["*"]}]}});
    create(&server, object("networking.istio.io/v1", "Gateway", "odd", &spec));
    create(
        &server,
        object("networking.istio.io/v1", "Gateway", "broken", &json!({"spec": {"servers": "none"}})),
    );
    create(&server, object("networking.istio.io/v1", "Gateway", "plain", &json!({"spec": {}})));
    let mesh = follow(&server, Consistency::Consistent);
    mesh.until("the findings", DEADLINE, |snapshot| {
        let told = |words: &str| {
            snapshot.findings.iter().any(|finding| {
                finding.object == "Gateway.networking.istio.io shop/odd" && finding.message.contains(words)
            })
        };
        told("spec.colour") && told("\"QUIC\" is none of HTTP")
    })
    .await;
    // One that cannot be read costs no other.
    mesh.told("shop/broken").await;
    mesh.until("the others", DEADLINE, |snapshot| {
        let names: Vec<_> = snapshot.ingress.istio_gateways().map(|(key, _)| key.name.to_string()).collect();
        names == ["odd", "plain"]
    })
    .await;
}

#[tokio::test]
async fn servers_of_before_gateway_api_1_0() {
    let server = server().await;
    for resource in [Resource::GatewayClasses, Resource::Gateways, Resource::HttpRoutes] {
        let scope = Scope { resource, version: Some("v1".to_owned()) };
        server.faults().set_availability(scope, Availability::Absent);
    }
    create_all(&server);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.until("all objects", DEADLINE, has_all).await;
    mesh.reports("nothing is wrong", |shown| shown.is_empty()).await;
}

/// The metaServer compares fields that it does not know with nothing, and is asked for all Secrets.
#[tokio::test]
async fn the_meta_server_of_a_node() {
    let server = server().await;
    server.faults().set(FaultSet::metaserver());
    create_all(&server);
    let mesh = follow(&server, Consistency::Cached);
    mesh.until("all objects", DEADLINE, |snapshot| has_all(snapshot) && has_certificate(snapshot)).await;
    mesh.until("no other Secret", DEADLINE, |snapshot| {
        snapshot.ingress.certificate(&ObjectKey::new("shop", "other")).is_none()
    })
    .await;
}
