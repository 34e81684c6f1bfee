//! Names of others: forwarding, cache, stale answers, health, loops.

use std::time::Duration;

use domain::base::Message;
use edgemesh_resolver::{Ask, AskFailure, Notice, Origin, Output, ResolverSettings, Step, Transport};

use crate::fixture::{UPSTREAM, UPSTREAM2, With, World, settings, text};

const WWW: &str = "www.example.com A";
const ANSWER: &str = "NOERROR\nwww.example.com 300 A 192.0.2.1";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Asks and lets the upstream answer.
fn learn(world: &mut World, question: &str, records: &str) -> String {
    assert_eq!(world.query(question, With::default()).0, Step::Pending);
    let ask = world.asked();
    world.reply(&ask, records);
    world.answers().remove(0).2
}

fn is_probe(ask: &Ask) -> bool {
    ask.message.windows(10).any(|part| part == b"loop-probe")
}

/// Lets every attempt of the question that was just asked fail.
fn give_up(world: &mut World, failure: AskFailure) -> (usize, Vec<(u32, Origin, String)>) {
    let (mut tries, mut answers) = (0, Vec::new());
    while let Some(output) = world.resolver.poll_output() {
        match output {
            Output::Ask(ask) if is_probe(&ask) => {}
            Output::Ask(ask) => {
                tries += 1;
                if failure == AskFailure::TimedOut {
                    world.now = ask.deadline;
                }
                world.resolver.handle_upstream(ask.id, Err(failure), world.now, world.draw);
            }
            Output::Answer { client, message, origin } => answers.push((client, origin, text(&message))),
            Output::Notice(_) => {}
        }
    }
    (tries, answers)
}

#[test]
fn a_question_is_forwarded_once_and_then_kept() {
    let mut world = World::new();
    world.draw = 0x1234;
    assert_eq!(world.query("WWW.example.com A", With { id: 7, ..With::default() }).0, Step::Pending);
    let ask = world.asked();
    assert_eq!((ask.server, ask.transport), (UPSTREAM.parse().unwrap(), Transport::Udp));
    let sent = Message::from_octets(&ask.message).unwrap();
    assert_eq!(sent.header().id(), 0x1234);
    assert!(sent.header().rd() && sent.opt().unwrap().udp_payload_size() == 1232);
    assert_eq!(sent.sole_question().unwrap().qname().to_string(), "www.example.com");
    world.reply(&ask, ANSWER);
    let upstream = "NOERROR\nWWW.example.com 300 A 192.0.2.1".to_owned();
    assert_eq!(world.answers(), [(1, Origin::Upstream, upstream)]);
    world.pass(secs(100));
    assert_eq!(world.ask(WWW), "NOERROR\nwww.example.com 200 A 192.0.2.1");
    world.pass(secs(200));
    assert_eq!(world.query(WWW, With::default()).0, Step::Pending);
}

#[test]
fn the_same_question_of_many_is_asked_once() {
    let mut world = World::new();
    for _ in 0..3 {
        assert_eq!(world.query(WWW, With { id: 9, ..With::default() }).0, Step::Pending);
    }
    let ask = world.asked();
    assert_eq!(world.resolver.in_flight(), 1);
    world.reply(&ask, ANSWER);
    let clients: Vec<u32> = world.answers().iter().map(|answer| answer.0).collect();
    assert_eq!(clients, [1, 2, 3]);
    // With DO the answer may be another one.
    world.query(WWW, With { edns: Some(1232), dnssec_ok: true, ..With::default() });
    assert!(Message::from_octets(world.asked().message).unwrap().opt().unwrap().dnssec_ok());
}

#[test]
fn denials_are_kept_as_their_soa_says() {
    let denial = "NXDOMAIN\n--\nexample.com 900 SOA 60";
    let expected = "NXDOMAIN\n--\nexample.com 900 SOA ns.x m.x 1 1 1 1 60";
    let mut world = World::new();
    assert_eq!(learn(&mut world, WWW, denial), expected);
    world.pass(secs(59));
    assert!(world.ask(WWW).starts_with("NXDOMAIN"));
    world.pass(secs(1));
    assert_eq!(learn(&mut world, WWW, "NOERROR"), "NOERROR");
    // Without SOA nothing says for how long; the older answer stays, as a stale one.
    assert_eq!(world.query(WWW, With::default()).0, Step::Pending);
}

