//! UDP sessions through the proxy, to backends on this node and through a tunnel.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use edgemesh_api::Protocol::Udp;
use edgemesh_proxy::ProxySettings;
use edgemesh_route::{DialError, Direction, Outcome, RejectReason};
use tokio::net::UdpSocket;

/// The largest payload of UDP over IPv4: 65,535 less the headers.
const LARGEST: usize = 65_507;

async fn check_boundaries(frontend: SocketAddr) {
    let client = udp_client(frontend).await;
    for length in [100, 0, 1, 1_472, 20 * 1024, LARGEST] {
        let payload: Vec<u8> = (0..length).map(|it| (it / 11) as u8).collect();
        assert!(ask(&client, &payload).await == payload, "{length}");
    }
    // Several on the way at the same time stay several.
    for length in [3usize, 0, 2] {
        client.send(&vec![length as u8; length]).await.unwrap();
    }
    let mut got = [reply(&client).await, reply(&client).await, reply(&client).await];
    got.sort();
    assert_eq!(got, [vec![], vec![2; 2], vec![3; 3]]);
}

#[tokio::test]
async fn boundaries_are_kept_to_a_backend_here() {
    let bed = Bed::start(settings());
    check_boundaries(bed.service(2, Udp, &[(udp_backend(b"").await, None)])).await;
}

#[tokio::test]
async fn boundaries_are_kept_through_a_tunnel() {
    let bed = Bed::start(settings());
    let (_remote, far) = bed.lead_to_remote(settings());
    let backend = udp_backend(b"").await;
    let frontend = bed.service(2, Udp, &[(backend, Some("there"))]);
    check_boundaries(frontend).await;
    bed.shutdown.cancel();
    let near = bed.observe.next().await;
    assert_eq!((near.outcome, near.backend), (Outcome::Drained, Some(backend)));
    let bytes = (100 + 1 + 1_472 + 20 * 1024 + LARGEST + 5) as u64;
    assert_eq!((near.sent, near.received), (bytes, bytes));
    let far = far.next().await;
    assert_eq!((far.direction, far.outcome), (Direction::Inbound, Outcome::Closed));
    assert_eq!((far.sent, far.received), (bytes, bytes));
}

#[tokio::test]
async fn ipv6_frontends_and_mixed_families_are_served() {
    let (v4, v6) = (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv6Addr::LOCALHOST);
    let bed = Bed::start(ProxySettings { listen: vec![v4.into(), v6.into()], ..settings() });
    let backend = udp_backend(b"").await;
    let frontend = (v6, bed.port).into();
    bed.service_at(frontend, Udp, &[(backend, None)]);
    let client = udp_client(frontend).await;
    assert_eq!(ask(&client, b"six").await, b"six");
}

#[tokio::test]
async fn clients_and_frontends_never_mix() {
    let bed = Bed::start(settings());
    let (_remote, _far) = bed.lead_to_remote(settings());
    let frontends = [
        bed.service(2, Udp, &[(udp_backend(b"a").await, None)]),
        bed.service(3, Udp, &[(udp_backend(b"b").await, None)]),
        bed.service(4, Udp, &[(udp_backend(b"c").await, Some("there"))]),
    ];
    let mut asking = Vec::new();
    for number in 0..30u8 {
        let frontend = frontends[usize::from(number % 3)];
        let client = udp_client(frontend).await;
        asking.push(tokio::spawn(async move {
            for round in 0..20 {
                let expected = [b'a' + number % 3, number, round];
                assert_eq!(ask(&client, &expected[1..]).await, expected);
            }
        }));
    }
    for asking in asking {
        asking.await.unwrap();
    }
}

/// One client port that talks to two frontends has two sessions.
#[tokio::test]
async fn one_client_may_use_several_frontends() {
    let bed = Bed::start(settings());
    let a = bed.service(2, Udp, &[(udp_backend(b"a").await, None)]);
    let b = bed.service(3, Udp, &[(udp_backend(b"b").await, None)]);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (frontend, expected) in [(a, b"a1"), (b, b"b1"), (a, b"a1")] {
        client.send_to(b"1", frontend).await.unwrap();
        let mut got = [0; 10];
        let (length, from) = within("a reply", client.recv_from(&mut got)).await.unwrap();
        assert_eq!((&got[..length], from), (&expected[..], frontend));
    }
}

