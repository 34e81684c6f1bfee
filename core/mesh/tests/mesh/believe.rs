//! Which listings are believed when they leave objects out, kind by kind, on a virtual clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{Kind, Object, ObjectKey, SourceEvent, decode_value};
use edgemesh_mesh::{Applied, HOLD, HOLD_SHRUNK, MeshOptions, MeshState};

use crate::fixture::{listing, render};

struct Story {
    state: MeshState,
    start: Option<Instant>,
}

/// `a` is an object with a uid of its own, `a@x` one of that name with another uid, `a@` one without; `a=IP` has an
/// address.
fn object(kind: Kind, word: &str) -> Arc<Object> {
    let (word, ip) = word.split_once('=').map_or((word, ""), |(word, ip)| (word, ip));
    let (name, uid) = word.split_once('@').map_or((word, word), |(name, uid)| (name, uid));
    let version = if kind == Kind::EndpointSlice { "discovery.k8s.io/v1" } else { "v1" };
    let json = serde_json::json!({
        "apiVersion": version, "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
    });
    Arc::new(decode_value(json).expect("an object"))
}

fn kind(word: &str) -> Kind {
    match word {
        "svc" => Kind::Service,
        "slice" => Kind::EndpointSlice,
        "ep" => Kind::Endpoints,
        "pod" => Kind::Pod,
        other => panic!("no kind {other:?}"),
    }
}

impl Story {
    fn new(cached: bool) -> Self {
        let options = MeshOptions { cached_source: cached, ..MeshOptions::default() };
        Self { state: MeshState::with_options("here".into(), options), start: Some(Instant::now()) }
    }

    /// One line `SECONDS VERB KIND NAMES…`; what its last event did, the kind's objects, and what is held of it.
    fn play(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let seconds: u64 = words.next().and_then(|word| word.parse().ok()).expect("seconds");
        if let Some(start) = self.start {
            self.state.handle_time(start + Duration::from_secs(seconds));
        }
        let (verb, kind) = (words.next().expect("a verb"), kind(words.next().expect("a kind")));
        let upserts = words.map(|word| match verb {
            "delete" => SourceEvent::Delete(kind, ObjectKey::new("default", word)),
            "keep" => SourceEvent::Keep(kind, ObjectKey::new("default", word)),
            _ => match word.strip_prefix('!') {
                Some(kept) => SourceEvent::Keep(kind, ObjectKey::new("default", kept)),
                None => SourceEvent::Upsert(object(kind, word)),
            },
        });
        let mut events: Vec<_> = upserts.collect();
        if ["list", "begin"].contains(&verb) {
            events.insert(0, SourceEvent::ResetKind(kind));
        }
        if ["list", "end"].contains(&verb) {
            events.push(SourceEvent::SyncedKind(kind));
        }
        let applied = events.into_iter().map(|event| self.state.apply(event)).last().expect("an event");
        let mut told = match applied {
            Applied::Unchanged => "same:".to_owned(),
            Applied::Changed => "changed:".to_owned(),
            Applied::ListingDoubted => "doubted:".to_owned(),
        };
        for object in self.state.objects().filter(|object| object.kind() == kind) {
            told.push_str(&format!(" {}", object.metadata().name));
        }
        for (_, doubt, count) in self.state.held().filter(|(held, _, _)| *held == kind) {
            told.push_str(&format!(" held={count}:{}", doubt.as_str()));
        }
        told
    }
}

/// Lines `SECONDS VERB KIND NAMES… -> what is known then`.
#[track_caller]
fn check_story(mut story: Story, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (line, expected) = line.split_once("->").expect("a line says what it leads to");
        assert_eq!(story.play(line), expected.trim(), "after {line:?} of\n{lines}");
    }
}

#[track_caller]
fn check(lines: &str) {
    check_story(Story::new(false), lines);
}

#[track_caller]
fn check_cached(lines: &str) {
    check_story(Story::new(true), lines);
}

#[test]
fn the_holds_are_what_the_stories_say() {
    assert_eq!((HOLD, HOLD_SHRUNK), (Duration::from_secs(600), Duration::from_secs(30)));
}