#[test]
fn caps_bound_what_an_upstream_may_say() {
    let settings = ResolverSettings {
        max_ttl: secs(10),
        max_negative_ttl: secs(5),
        max_stale: secs(0),
        cache_entries: 2,
        ..settings()
    };
    let mut world = World::with(&settings, &[UPSTREAM]);
    learn(&mut world, WWW, ANSWER);
    learn(&mut world, "no.example.com A", "NXDOMAIN\n--\nexample.com 900 SOA 900");
    world.pass(secs(5));
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Cache));
    assert_eq!(world.query("no.example.com A", With::default()).0, Step::Pending);
    world.pass(secs(5));
    assert_eq!(world.query(WWW, With::default()).0, Step::Pending);
    for index in 0..10 {
        let mut world = World::with(&settings, &[UPSTREAM]);
        for name in 0..=index {
            learn(
                &mut world,
                &format!("n{name}.example.com A"),
                &format!("NOERROR\nn{name}.example.com 9 A 192.0.2.1"),
            );
        }
        assert_eq!(world.resolver.cached().0, (index + 1).min(2));
    }
}

#[test]
fn octets_are_bounded() {
    let settings = ResolverSettings { cache_bytes: 4096, ..settings() };
    let mut world = World::with(&settings, &[UPSTREAM]);
    for index in 0..50 {
        let name = format!("n{index}.example.com");
        learn(&mut world, &format!("{name} TXT"), &format!("NOERROR\n{name} 99 TXT {}", "x".repeat(200)));
        assert!(world.resolver.cached().1 <= 4096);
    }
    assert!(world.resolver.cached().0 > 5);
}

#[test]
fn stale_answers_after_a_while() {
    let mut world = World::new();
    learn(&mut world, WWW, ANSWER);
    world.pass(secs(301));
    assert_eq!(world.query(WWW, With::default()).0, Step::Pending);
    let ask = world.asked();
    assert_eq!(world.resolver.poll_timeout(), Some(world.now + Duration::from_millis(1800)));
    world.pass(Duration::from_millis(1800));
    world.resolver.handle_timeout(world.now);
    let stale = "NOERROR\nwww.example.com 30 A 192.0.2.1".to_owned();
    assert_eq!(world.answers(), [(2, Origin::Stale, stale.clone())]);
    assert_eq!(world.resolver.poll_timeout(), None);
    // Who comes later does not wait at all.
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Stale));
    world.reply(&ask, "NOERROR\nwww.example.com 300 A 192.0.2.2");
    assert_eq!(world.ask(WWW), "NOERROR\nwww.example.com 300 A 192.0.2.2");
    world.pass(secs(300 + 86_401));
    world.query(WWW, With::default());
    assert_eq!(give_up(&mut world, AskFailure::TimedOut).1[0].2, "SERVFAIL");
}

#[test]
fn stale_at_once_while_upstreams_are_known_to_be_down() {
    let mut world = World::new();
    learn(&mut world, WWW, ANSWER);
    world.pass(secs(301));
    world.query(WWW, With::default());
    let (tries, answers) = give_up(&mut world, AskFailure::TimedOut);
    assert_eq!((tries, answers[0].1), (5, Origin::Stale));
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Stale));
    assert_eq!(world.resolver.in_flight(), 0);
    world.pass(secs(6));
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Stale));
    let probe = world.asked();
    world.reply(&probe, ANSWER);
    assert_eq!(
        world.resolver.poll_output(),
        Some(Output::Notice(Notice::UpstreamUp(UPSTREAM.parse().unwrap())))
    );
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Cache));
}

#[test]
fn silence_is_bounded_in_time_and_tries() {
    let mut world = World::with(&settings(), &[UPSTREAM, UPSTREAM2]);
    let began = world.now;
    world.query(WWW, With { edns: Some(1232), ..With::default() });
    let (tries, answers) = give_up(&mut world, AskFailure::TimedOut);
    assert_eq!(tries, 5);
    assert_eq!(answers, [(1, Origin::Failed, "SERVFAIL".to_owned())]);
    assert_eq!(world.now - began, secs(4));
    // For a second the failure is remembered.
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Cache));
    world.pass(secs(1));
    assert_eq!(world.query(WWW, With::default()).0, Step::Pending);
}

#[test]
fn refused_sockets_fail_at_once() {
    let mut world = World::with(&settings(), &[UPSTREAM, UPSTREAM2]);
    world.query(WWW, With::default());
    let (tries, answers) = give_up(&mut world, AskFailure::Socket);
    assert_eq!((tries, answers[0].2.as_str()), (2, "SERVFAIL"));
}

