use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use edgemesh_mesh::{MeshSnapshot, ServiceKind};

use crate::alias::{self, Aliases, MAX_ALIASES, put_alias};
use crate::cache::{Cache, Lookup};
use crate::flight::{Flight, Flights, MAX_WAITERS, STALE_AFTER, Waiter};
use crate::name::LowerName;
use crate::probe::Probes;
use crate::query::{Malformed, Parsed, Query};
use crate::settings::{ResolverSettings, SettingsError, ZoneSettings};
use crate::step::{DropReason, Notice, Origin, Output, Step};
use crate::stored::{Age, AskBits};
use crate::upstream::Upstreams;
use crate::wire::{Ede, QUESTION_POINTER, Rcode, Section, Transport, Writer, class, flag, rtype};
use crate::zone::{Node, Records, lookup, put_service_name, reverse, soa_data};

/// TTL of stale records in an answer, RFC 8767 section 4.
const STALE_TTL: u32 = 30;
/// Answers DNS queries. See the crate's documentation for the order of calls.
pub struct Resolver<C> {
    pub(crate) zone: ZoneSettings,
    own: Vec<SocketAddr>,
    pub(crate) cache: Cache,
    pub(crate) upstreams: Upstreams,
    pub(crate) flights: Flights<C>,
    pub(crate) probes: Probes,
    /// Emptied by the caller after every call, as each call adds at most the waiters of the flights it ends.
    pub(crate) outputs: VecDeque<Output<C>>,
    pub(crate) serial: u32,
    pub(crate) key: Vec<u8>,
}

/// A question for the upstreams: of the client itself, or of the name its aliases end at.
struct Wanted<'q> {
    query: &'q Query<'q>,
    name: &'q LowerName,
    qtype: u16,
    aliases: Aliases,
}

impl<C: PartialEq> Resolver<C> {
    /// A resolver without upstreams.
    pub fn new(settings: &ResolverSettings) -> Result<Self, SettingsError> {
        Ok(Self {
            zone: ZoneSettings::new(settings)?,
            own: settings.own.clone(),
            cache: Cache::new(settings),
            upstreams: Upstreams::default(),
            flights: Flights::new(settings.max_flights),
            probes: Probes::default(),
            outputs: VecDeque::new(),
            serial: 0,
            key: Vec::new(),
        })
    }

    /// Replaces the upstreams, in the order of preference. Our own addresses among them are passed over.
    pub fn set_upstreams(&mut self, servers: &[SocketAddr]) {
        self.upstreams.set(servers, &self.own);
    }

    /// Upstreams that may be asked: those that are not ourselves and do not lead back to us.
    pub fn upstreams(&self, now: Instant) -> usize {
        self.upstreams.usable(now)
    }

    /// Answers kept, and the octets they take.
    pub fn cached(&self) -> (usize, usize) {
        (self.cache.len(), self.cache.octets())
    }

