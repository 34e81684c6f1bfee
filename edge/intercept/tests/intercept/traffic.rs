//! Real connections and datagrams, from the host and from a pod, on a node without a default route.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use edgemesh_intercept::Interceptor;
use edgemesh_net::netlink::nft::{Base, Batch, Chain, ChainKind, Family, Hook, Nat, Nft, Rule, Table};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::Namespace;
use edgemesh_net::socket::{FrontendUdp, MAX_DATAGRAM, Transparency, listen, reply_udp};
use edgemesh_ruleset::{DEVICE, LISTEN_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kernel::{Setup, install_on, ip, loopback_up, ruleset};

/// Bounds every wait; nothing is expected to take it.
const PATIENCE: Duration = Duration::from_secs(10);

const TCP: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
const UDP: [&str; 2] = ["10.96.0.1:53", "[fd00:96::1]:53"];
const CLOSED: [&str; 2] = ["10.96.0.1:81", "[fd00:96::1]:81"];
const BARE: [&str; 2] = ["10.96.0.2:80", "[fd00:96::2]:80"];
const SIZES: [usize; 3] = [100, 20 * 1024, 60 * 1024];

fn node(setup: Setup) -> Interceptor {
    let mut interceptor = install_on(setup);
    // Many distributions are strict about the way back of a packet.
    for scope in ["all", "default", "lo", DEVICE] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "1").expect("a sysctl");
    }
    let settings = interceptor.settings().clone();
    let frontends: Vec<String> =
        TCP.iter().map(|it| format!("{it}/tcp")).chain(UDP.iter().map(|it| format!("{it}/udp"))).collect();
    let frontends: Vec<&str> = frontends.iter().map(String::as_str).collect();
    interceptor.apply(&ruleset(&settings, &frontends, &["10.96.0.2", "fd00:96::2"])).expect("applied");
    interceptor
}

/// A pod on a veth of its own, with its default route by way of the node.
fn pod() -> Namespace {
    let pod = Namespace::new_net().expect("a namespace");
    let mut rt = Handle::open().expect("rtnetlink");
    rt.add_link("pod0", LinkKind::Veth(Peer { name: "eth0", netns: Some(pod.as_fd()) })).expect("a veth");
    let link = rt.link("pod0").expect("links").expect("pod0").index;
    join(&mut rt, link, &pod);
    pod
}

/// A pod on a bridge, as the CNI plugin `bridge`, flannel and Docker make them. Kubernetes wants bridged packets shown to
/// netfilter, which undoes TPROXY unless it is done once more.
fn bridged_pod() -> Namespace {
    let pod = Namespace::new_net().expect("a namespace");
    let mut rt = Handle::open().expect("rtnetlink");
    rt.add_link("cni0", LinkKind::Bridge).expect("a bridge");
    let bridge = rt.link("cni0").expect("links").expect("cni0").index;
    rt.add_link("pod0", LinkKind::Veth(Peer { name: "eth0", netns: Some(pod.as_fd()) })).expect("a veth");
    let port = rt.link("pod0").expect("links").expect("pod0").index;
    rt.set_master(port, Some(bridge)).expect("a port");
    rt.set_up(port, true).expect("up");
    for switch in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        // Absent where the kernel has no br_netfilter, and then bridged packets are like any others.
        let _ = std::fs::write(format!("/proc/sys/net/bridge/{switch}"), "1");
    }
    join(&mut rt, bridge, &pod);
    pod
}

fn join(rt: &mut Handle, link: u32, pod: &Namespace) {
    rt.add_address(link, Prefix::new(ip("10.244.0.1"), 24), false).expect("an address");
    rt.add_address(link, Prefix::new(ip("fd00:244::1"), 64), true).expect("an address");
    rt.set_up(link, true).expect("up");
    pod.run(|| {
        loopback_up();
        let mut rt = Handle::open().map_err(io::Error::other)?;
        let link = rt.link("eth0").map_err(io::Error::other)?.expect("eth0").index;
        rt.set_up(link, true).map_err(io::Error::other)?;
        for (addr, len, gateway) in [("10.244.0.2", 24, "10.244.0.1"), ("fd00:244::2", 64, "fd00:244::1")] {
            rt.add_address(link, Prefix::new(ip(addr), len), true).map_err(io::Error::other)?;
            let default = Prefix::default_of(ip(gateway));
            rt.add_route(&Route { oif: Some(link), ..Route::via(default, ip(gateway)) })
                .map_err(io::Error::other)?;
        }
        Ok(())
    })
    .expect("a pod");
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address with port")
}

fn listener_of(frontend: SocketAddr) -> SocketAddr {
    let ip = if frontend.is_ipv4() {
        IpAddr::from([127, 0, 0, 1])
    } else {
        IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])
    };
    SocketAddr::new(ip, LISTEN_PORT)
}

