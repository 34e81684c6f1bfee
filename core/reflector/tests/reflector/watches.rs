use edgemesh_api::Kind;
use edgemesh_reflector::Consistency;

use crate::driver::{Bench, check, compare};

#[test]
fn a_watch_goes_on_where_the_list_ended_and_tells_changes() {
    check(
        "
        list rv=5 a b
        open
        +c rv=6
        ~a=1 rv=7
        -b rv=8
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        > c a=1 -b
        state watching listed=2 lists=1 events=3
        watching for 330000..630000
        wait 50..100
        /api/v1/services?limit=1
        ",
    );
}

#[test]
fn a_watch_that_ends_when_it_was_asked_to_resumes_without_a_list() {
    // 300 s to 599 s are asked for, and the server is given 30 s more: this server ends 29 s before that.
    let mut bench = Bench::new(Kind::Service, Consistency::Consistent);
    let opened = bench.now;
    bench.play("list rv=5 a");
    bench.reflector.watch_open();
    bench.now = bench.reflector.watch_deadline().expect("an end") - std::time::Duration::from_secs(29);
    bench.reflector.watch_end(bench.now);
    assert!(bench.now - opened >= std::time::Duration::from_secs(301));
    compare(&bench.play(""), "watch resourceVersion=5");
}

#[test]
fn bookmarks_move_the_version_and_nothing_else() {
    check(
        "
        list rv=5 a
        open
        bookmark 70
        state
        fail closed
        list rv=71 a
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        state watching listed=1 lists=1
        wait 50..100
        /api/v1/services?limit=1
        watch resourceVersion=70
        ",
    );
}

#[test]
fn every_event_moves_the_version() {
    for event in ["+b rv=60", "~a=1 rv=60", "-a rv=60", "~!a rv=60", "+!b rv=60"] {
        let mut bench = Bench::new(Kind::Service, Consistency::Consistent);
        let text = bench.play(&format!("list rv=5 a\nopen\n{event}\nafter 6\nend\nlist rv=70 a"));
        assert!(text.ends_with("limit=1\nwatch resourceVersion=60\n"), "{event}: {text}");
    }
}

#[test]
fn a_version_that_is_a_number_counts_too() {
    check(
        r#"
        raw {"items":[],"metadata":{"resourceVersion":5}}
        open
        event {"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":6}}}
        event {"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":7}}}
        after 6
        end
        list rv=7
        "#,
        "
        /api/v1/services?limit=500
        > reset synced
        watch resourceVersion=5
        > a -a
        /api/v1/services?limit=1
        watch resourceVersion=7
        ",
    );
}

#[test]
fn a_version_that_is_gone_is_listed_anew_at_once() {
    for error in [
        r#"{"code":410,"reason":"Expired","message":"too old resource version: 5 (9)"}"#,
        r#"{"code":410}"#,
        r#"{"code":504,"reason":"Timeout","message":"Too large resource version: 5, current: 3"}"#,
        r#"{"code":504,"reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#,
    ] {
        check(
            &format!(
                r#"
                list rv=5 a b
                open
                event {{"type":"ERROR","object":{error}}}
                list rv=9 a
                "#
            ),
            "
            /api/v1/services?limit=500
            > reset a b synced
            watch resourceVersion=5
            /api/v1/services?limit=500
            > reset a synced
            watch resourceVersion=9
            ",
        );
    }
}

