//! A small world of Services, a client that writes queries, and a text form of answers to compare.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::base::iana::{Class, Rtype};
use domain::base::message::Section;
use domain::base::message_builder::StaticCompressor;
use domain::base::{Message, MessageBuilder, Name, ParsedName};
use domain::rdata::AllRecordData;
use edgemesh_api::{SourceEvent, decode_value};
use edgemesh_mesh::{MeshSnapshot, MeshState};
use edgemesh_resolver::{Ask, Origin, Output, Resolver, ResolverSettings, Step, Transport};
use serde::Deserialize as _;

pub(crate) const WORLD: &str = include_str!("world.yaml");
pub(crate) const UPSTREAM: &str = "192.0.2.53:53";
/// Begins lists of up to five at their first item, and gives ids that no query here has.
const DRAW: u64 = 60 * 1000;
pub(crate) const UPSTREAM2: &str = "192.0.2.54:53";

pub(crate) fn snapshot(yaml: &str) -> MeshSnapshot {
    let mut state = MeshState::new("edge-1".into());
    state.apply(SourceEvent::Reset);
    for document in yaml_serde::Deserializer::from_str(yaml) {
        let value = serde_json::Value::deserialize(document).unwrap();
        state.apply(SourceEvent::Upsert(decode_value(value).unwrap().into()));
    }
    state.apply(SourceEvent::Synced);
    state.compile()
}

pub(crate) fn settings() -> ResolverSettings {
    ResolverSettings {
        own: vec!["169.254.96.16:53".parse().unwrap(), "[fe80::a9fe:6010]:53".parse().unwrap()],
        ..ResolverSettings::default()
    }
}

/// A resolver at a moment, with what it wants done.
pub(crate) struct World {
    pub(crate) resolver: Resolver<u32>,
    pub(crate) snapshot: MeshSnapshot,
    pub(crate) now: Instant,
    pub(crate) draw: u64,
    pub(crate) client: u32,
}

/// How a query departs from the plainest one.
#[derive(Clone, Copy, Default)]
pub(crate) struct With {
    pub(crate) edns: Option<u16>,
    pub(crate) dnssec_ok: bool,
    pub(crate) tcp: bool,
    pub(crate) id: u16,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&settings(), &[UPSTREAM])
    }

    pub(crate) fn with(settings: &ResolverSettings, upstreams: &[&str]) -> Self {
        let mut resolver = Resolver::new(settings).unwrap();
        let upstreams: Vec<SocketAddr> = upstreams.iter().map(|addr| addr.parse().unwrap()).collect();
        resolver.set_upstreams(&upstreams);
        Self { resolver, snapshot: snapshot(WORLD), now: Instant::now(), draw: DRAW, client: 0 }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn send(&mut self, packet: &[u8], transport: Transport) -> (Step, Vec<u8>) {
        let mut out = Vec::new();
        self.client += 1;
        let client = self.client;
        let step = self.resolver.handle_query(
            client,
            packet,
            transport,
            &self.snapshot,
            self.now,
            self.draw,
            &mut out,
        );
        (step, out)
    }

    pub(crate) fn query(&mut self, question: &str, with: With) -> (Step, Vec<u8>) {
        let transport = if with.tcp { Transport::Tcp } else { Transport::Udp };
        self.send(&query(question, with), transport)
    }

    /// The answer as text; it must come at once.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        let (step, reply) = self.query(question, With::default());
        assert!(matches!(step, Step::Reply(_)), "{question}: {step:?}");
        text(&reply)
    }

    /// The question that goes to an upstream; there must be one.
    pub(crate) fn asked(&mut self) -> Ask {
        loop {
            match self.resolver.poll_output() {
                Some(Output::Ask(ask)) => return ask,
                Some(_) => {}
                None => panic!("nothing is asked"),
            }
        }
    }

    /// The answers that are sent, as text.
    pub(crate) fn answers(&mut self) -> Vec<(u32, Origin, String)> {
        let mut answers = Vec::new();
        while let Some(output) = self.resolver.poll_output() {
            if let Output::Answer { client, message, origin } = output {
                answers.push((client, origin, text(&message)));
            }
        }
        answers
    }

    pub(crate) fn reply(&mut self, ask: &Ask, records: &str) {
        let message = upstream_reply(&ask.message, records);
        self.resolver.handle_upstream(ask.id, Ok(&message), self.now, self.draw);
    }
}

