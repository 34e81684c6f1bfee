//! What a relay grants, and to whom.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::wire::{Status, Token};
use crate::record::PeerId;

/// How long a target may take to come: it is told over a connection that stands, dials, and asks, which is four round
/// trips; over the worst link (600 ms) that leaves a little.
pub const ACCEPT_WAIT: Duration = Duration::from_secs(3);

/// Bounds of a relay. None is by address: a whole cluster may come from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitLimits {
    /// Circuits in all, pending ones included; each holds two sockets.
    pub circuits: usize,
    /// Circuits that one peer has asked for.
    pub per_peer: usize,
    /// Circuits that others have to one peer: more than one asks for, as a gateway is asked by every node.
    pub per_target: usize,
    /// Circuits of one peer to one other: a session has few, and its successors while they drain. Without it one peer
    /// could use up another's room.
    pub per_pair: usize,
    /// Circuits whose target has not come yet.
    pub pending: usize,
    /// Of these, what one peer may have: a peer whose targets never come must not hold the others up.
    pub pending_per_peer: usize,
    /// Connections that have not said yet what they want.
    pub handshakes: usize,
}

impl CircuitLimits {
    /// Bounds that follow from how many circuits there may be, in all and by one peer.
    pub fn of(circuits: usize, per_peer: usize) -> Self {
        Self {
            circuits,
            per_peer,
            // No target may take the whole relay.
            per_target: (circuits / 2).max(per_peer.min(circuits)),
            per_pair: (per_peer / 16).max(1),
            // A cluster of 1,000 nodes returns at once after a cut; each has a few neighbours.
            pending: circuits,
            pending_per_peer: (per_peer / 4).max(1),
            // Twice such a cluster: both ends of every circuit shake hands.
            handshakes: 2048,
        }
    }
}

impl Default for CircuitLimits {
    /// Four for every node of a cluster of 1,000.
    fn default() -> Self {
        Self::of(4096, 256)
    }
}

/// Names a circuit within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u64);

/// One circuit as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitView {
    /// Its name.
    pub id: CircuitId,
    /// Who asked for it.
    pub from: PeerId,
    /// Who was asked.
    pub to: PeerId,
    /// Since when bytes may flow; `None` while the target is waited for.
    pub since: Option<Instant>,
}

/// What one peer takes of the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerUse {
    /// Circuits it asked for.
    pub asked: usize,
    /// Of these, whose target has not come yet.
    pub pending: usize,
    /// Circuits others have to it.
    pub target: usize,
}

/// What the relay has granted and refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitTotals {
    /// Circuits that bytes flow on.
    pub open: usize,
    /// Circuits whose target has not come yet.
    pub pending: usize,
    /// Connections that have not said yet what they want.
    pub handshakes: usize,
    /// Circuits that were opened since the start.
    pub opened: u64,
    /// Bytes carried by circuits that have ended, both directions together.
    pub carried: u64,
    /// What was refused, by reason.
    pub refused: BTreeMap<Status, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending { token: Token, until: Instant },
    Open { since: Instant },
}

#[derive(Debug)]
struct Circuit {
    from: PeerId,
    to: PeerId,
    phase: Phase,
}

/// Decides over circuits. The edge calls [`CircuitTable::greet`] and [`CircuitTable::asked`] around a handshake,
/// [`CircuitTable::connect`] and [`CircuitTable::accept`] for what was asked, and ends every circuit it was given with
/// [`CircuitTable::give_up`] or [`CircuitTable::end`].
#[derive(Debug)]
pub struct CircuitTable {
    limits: CircuitLimits,
    draining: bool,
    counter: u64,
    circuits: BTreeMap<CircuitId, Circuit>,
    tokens: BTreeMap<Token, CircuitId>,
    peers: BTreeMap<PeerId, PeerUse>,
    pairs: BTreeMap<(PeerId, PeerId), usize>,
    totals: CircuitTotals,
}

impl CircuitTable {
    /// A table without circuits.
    pub fn new(limits: CircuitLimits) -> Self {
        Self {
            limits,
            draining: false,
            counter: 0,
            circuits: BTreeMap::new(),
            tokens: BTreeMap::new(),
            peers: BTreeMap::new(),
            pairs: BTreeMap::new(),
            totals: CircuitTotals::default(),
        }
    }

    /// Whether a new connection may say what it wants. One that may is followed by [`CircuitTable::asked`].
    pub fn greet(&mut self) -> Result<(), Status> {
        if self.totals.handshakes >= self.limits.handshakes {
            return Err(self.refuse(Status::Full));
        }
        self.totals.handshakes += 1;
        Ok(())
    }

    /// A connection has said what it wants, or is gone.
    pub fn asked(&mut self) {
        self.totals.handshakes = self.totals.handshakes.saturating_sub(1);
    }

    /// Counts a refusal that was decided elsewhere.
    pub fn refuse(&mut self, status: Status) -> Status {
        *self.totals.refused.entry(status).or_default() += 1;
        status
    }

