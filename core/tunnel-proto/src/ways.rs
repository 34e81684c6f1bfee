//! Carriers: the byte pipes of the session with a peer. Which are made, on which way, and by which side.
//!
//! The side that dialled a connection opens the carriers along it: only it knows an address that can be dialled. The
//! other side asks for them ([`Frame::CallMe`]) when it needs the peer.

use std::time::{Duration, Instant};

use edgemesh_mesh::Path;

use crate::connection::ConnId;
use crate::control::Frame;
use crate::decide::Wake;
use crate::event::{Action, Failure, LinkKind};
use crate::peer::IDLE_CLOSE;
use crate::record::{Address, PeerId};
use crate::schedule::Retry;
use crate::state::TunnelState;

/// Circuits kept to a peer that is reached through relays only: one in use and one to fall back to.
const RELAYED_CIRCUITS: usize = 2;
/// Circuits kept beside a direct carrier: what remains when that breaks.
const SPARE_CIRCUITS: usize = 1;

/// The longest pause between attempts on one way.
const WAY_RETRY: Duration = Duration::from_secs(30);

/// How long a peer that was asked for carriers may take before it is asked again.
const CALL_PAUSE: Duration = Duration::from_secs(10);

/// A carrier that is no longer among those to keep ends after this: the way that took its place may not last.
const SPARE_GRACE: Duration = Duration::from_secs(30);

/// Names a carrier within this process; the edge counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CarryId(pub u64);

/// Names an attempt to make a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// How a carrier is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A substream of a libp2p connection: always there, and the dearest per byte.
    Substream(ConnId),
    /// TLS over TCP to an address of the peer.
    Direct {
        /// Where; unknown for one the peer made.
        address: Option<Address>,
        /// [`Path::Lan`] or [`Path::Direct`].
        path: Path,
    },
    /// TLS between the two ends through a relay.
    Circuit {
        /// The relay.
        relay: PeerId,
        /// Where the relay listens; unknown for one the peer made.
        address: Option<Address>,
    },
}

impl Way {
    /// Whether two of them would be one too many.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Substream(one), Self::Substream(two)) => one == two,
            (Self::Direct { .. }, Self::Direct { .. }) => true,
            (Self::Circuit { relay: one, .. }, Self::Circuit { relay: two, .. }) => one == two,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    way: Way,
    started: Instant,
}

#[derive(Debug)]
struct Carrier {
    id: CarryId,
    way: Way,
    path: Path,
    ours: bool,
    since: Instant,
    /// Since when it is none of those to keep.
    spare_since: Option<Instant>,
}

/// The carriers of one peer, and the attempts to make more.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    carriers: Vec<Carrier>,
    attempts: Vec<Attempt>,
    /// Pauses after failures; for ways that are wanted now, so as many as those.
    retries: Vec<(Way, Retry)>,
    /// Connections on which the peer asked for carriers.
    called: Vec<ConnId>,
    /// Connections on which the peer was asked, and when.
    asked: Vec<(ConnId, Instant)>,
    streams: u32,
    idle_since: Option<Instant>,
}

impl Ways {
    /// The best path a carrier takes.
    pub(crate) fn path(&self) -> Option<Path> {
        self.carriers.iter().map(|carrier| carrier.path).min_by_key(|path| crate::path::rank(*path))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.carriers.is_empty() && self.attempts.is_empty()
    }

    fn holds(&self, way: &Way) -> bool {
        self.carriers.iter().any(|carrier| carrier.way.same(way))
            || self.attempts.iter().any(|attempt| attempt.way.same(way))
    }

    fn direct(&self) -> bool {
        self.carriers.iter().any(|carrier| matches!(carrier.way, Way::Direct { .. }))
    }
}

impl TunnelState {
    pub(crate) fn called(&mut self, conn: ConnId) {
        let Some(id) = self.connections.get(&conn).map(|connection| connection.peer.clone()) else { return };
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.ways.called.contains(&conn)
        {
            peer.ways.called.push(conn);
        }
    }

