use std::time::Duration;

use edgemesh_api::Kind;
use edgemesh_reflector::{Consistency, Failure, FailureReason, MAX_BACKOFF, SplitError};

use crate::driver::{Bench, check, compare};

#[test]
fn an_hour_without_the_cloud_is_a_bounded_number_of_attempts_and_no_deletion() {
    for consistency in [Consistency::Consistent, Consistency::Cached] {
        let mut bench = Bench::new(Kind::Service, consistency);
        bench.play("list rv=5 a b\nopen\nfail closed");
        let told = bench.told.len();
        let (start, mut attempts) = (bench.now, 0);
        while bench.now - start < Duration::from_secs(3600) {
            let text = bench.play("fail unreachable");
            attempts += 1;
            let waits = text.lines().filter_map(|line| line.strip_prefix("wait "));
            let longest = waits.map(|wait| wait.parse::<u64>().expect("a number")).max().unwrap_or_default();
            assert!(u128::from(longest) <= MAX_BACKOFF.as_millis(), "right within 5 s of the return: {text}");
        }
        assert!((2400..=4900).contains(&attempts), "one each 750 ms to 1.5 s: {attempts}");
        assert_eq!(bench.told.len(), told, "nothing is told");
        let back = bench.play("list rv=900 b c");
        let lines: Vec<&str> = back.lines().filter(|line| !line.starts_with("wait")).collect();
        let expected = ["/api/v1/services?limit=500", "> reset b c synced", "watch resourceVersion=900"];
        assert_eq!(lines, expected, "what went meanwhile is told");
    }
}

#[test]
fn refusals_are_named_and_asked_again_in_their_own_time() {
    for (answer, state, pauses) in [
        (
            "status 401 Unauthorized",
            "failing listed=0 failure: HTTP 401: Unauthorized (unauthorized)",
            "250..500",
        ),
        (
            "status 403 services is forbidden",
            "forbidden listed=0 failure: HTTP 403: services is forbidden (forbidden)",
            "1000..2000",
        ),
        ("status 429 retry=7 busy", "failing listed=0 failure: HTTP 429: busy (too_many_requests)", "7000"),
        ("status 503 retry=86400 later", "failing listed=0 failure: HTTP 503: later (status)", "60000"),
        ("status 503", "failing listed=0 failure: HTTP 503 (status)", "50..100"),
        ("fail resolve", "failing listed=0 failure:  (resolve)", "50..100"),
        ("fail tls", "failing listed=0 failure:  (tls)", "50..100"),
        ("fail credentials", "failing listed=0 failure:  (credentials)", "250..500"),
    ] {
        check(
            &format!("{answer}\nstate\nlist rv=1 a\nstate"),
            &format!(
                "
                /api/v1/services?limit=500
                state {state}
                wait {pauses}
                /api/v1/services?limit=500
                > reset a synced
                state watching listed=1 lists=1
                watch resourceVersion=1
                "
            ),
        );
    }
}

fn waits(kind: Kind, script: &str) -> (Bench, Vec<u64>) {
    let mut bench = Bench::new(kind, Consistency::Consistent);
    let text = bench.play(script);
    let waits = text.lines().filter_map(|line| line.strip_prefix("wait "));
    let waits = waits.map(|wait| wait.parse().expect("ms")).collect();
    (bench, waits)
}

#[test]
fn a_forbidden_kind_is_asked_again_slowly_and_at_last_allowed() {
    let (mut bench, waits) = waits(Kind::DestinationRule, &"status 403 no\n".repeat(8));
    assert!(waits[0] >= 1000 && waits[7] > 30_000 && waits.iter().all(|wait| *wait <= 60_000), "{waits:?}");
    assert!(bench.play("list rv=1 a\nopen\nstate").contains("state watching listed=1 lists=1\n"));
}

#[test]
fn a_kind_that_nodes_need_is_asked_for_every_3_s_while_it_is_forbidden() {
    // An API server answers 403 until it has loaded its roles.
    let (_, waits) = waits(Kind::Service, &"status 403 no\n".repeat(8));
    assert!(waits.iter().all(|wait| (1000..=3000).contains(wait)), "{waits:?}");
}

