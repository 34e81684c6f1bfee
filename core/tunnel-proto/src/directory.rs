//! Who is who: records of peers, and which peer speaks for which node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edgemesh_api::Name;
use serde::Serialize;

use crate::connection::ConnId;
use crate::record::{PeerId, PeerRecord, SignedRecord};

/// Records kept; with [`crate::MAX_RECORD`] at most 8 MiB. As many as a relay grants reservations.
pub const MAX_RECORDS: usize = 4096;

/// For how long a node's name stays with a peer nobody sees any more, before another peer may claim it. Longer than
/// a restart of an agent or of the relay that vouches for its presence, shorter than an operator's patience with a
/// node that was set up anew.
pub const CONFLICT_HOLD: Duration = Duration::from_secs(60);

/// Conflicts kept for the status; a cluster with more has one cause for all of them.
const MAX_CONFLICTS: usize = 256;

/// Two peers that speak for one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// The node.
    pub node: Name,
    /// Who speaks for it.
    pub holder: Name,
    /// Who was refused.
    pub refused: Name,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) record: PeerRecord,
    pub(crate) signed: SignedRecord,
    /// Connections over which it was told and which still stand.
    sources: BTreeSet<ConnId>,
    /// Since when no source is left.
    gone: Option<Instant>,
    /// Over which connection the record in force came.
    from: ConnId,
    /// When it came.
    pub(crate) learned: Instant,
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// Nothing.
    Same,
    /// The record is new or says something new.
    Changed,
    /// The table is full of peers that are present.
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// The own node and identity: nobody else speaks for it here.
    own: Option<(Name, PeerId)>,
    records: BTreeMap<PeerId, Entry>,
    names: BTreeMap<Name, PeerId>,
    vouched: BTreeMap<Name, PeerId>,
    conflicts: BTreeSet<(Name, PeerId)>,
    fresh_conflicts: Vec<(Name, PeerId, PeerId)>,
}

impl Directory {
    pub(crate) fn new(node: Option<Name>, peer: PeerId) -> Self {
        Self { own: node.map(|node| (node, peer)), ..Self::default() }
    }

    /// Takes a verified record. `direct` says it came from the peer it is about; such a record is always in force,
    /// whatever its sequence: the clock of a node may go back over a restart. Of records passed on, a later one of
    /// the same source or one with a higher sequence is.
    pub(crate) fn learn(
        &mut self,
        conn: ConnId,
        direct: bool,
        record: PeerRecord,
        signed: SignedRecord,
        now: Instant,
    ) -> Learned {
        if !self.records.contains_key(&record.peer) && !self.make_room() {
            return Learned::Full;
        }
        let node = record.node.clone();
        let learned = match self.records.get_mut(&record.peer) {
            Some(entry) => {
                entry.sources.insert(conn);
                entry.gone = None;
                let newer = direct || entry.from == conn || record.sequence > entry.record.sequence;
                if newer && entry.record != record {
                    *entry = Entry {
                        record,
                        signed,
                        sources: entry.sources.clone(),
                        gone: None,
                        from: conn,
                        learned: now,
                    };
                    Learned::Changed
                } else {
                    Learned::Same
                }
            }
            None => {
                let sources = BTreeSet::from([conn]);
                self.records.insert(
                    record.peer.clone(),
                    Entry { record, signed, sources, gone: None, from: conn, learned: now },
                );
                Learned::Changed
            }
        };
        if let Some(node) = node {
            self.bind(&node, now);
        }
        learned
    }

    /// A relay says a peer left it.
    pub(crate) fn gone(&mut self, conn: ConnId, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.records.get_mut(peer)
            && entry.sources.remove(&conn)
            && entry.sources.is_empty()
        {
            entry.gone = Some(now);
        }
    }

    /// A connection ended, and with it everything it told stands no longer.
    pub(crate) fn disconnected(&mut self, conn: ConnId, now: Instant) {
        for entry in self.records.values_mut() {
            if entry.sources.remove(&conn) && entry.sources.is_empty() {
                entry.gone = Some(now);
            }
        }
    }

    /// Node objects that vouch for identities; they outweigh every claim. Returns the identity vouched for the own
    /// node when it is another than the own, and was not before.
    pub(crate) fn vouch(&mut self, vouched: BTreeMap<Name, PeerId>, now: Instant) -> Option<PeerId> {
        let before = std::mem::replace(&mut self.vouched, vouched);
        let nodes: BTreeSet<Name> = before.keys().chain(self.vouched.keys()).cloned().collect();
        for node in nodes {
            if before.get(&node) != self.vouched.get(&node) {
                self.bind(&node, now);
            }
        }
        let (node, own) = self.own.as_ref()?;
        let named = self.vouched.get(node)?;
        (named != own && before.get(node) != Some(named)).then(|| named.clone())
    }