    /// A proven peer asks for a circuit. `token` was drawn for it and is good until [`ACCEPT_WAIT`] from now.
    pub fn connect(
        &mut self,
        from: PeerId,
        to: PeerId,
        token: Token,
        now: Instant,
    ) -> Result<CircuitId, Status> {
        if let Err(status) = self.room(&from, &to, &token) {
            return Err(self.refuse(status));
        }
        self.counter += 1;
        let id = CircuitId(self.counter);
        let asking = self.peers.entry(from.clone()).or_default();
        asking.asked += 1;
        asking.pending += 1;
        self.peers.entry(to.clone()).or_default().target += 1;
        *self.pairs.entry((from.clone(), to.clone())).or_default() += 1;
        self.totals.pending += 1;
        self.tokens.insert(token, id);
        self.circuits
            .insert(id, Circuit { from, to, phase: Phase::Pending { token, until: now + ACCEPT_WAIT } });
        Ok(id)
    }

    /// The peer's own bounds come before the relay's: a greedy peer is told that it is greedy.
    fn room(&self, from: &PeerId, to: &PeerId, token: &Token) -> Result<(), Status> {
        let limits = &self.limits;
        if self.draining {
            return Err(Status::Draining);
        }
        if from == to {
            return Err(Status::NoReservation);
        }
        let (asking, asked) = (self.usage(from), self.usage(to));
        let pair = self.pairs.get(&(from.clone(), to.clone())).copied().unwrap_or_default();
        if asking.asked >= limits.per_peer
            || asking.pending >= limits.pending_per_peer
            || asked.target >= limits.per_target
            || pair >= limits.per_pair
        {
            return Err(Status::PeerFull);
        }
        // A token that is in use names two circuits: with 128 drawn bits that is no chance but a fault.
        if self.circuits.len() >= limits.circuits
            || self.totals.pending >= limits.pending
            || self.tokens.contains_key(token)
        {
            return Err(Status::Full);
        }
        Ok(())
    }

    /// A proven peer comes for a circuit it was told of. A token is used up by its own peer only.
    pub fn accept(&mut self, token: &Token, peer: &PeerId, now: Instant) -> Result<CircuitId, Status> {
        let found = self.tokens.get(token).copied().and_then(|id| Some((id, self.circuits.get_mut(&id)?)));
        let Some((id, circuit)) = found.filter(|(_, circuit)| circuit.to == *peer) else {
            return Err(self.refuse(Status::Stale));
        };
        match circuit.phase {
            Phase::Pending { until, .. } if now < until => {}
            Phase::Pending { .. } | Phase::Open { .. } => return Err(self.refuse(Status::Stale)),
        }
        circuit.phase = Phase::Open { since: now };
        let from = circuit.from.clone();
        self.tokens.remove(token);
        self.no_longer_pending(&from);
        self.totals.open += 1;
        self.totals.opened += 1;
        Ok(id)
    }

    /// A circuit that never opened is over; false when its target has come meanwhile, and it is to be carried on.
    pub fn give_up(&mut self, id: CircuitId, why: Status) -> bool {
        let Some(Phase::Pending { token, .. }) = self.circuits.get(&id).map(|circuit| circuit.phase) else {
            return false;
        };
        self.tokens.remove(&token);
        if let Some(circuit) = self.circuits.remove(&id) {
            self.no_longer_pending(&circuit.from);
            self.forget(&circuit);
        }
        self.refuse(why);
        true
    }

    /// An open circuit is over.
    pub fn end(&mut self, id: CircuitId, bytes: u64) {
        let open = |circuit: &Circuit| matches!(circuit.phase, Phase::Open { .. });
        if !self.circuits.get(&id).is_some_and(open) {
            return;
        }
        if let Some(circuit) = self.circuits.remove(&id) {
            self.forget(&circuit);
        }
        self.totals.open -= 1;
        self.totals.carried += bytes;
    }

    /// Grants no more circuits; those that stand or wait go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// No circuit stands or waits.
    pub fn is_empty(&self) -> bool {
        self.circuits.is_empty()
    }

    /// What was granted and refused.
    pub fn totals(&self) -> &CircuitTotals {
        &self.totals
    }

    /// What a peer takes.
    pub fn usage(&self, peer: &PeerId) -> PeerUse {
        self.peers.get(peer).copied().unwrap_or_default()
    }

    /// Every circuit.
    pub fn circuits(&self) -> impl Iterator<Item = CircuitView> + '_ {
        self.circuits.iter().map(|(id, circuit)| CircuitView {
            id: *id,
            from: circuit.from.clone(),
            to: circuit.to.clone(),
            since: match circuit.phase {
                Phase::Pending { .. } => None,
                Phase::Open { since } => Some(since),
            },
        })
    }

    fn no_longer_pending(&mut self, from: &PeerId) {
        self.totals.pending -= 1;
        if let Some(usage) = self.peers.get_mut(from) {
            usage.pending -= 1;
        }
    }

    /// Gives back what a circuit took; peers without any are forgotten, so that the table is as large as its circuits.
    fn forget(&mut self, circuit: &Circuit) {
        let Circuit { from, to, .. } = circuit;
        if let Some(usage) = self.peers.get_mut(from) {
            usage.asked -= 1;
        }
        if let Some(usage) = self.peers.get_mut(to) {
            usage.target -= 1;
        }
        for peer in [from, to] {
            if self.peers.get(peer) == Some(&PeerUse::default()) {
                self.peers.remove(peer);
            }
        }
        let pair = (from.clone(), to.clone());
        if let Some(count) = self.pairs.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                self.pairs.remove(&pair);
            }
        }
    }
}
