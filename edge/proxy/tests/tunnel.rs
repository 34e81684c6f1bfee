//! TCP connections to backends on other nodes, and what peers may reach on this one.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use edgemesh_api::Name;
use edgemesh_api::Protocol::{Sctp, Tcp, Udp};
use edgemesh_mesh::Path;
use edgemesh_net::meet::Connected;
use edgemesh_route::{DialError, Direction, Hop, Outcome, RejectReason, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_connection_goes_to_a_backend_on_another_node_and_half_closes() {
    let bed = Bed::start(settings());
    let (_remote, far) = bed.lead_to_remote(settings());
    let backend = tcp_backend(async |mut stream: TcpStream| {
        stream.write_all(b"welcome ").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let frontend = bed.service(2, Tcp, &[(backend, Some("there"))]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    let body = vec![9; 500_000];
    client.write_all(&body).await.unwrap();
    client.shutdown().await.unwrap();
    let got = read_all(&mut client).await.unwrap();
    assert!(got == [&b"welcome "[..], &body].concat());
    let near = bed.observe.next().await;
    assert_eq!(
        (near.direction, near.path, near.backend),
        (Direction::Outbound, Some(Path::Lan), Some(backend))
    );
    assert_eq!((near.outcome, near.sent, near.received), (Outcome::Closed, 500_000, 500_008));
    let far = far.next().await;
    assert_eq!((far.direction, far.path, far.backend), (Direction::Inbound, Some(Path::Lan), Some(backend)));
    assert_eq!((far.outcome, far.sent, far.received), (Outcome::Closed, 500_000, 500_008));
    assert_eq!(far.client, "here (12D3KooWtest)");
}

#[tokio::test]
async fn the_first_bytes_leave_with_the_header_and_only_once() {
    let mut bed = Bed::bind(settings());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let saw = seen.clone();
    bed.lead(move |target, first| {
        saw.lock().unwrap().push((target.hop, first));
        let (near, mut far) = tokio::io::duplex(1024);
        Box::pin(async move {
            if target.backend.port() == 1 {
                return Err(DialError::NoPath);
            }
            tokio::spawn(async move {
                let mut rest = Vec::new();
                far.read_to_end(&mut rest).await.unwrap();
                far.write_all(&rest).await.unwrap();
            });
            Ok(Connected { stream: Box::new(near), path: Path::Relayed })
        })
    });
    let backend = |port| SocketAddr::from(([10, 0, 0, 1], port));
    let frontend = bed.service(2, Tcp, &[(backend(2), Some("there"))]);
    // The kernel takes the connection and its bytes before the proxy runs.
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"early ").await.unwrap();
    bed.run();
    let there = || Hop::Node(Name::from("there"));
    within("the dial", async {
        while seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*seen.lock().unwrap(), [(there(), Bytes::from_static(b"early "))]);
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"late");
    let access = bed.observe.next().await;
    assert_eq!((access.sent, access.received, access.path), (10, 4, Some(Path::Relayed)));
    bed.stop().await;
}

#[tokio::test]
async fn bytes_taken_for_a_tunnel_that_failed_reach_the_next_target() {
    let mut bed = Bed::bind(settings());
    bed.lead(|_, _| Box::pin(async { Err(DialError::NoPath) }));
    let good = tcp_backend(echo).await;
    let frontend = bed.service(2, Tcp, &[(([10, 0, 0, 1], 1).into(), Some("there")), (good, None)]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        client.write_all(b"early ").await.unwrap();
        clients.push(client);
    }
    bed.run();
    for mut client in clients {
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.unwrap(), b"early late");
    }
    for _ in 0..4 {
        let access = bed.observe.next().await;
        assert_eq!((access.sent, access.received, access.backend), (10, 10, Some(good)));
    }
}

#[tokio::test]
async fn a_tunnel_that_fails_resets_the_client_with_its_reason() {
    let bed = Bed::start(settings());
    bed.lead(|_, _| Box::pin(async { Err(DialError::RelayFull) }));
    let frontend = bed.service(2, Tcp, &[(([10, 0, 0, 1], 1).into(), Some("there"))]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    assert!(read_all(&mut client).await.is_err());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Failed(DialError::RelayFull));
}

#[tokio::test]
async fn peers_are_refused_what_is_no_endpoint_here() {
    let bed = Bed::start(settings());
    let (remote, far) = bed.lead_to_remote(settings());
    let udp_only = udp_backend(b"").await;
    bed.service(2, Udp, &[(udp_only, None)]);
    let secret = tcp_backend(echo).await;
    for (protocol, backend) in [
        (Tcp, secret),
        (Tcp, udp_only),
        (Tcp, ([169, 254, 169, 254], 80).into()),
        (Udp, secret),
        (Sctp, udp_only),
    ] {
        let target = target(protocol, backend);
        let refused = call(remote.clone(), target, Bytes::new()).await.err();
        assert_eq!(refused, Some(DialError::NotAdmitted), "{protocol} {backend}");
        let access = far.next().await;
        let reason =
            if protocol == Sctp { RejectReason::UnsupportedProtocol } else { RejectReason::NotAnEndpoint };
        assert_eq!((access.outcome, access.frontend), (Outcome::Rejected(reason), backend));
    }
    assert_eq!(remote.counters().inbound_refused(), 5);
}

#[tokio::test]
async fn peers_are_told_when_the_backend_refuses() {
    let bed = Bed::start(settings());
    let (remote, far) = bed.lead_to_remote(settings());
    let (closed, _kept) = closed_port();
    bed.service(2, Tcp, &[(closed, None)]);
    let refused = call(remote, target(Tcp, closed), Bytes::new()).await.err();
    assert_eq!(refused, Some(DialError::Refused));
    assert_eq!(far.next().await.outcome, Outcome::Failed(DialError::Refused));
}

fn target(protocol: edgemesh_api::Protocol, backend: SocketAddr) -> Target {
    let service = edgemesh_api::ObjectKey::new("default", "any");
    Target { service, backend, protocol, hop: Hop::Node(Name::from("there")), namespace: None }
}
