use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use edgemesh_intercept::{Change, Interceptor};
use edgemesh_mesh::HostFacts;
use edgemesh_net::netlink::nft::{Family, Nft, Table};
use edgemesh_net::netlink::rt::{Handle, Prefix};
use edgemesh_net::netns::in_fresh_namespaces;
use edgemesh_ruleset::{ADDRESS_V4, Ruleset, RulesetSettings, render};

use crate::kernel::{assert_same, install, ip, ruleset, state, tool};

const OURS: Table<'static> = Table { family: Family::Inet, name: "edgemesh" };
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../core/ruleset/tests/ruleset/golden");

const DUAL: [&str; 4] =
    ["10.96.0.1:80/tcp", "10.96.0.1:53/udp", "[fd00:96::1]:80/tcp", "[fd00:96::1]:53/udp"];

/// The ruleset of the golden `dual.nft`.
fn dual() -> Ruleset {
    ruleset(&RulesetSettings::default(), &DUAL, &["10.96.0.2"])
}

#[test]
fn goldens_load_and_mean_what_we_send() {
    if !in_fresh_namespaces("rules::goldens_load_and_mean_what_we_send") {
        return;
    }
    let golden = std::fs::read_to_string(format!("{GOLDENS}/dual.nft")).expect("the golden");
    assert_eq!(render::nft(&dual()), golden);
    if tool("nft --version").is_none() {
        println!("nft is not installed: the goldens are not loaded");
        return;
    }
    for golden in std::fs::read_dir(GOLDENS).expect("goldens") {
        let path = golden.expect("a golden").path();
        if path.extension().is_none_or(|kind| kind != "nft") {
            continue;
        }
        tool(&format!("nft -f {}", path.display())).expect("nft");
    }
    tool(&format!("nft -f {GOLDENS}/dual.nft")).expect("nft");
    let loaded = tool("nft list ruleset").expect("nft");
    let mut interceptor = install();
    interceptor.apply(&dual()).expect("applied");
    assert_eq!(sorted(&tool("nft list ruleset").expect("nft")), sorted(&loaded));
}

/// Elements of a set come in the order of its hash, which every set draws anew. nft has no types for slots and
/// registers, and declares those maps by example; numbers of a map that it has not made it shows in another byte order.
fn sorted(listing: &str) -> Vec<String> {
    let mut parts: Vec<String> = listing
        .split(['\n', ','])
        .map(|part| part.trim().trim_start_matches("elements = {").trim_end_matches('}').trim().to_owned())
        .filter(|part| !part.is_empty() && !part.starts_with("typeof ") && !part.starts_with("timeout"))
        .filter(|part| !part.contains(" : goto "))
        .filter(|part| !(part.starts_with("type ") && part.contains(" : ") && !part.ends_with("verdict")))
        .collect();
    parts.sort();
    parts
}

#[test]
fn applying_twice_changes_nothing() {
    if !in_fresh_namespaces("rules::applying_twice_changes_nothing") {
        return;
    }
    let mut interceptor = install();
    let applied = interceptor.apply(&dual()).expect("applied");
    assert_eq!((applied.change, applied.transactions, applied.routes_added), (Change::Replaced, 1, 3));
    assert!(applied.repaired.is_empty() && applied.taken.is_empty(), "{applied:?}");
    let before = state();
    let again = interceptor.apply(&dual()).expect("applied");
    assert_eq!((again.change, again.transactions, again.routes_added), (Change::Unchanged, 0, 0));
    assert_same(&state(), &before);
    assert!(interceptor.verify().expect("verified").is_empty());
    assert_same(&state(), &before);
}

#[test]
fn a_difference_adds_and_deletes_only_itself() {
    if !in_fresh_namespaces("rules::a_difference_adds_and_deletes_only_itself") {
        return;
    }
    let mut interceptor = install();
    let settings = interceptor.settings().clone();
    interceptor.apply(&dual()).expect("applied");
    let before = state();
    let more = ruleset(&settings, &[&DUAL[..], &["10.96.0.3:80/tcp"]].concat(), &["10.96.0.2"]);
    let applied = interceptor.apply(&more).expect("applied");
    assert_eq!((applied.change, applied.transactions), (Change::Updated, 1));
    assert_eq!((applied.routes_added, applied.routes_deleted), (1, 0));
    assert_ne!(state(), before);
    let applied = interceptor.apply(&dual()).expect("applied");
    assert_eq!((applied.change, applied.routes_added, applied.routes_deleted), (Change::Updated, 0, 1));
    assert_eq!(listing(&state()), listing(&before));

    let other = RulesetSettings { port: 15_002, ..settings };
    let empty = Ruleset::empty(&HostFacts::default(), &other);
    let applied = interceptor.apply(&empty).expect("applied");
    assert_eq!((applied.change, applied.routes_deleted), (Change::Updated, 3));
}

