//! Sockets that know whom a client meant. On the loopback every 127.0.0.x is this host's own, so no TPROXY is
//! needed; with it they are tested in `edge/proxy/tests/tproxy.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use edgemesh_net::socket::{
    self, Datagram, FrontendUdp, MAX_DATAGRAM, Pipe, Transparency, backend_udp, canonical, reply_udp,
    send_now, send_to_now,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn datagrams_come_with_the_destination_they_were_sent_to() {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    for (bind, meant) in [(v4, IpAddr::from([127, 1, 2, 3])), (v6, Ipv6Addr::LOCALHOST.into())] {
        let frontends = FrontendUdp::bind((bind, 0).into(), Transparency::Plain).unwrap();
        let destination = SocketAddr::new(meant, frontends.local_addr().port());
        let client = UdpSocket::bind((bind, 0)).await.unwrap();
        client.connect(destination).await.unwrap();
        let source = client.local_addr().unwrap();
        let mut buffer = vec![0; MAX_DATAGRAM];
        for length in [0, 1, 1_500, 65_507] {
            client.send(&vec![7; length]).await.unwrap();
            let got = within(frontends.recv(&mut buffer)).await.unwrap();
            assert_eq!(got, Datagram { length, source, destination });
            assert!(buffer[..length].iter().all(|byte| *byte == 7));
            // The client is connected: it hears only what comes from the address it meant.
            frontends.send_from(&buffer[..length], meant, source).unwrap();
            assert_eq!(within(client.recv(&mut buffer)).await.unwrap(), length);
        }
    }
}

#[tokio::test]
async fn a_socket_made_a_moment_ago_sends_at_once() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = backend_udp(backend.local_addr().unwrap()).unwrap();
    send_now(&socket, b"first").unwrap();
    let mut got = [0; 10];
    let (length, from) = within(backend.recv_from(&mut got)).await.unwrap();
    assert_eq!((&got[..length], from), (&b"first"[..], socket.local_addr().unwrap()));
}

#[tokio::test]
async fn replies_leave_from_the_frontend_and_share_it() {
    for addr in [SocketAddr::from(([127, 4, 5, 6], 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        let reply = reply_udp(addr, Transparency::Plain).unwrap();
        let frontend = reply.local_addr().unwrap();
        let _another = reply_udp(frontend, Transparency::Plain).unwrap();
        let client = UdpSocket::bind((frontend.ip(), 0)).await.unwrap();
        send_to_now(&reply, b"reply", client.local_addr().unwrap()).unwrap();
        let (length, from) = within(client.recv_from(&mut [0; 10])).await.unwrap();
        assert_eq!((length, from), (5, frontend));
    }
}

#[tokio::test]
async fn accepted_connections_are_tuned_and_a_reset_is_no_end() {
    let listener = socket::listen((Ipv4Addr::UNSPECIFIED, 0).into(), Transparency::Plain).unwrap();
    let meant = SocketAddr::from(([127, 3, 2, 1], listener.local_addr().unwrap().port()));
    let mut client = TcpStream::connect(meant).await.unwrap();
    client.write_all(b"early").await.unwrap();
    let (accepted, from) = within(listener.accept()).await.unwrap();
    assert_eq!((accepted.local_addr().unwrap(), from), (meant, client.local_addr().unwrap()));
    assert!(accepted.nodelay().unwrap() && socket2::SockRef::from(&accepted).keepalive().unwrap());
    within(accepted.readable()).await.unwrap();
    assert_eq!(socket::take_available(&accepted, 3), "ear");
    assert_eq!(socket::take_available(&accepted, 16), "ly");
    assert_eq!(socket::take_available(&accepted, 16), "");
    socket::reset(accepted);
    let end = within(client.read(&mut [0; 16])).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn mapped_addresses_are_written_as_ipv4() {
    for (addr, expected) in [
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("[fe80::1%7]:80", "[fe80::1%7]:80"),
    ] {
        assert_eq!(canonical(addr.parse().unwrap()).to_string(), expected);
    }
}

#[tokio::test]
async fn dials_tell_how_they_went_in_both_families() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let listener = socket::listen((ip, 0).into(), Transparency::Plain).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut dialed = within(socket::dial(addr)).await.unwrap();
        let (mut accepted, _) = within(listener.accept()).await.unwrap();
        assert_eq!(dialed.peer_addr().unwrap(), addr);
        assert!(dialed.nodelay().unwrap());
        dialed.write_all(b"ask").await.unwrap();
        within(accepted.read_exact(&mut [0; 3])).await.unwrap();
        accepted.write_all(b"answer").await.unwrap();
        within(dialed.read_exact(&mut [0; 6])).await.unwrap();
        drop(listener);
        let error = within(socket::dial(addr)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{addr}");
    }
}

#[tokio::test]
async fn a_pipe_hands_on_what_it_holds_and_the_end() {
    let listener = socket::listen((Ipv4Addr::LOCALHOST, 0).into(), Transparency::Plain).unwrap();
    let addr = listener.local_addr().unwrap();
    let (mut client, mut server) = (socket::dial(addr).await.unwrap(), socket::dial(addr).await.unwrap());
    let (from, to) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
    let mut pipe = Pipe::new(256 * 1024).unwrap();
    assert!(pipe.capacity() >= 4096, "{}", pipe.capacity());
    assert_eq!(pipe.fill(&from).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    client.write_all(b"hello").await.unwrap();
    let filled = within(from.async_io(Interest::READABLE, || pipe.fill(&from))).await.unwrap();
    assert_eq!((filled, pipe.held()), (5, 5));
    assert_eq!(pipe.drain(&to).unwrap(), 5);
    assert_eq!(pipe.held(), 0);
    let mut got = [0; 5];
    within(server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"hello");
    client.shutdown().await.unwrap();
    assert_eq!(within(from.async_io(Interest::READABLE, || pipe.fill(&from))).await.unwrap(), 0);
}
