use std::time::{Duration, Instant};

use domain::base::iana::Rtype;
use domain::base::message_builder::TreeCompressor;
use domain::base::{Message, ParsedName};
use domain::dep::octseq::OctetsBuilder as _;
use domain::rdata::{AllRecordData, Soa};

use crate::name::LowerName;
use crate::query::{Edns, Query, skip_name};
use crate::wire::{
    Ede, HEADER, OPT_RESERVE, Section, Transport, UDP_PAYLOAD, Writer, class, flag, put_opt, set_u16, u16_at,
    u32_at,
};

/// Whether a datagram answers the question that was sent: id, QR, opcode and question must be the same. Anything
/// else that reaches the socket is noise or a forgery, and the true answer may still come.
pub fn reply_matches(asked: &[u8], reply: &[u8]) -> bool {
    let (Some(sent), Some(flags)) = (u16_at(asked, 0), u16_at(reply, 2)) else { return false };
    if u16_at(reply, 0) != Some(sent) || flags & flag::QR == 0 || flags & 0x7800 != 0 {
        return false;
    }
    if u16_at(reply, 4) == Some(0) {
        // Servers that cannot read a query answer FORMERR with the header alone.
        return flags & 0x0f == 1 && reply.len() == HEADER;
    }
    let (Some(ours), Some(theirs)) = (question_of(asked), question_of(reply)) else { return false };
    u16_at(reply, 4) == Some(1) && ours == theirs
}

/// Reads a reply as the resolver does; the entry for fuzzing that parser. True when it could be kept.
pub fn check_upstream(reply: &[u8]) -> bool {
    Stored::from_reply(reply).is_some()
}

fn question_of(message: &[u8]) -> Option<(Vec<u8>, u16, u16)> {
    let name = LowerName::parse(message.get(HEADER..)?)?;
    let end = HEADER + name.wire().len();
    Some((name.wire().to_vec(), u16_at(message, end)?, u16_at(message, end + 2)?))
}

/// A reply as it is kept: the message without its OPT record and without what follows that.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    message: Box<[u8]>,
    /// Places of the TTLs.
    ttls: Box<[u16]>,
    /// End of the question.
    question_end: u16,
    /// How long it is fresh by its own word: the least TTL, or the SOA's minimum for a denial (RFC 2308 section 5).
    /// `None` when it must not be kept.
    pub(crate) lifetime: Option<Duration>,
    /// Whether it denies the name or the type.
    pub(crate) negative: bool,
}

/// How the TTLs of a kept answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Less the time it has been kept.
    Kept(Duration),
    /// The same for all, in seconds.
    Fixed(u32),
}

impl Age {
    pub(crate) fn since(stored: Instant, now: Instant) -> Self {
        Self::Kept(now.saturating_duration_since(stored))
    }

    fn ttl(self, original: u32) -> u32 {
        match self {
            Self::Kept(age) => original.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
            Self::Fixed(ttl) => ttl,
        }
    }
}