    /// Lets names go whose holders are away for too long; says when to look again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let contested: BTreeSet<Name> = self.conflicts.iter().map(|(node, _)| node.clone()).collect();
        for node in &contested {
            self.bind(node, now);
        }
        contested
            .iter()
            .filter_map(|node| self.records.get(self.names.get(node)?)?.gone)
            .map(|gone| gone + CONFLICT_HOLD)
            .min()
    }

    /// The peer that speaks for a node.
    pub(crate) fn peer_of(&self, node: &str) -> Option<&PeerId> {
        match &self.own {
            Some((own, peer)) if **own == *node => Some(peer),
            _ => self.vouched.get(node).or_else(|| self.names.get(node)),
        }
    }

    /// The node a peer speaks for, as far as that is settled.
    pub(crate) fn node_of(&self, peer: &PeerId) -> Option<&Name> {
        let claimed = self.records.get(peer).and_then(|entry| entry.record.node.as_ref());
        match claimed {
            Some(node) => (self.peer_of(node) == Some(peer)).then_some(node),
            None => self.vouched.iter().find(|(_, vouched)| *vouched == peer).map(|(node, _)| node),
        }
    }

    pub(crate) fn record(&self, peer: &PeerId) -> Option<&PeerRecord> {
        self.records.get(peer).map(|entry| &entry.record)
    }

    pub(crate) fn entry(&self, peer: &PeerId) -> Option<&Entry> {
        self.records.get(peer)
    }

    /// Every node somebody speaks for.
    pub(crate) fn nodes(&self) -> BTreeSet<Name> {
        self.names.keys().chain(self.vouched.keys()).cloned().collect()
    }

    pub(crate) fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts
            .iter()
            .filter_map(|(node, refused)| {
                let holder = self.peer_of(node)?;
                Some(Conflict { node: node.clone(), holder: holder.0.clone(), refused: refused.0.clone() })
            })
            .collect()
    }

    /// Conflicts found since the last call: node, holder, refused.
    pub(crate) fn take_fresh_conflicts(&mut self) -> Vec<(Name, PeerId, PeerId)> {
        std::mem::take(&mut self.fresh_conflicts)
    }

    /// Settles who speaks for a node among all who claim it.
    fn bind(&mut self, node: &Name, now: Instant) {
        let present = |entry: &Entry| entry.gone.is_none();
        let claims = |entry: &Entry| entry.record.node.as_ref() == Some(node);
        let held =
            self.names.get(node).and_then(|peer| self.records.get(peer)).is_some_and(|entry| {
                claims(entry) && entry.gone.is_none_or(|gone| now < gone + CONFLICT_HOLD)
            });
        if !held {
            let next = self.records.values().find(|entry| claims(entry) && present(entry));
            match next.map(|entry| entry.record.peer.clone()) {
                Some(peer) => {
                    self.names.insert(node.clone(), peer);
                }
                // With nobody else to claim it the name stays: its peer may return after a long cut.
                None if !self.records.values().any(claims) => {
                    self.names.remove(node);
                }
                None => {}
            }
        }
        let holder = self.peer_of(node).cloned();
        let refused: Vec<PeerId> = self
            .records
            .values()
            .filter(|entry| claims(entry) && present(entry) && Some(&entry.record.peer) != holder.as_ref())
            .map(|entry| entry.record.peer.clone())
            .collect();
        self.conflicts.retain(|(other, peer)| other != node || refused.contains(peer));
        for peer in refused {
            if self.conflicts.len() < MAX_CONFLICTS
                && self.conflicts.insert((node.clone(), peer.clone()))
                && let Some(holder) = &holder
            {
                self.fresh_conflicts.push((node.clone(), holder.clone(), peer));
            }
        }
    }

    /// Room for one more record: that of the peer which is away longest goes.
    fn make_room(&mut self) -> bool {
        if self.records.len() < MAX_RECORDS {
            return true;
        }
        let oldest = self
            .records
            .values()
            .filter_map(|entry| Some((entry.gone?, entry.record.peer.clone())))
            .min()
            .map(|(_, peer)| peer);
        match oldest.and_then(|peer| self.records.remove(&peer)) {
            Some(entry) => {
                self.names.retain(|_, holder| *holder != entry.record.peer);
                self.conflicts.retain(|(_, refused)| *refused != entry.record.peer);
                true
            }
            None => false,
        }
    }
}
