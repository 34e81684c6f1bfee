//! The vocabulary of the session.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;

/// Streams that one side may have opened and not yet forgotten. Part of the protocol: both sides size their memory of
/// ids by it. 1,000 nodes' worth of connections between two agents stay far below it.
pub const MAX_STREAMS: u32 = 4096;

/// Carriers of one session at a time: a direct one of each transport and family, and a circuit through each of the
/// eight relays that an agent uses, with room for what is being replaced.
pub const MAX_CARRIERS: usize = 16;

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agent whose peer id is the smaller text; its streams have even ids.
    A,
    /// The other one; its streams have odd ids.
    B,
}

impl Side {
    /// The first id of a stream that this side opens; the next is two further.
    pub(super) fn first(self) -> u64 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    pub(super) fn opens(self, id: StreamId) -> bool {
        id.0 % 2 == self.first()
    }
}

/// Names a stream within its session; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StreamId(pub u64);

/// Names a carrier at this end; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CarrierId(pub u64);

/// What a session may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Streams that each side may have open; at most [`MAX_STREAMS`].
    pub streams: u32,
    /// What may be sent on a stream before the receiver has said anything. Part of the protocol: the same at both ends.
    pub initial_window: u32,
    /// The largest window that a stream grows to.
    pub max_window: u32,
    /// Bounds three sums over the session: receive windows that have grown, bytes received and not consumed, bytes
    /// kept for replay.
    pub total_window: u64,
}

impl Default for SessionLimits {
    /// 256 KiB fill a 10 ms link of 200 Mbit/s in the first round trip; 16 MiB fill twice the 60 ms of a 1 Gbit/s
    /// link; 64 MiB are what four such streams need.
    fn default() -> Self {
        Self { streams: MAX_STREAMS, initial_window: 256 << 10, max_window: 16 << 20, total_window: 64 << 20 }
    }
}

/// Why a stream ended before its time. Codes are part of the protocol: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ResetReason {
    /// A reason that a newer agent knows, or the stream is not known.
    Unspecified,
    /// The application gave the stream up.
    Cancelled,
    /// The application's own connection broke.
    Broken,
    /// The other side has as many streams as it may have.
    Full,
    /// There was no carrier for [`super::NO_PATH_AFTER`].
    NoPath,
    /// Its reader was behind while the session held all that it may hold.
    Overloaded,
}

const REASONS: [(u8, ResetReason, &str); 6] = [
    (0, ResetReason::Unspecified, "unspecified"),
    (1, ResetReason::Cancelled, "cancelled"),
    (2, ResetReason::Broken, "broken"),
    (3, ResetReason::Full, "full"),
    (4, ResetReason::NoPath, "no_path"),
    (5, ResetReason::Overloaded, "overloaded"),
];

impl ResetReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        REASONS.iter().find(|(_, reason, _)| *reason == self).map_or("unspecified", |(_, _, word)| word)
    }

    pub(super) fn code(self) -> u8 {
        REASONS.iter().find(|(_, reason, _)| *reason == self).map_or(0, |(code, _, _)| *code)
    }

    pub(super) fn of_code(code: u8) -> Self {
        REASONS
            .iter()
            .find(|(known, _, _)| *known == code)
            .map_or(Self::Unspecified, |(_, reason, _)| *reason)
    }
}

/// Why no stream is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenRefused {
    /// As many streams of this side are open as may be.
    #[error("the session has as many streams as it may have")]
    Full,
    /// One of the two sides is going away.
    #[error("the session is going away")]
    GoingAway,
}

impl OpenRefused {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::GoingAway => "going_away",
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// So many bytes were taken. Fewer than were offered: [`Event::Writable`] follows.
    Taken(usize),
    /// The stream was finished before.
    Finished,
    /// The stream was reset.
    Reset(ResetReason),
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Chunk(Bytes),
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
    /// The other side has finished and everything was read.
    Finished,
    /// The stream was reset.
    Reset(ResetReason),
}

/// What the caller is to know or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream.
    Opened(StreamId),
    /// A read that found nothing finds something now, or the peer reset the stream.
    Readable(StreamId),
    /// A write that took less than was offered takes something now, or the peer reset the stream.
    Writable(StreamId),
    /// The carrier has something to send. Comes again only after [`super::Session::transmit`] said it has nothing.
    Transmit(CarrierId),
    /// Datagrams can be taken by [`super::Session::poll_datagram`].
    Datagrams,
    /// Nothing came by the carrier for so long although it was asked. The session uses it no more: close it.
    CarrierDead(CarrierId, Duration),
    /// The stream is forgotten: finished in both directions and acknowledged, or reset and both sides know.
    Ended {
        /// The stream.
        stream: StreamId,
        /// Why it was reset, if it was.
        reset: Option<ResetReason>,
        /// Bytes of this side that were acknowledged.
        sent: u64,
        /// Bytes received from the other side.
        received: u64,
    },
}

/// What an honest peer never sends; it ends the carrier that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Data begins beyond what was received.
    #[error("a gap in the bytes of a stream")]
    Gap,
    /// Data beyond what was granted.
    #[error("more bytes than the window of a stream allows")]
    Window,
    /// Data beyond the end of a stream, or a second end elsewhere.
    #[error("bytes beyond the end of a stream")]
    PastEnd,
    /// Data of a stream that was never opened, or an opening in the middle of one.
    #[error("a stream that is not opened as it must be")]
    NotOpened,
    /// A frame names a stream of ours that we never opened.
    #[error("a stream that this side never opened")]
    UnknownStream,
    /// More was acknowledged than was sent.
    #[error("an acknowledgement of bytes that were not sent")]
    NotSent,
    /// More streams at a time than the protocol allows.
    #[error("more streams than the protocol allows")]
    TooManyStreams,
    /// Questions come and their answers are not taken.
    #[error("more questions than answers were taken")]
    Flood,
}

impl Violation {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Window => "window",
            Self::PastEnd => "past_end",
            Self::NotOpened => "not_opened",
            Self::UnknownStream => "unknown_stream",
            Self::NotSent => "not_sent",
            Self::TooManyStreams => "too_many_streams",
            Self::Flood => "flood",
        }
    }
}
