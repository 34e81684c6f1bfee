//! The server is away in every way that servers are, things change meanwhile, and it comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use edgemesh_api::SourceEvent;
use edgemesh_apiserver::{Counts, FaultSet, ListFaults, Reply, Resource};
use edgemesh_reflector::{
    Consistency, Failure, FailureReason, Interner, ListEnd, MAX_BACKOFF, Reflector, ReflectorSpec, Splitter,
    Step,
};
use futures::future::join;

use crate::fixture::{Bench, RETURN};
use crate::world::Family;

/// How long a server is away once the node has noticed: some attempts of each kind.
const AWAY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Away {
    Killed,
    /// Killed, and its history is compacted when it comes back.
    Compacted,
    Refused,
    /// Answers so.
    Reply(Reply),
    /// Answers with one byte a second.
    Slow,
}

impl Away {
    async fn begin(self, bench: &Bench) {
        let faults = bench.server.faults();
        match self {
            Self::Killed | Self::Compacted => return bench.server.stop().await,
            Self::Refused => faults.refuse_connections(true),
            Self::Reply(reply) => faults.set(FaultSet { reply, ..bench.ways() }),
            Self::Slow => faults.set(FaultSet { bytes_per_second: 1, ..bench.ways() }),
        }
        bench.server.cut();
    }

    async fn end(self, bench: &Bench) {
        match self {
            Self::Killed => bench.server.restart().await.expect("the port is kept"),
            Self::Compacted => {
                bench.server.store().compact();
                bench.server.restart().await.expect("the port is kept");
            }
            Self::Refused | Self::Reply(_) | Self::Slow => {
                bench.server.faults().clear();
                bench.server.faults().set(bench.ways());
            }
        }
    }
}

async fn check_with(consistency: Consistency, away: Away) {
    let mut bench = Bench::new(consistency).await;
    bench.guard();
    away.begin(&bench).await;
    bench.mesh.reports("the operator is told", |shown| shown.values().any(|trouble| trouble.broken)).await;
    bench.change();
    bench.mesh.holds(AWAY).await;
    away.end(&bench).await;
    bench.recovers().await;
    bench.mesh.reports("nothing is wrong any more", BTreeMap::is_empty).await;
}

async fn check(away: Away) {
    join(check_with(Consistency::Consistent, away), check_with(Consistency::Cached, away)).await;
}

#[tokio::test]
async fn a_server_that_was_killed() {
    check(Away::Killed).await;
}

#[tokio::test]
async fn a_server_that_forgot_its_history() {
    check(Away::Compacted).await;
}

