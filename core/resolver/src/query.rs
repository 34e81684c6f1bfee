use crate::name::LowerName;
use crate::wire::{HEADER, PLAIN_PAYLOAD, Transport, UDP_PAYLOAD, flag, rtype, u16_at, u32_at};

/// Why a packet is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// A response; answering one could make two servers talk for ever.
    Response,
    /// An operation other than QUERY.
    Opcode,
    /// Not exactly one well-formed question (RFC 9619), or the records behind it are broken.
    Form,
    /// An EDNS version other than 0.
    EdnsVersion,
}

impl Malformed {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
            Self::Opcode => "opcode",
            Self::Form => "form",
            Self::EdnsVersion => "edns_version",
        }
    }
}

/// Reads a query as the resolver does and says what is wrong with it; the entry for fuzzing the parser.
pub fn check_query(packet: &[u8]) -> Result<(), Malformed> {
    Query::parse(packet, Transport::Udp).map(|_| ()).map_err(|(reason, _)| reason)
}

/// What a client can take, from its OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
}

/// The part of a query that outlives its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) edns: Option<Edns>,
    pub(crate) transport: Transport,
}

impl Head {
    /// The flags a response repeats, with what we always say of ourselves.
    pub(crate) fn echo(self) -> u16 {
        self.flags & (0x7800 | flag::RD | flag::CD) | flag::RA
    }

    /// The longest response the client takes.
    pub(crate) fn limit(self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(PLAIN_PAYLOAD),
            (Transport::Udp, Some(edns)) => usize::from(edns.payload.clamp(PLAIN_PAYLOAD, UDP_PAYLOAD)),
        }
    }

    pub(crate) fn dnssec_ok(self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    pub(crate) fn checking_disabled(self) -> bool {
        self.flags & flag::CD != 0
    }

    /// Whether the client understands the AD bit, RFC 6840 section 5.7.
    pub(crate) fn wants_authentic(self) -> bool {
        self.flags & flag::AD != 0 || self.dnssec_ok()
    }
}

/// One query: what is asked, and the question as the client wrote it.
#[derive(Clone, Copy)]
pub(crate) struct Query<'p> {
    pub(crate) head: Head,
    /// Name, type and class on the wire; empty where the packet has none that could be repeated.
    pub(crate) question: &'p [u8],
}

/// A query with its question read.
pub(crate) struct Parsed<'p> {
    pub(crate) query: Query<'p>,
    pub(crate) name: LowerName,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
}

impl<'p> Query<'p> {
    /// Reads a packet. With the reason comes what an error response needs, unless none must be sent.
    pub(crate) fn parse(
        packet: &'p [u8],
        transport: Transport,
    ) -> Result<Parsed<'p>, (Malformed, Option<Query<'p>>)> {
        let (Some(id), Some(flags), true) = (u16_at(packet, 0), u16_at(packet, 2), packet.len() >= HEADER)
        else {
            return Err((Malformed::Short, None));
        };
        if flags & flag::QR != 0 {
            return Err((Malformed::Response, None));
        }
        let mut query = Query { head: Head { id, flags, edns: None, transport }, question: &[] };
        if flags & 0x7800 != 0 {
            return Err((Malformed::Opcode, Some(query)));
        }
        if u16_at(packet, 4) != Some(1) {
            return Err((Malformed::Form, Some(query)));
        }
        let Some((name, qtype, qclass)) = read_question(&packet[HEADER..]) else {
            return Err((Malformed::Form, Some(query)));
        };
        let end = HEADER + name.wire().len() + 4;
        query.question = &packet[HEADER..end];
        match read_edns(packet, end) {
            Ok(edns) => query.head.edns = edns,
            Err(reason) => {
                if reason == Malformed::EdnsVersion {
                    query.head.edns = Some(Edns { payload: PLAIN_PAYLOAD, dnssec_ok: false });
                }
                return Err((reason, Some(query)));
            }
        }
        Ok(Parsed { query, name, qtype, qclass })
    }
}

fn read_question(bytes: &[u8]) -> Option<(LowerName, u16, u16)> {
    let name = LowerName::parse(bytes)?;
    let end = name.wire().len();
    let (qtype, qclass) = (u16_at(bytes, end)?, u16_at(bytes, end + 2)?);
    Some((name, qtype, qclass))
}

/// Walks the records behind the question for the OPT record. Queries carry at most a few (OPT, TSIG, SIG(0)).
fn read_edns(packet: &[u8], mut at: usize) -> Result<Option<Edns>, Malformed> {
    let count = |at| usize::from(u16_at(packet, at).unwrap_or_default());
    let (before, additional) = (count(6) + count(8), count(10));
    let mut edns = None;
    for index in 0..before + additional {
        let name_at = at;
        at = skip_name(packet, at).ok_or(Malformed::Form)?;
        let (Some(rtype), Some(payload), Some(ttl), Some(length)) =
            (u16_at(packet, at), u16_at(packet, at + 2), u32_at(packet, at + 4), u16_at(packet, at + 8))
        else {
            return Err(Malformed::Form);
        };
        at += 10 + usize::from(length);
        if at > packet.len() {
            return Err(Malformed::Form);
        }
        if rtype == rtype::OPT {
            if index < before || edns.is_some() || packet[name_at] != 0 {
                return Err(Malformed::Form);
            }
            if (ttl >> 16) & 0xff != 0 {
                return Err(Malformed::EdnsVersion);
            }
            edns = Some(Edns { payload, dnssec_ok: ttl & 0x8000 != 0 });
        }
    }
    Ok(edns)
}

/// The place behind a name; a pointer ends it and is not followed.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return (at + 2 <= packet.len()).then_some(at + 2),
            _ => return None,
        }
    }
}