/// A query for `NAME TYPE`.
pub(crate) fn query(question: &str, with: With) -> Vec<u8> {
    let (name, rtype) = question.split_once(' ').unwrap();
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(with.id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    let name: Name<Vec<u8>> = name.parse().unwrap();
    builder.push((name, rtype.parse::<Rtype>().unwrap(), Class::IN)).unwrap();
    let mut builder = builder.additional();
    if let Some(payload) = with.edns {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(payload);
                opt.set_dnssec_ok(with.dnssec_ok);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

/// A reply to `asked`. The first line of `records` is the response code; then come lines `NAME TTL TYPE DATA`, for
/// the authority section behind a line `--`.
pub(crate) fn upstream_reply(asked: &[u8], records: &str) -> Vec<u8> {
    use domain::base::iana::Rcode;
    use domain::rdata::{A, Aaaa, Cname, Soa, Txt};
    let asked = Message::from_octets(asked).unwrap();
    let mut lines = records.lines().map(str::trim).filter(|line| !line.is_empty());
    let rcode: Rcode = lines.next().unwrap().parse().unwrap();
    let mut answer = MessageBuilder::from_target(StaticCompressor::new(Vec::new()))
        .unwrap()
        .start_answer(&asked, rcode)
        .unwrap();
    answer.header_mut().set_ra(true);
    let mut authority = None;
    for line in lines {
        if line == "TC" {
            answer.header_mut().set_tc(true);
            continue;
        }
        if line == "--" {
            authority = Some(answer.clone().authority());
            continue;
        }
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let name: Name<Vec<u8>> = words[0].parse().unwrap();
        let ttl = domain::base::Ttl::from_secs(words[1].parse().unwrap());
        macro_rules! push {
            ($data:expr) => {
                match &mut authority {
                    None => answer.push((name, ttl, $data)).unwrap(),
                    Some(authority) => authority.push((name, ttl, $data)).unwrap(),
                }
            };
        }
        let host = |text: &str| text.parse::<Name<Vec<u8>>>().unwrap();
        match words[2] {
            "A" => push!(words[3].parse::<A>().unwrap()),
            "AAAA" => push!(words[3].parse::<Aaaa>().unwrap()),
            "CNAME" => push!(Cname::new(host(words[3]))),
            "TXT" => push!(Txt::<Vec<u8>>::build_from_slice(words[3].as_bytes()).unwrap()),
            "SOA" => {
                let second = |n: u32| domain::base::Ttl::from_secs(n);
                let minimum = second(words[3].parse().unwrap());
                push!(Soa::new(
                    host("ns.x."),
                    host("m.x."),
                    1.into(),
                    second(1),
                    second(1),
                    second(1),
                    minimum
                ))
            }
            other => panic!("{other}"),
        }
    }
    match authority {
        None => answer.additional().finish().into_target(),
        Some(authority) => authority.additional().finish().into_target(),
    }
}

/// The response code and flags, then each record on a line.
pub(crate) fn text(reply: &[u8]) -> String {
    let message = Message::from_octets(reply).unwrap();
    let header = message.header();
    let mut text = format!("{}", message.opt_rcode());
    for (set, name) in [(header.aa(), " aa"), (header.tc(), " tc"), (header.ad(), " ad")] {
        if set {
            text.push_str(name);
        }
    }
    assert!(header.qr() && header.ra());
    let mut last = None;
    for record in message.iter() {
        let (record, section) = record.unwrap();
        if record.rtype() == Rtype::OPT {
            continue;
        }
        let record = record.into_any_record::<AllRecordData<_, ParsedName<_>>>().unwrap();
        if last.unwrap_or(Section::Answer) != section {
            text.push_str("\n--");
        }
        last = Some(section);
        write!(text, "\n{} {} {}", record.owner(), record.ttl().as_secs(), record.rtype()).unwrap();
        for word in record.data().to_string().split(' ') {
            write!(text, " {}", word.strip_suffix('.').unwrap_or(word)).unwrap();
        }
    }
    text
}