    pub(crate) fn carrier_up(
        &mut self,
        id: CarryId,
        attempt: Option<AttemptId>,
        of: &PeerId,
        way: Way,
        now: Instant,
    ) {
        let path = match &way {
            Way::Substream(conn) => match self.connections.get(conn) {
                Some(connection) => connection.path(),
                None => return,
            },
            Way::Direct { path, .. } => *path,
            Way::Circuit { .. } => Path::Relayed,
        };
        let peer = self.peers.entry(of.clone()).or_default();
        peer.ways.attempts.retain(|other| Some(other.id) != attempt);
        peer.ways.retries.retain(|(other, _)| !other.same(&way));
        peer.ways.carriers.push(Carrier {
            id,
            way,
            path,
            ours: attempt.is_some(),
            since: now,
            spare_since: None,
        });
        self.published.dirty = true;
    }

    pub(crate) fn carrier_down(&mut self, id: CarryId, of: &PeerId, dead: bool, now: Instant) {
        let Self { peers, draws, connections, .. } = self;
        let Some(peer) = peers.get_mut(of) else { return };
        let Some(index) = peer.ways.carriers.iter().position(|carrier| carrier.id == id) else { return };
        let carrier = peer.ways.carriers.swap_remove(index);
        if carrier.ours {
            let mut retry = Retry::default();
            retry.lost(carrier.since, now, WAY_RETRY, draws);
            peer.ways.retries.push((carrier.way, retry));
        }
        // What killed the carrier may have killed the connection beside it; it answers a ping, or is given up too.
        if dead {
            for conn in &peer.conns {
                if let Some(connection) = connections.get_mut(conn)
                    && connection.path() == carrier.path
                {
                    connection.suspect(now);
                }
            }
        }
        self.published.dirty = true;
    }

    pub(crate) fn carry_failed(&mut self, id: AttemptId, of: &PeerId, failure: Failure, now: Instant) {
        let Self { peers, draws, .. } = self;
        let Some(peer) = peers.get_mut(of) else { return };
        let Some(index) = peer.ways.attempts.iter().position(|attempt| attempt.id == id) else { return };
        let attempt = peer.ways.attempts.swap_remove(index);
        let known = peer.ways.retries.iter().position(|(way, _)| way.same(&attempt.way));
        let mut retry = known.map(|index| peer.ways.retries.swap_remove(index).1).unwrap_or_default();
        if matches!(failure, Failure::RelayFull | Failure::Denied) {
            retry.hold(now + WAY_RETRY);
        } else {
            retry.failed(attempt.started, now, WAY_RETRY, draws);
        }
        peer.ways.retries.push((attempt.way, retry));
    }

    pub(crate) fn session_load(&mut self, of: &PeerId, streams: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(of) else { return };
        peer.ways.streams = streams;
        if streams > 0 {
            peer.ways.idle_since = None;
        } else {
            peer.ways.idle_since.get_or_insert(now);
        }
    }

