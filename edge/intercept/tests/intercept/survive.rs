//! What a killed agent leaves, and what others do to the rules.

use std::process::Command;

use edgemesh_intercept::{InterceptError, Interceptor, cleanup};
use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Element, Family, Hook, KeyType, Nft, Rule, Set, Table, nat_flags,
};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Prefix, Route, RouteKind, Scope, TABLE_LOCAL};
use edgemesh_net::netns::{Isolation, Kind, in_fresh_namespaces};
use edgemesh_ruleset::{DEVICE, ROUTE_PROTOCOL, RulesetSettings, TABLE};

use crate::kernel::{assert_same, install, ip, loopback_up, ruleset, state};

const OURS: Table<'static> = Table { family: Family::Inet, name: TABLE };

fn some() -> edgemesh_ruleset::Ruleset {
    let frontends = ["10.96.0.1:80/tcp", "[fd00:96::1]:53/udp"];
    ruleset(&RulesetSettings::default(), &frontends, &["10.96.0.2"])
}

/// A host with a life of its own: a link with addresses, tables of the same name or the same hooks, routes that share
/// one trait with ours.
fn furnish() {
    loopback_up();
    let mut rt = Handle::open().expect("rtnetlink");
    rt.add_link("cni0", LinkKind::Bridge).expect("a link");
    let link = rt.link("cni0").expect("links").expect("cni0").index;
    rt.add_address(link, Prefix::new(ip("10.244.0.1"), 24), false).expect("an address");
    rt.add_address(link, Prefix::new(ip("fd00:244::1"), 64), true).expect("an address");
    rt.set_up(link, true).expect("up");
    let ours = Route { proto: ROUTE_PROTOCOL, ..Route::on_link(Prefix::new(ip("10.99.0.0"), 16), link) };
    rt.add_route(&ours).expect("a route of our number in another table");
    let local = Route {
        table: TABLE_LOCAL,
        kind: RouteKind::Local,
        scope: Scope::Host,
        ..Route::on_link(Prefix::host(ip("10.98.0.1")), link)
    };
    rt.add_route(&local).expect("a local route of another number");
    let mut batch = Batch::new();
    for (family, name) in [(Family::Inet, "edgemesh-other"), (Family::Ip, TABLE)] {
        let table = Table { family, name };
        batch.add_table(table);
        let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, drop: false };
        batch.add_chain(table, Chain { name: "post", base: Some(base) });
        batch.add_rule(table, "post", &Rule::new().oifname("cni0").masquerade(nat_flags::RANDOM));
        batch.add_set(table, Set { name: "vips4", key: &[KeyType::Ipv4Addr], data: &[] });
        batch.add_elements(table, "vips4", [Element::single(&[10, 96, 0, 1])]);
    }
    Nft::open().expect("nftables").commit(&batch).expect("foreign tables");
}

#[test]
fn cleanup_after_a_kill_leaves_the_host_as_it_was() {
    if !in_fresh_namespaces("survive::cleanup_after_a_kill_leaves_the_host_as_it_was") {
        return;
    }
    furnish();
    let before = state();
    assert!(cleanup(DEVICE).expect("cleaned").is_empty());
    assert_same(&state(), &before);
    let mut interceptor = install();
    interceptor.apply(&some()).expect("applied");
    assert_ne!(state(), before);
    // The kernel sees no difference between this and SIGKILL: nothing is undone on drop.
    drop(interceptor);
    let report = cleanup(DEVICE).expect("cleaned");
    assert_eq!((report.routes, report.table, report.device), (3, true, true));
    assert_eq!(report.to_string(), "removed 3 routes, the table inet edgemesh, the device");
    assert_same(&state(), &before);
    assert_eq!(cleanup(DEVICE).expect("cleaned").to_string(), "nothing to remove");
    assert_same(&state(), &before);
}

#[test]
fn removing_leaves_the_host_as_it_was() {
    if !in_fresh_namespaces("survive::removing_leaves_the_host_as_it_was") {
        return;
    }
    furnish();
    let before = state();
    let mut interceptor = install();
    interceptor.apply(&some()).expect("applied");
    interceptor.remove().expect("removed");
    assert_same(&state(), &before);
}

#[test]
fn a_successor_adopts_what_is_there() {
    if !in_fresh_namespaces("survive::a_successor_adopts_what_is_there") {
        return;
    }
    furnish();
    let mut first = install();
    first.apply(&some()).expect("applied");
    drop(first);
    let before = state();
    let mut second = install();
    assert_same(&state(), &before);
    let wanted = ruleset(&RulesetSettings::default(), &["10.96.0.1:80/tcp"], &["10.96.0.9"]);
    let applied = second.apply(&wanted).expect("applied");
    assert_eq!((applied.routes_added, applied.routes_deleted), (1, 2));
    assert!(applied.repaired.is_empty(), "{applied:?}");
}

