//! A client and a server with a router between them, which is the network namespace of the test.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use edgemesh_net::netlink::nft::{
    self, Base, Batch, Chain, ChainKind, Cmp, Element, Expr, Family, Hook, KeyType, Meta, Nat, Nft,
    PayloadBase, Rule, Table,
};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::Namespace;

pub(crate) const TABLE: Table<'static> = Table { family: Family::Inet, name: "services" };

/// Bounds every wait; nothing is expected to take it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const UDP: u8 = 17;

/// One address family's view of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    pub(crate) family: Family,
    pub(crate) client: &'static str,
    /// A second address of the client.
    pub(crate) other_client: &'static str,
    pub(crate) router: &'static str,
    pub(crate) server: &'static str,
    /// An address that nobody has.
    pub(crate) vip: &'static str,
}

pub(crate) const NETS: [Net; 2] = [
    Net {
        family: Family::Ip,
        client: "10.1.0.2",
        other_client: "10.1.0.77",
        router: "10.1.0.1",
        server: "10.2.0.2",
        vip: "10.96.0.1",
    },
    Net {
        family: Family::Ip6,
        client: "fd00:1::2",
        other_client: "fd00:1::77",
        router: "fd00:1::1",
        server: "fd00:2::2",
        vip: "fd00:96::1",
    },
];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn octets(addr: &str) -> Vec<u8> {
    match ip(addr) {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

impl Net {
    pub(crate) fn address(self) -> KeyType {
        if self.family == Family::Ip { KeyType::Ipv4Addr } else { KeyType::Ipv6Addr }
    }

    /// Registers an address takes.
    pub(crate) fn registers(self) -> u32 {
        if self.family == Family::Ip { 1 } else { 4 }
    }

    /// A name for this family alone.
    pub(crate) fn name(self, name: &str) -> String {
        format!("{name}{}", if self.family == Family::Ip { 4 } else { 6 })
    }

    /// Loads an address of the packet (offsets of RFC 791 and RFC 8200).
    pub(crate) fn load(self, destination: bool, reg: u32) -> Expr {
        let (offset, len) = match (self.family, destination) {
            (Family::Ip, false) => (12, 4),
            (Family::Ip, true) => (16, 4),
            (_, false) => (8, 16),
            (_, true) => (24, 16),
        };
        Expr::Payload { base: PayloadBase::Network, offset, len, reg }
    }

    /// Destination address from `reg` on, protocol and destination port behind it.
    pub(crate) fn load_frontend(self, rule: Rule, reg: u32) -> Rule {
        let next = reg + self.registers();
        rule.expr(self.load(true, reg))
            .expr(Expr::Meta { key: Meta::L4proto, reg: next })
            .expr(Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, reg: next + 1 })
    }

    pub(crate) fn rule(self) -> Rule {
        Rule::new().nfproto(self.family).l4proto(Cmp::Eq, UDP)
    }

    /// Translates to the address from `reg` on and the port behind it.
    pub(crate) fn dnat(self, reg: u32) -> Expr {
        let port = Some(reg + self.registers());
        Expr::Nat { kind: Nat::Dnat, family: self.family, addr: reg, port, flags: 0 }
    }

    pub(crate) fn frontend(self, port: u16) -> Element {
        Element::concat(&[&octets(self.vip), &[UDP], &port.to_be_bytes()])
    }

    pub(crate) fn backend(self, port: u16) -> Vec<u8> {
        nft::concat(&[&octets(self.server), &port.to_be_bytes()])
    }
}

/// The two hosts; the router is where the test runs.
pub(crate) struct Lan {
    client: Namespace,
    server: Namespace,
}

impl Lan {
    pub(crate) fn new() -> Self {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a sysctl");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("a sysctl");
        let client = host("client0", &[("10.1.0.1", 24), ("fd00:1::1", 64)]);
        let addresses = [("10.1.0.2", 24), ("10.1.0.77", 24), ("fd00:1::2", 64), ("fd00:1::77", 64)];
        inside(&client, &addresses, ["10.1.0.1", "fd00:1::1"]);
        let server = host("server0", &[("10.2.0.1", 24), ("fd00:2::1", 64)]);
        inside(&server, &[("10.2.0.2", 24), ("fd00:2::2", 64)], ["10.2.0.1", "fd00:2::1"]);
        Self { client, server }
    }

    /// A socket of the client.
    pub(crate) fn client(&self, from: &str, to: (&str, u16)) -> UdpSocket {
        let (from, to) = (ip(from), SocketAddr::new(ip(to.0), to.1));
        let socket = self.client.run(|| {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect(to)?;
            Ok(socket)
        });
        patient(socket.expect("a socket of the client"))
    }

    /// A socket of the server.
    pub(crate) fn server(&self, net: Net, port: u16) -> UdpSocket {
        let addr = SocketAddr::new(ip(net.server), port);
        patient(self.server.run(|| UdpSocket::bind(addr)).expect("a socket of the server"))
    }
}

fn patient(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    socket
}

/// A namespace on a veth whose near end has these addresses.
fn host(name: &str, addresses: &[(&str, u8)]) -> Namespace {
    let namespace = Namespace::new_net().expect("a namespace");
    let mut rt = Handle::open().expect("rtnetlink");
    rt.add_link(name, LinkKind::Veth(Peer { name: "eth0", netns: Some(namespace.as_fd()) })).expect("a veth");
    let link = rt.link(name).expect("links").expect("the near end").index;
    for (addr, len) in addresses {
        rt.add_address(link, Prefix::new(ip(addr), *len), true).expect("an address");
    }
    rt.set_up(link, true).expect("up");
    namespace
}

fn inside(namespace: &Namespace, addresses: &[(&str, u8)], gateways: [&str; 2]) {
    let set_up = || {
        let mut rt = Handle::open().expect("rtnetlink");
        let link = rt.link("eth0").expect("links").expect("the far end").index;
        rt.set_up(link, true).expect("up");
        for (addr, len) in addresses {
            rt.add_address(link, Prefix::new(ip(addr), *len), true).expect("an address");
        }
        for gateway in gateways {
            let default = Prefix::default_of(ip(gateway));
            let route = Route { oif: Some(link), ..Route::via(default, ip(gateway)) };
            rt.add_route(&route).expect("a default route");
        }
        Ok(())
    };
    namespace.run(set_up).expect("a host");
}

/// The table anew, with a chain where destinations are translated and one where forwarded packets are filtered.
pub(crate) fn base(drop: bool) -> Batch {
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    let base = Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, drop: false };
    batch.add_chain(TABLE, Chain { name: "nat", base: Some(base) });
    let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, drop };
    batch.add_chain(TABLE, Chain { name: "forward", base: Some(base) });
    batch
}

