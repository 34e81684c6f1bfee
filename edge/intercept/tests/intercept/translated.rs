//! Connections and datagrams that the kernel carries by itself: from the host, from Pods and from outside.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use edgemesh_intercept::Interceptor;
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::{Namespace, in_fresh_namespaces};

use crate::kernel::{Setup, Svc, install_on, ip, loopback_up, rules, tool};

/// Bounds every wait; nothing is expected to take it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node with the bridge `cni0` for its Pods, and a neighbour in its LAN.
pub(crate) struct Stage {
    pub(crate) interceptor: Interceptor,
    bridge: u32,
}

/// A network namespace with an address of each family.
pub(crate) struct Place {
    netns: Namespace,
    pub(crate) addresses: [IpAddr; 2],
}

const LAN: [(&str, u8); 2] = [("192.168.7.1", 24), ("fd00:7::1", 64)];

impl Stage {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with(install_on(setup))
    }

    pub(crate) fn with(interceptor: Interceptor) -> Self {
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{switch}"), "1").expect("a sysctl");
        }
        let mut rt = Handle::open().expect("rtnetlink");
        let bridge = Self::bridge(&mut rt, "cni0", [("10.244.0.1", 24), ("fd00:244::1", 64)]);
        // Absent where the kernel has no br_netfilter; then the rules masquerade neighbours on the bridge.
        for switch in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let _ = std::fs::write(format!("/proc/sys/net/bridge/{switch}"), "1");
        }
        Self { interceptor, bridge }
    }

    fn bridge(rt: &mut Handle, name: &str, addresses: [(&str, u8); 2]) -> u32 {
        rt.add_link(name, LinkKind::Bridge).expect("a bridge");
        let bridge = rt.link(name).expect("links").expect("the bridge").index;
        for (addr, len) in addresses {
            rt.add_address(bridge, Prefix::new(ip(addr), len), true).expect("an address");
        }
        rt.set_up(bridge, true).expect("up");
        bridge
    }

    /// A Pod at `10.244.0.LAST` and `fd00:244::LAST`.
    pub(crate) fn pod(&self, last: u8) -> Place {
        let addresses = [format!("10.244.0.{last}"), format!("fd00:244::{last}")];
        let place = self.place(&format!("pod{last}"), &addresses, ["10.244.0.1", "fd00:244::1"]);
        let mut rt = Handle::open().expect("rtnetlink");
        let port = rt.link(&format!("pod{last}")).expect("links").expect("a port").index;
        rt.set_master(port, Some(self.bridge)).expect("a port");
        rt.set_up(port, true).expect("up");
        // As CNI plugins set it (`hairpinMode`): without it a bridge never sends a packet back to where it came from.
        tool(&format!("ip link set pod{last} type bridge_slave hairpin on")).expect("ip is installed");
        place
    }

    /// A host in the node's LAN that knows the node as its router.
    pub(crate) fn neighbour(&self) -> Place {
        let addresses = ["192.168.7.9".to_owned(), "fd00:7::9".to_owned()];
        let place = self.place("lan0", &addresses, ["192.168.7.1", "fd00:7::1"]);
        let mut rt = Handle::open().expect("rtnetlink");
        let link = rt.link("lan0").expect("links").expect("lan0").index;
        for (addr, len) in LAN {
            rt.add_address(link, Prefix::new(ip(addr), len), true).expect("an address");
        }
        rt.set_up(link, true).expect("up");
        place
    }

    fn place(&self, link: &str, addresses: &[String; 2], gateways: [&str; 2]) -> Place {
        let netns = Namespace::new_net().expect("a namespace");
        let mut rt = Handle::open().expect("rtnetlink");
        let peer = Peer { name: "eth0", netns: Some(netns.as_fd()) };
        rt.add_link(link, LinkKind::Veth(peer)).expect("a veth");
        netns
            .run(|| {
                loopback_up();
                let mut rt = Handle::open().map_err(io::Error::other)?;
                let link = rt.link("eth0").map_err(io::Error::other)?.expect("eth0").index;
                rt.set_up(link, true).map_err(io::Error::other)?;
                for (addr, gateway) in addresses.iter().zip(gateways) {
                    let len = if addr.contains(':') { 64 } else { 24 };
                    rt.add_address(link, Prefix::new(ip(addr), len), true).map_err(io::Error::other)?;
                    let default = Prefix::default_of(ip(gateway));
                    let route = Route { oif: Some(link), ..Route::via(default, ip(gateway)) };
                    rt.add_route(&route).map_err(io::Error::other)?;
                }
                Ok(())
            })
            .expect("a place");
        Place { netns, addresses: addresses.each_ref().map(|text| ip(text)) }
    }

    pub(crate) fn apply(&mut self, services: &[Svc]) {
        let ruleset = rules(&mut self.interceptor, services, &[]);
        let applied = self.interceptor.apply(&ruleset).expect("applied");
        assert!(applied.repaired.is_empty(), "{applied:?}");
    }
}