fn unbound(like: SocketAddr) -> SocketAddr {
    SocketAddr::new(if like.is_ipv4() { ip("0.0.0.0") } else { ip("::") }, 0)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a client on a thread of its own while the listener, which is bound already, serves here; gives what the
/// listener saw.
fn meet<S>(
    runtime: &tokio::runtime::Runtime,
    pod: Option<&Namespace>,
    client: impl FnOnce() -> io::Result<()> + Send,
    server: impl Future<Output = io::Result<S>>,
) -> S {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| inside(pod, client));
        let seen = runtime.block_on(async { tokio::time::timeout(PATIENCE, server).await });
        client.join().expect("the client does not panic").expect("the client succeeds");
        seen.expect("in time").expect("the listener succeeds")
    })
}

fn inside<T: Send>(pod: Option<&Namespace>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match pod {
        Some(pod) => pod.run(work),
        None => work(),
    }
}

/// One connection; gives the client's address as the listener saw it.
fn tcp(frontend: SocketAddr, pod: Option<&Namespace>) -> IpAddr {
    let runtime = runtime();
    let _entered = runtime.enter();
    let listener = listen(listener_of(frontend), Transparency::Transparent).expect("a listener");
    let client = || {
        let mut stream = TcpStream::connect_timeout(&frontend, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        assert_eq!((&answer, stream.peer_addr()?), (b"pong", frontend));
        Ok(())
    };
    let server = async {
        let (mut stream, peer) = listener.accept().await?;
        assert_eq!(stream.local_addr()?, frontend, "the original destination");
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        stream.write_all(b"pong").await?;
        Ok(peer.ip())
    };
    meet(&runtime, pod, client, server)
}

/// One datagram of each size and its echo; gives the client's address as the listener saw it.
fn udp(frontend: SocketAddr, pod: Option<&Namespace>) -> IpAddr {
    let runtime = runtime();
    let _entered = runtime.enter();
    let socket = FrontendUdp::bind(listener_of(frontend), Transparency::Transparent).expect("a socket");
    let any = unbound(frontend);
    let client = || {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(frontend)?;
        let mut answer = vec![0; MAX_DATAGRAM];
        for size in SIZES {
            let payload: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).expect("small")).collect();
            socket.send(&payload)?;
            let length = socket.recv(&mut answer)?;
            assert!(answer[..length] == payload, "{length} bytes for {size}");
        }
        Ok(())
    };
    let server = async {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut seen = None;
        for size in SIZES {
            let datagram = socket.recv(&mut buffer).await?;
            assert_eq!((datagram.length, datagram.destination), (size, frontend));
            let reply = reply_udp(frontend, Transparency::Transparent)?;
            reply.send_to(&buffer[..size], datagram.source).await?;
            seen = Some(datagram.source.ip());
        }
        seen.ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    meet(&runtime, pod, client, server)
}

/// Refused at once: an error and no timeout.
fn assert_refused(frontend: SocketAddr, pod: Option<&Namespace>) {
    let attempt = || {
        let tcp = TcpStream::connect_timeout(&frontend, PATIENCE).err().map(|error| error.kind());
        let any = unbound(frontend);
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(frontend)?;
        socket.send(b"ping")?;
        let udp = socket.recv(&mut [0; 16]).err().map(|error| error.kind());
        Ok((tcp, udp))
    };
    let refused = Some(io::ErrorKind::ConnectionRefused);
    assert_eq!(inside(pod, attempt).expect("an attempt"), (refused, refused), "{frontend}");
}

fn assert_no_default_route() {
    let routes = Handle::open().expect("rtnetlink").routes(None).expect("routes");
    assert!(routes.iter().all(|route| route.dst.len > 0), "{routes:?}");
}

fn host_processes_reach_the_listener_without_a_default_route(setup: Setup) {
    let _node = node(setup);
    assert_no_default_route();
    assert_eq!(tcp(addr(TCP[0]), None), ip("169.254.96.16"));
    assert_eq!(udp(addr(UDP[0]), None), ip("169.254.96.16"));
    assert_ne!(tcp(addr(TCP[1]), None), addr(TCP[1]).ip(), "a server tells it from itself");
    udp(addr(UDP[1]), None);
}

fn pods_reach_the_listener_without_a_default_route_of_the_node(setup: Setup) {
    let _node = node(setup);
    pods_reach_the_listener(&pod());
}

fn pods_on_a_bridge_reach_the_listener(setup: Setup) {
    let _node = node(setup);
    pods_reach_the_listener(&bridged_pod());
}