#[test]
fn a_listing_that_shares_an_object_is_believed() {
    check(
        "
        0 list svc a b c -> same: a b c
        9 list svc a -> changed: a
        9 list svc a d -> same: a d
        9 list svc d -> changed: d
        ",
    );
}

#[test]
fn absence_deletes_only_at_the_end() {
    check(
        "
        0 list svc a b -> same: a b
        1 begin svc a -> same: a b
        1 begin svc a c -> changed: a b c
        2 end svc -> changed: a c
        3 end svc -> same: a c
        ",
    );
}

#[test]
fn ke_6641_an_empty_listing_deletes_nothing_for_as_long_as_the_hold() {
    check(
        "
        0 list svc a b -> same: a b
        10 list svc -> doubted: a b held=2:empty
        300 list svc -> doubted: a b held=2:empty
        609 list svc -> doubted: a b held=2:empty
        610 list svc -> changed:
        611 list svc -> same:
        ",
    );
}

#[test]
fn an_empty_listing_of_an_empty_kind_is_no_wonder() {
    check("0 list svc -> same:\n1 list svc a -> same: a\n2 delete svc a -> changed:\n3 list svc -> same:");
}

#[test]
fn a_foreign_listing_is_taken_over_beside_what_was_known() {
    check(
        "
        0 list svc a b -> same: a b
        10 list svc x y -> doubted: a b x y held=2:foreign
        20 list svc x y -> doubted: a b x y held=2:foreign
        610 list svc x y -> changed: x y
        ",
    );
}

#[test]
fn the_same_names_made_anew_are_foreign_too() {
    check(
        "
        0 list svc a b -> same: a b
        10 list svc a@new -> doubted: a b held=1:foreign
        610 list svc a@new -> changed: a
        ",
    );
}

#[test]
fn objects_without_uid_are_the_same_by_name() {
    check("0 list svc a@ b@ -> same: a b\n1 list svc a@new -> changed: a");
    check("0 list svc a@x b@x -> same: a b\n1 list svc a@ -> changed: a");
}

#[test]
fn em_463_a_restored_server_is_the_old_one_and_what_it_leaves_out_is_gone() {
    check(
        "
        0 list svc a b c -> same: a b c
        10 list svc -> doubted: a b c held=3:empty
        60 list svc a b -> changed: a b
        70 list svc a -> changed: a
        ",
    );
    check(
        "
        0 list svc a b c -> same: a b c
        10 list svc x -> doubted: a b c x held=3:foreign
        60 list svc a -> changed: a
        ",
    );
}

#[test]
fn a_held_object_that_a_watch_tells_proves_the_same() {
    check(
        "
        0 list svc a b c -> same: a b c
        10 list svc -> doubted: a b c held=3:empty
        20 upsert svc a -> changed: a b c held=2:empty
        30 list svc a -> changed: a
        ",
    );
    check(
        "
        0 list svc a b c -> same: a b c
        10 list svc -> doubted: a b c held=3:empty
        20 upsert svc a -> changed: a b c held=2:empty
        30 list svc -> doubted: a b c held=3:empty
        610 list svc -> doubted: a held=1:empty
        630 list svc -> changed:
        ",
    );
}

#[test]
fn a_held_name_made_anew_proves_nothing() {
    check(
        "
        0 list svc a b c -> same: a b c
        10 list svc x -> doubted: a b c x held=3:foreign
        20 list svc x a@new -> doubted: a b c x held=2:foreign
        610 list svc x a@new -> changed: a x
        ",
    );
}

#[test]
fn everything_that_comes_again_ends_the_doubt() {
    check(
        "
        0 list svc a b -> same: a b
        10 list svc -> doubted: a b held=2:empty
        20 list svc a b -> same: a b
        900 list svc -> doubted: a b held=2:empty
        1499 list svc -> doubted: a b held=2:empty
        1500 list svc -> changed:
        ",
    );
}

