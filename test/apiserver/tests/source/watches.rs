//! Watches that end, stall or lie.

use std::time::Duration;

use edgemesh_apiserver::{Counts, Delivery, EventObjects, FaultSet, Resource, ServerOptions, WatchFaults};
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::Consistency::{self, Cached, Consistent};
use futures::future::{join, join_all};
use serde_json::json;
use tokio::time::timeout;

use crate::fixture::{Bench, DEADLINE, FOLLOWED, KINDS, Mesh, RETURN, server};
use crate::link::Link;
use crate::world::{Family, World, name};

fn watches(bench: &Bench, watch: WatchFaults) {
    bench.server.faults().set(FaultSet { watch, ..bench.ways() });
}

#[tokio::test]
async fn a_watch_that_was_too_slow_for_the_server() {
    let mut bench =
        Bench::with(Consistent, ServerOptions { watch_queue: 4, ..ServerOptions::default() }).await;
    bench.guard();
    watches(&bench, WatchFaults { delivery: Delivery::Stalled, ..bench.ways().watch });
    for number in 30..45 {
        bench.world.put(bench.server.store(), number, &[1]);
    }
    let overflown = |counts: &Counts| counts[Resource::Services].overflows > 0;
    timeout(RETURN, bench.server.requests().until(overflown)).await.expect("the queue is full");
    bench.change();
    bench.server.faults().clear();
    bench.recovers().await;
}

/// A watch that is told to list again, at its start or later.
#[tokio::test]
async fn a_watch_whose_version_is_too_old() {
    for gone_as_status in [false, true] {
        let mut bench = Bench::new(Consistent).await;
        bench.guard();
        watches(&bench, WatchFaults { gone_as_status, ..bench.ways().watch });
        bench.server.store().expire_watches(Resource::Services);
        bench.change();
        bench.recovers().await;
        bench.server.stop().await;
        bench.change();
        bench.server.store().compact();
        bench.server.restart().await.expect("the port is kept");
        bench.recovers().await;
        assert!(bench.server.requests().counts()[Resource::Services].gone > 0);
    }
}

#[tokio::test]
async fn events_without_objects() {
    join_all([EventObjects::Empty, EventObjects::Null].map(async |objects| {
        let mut bench = Bench::new(Consistent).await;
        watches(&bench, WatchFaults { objects, ..bench.ways().watch });
        bench.change();
        bench.recovers().await;
    }))
    .await;
}

/// A proxy before the server that ends every watch at once is not asked without a pause.
async fn watches_that_end_at_once(consistency: Consistency) {
    const TIME: Duration = Duration::from_secs(3);
    // Pauses double from 100 ms to 1.5 s, less a half at most: 50, 100, 200, 400, 750 and 750 ms, with the first at once.
    const EACH: u64 = 8;
    let mut bench = Bench::new(consistency).await;
    let total = |counts: &Counts| counts.total(|counts| counts.watches);
    watches(&bench, WatchFaults { close_after_ms: Some(1), ..bench.ways().watch });
    bench.server.cut();
    let before = total(&bench.server.requests().counts());
    let limit = before + EACH * KINDS.len() as u64;
    let many = timeout(TIME, bench.server.requests().until(|counts| total(counts) > limit)).await;
    assert!(many.is_err(), "{consistency:?}: more than {} watches in {TIME:?}", limit - before);
    bench.change();
    bench.recovers().await;
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_begun_without_end() {
    join(watches_that_end_at_once(Consistent), watches_that_end_at_once(Cached)).await;
}

/// A link that stops in the middle of an event, while the connection stands.
#[tokio::test]
async fn a_watch_that_stops_within_an_event() {
    let server = server().await;
    let mut world = World::of(server.store(), 3);
    let link = Link::to(server.addr()).await;
    let mesh = Mesh::follow(ApiAccess::of_url(&format!("http://{}", link.addr)).expect("a URL"), Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    let all = |counts: &Counts| counts.total(|counts| counts.open_watches) == FOLLOWED;
    timeout(DEADLINE, server.requests().until(all)).await.expect("watched");
    mesh.guard(world.names().skip(1));
    link.stop();
    world.change(server.store());
    // Three seconds until it is noticed, and a list.
    mesh.shows(&world, Family::Both, RETURN).await;
    mesh.assert_unbroken();
}

/// What cannot be read is told of, leaves what is known as it is, and is forgotten once it can be read.
#[tokio::test]
async fn an_object_that_cannot_be_read() {
    let mut bench = Bench::new(Consistent).await;
    bench.guard();
    let broken = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "world", "name": name(3)},
        "spec": {"clusterIP": "10.96.0.3", "ports": "eighty"},
    });
    bench.server.store().apply(broken).expect("the server does not look");
    bench.mesh.told(&format!("world/{}", name(3))).await;
    // The list that is asked for again has it too.
    bench.server.stop().await;
    bench.server.store().compact();
    bench.server.restart().await.expect("the port is kept");
    bench.change();
    bench.recovers().await;
    bench.world.write(bench.server.store());
    bench.mesh.reports("nothing is wrong any more", |shown| shown.is_empty()).await;
}