#[test]
fn a_server_to_which_every_version_is_gone_is_not_hurried() {
    let gone = r#"
        list rv=9 a
        open
        event {"type":"ERROR","object":{"code":410}}
        "#;
    check(
        &gone.repeat(6),
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        wait 50..100
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        wait 1000
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        wait 2000
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        wait 4000
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=9
        wait 4000
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn an_error_that_is_no_410_resumes() {
    check(
        r#"
        list rv=5 a
        open
        after 60
        event {"type":"ERROR","object":{"code":500,"message":"etcd leader changed"}}
        state
        list rv=7 a
        "#,
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        state failing listed=1 lists=1 failure: HTTP 500: etcd leader changed (status)
        wait 50..100
        /api/v1/services?limit=1
        watch resourceVersion=5
        ",
    );
}

/// After a watch broke, one object tells whether the server is still the one that the version is of.
#[track_caller]
fn verify(answer: &str, then: &str) {
    check(
        &format!("list rv=50 a b\nopen\nafter 60\nfail closed\n{answer}"),
        &format!(
            "
            /api/v1/services?limit=500
            > reset a b synced
            watch resourceVersion=50
            wait 50..100
            /api/v1/services?limit=1
            {then}
            "
        ),
    );
}

#[test]
fn a_server_that_is_the_same_resumes() {
    for same in ["list rv=50 a", "list rv=900 a", "list rv=50 continue=t a", "list rv=51 a=1 b c"] {
        verify(same, "watch resourceVersion=50");
    }
}

#[test]
fn a_server_that_is_another_one_is_listed() {
    for other in [
        "list rv=49 a",
        "list rv=900 b",
        "list rv=900 a@other",
        "list rv=900",
        "list rv=900 !a",
        "list rv=900 {}",
        "list rv=x a",
        "list a",
    ] {
        verify(other, "/api/v1/services?limit=500");
    }
    verify("status 410 Gone", "/api/v1/services?limit=500");
}

#[test]
fn a_server_that_cannot_be_asked_is_asked_again() {
    verify("fail unreachable", "wait 50..100\n/api/v1/services?limit=1");
    verify("status 503 starting", "wait 50..100\n/api/v1/services?limit=1");
    verify("cut a", "wait 50..100\n/api/v1/services?limit=1");
    verify("raw <html>", "wait 50..100\n/api/v1/services?limit=1");
    verify(
        "status 500\ncut a\nlist rv=51 a",
        "wait 50..100\n/api/v1/services?limit=1\nwait 100..200\n/api/v1/services?limit=1\nwatch resourceVersion=50",
    );
}

#[test]
fn an_empty_server_that_stays_empty_resumes() {
    check(
        "list rv=5\nopen\nafter 60\nend\nlist rv=9",
        "
        /api/v1/services?limit=500
        > reset synced
        watch resourceVersion=5
        /api/v1/services?limit=1
        watch resourceVersion=5
        ",
    );
}

#[test]
fn an_undecodable_first_object_does_not_make_the_server_another_one() {
    check(
        "list rv=5 !a b\nopen\nafter 60\nend\nlist rv=9 !a",
        "
        /api/v1/services?limit=500
        > reset keep:a b synced
        watch resourceVersion=5
        /api/v1/services?limit=1
        watch resourceVersion=5
        ",
    );
}

#[test]
fn ke_3600_watches_that_never_open_are_replaced_by_lists() {
    check(
        "
        list rv=5 a
        fail stalled
        list rv=5 a
        fail stalled
        list rv=5 a
        fail stalled
        list rv=6 a=1
        state
        fail stalled
        list rv=7 a=2
        fail stalled
        list rv=8 a=3
        fail stalled
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=1
        watch resourceVersion=5
        wait 100..200
        /api/v1/services?limit=1
        watch resourceVersion=5
        wait 1000
        /api/v1/services?limit=500
        > reset a=1 synced
        state failing listed=1 lists=2 failure:  (stalled)
        watch resourceVersion=6
        wait 2000
        /api/v1/services?limit=500
        > reset a=2 synced
        watch resourceVersion=7
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
fn watches_that_are_closed_at_once_are_replaced_by_lists() {
    check(
        "
        list rv=5 a
        open
        end
        list rv=5 a
        open
        fail closed
        list rv=5 a
        open
        end
        list rv=5 a
        open
        after 5
        end
        list rv=6 a
        open
        end
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=1
        watch resourceVersion=5
        wait 100..200
        /api/v1/services?limit=1
        watch resourceVersion=5
        wait 1000
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        /api/v1/services?limit=1
        watch resourceVersion=5
        wait 50..100
        /api/v1/services?limit=1
        ",
    );
}

#[test]
fn a_watch_without_bookmarks_may_be_silent_and_one_with_them_may_not() {
    check(
        "
        list rv=5 a
        open
        after 100
        bookmark 8
        idle
        list rv=9 a
        open
        idle
        ",
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        given up 250000
        /api/v1/services?limit=1
        watch resourceVersion=8
        given up 150000
        /api/v1/services?limit=1
        ",
    );
}

#[test]
fn a_first_list_is_confirmed_after_the_hold_and_a_changed_one_again() {
    let mut bench = Bench::new(Kind::Service, Consistency::Consistent);
    let start = bench.now;
    let mut lists = Vec::new();
    let mut gone = 0;
    // One hour of a quiet server; at a half hour it is another one.
    while bench.now - start < std::time::Duration::from_secs(3600) {
        let other = (bench.now - start).as_secs() > 1800;
        let listing = if other { "list rv=9 x" } else { "list rv=5 a" };
        let text = bench.play("");
        let watching = text.starts_with("watch");
        if !watching && text.ends_with("limit=500\n") {
            lists.push((bench.now - start).as_secs());
        }
        let answer = if watching { "open\nidle" } else { listing };
        gone += u32::from(watching);
        bench.play(answer);
    }
    assert!(gone > 6, "watches are renewed");
    let [first, confirmed, other, again] = lists[..] else { panic!("lists at {lists:?}") };
    assert_eq!(first, 0);
    assert!((610..=671).contains(&confirmed), "{lists:?}");
    assert!(other > 1800 && (610..=671).contains(&(again - other)), "{lists:?}");
}

#[test]
fn a_list_in_between_does_not_put_off_the_one_that_confirms() {
    let gone = r#"event {"type":"ERROR","object":{"code":410}}"#;
    check(
        &format!("list rv=5 a\nopen\nafter 400\n{gone}\nlist rv=6 a\nopen\nidle\nlist rv=7 a\nstate"),
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=5
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=6
        given up 210000..271000
        /api/v1/services?limit=500
        > reset a synced
        state watching listed=1 lists=3
        watch resourceVersion=7
        ",
    );
}

#[test]
fn ke_6641_empty_watch_events_delete_nothing_and_are_looked_up() {
    for event in [
        r#"{"type":"ADDED"}"#,
        r#"{"type":"DELETED","object":null}"#,
        r#"{"type":"DELETED","object":{}}"#,
        r#"{"type":"MODIFIED","object":{"kind":"Service","metadata":{}}}"#,
        r#"{"type":"ERROR"}"#,
        r#"{"type":"","object":{"metadata":{"name":"a"}}}"#,
        r#"{"type":"REPLACED","object":{"metadata":{"name":"a"}}}"#,
        r#"{"object":{"metadata":{"name":"a"}}}"#,
        r#"{"type":5}"#,
        r#"{}"#,
    ] {
        check(
            &format!("list rv=5 a b\nopen\nevent {event}\nstate\nidle\nlist rv=5 a b"),
            "
            /api/v1/services?limit=500
            > reset a b synced
            watch resourceVersion=5
            state watching listed=2 lists=1 odd=1
            given up 2000
            /api/v1/services?limit=500
            > reset a b synced
            watch resourceVersion=5
            ",
        );
    }
}

#[test]
fn odd_events_that_never_end_are_looked_up_ever_more_slowly() {
    let odd = "open\nevent {}\nevent {}\nidle\nlist rv=5 a\n";
    let mut bench = Bench::new(Kind::Service, Consistency::Consistent);
    let text = bench.play(&format!("list rv=5 a\n{}", odd.repeat(5)));
    let pauses: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("given up ")).collect();
    assert_eq!(pauses, ["2000", "4000", "8000", "10000", "10000"]);
}

#[test]
fn an_event_whose_object_cannot_be_decoded_is_told_and_needs_no_list() {
    check(
        "
        list rv=5 a b
        open
        ~!a rv=6
        state
        -a rv=7
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        state watching listed=2 lists=1 odd=1 undecodable: default/a: Service: invalid type: string \"x\", expected a sequence at line 1 column 114
        > -a
        state watching listed=2 lists=1 events=1 odd=1
        watching for 330000..629000
        wait 50..100
        /api/v1/services?limit=1
        ",
    );
}

#[test]
fn a_delete_needs_no_more_than_a_name() {
    check(
        r#"
        list rv=5 a b
        open
        event {"type":"DELETED","object":{"metadata":{"name":"a"},"spec":{"ports":5}}}
        "#,
        "
        /api/v1/services?limit=500
        > reset a b synced
        watch resourceVersion=5
        > -a
        watching for 330000..629000
        wait 50..100
        /api/v1/services?limit=1
        ",
    );
}