fn pods_reach_the_listener(pod: &Namespace) {
    assert_no_default_route();
    for (frontend, source) in TCP.into_iter().zip(["10.244.0.2", "fd00:244::2"]) {
        assert_eq!(tcp(addr(frontend), Some(pod)), ip(source));
    }
    for (frontend, source) in UDP.into_iter().zip(["10.244.0.2", "fd00:244::2"]) {
        assert_eq!(udp(addr(frontend), Some(pod)), ip(source));
    }
    // TPROXY leads to the loopback listener without the switch that opens 127.0.0.0/8 to the network.
    let route_localnet =
        std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/route_localnet").expect("a sysctl");
    assert_eq!(route_localnet.trim(), "0");
}

fn what_is_no_frontend_is_refused_at_once(setup: Setup) {
    let _node = node(setup);
    let pod = pod();
    // Listeners on all addresses of the host are not reached by way of a virtual address.
    let _listener = TcpListener::bind("[::]:81").expect("a listener on both families");
    let _socket = UdpSocket::bind("[::]:81").expect("a socket on both families");
    for frontend in CLOSED.into_iter().chain(BARE) {
        assert_refused(addr(frontend), None);
        assert_refused(addr(frontend), Some(&pod));
    }
}

/// kube-proxy's way: address translation in prerouting and output, for the same virtual addresses.
fn translations_of_others_do_not_see_frontends(setup: Setup) {
    let _node = node(setup);
    let table = Table { family: Family::Inet, name: "kube-proxy" };
    let mut batch = Batch::new();
    batch.add_table(table);
    for (name, hook) in [("services", Hook::Prerouting), ("output", Hook::Output)] {
        let base = Base { kind: ChainKind::Nat, hook, priority: -100, drop: false };
        batch.add_chain(table, Chain { name, base: Some(base) });
        for (family, to) in [(Family::Ip, "192.0.2.1"), (Family::Ip6, "2001:db8::1")] {
            batch.add_rule(table, name, &Rule::new().nfproto(family).nat(Nat::Dnat, ip(to), None));
        }
    }
    Nft::open().expect("nftables").commit(&batch).expect("foreign rules");
    let pod = pod();
    for (stream, datagram) in TCP.into_iter().zip(UDP) {
        for client in [None, Some(&pod)] {
            tcp(addr(stream), client);
            udp(addr(datagram), client);
        }
    }
}

fn while_the_agent_is_away_nobody_else_answers(setup: Setup) {
    let _node = node(setup);
    let foreign = TcpListener::bind("[::]:80").expect("a listener on both families");
    foreign.set_nonblocking(true).expect("non-blocking");
    let foreign_udp = UdpSocket::bind("[::]:53").expect("a socket on both families");
    foreign_udp.set_nonblocking(true).expect("non-blocking");
    for (stream, datagram) in TCP.into_iter().zip(UDP) {
        // Silence has no event to wait for; the time only bounds the attempt.
        let error =
            TcpStream::connect_timeout(&addr(stream), Duration::from_millis(100)).expect_err("nobody");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        UdpSocket::bind(unbound(addr(datagram)))
            .expect("a socket")
            .send_to(b"ping", addr(datagram))
            .expect("sent");
    }
    let would_block = Some(io::ErrorKind::WouldBlock);
    assert_eq!(foreign.accept().err().map(|error| error.kind()), would_block);
    assert_eq!(foreign_udp.recv(&mut [0; 16]).err().map(|error| error.kind()), would_block);
    drop((foreign, foreign_udp));
    for (stream, datagram) in TCP.into_iter().zip(UDP) {
        tcp(addr(stream), None);
        udp(addr(datagram), None);
    }
}

fn a_connection_outlives_the_last_endpoint(setup: Setup) {
    let mut node = node(setup);
    let settings = node.settings().clone();
    let frontend = addr(TCP[0]);
    let runtime = runtime();
    let _entered = runtime.enter();
    let listener = listen(listener_of(frontend), Transparency::Transparent).expect("a listener");
    let mut client = TcpStream::connect_timeout(&frontend, PATIENCE).expect("connected");
    let (mut server, _) = runtime.block_on(listener.accept()).expect("accepted");
    node.apply(&ruleset(&settings, &[], &["10.96.0.1"])).expect("applied");
    assert_refused(frontend, None);
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(b"ping").expect("written");
    let mut bytes = [0; 4];
    runtime.block_on(server.read_exact(&mut bytes)).expect("read");
    runtime.block_on(server.write_all(&bytes)).expect("written");
    client.read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes, b"ping");
}

crate::kernel::on_every_backend!(traffic:
    host_processes_reach_the_listener_without_a_default_route,
    pods_reach_the_listener_without_a_default_route_of_the_node,
    pods_on_a_bridge_reach_the_listener,
    what_is_no_frontend_is_refused_at_once,
    translations_of_others_do_not_see_frontends,
    while_the_agent_is_away_nobody_else_answers,
    a_connection_outlives_the_last_endpoint,
);