/// A server in a place: it answers every connection and datagram with the last number of its address and the client's
/// address as it sees it.
pub(crate) fn serve(place: &Place, port: u16) {
    for address in place.addresses {
        let bound = SocketAddr::new(address, port);
        let (listener, socket) =
            place.netns.run(|| Ok((TcpListener::bind(bound)?, UdpSocket::bind(bound)?))).expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let seen = stream.peer_addr().map(|peer| peer.ip());
                let _ = seen.map(|seen| stream.write_all(answer(address, seen).as_bytes()));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(answer(address, peer.ip()).as_bytes(), peer);
            }
        });
    }
}

fn answer(own: IpAddr, seen: IpAddr) -> String {
    let last = match own {
        IpAddr::V4(own) => u16::from(own.octets()[3]),
        // The text says the same digits for both families.
        IpAddr::V6(own) => format!("{:x}", own.segments()[7]).parse().unwrap_or_default(),
    };
    format!("{last} {seen}")
}

/// Which server answered a connection, and whom it saw.
pub(crate) fn tcp(from: Option<&Place>, to: &str) -> io::Result<(u16, IpAddr)> {
    let to: SocketAddr = to.parse().expect("an address with port");
    inside(from, || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(parse(&text))
    })
}

/// The same for datagrams, of one socket each.
pub(crate) fn udp(from: Option<&Place>, to: &str) -> io::Result<(u16, IpAddr)> {
    let to: SocketAddr = to.parse().expect("an address with port");
    inside(from, || exchange(&udp_socket(to)?))
}

pub(crate) fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

pub(crate) fn exchange(socket: &UdpSocket) -> io::Result<(u16, IpAddr)> {
    socket.send(b"ping")?;
    receive(socket)
}

pub(crate) fn receive(socket: &UdpSocket) -> io::Result<(u16, IpAddr)> {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(parse(std::str::from_utf8(&buffer[..length]).expect("text")))
}

fn parse(text: &str) -> (u16, IpAddr) {
    let (server, seen) = text.split_once(' ').expect("an answer");
    (server.parse().expect("a number"), seen.parse().expect("an address"))
}

pub(crate) fn inside<T: Send>(
    place: Option<&Place>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match place {
        Some(place) => place.netns.run(work),
        None => work(),
    }
}

/// The Service `web` in both families at port 80, TCP and UDP, with these endpoints.
pub(crate) fn web(endpoints: &[&str]) -> Vec<Svc> {
    let of = |v6: bool| -> Vec<&str> {
        endpoints.iter().copied().filter(|endpoint| endpoint.starts_with('[') == v6).collect()
    };
    let (v4, v6) = (of(false), of(true));
    ["tcp", "udp"]
        .into_iter()
        .flat_map(|protocol| {
            [
                Svc::new(&format!("10.96.0.1:80/{protocol}"), &v4),
                Svc::new(&format!("[fd00:96::1]:80/{protocol}"), &v6),
            ]
        })
        .collect()
}

pub(crate) const VIPS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
pub(crate) const POD_2: [&str; 2] = ["10.244.0.2:8080@here", "[fd00:244::2]:8080@here"];
const POD_3: [&str; 2] = ["10.244.0.3:8080@here", "[fd00:244::3]:8080@here"];

fn host_and_pods_reach_pods_and_pods_are_seen_as_they_are(setup: Setup) {
    let mut stage = Stage::new(setup);
    let (server, client) = (stage.pod(2), stage.pod(3));
    serve(&server, 8080);
    stage.apply(&web(&POD_2));
    let bridge = [ip("10.244.0.1"), ip("fd00:244::1")];
    for (family, vip) in VIPS.into_iter().enumerate() {
        for ask in [tcp, udp] {
            assert_eq!(ask(None, vip).expect("from the host"), (2, bridge[family]));
            assert_eq!(ask(Some(&client), vip).expect("from a pod"), (2, client.addresses[family]));
            // Hairpin: a Pod that is answered by itself sees the node.
            assert_eq!(ask(Some(&server), vip).expect("from itself"), (2, bridge[family]));
        }
    }
}

