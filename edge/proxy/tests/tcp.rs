//! TCP connections through the proxy to backends on this node.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::time::Duration;

use common::*;
use edgemesh_api::Protocol::Tcp;
use edgemesh_proxy::ProxySettings;
use edgemesh_route::{DialError, Outcome, RejectReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn bytes_go_both_ways_and_are_accounted() {
    let bed = Bed::start(settings());
    let backend = tcp_backend(echo).await;
    let frontend = bed.service(2, Tcp, &[(backend, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    let access = bed.observe.next().await;
    assert_eq!((access.outcome, access.sent, access.received), (Outcome::Closed, 5, 5));
    assert_eq!((access.frontend, access.backend), (frontend, Some(backend)));
    assert_eq!(access.client, client.local_addr().unwrap().to_string());
    assert_eq!(access.service.unwrap().to_string(), "default/s127.0.0.2");
    bed.stop().await;
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let bed = Bed::start(settings());
    let backend = tcp_backend(async |mut stream: TcpStream| {
        stream.write_all(b"220 welcome").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    let frontend = bed.service(2, Tcp, &[(backend.await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    let mut got = [0; 11];
    within("the banner", client.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"220 welcome");
}

/// Go EdgeMesh closed both directions at the first end (its fault C13): a client that shuts down its sending side
/// got an empty reply.
#[tokio::test]
async fn half_close_is_kept_in_both_directions() {
    let bed = Bed::start(settings());
    let backend = tcp_backend(async |mut stream: TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all.len().to_string().into_bytes()).await.unwrap();
    });
    let frontend = bed.service(2, Tcp, &[(backend.await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(&[7; 100_000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"100000");

    let (end, ended) = tokio::sync::oneshot::channel();
    let end = std::sync::Mutex::new(Some(end));
    let backend = tcp_backend(move |mut stream: TcpStream| {
        let end = end.lock().unwrap().take();
        async move {
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            end.unwrap().send(all).unwrap();
        }
    });
    let frontend = bed.service(3, Tcp, &[(backend.await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within("the backend", ended).await.unwrap(), b"still here");
}

#[tokio::test]
async fn much_data_arrives_whole_though_the_client_is_slow() {
    let bed = Bed::start(settings());
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let data: Vec<u8> = (0..8 * 1024 * 1024u32).map(|it| (it / 7) as u8).collect();
    let (mut reader, mut writer) = TcpStream::connect(frontend).await.unwrap().into_split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    let mut chunk = vec![0; 3_000];
    loop {
        let length = within("data", reader.read(&mut chunk)).await.unwrap();
        if length == 0 {
            break;
        }
        got.extend_from_slice(&chunk[..length]);
        tokio::task::yield_now().await;
    }
    sending.await.unwrap();
    assert!(got == data, "{} of {} bytes, or others", got.len(), data.len());
    let access = bed.observe.next().await;
    assert_eq!((access.sent, access.received), (data.len() as u64, data.len() as u64));
}

#[tokio::test]
async fn a_backend_that_breaks_is_no_clean_end() {
    let bed = Bed::start(settings());
    let backend = tcp_backend(async |mut stream: TcpStream| {
        stream.read_exact(&mut [0]).await.unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let frontend = bed.service(2, Tcp, &[(backend.await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert!(read_all(&mut client).await.is_err());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Reset);
}

#[tokio::test]
async fn a_client_that_breaks_breaks_the_backends_end_too() {
    let bed = Bed::start(settings());
    let (tell, told) = tokio::sync::mpsc::channel(1);
    let backend = tcp_backend(move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"x").await.unwrap();
            tell.send(read_all(&mut stream).await.is_err()).await.unwrap();
        }
    });
    let frontend = bed.service(2, Tcp, &[(backend.await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut told = told;
    assert_eq!(within("the backend's end", told.recv()).await, Some(true));
}

#[tokio::test]
async fn what_has_no_target_is_reset_at_once() {
    let bed = Bed::start(settings());
    let empty = bed.service(3, Tcp, &[]);
    let (closed, _kept) = closed_port();
    let dead = bed.service(4, Tcp, &[(closed, None)]);
    let unknown = std::net::SocketAddr::from(([127, 0, 0, 9], bed.port));
    for (frontend, outcome) in [
        (unknown, Outcome::Rejected(RejectReason::UnknownFrontend)),
        (empty, Outcome::Rejected(RejectReason::NoEndpoints)),
        (dead, Outcome::Failed(DialError::Refused)),
    ] {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        assert!(read_all(&mut client).await.is_err(), "{frontend}");
        let access = bed.observe.next().await;
        assert_eq!((access.frontend, access.outcome), (frontend, outcome));
        assert_eq!(access.service.is_some(), frontend != unknown);
    }
}

#[tokio::test]
async fn the_next_target_is_tried_when_a_dial_fails() {
    let bed = Bed::start(settings());
    let (closed, _kept) = closed_port();
    let good = tcp_backend(echo).await;
    let frontend = bed.service(2, Tcp, &[(closed, None), (good, None)]);
    for _ in 0..4 {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.unwrap(), b"hello");
        assert_eq!(bed.observe.next().await.backend, Some(good));
    }
    assert_eq!(bed.verdict(frontend, Tcp, closed), "ejected");
}

/// One dead endpoint made every connection of Go EdgeMesh wait (its fault P1).
#[tokio::test]
async fn a_black_hole_is_left_for_the_next_target_and_avoided_then() {
    let short = ProxySettings {
        next_after: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(400),
        ..settings()
    };
    let bed = Bed::start(short);
    // A full accept queue: the kernel drops every further SYN.
    let hole = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hole.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    hole.listen(0).unwrap();
    let addr = hole.local_addr().unwrap().as_socket().unwrap();
    let _filling = [TcpStream::connect(addr).await.unwrap()];
    let good = tcp_backend(echo).await;
    let frontend = bed.service(2, Tcp, &[(addr, None), (good, None)]);
    for _ in 0..6 {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.unwrap(), b"hello");
        assert_eq!(bed.observe.next().await.backend, Some(good));
    }
    assert_eq!(bed.verdict(frontend, Tcp, addr), "ejected");
    // Its turn came once; with it alone, the whole time is waited for.
    let alone = bed.service(3, Tcp, &[(addr, None)]);
    let mut client = TcpStream::connect(alone).await.unwrap();
    assert!(read_all(&mut client).await.is_err());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Failed(DialError::Timeout));
}

#[tokio::test]
async fn idle_connections_end() {
    let bed = Bed::start(ProxySettings { tcp_idle: Duration::from_millis(100), ..settings() });
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert!(read_all(&mut client).await.is_err());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Idle);
}

#[tokio::test]
async fn past_the_bound_connections_are_reset() {
    let bed = Bed::start(ProxySettings { max_connections: 2, ..settings() });
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        open.push(client);
    }
    let mut third = TcpStream::connect(frontend).await.unwrap();
    assert!(read_all(&mut third).await.is_err());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Rejected(RejectReason::Overloaded));
    drop(open.pop());
    assert_eq!(bed.observe.next().await.outcome, Outcome::Closed);
    let mut fourth = TcpStream::connect(frontend).await.unwrap();
    fourth.write_all(b"x").await.unwrap();
    fourth.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn the_drain_waits_for_open_connections_and_not_for_ever() {
    let mut bed = Bed::start(settings());
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    bed.shutdown.cancel();
    // The listener closes first; from then on nobody is accepted.
    within("the listener to close", async {
        while TcpStream::connect(frontend).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.write_all(b"y").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    within("the drain", bed.task.take().unwrap()).await.unwrap();

    let bed = Bed::start(ProxySettings { drain: Duration::from_millis(100), ..settings() });
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    let observe = bed.observe.clone();
    bed.stop().await;
    assert!(read_all(&mut client).await.is_err());
    assert_eq!(observe.next().await.outcome, Outcome::Drained);
}

#[tokio::test]
async fn ipv6_frontends_are_served() {
    let settings = ProxySettings {
        listen: vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()],
        ..settings()
    };
    let bed = Bed::start(settings);
    let frontend = (std::net::Ipv6Addr::LOCALHOST, bed.port).into();
    let backend = tcp_backend(echo).await;
    bed.service_at(frontend, Tcp, &[(backend, None)]);
    let mut client = TcpStream::connect(frontend).await.unwrap();
    client.write_all(b"six").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"six");
}

/// Bytes of which no two stretches of different connections or places are alike.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // A linear congruential generator (Knuth, MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends `data` to an echo server while it reads it back, and says whether that is what came.
async fn echoed(frontend: std::net::SocketAddr, data: Vec<u8>) -> bool {
    let (mut reader, mut writer) = TcpStream::connect(frontend).await.unwrap().into_split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::with_capacity(data.len());
    reader.read_to_end(&mut got).await.unwrap();
    sending.await.unwrap();
    got == data
}

/// More bulk at a time than there are pipes, and among it clients that read nothing, so that every buffer on their way
/// is full when they break: nobody gets what is another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_of_many_connections_arrives_whole_though_others_break() {
    const CLIENTS: u64 = 12;
    const LENGTH: usize = 3 * 1024 * 1024;
    let bed = Bed::start(settings());
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(frontend).await.unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        stuck.push(tokio::spawn(async move {
            loop {
                client.write_all(&[0xff; 256 * 1024]).await.unwrap();
            }
        }));
    }
    for round in 0..2 {
        let whole: Vec<_> = (0..CLIENTS)
            .map(|seed| tokio::spawn(echoed(frontend, pattern(round * CLIENTS + seed, LENGTH))))
            .collect();
        for client in whole {
            assert!(within("a client", client).await.unwrap(), "other bytes than were sent");
        }
        for client in stuck.drain(..) {
            client.abort();
        }
    }
    let mut closed = 0;
    for _ in 0..3 * CLIENTS {
        let access = bed.observe.next().await;
        if access.outcome == Outcome::Closed {
            assert_eq!((access.sent, access.received), (LENGTH as u64, LENGTH as u64));
            closed += 1;
        } else {
            assert_eq!(access.outcome, Outcome::Reset);
        }
    }
    assert_eq!(closed, 2 * CLIENTS);
    bed.stop().await;
}
