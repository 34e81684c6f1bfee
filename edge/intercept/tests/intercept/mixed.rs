//! Frontends of which the kernel translates some connections and the listener gets the others.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;

use edgemesh_net::socket::{FrontendUdp, MAX_DATAGRAM, Transparency, listen, reply_udp};
use edgemesh_ruleset::LISTEN_PORT;
use tokio::io::AsyncWriteExt as _;

use crate::kernel::{Setup, Svc, tool};
use crate::translated::{POD_2, Place, Stage, VIPS, exchange, serve, tcp, udp, udp_socket, web};

/// The number by which the listener is known among the servers.
const LISTENER: u16 = 99;

/// A listener on each family that answers connections and datagrams as the servers do.
fn start_listener() {
    let (ready, started) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let [first, second] = ["127.0.0.1", "::1"].map(|ip| {
                let addr = SocketAddr::new(ip.parse().expect("an address"), LISTEN_PORT);
                let listener = listen(addr, Transparency::Transparent).expect("a listener");
                (listener, FrontendUdp::bind(addr, Transparency::Transparent).expect("a socket"))
            });
            ready.send(()).expect("the test waits");
            tokio::join!(streams(&first.0), streams(&second.0), datagrams(&first.1), datagrams(&second.1));
        });
    });
    started.recv().expect("started");
}

async fn streams(listener: &tokio::net::TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        let answer = format!("{LISTENER} {}", peer.ip());
        // A client that is gone is its own affair.
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn datagrams(socket: &FrontendUdp) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    while let Ok(datagram) = socket.recv(&mut buffer).await {
        let reply = reply_udp(datagram.destination, Transparency::Transparent).expect("a socket");
        let answer = format!("{LISTENER} {}", datagram.source.ip());
        reply.send_to(answer.as_bytes(), datagram.source).await.expect("sent");
    }
}

/// Half of the endpoints are reached by the tunnel only.
fn half() -> Vec<Svc> {
    web(&[POD_2[0], POD_2[1], "10.244.9.9:8080@away", "[fd00:244:9::9]:8080@away"])
}

fn the_listener_gets_its_share(setup: Setup) {
    let mut stage = Stage::new(setup);
    let (server, client) = (stage.pod(2), stage.pod(3));
    serve(&server, 8080);
    start_listener();
    stage.apply(&half());
    for vip in VIPS {
        for from in [None, Some(&client)] {
            for ask in [tcp, udp] {
                let answers: Vec<u16> = (0..200).map(|_| ask(from, vip).expect("an answer").0).collect();
                let (kernel, proxied): (Vec<u16>, Vec<u16>) = answers.iter().partition(|it| **it == 2);
                assert!(proxied.iter().all(|it| *it == LISTENER), "{answers:?}");
                // A fair draw leaves these bounds once in 10^6 runs (binomial, n = 200, p = 1/2, five deviations of 7).
                assert!((64..=136).contains(&kernel.len()), "{} of 200 for {vip}", kernel.len());
            }
        }
    }
}

fn what_went_one_way_goes_on_so(setup: Setup) {
    let mut stage = Stage::new(setup);
    let (server, client) = (stage.pod(2), stage.pod(3));
    serve(&server, 8080);
    start_listener();
    stage.apply(&half());
    for vip in VIPS {
        for from in [None, Some(&client)] {
            for _ in 0..8 {
                let answers = repeated(from, vip);
                assert!(answers.iter().all(|it| it == answers.first().expect("answers")), "{answers:?}");
            }
        }
    }
}

/// Who answers the datagrams of one socket.
fn repeated(from: Option<&Place>, vip: &str) -> Vec<u16> {
    let to: SocketAddr = vip.parse().expect("an address");
    crate::translated::inside(from, || {
        let socket = udp_socket(to)?;
        // Three are sent before the first answer is read, while the connection counts as new.
        for _ in 0..3 {
            socket.send(b"ping")?;
        }
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(crate::translated::receive(&socket)?.0);
        }
        for _ in 0..5 {
            answers.push(exchange(&socket)?.0);
        }
        Ok(answers)
    })
    .expect("answers")
}

