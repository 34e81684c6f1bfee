use std::net::IpAddr;

use crate::name::MAX_LABEL;
use crate::query::Query;

pub(crate) const HEADER: usize = 12;
/// A compression pointer to the question's name, which always begins behind the header.
pub(crate) const QUESTION_POINTER: u16 = 0xc000 | HEADER as u16;
/// Compression pointers reach this far, RFC 1035 section 4.1.4.
const POINTER_REACH: usize = 0x4000;
/// Root name, type, class, TTL and length of an OPT record, RFC 6891 section 6.1.2.
const OPT_FIXED: usize = 11;
/// Option code, length and one 16-bit error code, RFC 8914 section 2.
const EDE_OPTION: usize = 6;
/// The UDP payload size we announce and keep to: fits an IPv6 packet of minimum MTU (DNS Flag Day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// What a client without EDNS takes over UDP, RFC 1035 section 4.2.1.
pub(crate) const PLAIN_PAYLOAD: u16 = 512;

/// How a query came, and therefore how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A stream with two octets of length before each message.
    Tcp,
}

/// Response codes that are given out here; codes from upstreams pass as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the response codes of RFC 1035 and RFC 6891")]
pub enum Rcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    BadVers,
}

impl Rcode {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }
}

/// Extended DNS errors (RFC 8914 section 4) that tell an operator with `dig` why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ede {
    StaleAnswer = 3,
    NotReady = 14,
    NoReachableAuthority = 22,
}

pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    /// RFC 6895 section 3.1: 128 to 255 are for questions only.
    pub(crate) const FIRST_META: u16 = 128;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

pub(crate) mod class {
    pub(crate) const IN: u16 = 1;
    pub(crate) const CHAOS: u16 = 3;
    pub(crate) const ANY: u16 = 255;
}

/// Bits of the header's second word.
pub(crate) mod flag {
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const AD: u16 = 0x0020;
    pub(crate) const CD: u16 = 0x0010;
}

pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn set_u16(message: &mut [u8], at: usize, value: u16) {
    message[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends labels and the rest of the name; false when an object's name is no label.
#[must_use]
pub(crate) fn put_labels(out: &mut Vec<u8>, labels: &[&str], rest: &[u8]) -> bool {
    for label in labels {
        match u8::try_from(label.len()) {
            Ok(length) if length > 0 && label.len() <= MAX_LABEL => out.push(length),
            _ => return false,
        }
        out.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    out.extend_from_slice(rest);
    true
}

/// The section a record goes to, as index into the header's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// Composes one response in place. Records must come in the order of the sections; a record that does not fit is
/// left out, with TC set unless it was an additional one (RFC 2181 section 9).
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    counts: [u16; 4],
    limit: usize,
    truncated: bool,
}

impl<'o> Writer<'o> {
    /// Begins the response to `query` with its question, in the case the client wrote it.
    pub(crate) fn start(query: &Query<'_>, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        put_u16(out, query.head.id);
        out.extend_from_slice(&[0; HEADER - 2]);
        out.extend_from_slice(query.question);
        let reserve = if query.head.edns.is_some() { OPT_FIXED + EDE_OPTION } else { 0 };
        let counts = [u16::from(!query.question.is_empty()), 0, 0, 0];
        Self { out, counts, limit: query.head.limit().saturating_sub(reserve), truncated: false }
    }

    /// Records so far in the answer section.
    pub(crate) fn answers(&self) -> u16 {
        self.counts[Section::Answer as usize]
    }

    /// Whether a record was left out that the client has to ask for again over TCP.
    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }

    /// Appends a record whose owner is a compression pointer. `data` appends the record data and says whether the
    /// record can be. The place of the data is returned when the record is in.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: u16,
        rtype: u16,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Option<usize> {
        let start = self.out.len();
        put_u16(self.out, owner);
        put_u16(self.out, rtype);
        put_u16(self.out, class::IN);
        put_u32(self.out, ttl);
        put_u16(self.out, 0);
        let data_at = self.out.len();
        if !data(self.out) {
            self.out.truncate(start);
            return None;
        }
        let Ok(length) = u16::try_from(self.out.len() - data_at) else {
            self.out.truncate(start);
            return None;
        };
        set_u16(self.out, data_at - 2, length);
        self.keep(section, start).then_some(data_at)
    }

    /// Appends a whole record that `compose` writes.
    pub(crate) fn composed(&mut self, section: Section, compose: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.out.len();
        if !compose(self.out) {
            self.out.truncate(start);
            return false;
        }
        self.keep(section, start)
    }

    fn keep(&mut self, section: Section, start: usize) -> bool {
        if self.out.len() > self.limit {
            self.out.truncate(start);
            self.truncated |= section != Section::Additional;
            return false;
        }
        self.counts[section as usize] += 1;
        true
    }

    /// Appends an A or AAAA record.
    pub(crate) fn address(&mut self, section: Section, owner: u16, ttl: u32, ip: IpAddr) -> bool {
        let appended = match ip {
            IpAddr::V4(ip) => self.record(section, owner, rtype::A, ttl, |out| {
                out.extend_from_slice(&ip.octets());
                true
            }),
            IpAddr::V6(ip) => self.record(section, owner, rtype::AAAA, ttl, |out| {
                out.extend_from_slice(&ip.octets());
                true
            }),
        };
        appended.is_some()
    }

    /// Writes the header and the OPT record.
    pub(crate) fn finish(mut self, query: &Query<'_>, flags: u16, rcode: u16, ede: Option<Ede>) {
        let mut word = flag::QR | flags | query.head.echo() | (rcode & 0x0f);
        if self.truncated {
            word |= flag::TC;
        }
        if query.head.edns.is_some() {
            put_opt(self.out, query.head.dnssec_ok(), rcode, ede);
            self.counts[Section::Additional as usize] += 1;
        }
        set_u16(self.out, 2, word);
        for (index, count) in self.counts.iter().enumerate() {
            set_u16(self.out, 4 + 2 * index, *count);
        }
    }
}

/// A pointer to a place in the message, where one can reach it.
pub(crate) fn pointer_to(at: usize) -> Option<u16> {
    (at < POINTER_REACH).then(|| 0xc000 | u16::try_from(at).unwrap_or_default())
}

/// Appends our OPT record (RFC 6891 section 6.1.2) with an extended error if there is one.
pub(crate) fn put_opt(out: &mut Vec<u8>, dnssec_ok: bool, rcode: u16, ede: Option<Ede>) {
    out.push(0);
    put_u16(out, rtype::OPT);
    put_u16(out, UDP_PAYLOAD);
    out.push(u8::try_from(rcode >> 4).unwrap_or_default());
    out.push(0);
    put_u16(out, if dnssec_ok { 0x8000 } else { 0 });
    match ede {
        None => put_u16(out, 0),
        Some(code) => {
            put_u16(out, 6);
            put_u16(out, 15);
            put_u16(out, 2);
            put_u16(out, code as u16);
        }
    }
}

/// What [`put_opt`] appends at most.
pub(crate) const OPT_RESERVE: usize = OPT_FIXED + EDE_OPTION;