#[tokio::test]
async fn connections_refused() {
    check(Away::Refused).await;
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing() {
    check(Away::Reply(Reply::Silence)).await;
}

#[tokio::test]
async fn one_byte_a_second() {
    check(Away::Slow).await;
}

#[tokio::test]
async fn errors() {
    let error = |status| check(Away::Reply(Reply::Error { status, retry_after: None }));
    join(error(500), error(429)).await;
}

#[tokio::test]
async fn pages_of_a_portal() {
    join(check(Away::Reply(Reply::Html { status: 200 })), check(Away::Reply(Reply::Html { status: 502 })))
        .await;
}

#[tokio::test]
async fn no_json() {
    check(Away::Reply(Reply::Garbage)).await;
}

#[tokio::test]
async fn lists_that_end_in_the_middle() {
    join(check(Away::Reply(Reply::Broken)), check(Away::Reply(Reply::Halved))).await;
}

/// kubeedge/edgemesh#450 and others: a restart of the cloud took all Services of the edge along.
async fn a_server_that_lost_everything(consistency: Consistency) {
    let mut bench = Bench::new(consistency).await;
    let (server, lists) = (&bench.server, bench.server.requests().counts());
    bench.guard();
    server.restart_empty();
    let asked = |counts: &Counts| {
        let more = |resource| counts[resource].lists > lists[resource].lists;
        more(Resource::Services) && more(Resource::EndpointSlices)
    };
    tokio::time::timeout(RETURN, server.requests().until(asked)).await.expect("asked again");
    bench.mesh.holds(AWAY).await;

    // A Service of the new life appears beside those of the old one.
    bench.world.put(server.store(), 40, &[1]);
    bench.recovers().await;
    // The old ones are written again, as by a restored cluster's controllers.
    bench.world.write(server.store());
    bench.world.put(server.store(), 41, &[1]);
    bench.recovers().await;
    // The node has seen them: it knows which of them goes.
    bench.change();
    bench.recovers().await;
}

#[tokio::test]
async fn a_server_that_lost_everything_takes_nothing_along() {
    join(
        a_server_that_lost_everything(Consistency::Consistent),
        a_server_that_lost_everything(Consistency::Cached),
    )
    .await;
}

/// edgecore answers before its cache is filled.
#[tokio::test]
async fn a_restarted_cache_that_is_empty_at_first() {
    let empty = Duration::from_millis(1500);
    let mut bench = Bench::new(Consistency::Cached).await;
    bench.guard();
    bench.server.stop().await;
    let list = ListFaults { empty_ms: 1500, ..bench.ways().list };
    bench.server.faults().set(FaultSet { list, ..bench.ways() });
    bench.change();
    bench.server.restart().await.expect("the port is kept");
    bench.mesh.shows(&bench.world, Family::Both, empty + RETURN).await;
    bench.mesh.assert_unbroken();
}

/// What a list of two Services says.
const LIST: &[u8] = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7"},"items":[
    {"metadata":{"name":"a","uid":"1"},"spec":{"ports":[{"port":80}]}},
    {"metadata":{"name":"b","uid":"2"},"spec":{"ports":[{"port":80}]}}]}"#;

fn list(reflector: &mut Reflector, now: std::time::Instant) -> Vec<SourceEvent> {
    let (mut splitter, mut names, mut events) = (Splitter::list(), Interner::default(), Vec::new());
    splitter.push(LIST, &mut |item| reflector.list_item(item, &mut names, &mut events)).expect("JSON");
    let members = splitter.finish().expect("whole");
    assert_eq!(reflector.list_end(&members, now, &mut events), ListEnd::Complete);
    events
}

/// An hour without the cloud, in virtual time: few attempts, nothing deleted, and the first attempt after the return
/// comes at once.
#[test]
fn an_hour_away() {
    const HOUR: Duration = Duration::from_secs(3600);
    for (consistency, seed) in [(Consistency::Consistent, 1), (Consistency::Cached, 2)] {
        let kind = edgemesh_api::Kind::Service;
        let mut reflector = Reflector::new(ReflectorSpec { kind, consistency, seed });
        let start = std::time::Instant::now();
        assert!(matches!(reflector.next(start), Step::List(_)));
        assert_eq!(list(&mut reflector, start).len(), 4, "a reset, two objects, and the end");
        assert!(matches!(reflector.next(start), Step::Watch(_)));
        reflector.watch_open();

        let (mut now, mut attempts, mut events) = (start, 0, Vec::new());
        reflector.failed(Failure::new(FailureReason::Closed, "cut"), now, &mut events);
        while now < start + HOUR {
            match reflector.next(now) {
                Step::Wait(until) => now = until,
                Step::List(_) | Step::Watch(_) => {
                    attempts += 1;
                    reflector.failed(Failure::new(FailureReason::Unreachable, "no route"), now, &mut events);
                }
            }
        }
        assert_eq!(events, [], "{consistency:?}: nothing is told while nothing is known");
        let bounds = [HOUR.div_duration_f64(MAX_BACKOFF), HOUR.div_duration_f64(MAX_BACKOFF / 2) + 10.0];
        assert!(
            (bounds[0]..=bounds[1]).contains(&f64::from(attempts)),
            "{consistency:?}: {attempts} attempts"
        );
        assert!(now <= start + HOUR + MAX_BACKOFF, "{consistency:?}: the next attempt is soon");
        let Step::List(_) = reflector.next(now) else { panic!("{consistency:?}: it looks what is there") };
    }
}
