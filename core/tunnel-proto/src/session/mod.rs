//! The session between two agents: streams that outlive the carriers their bytes ride.
//!
//! A *carrier* is an ordered, reliable, authenticated byte pipe between the two agents: TLS over TCP, a circuit
//! through a relay, a libp2p substream. A [`Session`] multiplexes streams over any number of carriers. The invariant
//! is: **a byte is delivered once, in order, or the stream ends with a reset at both ends.** It rests on four facts,
//! each argued where it is implemented:
//!
//! * a receiver takes only what begins at or below the offset it expects and trims what it has (`recv`), so no path
//!   that frames take can double or reorder a byte;
//! * a sender keeps a byte until it is acknowledged and begins again at an acknowledged offset when its carrier is
//!   lost (`send`, `moves`), so none is lost and no honest sender leaves a gap;
//! * FIN, RESET, and the answers to them are repeated until the other side has answered on the carrier that the
//!   question came by (`receive`), so both ends learn how a stream ended;
//! * both ends see every carrier end, by [`Session::carrier_down`] or by silence (`pulse`), and what was under way
//!   on it is asked for again.
//!
//! Drain order: any number of calls, then [`Session::poll_event`] until it is empty; [`Session::handle_timeout`] when
//! [`Session::poll_timeout`] is due (any call may make it due at once); [`Session::transmit`] of a carrier until it
//! has nothing more, whenever [`Event::Transmit`] names it. A carrier is announced by [`Session::carrier_up`] before
//! the first of its frames is given to [`Session::receive`], and never under an id that was used before.

mod carrier;
mod datagram;
mod frame;
mod moves;
mod pulse;
mod receive;
mod recv;
mod seen;
mod send;
mod state;
mod stream;
mod timeout;
mod transmit;
mod types;
mod view;

pub use datagram::{MAX_QUEUED_BYTES, MAX_QUEUED_DATAGRAMS};
pub use frame::{Decoded, FRAME_PAYLOAD, Frame, FrameError, MAX_FRAME, MAX_HEAD, decode};
pub use moves::{NO_PATH_AFTER, RESEND_AT_ONCE};
pub use pulse::{BUSY_FOR, PATIENCE, PATIENCE_CAP, PING_BUSY, PING_IDLE};
pub use receive::{ACK_BYTES, ACK_DELAY};
pub use state::Session;
pub use types::{
    CarrierId, Event, MAX_CARRIERS, MAX_STREAMS, OpenRefused, Read, ResetReason, SessionLimits, Side,
    StreamId, Violation, Write,
};
pub use view::{CarrierView, SessionView};