    /// Makes the carriers that are missing, asks the peer for those it can make, and ends those nobody needs.
    pub(crate) fn keep_ways(&mut self, id: &PeerId, wanted: bool, now: Instant, wake: &mut Wake) {
        // Whoever sends no record does not speak of carriers: a peer of another kind, or one just met.
        // A Go agent's identity can be anybody's, and so can a record of it.
        if self.directory.record(id).is_none() || self.is_legacy(id) {
            return;
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        let connections = &self.connections;
        let stands = |conn: &ConnId| connections.get(conn).is_some_and(|other| !other.closing);
        peer.ways.called.retain(stands);
        peer.ways.asked.retain(|(conn, _)| stands(conn));
        // What is open goes on, whoever asked for it.
        let wanted = wanted || peer.ways.streams > 0;
        if !wanted && peer.ways.called.is_empty() {
            return self.end_unused(id, now, wake);
        }
        let (desired, ask) = self.desired_ways(id, wanted);
        for conn in ask {
            self.ask(id, conn, now, wake);
        }
        self.make_ways(id, &desired, now, wake);
        self.end_spare(id, &desired, now, wake);
    }

    /// The carriers to have, and the connections on which to ask the peer for some.
    fn desired_ways(&self, id: &PeerId, wanted: bool) -> (Vec<Way>, Vec<ConnId>) {
        let (mut desired, mut ask) = (Vec::new(), Vec::new());
        let Some(peer) = self.peers.get(id) else { return (desired, ask) };
        let mut opens = peer.conns.is_empty();
        for conn in &peer.conns {
            let Some(link) = self.connections.get(conn).filter(|link| !link.closing) else { continue };
            let called = peer.ways.called.contains(conn);
            if link.ours || called {
                opens = true;
                desired.push(Way::Substream(*conn));
                if link.ours && matches!(link.kind, LinkKind::Lan | LinkKind::Direct) {
                    desired.push(Way::Direct { address: Some(link.address.clone()), path: link.path() });
                }
            } else if wanted {
                let bare = !peer.ways.holds(&Way::Substream(*conn));
                let direct = matches!(link.kind, LinkKind::Lan | LinkKind::Direct);
                if bare || (direct && !peer.ways.direct()) {
                    ask.push(*conn);
                }
            }
        }
        if opens {
            let most = if peer.ways.direct() { SPARE_CIRCUITS } else { RELAYED_CIRCUITS };
            desired.extend(self.circuit_ways(id).into_iter().take(most));
        }
        (desired, ask)
    }

    /// A Go agent relays for libp2p only.
    fn circuit_ways(&self, id: &PeerId) -> Vec<Way> {
        let split = |full: Address| {
            let (address, relay) = full.as_str().rsplit_once("/p2p/")?;
            Some(Way::Circuit { relay: PeerId::new(relay), address: Some(Address::new(address)) })
        };
        let ours = |way: &Way| !matches!(way, Way::Circuit { relay, .. } if self.is_legacy(relay));
        self.circuit_relays(id).into_iter().filter_map(split).filter(ours).collect()
    }

    fn ask(&mut self, id: &PeerId, conn: ConnId, now: Instant, wake: &mut Wake) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        match peer.ways.asked.iter_mut().find(|(other, _)| *other == conn) {
            Some((_, at)) if now < *at + CALL_PAUSE => return wake.at(*at + CALL_PAUSE),
            Some((_, at)) => *at = now,
            None => peer.ways.asked.push((conn, now)),
        }
        self.send(conn, Frame::CallMe);
    }

    fn make_ways(&mut self, id: &PeerId, desired: &[Way], now: Instant, wake: &mut Wake) {
        let mut missing = Vec::new();
        if let Some(peer) = self.peers.get_mut(id) {
            peer.ways.retries.retain(|(way, _)| desired.iter().any(|other| other.same(way)));
            for way in desired.iter().filter(|way| !peer.ways.holds(way)) {
                let retry =
                    peer.ways.retries.iter().find(|(other, _)| other.same(way)).map(|(_, retry)| *retry);
                match retry.filter(|retry| !retry.ready(now)) {
                    Some(retry) => wake.maybe(retry.at()),
                    None if missing.iter().any(|other: &Way| other.same(way)) => {}
                    None => missing.push(way.clone()),
                }
            }
        }
        for way in missing {
            let attempt = AttemptId(self.number());
            if let Some(peer) = self.peers.get_mut(id) {
                peer.ways.attempts.push(Attempt { id: attempt, way: way.clone(), started: now });
            }
            self.actions.push_back(Action::Carry { attempt, peer: id.clone(), way });
        }
    }

    /// Ends carriers of this side that others replace.
    fn end_spare(&mut self, id: &PeerId, desired: &[Way], now: Instant, wake: &mut Wake) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        for carrier in peer.ways.carriers.iter_mut().filter(|carrier| carrier.ours) {
            if desired.iter().any(|way| way.same(&carrier.way)) {
                carrier.spare_since = None;
                continue;
            }
            let at = *carrier.spare_since.get_or_insert(now) + SPARE_GRACE;
            if at <= now {
                self.actions.push_back(Action::EndCarrier { carrier: carrier.id });
                carrier.spare_since = Some(now);
            } else {
                wake.at(at);
            }
        }
    }

    /// Ends the session with a peer nobody asks for.
    fn end_unused(&mut self, id: &PeerId, now: Instant, wake: &mut Wake) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(idle) = peer.ways.idle_since.filter(|_| peer.ways.streams == 0) else { return };
        let ours = peer.ways.carriers.iter().filter(|carrier| carrier.ours);
        let ours: Vec<CarryId> = ours.map(|carrier| carrier.id).collect();
        if ours.is_empty() {
            return;
        }
        if idle + IDLE_CLOSE > now {
            return wake.at(idle + IDLE_CLOSE);
        }
        self.actions.extend(ours.into_iter().map(|carrier| Action::EndCarrier { carrier }));
        peer.ways.idle_since = Some(now);
    }
}
