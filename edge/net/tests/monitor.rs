//! Changes of links, addresses and routes are heard of, and routes of several ways are read.

use std::net::IpAddr;
use std::time::Duration;

use edgemesh_net::netlink::rt::{
    Changes, Handle, LinkKind, Monitor, NextHop, Prefix, Route, RouteKind, TABLE_LOCAL,
};
use edgemesh_net::netns::in_fresh_namespaces;
use futures::FutureExt;

/// Bounds every wait; nothing is expected to take it.
const PATIENCE: Duration = Duration::from_secs(10);

const EVERYTHING: Changes = Changes { links: true, addresses: true, routes: true };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

async fn changed(monitor: &mut Monitor) -> Changes {
    let changes = tokio::time::timeout(PATIENCE, monitor.changed()).await;
    changes.expect("there are news").expect("news")
}

/// Waits until what is wanted changed; news of the rest are passed over.
async fn wait_for(monitor: &mut Monitor, wanted: fn(&Changes) -> bool) {
    loop {
        if wanted(&changed(monitor).await) {
            return;
        }
    }
}

/// A device that is down, on which nothing happens by itself.
fn loopback_and_device(rt: &mut Handle) -> (u32, u32) {
    let lo = rt.link("lo").expect("links").expect("lo").index;
    rt.set_up(lo, true).expect("up");
    rt.add_link("probe", LinkKind::Bridge).expect("a device");
    (lo, rt.link("probe").expect("links").expect("probe").index)
}

#[test]
fn each_kind_of_change_is_told() {
    if !in_fresh_namespaces("each_kind_of_change_is_told") {
        return;
    }
    run(async {
        let mut rt = Handle::open().unwrap();
        let (lo, device) = loopback_and_device(&mut rt);
        let mut monitor = Monitor::open().unwrap();
        // What was before is no news.
        assert!(monitor.changed().now_or_never().is_none());
        rt.set_mtu(device, 1400).unwrap();
        assert_eq!(changed(&mut monitor).await, Changes { links: true, ..Changes::default() });
        for (addr, route) in [("10.1.0.1", "10.2.0.0"), ("fd00:1::1", "fd00:2::")] {
            let addr = Prefix::host(ip(addr));
            rt.add_address(lo, addr, true).unwrap();
            wait_for(&mut monitor, |it| it.addresses).await;
            rt.delete_address(lo, addr).unwrap();
            wait_for(&mut monitor, |it| it.addresses).await;
            let route = Route { kind: RouteKind::Blackhole, ..Route::unicast(Prefix::new(ip(route), 24)) };
            rt.add_route(&route).unwrap();
            wait_for(&mut monitor, |it| it.routes).await;
            rt.delete_route(&route).unwrap();
            wait_for(&mut monitor, |it| it.routes).await;
        }
        rt.delete_link(device).unwrap();
        wait_for(&mut monitor, |it| it.links).await;
    });
}

/// A route of its own for every number.
fn route(n: u32) -> Route {
    let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n);
    Route { kind: RouteKind::Blackhole, ..Route::unicast(Prefix::host(addr)) }
}

#[test]
fn a_burst_is_one_change() {
    if !in_fresh_namespaces("a_burst_is_one_change") {
        return;
    }
    run(async {
        let mut rt = Handle::open().unwrap();
        loopback_and_device(&mut rt);
        let mut monitor = Monitor::open().unwrap();
        for n in 0..50 {
            rt.add_route(&route(n)).unwrap();
        }
        let changes = changed(&mut monitor).await;
        assert_eq!(changes, Changes { routes: true, ..Changes::default() });
        assert!(monitor.changed().now_or_never().is_none());
    });
}

#[test]
fn more_than_the_queue_holds_is_a_change_of_everything() {
    if !in_fresh_namespaces("more_than_the_queue_holds_is_a_change_of_everything") {
        return;
    }
    run(async {
        let mut rt = Handle::open().unwrap();
        loopback_and_device(&mut rt);
        let mut monitor = Monitor::open().unwrap();
        // The queue holds some hundred.
        for n in 0..5000 {
            rt.add_route(&route(n)).unwrap();
        }
        assert_eq!(changed(&mut monitor).await, EVERYTHING);
        assert!(monitor.changed().now_or_never().is_none());
        // It hears again, and exactly.
        rt.delete_route(&route(1)).unwrap();
        assert_eq!(changed(&mut monitor).await, Changes { routes: true, ..Changes::default() });
    });
}

#[test]
fn routes_of_several_ways_are_written_and_read() {
    if !in_fresh_namespaces("routes_of_several_ways_are_written_and_read") {
        return;
    }
    let mut rt = Handle::open().unwrap();
    let (_, device) = loopback_and_device(&mut rt);
    rt.set_up(device, true).unwrap();
    for (addr, len) in [("10.1.0.1", 24), ("fd00:1::1", 64)] {
        rt.add_address(device, Prefix::new(ip(addr), len), true).unwrap();
    }
    let hop = |gateway, weight| NextHop { gateway: Some(ip(gateway)), oif: device, weight };
    let several = |dst, hops: [NextHop; 2]| Route {
        next_hops: hops.to_vec(),
        table: 77,
        metric: Some(9),
        proto: 186,
        ..Route::unicast(dst)
    };
    let routes = [
        several(Prefix::new(ip("10.2.0.0"), 16), [hop("10.1.0.2", 1), hop("10.1.0.3", 256)]),
        several(Prefix::new(ip("fd00:2::"), 48), [hop("fd00:1::2", 1), hop("fd00:1::3", 7)]),
        // IPv4 by way of an IPv6 router (RFC 5549).
        several(Prefix::new(ip("10.3.0.0"), 16), [hop("fd00:1::2", 1), hop("10.1.0.3", 1)]),
        Route {
            oif: Some(device),
            metric: Some(5),
            ..Route::via(Prefix::new(ip("10.4.0.0"), 16), ip("fd00:1::2"))
        },
    ];
    for route in &routes {
        rt.add_route(route).unwrap_or_else(|error| panic!("{route:?}: {error}"));
        let same = |found: &&Route| {
            let mut hops = [found.next_hops.clone(), route.next_hops.clone()];
            // The kernel orders the ways of IPv6 itself.
            hops.iter_mut().for_each(|hops| hops.sort());
            hops[0] == hops[1]
                && (found.gateway, found.oif) == (route.gateway, route.oif)
                && (found.dst, found.table, found.metric) == (route.dst, route.table, route.metric)
                && (found.proto, found.kind) == (route.proto, route.kind)
        };
        let all = rt.routes(None).unwrap();
        assert_eq!(all.iter().filter(same).count(), 1, "{route:?}: {all:#?}");
        rt.delete_route(route).unwrap();
        assert_eq!(rt.routes(None).unwrap().iter().filter(same).count(), 0, "{route:?}");
    }
    let all = rt.routes(None).unwrap();
    let local = |it: &&Route| it.table == TABLE_LOCAL && it.dst == Prefix::host(ip("10.1.0.1"));
    assert_eq!(all.iter().find(local).map(|it| (it.kind, it.oif)), Some((RouteKind::Local, Some(device))));
}