#[tokio::test]
async fn a_refusing_backend_ends_the_session_and_the_next_datagram_goes_elsewhere() {
    let bed = Bed::start(settings());
    let (_remote, _far) = bed.lead_to_remote(settings());
    let refusing = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    let good = udp_backend(b"").await;
    for (last, node) in [(2, None), (3, Some("there"))] {
        let frontend = bed.service(last, Udp, &[(refusing, node)]);
        let client = udp_client(frontend).await;
        client.send(b"lost").await.unwrap();
        // The ICMP error, or the end of the stream, ends the session.
        let access = bed.observe.next().await;
        assert_eq!((access.backend, access.received), (Some(refusing), 0), "{access:?}");
        assert!(
            matches!(access.outcome, Outcome::Failed(DialError::Refused) | Outcome::Closed),
            "{access:?}"
        );
        bed.service(last, Udp, &[(refusing, node), (good, node)]);
        assert_eq!(ask(&client, b"found").await, b"found");
    }
}

#[tokio::test]
async fn the_oldest_session_goes_when_the_table_is_full() {
    let bed = Bed::start(ProxySettings { max_sessions: 2, ..settings() });
    let frontend = bed.service(2, Udp, &[(udp_backend(b"").await, None)]);
    let clients = [udp_client(frontend).await, udp_client(frontend).await, udp_client(frontend).await];
    ask(&clients[0], b"0").await;
    ask(&clients[1], b"1").await;
    ask(&clients[0], b"0").await;
    ask(&clients[2], b"2").await;
    let access = bed.observe.next().await;
    assert_eq!(access.outcome, Outcome::Evicted);
    assert_eq!(access.client, clients[1].local_addr().unwrap().to_string());
    assert_eq!(bed.counters.sessions_evicted(), 1);
    // It may come back at once.
    assert_eq!(ask(&clients[1], b"1").await, b"1");
}

#[tokio::test]
async fn idle_sessions_are_forgotten() {
    for node in [None, Some("there")] {
        let bed = Bed::start(ProxySettings { udp_idle: Duration::from_millis(100), ..settings() });
        let (_remote, _far) = bed.lead_to_remote(settings());
        let frontend = bed.service(2, Udp, &[(udp_backend(b"").await, node)]);
        let client = udp_client(frontend).await;
        ask(&client, b"x").await;
        let access = bed.observe.next().await;
        assert_eq!((access.outcome, access.sent, access.received), (Outcome::Idle, 1, 1));
        assert_eq!(ask(&client, b"y").await, b"y");
    }
}

#[tokio::test]
async fn what_has_no_target_is_counted_and_told_once() {
    let bed = Bed::start(settings());
    let frontend = bed.service(2, Udp, &[]);
    let client = udp_client(frontend).await;
    for _ in 0..10 {
        client.send(b"x").await.unwrap();
    }
    let access = bed.observe.next().await;
    assert_eq!(access.outcome, Outcome::Rejected(RejectReason::NoEndpoints));
    let good = bed.service(3, Udp, &[(udp_backend(b"").await, None)]);
    // Datagrams of one socket are handled in their order: all ten are through when this one is.
    client.connect(good).await.unwrap();
    ask(&client, b"x").await;
    assert_eq!(bed.counters.datagrams_rejected(), 10);
}

#[tokio::test]
async fn a_path_that_never_opens_costs_the_others_nothing() {
    let bed = Bed::start(settings());
    bed.lead(|_, _| Box::pin(std::future::pending()));
    let stuck = bed.service(2, Udp, &[(udp_backend(b"").await, Some("there"))]);
    let good = bed.service(3, Udp, &[(udp_backend(b"").await, None)]);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let other = udp_client(good).await;
    for _ in 0..200 {
        client.send_to(&[1; 10_000], stuck).await.unwrap();
        assert_eq!(ask(&other, b"still").await, b"still");
    }
    // 25 of this size fill the session's 256 KiB; the first is on its way, and the others were dropped.
    assert_eq!(bed.counters.datagrams_dropped(), 200 - 1 - 26);
}

#[tokio::test]
async fn datagrams_sent_while_the_path_opens_arrive_in_order() {
    let bed = Bed::start(settings());
    let (remote, _far) = bed.lead_to_remote(settings());
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let opened = gate.clone();
    bed.lead(move |target, first| {
        let (remote, gate) = (remote.clone(), gate.clone());
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            call(remote, target, first).await
        })
    });
    let frontend = bed.service(2, Udp, &[(udp_backend(b"").await, Some("there"))]);
    let client = udp_client(frontend).await;
    for number in 0..20u8 {
        client.send(&[number]).await.unwrap();
    }
    opened.add_permits(1);
    let mut got = BTreeSet::new();
    for _ in 0..20 {
        got.insert(reply(&client).await[0]);
    }
    assert_eq!(got, (0..20).collect());
}
