//! Frontends that clients outside the cluster know: node ports, external and load-balancer addresses.

use std::net::IpAddr;

use crate::fixture::{compile, scene};
use crate::kernel::words;

const HOST: &str = "host 127.0.0.1\nhost ::1\nhost fe80::5\nhost 192.0.2.5\nhost 2001:db8::5\n\
                    route 10.244.1.0/24 pods\nroute fd00:244::/64 pods\n";
const HERE: &str = "ep 10.244.1.2:80 @here\nep [fd00:244::2]:80 @here\n";
const THERE: &str = "path there relayed\n";

/// The lines of a Service, but for those of its cluster address.
#[track_caller]
fn check(facts: &str, service: &str, expected: &str) {
    let words = words(&compile(&format!("{HOST}{facts}svc web 10.96.0.1 {service}")));
    let lines: Vec<&str> = words.lines().filter(|line| !line.contains("10.96.0.1")).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, expected);
}

#[test]
fn node_ports_are_open_at_the_addresses_of_the_host() {
    check(
        "",
        &format!("\nport 80/tcp 30080\n{HERE}"),
        "kernel 192.0.2.5:30080/tcp -> 10.244.1.2:80/pod
         kernel [2001:db8::5]:30080/tcp -> [fd00:244::2]:80/pod",
    );
    let mut chosen = scene(&format!("{HOST}svc web 10.96.0.1\nport 80/tcp 30080\n{HERE}"));
    chosen.settings.node_port_addresses = vec!["2001:db8::/64".parse().expect("a range")];
    let chosen = chosen.compile();
    let open: Vec<IpAddr> = chosen.frontends.keys().filter(|it| it.port == 30_080).map(|it| it.ip).collect();
    assert_eq!(open, ["2001:db8::5".parse::<IpAddr>().expect("an address")]);
}

#[test]
fn a_node_port_without_endpoints_is_refused_and_the_host_s_other_ports_are_not() {
    let rejected = "reject 192.0.2.5:30080/tcp\nreject [2001:db8::5]:30080/tcp";
    check("", "\nport 80/tcp 30080", rejected);
    let vips = compile(&format!("{HOST}svc web 10.96.0.1\nport 80/tcp 30080")).vips;
    assert_eq!(vips.len(), 1, "the host's addresses are no virtual ones: {vips:?}");
}

#[test]
fn outer_addresses_lead_where_the_cluster_address_leads() {
    check(
        "",
        &format!("external=198.51.100.1 lb=198.51.100.2\nport 80/tcp\n{HERE}"),
        "kernel 198.51.100.1:80/tcp -> 10.244.1.2:80/pod
         kernel 198.51.100.2:80/tcp -> 10.244.1.2:80/pod
         vip 198.51.100.1
         vip 198.51.100.2",
    );
}

/// kube-proxy takes the ports of a Service at an address that the node has itself, and leaves the others alone.
#[test]
fn an_external_address_may_be_the_host_s_own() {
    check(
        "",
        &format!("external=192.0.2.5\nport 80/tcp\n{HERE}"),
        "kernel 192.0.2.5:80/tcp -> 10.244.1.2:80/pod",
    );
    check("", "external=192.0.2.5\nport 80/tcp", "reject 192.0.2.5:80/tcp");
}

#[test]
fn external_policy_local_keeps_to_endpoints_here() {
    let both = "ep 10.244.1.2:80 @here\nep 10.244.2.2:80 @there\n";
    check(
        THERE,
        &format!("lb=198.51.100.2 outlocal\nport 80/tcp 30080\n{both}"),
        "kernel 192.0.2.5:30080/tcp -> 10.244.1.2:80/pod, from inside to the listener
         kernel 198.51.100.2:80/tcp -> 10.244.1.2:80/pod, from inside to the listener
         proxy [2001:db8::5]:30080/tcp
         vip 198.51.100.2",
    );
    check(
        THERE,
        "lb=198.51.100.2 outlocal\nport 80/tcp\nep 10.244.2.2:80 @there",
        "drop 198.51.100.2:80/tcp, from inside to the listener
         vip 198.51.100.2",
    );
    check(
        THERE,
        "lb=198.51.100.2 outlocal\nport 80/tcp\nep 10.244.1.2:80 @here",
        "kernel 198.51.100.2:80/tcp -> 10.244.1.2:80/pod
         vip 198.51.100.2",
    );
}

#[test]
fn source_ranges_are_for_load_balancer_addresses() {
    let ruleset = compile(&format!(
        "{HOST}svc web 10.96.0.1 lb=198.51.100.2,2001:db8::2 from=203.0.113.0/24,2001:db8:1::/48\nport 80/tcp\n{HERE}"
    ));
    let restricted: Vec<String> = ruleset
        .members()
        .iter()
        .map(|member| format!("{member:?}"))
        .filter(|text| text.starts_with("Restricted") || text.starts_with("Allowed"))
        .collect();
    assert_eq!(
        restricted,
        [
            "Allowed(198.51.100.2:80/tcp, 203.0.113.0/24)",
            "Allowed([2001:db8::2]:80/tcp, 2001:db8:1::/48)",
            "Restricted(198.51.100.2:80/tcp)",
            "Restricted([2001:db8::2]:80/tcp)",
        ]
    );
    let prerouting = ruleset.chains.iter().find(|it| it.name == "prerouting").expect("a chain");
    assert_eq!(prerouting.rules.len(), 2, "one rule for each family: {prerouting:?}");
}
