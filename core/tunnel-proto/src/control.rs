//! Frames of the control stream, of which every connection has one.

use bytes::Bytes;
use thiserror::Error;

use crate::circuit::Token;
use crate::claim::SignedToken;
use crate::record::{MAX_RECORD, PeerId, SignedRecord};
use crate::wire::{Reader, put_short};

/// The libp2p protocol of the control stream.
pub const CONTROL_PROTOCOL: &str = "/edgemesh/control/1.0.0";

/// Kind, length, and the longest body: a record with key and signature, each behind a length byte.
pub const MAX_FRAME: usize = 3 + MAX_RECORD + 2 * 256;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A peer's signed record: the sender's own, or, from a relay, that of a peer connected to it.
    Record(SignedRecord),
    /// A peer is no longer connected to the sending relay.
    RecordGone(PeerId),
    /// Asks for a [`Frame::Pong`] with the same number.
    Ping(u64),
    /// Answers a [`Frame::Ping`].
    Pong(u64),
    /// Asks the receiver to make carriers along this connection, which it dialled.
    CallMe,
    /// From a relay: a peer asks for a circuit, and this one may come for it with the token.
    Circuit {
        /// Names the circuit to the relay.
        token: Token,
        /// Who asks.
        from: PeerId,
    },
    /// A token for the receiver, pinned to its key by a node that holds the authority's.
    Token(SignedToken),
}

/// Why bytes are no frame; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("control frame is too long")]
    TooLong,
    /// Its body is not what its kind says.
    #[error("malformed control frame")]
    Malformed,
}

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Record(record) => {
                put_short(&mut body, &record.key);
                put_short(&mut body, &record.signature);
                body.extend_from_slice(&record.body);
                1
            }
            Self::RecordGone(peer) => {
                body.extend_from_slice(peer.as_str().as_bytes());
                2
            }
            Self::Ping(number) => {
                body.extend_from_slice(&number.to_be_bytes());
                3
            }
            Self::Pong(number) => {
                body.extend_from_slice(&number.to_be_bytes());
                4
            }
            Self::CallMe => 6,
            Self::Circuit { token, from } => {
                body.extend_from_slice(&token.0);
                body.extend_from_slice(from.as_str().as_bytes());
                5
            }
            Self::Token(token) => {
                body.extend_from_slice(&token.encode());
                9
            }
        };
        out.push(kind);
        out.extend_from_slice(&(body.len() as u16).to_be_bytes());
        out.extend_from_slice(&body);
    }

    /// Reads a frame from the beginning of `bytes` and says how many bytes it took; `None` asks for more bytes.
    /// A frame of unknown kind reads as `(None, taken)`: newer agents may send more kinds.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Option<Self>, usize)>, FrameError> {
        let mut reader = Reader::new(bytes);
        let (Some(kind), Some(len)) = (reader.u8(), reader.u16()) else { return Ok(None) };
        if usize::from(len) + 3 > MAX_FRAME {
            return Err(FrameError::TooLong);
        }
        let Some(body) = reader.bytes(usize::from(len)) else { return Ok(None) };
        let frame = match kind {
            1 => Some(Self::Record(decode_record(body).ok_or(FrameError::Malformed)?)),
            2 => Some(Self::RecordGone(PeerId::decode(body).ok_or(FrameError::Malformed)?)),
            3 => Some(Self::Ping(decode_number(body)?)),
            4 => Some(Self::Pong(decode_number(body)?)),
            6 => Some(Self::CallMe),
            5 => Some(decode_circuit(body).ok_or(FrameError::Malformed)?),
            9 => Some(Self::Token(SignedToken::decode(body).map_err(|_| FrameError::Malformed)?)),
            _ => None,
        };
        Ok(Some((frame, reader.taken())))
    }
}

fn decode_record(body: &[u8]) -> Option<SignedRecord> {
    let mut reader = Reader::new(body);
    let key = Bytes::copy_from_slice(reader.short()?);
    let signature = Bytes::copy_from_slice(reader.short()?);
    let rest = body.get(reader.taken()..)?;
    (rest.len() <= MAX_RECORD).then(|| SignedRecord { body: Bytes::copy_from_slice(rest), key, signature })
}

fn decode_circuit(body: &[u8]) -> Option<Frame> {
    let mut reader = Reader::new(body);
    let token = Token(reader.array()?);
    Some(Frame::Circuit { token, from: PeerId::decode(body.get(reader.taken()..)?)? })
}

fn decode_number(body: &[u8]) -> Result<u64, FrameError> {
    body.try_into().map(u64::from_be_bytes).map_err(|_| FrameError::Malformed)
}
