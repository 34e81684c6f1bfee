//! Sockets: both transports and families, odd clients, shutdown.

use std::net::SocketAddr;
use std::process::Command;

use domain::base::iana::Rcode;
use edgemesh_dns::{DnsError, DnsServer, ListenAddress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::fixture::{PATIENCE, WEB, addresses, query, read_frame, settings, start, udp, write_frame};

fn listen(addrs: &[&str]) -> Vec<ListenAddress> {
    addrs.iter().map(|addr| addr.parse::<SocketAddr>().unwrap().into()).collect()
}

#[tokio::test]
async fn answers_over_udp_and_tcp_in_both_families() {
    let mut settings = settings(&[]);
    settings.listen = listen(&["127.0.0.1:0", "[::1]:0"]);
    let server = start(settings);
    for addr in &server.addrs {
        assert_eq!(addresses(&udp(*addr, &query(WEB)).await), ["10.96.0.1"]);
        let mut stream = TcpStream::connect(addr).await.unwrap();
        write_frame(&mut stream, &query(WEB)).await;
        assert_eq!(addresses(&read_frame(&mut stream).await), ["10.96.0.1"]);
    }
    let counts = server.counters.read();
    assert_eq!((counts.udp_queries, counts.tcp_queries, counts.rcode("noerror")), (2, 2, 4));
}

#[tokio::test]
async fn long_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let server = start(settings(&[]));
    let name = "big.default.svc.cluster.local";
    let short = server.udp(name).await;
    assert!(short.header().tc() && addresses(&short).len() < 100);
    let mut stream = TcpStream::connect(server.addrs[0]).await.unwrap();
    write_frame(&mut stream, &query(name)).await;
    let whole = read_frame(&mut stream).await;
    assert!(!whole.header().tc());
    assert_eq!(addresses(&whole).len(), 100);
}

#[tokio::test]
async fn one_connection_takes_many_queries_also_in_pieces() {
    let server = start(settings(&[]));
    let mut stream = TcpStream::connect(server.addrs[0]).await.unwrap();
    let mut bytes = Vec::new();
    for _ in 0..100 {
        let query = query(WEB);
        bytes.extend_from_slice(&u16::try_from(query.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&query);
    }
    let (mut read, mut write) = stream.split();
    let writing = async {
        for piece in bytes.chunks(17) {
            write.write_all(piece).await.unwrap();
        }
        // Half-closed: what was asked is still answered.
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let mut replies = Vec::new();
        timeout(PATIENCE, read.read_to_end(&mut replies)).await.unwrap().unwrap();
        replies
    };
    let ((), replies) = tokio::join!(writing, reading);
    let length = usize::from(u16::from_be_bytes([replies[0], replies[1]]));
    assert_eq!(replies.len(), 100 * (2 + length));
}

#[tokio::test]
async fn garbage_is_dropped_and_closes_connections() {
    let server = start(settings(&[]));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [&b""[..], b"short", &[0xff; 40], &[0; 12]] {
        socket.send_to(packet, server.addrs[0]).await.unwrap();
    }
    assert_eq!(server.udp(WEB).await.header().rcode(), Rcode::NOERROR);
    for bytes in [&[0, 0][..], &[0, 1, 1], &[0xff, 0xff, 1, 2]] {
        let mut stream = TcpStream::connect(server.addrs[0]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut end = [0];
        // The kernel resets the connection where unread octets were left.
        let ended = timeout(PATIENCE, stream.read(&mut end)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = start(settings(&[]));
    let mut open = Vec::new();
    // As many as are served answer; one more is closed.
    for _ in 0..64 {
        let mut stream = TcpStream::connect(server.addrs[0]).await.unwrap();
        write_frame(&mut stream, &query(WEB)).await;
        read_frame(&mut stream).await;
        open.push(stream);
    }
    let mut refused = TcpStream::connect(server.addrs[0]).await.unwrap();
    assert_eq!(timeout(PATIENCE, refused.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(server.counters.read().connections_refused, 1);
}

#[tokio::test]
async fn a_shutdown_ends_everything() {
    let mut first = settings(&[]);
    // An address of its own, so that no other test takes the port between.
    first.listen = listen(&["127.0.0.9:0"]);
    let server = start(first);
    let mut stream = TcpStream::connect(server.addrs[0]).await.unwrap();
    write_frame(&mut stream, &query(WEB)).await;
    read_frame(&mut stream).await;
    server.shutdown.cancel();
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
    // The address is free again at once.
    let mut again = settings(&[]);
    again.listen = vec![server.addrs[0].into()];
    start(again);
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let server = start(settings(&[]));
    let mut second = settings(&[]);
    second.listen = vec![server.addrs[0].into()];
    let snapshots = std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(crate::fixture::snapshot()));
    let error = DnsServer::bind(second, snapshots.clone()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&server.addrs[0].to_string()) && text.contains("another DNS server"), "{text}");
    let mut third = settings(&[]);
    let device = Some("nosuchdev0".to_owned());
    third.listen = vec![ListenAddress { addr: "[fe80::a9fe:6010]:0".parse().unwrap(), device }];
    assert!(matches!(DnsServer::bind(third, snapshots).err(), Some(DnsError::Device { .. })));
}

#[tokio::test]
async fn addresses_may_come_later() {
    let mut settings = settings(&[]);
    // Documentation addresses, which no interface has.
    settings.listen = listen(&["192.0.2.77:0", "[2001:db8::77]:0"]);
    let server = start(settings);
    assert_eq!(server.addrs.len(), 2);
}

#[tokio::test]
async fn dig_understands_us() {
    let server = start(settings(&[]));
    let port = server.addrs[0].port().to_string();
    let run = move |arguments: &'static str| {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port, "+time=10", "+tries=1"]).args(arguments.split(' '));
        tokio::task::spawn_blocking(move || command.output())
    };
    let output = match run("+short web.default.svc.cluster.local A").await.unwrap() {
        Err(error) => {
            eprintln!("SKIPPED: dig does not run: {error}");
            return;
        }
        Ok(output) => output,
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10.96.0.1\n");
    // dig asks again over TCP when it is told that the answer is truncated.
    let output = run("+short big.default.svc.cluster.local A").await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 100);
    let output = run("+noall +comments nothing.default.svc.cluster.local A").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("NXDOMAIN"));
}