impl Stored {
    /// Takes a reply apart; `None` when it is malformed anywhere. It is composed anew, because the names in it may
    /// point at octets that are written later: the header, a TTL.
    pub(crate) fn from_reply(reply: &[u8]) -> Option<Self> {
        let parsed = Message::from_slice(reply).ok()?;
        let question = parsed.sole_question().ok()?;
        let question_end = HEADER + LowerName::parse(reply.get(HEADER..)?)?.wire().len() + 4;
        let mut shape =
            Shape { qtype: question.qtype().to_int(), least: u32::MAX, denial: None, answered: false };
        let mut message = TreeCompressor::new(Vec::with_capacity(reply.len()));
        message.append_slice(&reply[..HEADER]).ok()?;
        question.compose(&mut message).ok()?;
        let mut counts = [1_u16, 0, 0, 0];
        let mut starts = Vec::new();
        for record in parsed.iter() {
            let (record, section) = record.ok()?;
            if record.rtype() == Rtype::OPT {
                break;
            }
            let record = record.into_any_record::<AllRecordData<_, ParsedName<_>>>().ok()?;
            let section = match section {
                domain::base::message::Section::Answer => Section::Answer,
                domain::base::message::Section::Authority => Section::Authority,
                domain::base::message::Section::Additional => Section::Additional,
            };
            counts[section as usize] += 1;
            shape.record(section, record.rtype().to_int(), record.ttl().as_secs());
            if let AllRecordData::Soa(soa) = record.data()
                && section == Section::Authority
            {
                shape.soa(soa, record.ttl().as_secs());
            }
            starts.push(message.as_slice().len());
            record.compose(&mut message).ok()?;
        }
        let mut message = message.into_target();
        let ttl_at = |start: usize| u16::try_from(skip_name(&message, start)? + 4).ok();
        let ttls: Option<Box<[u16]>> = starts.into_iter().map(ttl_at).collect();
        let fits = message.len() <= usize::from(u16::MAX);
        for (index, count) in counts.iter().enumerate() {
            set_u16(&mut message, 4 + 2 * index, *count);
        }
        let rcode = u16_at(reply, 2)? & 0x0f;
        let negative = rcode != 0 || !shape.answered;
        Some(Self {
            lifetime: shape.lifetime(rcode, negative),
            ttls: ttls.filter(|_| fits)?,
            message: message.into(),
            question_end: u16::try_from(question_end).ok()?,
            negative,
        })
    }

    pub(crate) fn octets(&self) -> usize {
        self.message.len() + 2 * self.ttls.len()
    }

    fn flags(&self) -> u16 {
        u16_at(&self.message, 2).unwrap_or_default()
    }

    /// The response code without its extension.
    pub(crate) fn rcode(&self) -> u16 {
        self.flags() & 0x0f
    }

    /// Writes the answer to `query`, whose question is the same but for the case of letters.
    pub(crate) fn render(&self, query: &Query<'_>, age: Age, ede: Option<Ede>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.message);
        out[..2].copy_from_slice(&query.head.id.to_be_bytes());
        out[HEADER..usize::from(self.question_end)].copy_from_slice(query.question);
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let ttl = age.ttl(u32_at(out, at).unwrap_or_default());
            out[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        let reserve = if query.head.edns.is_some() { OPT_RESERVE } else { 0 };
        let room = query.head.limit().saturating_sub(reserve);
        let truncated = out.len() > room && self.shorten(out, room);
        let mut flags = flag::QR | query.head.echo() | self.rcode();
        if truncated {
            flags |= flag::TC;
        }
        if query.head.wants_authentic() {
            flags |= self.flags() & flag::AD;
        }
        set_u16(out, 2, flags);
        if query.head.edns.is_some() {
            put_opt(out, query.head.dnssec_ok(), self.rcode(), ede);
            let additional = u16_at(out, 10).unwrap_or_default();
            set_u16(out, 10, additional + 1);
        }
    }

    /// Cuts the message behind the last record that fits. True when the client has to ask over TCP: a record of the
    /// answer is missing, or of the authority section of a denial.
    fn shorten(&self, out: &mut Vec<u8>, room: usize) -> bool {
        let count = |at| u16_at(&self.message, at).unwrap_or_default();
        let counts = [count(6), count(8), count(10)];
        let (mut kept, mut at) = ([0_u16; 3], usize::from(self.question_end));
        'sections: for (section, total) in counts.iter().enumerate() {
            for _ in 0..*total {
                let end = skip_name(out, at)
                    .and_then(|start| Some(start + 10 + usize::from(u16_at(out, start + 8)?)))
                    .unwrap_or(usize::MAX);
                if end > room {
                    break 'sections;
                }
                at = end;
                kept[section] += 1;
            }
        }
        out.truncate(at);
        for (index, count) in kept.iter().enumerate() {
            set_u16(out, 6 + 2 * index, *count);
        }
        kept[0] < counts[0] || (counts[0] == 0 && kept[1] < counts[1])
    }