#[test]
fn the_next_upstream_is_asked_and_then_preferred() {
    let mut world = World::with(&settings(), &[UPSTREAM, UPSTREAM2]);
    world.query(WWW, With::default());
    let first = world.asked();
    world.resolver.handle_upstream(first.id, Err(AskFailure::TimedOut), world.now, 5);
    let second = world.asked();
    assert_eq!(second.server, UPSTREAM2.parse().unwrap());
    assert_ne!(first.message[..2], second.message[..2]);
    // The first attempt's reply comes too late to count.
    world.reply(&first, "NOERROR\nwww.example.com 300 A 192.0.2.66");
    assert_eq!(world.answers(), []);
    world.reply(&second, ANSWER);
    assert_eq!(world.answers()[0].2, ANSWER);
    world.query("other.example.com A", With::default());
    assert_eq!(world.asked().server, UPSTREAM2.parse().unwrap());
}

#[test]
fn an_upstreams_error_is_passed_on_when_no_other_does_better() {
    let mut world = World::with(&settings(), &[UPSTREAM, UPSTREAM2]);
    world.query(WWW, With::default());
    let first = world.asked();
    world.reply(&first, "REFUSED");
    let second = world.asked();
    assert_eq!(second.server, UPSTREAM2.parse().unwrap());
    world.reply(&second, "REFUSED");
    assert_eq!(world.answers()[0].2, "REFUSED");
}

#[test]
fn truncated_replies_are_asked_for_over_tcp() {
    let mut world = World::new();
    world.query(WWW, With::default());
    let first = world.asked();
    world.reply(&first, "NOERROR\nTC");
    let second = world.asked();
    assert_eq!((second.transport, second.server), (Transport::Tcp, first.server));
    let many: String = (0..100).map(|n| format!("\nwww.example.com 300 A 192.0.2.{n}")).collect();
    world.reply(&second, &format!("NOERROR{many}"));
    let answer = world.answers().remove(0).2;
    assert!(answer.starts_with("NOERROR tc\n"));
    let (_, full) = world.query(WWW, With { tcp: true, ..With::default() });
    assert_eq!(text(&full).lines().count(), 101);
}

#[test]
fn servers_without_edns_are_asked_without() {
    let mut world = World::new();
    world.query(WWW, With::default());
    let first = world.asked();
    world.reply(&first, "FORMERR");
    let second = world.asked();
    assert!(Message::from_octets(&second.message).unwrap().opt().is_none());
    world.reply(&second, ANSWER);
    assert_eq!(world.answers()[0].2, ANSWER);
}

#[test]
fn forgeries_do_not_count() {
    let mut world = World::new();
    world.query(WWW, With::default());
    let ask = world.asked();
    let mut forged = crate::fixture::upstream_reply(&ask.message, ANSWER);
    assert!(edgemesh_resolver::reply_matches(&ask.message, &forged));
    forged[13] ^= 1;
    assert!(!edgemesh_resolver::reply_matches(&ask.message, &forged));
    forged[13] ^= 1;
    forged[1] ^= 1;
    assert!(!edgemesh_resolver::reply_matches(&ask.message, &forged));
}

#[test]
fn names_that_point_at_the_header_do_not_change_with_it() {
    let mut world = World::new();
    world.query(WWW, With::default());
    let ask = world.asked();
    let mut reply = crate::fixture::upstream_reply(&ask.message, ANSWER);
    // The owner of the answer becomes a pointer to the high octet of ARCOUNT, which reads as the root.
    let owner = ask.message.len() - 11;
    assert_eq!(reply[owner..owner + 2], [0xc0, 12]);
    reply[owner + 1] = 10;
    world.resolver.handle_upstream(ask.id, Ok(&reply), world.now, world.draw);
    let expected = "NOERROR\n 300 A 192.0.2.1";
    assert_eq!(world.answers()[0].2, expected);
    let (_, kept) = world.query(WWW, With { edns: Some(1232), ..With::default() });
    assert_eq!(text(&kept), expected);
}

#[test]
fn external_names_are_chased() {
    let mut world = World::new();
    let chain = "NOERROR aa
via.default.svc.cluster.local 30 CNAME out.default.svc.cluster.local
out.default.svc.cluster.local 30 CNAME www.example.com
www.example.com 300 CNAME edge.example.com
edge.example.com 60 A 192.0.2.1";
    assert_eq!(
        learn(
            &mut world,
            "via.default.svc.cluster.local A",
            "NOERROR\nwww.example.com 300 CNAME edge.example.com\nedge.example.com 60 A 192.0.2.1"
        ),
        chain
    );
    world.pass(secs(10));
    let kept = chain.replace("300 C", "290 C").replace("60 A", "50 A");
    assert_eq!(world.ask("via.default.svc.cluster.local A"), kept);
    world.pass(secs(60));
    world.query("via.default.svc.cluster.local A", With::default());
    let stale = give_up(&mut world, AskFailure::TimedOut).1.remove(0);
    assert_eq!(stale.1, Origin::Stale);
    assert!(stale.2.ends_with("edge.example.com 30 A 192.0.2.1"));
    assert_eq!(
        learn(&mut world, "out.default.svc.cluster.local AAAA", "NXDOMAIN\n--\nexample.com 60 SOA 60"),
        "NXDOMAIN aa
out.default.svc.cluster.local 30 CNAME www.example.com
--
example.com 60 SOA ns.x m.x 1 1 1 1 60"
    );
}

