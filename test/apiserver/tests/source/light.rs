//! How little a node asks for.

use std::time::Duration;

use edgemesh_apiserver::{Counts, FaultSet, Load, Resource};
use edgemesh_mesh::{MeshSnapshot, ServiceEntry};
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::{Consistency::Consistent, MAX_BACKOFF};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};

use crate::fixture::{Bench, DEADLINE, FOLLOWED, Mesh, server};

/// While nothing happens.
const QUIET: Duration = Duration::from_secs(3);

#[tokio::test]
async fn one_list_one_watch_and_one_connection_per_kind() {
    let bench = Bench::new(Consistent).await;
    let before = bench.watches().await;
    let more = timeout(QUIET, bench.server.requests().until(|counts| *counts != before)).await;
    assert_eq!(more.ok(), None, "nothing is asked while nothing happens");
    assert_eq!(before.total(|counts| counts.requests), 2 * FOLLOWED);
    assert_eq!(before.total(|counts| counts.lists), FOLLOWED);
    assert_eq!((before.connections, before.open_connections), (FOLLOWED, FOLLOWED));
    assert_eq!(before[Resource::Endpoints].requests + before[Resource::Pods].requests, 0);
}

/// All changes come by the watch that stands.
#[tokio::test]
async fn changes_cost_no_request() {
    let mut bench = Bench::new(Consistent).await;
    let before = bench.watches().await;
    for _ in 0..3 {
        bench.change();
        bench.recovers().await;
    }
    let after = bench.server.requests().counts();
    assert_eq!(after.total(|counts| counts.requests), before.total(|counts| counts.requests));
    assert_eq!(after.connections, before.connections);
}

/// A server that is overloaded is not made to greet everybody again.
#[tokio::test]
async fn errors_cost_no_connection() {
    let bench = Bench::new(Consistent).await;
    let before = bench.server.requests().counts();
    bench.server.faults().set(FaultSet::error(503));
    bench.server.cut();
    let failed = |counts: &Counts| counts.total(|counts| counts.faults) >= 3 * FOLLOWED;
    let after = timeout(DEADLINE, bench.server.requests().until(failed)).await.expect("tries again");
    assert_eq!(after.connections - before.connections, FOLLOWED);
}

/// One kind tries for all of them while the server is not there. Whoever only accepts can be counted.
#[tokio::test]
async fn few_attempts_while_the_server_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let access =
        ApiAccess::of_url(&format!("https://{}", listener.local_addr().expect("bound"))).expect("a URL");
    let mesh = Mesh::follow(ApiAccess { insecure: true, ..access }, Consistent);
    let mut attempts = 0;
    let end = Instant::now() + QUIET;
    while let Ok(accepted) = timeout_at(end, listener.accept()).await {
        drop(accepted.expect("accepts"));
        attempts += 1;
    }
    // Every kind finds it out once, at the start; then one tries per pause, which is half of the longest at least.
    let bound = FOLLOWED as f64 + QUIET.div_duration_f64(MAX_BACKOFF / 2);
    assert!((FOLLOWED as f64 + 1.0..=bound).contains(&f64::from(attempts)), "{attempts} attempts");
    assert!(mesh.board().failure().is_some());
}

/// Large lists come in pages; a page is a tenth of the whole, and no more than one object of it is held as text.
#[tokio::test]
async fn five_thousand_services_come_in_pages() {
    let server = server().await;
    server.store().load(Load { services: 5_000, endpoints: 10, pods: 0 }).expect("written");
    let mesh = Mesh::follow(ApiAccess::of_url(&server.url()).expect("a URL"), Consistent);
    let whole = |snapshot: &MeshSnapshot| {
        let full = |entry: &ServiceEntry| entry.ports.iter().all(|port| port.backends.len() == 10);
        snapshot.services.len() == 5_000 && snapshot.services.values().all(|entry| full(entry))
    };
    mesh.until("5,000 Services of 10 endpoints each", DEADLINE, whole).await;
    let counts = server.requests().counts();
    for resource in [Resource::Services, Resource::EndpointSlices] {
        assert_eq!((counts[resource].lists, counts[resource].pages), (1, 9), "{resource}");
    }
}