fn connections_are_spread_over_all_endpoints(setup: Setup) {
    let mut stage = Stage::new(setup);
    let pods = [2, 3, 4].map(|last| stage.pod(last));
    pods.iter().for_each(|pod| serve(pod, 8080));
    let fourth = ["10.244.0.4:8080@here", "[fd00:244::4]:8080@here"];
    stage.apply(&web(&[POD_2, POD_3, fourth].concat()));
    for vip in VIPS {
        let mut counts = BTreeMap::<u16, u32>::new();
        for _ in 0..300 {
            *counts.entry(tcp(None, vip).expect("an answer").0).or_default() += 1;
        }
        // A fair draw leaves these bounds once in 10^6 runs (binomial, n = 300, p = 1/3, five deviations of 8.2).
        assert!(counts.len() == 3 && counts.values().all(|count| (59..=141).contains(count)), "{counts:?}");
    }
}

fn datagrams_leave_an_endpoint_that_is_gone(setup: Setup) {
    let mut stage = Stage::new(setup);
    let pods = [2, 3].map(|last| stage.pod(last));
    pods.iter().for_each(|pod| serve(pod, 8080));
    for (family, vip) in VIPS.into_iter().enumerate() {
        stage.apply(&web(&[POD_2[family]]));
        let socket = udp_socket(vip.parse().expect("an address")).expect("a socket");
        assert_eq!(exchange(&socket).expect("an answer").0, 2);
        // The socket stays: to the kernel it is one connection.
        stage.apply(&web(&[POD_3[family]]));
        assert_eq!(exchange(&socket).expect("an answer").0, 3);
        stage.apply(&web(&[POD_2[family], POD_3[family]]));
        assert_eq!(exchange(&socket).expect("an answer").0, 3, "an endpoint more changes nothing");
    }
}

fn sessions_keep_their_endpoint_until_it_is_gone(setup: Setup) {
    let mut stage = Stage::new(setup);
    let pods = [2, 3].map(|last| stage.pod(last));
    pods.iter().for_each(|pod| serve(pod, 8080));
    let sticky = |endpoints: &[&str]| -> Vec<Svc> {
        let web = web(endpoints).into_iter();
        web.map(|svc| svc.with(|entry| entry.affinity = Some(Duration::from_secs(3_600)))).collect()
    };
    for (family, vip) in VIPS.into_iter().enumerate() {
        let both = [POD_2[family], POD_3[family]];
        stage.apply(&sticky(&both));
        let (first, _) = tcp(None, vip).expect("an answer");
        for _ in 0..20 {
            assert_eq!(tcp(None, vip).expect("an answer").0, first);
        }
        // A successor of the agent writes the table anew; the sessions outlive it.
        drop(std::mem::replace(&mut stage.interceptor, install_on(setup)));
        stage.apply(&sticky(&both));
        for _ in 0..20 {
            assert_eq!(tcp(None, vip).expect("an answer").0, first);
        }
        let other = if first == 2 { 3 } else { 2 };
        stage.apply(&sticky(&[both[usize::from(other == 3)]]));
        assert_eq!(tcp(None, vip).expect("an answer").0, other);
        stage.apply(&sticky(&both));
        for _ in 0..20 {
            assert_eq!(tcp(None, vip).expect("an answer").0, other, "the session moved");
        }
    }
}

