//! Netlink against the running kernel, in namespaces of the test's own.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Cmp, Element, Expr, Family, Hook, KeyType, Nat, Nft, PayloadBase, Reject,
    Rule, Set, Table, Verdict, ct_state, nat_flags,
};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route, RouteKind, Scope, TABLE_LOCAL};
use edgemesh_net::netns::{Namespace, in_fresh_namespaces};

const TABLE: Table<'static> = Table { family: Family::Inet, name: "probe" };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').expect("address/length");
    Prefix::new(ip(addr), len.parse().expect("a length"))
}

#[test]
fn links_addresses_and_routes() {
    if !in_fresh_namespaces("links_addresses_and_routes") {
        return;
    }
    let mut here = Handle::open().unwrap();
    let other = Namespace::new_net().unwrap();
    here.add_link("br0", LinkKind::Bridge).unwrap();
    assert!(here.add_link("br0", LinkKind::Bridge).unwrap_err().is_exists());
    let bridge = here.link("br0").unwrap().unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    here.add_link("v0", LinkKind::Veth(Peer { name: "eth0", netns: Some(other.as_fd()) })).unwrap();
    let veth = here.link("v0").unwrap().unwrap().index;
    here.set_mac(veth, [2, 0, 0, 0, 0, 1]).unwrap();
    here.set_mtu(veth, 1400).unwrap();
    here.set_master(veth, Some(bridge.index)).unwrap();
    here.set_up(veth, true).unwrap();
    here.set_up(bridge.index, true).unwrap();
    let read = here.link("v0").unwrap().unwrap();
    assert_eq!((read.mac, read.mtu, read.master), (Some([2, 0, 0, 0, 0, 1]), 1400, Some(bridge.index)));
    assert!(read.is_up());
    here.set_master(veth, None).unwrap();
    assert_eq!(here.link("v0").unwrap().unwrap().master, None);
    let peer = other.run(|| Ok(Handle::open().unwrap().link("eth0").unwrap())).unwrap();
    assert_eq!(peer.unwrap().kind.as_deref(), Some("veth"));

    for address in ["10.1.0.1/24", "fd00:1::1/64"] {
        here.add_address(veth, prefix(address), true).unwrap();
        let found = here.addresses().unwrap();
        assert!(found.iter().any(|found| found.link == veth && found.prefix == prefix(address)), "{found:?}");
    }
    let routes = [
        Route::via(prefix("10.2.0.0/16"), ip("10.1.0.2")),
        Route { metric: Some(77), ..Route::via(prefix("fd00:2::/32"), ip("fd00:1::2")) },
        Route { kind: RouteKind::Blackhole, ..Route::unicast(prefix("10.3.0.0/16")) },
        Route::via(prefix("0.0.0.0/0"), ip("10.1.0.2")),
        Route::via(prefix("::/0"), ip("fd00:1::2")),
        Route {
            table: TABLE_LOCAL,
            kind: RouteKind::Local,
            oif: Some(veth),
            prefsrc: Some(ip("10.1.0.1")),
            proto: 229,
            scope: Scope::Host,
            ..Route::unicast(prefix("10.96.0.1/32"))
        },
    ];
    for route in &routes {
        here.add_route(route).unwrap();
        assert!(here.add_route(route).unwrap_err().is_exists(), "{route:?}");
        let same = |found: &&Route| {
            (found.dst, found.kind, found.table, found.proto)
                == (route.dst, route.kind, route.table, route.proto)
                && found.gateway == route.gateway
                && found.prefsrc == route.prefsrc
                && (route.metric.is_none() || route.metric == found.metric)
        };
        assert_eq!(here.routes(Some(route.table)).unwrap().iter().filter(same).count(), 1, "{route:?}");
        here.delete_route(route).unwrap();
        assert!(here.delete_route(route).unwrap_err().is_missing());
        assert_eq!(here.routes(None).unwrap().iter().filter(same).count(), 0);
    }
    assert!(here.routes(Some(4711)).unwrap().is_empty());
    here.delete_address(veth, prefix("10.1.0.1/24")).unwrap();
    here.move_to(veth, other.as_fd()).unwrap();
    assert_eq!(here.link("v0").unwrap(), None);
    here.delete_link(bridge.index).unwrap();
    assert_eq!(here.link("br0").unwrap(), None);
}

fn router(batch: &mut Batch) {
    batch.replace_table(TABLE);
    let base = |kind, hook, priority, drop| Some(Base { kind, hook, priority, drop });
    let chain = |name, base| Chain { name, base };
    batch.add_chain(TABLE, chain("post", base(ChainKind::Nat, Hook::Postrouting, 100, false)));
    batch.add_chain(TABLE, chain("pre", base(ChainKind::Nat, Hook::Prerouting, -100, false)));
    batch.add_chain(TABLE, chain("fwd", base(ChainKind::Filter, Hook::Forward, 0, true)));
    batch.add_chain(TABLE, chain("more", None));
    for flags in [0, nat_flags::RANDOM, nat_flags::FULLY_RANDOM, nat_flags::PERSISTENT] {
        batch.add_rule(TABLE, "post", &Rule::new().oifname("wan").masquerade(flags));
    }
    let dnat = Rule::new().nfproto(Family::Ip).l4proto(Cmp::Eq, 6);
    let dnat = dnat.payload(PayloadBase::Transport, 2, Cmp::Eq, &80u16.to_be_bytes());
    batch.add_rule(TABLE, "pre", &dnat.nat(Nat::Dnat, ip("10.0.0.2"), Some(8080)).comment("to the pod"));
    batch.add_rule(
        TABLE,
        "pre",
        &Rule::new().nfproto(Family::Ip6).l4proto(Cmp::Eq, 17).nat(Nat::Dnat, ip("fd00::2"), None),
    );
    let known = ct_state::ESTABLISHED | ct_state::RELATED;
    batch.add_rule(TABLE, "fwd", &Rule::new().ct_state(known).counter().accept());
    batch.add_rule(TABLE, "fwd", &Rule::new().iifname("lan").verdict(Verdict::Jump("more".to_owned())));
    batch.add_rule(TABLE, "more", &Rule::new().l4proto(Cmp::Eq, 6).expr(Expr::Reject(Reject::TcpReset)));
    batch.add_rule(TABLE, "more", &Rule::new().expr(Expr::Reject(Reject::AdminProhibited)));
    batch.add_rule(
        TABLE,
        "more",
        &Rule::new().expr(Expr::Numgen { reg: 0, modulus: 2, random: true }).verdict(Verdict::Return),
    );
}

