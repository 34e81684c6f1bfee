//! Frames of a carrier: a head of fixed size for each kind, big endian, and for two kinds a payload behind it.
//!
//! Every frame begins with kind, flags and the length of what follows, so that a reader skips kinds that a newer agent
//! may send.

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;

use super::types::{ResetReason, StreamId};
use crate::header::MAX_DATAGRAM;

/// The longest payload of a stream's frame: one TLS record (RFC 8446, section 5.1). Also what one stream may put
/// between two frames of another.
pub const FRAME_PAYLOAD: usize = 16 << 10;

/// Kind, flags, length.
const PREFIX: usize = 4;
/// Stream and offset.
const DATA_HEAD: usize = 16;
/// Channel.
const DATAGRAM_HEAD: usize = 8;

/// The longest head: prefix, stream, received, limit.
pub const MAX_HEAD: usize = PREFIX + 24;

/// The longest frame; one of unknown kind may have any length that its two bytes can say.
pub const MAX_FRAME: usize = PREFIX + u16::MAX as usize;

const DATA: u8 = 1;
const ACK: u8 = 2;
const RESET: u8 = 3;
const RESET_ACK: u8 = 4;
const MOVED: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const DATAGRAM: u8 = 8;
const GO_AWAY: u8 = 9;

const OPEN: u8 = 1;
const FIN: u8 = 2;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: StreamId,
        /// Place of the first byte in the sender's direction.
        offset: u64,
        /// The sender opened the stream and this is its beginning.
        open: bool,
        /// The direction ends behind the payload.
        fin: bool,
        /// At most [`FRAME_PAYLOAD`] bytes.
        payload: Bytes,
    },
    /// What was received and how far the sender may go.
    Ack {
        /// The stream.
        stream: StreamId,
        /// The offset expected next; one more once the end was received; `u64::MAX` for a stream that is forgotten.
        received: u64,
        /// The offset up to which may be sent.
        limit: u64,
    },
    /// Ends both directions at once.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// Answers every [`Frame::Reset`].
    ResetAck {
        /// The stream.
        stream: StreamId,
    },
    /// The sender's direction rides this carrier from now on. Answered by [`Frame::Ack`] at once.
    Moved {
        /// The stream.
        stream: StreamId,
    },
    /// Asks for a [`Frame::Pong`] with the same number.
    Ping {
        /// Any number.
        number: u64,
    },
    /// Answers a [`Frame::Ping`].
    Pong {
        /// The number of the ping.
        number: u64,
    },
    /// One datagram, sent once.
    Datagram {
        /// What it belongs to.
        channel: u64,
        /// At most [`MAX_DATAGRAM`] bytes.
        payload: Bytes,
    },
    /// The sender will open no more streams and wants no more.
    GoAway,
}

/// Why bytes are no frame; the carrier is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Its payload is longer than its kind allows.
    #[error("session frame is too long")]
    TooLong,
    /// Its length is not that of its kind.
    #[error("session frame of wrong length")]
    Length,
    /// A flag that its kind does not have.
    #[error("unknown flag in a session frame")]
    Flags,
}

impl FrameError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Length => "length",
            Self::Flags => "flags",
        }
    }
}

/// What the beginning of a buffer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame; its bytes were taken.
    Frame(Frame),
    /// At least so many more bytes are needed.
    More(usize),
}

impl Frame {
    /// Appends everything but the payload, which follows on the wire as it is.
    ///
    /// # Panics
    /// When a payload is longer than its kind allows, which no frame of a [`super::Session`] is.
    pub fn encode_header(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data { stream, offset, open, fin, payload } => {
                assert!(payload.len() <= FRAME_PAYLOAD, "a session's frames are within the bound");
                let flags = if *open { OPEN } else { 0 } | if *fin { FIN } else { 0 };
                prefix(out, DATA, flags, DATA_HEAD + payload.len());
                numbers(out, &[stream.0, *offset]);
            }
            Self::Ack { stream, received, limit } => {
                prefix(out, ACK, 0, 24);
                numbers(out, &[stream.0, *received, *limit]);
            }
            Self::Reset { stream, reason } => {
                prefix(out, RESET, 0, 9);
                numbers(out, &[stream.0]);
                out.push(reason.code());
            }
            Self::ResetAck { stream } => {
                prefix(out, RESET_ACK, 0, 8);
                numbers(out, &[stream.0]);
            }
            Self::Moved { stream } => {
                prefix(out, MOVED, 0, 8);
                numbers(out, &[stream.0]);
            }
            Self::Ping { number } => {
                prefix(out, PING, 0, 8);
                numbers(out, &[*number]);
            }
            Self::Pong { number } => {
                prefix(out, PONG, 0, 8);
                numbers(out, &[*number]);
            }
            Self::Datagram { channel, payload } => {
                assert!(payload.len() <= MAX_DATAGRAM, "a session's datagrams are within the bound");
                prefix(out, DATAGRAM, 0, DATAGRAM_HEAD + payload.len());
                numbers(out, &[*channel]);
            }
            Self::GoAway => prefix(out, GO_AWAY, 0, 0),
        }
    }

    /// What follows the head on the wire; empty for most kinds.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Data { payload, .. } | Self::Datagram { payload, .. } => payload,
            Self::Ack { .. }
            | Self::Reset { .. }
            | Self::ResetAck { .. }
            | Self::Moved { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::GoAway => &[],
        }
    }

    /// The payload, given away.
    pub fn into_payload(self) -> Bytes {
        match self {
            Self::Data { payload, .. } | Self::Datagram { payload, .. } => payload,
            Self::Ack { .. }
            | Self::Reset { .. }
            | Self::ResetAck { .. }
            | Self::Moved { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::GoAway => Bytes::new(),
        }
    }

    /// Whether it only measures the carrier.
    pub(super) fn is_pulse(&self) -> bool {
        matches!(self, Self::Ping { .. } | Self::Pong { .. })
    }
}

