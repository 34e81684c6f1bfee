//! Bounded reading of the tunnel's own encodings.

/// Reads forward through a buffer that may end too early.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len)?;
        self.rest = tail;
        self.taken += len;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes behind a length byte.
    pub(crate) fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }
}

/// Appends `bytes` behind a length byte; false when they are too long for one.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    match u8::try_from(bytes.len()) {
        Ok(len) => {
            out.push(len);
            out.extend_from_slice(bytes);
            true
        }
        Err(_) => false,
    }
}

/// Text that may be logged and compared without surprises: printable ASCII without spaces.
pub(crate) fn plain_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(text)
}

/// A Kubernetes name: lower-case letters, digits, `-` and `.`.
pub(crate) fn kubernetes_name(bytes: &[u8]) -> Option<&str> {
    let text = plain_text(bytes)?;
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.')
        .then_some(text)
}