fn outside_clients_reach_node_ports_and_outer_addresses(setup: Setup) {
    let mut stage = Stage::new(setup);
    let pod = stage.pod(2);
    serve(&pod, 8080);
    let outside = stage.neighbour();
    let mut services: Vec<Svc> = web(&POD_2);
    for svc in &mut services {
        let v4 = svc.entry.cluster_ips[0].is_ipv4();
        if v4 {
            svc.entry.ports[0].node_port = Some(30_080);
        }
        svc.entry.external_ips = vec![ip(if v4 { "198.51.100.7" } else { "2001:db8::7" })];
    }
    // One node port of a Service is open in both families; its IPv6 endpoints are those of the IPv6 Service here.
    stage.apply(&services);
    for ask in [tcp, udp] {
        let seen = ask(Some(&outside), "192.168.7.1:30080").expect("a node port");
        assert_eq!(seen, (2, outside.addresses[0]), "the client's address is kept");
        for (family, to) in ["198.51.100.7:80", "[2001:db8::7]:80"].into_iter().enumerate() {
            assert_eq!(ask(Some(&outside), to).expect("an outer address"), (2, outside.addresses[family]));
        }
        let by_vip = ask(Some(&outside), VIPS[0]).expect("a cluster address from outside");
        assert_eq!(by_vip, (2, outside.addresses[0]));
    }
}

fn source_ranges_keep_others_away(setup: Setup) {
    let mut stage = Stage::new(setup);
    let pod = stage.pod(2);
    serve(&pod, 8080);
    let outside = stage.neighbour();
    let ranged = |ranges: [&str; 2]| -> Vec<Svc> {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        let mut services = web(&POD_2);
        for svc in &mut services {
            let v4 = svc.entry.cluster_ips[0].is_ipv4();
            svc.entry.load_balancer_ips = vec![ip(if v4 { "198.51.100.7" } else { "2001:db8::7" })];
            svc.entry.source_ranges = Some(ranges.clone());
        }
        services
    };
    let addresses = ["198.51.100.7:80", "[2001:db8::7]:80"];
    stage.apply(&ranged(["192.168.7.0/24", "fd00:7::/64"]));
    for to in addresses {
        assert_eq!(tcp(Some(&outside), to).expect("in the range").0, 2);
    }
    stage.apply(&ranged(["192.168.8.0/24", "fd00:8::/64"]));
    for to in addresses {
        let to: SocketAddr = to.parse().expect("an address");
        // Silence has no event to wait for; the time only bounds the attempt.
        let attempt = || TcpStream::connect_timeout(&to, Duration::from_millis(200)).map(drop);
        let error = inside(Some(&outside), attempt).expect_err("not in the range");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}

fn a_host_that_does_not_forward_serves_itself(setup: Setup) {
    let mut stage = Stage::new(setup);
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "0").expect("a sysctl");
    }
    let pod = stage.pod(2);
    serve(&pod, 8080);
    stage.apply(&web(&POD_2));
    for vip in VIPS {
        assert_eq!(tcp(None, vip).expect("from the host").0, 2);
        assert_eq!(udp(None, vip).expect("from the host").0, 2);
    }
}

/// nft 1.0.6 ends with an assertion when it lists a key that came from another map.
#[test]
fn nft_lists_what_we_install() {
    if !in_fresh_namespaces("translated::nft_lists_what_we_install") {
        return;
    }
    let mut stage = Stage::new(Setup::Nftables);
    let _pods = [2, 3].map(|last| stage.pod(last));
    let relayed = ["10.245.0.2:8080@there", "[fd00:245::2]:8080@there"];
    let mut services = web(&[POD_2, POD_3, relayed].concat());
    let others = [("10.96.0.2:80/tcp", POD_2[0]), ("[fd00:96::2]:80/tcp", POD_2[1])];
    services.extend(others.map(|(frontend, endpoint)| {
        Svc::new(frontend, &[endpoint]).with(|entry| {
            entry.affinity = Some(Duration::from_secs(60));
            entry.load_balancer_ips =
                vec![ip(if frontend.starts_with('[') { "2001:db8::7" } else { "198.51.100.7" })];
            entry.source_ranges = Some(vec!["192.168.0.0/16".parse().expect("a range")]);
        })
    }));
    stage.apply(&services);
    let Some(listing) = tool("nft list ruleset") else {
        println!("nft is not installed");
        return;
    };
    for word in ["pick_2_proxied_85", "pick_1_affinity_60", "services6", "allowed4"] {
        assert!(listing.contains(word), "{word}: {listing}");
    }
}

crate::kernel::on_every_backend!(translated:
    host_and_pods_reach_pods_and_pods_are_seen_as_they_are,
    connections_are_spread_over_all_endpoints,
    datagrams_leave_an_endpoint_that_is_gone,
    sessions_keep_their_endpoint_until_it_is_gone,
    outside_clients_reach_node_ports_and_outer_addresses,
    source_ranges_keep_others_away,
    a_host_that_does_not_forward_serves_itself,
);