#[test]
fn a_watch_that_is_forbidden_stays_told_while_lists_succeed() {
    let mut bench = Bench::new(Kind::Service, Consistency::Consistent);
    let text = bench.play(
        "
        list rv=1 a
        status 403 no watch
        list rv=1 a
        state
        status 403 no watch
        list rv=1 a
        status 403 no watch
        list rv=2 a
        state
        status 403 no watch
        ",
    );
    compare(
        &text,
        "
        /api/v1/services?limit=500
        > reset a synced
        watch resourceVersion=1
        wait 1000..2000
        /api/v1/services?limit=1
        state forbidden listed=1 lists=1 failure: HTTP 403: no watch (forbidden)
        watch resourceVersion=1
        wait 1500..3000
        /api/v1/services?limit=1
        watch resourceVersion=1
        wait 1500..3000
        /api/v1/services?limit=500
        > reset a synced
        state forbidden listed=1 lists=2 failure: HTTP 403: no watch (forbidden)
        watch resourceVersion=2
        wait 1500..3000
        /api/v1/services?limit=500
        ",
    );
}

#[test]
fn ke_3053_no_discovery_is_asked_the_versions_are_tried_in_turn() {
    let mut bench = Bench::new(Kind::DestinationRule, Consistency::Consistent);
    let text = bench.play(
        "
        status 404 404 page not found
        status 404 404 page not found
        list rv=1 r
        open
        ",
    );
    compare(
        &text,
        "
        /apis/networking.istio.io/v1alpha3/destinationrules?limit=500
        /apis/networking.istio.io/v1beta1/destinationrules?limit=500
        /apis/networking.istio.io/v1/destinationrules?limit=500
        > reset r synced
        watch resourceVersion=1
        watching for 330000..670000
        wait 50..100
        /apis/networking.istio.io/v1/destinationrules?limit=1
        ",
    );
}

#[test]
fn missing_istio_is_empty_asked_slowly_and_found_when_installed() {
    let mut bench = Bench::new(Kind::DestinationRule, Consistency::Consistent);
    let text = bench.play(
        "
        status 404 no
        status 404 no
        status 404 no
        state
        status 404 no
        list rv=1 r
        state
        ",
    );
    compare(
        &text,
        "
        /apis/networking.istio.io/v1alpha3/destinationrules?limit=500
        /apis/networking.istio.io/v1beta1/destinationrules?limit=500
        /apis/networking.istio.io/v1/destinationrules?limit=500
        > reset synced
        state absent listed=0 failure: HTTP 404: no (absent)
        wait 4000..8000
        /apis/networking.istio.io/v1alpha3/destinationrules?limit=500
        /apis/networking.istio.io/v1beta1/destinationrules?limit=500
        > reset r synced
        state watching listed=1 lists=1
        watch resourceVersion=1
        ",
    );
}

#[test]
fn a_kind_that_a_cluster_cannot_do_without_is_not_emptied_by_a_404() {
    for (kind, pauses) in [(Kind::Service, "50..100"), (Kind::EndpointSlice, "1000..2000")] {
        let path = edgemesh_reflector::Resource::of(kind);
        let path = format!("{}/{}?limit=500", path.versions[0], path.plural);
        let text = Bench::new(kind, Consistency::Consistent).play("status 404 default backend\nstate");
        compare(
            &text,
            &format!(
                "
                {path}
                state absent listed=0 failure: HTTP 404: default backend (absent)
                wait {pauses}
                {path}
                "
            ),
        );
    }
}

#[test]
fn what_a_status_means() {
    for (code, reason) in [
        (400, FailureReason::Status),
        (401, FailureReason::Unauthorized),
        (403, FailureReason::Forbidden),
        (404, FailureReason::Absent),
        (405, FailureReason::Absent),
        (410, FailureReason::Gone),
        (429, FailureReason::TooManyRequests),
        (500, FailureReason::Status),
        (504, FailureReason::Status),
    ] {
        let failure = Failure::of_status(code, "words", None);
        assert_eq!(
            (failure.reason, failure.detail.as_str()),
            (reason, format!("HTTP {code}: words").as_str())
        );
        assert_eq!(failure.to_string(), format!("HTTP {code}: words ({})", reason.as_str()));
    }
}

#[test]
fn words_of_servers_are_one_short_line() {
    let failure = Failure::new(FailureReason::Status, format!("é\r\n{}", "é".repeat(1000)));
    assert_eq!(failure.detail.chars().count(), 200);
    assert!(failure.detail.starts_with("é  é"));
}

#[test]
fn an_answer_that_is_cut_off_is_no_wrong_answer() {
    assert_eq!(Failure::from(SplitError::Truncated).reason, FailureReason::Closed);
    for error in [SplitError::NotJson, SplitError::Malformed, SplitError::TooLarge, SplitError::TooDeep] {
        assert_eq!(Failure::from(error).reason, FailureReason::Answer, "{}", error.as_str());
    }
}