    /// Questions in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Answers one packet into `out`, or takes note of who waits for the answer.
    #[expect(
        clippy::too_many_arguments,
        reason = "a sans-IO core gets the packet, the state, the clock and the draw"
    )]
    pub fn handle_query(
        &mut self,
        client: C,
        packet: &[u8],
        transport: Transport,
        snapshot: &MeshSnapshot,
        now: Instant,
        draw: u64,
        out: &mut Vec<u8>,
    ) -> Step {
        let parsed = match Query::parse(packet, transport) {
            Ok(parsed) => parsed,
            Err((Malformed::Response, _)) => return Step::Drop(DropReason::Response),
            Err((_, None)) => return Step::Drop(DropReason::Short),
            Err((reason, Some(query))) => return refuse(&query, rcode_of(reason), out),
        };
        let query = &parsed.query;
        if let Some(rcode) = not_given(&parsed) {
            return refuse(query, rcode, out);
        }
        if let Some(depth) = parsed.name.below(&self.zone.apex) {
            return self.cluster(client, &parsed, depth, snapshot, now, draw, out);
        }
        if let Some(ip) = parsed.name.reverse_ip() {
            let names = reverse(ip, snapshot);
            if !names.is_empty() {
                self.pointers(&parsed, &names, snapshot.generation.0, out);
                return Step::Reply(Origin::Cluster);
            }
        }
        if parsed.qtype == rtype::ANY {
            let mut writer = Writer::start(query, out);
            put_hinfo(&mut writer, QUESTION_POINTER, self.zone.ttl);
            writer.finish(query, 0, Rcode::NoError.code(), None);
            return Step::Reply(Origin::Refused);
        }
        let wanted = Wanted { query, name: &parsed.name, qtype: parsed.qtype, aliases: Vec::new() };
        self.forward(client, wanted, now, draw, out)
    }

    /// A name in the cluster domain.
    #[expect(clippy::too_many_arguments, reason = "continues handle_query with what that found")]
    fn cluster(
        &mut self,
        client: C,
        parsed: &Parsed<'_>,
        depth: usize,
        snapshot: &MeshSnapshot,
        now: Instant,
        draw: u64,
        out: &mut Vec<u8>,
    ) -> Step {
        let query = &parsed.query;
        let serial = snapshot.generation.0;
        if serial == 0 {
            fail(query, Ede::NotReady, out);
            return Step::Reply(Origin::Failed);
        }
        let mut writer = Writer::start(query, out);
        let (mut target, mut below, mut owner) = (None::<LowerName>, depth, QUESTION_POINTER);
        let mut aliases = Aliases::new();
        let mut rcode = Rcode::NoError;
        let answered = loop {
            let node = lookup(target.as_ref().unwrap_or(&parsed.name), below, snapshot);
            let alias = match &node {
                Node::Service(service) if parsed.qtype != rtype::ANY => match &service.kind {
                    ServiceKind::ExternalName(name) => Some(name),
                    ServiceKind::ClusterIp | ServiceKind::Headless => None,
                },
                _ => None,
            };
            let Some(alias) = alias else {
                let before = writer.answers();
                if parsed.qtype == rtype::ANY && !matches!(node, Node::Missing) {
                    put_hinfo(&mut writer, owner, self.zone.ttl);
                }
                let mut records = Records::new(&self.zone, &mut writer, &parsed.name, depth, draw, now);
                records.append(&node, owner, parsed.qtype, serial);
                if matches!(node, Node::Missing) {
                    rcode = Rcode::NxDomain;
                }
                break writer.answers() > before || writer.truncated();
            };
            // An address is no name to be an alias of, and a chain without end has no answer.
            let next = LowerName::from_text(alias).filter(|_| alias.parse::<std::net::IpAddr>().is_err());
            let (Some(next), true) = (next, aliases.len() < MAX_ALIASES) else { break false };
            let Some(place) = put_alias(&mut writer, owner, self.zone.ttl, next.wire()) else { break true };
            if parsed.qtype == rtype::CNAME {
                break true;
            }
            owner = place;
            aliases.push(next.wire().into());
            match next.below(&self.zone.apex) {
                Some(depth) => below = depth,
                None => {
                    let wanted = Wanted { query, name: &next, qtype: parsed.qtype, aliases };
                    return self.forward(client, wanted, now, draw, out);
                }
            }
            target = Some(next);
        };
        if !answered {
            Records::new(&self.zone, &mut writer, &parsed.name, depth, draw, now)
                .soa(Section::Authority, serial);
        }
        writer.finish(query, flag::AA, rcode.code(), None);
        Step::Reply(Origin::Cluster)
    }

    /// A reverse name of an address of ours.
    fn pointers(
        &self,
        parsed: &Parsed<'_>,
        names: &[(Option<String>, &edgemesh_mesh::ServiceId)],
        serial: u64,
        out: &mut Vec<u8>,
    ) {
        let (query, zone) = (&parsed.query, &self.zone);
        let mut writer = Writer::start(query, out);
        match parsed.qtype {
            rtype::PTR => {
                for (label, id) in names {
                    writer.record(Section::Answer, QUESTION_POINTER, rtype::PTR, zone.ttl, |out| {
                        put_service_name(out, label.as_deref(), id, zone.apex.wire())
                    });
                }
            }
            rtype::ANY => put_hinfo(&mut writer, QUESTION_POINTER, zone.ttl),
            // Of the reverse tree only this name is ours, so it is the apex that the denial names.
            _ => {
                writer.record(Section::Authority, QUESTION_POINTER, rtype::SOA, zone.negative_ttl, |out| {
                    soa_data(out, QUESTION_POINTER, zone.negative_ttl, serial)
                });
            }
        }
        writer.finish(query, flag::AA, Rcode::NoError.code(), None);
    }

    /// A name of somebody else: from the cache, or by asking.
    fn forward(&mut self, client: C, wanted: Wanted<'_>, now: Instant, draw: u64, out: &mut Vec<u8>) -> Step {
        let query = wanted.query;
        let bits = AskBits {
            edns: true,
            dnssec_ok: query.head.dnssec_ok(),
            checking_disabled: query.head.checking_disabled(),
        };
        write_key(&mut self.key, wanted.name, wanted.qtype, bits);
        let ttl = self.zone.ttl;
        let mut stale = false;
        match self.cache.get(&self.key, now) {
            Lookup::Fresh(entry) => {
                let age = Age::since(entry.at, now);
                alias::render(query, &wanted.aliases, ttl, &entry.stored, age, None, out);
                return Step::Reply(Origin::Cache);
            }
            Lookup::Stale => stale = true,
            Lookup::Nothing => {}
        }
        if let Some(server) = self.probes.came_back(wanted.name) {
            if self.upstreams.looped(server, now) {
                self.outputs.push_back(Output::Notice(Notice::Loop(server)));
            }
            fail(query, Ede::NoReachableAuthority, out);
            return Step::Reply(Origin::Failed);
        }
        if let Some(server) = self.own_question(query) {
            // A client may have drawn our id; only the probe's return proves the loop.
            self.probe(server, now, draw);
            fail(query, Ede::NoReachableAuthority, out);
            return Step::Reply(Origin::Failed);
        }
        let flying = self.flights.by_key(&self.key);
        let late = flying.as_ref().is_some_and(|flight| flight.started + STALE_AFTER <= now);
        let flying = flying.is_some();
        let crowded = !flying && self.flights.is_full();
        if stale && (late || crowded || self.upstreams.all_suspect(now)) {
            self.render_stale(query, &wanted.aliases, now, out);
            if !flying && !crowded && !self.upstreams.all_pausing(now) {
                self.take_off(None, &wanted, bits, false, now, draw);
            }
            return Step::Reply(Origin::Stale);
        }
        if self.upstreams.usable(now) == 0 {
            fail(query, Ede::NoReachableAuthority, out);
            return Step::Reply(Origin::Failed);
        }
        if let Some(flight) = self.flights.by_key(&self.key) {
            let waiter = waiter(client, query, wanted.aliases);
            let known = |other: &Waiter<C>| other.client == waiter.client && other.head.id == waiter.head.id;
            if flight.waiters.iter().any(known) {
                return Step::Pending;
            }
            if flight.waiters.len() < MAX_WAITERS {
                flight.waiters.push(waiter);
                return Step::Pending;
            }
        } else if !crowded {
            self.take_off(Some(client), &wanted, bits, stale, now, draw);
            return Step::Pending;
        }
        fail(query, Ede::NoReachableAuthority, out);
        Step::Reply(Origin::Shed)
    }

    /// The server to which this very message is on its way.
    fn own_question(&mut self, query: &Query<'_>) -> Option<SocketAddr> {
        let flight = self.flights.by_key(&self.key)?;
        let attempt = flight.attempt.filter(|attempt| attempt.dns_id == query.head.id)?;
        let same_head = query.head.flags == flight.bits.flags() && query.head.edns == flight.bits.edns();
        (same_head && query.question.starts_with(&flight.name)).then_some(attempt.server)
    }

    pub(crate) fn render_stale(&self, query: &Query<'_>, aliases: &Aliases, now: Instant, out: &mut Vec<u8>) {
        match self.cache.stale(&self.key, now) {
            Some(entry) => {
                let age = Age::Fixed(STALE_TTL);
                alias::render(query, aliases, self.zone.ttl, &entry.stored, age, Some(Ede::StaleAnswer), out);
            }
            None => fail(query, Ede::NoReachableAuthority, out),
        }
    }

    /// Starts a flight; without a client it only refreshes the cache.
    fn take_off(
        &mut self,
        client: Option<C>,
        wanted: &Wanted<'_>,
        bits: AskBits,
        stale: bool,
        now: Instant,
        draw: u64,
    ) {
        let waiters =
            client.map(|client| waiter(client, wanted.query, wanted.aliases.clone())).into_iter().collect();
        let slot = self.flights.insert(Flight {
            key: Arc::from(self.key.as_slice()),
            name: wanted.name.wire().into(),
            qtype: wanted.qtype,
            bits,
            waiters,
            started: now,
            stale_at: stale.then(|| now + STALE_AFTER),
            asked: Vec::new(),
            silence: false,
            attempt: None,
            error: None,
        });
        self.ask_next(slot, now, draw);
    }

    /// When `handle_timeout` is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flights.next_stale()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<C>> {
        self.outputs.pop_front()
    }
}