    /// Appends the records to a response to another question, of which this is the rest of the chain.
    pub(crate) fn append_to(&self, writer: &mut Writer<'_>, age: Age) {
        let Ok(message) = Message::from_slice(&self.message) else { return };
        for record in message.iter() {
            let Ok((record, section)) = record else { return };
            let Ok(mut record) = record.into_any_record::<AllRecordData<_, ParsedName<_>>>() else { return };
            record.set_ttl(domain::base::Ttl::from_secs(age.ttl(record.ttl().as_secs())));
            let section = match section {
                domain::base::message::Section::Answer => Section::Answer,
                domain::base::message::Section::Authority if self.negative => Section::Authority,
                // The rest is for the question that was forwarded, and nobody asked that one.
                _ => continue,
            };
            if !writer.composed(section, |out| record.compose(out).is_ok()) {
                return;
            }
        }
    }

    /// A failure in the form of a kept answer, so that the next client is not made to wait for it as well.
    pub(crate) fn failure(question: &[u8], lifetime: Duration) -> Self {
        let mut message = vec![0; HEADER];
        set_u16(&mut message, 2, flag::QR | flag::RA | 2);
        set_u16(&mut message, 4, 1);
        message.extend_from_slice(question);
        Self {
            question_end: u16::try_from(message.len()).unwrap_or_default(),
            message: message.into(),
            ttls: Box::default(),
            lifetime: Some(lifetime),
            negative: true,
        }
    }
}

/// What is learnt on the walk over a reply's records.
struct Shape {
    qtype: u16,
    least: u32,
    denial: Option<u32>,
    answered: bool,
}

impl Shape {
    fn record(&mut self, section: Section, rtype: u16, ttl: u32) {
        // RFC 2181 section 8: a TTL with the top bit set is zero.
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        self.least = self.least.min(ttl);
        self.answered |= section == Section::Answer && rtype == self.qtype;
    }

    fn soa<N>(&mut self, soa: &Soa<N>, ttl: u32) {
        self.denial = Some(ttl.min(soa.minimum().as_secs()));
    }

    fn lifetime(&self, rcode: u16, negative: bool) -> Option<Duration> {
        let seconds = match (rcode, negative, self.denial) {
            (0, false, _) => self.least,
            (0 | 3, true, Some(denial)) => denial.min(self.least),
            // A denial without SOA must not be kept (RFC 2308 section 5), nor an error.
            _ => return None,
        };
        (seconds > 0 && seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()))
    }
}

/// Composes a question for an upstream: recursion desired, the largest datagram we take, DO and CD as the client.
pub(crate) fn compose_ask(id: u16, name: &[u8], qtype: u16, bits: AskBits) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + name.len() + 4 + OPT_RESERVE);
    out.extend_from_slice(&[0; HEADER]);
    set_u16(&mut out, 0, id);
    set_u16(&mut out, 2, bits.flags());
    set_u16(&mut out, 4, 1);
    out.extend_from_slice(name);
    out.extend_from_slice(&qtype.to_be_bytes());
    out.extend_from_slice(&class::IN.to_be_bytes());
    if bits.edns {
        put_opt(&mut out, bits.dnssec_ok, 0, None);
        set_u16(&mut out, 10, 1);
    }
    out
}

/// Flags of a question for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskBits {
    pub(crate) edns: bool,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

impl AskBits {
    /// The header's flags. AD in a query asks for the AD bit of the answer (RFC 6840 section 5.7), for those clients
    /// that want it.
    pub(crate) fn flags(self) -> u16 {
        flag::RD | flag::AD | if self.checking_disabled { flag::CD } else { 0 }
    }

    /// The OPT record as its receiver reads it.
    pub(crate) fn edns(self) -> Option<Edns> {
        self.edns.then_some(Edns { payload: UDP_PAYLOAD, dnssec_ok: self.dnssec_ok })
    }
}

/// Whether a reply over UDP is only the beginning and has to be asked for over TCP.
pub(crate) fn truncated(reply: &[u8], transport: Transport) -> bool {
    transport == Transport::Udp && u16_at(reply, 2).is_some_and(|flags| flags & flag::TC != 0)
}
