//! Packets that are odd: what is refused, with which code, and what is dropped.

use domain::base::Message;
use edgemesh_resolver::{DropReason, Malformed, Origin, Step, Transport, check_query, parse_resolv_conf};

use crate::fixture::{With, World, query, text};

const WEB: &str = "web.default.svc.cluster.local A";

#[track_caller]
fn check(packet: &[u8], expected: &str) {
    let (step, reply) = World::new().send(packet, Transport::Udp);
    assert_eq!(step, Step::Reply(Origin::Refused));
    assert_eq!(text(&reply), expected);
    assert_eq!(reply[..2], packet[..2]);
}

#[test]
fn responses_and_fragments_get_no_answer() {
    let mut world = World::new();
    let mut packet = query(WEB, With::default());
    packet[2] |= 0x80;
    assert_eq!(world.send(&packet, Transport::Udp).0, Step::Drop(DropReason::Response));
    assert_eq!(world.send(&packet[..11], Transport::Udp).0, Step::Drop(DropReason::Short));
    assert_eq!(check_query(&packet), Err(Malformed::Response));
}

#[test]
fn form() {
    let good = query(WEB, With::default());
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    check(&changed(2, 0x11), "NOTIMP");
    check(&changed(5, 2), "FORMERR");
    check(&changed(5, 0), "FORMERR");
    check(&good[..good.len() - 1], "FORMERR");
    // A compression pointer in the question, an extended label type.
    check(&changed(12, 0xc0), "FORMERR");
    check(&changed(12, 0x41), "FORMERR");
    // A record is announced and missing.
    check(&changed(11, 1), "FORMERR");
}

#[test]
fn types_and_classes_that_are_not_given() {
    check(&query("cluster.local AXFR", With::default()), "REFUSED");
    check(&query("cluster.local IXFR", With::default()), "REFUSED");
    check(&query("example.com OPT", With::default()), "FORMERR");
    check(&query("example.com TKEY", With::default()), "NOTIMP");
    check(&query("example.com ANY", With::default()), "NOERROR\nexample.com 30 HINFO \"RFC8482\" \"\"");
    let mut chaos = query("version.bind TXT", With::default());
    let class = chaos.len() - 1;
    chaos[class] = 3;
    check(&chaos, "REFUSED");
    chaos[class] = 4;
    check(&chaos, "NOTIMP");
}

#[test]
fn edns() {
    let mut world = World::new();
    let (_, reply) = world.query(WEB, With { edns: Some(4096), dnssec_ok: true, ..With::default() });
    let reply = Message::from_octets(reply).unwrap();
    let opt = reply.opt().unwrap();
    assert_eq!((opt.udp_payload_size(), opt.version(), opt.dnssec_ok()), (1232, 0, true));

    let (_, reply) = world.query(WEB, With::default());
    assert!(Message::from_octets(reply).unwrap().opt().is_none());

    let mut version = query(WEB, With { edns: Some(1232), ..With::default() });
    let at = version.len() - 5;
    version[at] = 1;
    check(&version, "BADVERS");

    let mut twice = query(WEB, With { edns: Some(1232), ..With::default() });
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend_from_slice(&opt);
    twice[11] = 2;
    check(&twice, "FORMERR");
}

#[test]
fn resolv_conf() {
    let servers = parse_resolv_conf(
        "# comment\nsearch a.b\nnameserver 192.0.2.1\n  nameserver   fe80::1%eth0 trailing\n\
         nameserver 192.0.2.1\nnameserver nonsense\nnameserver\noptions ndots:5\nnameserver 2001:db8::1\n",
    );
    let servers: Vec<_> =
        servers.iter().map(|server| (server.ip.to_string(), server.scope.as_deref())).collect();
    let expected = [("192.0.2.1", None), ("fe80::1", Some("eth0")), ("2001:db8::1", None)];
    assert_eq!(servers, expected.map(|(ip, scope)| (ip.to_owned(), scope)));
}
