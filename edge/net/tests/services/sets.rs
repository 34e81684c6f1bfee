use std::time::Duration;

use edgemesh_net::netlink::nft::{
    Base, BaseChain, Batch, Chain, ChainKind, Data, Element, Family, Hook, KeyType, Learned, Nft, Set,
    SetOptions, Table, Verdict, prefixes,
};
use edgemesh_net::netlink::rt::Prefix;
use edgemesh_net::netns::in_fresh_namespaces;

use crate::lan::{NETS, TABLE, commit, ip, octets};

/// Adds the set with all elements, reads them back, deletes some and reads again. `keep` stay.
#[track_caller]
fn check(set: Set<'_>, options: SetOptions, keep: &[Element], go: &[Element]) {
    let mut nft = Nft::open().expect("nftables");
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_chain(TABLE, Chain { name: "backends", base: None });
    batch.add_set_with(TABLE, set, options);
    batch.add_elements(TABLE, set.name, keep.iter().chain(go).cloned());
    nft.commit(&batch).unwrap_or_else(|error| panic!("{set:?}: {error}"));
    let mut read = |expected: Vec<&Element>| {
        let mut read = nft.elements(TABLE, set.name).expect("elements");
        read.sort();
        let mut expected: Vec<Element> = expected.into_iter().cloned().collect();
        expected.sort();
        assert_eq!(read, expected, "{set:?}");
    };
    read(keep.iter().chain(go).collect());
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, set.name, go.iter().cloned());
    commit(&batch);
    read(keep.iter().collect());
    let mut nft = Nft::open().expect("nftables");
    let [state] = &nft.sets(TABLE).expect("sets")[..] else { panic!("one set") };
    assert_eq!(state.is_learned(), options.learned.is_some());
    assert_eq!(state.data_type == Some(0xffff_ff00), options.verdicts);
    assert_eq!(state.size, options.learned.map(|learned| learned.size));
    assert_eq!(state.timeout, options.learned.and_then(|learned| learned.timeout));
}

#[test]
fn sets_and_maps_of_every_kind_are_written_read_and_deleted() {
    if !in_fresh_namespaces("sets::sets_and_maps_of_every_kind_are_written_read_and_deleted") {
        return;
    }
    let plain = SetOptions::default();
    let verdicts = SetOptions { verdicts: true, ..plain };
    let interval = SetOptions { interval: true, ..plain };
    for net in NETS {
        let frontend = [net.address(), KeyType::InetProto, KeyType::InetService];
        let map = Set { name: "map", key: &frontend, data: &[net.address(), KeyType::InetService] };
        let values = |port| net.frontend(port).value(net.backend(port));
        check(map, plain, &[values(1), values(2)], &[values(3)]);
        // A value that is shorter than a register.
        let ports = Set { name: "ports", key: &frontend, data: &[KeyType::InetService] };
        check(ports, plain, &[net.frontend(1).value(vec![0, 80])], &[]);

        let set = Set { name: "frontends", key: &frontend, data: &[] };
        let keep = [
            net.frontend(1).verdict(Verdict::Goto("backends".to_owned())),
            net.frontend(2).verdict(Verdict::Jump("backends".to_owned())),
            net.frontend(3).verdict(Verdict::Drop),
            net.frontend(4).verdict(Verdict::Accept),
        ];
        let go = [
            net.frontend(5).verdict(Verdict::Return),
            net.frontend(6).verdict(Verdict::Goto("backends".to_owned())),
        ];
        check(set, verdicts, &keep, &go);

        let half = |first: &str| prefixes([Prefix::new(ip(first), 9)]);
        let (lower, upper, last) = match net.family {
            Family::Ip => ("10.0.0.0", "10.128.0.0", "255.128.0.0"),
            _ => ("fd00::", "fd80::", "ff80::"),
        };
        let ranges = Set { name: "ranges", key: &[net.address()], data: &[] };
        check(ranges, interval, &[half(lower), half(last)].concat(), &half(upper));
        check(ranges, interval, &half(lower), &[half(upper), half(last)].concat());
        check(ranges, interval, &prefixes([Prefix::default_of(ip(net.vip))]), &[]);

        let key = [net.address(), KeyType::InetProto, KeyType::InetService, net.address()];
        let allowed = Set { name: "allowed", key: &key, data: &[] };
        let range = |port: u16, prefix: Prefix| {
            let (first, last) = prefix.bounds();
            let parts = [octets(net.vip), vec![17], port.to_be_bytes().to_vec()];
            let all = |last: std::net::IpAddr| [&parts[..], &[octets(&last.to_string())]].concat();
            let (first, last) = (all(first), all(last));
            let slices =
                |parts: &'_ [Vec<u8>]| Element::concat(&parts.iter().map(|it| &it[..]).collect::<Vec<_>>());
            Element { key_end: Some(slices(&last).key), ..slices(&first) }
        };
        let everybody = Prefix::default_of(ip(net.vip));
        let keep = [range(1, Prefix::new(ip(lower), 9)), range(2, everybody)];
        check(allowed, interval, &keep, &[range(1, Prefix::new(ip(upper), 9))]);
        // A range of a map of verdicts.
        let keep = keep.map(|element| element.verdict(Verdict::Accept));
        check(allowed, SetOptions { verdicts: true, ..interval }, &keep, &[]);
    }
}

