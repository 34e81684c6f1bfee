//! The relays of the configuration: connected for ever, with a reservation each.

use std::fmt;
use std::time::{Duration, Instant};

use edgemesh_api::Name;
use serde::Serialize;

use crate::connection::ConnId;
use crate::event::{DialId, Failure, RelayTarget};
use crate::record::{Address, PeerId};
use crate::schedule::{Draws, Retry};

/// The longest pause between attempts to reach a relay: after a cut of any length it is found again in 2 s.
pub(crate) const RELAY_RETRY: Duration = Duration::from_secs(2);

/// Pause after a relay said it is full: its answer will hardly change sooner, and a full relay has enough to do.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(10);

/// For how long the identify exchange is waited for before a reservation is made without it; it takes one round trip.
pub(crate) const IDENTIFY_WAIT: Duration = Duration::from_secs(2);

/// Reservations held at a time: each costs a heartbeat per second; more than two are for the relay that just fails.
pub(crate) const MAX_RELAYS_USED: usize = 4;

/// Why a relay is not usable. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayReason {
    /// Not tried yet.
    Connecting,
    /// Nothing answers at its address.
    Unreachable,
    /// Something answers and the handshake fails: most often another pre-shared key.
    PskMismatchSuspected,
    /// Another identity answers than the configuration names.
    WrongPeer,
    /// It has no room for a reservation.
    Full,
    /// It does not serve as a relay.
    Denied,
    /// The connection was lost.
    Lost,
    /// The address is this node's own.
    Myself,
}

impl RelayReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::PskMismatchSuspected => "psk_mismatch_suspected",
            Self::WrongPeer => "wrong_peer",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Lost => "lost",
            Self::Myself => "myself",
        }
    }

    pub(crate) fn of(failure: Failure) -> Self {
        match failure {
            Failure::Handshake => Self::PskMismatchSuspected,
            Failure::WrongPeer => Self::WrongPeer,
            Failure::Myself => Self::Myself,
            Failure::RelayFull => Self::Full,
            Failure::Denied | Failure::NoReservation => Self::Denied,
            Failure::Unreachable | Failure::Other => Self::Unreachable,
        }
    }
}

impl fmt::Display for RelayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// Not connected.
    Down,
    /// Connected, without a reservation yet.
    Connected,
    /// Connected, with a reservation where one is needed.
    Up,
}

/// A relay as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RelayView {
    /// Its address as configured.
    pub address: Name,
    /// Its identity, once known.
    pub peer: Option<Name>,
    /// How far it is.
    pub state: RelayState,
    /// Why it is not up.
    pub reason: Option<RelayReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    None,
    Asked,
    Held,
}

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) target: RelayTarget,
    pub(crate) peer: Option<PeerId>,
    pub(crate) dial: Option<(DialId, Instant)>,
    pub(crate) retry: Retry,
    pub(crate) conn: Option<ConnId>,
    /// Where it was reached.
    pub(crate) reached: Option<Address>,
    pub(crate) reservation: Reservation,
    pub(crate) reserve_retry: Retry,
    pub(crate) reason: Option<RelayReason>,
    /// Whether circuits may be opened through it, and since when.
    pub(crate) ready: Option<Instant>,
    pub(crate) reported: Option<Result<(), RelayReason>>,
}

impl Relay {
    pub(crate) fn new(target: RelayTarget) -> Self {
        Self {
            peer: target.peer.clone(),
            target,
            dial: None,
            retry: Retry::default(),
            conn: None,
            reached: None,
            reservation: Reservation::None,
            reserve_retry: Retry::default(),
            reason: Some(RelayReason::Connecting),
            ready: None,
            reported: None,
        }
    }

    pub(crate) fn myself(&self) -> bool {
        self.reason == Some(RelayReason::Myself)
    }

    /// Has been tried, or is connected long enough to have told all it knows.
    pub(crate) fn settled(&self, now: Instant) -> bool {
        match self.ready {
            Some(since) => now >= since + crate::peer::TELL_WAIT,
            None => self.conn.is_none() && self.reason != Some(RelayReason::Connecting),
        }
    }

    pub(crate) fn state(&self, needs_reservation: bool) -> RelayState {
        match (self.conn, self.reservation) {
            (None, _) => RelayState::Down,
            (Some(_), Reservation::Held) => RelayState::Up,
            (Some(_), _) if needs_reservation => RelayState::Connected,
            (Some(_), _) => RelayState::Up,
        }
    }

    /// `<address>/p2p/<relay>`, once connected.
    pub(crate) fn full_address(&self) -> Option<Address> {
        let (address, peer) = (self.reached.as_ref()?, self.peer.as_ref()?);
        Some(Address::new(format!("{address}/p2p/{peer}")))
    }

    pub(crate) fn disconnected(&mut self, since: Instant, now: Instant, draws: &mut Draws) {
        self.conn = None;
        self.ready = None;
        self.reservation = Reservation::None;
        self.reserve_retry.reset();
        self.retry.lost(since, now, RELAY_RETRY, draws);
        self.reason = Some(RelayReason::Lost);
    }
}
