//! One connection: its kind, its pulse, what is open on it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgemesh_mesh::Path;
use serde::Serialize;

use crate::event::LinkKind;
use crate::record::{Address, PeerId};

/// Names a connection within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ConnId(pub u64);

/// Pause between pings to relays in use and on connections with open streams: with [`DEAD_AFTER`] a dead
/// connection is replaced within 3.5 s, which leaves 1.5 s of the promised 5 s for the new one.
pub const PING_BUSY: Duration = Duration::from_secs(1);

/// Pause between pings elsewhere; below the 2 min after which NATs may forget UDP and far below the 2 h 4 min of
/// RFC 5382 REQ-5 for TCP, which home routers often undercut.
pub const PING_IDLE: Duration = Duration::from_secs(15);

/// Silence after a ping that means death: four times the round trip of a bad satellite link (600 ms).
pub const DEAD_AFTER: Duration = Duration::from_millis(2500);

/// When the first ping leaves: the control stream is up by then and an idle connection gets its round-trip time.
const FIRST_PING: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: PeerId,
    pub(crate) kind: LinkKind,
    pub(crate) address: Address,
    /// Whether an attempt of ours made it.
    pub(crate) ours: bool,
    pub(crate) since: Instant,
    pub(crate) identified: bool,
    /// A Go agent's, without a control stream.
    pub(crate) legacy: bool,
    pub(crate) closing: bool,
    pub(crate) streams: u32,
    /// Since when nothing has been open on it.
    pub(crate) idle_since: Instant,
    pub(crate) rtt: Option<Duration>,
    received: u64,
    last_life: Instant,
    asked: Option<(u64, Instant)>,
    next_ping: Instant,
}

/// What the pulse of a connection calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    Fine,
    Ask,
    Dead(Duration),
}

impl Connection {
    pub(crate) fn new(peer: PeerId, kind: LinkKind, address: Address, ours: bool, now: Instant) -> Self {
        Self {
            peer,
            kind,
            address,
            ours,
            since: now,
            identified: false,
            legacy: false,
            closing: false,
            streams: 0,
            idle_since: now,
            rtt: None,
            received: 0,
            last_life: now,
            asked: None,
            next_ping: now + FIRST_PING,
        }
    }

    pub(crate) fn path(&self) -> Path {
        self.kind.path()
    }

    /// The peer's address, where it is one of a subnet of the own node.
    pub(crate) fn lan_address(&self) -> Option<IpAddr> {
        (self.kind == LinkKind::Lan).then(|| self.address.ip()).flatten()
    }

    pub(crate) fn relayed(&self) -> bool {
        matches!(self.kind, LinkKind::Relayed(_))
    }

    /// Takes note of what moved; true when a ping is due at once because the connection is in use again.
    pub(crate) fn activity(&mut self, streams: u32, received: u64, now: Instant) -> bool {
        if received != self.received {
            self.received = received;
            self.last_life = now;
        }
        let woken = self.streams == 0 && streams > 0;
        if self.streams > 0 && streams == 0 {
            self.idle_since = now;
        }
        self.streams = streams;
        if woken {
            self.next_ping = self.next_ping.min(now);
        }
        woken
    }

    /// Asks at once whether it is alive.
    pub(crate) fn suspect(&mut self, now: Instant) {
        self.next_ping = self.next_ping.min(now);
    }

    pub(crate) fn alive(&mut self, now: Instant) {
        self.last_life = now;
    }

    /// Takes a pong; true when the round-trip time moved by more than a quarter.
    pub(crate) fn pong(&mut self, number: u64, now: Instant) -> bool {
        self.alive(now);
        let Some((asked, at)) = self.asked else { return false };
        if asked != number {
            return false;
        }
        self.asked = None;
        let sample = now.saturating_duration_since(at);
        let before = self.rtt;
        // The gain of 1/8 is that of TCP's smoothed round-trip time (RFC 6298).
        let rtt = before.map_or(sample, |old| old * 7 / 8 + sample / 8);
        self.rtt = Some(rtt);
        before.is_none_or(|old| rtt.abs_diff(old) > old / 4)
    }

    pub(crate) fn asked(&mut self, number: u64, busy: bool, now: Instant) {
        self.asked = Some((number, now));
        self.next_ping = now + pause(busy);
    }

    pub(crate) fn pulse(&self, busy: bool, now: Instant) -> Pulse {
        if let Some((_, at)) = self.asked {
            if now >= self.deadline(at) {
                return Pulse::Dead(now.saturating_duration_since(self.last_life));
            }
            return Pulse::Fine;
        }
        if self.ping_at(busy) <= now { Pulse::Ask } else { Pulse::Fine }
    }

    /// When the pulse is to be looked at again.
    pub(crate) fn pulse_at(&self, busy: bool) -> Instant {
        match self.asked {
            Some((_, at)) => self.deadline(at),
            None => self.ping_at(busy),
        }
    }

    fn deadline(&self, asked: Instant) -> Instant {
        asked.max(self.last_life) + DEAD_AFTER
    }

    /// A connection that became busy after its last ping is asked sooner than that ping's schedule said.
    fn ping_at(&self, busy: bool) -> Instant {
        if busy { self.next_ping.min(self.last_life.max(self.since) + PING_BUSY) } else { self.next_ping }
    }
}

fn pause(busy: bool) -> Duration {
    if busy { PING_BUSY } else { PING_IDLE }
}
