//! One peer: its connections, and the attempts to get (better) ones.

use std::time::{Duration, Instant};

use crate::connection::ConnId;
use crate::event::{DialId, Failure};
use crate::punch::Punch;
use crate::record::Address;
use crate::schedule::Retry;
use crate::ways::Ways;

/// The longest pause between attempts while somebody waits for the peer.
pub(crate) const DEMAND_RETRY: Duration = Duration::from_secs(2);
/// The longest pause between attempts to keep a peer warm that nobody asks for; every change of its record, of the
/// relays or a demand ends the pause.
pub(crate) const WARM_RETRY: Duration = Duration::from_secs(30);
/// Repeated demands lead to one attempt in this time, and are told its result meanwhile.
pub(crate) const DEMAND_PAUSE: Duration = Duration::from_secs(1);
/// How long a demand is remembered: a client that retries does so within this.
pub(crate) const DEMAND_TTL: Duration = Duration::from_secs(60);
/// How long a relay may take to pass on what it knows after the connection came up.
pub(crate) const TELL_WAIT: Duration = Duration::from_secs(2);
/// How long a demand for an unknown peer waits for discovery at most; a dial has 10 s in all.
pub(crate) const UNKNOWN_WAIT: Duration = Duration::from_secs(4);
/// How long after the start neighbours may take to answer, whatever the relays say: a node that restarts while it is
/// cut off from its relays serves its LAN.
pub(crate) const LAN_WAIT: Duration = Duration::from_millis(1500);
/// A peer found in the LAN is dialled for this long after its last sign; it announces itself every minute.
pub(crate) const LAN_TTL: Duration = Duration::from_secs(180);
/// A worse connection is closed when a better one stands and nothing was open on it for this long: the remote side
/// may have chosen it just before it knew the better one.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// A second circuit stays as long as three DCUtR attempts on it may take.
pub(crate) const CIRCUIT_GRACE: Duration = Duration::from_secs(20);
/// A connection nobody uses or asks for is closed.
pub(crate) const IDLE_CLOSE: Duration = Duration::from_secs(600);
/// Addresses dialled in one attempt.
pub(crate) const MAX_DIAL_ADDRESSES: usize = 16;
/// LAN addresses remembered of one peer.
const MAX_LAN_ADDRESSES: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) conns: Vec<ConnId>,
    pub(crate) direct_dial: Option<DialId>,
    pub(crate) circuit_dial: Option<DialId>,
    /// When the attempt in flight, or the last one, began.
    pub(crate) started: Option<Instant>,
    pub(crate) retry: Retry,
    pub(crate) punch: Punch,
    /// An address is new: try it though a relayed connection stands.
    pub(crate) try_direct: bool,
    /// The record changed since the last attempt began: what it names now may lead there.
    pub(crate) fresh: bool,
    pub(crate) failure: Option<Failure>,
    pub(crate) ways: Ways,
    /// Addresses found in the LAN, with the last sign of each.
    pub(crate) lan: Vec<(Address, Instant)>,
}

impl Peer {
    pub(crate) fn dialling(&self) -> bool {
        self.direct_dial.is_some() || self.circuit_dial.is_some()
    }

    /// Notes a sign in the LAN; true when the address is new.
    pub(crate) fn discovered(&mut self, address: Address, now: Instant) -> bool {
        if let Some(known) = self.lan.iter_mut().find(|(known, _)| *known == address) {
            known.1 = now;
            return false;
        }
        if self.lan.len() == MAX_LAN_ADDRESSES {
            self.lan.remove(0);
        }
        self.lan.push((address, now));
        true
    }

    pub(crate) fn in_lan(&self, now: Instant) -> bool {
        self.lan.iter().any(|(_, seen)| now < *seen + LAN_TTL)
    }

    pub(crate) fn dials(&self, dial: DialId) -> bool {
        self.direct_dial == Some(dial) || self.circuit_dial == Some(dial)
    }

    pub(crate) fn dial_ended(&mut self, dial: DialId) {
        for slot in [&mut self.direct_dial, &mut self.circuit_dial] {
            if *slot == Some(dial) {
                *slot = None;
            }
        }
    }
}
