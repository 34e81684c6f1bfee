//! Site files: what is read, and what is refused with which words.

use std::time::Duration;

use edgemesh_lab::plan::Plan;
use edgemesh_lab::site::{Filtering, Lan, Mapping, Site, Unsolicited, keys_of};
use edgemesh_tunnel_proto::NatKind;

#[test]
fn everything_is_read() {
    let text = "
seed: 7
cloud: { nodes: [{ name: c1, relay: true }] }
lans:
  - name: home
    subnet4: 192.168.7.0/24
    nat: { mapping: symmetric, unsolicited: reset }
    uplink: { delay: 20ms, loss: 1.5%, rate: 20mbit }
    nodes:
      - name: n1
        pods:
          - { name: p1, labels: { app: web }, run: [sleep, '1'] }
          - { name: p2, ip: 172.17.0.2 }
          - { name: p3 }
";
    let site = Site::parse(text, "site.yaml").expect("valid");
    let lan = &site.lans[0];
    assert_eq!(lan.nat.mapping, Mapping::AddressAndPortDependent);
    assert_eq!(lan.nat.filtering, Filtering::AddressAndPortDependent);
    assert_eq!(lan.nat.unsolicited, Unsolicited::Reset);
    assert_eq!((lan.uplink.delay, lan.uplink.rate), (Duration::from_millis(20), Some(20_000_000)));
    assert!((lan.uplink.loss - 0.015).abs() < 1e-9);

    let plan = Plan::new(&site).expect("fits");
    let node = plan.node("n1").expect("planned");
    assert_eq!(node.addresses.v4.to_string(), "192.168.7.11/24");
    assert_eq!(plan.zone(node), "home");
    let pods: Vec<_> = plan.pods().map(|(_, pod)| pod.addresses.v4.addr().to_string()).collect();
    assert_eq!(pods, ["172.17.0.3", "172.17.0.2", "172.17.0.4"], "given addresses are kept free");
    assert_eq!(plan.node("c1").expect("planned").addresses.v4.to_string(), "203.0.113.10/24");
}

#[test]
fn every_kind_of_nat_has_its_keys() {
    let lans = NatKind::ALL.map(|kind| {
        let text = format!("lans: [{{ name: a, {} }}]", keys_of(kind));
        let site = Site::parse(&text, "site.yaml").unwrap_or_else(|error| panic!("{text}: {error}"));
        let Lan { nat, carrier, outbound, .. } = site.lans[0].clone();
        (nat, carrier, outbound)
    });
    for (number, lan) in lans.iter().enumerate() {
        assert!(!lans[..number].contains(lan), "two kinds are one: {lan:?}");
    }
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        ("lans:\n  - name: a\n    subnet: 10.0.0.0/8\n", &["subnet", "line 3"][..]),
        ("lans:\n  - name: a\n    nat: { mapping: conical }\n", &["conical", "line 3"]),
        ("lans:\n  - name: a\n    uplink: { delay: 20 }\n", &["a time needs a unit", "line 3"]),
        ("lans:\n  - name: a\n    uplink: { loss: 120% }\n", &["between 0 and 1", "line 3"]),
        ("lans:\n  - name: a\n    uplink: { rate: 10 }\n", &["a rate needs a unit", "line 3"]),
        ("lans: [{ name: a }, { name: a }]", &["\"a\" is used twice"]),
        ("lans: [{ name: a/b }]", &["\"a/b\"", "are allowed"]),
        (
            "lans: [{ name: a, nat: { mapping: symmetric, filtering: endpoint-independent } }]",
            &["needs mapping endpoint-independent"],
        ),
        (
            "lans: [{ name: a, carrier: { mapping: symmetric, filtering: address-dependent } }]",
            &["filtering address-dependent needs mapping endpoint-independent"],
        ),
        ("lans: [{ name: a, nat: { mapping: none }, carrier: {} }]", &["both routers translate"]),
        ("lans: [{ name: a, routed6: true, carrier: {} }]", &["passes no IPv6"]),
        ("lans: [{ name: a, outbound: http }]", &["http"]),
    ] {
        let error = Site::parse(text, "site.yaml").expect_err(text).to_string();
        for part in expected {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn addresses_that_do_not_fit_are_refused() {
    for (text, expected) in [
        (
            "lans: [{ name: a, nodes: [{ name: n, pods: [{ name: p, ip: 10.9.9.9 }] }] }]",
            "no IPv4 address of",
        ),
        ("lans: [{ name: a, subnet4: 10.0.0.0/29, nodes: [{ name: n }] }]", "no host number 11"),
    ] {
        let site = Site::parse(text, "site.yaml").expect("well-formed");
        let error = Plan::new(&site).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
