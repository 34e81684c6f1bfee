//! KubeEdge's metaServer (edge/pkg/metamanager/metaserver): its lists come from a cache, its watches repeat everything
//! and may tell nothing.

use std::time::Duration;

use edgemesh_api::Kind;
use edgemesh_reflector::Consistency;

use crate::driver::{Bench, check_cached};

#[test]
fn what_a_watch_repeats_is_not_told_again() {
    check_cached(
        "
        list rv=5 a b
        open
        +a
        +b
        +c
        ~a=1
        +a=1
        -b
        state
        +b
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        > c a=1 -b
        state watching listed=2 lists=1 events=3
        > b
        watching for 4750..5000
        wait 50..100
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn every_watch_follows_a_list_and_the_list_shows_what_went_meanwhile() {
    for end in ["end", "fail closed", "fail timeout"] {
        let pause = if end == "end" { "" } else { "wait 50..100" };
        check_cached(
            &format!("list rv=5 a b\nopen\n+b\nafter 4\n{end}\nlist rv=6 a\nstate"),
            &format!(
                "
                /api/v1/services?limit=500
                > reset a b synced
                watch resourceVersion=5
                {}
                /api/v1/services?limit=500
                > reset a synced
                state {} listed=1 lists=2 missed=1{}
                watch resourceVersion=6
                ",
                if end == "end" { "wait 50..100" } else { pause },
                if end == "end" { "watching" } else { "failing" },
                match end {
                    "fail closed" => " failure:  (closed)",
                    "fail timeout" => " failure:  (timeout)",
                    _ => "",
                }
            ),
        );
    }
}

#[test]
fn ke_4699_silent_watches_are_found_out_by_the_watchdog() {
    // Periods: 5 s at first; 2 s once something was missed; then twice as long each time nothing was, to 10 s since the
    // watch is known to be silent.
    check_cached(
        "
        list rv=5 a b
        open
        idle
        list rv=6 a=1
        state
        open
        idle
        list rv=6 a=1
        open
        idle
        list rv=6 a=1
        open
        idle
        list rv=6 a=1
        open
        idle
        list rv=6 a=1
        open
        idle
        list rv=7 a=1 c
        state
        open
        idle
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        given up 4750..5000
        /api/v1/services?limit=500
        > reset a=1 synced
        state watching listed=1 lists=2 missed=2
        watch resourceVersion=6
        given up 1900..2000
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=6
        given up 3800..4000
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=6
        given up 7600..8000
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=6
        given up 9500..10000
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=6
        given up 9500..10000
        /api/v1/services?limit=500
        > reset a=1 c synced
        state watching listed=2 lists=7 missed=3
        watch resourceVersion=7
        given up 1900..2000
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn a_watch_that_tells_is_left_alone_for_longer_each_time() {
    let mut bench = Bench::new(Kind::Service, Consistency::Cached);
    bench.play("list rv=5 a");
    let mut periods = Vec::new();
    for round in 1..=7 {
        let text = bench.play(&format!("open\n+b={round}\nidle\nlist rv=5 a b={round}"));
        let period = text.lines().find_map(|line| line.strip_prefix("given up ")).expect("given up");
        periods.push(period.parse::<u64>().expect("a number"));
    }
    for (period, longest) in periods.iter().zip([5000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]) {
        assert!((longest * 95 / 100..=longest).contains(period), "{periods:?}");
    }
    assert_eq!(bench.reflector.status().missed, 0);
}

#[test]
fn a_silent_watch_that_speaks_again_is_trusted_again() {
    let mut bench = Bench::new(Kind::Service, Consistency::Cached);
    bench.play("list rv=5 a\nopen\nidle\nlist rv=6 a=1");
    assert_eq!(bench.reflector.status().missed, 1);
    let mut last = 0;
    for round in 2..9 {
        let text = bench.play(&format!("open\n~a={round}\nidle\nlist rv=7 a={round}"));
        let period = text.lines().find_map(|line| line.strip_prefix("given up ")).expect("given up");
        last = period.parse().expect("a number");
    }
    assert!((57_000..=60_000).contains(&last), "{last}");
}

#[test]
fn ke_3600_watches_that_never_open_leave_the_lists() {
    check_cached(
        "
        list rv=5 a
        fail stalled
        list rv=6 a=1
        fail stalled
        list rv=7 a=2
        fail stalled
        list rv=8 a=3
        state
        fail stalled
        list rv=8 a=3
        fail stalled
        list rv=8 a=3
        fail stalled
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=6
        wait 100..200
        /api/v1/services?limit=500
        > reset a=2 synced
        watch resourceVersion=7
        wait 1000
        /api/v1/services?limit=500
        > reset a=3 synced
        state failing listed=1 lists=4 missed=3 failure:  (stalled)
        watch resourceVersion=8
        wait 2000
        /api/v1/services?limit=500
        > reset a=3 synced
        watch resourceVersion=8
        wait 4000
        /api/v1/services?limit=500
        > reset a=3 synced
        watch resourceVersion=8
        wait 4000
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn watches_that_are_closed_at_once_do_not_make_a_storm_of_lists() {
    let mut bench = Bench::new(Kind::Service, Consistency::Cached);
    let start = bench.now;
    let mut lists = 0;
    while bench.now - start < Duration::from_secs(60) {
        bench.play("list rv=5 a");
        bench.play("open\n+a\nend");
        lists += 1;
    }
    assert!((15..=25).contains(&lists), "one each 4 s at last: {lists}");
}

#[test]
fn ke_4086_em_241_misspelt_kinds_and_absent_ones_do_not_matter() {
    let slices = r#"raw {"kind":"EndpointslicList","apiVersion":"discovery.k8s.io/v1","items":[{"kind":"Endpointslic","metadata":{"name":"s"},"addressType":"IPv4","endpoints":[]},{"metadata":{"name":"t"}}]}"#;
    let rules = r#"raw {"kind":"DestinationrulList","items":[{"metadata":{"name":"r"},"spec":{"host":"web"}}],"metadata":{"resourceVersion":"7"}}"#;
    for (kind, list, wanted, version) in [
        (Kind::EndpointSlice, slices, "reset s t synced", ""),
        (Kind::DestinationRule, rules, "reset r synced", "7"),
    ] {
        let text = Bench::new(kind, Consistency::Cached).play(list);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1..], [format!("> {wanted}"), format!("watch resourceVersion={version}")]);
    }
}

#[test]
fn ke_7303_a_kind_that_the_cloud_may_lack_is_listed_and_not_watched() {
    // A watch of what is not installed ends CloudCore. What the node's own store answers proves nothing of the cloud.
    let rule = r#"{"metadata":{"name":"r"},"spec":{"host":"web"}}"#;
    for list in [
        r#"raw {"items":[]}"#.to_owned(),
        format!(r#"raw {{"items":[{rule}],"metadata":{{"resourceVersion":"7","selfLink":"/x/null/null"}}}}"#),
        format!(r#"raw {{"items":[{rule}]}}"#),
    ] {
        let text =
            Bench::new(Kind::DestinationRule, Consistency::Cached).play(&format!("{list}\n{list}\nstate"));
        assert!(!text.contains("watch"), "{list}: {text}");
        assert_eq!(text.lines().filter(|line| line.contains("limit=500")).count(), 3, "{text}");
    }
}

#[test]
fn what_a_store_repeats_is_outdated_by_a_list_of_the_cloud() {
    // The store missed the deletion of `b` and a change of `a` while the node was cut off.
    check_cached(
        "
        list rv=9 a=1
        open
        +a rv=3
        +b rv=4
        -a rv=5
        ~a=2 rv=10
        +c rv=11
        -c rv=12
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a=1 synced
        watch resourceVersion=9
        > a=2 c -c
        state watching listed=1 lists=1 events=3
        watching for 4750..5000
        wait 50..100
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn a_list_of_the_store_adds_and_takes_nothing_away() {
    // The cloud's list of version 9 had a and b. The store lacks b, has an older a, and c, which was deleted before; d is new.
    let item = |name: &str, port: u16, version: u32| {
        format!(
            r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}},"spec":{{"ports":[{{"port":{port}}}]}}}}"#
        )
    };
    let list = |items: &[String], meta: &str| {
        format!(r#"raw {{"items":[{}],"metadata":{{{meta}}}}}"#, items.join(","))
    };
    let cloud = list(&[item("a", 2, 8), item("b", 1, 3)], r#""resourceVersion":"9""#);
    let store = list(
        &[item("a", 1, 2), item("c", 1, 4), item("d", 1, 10)],
        r#""resourceVersion":"10","selfLink":"/core/v1/services/null/null""#,
    );
    let back = list(&[item("a", 2, 8), item("d", 1, 10)], r#""resourceVersion":"12""#);
    let text = Bench::new(Kind::Service, Consistency::Cached)
        .play(&format!("{cloud}\nopen\nidle\n{store}\nopen\nidle\n{store}\nopen\nidle\n{back}\nstate"));
    let events: Vec<&str> = text.lines().filter(|line| line.starts_with(['>', 's'])).collect();
    assert_eq!(events[..4], ["> reset a b synced", "> reset d", "> reset d", "> reset a d synced"], "{text}");
    // A cloud whose versions have gone back, as after a restore, is heard.
    let restored = list(&[item("a", 7, 1)], r#""resourceVersion":"2""#);
    let text =
        Bench::new(Kind::Service, Consistency::Cached).play(&format!("{cloud}\nopen\nidle\n{restored}"));
    assert!(text.contains("> reset a synced"), "{text}");
}

#[test]
fn the_return_of_the_cloud_is_seen_within_4_s() {
    let store = r#"raw {"items":[{"metadata":{"name":"a"}}],"metadata":{"resourceVersion":"9","selfLink":"/core/v1/services/null/null"}}"#;
    let text = Bench::new(Kind::Service, Consistency::Cached)
        .play(&format!("{store}\nopen\n+b rv=3\nidle\n").repeat(6));
    let given_up: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("given up "))
        .map(|ms| ms.parse().expect("ms"))
        .collect();
    assert!(given_up.len() == 6 && given_up.iter().all(|ms| *ms <= 4000), "{text}");
}

#[test]
fn ke_7194_slices_that_a_list_cuts_to_the_loopback_stay_as_they_were_told() {
    let slice = |address: &str| {
        format!(
            r#"{{"metadata":{{"name":"s"}},"addressType":"IPv4","endpoints":[{{"addresses":["{address}"]}}]}}"#
        )
    };
    let list = |address: &str| {
        format!(r#"raw {{"items":[{}],"metadata":{{"resourceVersion":"7"}}}}"#, slice(address))
    };
    let told = format!(r#"event {{"type":"ADDED","object":{}}}"#, slice("10.1.0.1"));
    let text = Bench::new(Kind::EndpointSlice, Consistency::Cached)
        .play(&format!("{0}\nopen\n{told}\nidle\n{0}\nopen\n{told}\nstate\n{told}", list("127.0.0.1")));
    let events: Vec<&str> = text.lines().filter(|line| line.starts_with('>')).collect();
    assert_eq!(events, ["> reset keep:s synced", "> s", "> reset keep:s synced"], "{text}");
    assert!(!text.contains("missed"), "{text}");
    // A list that is right is taken.
    let text = Bench::new(Kind::EndpointSlice, Consistency::Cached).play(&list("10.1.0.1"));
    assert!(text.contains("> reset s synced"), "{text}");
    // An API server has no such slices, and what it says is taken.
    let text = Bench::new(Kind::EndpointSlice, Consistency::Consistent).play(&list("127.0.0.1"));
    assert!(text.contains("> reset s synced"), "{text}");
}

#[test]
fn ke_6641_a_list_of_another_kind_and_empty_events_delete_nothing() {
    check_cached(
        r#"
        list rv=5 kind=PodList a b
        open
        event {"type":"DELETED","object":null}
        event {"type":"","object":null}
        state
        idle
        list rv=5 a b
        "#,
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        state watching listed=2 lists=1 odd=2
        given up 2000
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        ",
    );
}

#[test]
fn ke_4459_a_list_without_objects_and_version_says_nothing() {
    // edgecore has restarted, or its cloud does not answer: a store without rows is no statement about objects.
    check_cached(
        "
        list rv=5 a b
        open
        fail closed
        fail unreachable
        list
        state
        open
        +a
        idle
        list
        open
        idle
        list rv=6 a b
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=500
        wait 50..100
        /api/v1/services?limit=500
        state unknown listed=2 lists=1 failure:  (unreachable)
        watch resourceVersion=5
        given up 1900..2000
        /api/v1/services?limit=500
        watch resourceVersion=5
        given up 3800..4000
        /api/v1/services?limit=500
        > reset a b synced
        state watching listed=2 lists=2
        watch resourceVersion=6
        ",
    );
}

#[test]
fn an_empty_list_with_a_version_is_told_as_it_is() {
    // Whether it is believed is `MeshState`'s decision.
    check_cached(
        "
        list rv=5 a b
        open
        fail closed
        list rv=6
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=500
        > reset synced
        state failing listed=0 lists=2 missed=2 failure:  (closed)
        watch resourceVersion=6
        ",
    );
}

#[test]
fn an_object_that_can_no_longer_be_decoded_is_not_missed() {
    check_cached(
        "
        list rv=5 a b
        open
        idle
        list rv=6 a !b
        open
        idle
        list rv=7 a
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        given up 4750..5000
        /api/v1/services?limit=500
        > reset a keep:b synced
        watch resourceVersion=6
        given up 9500..10000
        /api/v1/services?limit=500
        > reset a synced
        state watching listed=1 lists=3 missed=1
        watch resourceVersion=7
        ",
    );
}

#[test]
fn a_page_that_comes_twice_is_not_missed_twice() {
    check_cached(
        "
        list rv=5 a
        open
        idle
        list rv=6 continue=t a
        cut b
        list rv=6 b
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        given up 4750..5000
        /api/v1/services?limit=500
        > reset a
        /api/v1/services?limit=500&continue=t
        > b
        wait 50..100
        /api/v1/services?limit=500&continue=t
        > b synced
        state watching listed=2 lists=2 missed=1
        watch resourceVersion=6
        ",
    );
}