fn waiter<C>(client: C, query: &Query<'_>, aliases: Aliases) -> Waiter<C> {
    Waiter { client, head: query.head, question: query.question.into(), aliases }
}

fn write_key(key: &mut Vec<u8>, name: &LowerName, qtype: u16, bits: AskBits) {
    key.clear();
    key.extend_from_slice(name.wire());
    key.extend_from_slice(&qtype.to_be_bytes());
    key.push(u8::from(bits.dnssec_ok) << 1 | u8::from(bits.checking_disabled));
}

/// What is answered with an error whatever the name.
fn not_given(parsed: &Parsed<'_>) -> Option<Rcode> {
    match (parsed.qclass, parsed.qtype) {
        (class::IN, rtype::AXFR | rtype::IXFR) => Some(Rcode::Refused),
        (class::IN, rtype::ANY) => None,
        (class::IN, rtype::OPT) => Some(Rcode::FormErr),
        // Questions for mail agents, TKEY and TSIG are between other parties.
        (class::IN, rtype::FIRST_META..=255) => Some(Rcode::NotImp),
        (class::IN, _) => None,
        // `version.bind` among them: nobody needs to know.
        (class::CHAOS | class::ANY, _) => Some(Rcode::Refused),
        _ => Some(Rcode::NotImp),
    }
}

fn rcode_of(reason: Malformed) -> Rcode {
    match reason {
        Malformed::Opcode => Rcode::NotImp,
        Malformed::EdnsVersion => Rcode::BadVers,
        Malformed::Short | Malformed::Response | Malformed::Form => Rcode::FormErr,
    }
}

fn refuse(query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) -> Step {
    Writer::start(query, out).finish(query, 0, rcode.code(), None);
    Step::Reply(Origin::Refused)
}

pub(crate) fn fail(query: &Query<'_>, why: Ede, out: &mut Vec<u8>) {
    Writer::start(query, out).finish(query, 0, Rcode::ServFail.code(), Some(why));
}

/// The one record that answers ANY, RFC 8482 section 4.2.
fn put_hinfo(writer: &mut Writer<'_>, owner: u16, ttl: u32) {
    writer.record(Section::Answer, owner, rtype::HINFO, ttl, |out| {
        out.extend_from_slice(b"\x07RFC8482\x00");
        true
    });
}
