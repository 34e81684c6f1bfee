use std::time::Duration;

use super::expr::Verdict;
use super::{
    DATA_VALUE, DATA_VERDICT, ELEM_DATA, ELEM_EXPIRATION, ELEM_FLAG_INTERVAL_END, ELEM_FLAGS, ELEM_KEY,
    ELEM_KEY_END, ELEM_TIMEOUT, LIST_ELEM, SET_DATA_LEN, SET_DATA_TYPE, SET_DESC, SET_DESC_CONCAT,
    SET_DESC_SIZE, SET_FIELD_LEN, SET_FLAG_CONCAT, SET_FLAG_EVAL, SET_FLAG_INTERVAL, SET_FLAG_MAP,
    SET_FLAG_TIMEOUT, SET_FLAGS, SET_ID, SET_KEY_LEN, SET_KEY_TYPE, SET_NAME, SET_TABLE, SET_TIMEOUT,
};
use crate::netlink::rt::{Prefix, octets};
use crate::netlink::{Attrs, MessageBuf};

const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_DATA_VERDICT`, the type of a map's data that are verdicts.
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Bits by which nft packs the types of a concatenation into one number (`TYPE_BITS`).
const TYPE_BITS: u32 = 6;

/// Type of a set's key or of one part of it; nft's number, so that `nft list` prints it well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum KeyType {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
}

impl KeyType {
    /// nft's numbers (`enum datatypes`); they mean nothing to the kernel.
    fn code(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
        }
    }

    /// Bytes in registers: a multiple of four.
    fn padded_len(self) -> u32 {
        self.len().next_multiple_of(4)
    }

    fn len(self) -> u32 {
        match self {
            Self::Ipv6Addr => 16,
            Self::Ipv4Addr | Self::Mark => 4,
            Self::InetService => 2,
            Self::InetProto => 1,
        }
    }
}

/// A named set, or a map when it has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// Name, unique in the table.
    pub name: &'a str,
    /// Parts of the key; more than one is a concatenation.
    pub key: &'a [KeyType],
    /// Parts of the value, for a map of values; more than one is a concatenation.
    pub data: &'a [KeyType],
}

/// How a set is kept. The default is a set, or map of values, of single keys that only [`super::Batch`] changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// A map whose data are verdicts; [`Set::data`] must be empty.
    pub verdicts: bool,
    /// Keys are ranges: of a simple key with [`Element::interval_end`], of a concatenation with [`Element::key_end`]
    /// (Linux 5.6).
    pub interval: bool,
    /// Rules change it while packets pass; not together with `interval`.
    pub learned: Option<Learned>,
}

/// The bounds of a set that rules fill while packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Most elements. A rule that would add one more ends there.
    pub size: u32,
    /// How long an element lives unless the rule that adds it says otherwise; for ever when absent.
    pub timeout: Option<Duration>,
}

impl SetOptions {
    fn flags(self, set: Set<'_>) -> u32 {
        let mut flags = 0;
        let mut add = |wanted: bool, bits: u32| flags |= if wanted { bits } else { 0 };
        add(!set.data.is_empty() || self.verdicts, SET_FLAG_MAP);
        add(self.interval, SET_FLAG_INTERVAL);
        add(self.interval && set.key.len() > 1, SET_FLAG_CONCAT);
        add(self.learned.is_some(), SET_FLAG_EVAL);
        add(self.learned.is_some_and(|learned| learned.timeout.is_some()), SET_FLAG_TIMEOUT);
        flags
    }
}

/// Writes what a set is; `id` tells it from others of the transaction.
pub(super) fn write_set(message: &mut MessageBuf, table: &str, set: Set<'_>, options: SetOptions, id: u32) {
    message.attr_str(SET_TABLE, table);
    message.attr_str(SET_NAME, set.name);
    message.attr_be32(SET_ID, id);
    message.attr_be32(SET_FLAGS, options.flags(set));
    message.attr_be32(SET_KEY_TYPE, packed_type(set.key));
    message.attr_be32(SET_KEY_LEN, packed_len(set.key));
    if options.verdicts {
        message.attr_be32(SET_DATA_TYPE, DATA_TYPE_VERDICT);
    } else if !set.data.is_empty() {
        message.attr_be32(SET_DATA_TYPE, packed_type(set.data));
        message.attr_be32(SET_DATA_LEN, packed_len(set.data));
    }
    if let Some(Learned { timeout: Some(timeout), .. }) = options.learned {
        message.attr(SET_TIMEOUT, &millis(timeout));
    }
    let fields = if options.interval && set.key.len() > 1 { set.key } else { &[] };
    if options.learned.is_none() && fields.is_empty() {
        return;
    }
    message.nest(SET_DESC, |message| {
        if let Some(learned) = options.learned {
            message.attr_be32(SET_DESC_SIZE, learned.size);
        }
        if !fields.is_empty() {
            message.nest(SET_DESC_CONCAT, |message| {
                for field in fields {
                    message.nest(LIST_ELEM, |message| message.attr_be32(SET_FIELD_LEN, field.len()));
                }
            });
        }
    });
}

fn packed_type(parts: &[KeyType]) -> u32 {
    parts.iter().fold(0, |packed, part| packed << TYPE_BITS | part.code())
}

fn packed_len(parts: &[KeyType]) -> u32 {
    match parts {
        [single] => single.len(),
        parts => parts.iter().map(|part| part.padded_len()).sum(),
    }
}

/// What a map has for a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// A value, with every part of a concatenation padded to four bytes.
    Value(Vec<u8>),
    /// What becomes of the packet.
    Verdict(Verdict),
}

/// An element of a set: its key, with every part of a concatenation padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key; in a set of ranges the first one of the range.
    pub key: Vec<u8>,
    /// In a set of ranges of concatenations: the last key of the range, part by part. Parts that are no ranges are
    /// equal in both.
    pub key_end: Option<Vec<u8>>,
    /// In a set of ranges of a simple key: `key` is the first one behind a range. A range that reaches to the last
    /// possible key has no such element.
    pub interval_end: bool,
    /// What the map has for it.
    pub data: Option<Data>,
    /// How long it lives from when it was added or refreshed. Read, it is absent where the set's own timeout holds.
    pub timeout: Option<Duration>,
    /// How long it has still to live. Everything that goes away by itself has it when read, and nothing else.
    pub expires: Option<Duration>,
}

impl Element {
    /// An element of a set whose key is the concatenation of `parts`.
    pub fn concat(parts: &[&[u8]]) -> Self {
        Self { key: concat(parts), ..Self::default() }
    }

    /// An element of a set with a simple key.
    pub fn single(key: &[u8]) -> Self {
        Self { key: key.to_vec(), ..Self::default() }
    }

    /// With a value, for a map.
    #[must_use]
    pub fn value(self, value: Vec<u8>) -> Self {
        Self { data: Some(Data::Value(value)), ..self }
    }

    /// With a verdict, for a map of verdicts.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        Self { data: Some(Data::Verdict(verdict)), ..self }
    }

    /// With the last key of its range, part by part, for a set of ranges of concatenations.
    #[must_use]
    pub fn to(self, parts: &[&[u8]]) -> Self {
        Self { key_end: Some(concat(parts)), ..self }
    }

    /// Whether it goes away by itself.
    pub fn is_temporary(&self) -> bool {
        self.timeout.is_some() || self.expires.is_some()
    }

    /// Writes what identifies it.
    pub(super) fn write_key(&self, message: &mut MessageBuf) {
        write_value(message, ELEM_KEY, &self.key);
        if let Some(end) = &self.key_end {
            write_value(message, ELEM_KEY_END, end);
        }
        if self.interval_end {
            message.attr_be32(ELEM_FLAGS, ELEM_FLAG_INTERVAL_END);
        }
    }

    /// Writes all of it.
    pub(super) fn write(&self, message: &mut MessageBuf) {
        self.write_key(message);
        match &self.data {
            Some(Data::Value(value)) => write_value(message, ELEM_DATA, value),
            Some(Data::Verdict(verdict)) => {
                message.nest(ELEM_DATA, |message| write_verdict(message, verdict));
            }
            None => {}
        }
        for (kind, time) in [(ELEM_TIMEOUT, self.timeout), (ELEM_EXPIRATION, self.expires)] {
            if let Some(time) = time {
                message.attr(kind, &millis(time));
            }
        }
    }

    /// Reads one; `None` for what has no key (nftables' catch-all).
    pub(super) fn read(attrs: Attrs<'_>) -> Option<Self> {
        let value = |kind| attrs.nest(kind).get(DATA_VALUE).map(<[u8]>::to_vec);
        let time = |kind| attrs.be64(kind).filter(|time| *time > 0).map(Duration::from_millis);
        Some(Self {
            key: value(ELEM_KEY)?,
            key_end: value(ELEM_KEY_END),
            interval_end: attrs.be32(ELEM_FLAGS).unwrap_or_default() & ELEM_FLAG_INTERVAL_END != 0,
            data: value(ELEM_DATA)
                .map(Data::Value)
                .or_else(|| read_verdict(attrs.nest(ELEM_DATA).get(DATA_VERDICT)?).map(Data::Verdict)),
            timeout: time(ELEM_TIMEOUT),
            expires: attrs.be64(ELEM_EXPIRATION).map(Duration::from_millis),
        })
    }
}

/// Parts of a key or value, each padded to four bytes.
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The elements by which a set of ranges of addresses holds these prefixes, which are of one address family. A prefix
/// inside another one is left out: the kernel takes no ranges that overlap. Host bits are ignored.
pub fn prefixes(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<Element> {
    let mut ranges: Vec<(Vec<u8>, Vec<u8>)> = prefixes.into_iter().map(range).collect();
    // By start, and the longer range first among those that start together.
    ranges.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    let mut elements = Vec::with_capacity(2 * ranges.len());
    let mut reached: Option<Vec<u8>> = None;
    for (first, last) in ranges {
        if reached.as_ref().is_some_and(|reached| last <= *reached) {
            continue;
        }
        elements.push(Element::single(&first));
        elements.extend(next(&last).map(|key| Element { key, interval_end: true, ..Element::default() }));
        reached = Some(last);
    }
    elements
}

fn range(prefix: Prefix) -> (Vec<u8>, Vec<u8>) {
    let (first, last) = prefix.bounds();
    (octets(first), octets(last))
}

/// The key after this one; none after the last.
fn next(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    let place = next.iter().rposition(|byte| *byte != u8::MAX)?;
    next[place] += 1;
    next[place + 1..].fill(0);
    Some(next)
}

/// Times of nftables are milliseconds of 64 bits in network byte order; 0 would mean for ever.
pub(super) fn millis(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1).to_be_bytes()
}

pub(super) fn write_value(message: &mut MessageBuf, kind: u16, data: &[u8]) {
    message.nest(kind, |message| message.attr(DATA_VALUE, data));
}

pub(super) fn write_verdict(message: &mut MessageBuf, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
        Verdict::Other(code) => (*code, None),
    };
    message.nest(DATA_VERDICT, |message| {
        message.attr_be32(VERDICT_CODE, i32::cast_unsigned(code));
        if let Some(chain) = chain {
            message.attr_str(VERDICT_CHAIN, chain);
        }
    });
}

fn read_verdict(nest: &[u8]) -> Option<Verdict> {
    let attrs = Attrs(nest);
    let chain = || attrs.str(VERDICT_CHAIN);
    Some(match attrs.be32(VERDICT_CODE)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        other => Verdict::Other(other),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[track_caller]
    fn check(texts: &[&str], expected: &[(&str, bool)]) {
        let prefix = |text: &&str| {
            let (addr, len) = text.split_once('/').expect("address/length");
            Prefix::new(addr.parse::<IpAddr>().expect("an address"), len.parse().expect("a length"))
        };
        let expected: Vec<Element> = expected
            .iter()
            .map(|(key, end)| Element {
                key: octets(key.parse().expect("an address")),
                interval_end: *end,
                ..Element::default()
            })
            .collect();
        assert_eq!(prefixes(texts.iter().map(prefix)), expected, "{texts:?}");
    }

    #[test]
    fn prefixes_become_ranges_that_do_not_overlap() {
        check(&[], &[]);
        check(&["10.0.0.7/8"], &[("10.0.0.0", false), ("11.0.0.0", true)]);
        check(&["10.0.0.255/32"], &[("10.0.0.255", false), ("10.0.1.0", true)]);
        check(&["0.0.0.0/0", "10.0.0.0/8"], &[("0.0.0.0", false)]);
        check(&["255.0.0.0/8"], &[("255.0.0.0", false)]);
        check(
            &["10.128.0.0/9", "10.0.0.0/9", "10.1.0.0/16", "10.0.0.0/16", "10.0.0.0/9"],
            &[("10.0.0.0", false), ("10.128.0.0", true), ("10.128.0.0", false), ("11.0.0.0", true)],
        );
        check(&["fd00::/8", "fd00::1/128"], &[("fd00::", false), ("fe00::", true)]);
        check(&["::/0"], &[("::", false)]);
    }
}
