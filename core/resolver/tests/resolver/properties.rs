//! Whatever comes over the network, nothing panics, and what is sent can be read.

use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use edgemesh_resolver::{Step, Transport, check_query, check_upstream, parse_resolv_conf};
use proptest::prelude::*;

use crate::fixture::{With, World, query, upstream_reply};

const QUESTIONS: [&str; 8] = [
    "web.default.svc.cluster.local A",
    "db.data.svc.cluster.local SRV",
    "_sql._tcp.db.data.svc.cluster.local SRV",
    "1.0.96.10.in-addr.arpa PTR",
    "via.default.svc.cluster.local AAAA",
    "10-0-0-1.default.pod.cluster.local A",
    "cluster.local ANY",
    "www.example.com MX",
];

fn assert_readable(reply: &[u8], asked: &[u8]) {
    let message = Message::from_octets(reply).expect("a header");
    assert_eq!(reply[..2], asked[..2]);
    assert!(message.header().qr());
    for question in message.question() {
        question.expect("a question");
    }
    for record in message.iter() {
        let (record, _) = record.expect("a record");
        record.into_any_record::<AllRecordData<_, ParsedName<_>>>().expect("its data");
    }
}

fn feed(packet: &[u8], transport: Transport) {
    let mut world = World::new();
    let (step, reply) = world.send(packet, transport);
    if matches!(step, Step::Reply(_)) {
        assert_readable(&reply, packet);
    }
}

proptest! {
    #[test]
    fn arbitrary_packets(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = check_query(&packet);
        check_upstream(&packet);
        feed(&packet, Transport::Udp);
    }

    #[test]
    fn mutated_queries(
        which in 0..QUESTIONS.len(),
        edns in any::<bool>(),
        tcp in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let with = With { edns: edns.then_some(1232), ..With::default() };
        let mut packet = query(QUESTIONS[which], with);
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        feed(&packet, transport);
        feed(&packet[..cut.index(packet.len() + 1)], transport);
    }

    #[test]
    fn mutated_replies(
        alias in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut world = World::new();
        let name = if alias { "out.default.svc.cluster.local A" } else { "www.example.com A" };
        let packet = query(name, With { edns: Some(1232), ..With::default() });
        world.send(&packet, Transport::Udp);
        let ask = world.asked();
        let mut reply = upstream_reply(
            &ask.message,
            "NOERROR\nwww.example.com 9 CNAME a.example.com\na.example.com 9 A 192.0.2.1\n--\nexample.com 9 SOA 9",
        );
        for (at, value) in changes {
            let at = at.index(reply.len());
            // Question and id stay, or the reply would not reach the parser.
            if at == 3 || (at > 5 && at < 12) || at > 32 {
                reply[at] = value;
            }
        }
        reply.truncate(cut.index(reply.len() * 2 + 1));
        world.resolver.handle_upstream(ask.id, Ok(&reply), world.now, 0);
        while let Some(output) = world.resolver.poll_output() {
            if let edgemesh_resolver::Output::Answer { message, .. } = output {
                assert_readable(&message, &packet);
            }
        }
        let (step, kept) = world.send(&packet, Transport::Udp);
        if matches!(step, Step::Reply(_)) {
            assert_readable(&kept, &packet);
        }
    }

    #[test]
    fn arbitrary_resolv_conf(text in "(nameserver [ -~]{0,20}\n|[ -~]{0,30}\n){0,20}") {
        prop_assert!(parse_resolv_conf(&text).len() <= edgemesh_resolver::MAX_UPSTREAMS);
    }
}