/// Takes the first frame off `buffer`. Its payload shares the buffer's memory; frames of unknown kind are skipped.
pub fn decode(buffer: &mut BytesMut) -> Result<Decoded, FrameError> {
    loop {
        let Some(&[kind, flags, high, low]) = buffer.first_chunk::<PREFIX>() else {
            return Ok(Decoded::More(PREFIX - buffer.len()));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        check(kind, flags, len)?;
        if let Some(missing @ 1..) = (PREFIX + len).checked_sub(buffer.len()) {
            return Ok(Decoded::More(missing));
        }
        buffer.advance(PREFIX);
        let frame = match kind {
            DATA => {
                let (stream, offset) = (StreamId(buffer.get_u64()), buffer.get_u64());
                let payload = take(buffer, len - DATA_HEAD);
                let (open, fin) = (flags & OPEN != 0, flags & FIN != 0);
                Frame::Data { stream, offset, open, fin, payload }
            }
            ACK => Frame::Ack {
                stream: StreamId(buffer.get_u64()),
                received: buffer.get_u64(),
                limit: buffer.get_u64(),
            },
            RESET => Frame::Reset {
                stream: StreamId(buffer.get_u64()),
                reason: ResetReason::of_code(buffer.get_u8()),
            },
            RESET_ACK => Frame::ResetAck { stream: StreamId(buffer.get_u64()) },
            MOVED => Frame::Moved { stream: StreamId(buffer.get_u64()) },
            PING => Frame::Ping { number: buffer.get_u64() },
            PONG => Frame::Pong { number: buffer.get_u64() },
            DATAGRAM => {
                let channel = buffer.get_u64();
                Frame::Datagram { channel, payload: take(buffer, len - DATAGRAM_HEAD) }
            }
            GO_AWAY => Frame::GoAway,
            _ => {
                buffer.advance(len);
                continue;
            }
        };
        return Ok(Decoded::Frame(frame));
    }
}

/// Refuses a frame by its first four bytes, before anything is kept for its body.
fn check(kind: u8, flags: u8, len: usize) -> Result<(), FrameError> {
    let (known, shortest, longest) = match kind {
        DATA => (OPEN | FIN, DATA_HEAD, DATA_HEAD + FRAME_PAYLOAD),
        ACK => (0, 24, 24),
        RESET => (0, 9, 9),
        RESET_ACK | MOVED | PING | PONG => (0, 8, 8),
        DATAGRAM => (0, DATAGRAM_HEAD, DATAGRAM_HEAD + MAX_DATAGRAM),
        GO_AWAY => (0, 0, 0),
        _ => return Ok(()),
    };
    if flags & !known != 0 {
        Err(FrameError::Flags)
    } else if len > longest {
        Err(if longest > shortest { FrameError::TooLong } else { FrameError::Length })
    } else if len < shortest {
        Err(FrameError::Length)
    } else {
        Ok(())
    }
}

fn take(buffer: &mut BytesMut, len: usize) -> Bytes {
    if len == 0 { Bytes::new() } else { buffer.split_to(len).freeze() }
}

fn prefix(out: &mut Vec<u8>, kind: u8, flags: u8, len: usize) {
    let len = u16::try_from(len).expect("the longest datagram and its head are below 64 KiB");
    let [high, low] = len.to_be_bytes();
    out.extend_from_slice(&[kind, flags, high, low]);
}

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}