/// Without what nft prints in an order that every change draws anew.
fn listing(state: &str) -> Vec<String> {
    sorted(state)
}

#[test]
fn an_address_of_the_host_is_known() {
    if !in_fresh_namespaces("rules::an_address_of_the_host_is_known") {
        return;
    }
    let mut interceptor = install();
    let mut rt = Handle::open().expect("rtnetlink");
    let lo = rt.link("lo").expect("links").expect("lo").index;
    rt.add_address(lo, Prefix::new(ip("192.0.2.7"), 32), false).expect("added");
    let settings = interceptor.settings().clone();
    let addresses = interceptor.facts().expect("facts").addresses;
    assert!(addresses.contains(&ip("192.0.2.7")));
    assert!(addresses.contains(&ip("127.0.0.1")));
    assert!(!addresses.contains(&ADDRESS_V4.into()));
    assert!(settings.ipv6);
    // A ruleset that was compiled before the host got the address does not take it away.
    let applied = interceptor.apply(&ruleset(&settings, &["192.0.2.7:80/tcp"], &[])).expect("applied");
    assert_eq!((applied.taken, applied.routes_added), ([ip("192.0.2.7")].into(), 0));
    let nft = |set| Nft::open().expect("nftables").elements(OURS, set).expect("elements");
    assert!(nft("vips4").is_empty() && nft("proxied4").is_empty(), "the host's own services are not refused");
    // And one that the host gets later is given up at the next check.
    interceptor.apply(&ruleset(&settings, &["192.0.2.8:80/tcp"], &[])).expect("applied");
    assert_eq!(nft("vips4").len(), 1);
    rt.add_address(lo, Prefix::new(ip("192.0.2.8"), 32), false).expect("added");
    assert_eq!(interceptor.verify().expect("verified"), ["the host got the virtual address 192.0.2.8"]);
    assert!(nft("vips4").is_empty() && nft("proxied4").is_empty());
    assert!(interceptor.verify().expect("verified").is_empty());
    interceptor.remove().expect("removed");
    assert!(rt.addresses().expect("addresses").iter().any(|address| address.prefix.addr == ip("192.0.2.7")));
}

#[test]
fn a_host_without_ipv6_gets_ipv4() {
    if !in_fresh_namespaces("rules::a_host_without_ipv6_gets_ipv4") {
        return;
    }
    for scope in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").expect("switched off");
    }
    let mut interceptor = install();
    let settings = interceptor.settings().clone();
    assert!(!settings.ipv6);
    let applied = interceptor.apply(&ruleset(&settings, &["10.96.0.1:80/tcp"], &[])).expect("applied");
    assert_eq!(applied.change, Change::Replaced);
    assert!(interceptor.verify().expect("verified").is_empty());
}

#[test]
fn ten_thousand_services() {
    if !in_fresh_namespaces("rules::ten_thousand_services") {
        return;
    }
    const COUNT: u32 = 10_000;
    let mut interceptor = install();
    let settings = interceptor.settings().clone();
    let vip = |n: u32| Ipv4Addr::from_bits(0x0a60_0000 + n);
    let all: Vec<String> = (0..COUNT).map(|n| format!("{}:80/tcp", vip(n))).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let large = ruleset(&settings, &all, &[]);
    let timed = |interceptor: &mut Interceptor, ruleset: &Ruleset| {
        let start = Instant::now();
        let applied = interceptor.apply(ruleset).expect("applied");
        println!(
            "{} transactions, {} routes: {:?}",
            applied.transactions,
            applied.routes_added,
            start.elapsed()
        );
        applied
    };
    let applied = timed(&mut interceptor, &large);
    assert_eq!((applied.change, applied.routes_added), (Change::Replaced, COUNT as usize));
    assert!(applied.repaired.is_empty(), "{:?}", applied.repaired);
    let one_less = ruleset(&settings, &all[1..], &["10.96.0.0"]);
    assert_eq!(timed(&mut interceptor, &one_less).change, Change::Updated);
    let start = Instant::now();
    assert!(interceptor.verify().expect("verified").is_empty());
    println!("verified: {:?}", start.elapsed());
    let start = Instant::now();
    let report = interceptor.remove().expect("removed");
    println!("{report}: {:?}", start.elapsed());
    assert_eq!(report.routes, COUNT as usize);
    let left: BTreeSet<u8> = Handle::open()
        .expect("rtnetlink")
        .routes(None)
        .expect("routes")
        .iter()
        .map(|route| route.proto)
        .collect();
    assert!(!left.contains(&229), "{left:?}");
}
