use edgemesh_ruleset::{Family, render};

use crate::fixture::compile;

/// The goldens are loaded into a kernel by the tests of `edgemesh-intercept`.
#[track_caller]
fn check(fixture: &str, golden: &str) {
    let ruleset = compile(fixture);
    same(&render::nft(&ruleset), &format!("{golden}.nft"));
    for (family, number) in [(Family::V4, 4), (Family::V6, 6)] {
        same(&render::iptables(&ruleset, family), &format!("{golden}.iptables{number}"));
        same(&render::ipset(&ruleset, family), &format!("{golden}.ipset{number}"));
    }
}

#[track_caller]
fn same(text: &str, golden: &str) {
    let path = format!("{}/tests/ruleset/golden/{golden}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the golden is there; UPDATE_GOLDEN=1 writes it");
    assert_eq!(text, expected);
}

#[test]
fn an_empty_mesh() {
    check("", "empty");
}

#[test]
fn both_families_and_protocols() {
    check(
        "filtered-bridges
         svc web 10.96.0.1,fd00:96::1
         port 80/tcp
         ep 10.1.0.1:8080
         port 53/udp
         ep 10.1.0.1:5353
         svc none 10.96.0.2
         port 80/tcp",
        "dual",
    );
}

#[test]
fn a_node_with_pods() {
    check(
        "host 192.168.1.5
         route 192.168.1.0/24
         route 0.0.0.0/0 gateway
         route 10.244.1.0/24 pods
         route fd00:244:1::/64 pods
         route 10.244.2.0/24 gateway
         range here 10.244.1.0/24
         range there 10.244.2.0/24
         svc web 10.96.0.1,fd00:96::1
         port 80/tcp
         ep 10.244.1.2:8080 @here
         ep 10.244.2.3:8080 @there
         ep 10.244.3.4:8080 @far
         ep [fd00:244:1::2]:8080 @here
         svc dns 10.96.0.10 affinity
         port 53/udp
         ep 10.244.1.3:53 @here",
        "kernel",
    );
}