#[test]
fn an_element_of_its_own_time_is_told_apart() {
    if !in_fresh_namespaces("sets::an_element_of_its_own_time_is_told_apart") {
        return;
    }
    let hour = Duration::from_secs(3600);
    let learned = Some(Learned { size: 10, timeout: Some(hour) });
    let set = Set { name: "learned", key: &[KeyType::Ipv4Addr], data: &[] };
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_set_with(TABLE, set, SetOptions { learned, ..SetOptions::default() });
    batch.add_set(TABLE, Set { name: "written", ..set });
    let own = Element { timeout: Some(2 * hour), ..Element::single(&[10, 0, 0, 1]) };
    let of_the_set = Element::single(&[10, 0, 0, 2]);
    batch.add_elements(TABLE, "learned", [own.clone(), of_the_set.clone()]);
    batch.add_elements(TABLE, "written", [of_the_set.clone()]);
    commit(&batch);
    let mut nft = Nft::open().unwrap();
    let mut read = nft.elements(TABLE, "learned").unwrap();
    read.sort();
    assert_eq!(read.iter().map(|it| &it.key).collect::<Vec<_>>(), [&own.key, &of_the_set.key]);
    assert!(read.iter().all(Element::is_temporary), "{read:?}");
    assert_eq!(read[0].timeout, Some(2 * hour));
    assert!(read[0].expires.is_some_and(|left| left > hour), "{read:?}");
    assert!(read[1].expires.is_some_and(|left| left <= hour), "{read:?}");
    assert_eq!(nft.elements(TABLE, "written").unwrap(), [of_the_set]);
}

#[test]
fn elements_of_long_chain_names_are_split_into_messages() {
    if !in_fresh_namespaces("sets::elements_of_long_chain_names_are_split_into_messages") {
        return;
    }
    let chain = "c".repeat(200);
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_chain(TABLE, Chain { name: &chain, base: None });
    let key = [KeyType::Ipv6Addr, KeyType::InetProto, KeyType::InetService, KeyType::Ipv6Addr];
    batch.add_verdict_map(TABLE, Set { name: "map", key: &key, data: &[] });
    let elements = (0..2000u128).map(|n| {
        let parts = [n.to_be_bytes().to_vec(), vec![6], vec![0, 80], n.to_be_bytes().to_vec()];
        Element::concat(&parts.each_ref().map(|it| &it[..])).verdict(Verdict::Goto(chain.clone()))
    });
    batch.add_elements(TABLE, "map", elements);
    commit(&batch);
    let read = Nft::open().unwrap().elements(TABLE, "map").unwrap();
    assert_eq!(read.len(), 2000);
    assert!(read.iter().all(|it| it.data == Some(Data::Verdict(Verdict::Goto(chain.clone())))));
}

#[test]
fn base_chains_of_all_tables_are_listed() {
    if !in_fresh_namespaces("sets::base_chains_of_all_tables_are_listed") {
        return;
    }
    let mut nft = Nft::open().unwrap();
    assert!(nft.base_chains().unwrap().is_empty());
    let places = [
        (Family::Inet, ChainKind::Filter, Hook::Forward, 0, true),
        (Family::Ip, ChainKind::Nat, Hook::Prerouting, -110, false),
        (Family::Ip6, ChainKind::Route, Hook::Output, -150, false),
    ];
    let mut batch = Batch::new();
    let mut expected = Vec::new();
    for (family, kind, hook, priority, drop) in places {
        let table = Table { family, name: "theirs" };
        batch.add_table(table);
        batch.add_chain(table, Chain { name: "called", base: Some(Base { kind, hook, priority, drop }) });
        batch.add_chain(table, Chain { name: "jumped", base: None });
        expected.push(BaseChain {
            family,
            table: "theirs".to_owned(),
            name: "called".to_owned(),
            kind: kind.as_str().to_owned(),
            hook: hook.code(),
            priority,
            drop,
        });
    }
    nft.commit(&batch).unwrap();
    let mut read = nft.base_chains().unwrap();
    read.sort();
    assert_eq!(read, expected);
}
