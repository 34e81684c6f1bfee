//! KubeEdge's metaServer, which is an API server of a sort.

use std::time::Duration;

use edgemesh_apiserver::{
    Availability, Counts, Delivery, EventObjects, FaultSet, ItemTypes, ListFaults, ListVersion, Resource,
    ServingFaults, WatchFaults,
};
use edgemesh_reflector::Consistency::Cached;
use futures::future::join_all;
use tokio::time::timeout;

use crate::fixture::{Bench, DEADLINE, FOLLOWED, server};
use crate::world::Family;

/// How long after a start a silent watch is found out: the watchdog's first period and a list.
const FIRST_FOUND: Duration = Duration::from_secs(7);

/// Every list misspells its kind (`EndpointslicList`), and the older ones leave out more.
#[tokio::test]
async fn ke_4086_lists_of_misspelt_kinds() {
    let forms = [ItemTypes::OfAll, ItemTypes::OfNone].into_iter().flat_map(|item_types| {
        let versions = [ListVersion::MissingWhenEmpty, ListVersion::Missing, ListVersion::Zero];
        versions.map(|version| (item_types, version))
    });
    join_all(forms.map(async |(item_types, version)| {
        let mut bench = Bench::new(Cached).await;
        let list = ListFaults { item_types, version, ..bench.ways().list };
        assert!(list.guessed_kind);
        bench.guard();
        bench.server.faults().set(FaultSet { list, ..bench.ways() });
        bench.server.cut();
        bench.change();
        bench.recovers().await;
    }))
    .await;
}

/// The watch stands and tells nothing: lists tell it, the more often the more was missed.
#[tokio::test]
async fn ke_4699_ke_3600_silent_watches() {
    let mut bench = Bench::new(Cached).await;
    let watch = WatchFaults { delivery: Delivery::Never, ..bench.ways().watch };
    bench.server.faults().set(FaultSet { watch, ..bench.ways() });
    bench.change();
    bench.mesh.shows(&bench.world, Family::Both, FIRST_FOUND).await;
    bench.change();
    bench.recovers().await;
}

/// Events without their objects mean that something happened: a list tells what.
#[tokio::test]
async fn ke_6641_empty_watch_events() {
    join_all([EventObjects::Empty, EventObjects::Null].map(async |objects| {
        let mut bench = Bench::new(Cached).await;
        let watch = WatchFaults { objects, ..bench.ways().watch };
        bench.server.faults().set(FaultSet { watch, ..bench.ways() });
        bench.change();
        bench.recovers().await;
    }))
    .await;
}

/// A watch that begins anew replays what there is and says nothing of what is gone.
#[tokio::test]
async fn what_was_deleted_while_the_watch_was_away() {
    let mut bench = Bench::new(Cached).await;
    assert!(bench.ways().watch.missed_deletions_lost);
    bench.guard();
    bench.server.stop().await;
    bench.change();
    bench.server.restart().await.expect("the port is kept");
    bench.recovers().await;
}

/// The cache is lost and fills object by object; what is not in it yet is not gone.
#[tokio::test]
async fn a_cache_that_fills_slowly() {
    let mut bench = Bench::new(Cached).await;
    bench.guard();
    bench.server.stop().await;
    let mut filled = bench.world.clone();
    (5..20).for_each(|number| filled.delete(bench.server.store(), number));
    bench.server.restart().await.expect("the port is kept");
    // Long enough for a list at the start and one of the watchdog.
    bench.mesh.holds(Duration::from_secs(4)).await;
    bench.world.write(bench.server.store());
    bench.change();
    bench.recovers().await;
}

/// The node's store keeps what was deleted while the cloud was away, and every watch after its return repeats it.
#[tokio::test]
async fn what_was_deleted_while_the_cloud_was_away() {
    let mut bench = Bench::connected(FaultSet::metaserver_connected()).await;
    bench.guard();
    bench.cut_off().await;
    bench.change();
    bench.mesh.holds(Duration::from_secs(1)).await;
    bench.server.faults().cloud_away(false);
    bench.recovers().await;
    bench.mesh.stays(&bench.world, bench.looked(2)).await;
    bench.mesh.assert_unbroken();
}

/// Slices are what watches tell: lists of the cloud have their first endpoint only, at 127.0.0.1.
#[tokio::test]
async fn ke_7194_slices_in_lists_are_cut_to_the_loopback() {
    let mut bench = Bench::connected(FaultSet::metaserver_connected()).await;
    bench.guard();
    bench.mesh.stays(&bench.world, bench.looked(2)).await;
    bench.change();
    bench.recovers().await;
    bench.mesh.stays(&bench.world, bench.looked(1)).await;
    bench.mesh.assert_unbroken();
}

/// A watch tells less than it should; the next one tells it.
#[tokio::test]
async fn a_first_watch_that_misses_objects() {
    let ways = FaultSet::metaserver_connected();
    let watch = WatchFaults { first_loses: true, ..ways.watch.clone() };
    let mut bench = Bench::connected(FaultSet { watch, ..ways }).await;
    bench.change();
    bench.recovers().await;
}

/// A watch of what the cloud does not have would end it for every node.
#[tokio::test]
async fn ke_7303_a_kind_that_the_cloud_does_not_have_is_never_watched() {
    let (server, ways) = (server().await, FaultSet::metaserver_connected());
    let serving = ServingFaults { availability: Availability::Absent, ..ways.serving.clone() };
    server.faults().set_for(Resource::DestinationRules, FaultSet { serving, ..ways.clone() });
    let bench = Bench::on(server, Cached, ways, FOLLOWED).await;
    bench.guard();
    bench.cut_off().await;
    let before = bench.server.requests().counts()[Resource::DestinationRules].lists;
    bench.server.faults().cloud_away(false);
    let asked = |counts: &Counts| counts[Resource::DestinationRules].lists > before;
    let counts = timeout(DEADLINE, bench.server.requests().until(asked)).await.expect("asked for again");
    assert!(before > 0 && counts[Resource::Services].watches > 0, "{counts:?}");
    assert_eq!(counts.total(|counts| counts.absent_watches), 0);
    bench.mesh.assert_unbroken();
}