#[test]
fn what_a_foreign_server_brought_and_loses_is_held_from_then_on() {
    check(
        "
        0 list svc a -> same: a
        10 list svc x y -> doubted: a x y held=1:foreign
        500 list svc x -> doubted: a x y held=2:foreign
        610 list svc x -> doubted: x y held=1:foreign
        1100 list svc x -> changed: x
        ",
    );
}

#[test]
fn a_hold_that_is_over_says_nothing_of_other_objects() {
    check(
        "
        0 list svc a -> same: a
        10 list svc x y -> doubted: a x y held=1:foreign
        700 list svc -> doubted: x y held=2:empty
        1300 list svc -> changed:
        ",
    );
    check(
        "
        0 list svc a b -> same: a b
        10 list svc x y -> doubted: a b x y held=2:foreign
        20 delete svc a -> changed: b x y held=1:foreign
        20 delete svc b -> changed: x y
        900 list svc -> doubted: x y held=2:empty
        ",
    );
}

#[test]
fn single_deletes_are_believed() {
    check(
        "
        0 list svc a b -> same: a b
        1 delete svc a -> changed: b
        2 list svc -> doubted: b held=1:empty
        3 delete svc b -> changed:
        4 list svc -> same:
        ",
    );
}

#[test]
fn a_delete_during_a_listing_is_believed() {
    check(
        "
        0 list svc a b -> same: a b
        1 begin svc a b -> same: a b
        1 delete svc b -> changed: a
        1 end svc -> same: a
        ",
    );
}

#[test]
fn an_object_that_cannot_be_read_is_there() {
    check(
        "
        0 list svc a b c -> same: a b c
        1 list svc a !b -> changed: a b
        2 list svc !a !b -> same: a b
        3 list svc !a -> doubted: a b held=1:foreign
        ",
    );
}

#[test]
fn kinds_are_judged_each_for_itself() {
    check(
        "
        0 list svc a -> same: a
        0 list slice s t -> changed: s t
        0 list pod p -> same: p
        9 list slice -> doubted: s t held=2:empty
        9 list pod x -> doubted: p x held=1:foreign
        9 list svc a b -> same: a b
        99 list svc a -> changed: a
        99 list pod x p -> same: p x
        609 list slice -> changed:
        ",
    );
}

#[test]
fn listings_of_two_kinds_may_overlap() {
    check(
        "
        0 list svc a b -> same: a b
        0 list slice s t -> changed: s t
        5 begin svc a -> same: a b
        5 begin slice t -> same: s t
        5 upsert svc c -> changed: a b c
        5 end slice -> changed: t
        6 end svc -> changed: a c
        ",
    );
}

#[test]
fn a_cache_that_fills_again_loses_nothing_meanwhile() {
    check_cached(
        "
        0 list svc a b c d e f g h -> same: a b c d e f g h
        60 list svc a b c -> doubted: a b c d e f g h held=5:shrunk
        62 list svc a b c d e f -> doubted: a b c d e f g h held=2:shrunk
        66 list svc a b c d e f g -> doubted: a b c d e f g h held=1:shrunk
        74 list svc a b c d e f g h -> same: a b c d e f g h
        ",
    );
}

#[test]
fn a_cache_that_begins_empty_and_fills_object_by_object_loses_nothing() {
    check_cached(
        "
        0 list svc a b c d -> same: a b c d
        60 list svc -> doubted: a b c d held=4:empty
        100 list svc a -> doubted: a b c d held=3:shrunk
        102 list svc a b c -> doubted: a b c d held=1:shrunk
        110 list svc a b c d -> same: a b c d
        ",
    );
}

#[test]
fn what_a_cache_leaves_out_for_the_hold_is_gone() {
    check_cached(
        "
        0 list svc a b c d e f g h -> same: a b c d e f g h
        60 list svc a b c -> doubted: a b c d e f g h held=5:shrunk
        80 list svc a b c d -> doubted: a b c d e f g h held=4:shrunk
        89 list svc a b c -> doubted: a b c d e f g h held=5:shrunk
        90 list svc a b c -> doubted: a b c d held=1:shrunk
        119 list svc a b c -> changed: a b c
        ",
    );
    check_cached(
        "
        0 list svc a b c d -> same: a b c d
        60 list svc -> doubted: a b c d held=4:empty
        100 list svc a -> doubted: a b c d held=3:shrunk
        129 list svc a -> doubted: a b c d held=3:shrunk
        130 list svc a -> changed: a
        ",
    );
}

