use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use edgemesh_net::netlink::conntrack::{Conntrack, Entry, Family, Tuple, Wanted};
use edgemesh_net::netlink::nft::{self, Batch, Cmp, Nat, PayloadBase, ct_status};
use edgemesh_net::netns::in_fresh_namespaces;

use crate::lan::{Lan, NETS, Net, TABLE, UDP, ask, base, commit, ip, octets};

const PORT: u16 = 53;
const SERVERS: [u16; 2] = [8053, 8054];

fn family(net: Net) -> Family {
    if net.family == nft::Family::Ip { Family::V4 } else { Family::V6 }
}

fn entries(conntrack: &mut Conntrack, net: Net, protocol: u8) -> Vec<Entry> {
    let mut entries = Vec::new();
    conntrack.entries(family(net), protocol, |entry| entries.push(entry)).expect("entries");
    entries
}

/// Translates what goes to the virtual address to one server.
fn translate_to(port: u16) {
    let mut batch: Batch = base(false);
    for net in NETS {
        let offset = if net.family == nft::Family::Ip { 16 } else { 24 };
        let rule = net.rule().payload(PayloadBase::Network, offset, Cmp::Eq, &octets(net.vip));
        batch.add_rule(TABLE, "nat", &rule.nat(Nat::Dnat, ip(net.server), Some(port)));
    }
    commit(&batch);
}

struct Flow {
    net: Net,
    client: UdpSocket,
    servers: [UdpSocket; 2],
}

impl Flow {
    /// Asks and says on which port the server got it.
    fn ask(&self) -> u16 {
        SERVERS[ask(&self.client, &self.servers, "request")]
    }

    fn original(&self) -> Tuple {
        let src = self.client.local_addr().expect("an address");
        Tuple { protocol: UDP, src, dst: SocketAddr::new(ip(self.net.vip), PORT), zone: None }
    }
}

fn flows(lan: &Lan) -> Vec<Flow> {
    NETS.into_iter()
        .map(|net| Flow {
            net,
            client: lan.client(net.client, (net.vip, PORT)),
            servers: SERVERS.map(|port| lan.server(net, port)),
        })
        .collect()
}

#[test]
fn connections_are_listed_as_they_were_translated() {
    if !in_fresh_namespaces("conntrack::connections_are_listed_as_they_were_translated") {
        return;
    }
    let lan = Lan::new();
    let mut conntrack = Conntrack::open().unwrap();
    translate_to(SERVERS[0]);
    for flow in flows(&lan) {
        assert_eq!(entries(&mut conntrack, flow.net, UDP), []);
        assert_eq!(flow.ask(), SERVERS[0]);
        let [entry] = entries(&mut conntrack, flow.net, UDP)[..] else { panic!("{:?}", flow.net) };
        assert_eq!(entry.original, flow.original());
        let server = SocketAddr::new(ip(flow.net.server), SERVERS[0]);
        assert_eq!((entry.reply.src, entry.reply.dst), (server, entry.original.src));
        let expected = ct_status::SEEN_REPLY | ct_status::CONFIRMED | ct_status::DST_NAT;
        assert_eq!(entry.status & (expected | ct_status::SRC_NAT | ct_status::DYING), expected);
        assert_eq!((entry.zone, entry.mark), (0, 0));
        assert_eq!(entries(&mut conntrack, flow.net, 6), []);
        assert_eq!(conntrack.find(&flow.original(), 0).unwrap(), Some(entry));
        assert_eq!(conntrack.find(&flow.original(), 1).unwrap(), None);
        assert_eq!(conntrack.find(&Tuple { protocol: 6, ..flow.original() }, 0).unwrap(), None);
    }
}

#[test]
fn a_deleted_connection_is_translated_anew() {
    if !in_fresh_namespaces("conntrack::a_deleted_connection_is_translated_anew") {
        return;
    }
    let lan = Lan::new();
    let mut conntrack = Conntrack::open().unwrap();
    for flow in flows(&lan) {
        translate_to(SERVERS[0]);
        assert_eq!(flow.ask(), SERVERS[0]);
        // A flow goes where it went, whatever the rules say by now.
        translate_to(SERVERS[1]);
        assert_eq!(flow.ask(), SERVERS[0]);
        let original = flow.original();
        let [entry] = entries(&mut conntrack, flow.net, UDP)[..] else { panic!("{:?}", flow.net) };
        assert!(!conntrack.delete(&original, 0, Some(entry.id.wrapping_add(1))).unwrap());
        assert!(!conntrack.delete(&original, 1, None).unwrap());
        assert!(conntrack.delete(&original, entry.zone, Some(entry.id)).unwrap());
        assert!(!conntrack.delete(&original, 0, None).unwrap());
        assert_eq!(flow.ask(), SERVERS[1]);
        assert!(conntrack.delete(&original, 0, None).unwrap());
    }
}

