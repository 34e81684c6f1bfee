//! The messages: proto2, each behind its length as a varint.

use thiserror::Error;

/// Tells names of nodes, at both ends of a connection.
pub const DISCOVERY_PROTOCOL: &str = "/libp2p/tunnel-discovery/1.0.0";

/// Carries a connection or a UDP session to a backend.
pub const PROXY_PROTOCOL: &str = "/libp2p/tunnel-proxy/1.0.0";

/// The longest message a Go agent reads.
pub const MAX_GO_MESSAGE: usize = 4096;

/// The longest datagram a Go agent passes on; it cuts the rest off without a word.
pub const MAX_GO_DATAGRAM: usize = 4096;

/// Two bytes of a varint hold lengths up to 16383.
const MAX_LENGTH_BYTES: usize = 2;

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageType {
    /// A request; also what proto2 reads where no type is.
    #[default]
    Connect,
    /// The answer that grants it.
    Success,
    /// The answer that does not.
    Failed,
}

/// `node` says who it is, the other side answers with its own name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Request or answer.
    pub kind: MessageType,
    /// How the peer was found: `MDNS` or `DHT`.
    pub protocol: String,
    /// The sender's node.
    pub node: String,
}

/// Asks for a backend, or answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Request or answer.
    pub kind: MessageType,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The node that is asked.
    pub node: String,
    /// The backend's address.
    pub ip: String,
    /// The backend's port.
    pub port: i32,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GoMessageError {
    /// Longer than [`MAX_GO_MESSAGE`].
    #[error("message of a Go agent is too long")]
    TooLong,
    /// Not what proto2 allows for the message.
    #[error("malformed message of a Go agent")]
    Malformed,
}

impl GoMessageError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
        }
    }
}

/// The message at the beginning of `bytes` and how many bytes it took; `None` asks for more bytes.
type Decoded<T> = Result<Option<(T, usize)>, GoMessageError>;

impl Discovery {
    /// Its bytes, length first; `None` when a name makes it too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        put_type(&mut body, self.kind);
        put_text(&mut body, 2, &self.protocol);
        put_text(&mut body, 3, &self.node);
        delimited(body)
    }

    /// Reads one from the beginning of `bytes`.
    pub fn decode(bytes: &[u8]) -> Decoded<Self> {
        let Some((body, taken)) = undelimited(bytes)? else { return Ok(None) };
        let mut message = Self::default();
        for_fields(body, |field, value| {
            match (field, value) {
                (1, Value::Number(number)) => message.kind = kind(number)?,
                (2, Value::Bytes(bytes)) => message.protocol = text(bytes)?,
                (3, Value::Bytes(bytes)) => message.node = text(bytes)?,
                (1..=3, _) => return Err(GoMessageError::Malformed),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Some((message, taken)))
    }
}

impl Proxy {
    /// The refusal, which says nothing but that.
    pub const FAILED: [u8; 3] = [2, 8, 2];

    /// Its bytes, length first; `None` when a name makes it too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        put_type(&mut body, self.kind);
        put_text(&mut body, 2, &self.protocol);
        put_text(&mut body, 3, &self.node);
        put_text(&mut body, 4, &self.ip);
        body.push(5 << 3);
        // A negative int32 is sign-extended to 64 bits.
        put_varint(&mut body, i64::from(self.port) as u64);
        delimited(body)
    }

    /// Reads one from the beginning of `bytes`.
    pub fn decode(bytes: &[u8]) -> Decoded<Self> {
        let Some((body, taken)) = undelimited(bytes)? else { return Ok(None) };
        let mut message = Self::default();
        for_fields(body, |field, value| {
            match (field, value) {
                (1, Value::Number(number)) => message.kind = kind(number)?,
                (2, Value::Bytes(bytes)) => message.protocol = text(bytes)?,
                (3, Value::Bytes(bytes)) => message.node = text(bytes)?,
                (4, Value::Bytes(bytes)) => message.ip = text(bytes)?,
                (5, Value::Number(number)) => message.port = number as i32,
                (1..=5, _) => return Err(GoMessageError::Malformed),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Some((message, taken)))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Always written, though requests have the default.
fn put_type(out: &mut Vec<u8>, kind: MessageType) {
    let number = match kind {
        MessageType::Connect => 0,
        MessageType::Success => 1,
        MessageType::Failed => 2,
    };
    out.extend_from_slice(&[1 << 3, number]);
}

fn put_text(out: &mut Vec<u8>, field: u8, text: &str) {
    out.push(field << 3 | 2);
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn delimited(body: Vec<u8>) -> Option<Vec<u8>> {
    if body.len() > MAX_GO_MESSAGE {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() + MAX_LENGTH_BYTES);
    put_varint(&mut out, body.len() as u64);
    out.extend_from_slice(&body);
    Some(out)
}

fn undelimited(bytes: &[u8]) -> Decoded<&[u8]> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(MAX_LENGTH_BYTES).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if length > MAX_GO_MESSAGE {
                return Err(GoMessageError::TooLong);
            }
            let end = index + 1 + length;
            return Ok(bytes.get(index + 1..end).map(|body| (body, end)));
        }
    }
    if bytes.len() < MAX_LENGTH_BYTES { Ok(None) } else { Err(GoMessageError::TooLong) }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a width that no field of ours has.
    Fixed,
}

fn for_fields<'a>(
    mut body: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<(), GoMessageError>,
) -> Result<(), GoMessageError> {
    while !body.is_empty() {
        let tag = varint(&mut body)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut body)?),
            1 => {
                split(&mut body, 8)?;
                Value::Fixed
            }
            2 => {
                let length = varint(&mut body)?;
                Value::Bytes(split(&mut body, length)?)
            }
            5 => {
                split(&mut body, 4)?;
                Value::Fixed
            }
            _ => return Err(GoMessageError::Malformed),
        };
        each(tag >> 3, value)?;
    }
    Ok(())
}

fn split<'a>(body: &mut &'a [u8], length: u64) -> Result<&'a [u8], GoMessageError> {
    let length = usize::try_from(length).map_err(|_| GoMessageError::Malformed)?;
    let (head, tail) = body.split_at_checked(length).ok_or(GoMessageError::Malformed)?;
    *body = tail;
    Ok(head)
}

fn varint(body: &mut &[u8]) -> Result<u64, GoMessageError> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = split(body, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(GoMessageError::Malformed)
}

fn text(bytes: &[u8]) -> Result<String, GoMessageError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| GoMessageError::Malformed)
}

fn kind(number: u64) -> Result<MessageType, GoMessageError> {
    match number {
        0 => Ok(MessageType::Connect),
        1 => Ok(MessageType::Success),
        2 => Ok(MessageType::Failed),
        _ => Err(GoMessageError::Malformed),
    }
}
