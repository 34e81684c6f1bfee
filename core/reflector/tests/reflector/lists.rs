use edgemesh_api::{Kind, SourceEvent};
use edgemesh_reflector::Consistency;

use crate::driver::{Bench, check};

#[test]
fn pages_follow_one_another_and_only_the_last_one_completes_the_list() {
    check(
        "
        list rv=5 continue=a+/= a b
        list rv=5 continue=t2 c
        list rv=5 d
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a b
        /api/v1/services?limit=500&continue=a%2B%2F%3D
        > c
        /api/v1/services?limit=500&continue=t2
        > d synced
        state watching listed=4 lists=1
        watch resourceVersion=5
        ",
    );
}

#[test]
fn a_page_that_breaks_off_is_asked_for_again_and_counts_once() {
    check(
        "
        list rv=5 continue=t a
        cut b
        fail closed
        list rv=5 b c
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a
        /api/v1/services?limit=500&continue=t
        > b
        wait 50..100
        /api/v1/services?limit=500&continue=t
        wait 100..200
        /api/v1/services?limit=500&continue=t
        > b c synced
        state watching listed=3 lists=1
        watch resourceVersion=5
        ",
    );
}

#[test]
fn a_page_that_never_comes_begins_the_list_anew() {
    check(
        "
        list rv=5 continue=t a
        fail closed
        fail closed
        fail closed
        fail closed
        list rv=6 a
        ",
        "
        /api/v1/services?limit=500
        > reset a
        /api/v1/services?limit=500&continue=t
        wait 50..100
        /api/v1/services?limit=500&continue=t
        wait 100..200
        /api/v1/services?limit=500&continue=t
        wait 200..400
        /api/v1/services?limit=500&continue=t
        wait 400..800
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=6
        ",
    );
}

#[test]
fn pages_that_expire_are_given_up_for_one_answer() {
    check(
        "
        list rv=5 continue=t a
        status 410 the provided continue parameter is too old
        state
        list rv=9 a b
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a
        /api/v1/services?limit=500&continue=t
        state failing listed=0 failure: HTTP 410: the provided continue parameter is too old (gone)
        /api/v1/services
        > reset a b synced
        state watching listed=2 lists=1
        watch resourceVersion=9
        ",
    );
}

#[test]
fn a_server_whose_pages_always_expire_is_not_hurried() {
    check(
        "
        list rv=5 continue=t a
        status 410 Gone
        list rv=5 continue=t a
        status 410 Gone
        list rv=5 continue=t a
        status 410 Gone
        ",
        "
        /api/v1/services?limit=500
        > reset a
        /api/v1/services?limit=500&continue=t
        /api/v1/services
        > reset a
        /api/v1/services?limit=500&continue=t
        wait 50..100
        /api/v1/services
        > reset a
        /api/v1/services?limit=500&continue=t
        wait 100..200
        /api/v1/services
        ",
    );
}