pub(crate) fn commit(batch: &Batch) {
    Nft::open().expect("nftables").commit(batch).unwrap_or_else(|error| panic!("{error}"));
}

/// Sends `text` from the client and waits until one of the servers has it, which answers; says which one. Whatever a
/// server gets before is a packet that should have been dropped.
pub(crate) fn ask(client: &UdpSocket, servers: &[UdpSocket], text: &str) -> usize {
    client.send(text.as_bytes()).expect("sent");
    let index = wait_for_one(servers);
    let mut buffer = [0; 64];
    let (len, from) = servers[index].recv_from(&mut buffer).expect("a request");
    assert_eq!(std::str::from_utf8(&buffer[..len]), Ok(text));
    servers[index].send_to(b"answer", from).expect("sent");
    let len = client.recv(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..len], b"answer");
    index
}

/// Index of a socket with something to read.
fn wait_for_one(servers: &[UdpSocket]) -> usize {
    if let [server] = servers {
        assert!(edgemesh_net::netns::wait_readable(server, PATIENCE).expect("a poll"), "nothing arrives");
        return 0;
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        for (index, server) in servers.iter().enumerate() {
            // A millisecond per socket: whichever has something is found in the next round.
            if edgemesh_net::netns::wait_readable(server, Duration::from_millis(1)).expect("a poll") {
                return index;
            }
        }
        assert!(std::time::Instant::now() < deadline, "nothing arrives");
    }
}

/// Sends what the rules must drop. A later [`ask`] shows that it did not arrive: packets keep their order.
pub(crate) fn send_in_vain(client: &UdpSocket) {
    match client.send(b"in vain") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
    }
}