#[test]
fn stale_connections_of_both_families_are_deleted() {
    if !in_fresh_namespaces("conntrack::stale_connections_of_both_families_are_deleted") {
        return;
    }
    // More than one answer of the kernel holds (32 KiB of more than 120 bytes each), and fewer sockets than the usual
    // limit of 1024.
    const FLOWS: usize = 300;
    let lan = Lan::new();
    let mut conntrack = Conntrack::open().unwrap();
    translate_to(SERVERS[0]);
    let mut stay = BTreeSet::new();
    let mut clients = Vec::new();
    for net in NETS {
        let server = [lan.server(net, SERVERS[0])];
        for n in 0..FLOWS {
            // Some flows that nobody translates.
            let to = if n % 10 == 0 { (net.server, SERVERS[0]) } else { (net.vip, PORT) };
            let client = lan.client(net.client, to);
            ask(&client, &server, "request");
            if n % 10 == 0 {
                stay.insert(client.local_addr().unwrap());
            }
            // Its port stays taken, so that every flow has one of its own.
            clients.push(client);
        }
    }
    let stale = |entry: &Entry| entry.status & ct_status::DST_NAT != 0;
    assert_eq!(conntrack.delete_where(6, |_| true).unwrap(), 0);
    assert_eq!(conntrack.delete_where(UDP, stale).unwrap(), 2 * FLOWS - stay.len());
    assert_eq!(conntrack.delete_where(UDP, stale).unwrap(), 0);
    let left: BTreeSet<SocketAddr> =
        NETS.iter().flat_map(|net| entries(&mut conntrack, *net, UDP)).map(|it| it.original.src).collect();
    assert_eq!(left, stay);
    // A connection that ends between listing and deleting is no error.
    let mut other = Conntrack::open().unwrap();
    let raced = conntrack.delete_where(UDP, |entry| {
        assert!(other.delete(&entry.original, entry.zone, None).unwrap());
        true
    });
    assert_eq!(raced.unwrap(), 0);
}

#[test]
fn the_kernel_tells_only_of_what_is_wanted() {
    if !in_fresh_namespaces("conntrack::the_kernel_tells_only_of_what_is_wanted") {
        return;
    }
    let lan = Lan::new();
    let mut conntrack = Conntrack::open().unwrap();
    for net in NETS {
        let servers = SERVERS.map(|port| lan.server(net, port));
        let mut clients = Vec::new();
        // Two flows to the virtual address by each server, and one that nobody translates.
        for to in [(net.vip, PORT, SERVERS[0]), (net.vip, PORT, SERVERS[1]), (net.server, SERVERS[1], 0)] {
            if to.2 != 0 {
                translate_to(to.2);
            }
            let client = lan.client(net.client, (to.0, to.1));
            ask(&client, &servers, "request");
            clients.push(client);
        }
        let vip = SocketAddr::new(ip(net.vip), PORT);
        let [first, second] = SERVERS.map(|port| SocketAddr::new(ip(net.server), port));
        let mut told = |wanted| {
            let mut told = 0;
            let of = |entry: &Entry| {
                told += usize::from(entry.original.protocol == UDP);
                false
            };
            assert_eq!(conntrack.delete_of(&[wanted], UDP, of).unwrap(), 0);
            told
        };
        for (wanted, expected) in [
            (Wanted::All(family(net)), 3),
            (Wanted::To(vip), 2),
            (Wanted::To(second), 1),
            (Wanted::LedTo(first), 1),
            (Wanted::LedTo(second), 2),
            (Wanted::LedTo(vip), 0),
        ] {
            assert_eq!(told(wanted), expected, "{wanted:?}");
        }
        let mut delete = |wanted: &[Wanted]| conntrack.delete_of(wanted, UDP, |_| true).unwrap();
        assert_eq!(delete(&[Wanted::LedTo(first), Wanted::To(second), Wanted::To(first)]), 2);
        assert_eq!(delete(&[Wanted::LedTo(first)]), 0);
        assert_eq!(delete(&[Wanted::To(vip)]), 1);
    }
}
