//! Kinds that a server does not have or does not show, and that come later.

use edgemesh_api::{Kind, ObjectKey};
use edgemesh_apiserver::{Availability, FaultSet, Resource, Scope, Server, ServingFaults};
use edgemesh_mesh::{MeshSnapshot, Policy};
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::{Consistency, KindState};
use serde_json::json;

use crate::fixture::{DEADLINE, Mesh, server};
use crate::world::{Family, World, name};

fn follow(server: &Server, consistency: Consistency) -> Mesh {
    Mesh::follow(ApiAccess::of_url(&server.url()).expect("a URL"), consistency)
}

/// Slices are not to be had: Endpoints serve in their place, until slices come.
async fn slices_come_later(availability: Availability) {
    let server = server().await;
    server.faults().set_availability(Resource::EndpointSlices, availability);
    let mut world = World::of(server.store(), 4);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::First, DEADLINE).await;
    mesh.guard(world.names().skip(1));
    world.change(server.store());
    mesh.shows(&world, Family::First, DEADLINE).await;

    server.faults().clear();
    mesh.shows(&world, Family::Both, DEADLINE).await;
    // Endpoints are not followed beside slices.
    server.requests().until(|counts| counts[Resource::Endpoints].open_watches == 0).await;
    assert_eq!(mesh.state_of(Kind::Endpoints), Some(KindState::Unused));
    mesh.guard(world.names().skip(1));
    world.change(server.store());
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.assert_unbroken();
}

#[tokio::test]
async fn endpoints_stand_in_for_slices_that_are_absent() {
    slices_come_later(Availability::Absent).await;
}

#[tokio::test]
async fn endpoints_stand_in_for_slices_that_are_forbidden() {
    slices_come_later(Availability::Forbidden).await;
}

/// The metaServer calls every refusal an internal error, and follows both kinds always.
#[tokio::test]
async fn ke_6088_endpoints_serve_where_the_cloud_has_no_slices() {
    let server = server().await;
    let ways = FaultSet::metaserver();
    let serving = ServingFaults { availability: Availability::Absent, ..ways.serving.clone() };
    server.faults().set(ways.clone());
    server.faults().set_for(Resource::EndpointSlices, FaultSet { serving, ..ways.clone() });
    let mut world = World::of(server.store(), 4);
    let mesh = follow(&server, Consistency::Cached);
    mesh.shows(&world, Family::First, DEADLINE).await;
    mesh.guard(world.names().skip(1));
    world.change(server.store());
    mesh.shows(&world, Family::First, DEADLINE).await;

    server.faults().set_for(Resource::EndpointSlices, ways);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.assert_unbroken();
}

#[tokio::test]
async fn a_role_that_is_given_later() {
    let server = server().await;
    server.faults().set_availability(Resource::Services, Availability::Forbidden);
    let world = World::of(server.store(), 2);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.told("cannot list resource \"services\"").await;
    mesh.told("ClusterRole").await;
    assert_eq!(mesh.state_of(Kind::Service), Some(KindState::Forbidden));
    server.faults().clear();
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.reports("nothing is wrong any more", |shown| shown.is_empty()).await;
}

/// A role that is taken away takes no Service along.
#[tokio::test]
async fn a_role_that_is_taken_away() {
    let server = server().await;
    let mut world = World::of(server.store(), 3);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.guard(world.names().skip(1));
    for resource in [Resource::Services, Resource::EndpointSlices, Resource::Endpoints] {
        server.faults().set_availability(resource, Availability::Forbidden);
    }
    server.cut();
    mesh.told("ClusterRole").await;
    world.change(server.store());
    server.faults().clear();
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.assert_unbroken();
}

async fn policy(mesh: &Mesh, policy: Policy) {
    let id = ObjectKey::new("world", name(1));
    let is = |snapshot: &MeshSnapshot| snapshot.services.get(&id).is_some_and(|entry| entry.policy == policy);
    mesh.until(&format!("{policy:?}"), DEADLINE, is).await;
}

fn rule(server: &Server) {
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"namespace": "world", "name": "rule"},
        "spec": {"host": name(1), "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}},
    });
    server.store().create(rule).expect("created");
}

/// Go EdgeMesh logs errors without end where Istio's kinds are not installed, and must be restarted once they are.
#[tokio::test]
async fn em_241_istio_kinds_that_are_missing_and_installed_later() {
    let server = server().await;
    server.faults().set_availability(Resource::DestinationRules, Availability::Absent);
    let world = World::of(server.store(), 2);
    let mesh = follow(&server, Consistency::Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.told("does not have this kind").await;
    mesh.reports("no reason to worry", |shown| shown.values().all(|trouble| !trouble.broken)).await;
    rule(&server);
    server.faults().clear();
    policy(&mesh, Policy::Random).await;
    mesh.reports("nothing is wrong any more", |shown| shown.is_empty()).await;
}

/// Istio has dropped versions of its kinds, and will again.
#[tokio::test]
async fn istio_kinds_of_another_version() {
    let server = server().await;
    for version in ["v1alpha3", "v1beta1"] {
        let scope = Scope { resource: Resource::DestinationRules, version: Some(version.to_owned()) };
        server.faults().set_availability(scope, Availability::Absent);
    }
    World::of(server.store(), 2);
    rule(&server);
    policy(&follow(&server, Consistency::Consistent), Policy::Random).await;
}
