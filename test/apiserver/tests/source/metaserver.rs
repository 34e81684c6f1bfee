//! KubeEdge's metaServer, which is an API server of a sort.

use std::time::Duration;

use edgemesh_apiserver::{Delivery, EventObjects, FaultSet, ItemTypes, ListFaults, ListVersion, WatchFaults};
use edgemesh_reflector::Consistency::Cached;
use futures::future::join_all;

use crate::fixture::Bench;
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
