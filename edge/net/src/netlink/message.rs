//! Netlink messages and their attributes, in memory.

/// Set on an attribute that holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;
/// The two highest bits of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
const ATTR_HEADER_LEN: usize = 4;

fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// One or more messages, as they are sent in one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageBuf {
    bytes: Vec<u8>,
}

impl MessageBuf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends one message: header, the family's fixed header, and what `body` writes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        fixed: &[u8],
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.pad();
        body(self);
        let len = u32::try_from(self.bytes.len() - start).expect("messages are far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn append(&mut self, other: &[u8]) {
        self.bytes.extend_from_slice(other);
        self.pad();
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let len =
            u16::try_from(ATTR_HEADER_LEN + value.len()).expect("attribute values are bounded by callers");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Host byte order, as rtnetlink wants it.
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Network byte order, as nftables wants it.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        body(self);
        let len = u16::try_from(self.bytes.len() - start).expect("nests are bounded by callers");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Bytes without a header of their own, such as the `ifinfomsg` inside a veth's peer attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Port of the socket that asked for it, or whose change it tells of.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram; a malformed rest ends the walk.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER_LEN)?;
        let len = usize::try_from(read_u32(header)?).ok()?;
        let message = Message {
            kind: read_u16(&header[4..])?,
            flags: read_u16(&header[6..])?,
            seq: read_u32(&header[8..])?,
            port: read_u32(&header[12..])?,
            payload: self.0.get(HEADER_LEN..len)?,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message or of a nest; a malformed rest ends the walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes behind a fixed header of `len` bytes.
    pub(crate) fn after(payload: &'a [u8], len: usize) -> Self {
        Self(payload.get(align(len)..).unwrap_or_default())
    }

    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(crate) fn nest(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    pub(crate) fn str(self, kind: u16) -> Option<String> {
        self.get(kind).map(read_str)
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(read_u32)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.u32(kind).map(u32::from_be)
    }

    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(read_u16(self.0)?);
        let kind = read_u16(self.0.get(2..)?)? & NLA_TYPE_MASK;
        let value = self.0.get(ATTR_HEADER_LEN..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(crate) fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A string with or without its terminating zero.
pub(crate) fn read_str(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
