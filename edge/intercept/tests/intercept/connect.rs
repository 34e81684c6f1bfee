//! Sockets that connect to an endpoint at once.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use edgemesh_net::netlink::nft::{Batch, Family, Nft, Table};
use edgemesh_net::netns::in_fresh_namespaces;

use crate::kernel::{Svc, install_for_sockets};
use crate::translated::{Stage, serve, tcp, udp};

const OURS: Table<'static> = Table { family: Family::Inet, name: "edgemesh" };
const VIPS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
const PODS: [[&str; 2]; 2] = [
    ["10.244.0.2:8080@here", "[fd00:244::2]:8080@here"],
    ["10.244.0.3:8080@here", "[fd00:244::3]:8080@here"],
];

/// A Service at both addresses, of both protocols, with these endpoints.
fn web(pods: &[[&str; 2]]) -> Vec<Svc> {
    let of = |family: usize| -> Vec<&str> { pods.iter().map(|pod| pod[family]).collect() };
    let protocols =
        |protocol: &str| [0, 1].map(|family| Svc::new(&format!("{}/{protocol}", VIPS[family]), &of(family)));
    [protocols("tcp"), protocols("udp")].into_iter().flatten().collect()
}

fn no_rules() {
    let mut batch = Batch::new();
    batch.delete_table(OURS);
    Nft::open().expect("nftables").commit(&batch).expect("deleted");
}

/// The peer that the kernel names to a client.
fn peer(vip: &str) -> SocketAddr {
    let vip: SocketAddr = vip.parse().expect("an address");
    TcpStream::connect_timeout(&vip, Duration::from_secs(10)).expect("connected").peer_addr().expect("a peer")
}

/// Without the rules nothing but the programs could lead anywhere.
#[test]
fn sockets_of_the_host_reach_endpoints_without_translation() {
    if !in_fresh_namespaces("connect::sockets_of_the_host_reach_endpoints_without_translation") {
        return;
    }
    let interceptor = match install_for_sockets() {
        Ok(interceptor) => interceptor,
        Err(why) => return println!("not tried: {why}"),
    };
    let mut stage = Stage::with(interceptor);
    let pods = [stage.pod(2), stage.pod(3)];
    pods.iter().for_each(|pod| serve(pod, 8080));
    stage.apply(&web(&PODS[..1]));
    assert_eq!(stage.interceptor.connect_rewrite(), Ok(2));
    no_rules();
    for vip in VIPS {
        assert_eq!(tcp(None, vip).unwrap_or_else(|error| panic!("{vip}: {error}")).0, 2);
        assert_eq!(peer(vip), vip.parse().expect("an address"));
        assert!(tcp(Some(&pods[1]), vip).is_err(), "another network namespace has the rules only");
        assert!(udp(None, vip).is_err(), "UDP has the rules only");
    }
    let mapped = "[::ffff:10.96.0.1]:80";
    assert_eq!(tcp(None, mapped).expect("by an IPv6 socket").0, 2);
    assert_eq!(peer(mapped), mapped.parse().expect("an address"));
    // Another endpoint, both, none; the rules come back with each.
    for (now, expected) in [(&PODS[1..], &[3][..]), (&PODS[..], &[2, 3])] {
        stage.apply(&web(now));
        no_rules();
        for vip in VIPS {
            // Sixty-four times the same of two by lot is as likely as never.
            let mut seen: Vec<u16> = (0..64).map(|_| tcp(None, vip).expect("from the host").0).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, expected);
        }
    }
    stage.apply(&web(&[]));
    assert_eq!(stage.interceptor.connect_rewrite(), Ok(0));
    for vip in VIPS {
        assert!(tcp(None, vip).is_err(), "nobody is behind it");
    }
}

/// Programs end with the agent, the rules stay: whoever connects then is translated.
#[test]
fn without_the_agent_the_rules_take_over() {
    if !in_fresh_namespaces("connect::without_the_agent_the_rules_take_over") {
        return;
    }
    let interceptor = match install_for_sockets() {
        Ok(interceptor) => interceptor,
        Err(why) => return println!("not tried: {why}"),
    };
    let mut stage = Stage::with(interceptor);
    let server = stage.pod(2);
    serve(&server, 8080);
    stage.apply(&web(&PODS[..1]));
    stage.interceptor.leave();
    for vip in VIPS {
        assert_eq!(tcp(None, vip).expect("translated").0, 2);
    }
    no_rules();
    for vip in VIPS {
        assert!(tcp(None, vip).is_err(), "nothing else leads there");
    }
}