/// Each is done to a freshly applied ruleset; `verify` must see it and bring everything back.
#[test]
fn what_others_break_is_restored() {
    if !in_fresh_namespaces("survive::what_others_break_is_restored") {
        return;
    }
    let mut interceptor = install();
    interceptor.apply(&some()).expect("applied");
    let mut nft = Nft::open().expect("nftables");
    let mut rt = Handle::open().expect("rtnetlink");
    type Harm = fn(&mut Batch);
    let harms: [(&str, Harm); 5] = [
        ("table edgemesh is not there", |batch| batch.delete_table(OURS)),
        ("the rules were changed", |batch| batch.flush_chain(OURS, "input")),
        ("the rules were changed", |batch| batch.add_rule(OURS, "prerouting_raw", &Rule::new().drop())),
        ("set vips4 lacks 1 elements and has 1 foreign ones", |batch| {
            batch.delete_elements(OURS, "vips4", [Element::single(&[10, 96, 0, 1])]);
            batch.add_elements(OURS, "vips4", [Element::single(&[10, 0, 0, 1])]);
        }),
        ("chain x is not ours", |batch| batch.add_chain(OURS, Chain { name: "x", base: None })),
    ];
    for (expected, harm) in harms {
        let mut batch = Batch::new();
        harm(&mut batch);
        nft.commit(&batch).expect("harmed");
        assert_eq!(interceptor.verify().expect("verified"), [expected]);
        assert!(interceptor.verify().expect("verified").is_empty(), "after {expected}");
    }
    let route = rt.routes(Some(TABLE_LOCAL)).expect("routes");
    let route = route.iter().find(|route| route.proto == ROUTE_PROTOCOL).expect("a route of ours");
    rt.delete_route(route).expect("harmed");
    assert_eq!(interceptor.verify().expect("verified"), ["1 routes are not there and 0 are not ours"]);
    let device = rt.link(DEVICE).expect("links").expect("the device").index;
    rt.delete_link(device).expect("harmed");
    assert_eq!(interceptor.verify().expect("verified"), ["device edgemesh0 was changed"]);
    assert!(interceptor.verify().expect("verified").is_empty());
}

#[test]
fn an_update_survives_a_flushed_table() {
    if !in_fresh_namespaces("survive::an_update_survives_a_flushed_table") {
        return;
    }
    let mut interceptor = install();
    interceptor.apply(&some()).expect("applied");
    let mut batch = Batch::new();
    batch.delete_table(OURS);
    Nft::open().expect("nftables").commit(&batch).expect("flushed");
    let more = ruleset(&RulesetSettings::default(), &["10.96.0.1:80/tcp", "10.96.0.1:81/tcp"], &[]);
    let applied = interceptor.apply(&more).expect("applied");
    assert_eq!(applied.change, edgemesh_intercept::Change::Replaced);
    assert!(interceptor.verify().expect("verified").is_empty());
}

#[test]
fn a_foreign_device_is_left_alone() {
    if !in_fresh_namespaces("survive::a_foreign_device_is_left_alone") {
        return;
    }
    loopback_up();
    Handle::open().expect("rtnetlink").add_link(DEVICE, LinkKind::Bridge).expect("a link");
    let before = state();
    let error = Interceptor::install(RulesetSettings::default()).expect_err("taken");
    assert_eq!(error.as_str(), "device_taken");
    let report = cleanup(DEVICE).expect("cleaned");
    assert!(report.is_empty() && report.foreign_device.is_some(), "{report:?}");
    assert_same(&state(), &before);
}

/// Go EdgeMesh makes the same device and leaves it; an agent that takes its place refused to start.
#[test]
fn the_device_that_go_edgemesh_leaves_is_taken_over() {
    if !in_fresh_namespaces("survive::the_device_that_go_edgemesh_leaves_is_taken_over") {
        return;
    }
    loopback_up();
    let before = state();
    let mut rt = Handle::open().expect("rtnetlink");
    rt.add_link(DEVICE, LinkKind::Bridge).expect("a link");
    let link = rt.link(DEVICE).expect("read").expect("there");
    rt.add_address(link.index, Prefix::host(std::net::Ipv4Addr::new(169, 254, 96, 16)), false)
        .expect("an address");
    rt.set_up(link.index, true).expect("up");
    let interceptor = Interceptor::install(RulesetSettings::default()).expect("taken over");
    interceptor.remove().expect("removed");
    assert_same(&state(), &before);
}

/// Set in the process that has no capability in its network namespace.
const POWERLESS: &str = "EDGEMESH_TEST_POWERLESS";

#[test]
fn without_the_capability_the_error_says_so() {
    if std::env::var_os(POWERLESS).is_some() {
        let error = Interceptor::install(RulesetSettings::default()).expect_err("no capability");
        assert!(matches!(error, InterceptError::NoPermission), "{error:?}");
        return;
    }
    if !in_fresh_namespaces("survive::without_the_capability_the_error_says_so") {
        return;
    }
    // In a user namespace below the one that owns the network namespace.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "survive::without_the_capability_the_error_says_so"]).env(POWERLESS, "1");
    let status = Isolation::new().fresh(&[Kind::User]).apply(&mut command).status().expect("spawned");
    assert!(status.success());
}