#[test]
fn a_server_that_is_slow_is_asked_for_less_and_later_for_more() {
    check(
        "
        fail timeout
        fail stalled
        fail stalled
        fail stalled
        fail stalled
        list rv=1 continue=t a
        list rv=1 b
        open
        event {\"type\":\"ERROR\",\"object\":{\"code\":410}}
        ",
        "
        /api/v1/services?limit=500
        wait 50..100
        /api/v1/services?limit=250
        wait 100..200
        /api/v1/services?limit=125
        wait 200..400
        /api/v1/services?limit=62
        wait 250..500
        /api/v1/services?limit=32
        wait 250..500
        /api/v1/services?limit=32
        > reset a
        /api/v1/services?limit=32&continue=t
        > b synced
        watch resourceVersion=1
        /api/v1/services?limit=64
        ",
    );
}

#[test]
fn a_list_that_breaks_off_or_is_no_list_completes_nothing() {
    check(
        r#"
        cut a b
        raw <html><body>Please log in</body></html>
        raw {"kind":"Status","code":403,"message":"no"}
        raw {"kind":"Status","code":500,"message":"etcd\nis away"}
        raw {"kind":"APIVersions","versions":["v1"]}
        raw {"items":{"a":1},"metadata":{}}
        raw {"items":[],"metadata":{"continue":7}}
        raw {"items":[{"metadata":{"name":"a"}}]} {
        raw
        state
        "#,
        r#"
        /api/v1/services?limit=500
        > reset a b
        wait 50..100
        /api/v1/services?limit=500
        wait 100..200
        /api/v1/services?limit=500
        ! HTTP 403: no (forbidden)
        wait 1500..3000
        /api/v1/services?limit=500
        ! HTTP 500: etcd is away (status)
        wait 400..800
        /api/v1/services?limit=500
        ! the answer has no items (kind "\"APIVersions\"") (answer)
        wait 750..1500
        /api/v1/services?limit=500
        wait 750..1500
        /api/v1/services?limit=500
        ! the list's metadata cannot be read (answer)
        wait 750..1500
        /api/v1/services?limit=500
        > reset a
        wait 750..1500
        /api/v1/services?limit=500
        state failing listed=0 failure: the answer is cut off (closed)
        wait 750..1500
        /api/v1/services?limit=500
        "#,
    );
}

#[test]
fn null_items_are_none_and_absent_metadata_is_no_hindrance() {
    check(
        r#"
        raw {"metadata":{"resourceVersion":"3"},"items":null}
        status 410 Gone
        "#,
        "
        /api/v1/services?limit=500
        > reset synced
        watch resourceVersion=3
        /api/v1/services?limit=500
        ",
    );
    check(
        r#"raw {"items":[],"metadata":null}"#,
        "
        /api/v1/services?limit=500
        > reset synced
        watch resourceVersion=
        ",
    );
}

#[test]
fn an_object_that_cannot_be_decoded_is_kept_and_told_until_it_can() {
    check(
        "
        list rv=5 a !b c
        state
        open
        ~b rv=6
        state
        ",
        "
        /api/v1/services?limit=500
        > reset a keep:b c synced
        state watching listed=3 lists=1 undecodable: default/b: Service: invalid type: string \"x\", expected a sequence at line 1 column 113
        watch resourceVersion=5
        > b
        state watching listed=3 lists=1 events=1
        watching for 330000..670000
        wait 50..100
        /api/v1/services?limit=1
        ",
    );
}

#[test]
fn a_list_with_objects_without_names_proves_nothing_about_what_it_leaves_out() {
    for (nameless, words) in [
        ("{}", "metadata.name is missing"),
        ("null", "invalid type: null, expected struct Service at line 1 column 4"),
    ] {
        check(
            &format!(
                "
                list rv=5 a {nameless}
                state
                open
                idle
                list rv=9 a
                open
                idle
                list rv=9 a
                state
                "
            ),
            &format!(
                "
                /api/v1/services?limit=500
                > reset a
                state watching listed=2 lists=1 undecodable: an object without a name: Service: {words}
                watch resourceVersion=5
                given up 330000..630000
                /api/v1/services?limit=1
                watch resourceVersion=5
                given up 0..340000
                /api/v1/services?limit=500
                > reset a synced
                state watching listed=1 lists=2
                watch resourceVersion=9
                "
            ),
        );
    }
}

/// The keys that are told when `object` is listed, and when a watch deletes it.
#[track_caller]
fn check_keys(kind: Kind, object: &str, expected: &str) {
    let mut bench = Bench::new(kind, Consistency::Consistent);
    bench.play(&format!(
        r#"
        raw {{"items":[{object}],"metadata":{{"resourceVersion":"1"}}}}
        open
        event {{"type":"DELETED","object":{object}}}
        "#
    ));
    let keys: Vec<String> = bench
        .told
        .iter()
        .filter_map(|event| match event {
            SourceEvent::Upsert(object) => Some(object.key().to_string()),
            SourceEvent::Keep(_, key) => Some(format!("keep:{key}")),
            SourceEvent::Delete(_, key) => Some(format!("-{key}")),
            SourceEvent::Reset
            | SourceEvent::Synced
            | SourceEvent::ResetKind(_)
            | SourceEvent::SyncedKind(_) => None,
        })
        .collect();
    assert_eq!(keys.join(" "), expected, "{object}");
}

#[test]
fn an_object_has_the_same_key_however_it_is_told() {
    check_keys(Kind::Service, r#"{"metadata":{"name":"a","namespace":"x"}}"#, "x/a -x/a");
    check_keys(Kind::Service, r#"{"metadata":{"name":"a"}}"#, "default/a -default/a");
    check_keys(Kind::Service, r#"{"metadata":{"name":"a"},"spec":5}"#, "keep:default/a -default/a");
    check_keys(Kind::Service, r#"{"metadata":{"name":"a","namespace":"x"},"spec":5}"#, "keep:x/a -x/a");
    check_keys(Kind::Node, r#"{"metadata":{"name":"n","namespace":"x"}}"#, "n -n");
    check_keys(Kind::Node, r#"{"metadata":{"name":"n","namespace":"x"},"status":5}"#, "keep:n -n");
}