/// Where the firewall drops what it does not know, Pods are served by the listener, and the host by the kernel.
fn pods_of_a_host_that_does_not_forward_go_to_the_listener(setup: Setup) {
    let mut stage = Stage::new(setup);
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "0").expect("a sysctl");
    }
    let (server, client) = (stage.pod(2), stage.pod(3));
    serve(&server, 8080);
    start_listener();
    stage.apply(&web(&POD_2));
    for (family, vip) in VIPS.into_iter().enumerate() {
        for ask in [tcp, udp] {
            assert_eq!(ask(None, vip).expect("from the host").0, 2);
            let seen: (u16, IpAddr) = ask(Some(&client), vip).expect("from a pod");
            assert_eq!(seen, (LISTENER, client.addresses[family]));
        }
    }
}

/// `externalTrafficPolicy: Local`: outside clients get the endpoint of this node, the node and its Pods any, by the tunnel.
fn the_inside_of_a_local_policy_goes_to_the_listener(setup: Setup) {
    let mut stage = Stage::new(setup);
    let (server, client) = (stage.pod(2), stage.pod(3));
    serve(&server, 8080);
    start_listener();
    let outside = stage.neighbour();
    let mut services = half();
    for svc in &mut services {
        let v4 = svc.entry.cluster_ips[0].is_ipv4();
        let outer = if v4 { "198.51.100.7" } else { "2001:db8::7" };
        svc.entry.load_balancer_ips = vec![outer.parse().expect("an address")];
        svc.entry.external_local = true;
    }
    stage.apply(&services);
    for to in ["198.51.100.7:80", "[2001:db8::7]:80"] {
        for ask in [tcp, udp] {
            for _ in 0..4 {
                assert_eq!(ask(Some(&outside), to).expect("from outside").0, 2);
                assert_eq!(ask(Some(&client), to).expect("from a pod").0, LISTENER);
                assert_eq!(ask(None, to).expect("from the host").0, LISTENER);
            }
        }
    }
}

/// Behind a bridge whose ports are not in hairpin mode the kernel would not lead a Pod back to itself.
fn a_pod_behind_a_port_without_hairpin_reaches_itself(setup: Setup) {
    let mut stage = Stage::new(setup);
    let bridged = stage.interceptor.facts().expect("facts").routes.iter().any(|route| route.bridge_filtered);
    let (server, client) = (stage.pod(2), stage.pod(3));
    tool("ip link set pod2 type bridge_slave hairpin off").expect("ip is installed");
    serve(&server, 8080);
    start_listener();
    stage.apply(&web(&POD_2));
    for (family, vip) in VIPS.into_iter().enumerate() {
        for ask in [tcp, udp] {
            let (answered, seen) = ask(Some(&server), vip).expect("from the endpoint itself");
            // Without br_netfilter the packet comes to the host first, which sends it back.
            assert_eq!(answered, if bridged { LISTENER } else { 2 });
            assert!(!bridged || seen == server.addresses[family], "{seen}");
            assert_eq!(ask(Some(&client), vip).expect("from another pod").0, 2);
        }
    }
}

/// Many Services are no reason to lose one, and one that comes last is answered as the first.
fn the_last_of_many_services_is_answered(setup: Setup) {
    // An ordinary user's socket buffer holds no larger transaction of `iptables-nft-restore`.
    const COUNT: u32 = 200;
    let mut stage = Stage::new(setup);
    let server = stage.pod(2);
    serve(&server, 8080);
    let vip = |n: u32| std::net::Ipv4Addr::from_bits(0x0a60_0000 + n);
    let mut services: Vec<Svc> =
        (1..=COUNT).map(|n| Svc::new(&format!("{}:80/tcp", vip(n)), &[POD_2[0]])).collect();
    stage.apply(&services);
    for n in [1, COUNT / 2, COUNT] {
        assert_eq!(tcp(None, &format!("{}:80", vip(n))).expect("an answer").0, 2);
    }
    services.push(Svc::new(&format!("{}:80/tcp", vip(COUNT + 1)), &[POD_2[0]]));
    services.remove(0);
    stage.apply(&services);
    assert_eq!(tcp(None, &format!("{}:80", vip(COUNT + 1))).expect("an answer").0, 2);
    assert!(stage.interceptor.verify().expect("verified").is_empty());
}

crate::kernel::on_every_backend!(mixed:
    a_pod_behind_a_port_without_hairpin_reaches_itself,
    the_last_of_many_services_is_answered,
    the_listener_gets_its_share,
    what_went_one_way_goes_on_so,
    pods_of_a_host_that_does_not_forward_go_to_the_listener,
    the_inside_of_a_local_policy_goes_to_the_listener,
);
