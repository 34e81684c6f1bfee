use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name on the wire, RFC 1035 section 2.3.4.
const MAX_NAME: usize = 255;
/// Longest label, RFC 1035 section 2.3.4.
pub(crate) const MAX_LABEL: usize = 63;
/// A name of [`MAX_NAME`] octets holds at most this many labels of one octet.
const MAX_LABELS: usize = 127;

/// A domain name in wire form and lower case, with its labels indexed; it lives on the stack.
#[derive(Clone)]
pub(crate) struct LowerName {
    wire: [u8; MAX_NAME],
    len: u8,
    starts: [u8; MAX_LABELS],
    count: u8,
}

impl LowerName {
    fn empty() -> Self {
        Self { wire: [0; MAX_NAME], len: 0, starts: [0; MAX_LABELS], count: 0 }
    }

    /// Reads an uncompressed name; a question has nothing before it that a compression pointer could mean.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut name = Self::empty();
        let mut at = 0;
        loop {
            let length = usize::from(*message.get(at)?);
            if length == 0 {
                name.wire[at] = 0;
                name.len = u8::try_from(at + 1).ok()?;
                return Some(name);
            }
            name.push(at, message.get(at + 1..at + 1 + length)?)?;
            at += 1 + length;
        }
    }

    /// Reads dotted text without escapes, with or without the final dot, as Kubernetes writes names.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::empty();
        let mut at = 0;
        for label in text.split('.') {
            if label.is_empty() {
                return None;
            }
            name.push(at, label.as_bytes())?;
            at += 1 + label.len();
        }
        name.wire[at] = 0;
        name.len = u8::try_from(at + 1).ok()?;
        Some(name)
    }

    fn push(&mut self, at: usize, label: &[u8]) -> Option<()> {
        // One octet stays free for the root label.
        if label.len() > MAX_LABEL || at + 1 + label.len() >= MAX_NAME {
            return None;
        }
        *self.starts.get_mut(usize::from(self.count))? = u8::try_from(at).ok()?;
        self.count += 1;
        self.wire[at] = u8::try_from(label.len()).ok()?;
        for (to, from) in self.wire[at + 1..].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        Some(())
    }

    /// The name with its root label.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..usize::from(self.len)]
    }

    /// How many labels it has, the root not counted.
    pub(crate) fn labels(&self) -> usize {
        usize::from(self.count)
    }

    /// Where a label begins in the wire form; the root's place for the index after the last.
    pub(crate) fn start(&self, index: usize) -> usize {
        if index < self.labels() { usize::from(self.starts[index]) } else { usize::from(self.len) - 1 }
    }

    /// A label as text; Kubernetes names are ASCII, so a label that is not UTF-8 names nothing.
    pub(crate) fn label(&self, index: usize) -> Option<&str> {
        let start = self.start(index);
        let length = usize::from(self.wire[start]);
        std::str::from_utf8(&self.wire[start + 1..start + 1 + length]).ok()
    }

    /// How many labels it has under `zone`; `None` when it is not in it.
    pub(crate) fn below(&self, zone: &Self) -> Option<usize> {
        let depth = self.labels().checked_sub(zone.labels())?;
        (self.wire()[self.start(depth)..] == *zone.wire()).then_some(depth)
    }

    /// The address a complete name under `in-addr.arpa` (RFC 1035 section 3.5) or `ip6.arpa` (RFC 3596) stands for.
    pub(crate) fn reverse_ip(&self) -> Option<IpAddr> {
        let count = self.labels();
        if count < 2 || self.label(count - 1)? != "arpa" {
            return None;
        }
        match (self.label(count - 2)?, count) {
            ("in-addr", 6) => {
                let mut octets = [0; 4];
                for (index, octet) in octets.iter_mut().enumerate() {
                    *octet = decimal(self.label(3 - index)?)?;
                }
                Some(IpAddr::V4(Ipv4Addr::from(octets)))
            }
            ("ip6", 34) => {
                let mut value = 0_u128;
                for index in (0..32).rev() {
                    let label = self.label(index)?;
                    let digit =
                        if label.len() == 1 { label.chars().next()?.to_digit(16)? } else { return None };
                    value = value << 4 | u128::from(digit);
                }
                Some(IpAddr::V6(Ipv6Addr::from(value)))
            }
            _ => None,
        }
    }
}

fn decimal(label: &str) -> Option<u8> {
    let canonical =
        label.bytes().all(|byte| byte.is_ascii_digit()) && (label.len() == 1 || !label.starts_with('0'));
    if canonical { label.parse().ok() } else { None }
}

/// The address in a label like `10-0-0-1` or `fd00--1`, as pod names and endpoints without a hostname have it.
pub(crate) fn dashed_ip(label: &str) -> Option<IpAddr> {
    if label.bytes().filter(|byte| *byte == b'-').count() == 3
        && let Ok(ip) = label.replace('-', ".").parse::<Ipv4Addr>()
    {
        return Some(IpAddr::V4(ip));
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// The label for an address, the inverse of [`dashed_ip`].
pub(crate) fn dashed_label(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}