#[test]
fn shrinking_is_doubted_of_caches_by_more_than_half_of_eight_at_least() {
    let eight = "0 list svc a b c d e f g h -> same: a b c d e f g h";
    check(&format!("{eight}\n1 list svc a -> changed: a"));
    check_cached(&format!("{eight}\n1 list svc a b c d -> changed: a b c d"));
    check_cached(&format!("{eight}\n1 list svc a b c -> doubted: a b c d e f g h held=5:shrunk"));
    check_cached("0 list svc a b c d e f g -> same: a b c d e f g\n1 list svc a -> changed: a");
}

#[test]
fn without_a_clock_the_next_listing_decides() {
    let story = Story { start: None, ..Story::new(false) };
    check_story(
        story,
        "
        0 list svc a b -> same: a b
        0 list svc -> doubted: a b held=2:empty
        0 list svc -> changed:
        ",
    );
}

#[test]
fn the_first_listing_after_a_start_is_judged_against_the_journal() {
    let journal = || {
        let mut story = Story::new(false);
        let upserts = ["a", "b"].map(|name| SourceEvent::Upsert(object(Kind::Service, name)));
        let events = [vec![SourceEvent::Reset], upserts.to_vec(), vec![SourceEvent::Synced]].concat();
        story.state.restore(events);
        assert!(story.state.is_stale());
        story
    };
    check_story(journal(), "0 list svc -> doubted: a b held=2:empty\n600 list svc -> changed:");
    check_story(journal(), "0 list svc x -> doubted: a b x held=2:foreign\n600 list svc x -> changed: x");
    check_story(journal(), "0 list svc b c -> changed: b c");
}

#[test]
fn services_and_their_endpoints_make_a_state_fresh_once_they_are_believed() {
    for endpoints in ["slice", "ep"] {
        let mut story = Story::new(false);
        story.state.restore(listing(
            "{apiVersion: v1, kind: Service, metadata: {name: a, uid: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        ));
        assert_eq!(story.play(&format!("0 list {endpoints} s")), "same: s");
        assert_eq!(story.play("0 list svc x"), "doubted: a x held=1:foreign");
        assert!(story.state.compile().stale, "a doubted listing proves nothing");
        assert_eq!(story.play("600 list svc x"), "changed: x");
        assert!(!story.state.compile().stale);
    }
}

#[test]
fn held_services_are_served_and_give_way_to_who_has_their_address_now() {
    let mut story = Story::new(false);
    story.play("0 list svc a=10.96.0.1 b=10.96.0.2");
    assert_eq!(story.play("9 list svc z=10.96.0.1 y=10.96.0.3"), "doubted: a b y z held=2:foreign");
    let frontends = |story: &mut Story| {
        let text = render(&story.state.compile());
        let lines = text.lines().filter(|line| line.starts_with("frontend") || line.starts_with("finding"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        frontends(&mut story),
        [
            "frontend 10.96.0.1:80/tcp default/z 0",
            "frontend 10.96.0.2:80/tcp default/b 0",
            "frontend 10.96.0.3:80/tcp default/y 0",
            "finding Service default/a: 10.96.0.1:80/tcp belongs to Service default/z",
        ]
    );
    assert_eq!(story.play("20 list svc a=10.96.0.1 b=10.96.0.2 z=10.96.0.1"), "changed: a b z");
    assert_eq!(frontends(&mut story)[0], "frontend 10.96.0.1:80/tcp default/a 0", "the first by name again");
}

#[test]
fn a_doubted_listing_is_a_reason_to_compile() {
    assert!(Applied::ListingDoubted.is_change(), "what is held gives way");
    assert!(Applied::Changed.is_change() && !Applied::Unchanged.is_change());
}