#[test]
fn our_own_question_coming_back_ends_the_loop() {
    let mut world = World::with(&settings(), &[UPSTREAM, UPSTREAM2]);
    world.query(WWW, With::default());
    let ask = world.asked();
    // The same id with other flags is a client's.
    let mut client = ask.message.clone();
    client[3] = 0;
    assert_eq!(world.send(&client, Transport::Udp).0, Step::Pending);
    let (step, reply) = world.send(&ask.message, Transport::Udp);
    assert_eq!((step, text(&reply)), (Step::Reply(Origin::Failed), "SERVFAIL".to_owned()));
    let probe = world.asked();
    assert!(is_probe(&probe) && probe.server == ask.server);
    world.send(&probe.message, Transport::Udp);
    assert_eq!(world.resolver.poll_output(), Some(Output::Notice(Notice::Loop(UPSTREAM.parse().unwrap()))));
    world.send(&probe.message, Transport::Udp);
    assert_eq!(world.resolver.poll_output(), None);
    world.resolver.handle_upstream(ask.id, Ok(&reply), world.now, 77);
    let next = world.asked();
    assert_eq!(next.server, UPSTREAM2.parse().unwrap());
    assert_eq!(world.resolver.upstreams(world.now), 1);
}

#[test]
fn a_loop_through_another_resolver_is_found_by_a_probe() {
    let mut world = World::new();
    world.query(WWW, With::default());
    let (mut told, mut tries) = (0, 0);
    while let Some(output) = world.resolver.poll_output() {
        match output {
            Output::Ask(ask) => {
                // The resolver between us and ourselves asks with an id of its own, and then waits as we do.
                let mut relayed = ask.message.clone();
                relayed[0] ^= 0x55;
                let known = world.resolver.upstreams(world.now) == 0;
                let (step, _) = world.send(&relayed, Transport::Udp);
                assert_eq!(step == Step::Pending, !is_probe(&ask) && !known);
                tries += usize::from(!is_probe(&ask));
                world.now = ask.deadline;
                world.resolver.handle_upstream(
                    ask.id,
                    Err(AskFailure::TimedOut),
                    world.now,
                    0x1122_3344_5566_7788,
                );
            }
            Output::Notice(Notice::Loop(server)) => {
                assert_eq!(server, UPSTREAM.parse().unwrap());
                told += 1;
            }
            Output::Notice(_) | Output::Answer { .. } => {}
        }
    }
    assert_eq!((told, tries, world.resolver.upstreams(world.now)), (1, 3, 0));
    world.pass(secs(61));
    assert_eq!(world.resolver.upstreams(world.now), 1);
}

#[test]
fn our_own_addresses_are_no_upstreams() {
    let mut world = World::with(&settings(), &["169.254.96.16:53", "[fe80::a9fe:6010]:53"]);
    assert_eq!(world.resolver.upstreams(world.now), 0);
    assert_eq!(world.ask(WWW), "SERVFAIL");
    assert_eq!(world.ask("web.default.svc.cluster.local A").lines().next(), Some("NOERROR aa"));
}

#[test]
fn names_of_the_cluster_are_never_forwarded_and_foreign_reverse_names_are() {
    let mut world = World::new();
    world.ask("nothing.here.cluster.local A");
    assert_eq!(world.resolver.poll_output(), None);
    world.query("9.9.9.9.in-addr.arpa PTR", With::default());
    world.asked();
}

#[test]
fn questions_in_flight_are_bounded() {
    let mut world = World::with(&ResolverSettings { max_flights: 2, ..settings() }, &[UPSTREAM]);
    for name in ["a.x A", "b.x A"] {
        assert_eq!(world.query(name, With::default()).0, Step::Pending);
    }
    let (step, reply) = world.query("c.x A", With::default());
    assert_eq!((step, text(&reply)), (Step::Reply(Origin::Shed), "SERVFAIL".to_owned()));
}

#[test]
fn failures_do_not_push_answers_out() {
    let mut world = World::with(&ResolverSettings { cache_entries: 8, ..settings() }, &[UPSTREAM]);
    learn(&mut world, WWW, ANSWER);
    for index in 0..100 {
        world.query(&format!("n{index}.x A"), With::default());
        give_up(&mut world, AskFailure::Socket);
    }
    assert_eq!(world.query(WWW, With::default()).0, Step::Reply(Origin::Cache));
}
