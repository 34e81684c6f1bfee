use edgemesh_ruleset::MAX_FRONTENDS;

use crate::fixture::{compile, scene};
use crate::kernel::words;

#[track_caller]
fn check(fixture: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(words(&compile(fixture)), expected.join("\n"));
}

#[track_caller]
fn check_on_host(fixture: &str, host: &[&str], expected: &str) {
    let host: String = host.iter().map(|ip| format!("host {ip}\n")).collect();
    check(&(host + fixture), expected);
}

#[test]
fn every_frontend_with_an_endpoint_in_both_families() {
    check(
        "svc web 10.96.0.1,fd00:96::1
         port 80/tcp
         ep 10.1.0.1:8080
         port 53/udp
         ep 10.1.0.1:5353",
        "proxy 10.96.0.1:53/udp
         proxy 10.96.0.1:80/tcp
         proxy [fd00:96::1]:53/udp
         proxy [fd00:96::1]:80/tcp
         vip 10.96.0.1
         vip fd00:96::1",
    );
}

#[test]
fn without_an_endpoint_to_try_only_the_address_remains() {
    check("svc web 10.96.0.1\nport 80/tcp", "vip 10.96.0.1");
    check("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 notready", "vip 10.96.0.1");
    check("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 leaving", "proxy 10.96.0.1:80/tcp\nvip 10.96.0.1");
    check(
        "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nport 81/tcp",
        "proxy 10.96.0.1:80/tcp\nvip 10.96.0.1",
    );
}

#[test]
fn a_local_service_needs_an_endpoint_here() {
    let fixture = |node| format!("node here\nsvc web 10.96.0.1 local\nport 80/tcp\nep 10.1.0.1:80 @{node}");
    check(&fixture("here"), "proxy 10.96.0.1:80/tcp\nvip 10.96.0.1");
    check(&fixture("there"), "drop 10.96.0.1:80/tcp\nvip 10.96.0.1");
}

#[test]
fn a_frontend_is_no_endpoint() {
    check("svc web 10.96.0.1\nport 80/tcp\nep 10.96.0.1:80", "vip 10.96.0.1");
}

#[test]
fn sctp_is_never_a_frontend() {
    check("svc sig 10.96.0.1\nport 3868/sctp\nep 10.1.0.1:3868", "vip 10.96.0.1");
}

#[test]
fn addresses_of_the_host_are_refused_for_each_service() {
    check_on_host(
        "svc good 10.96.0.1
         port 80/tcp
         ep 10.1.0.1:80
         svc bad 192.168.1.5
         port 80/tcp
         ep 10.1.0.1:80
         port 81/tcp
         ep 10.1.0.1:81",
        &["192.168.1.5"],
        "proxy 10.96.0.1:80/tcp
         vip 10.96.0.1
         Service default/bad: 192.168.1.5 is not intercepted: it is an address of this host; give the Service another",
    );
    check(
        "svc dns 169.254.96.16\nport 53/udp\nep 10.1.0.1:53",
        "Service default/dns: 169.254.96.16 is not intercepted: it is an address of this host; give the Service another",
    );
    for vip in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::1", "ff02::1", "fe80::1"] {
        let fixture = format!("svc odd {vip}\nport 80/tcp\nep 10.1.0.1:80");
        let expected = format!(
            "Service default/odd: {vip} is not intercepted: it is no unicast address that hosts can route"
        );
        check(&fixture, &expected);
    }
}

#[test]
fn every_address_has_a_route_and_ipv4_a_source() {
    let ruleset = compile("svc web 10.96.0.1,fd00:96::1\nport 80/tcp");
    let routes: Vec<String> =
        ruleset.vips.values().map(|route| format!("{} {:?}", route.vip, route.source)).collect();
    assert_eq!(routes, ["10.96.0.1 Some(169.254.96.16)", "fd00:96::1 None"]);
}

#[test]
fn a_host_without_ipv6_gets_no_ipv6_rules() {
    let mut scene = scene("svc web 10.96.0.1,fd00:96::1\nport 80/tcp\nep 10.1.0.1:80");
    scene.settings.ipv6 = false;
    let ruleset = scene.compile();
    assert_eq!(
        words(&ruleset),
        "proxy 10.96.0.1:80/tcp\nvip 10.96.0.1\n\
         Service default/web: fd00:96::1 is not intercepted: IPv6 is switched off on this host"
    );
    let text = edgemesh_ruleset::render::nft(&ruleset);
    assert!(!text.contains("ip6 "), "{text}");
}

#[test]
fn the_table_is_bounded() {
    let mut fixture = String::new();
    for n in 0..=u32::try_from(MAX_FRONTENDS).expect("small") {
        let vip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + n);
        fixture += &format!("svc s{n} {vip}\nport 80/tcp\nep 10.1.0.1:80\n");
    }
    let ruleset = compile(&fixture);
    assert_eq!((ruleset.frontends.len(), ruleset.refused.len()), (MAX_FRONTENDS, 1));
    assert_eq!(ruleset.refused[0].reason.as_str(), "table_full");
}
