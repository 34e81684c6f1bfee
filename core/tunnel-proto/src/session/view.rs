//! The session as the status shows it.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::state::Session;
use super::types::CarrierId;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Streams that are not forgotten.
    pub streams: usize,
    /// Bytes kept until they are acknowledged.
    pub replay: u64,
    /// Bytes received and not consumed.
    pub held: u64,
    /// Sum of the receive windows.
    pub windows: u64,
    /// Ids of the peer that came out of order and are still missing.
    pub gaps: usize,
    /// How often a sending half went to another carrier after it had begun.
    pub moved: u64,
    /// Streams that were reset because the session held too much.
    pub shed: u64,
    /// Datagrams that made room for newer ones, to be sent and received.
    pub datagrams_dropped: (u64, u64),
    /// Carriers, in the order in which they came up.
    pub carriers: Vec<CarrierView>,
}

/// A carrier of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CarrierView {
    /// Its name.
    pub id: CarrierId,
    /// Its cost.
    pub cost: u32,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Whether new streams use it.
    pub best: bool,
    /// Directions of this side that ride it.
    pub sending: usize,
    /// Directions of the peer that rode it when they were last heard of.
    pub receiving: usize,
    /// Payload bytes that left by it, repeated ones included.
    pub sent: u64,
    /// Payload bytes that came by it, repeated ones included.
    pub received: u64,
    /// When it was last heard of.
    #[serde(skip)]
    pub last_heard: Instant,
}

impl Session {
    /// What there is. Looks at every stream.
    pub fn view(&self) -> SessionView {
        let live = || self.streams.values().filter(|stream| !stream.over);
        let best = self.best();
        let carriers = self.carriers.iter().enumerate().map(|(index, carrier)| {
            let own = Some(carrier.id);
            CarrierView {
                id: carrier.id,
                cost: carrier.cost,
                rtt: carrier.pulse.rtt(),
                best: best == Some(index),
                sending: live().filter(|stream| stream.carrier == own && !stream.sends_no_more()).count(),
                receiving: live()
                    .filter(|stream| stream.recv.by == own && !stream.receives_no_more())
                    .count(),
                sent: carrier.sent,
                received: carrier.received,
                last_heard: carrier.pulse.last_life(),
            }
        });
        SessionView {
            streams: live().count(),
            replay: self.totals.replay,
            held: self.totals.held,
            windows: self.totals.windows,
            gaps: self.ids.seen.gaps(),
            moved: self.totals.moved,
            shed: self.totals.shed,
            datagrams_dropped: (self.outgoing.dropped(), self.incoming.dropped()),
            carriers: carriers.collect(),
        }
    }
}