#[test]
fn a_router_is_installed_and_read_back() {
    if !in_fresh_namespaces("a_router_is_installed_and_read_back") {
        return;
    }
    let mut nft = Nft::open().unwrap();
    let before = nft.generation().unwrap();
    for _ in 0..2 {
        let mut batch = Batch::new();
        router(&mut batch);
        assert_eq!(nft.commit(&batch).unwrap().transactions, 1);
    }
    assert_ne!(nft.generation().unwrap(), before);
    let chains = nft.chains(TABLE).unwrap();
    let fwd = chains.iter().find(|chain| chain.name == "fwd").unwrap();
    assert_eq!((fwd.kind.as_deref(), fwd.hook, fwd.drop), (Some("filter"), Some((2, 0)), true));
    let rules = nft.rules(TABLE).unwrap();
    let count = |chain| rules.iter().filter(|rule| rule.chain == chain).count();
    assert_eq!((count("post"), count("pre"), count("fwd"), count("more")), (4, 2, 2, 3));
    let pre = rules.iter().find(|rule| rule.chain == "pre").unwrap();
    assert_eq!(pre.comment.as_deref(), Some("to the pod"));
    assert_eq!(
        pre.expressions,
        ["meta", "cmp", "meta", "cmp", "payload", "cmp", "immediate", "immediate", "nat"]
    );
    let mut batch = Batch::new();
    batch.delete_rule(TABLE, "pre", pre.handle);
    batch.flush_chain(TABLE, "more");
    nft.commit(&batch).unwrap();
    assert_eq!(nft.rules(TABLE).unwrap().len(), 7);
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    nft.commit(&batch).unwrap();
    assert!(nft.tables().unwrap().is_empty());
    assert!(nft.commit(&batch).unwrap_err().is_missing());
}

#[test]
fn a_refused_batch_changes_nothing_and_names_the_step() {
    if !in_fresh_namespaces("a_refused_batch_changes_nothing_and_names_the_step") {
        return;
    }
    let mut nft = Nft::open().unwrap();
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_chain(TABLE, Chain { name: "c", base: None });
    let missing = Expr::Lookup { set: "absent".to_owned(), reg: 0, invert: false, value: None };
    batch.add_rule(TABLE, "c", &Rule::new().l4proto(Cmp::Eq, 6).expr(missing).comment("needs a set"));
    let error = nft.commit(&batch).unwrap_err();
    assert!(error.to_string().contains("add rule to c (needs a set)"), "{error}");
    assert!(error.is_missing(), "{error}");
    let NetlinkError::Refused { expression, .. } = &error else { panic!("{error}") };
    assert_eq!(expression.as_deref(), Some("lookup"));
    assert!(nft.tables().unwrap().is_empty());
    // The socket is in order after a failure.
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    nft.commit(&batch).unwrap();
    assert_eq!(nft.tables().unwrap().len(), 1);
}

#[test]
fn many_elements_are_added_read_and_deleted() {
    if !in_fresh_namespaces("many_elements_are_added_read_and_deleted") {
        return;
    }
    const COUNT: u32 = 30_000;
    let mut nft = Nft::open().unwrap();
    let key = [KeyType::Ipv6Addr, KeyType::InetProto, KeyType::InetService];
    let element = |n: u32| {
        let addr = std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n));
        Element::concat(&[&addr.octets(), &[6], &80u16.to_be_bytes()])
    };
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_set(TABLE, Set { name: "frontends", key: &key, data: &[] });
    batch.add_set(TABLE, Set { name: "marks", key: &[KeyType::Ipv4Addr], data: &[KeyType::Mark] });
    let mark = Element::single(&[10, 0, 0, 1]).value(7u32.to_ne_bytes().to_vec());
    batch.add_elements(TABLE, "marks", [mark.clone()]);
    batch.add_elements(TABLE, "frontends", (0..COUNT).map(element));
    let committed = nft.commit(&batch).unwrap();
    println!("{COUNT} elements: {committed:?}");
    assert_eq!(nft.elements(TABLE, "marks").unwrap(), [mark]);
    let settled = |nft: &mut Nft, expected: Vec<Element>| {
        // The kernel resizes the set in the background, and a dump meanwhile is not exact.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut read = nft.elements(TABLE, "frontends").unwrap();
            read.sort();
            if read == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{} elements of {}", read.len(), expected.len());
        }
    };
    settled(&mut nft, (0..COUNT).map(element).collect());
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, "frontends", (1..COUNT).map(element));
    nft.commit(&batch).unwrap();
    settled(&mut nft, vec![element(0)]);
    assert_eq!(nft.sets(TABLE).unwrap().len(), 2);
}
