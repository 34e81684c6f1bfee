//! Who is who: records of peers, and which peer speaks for which node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edgemesh_api::Name;
use serde::Serialize;

use crate::claim::{CLOCK_SKEW, Claim, ClaimRefused, Enrolment, IdentityPolicy, MAX_FORMER, Token};
use crate::connection::ConnId;
use crate::event::IdentitySpec;
use crate::record::{PeerId, PeerRecord, SignedRecord};
use crate::state::MAX_DEMANDED;

/// Records kept; with [`crate::MAX_RECORD`] at most 8 MiB. As many as a relay grants reservations.
pub const MAX_RECORDS: usize = 4096;

/// For how long a node's name stays with a peer nobody sees any more, before another peer may claim it. Longer than
/// a restart of an agent or of the relay that vouches for its presence, shorter than an operator's patience with a
/// node that was set up anew.
pub const CONFLICT_HOLD: Duration = Duration::from_secs(60);

/// Conflicts kept for the status; a cluster with more has one cause for all of them.
const MAX_CONFLICTS: usize = 256;

/// A claim of a node's name that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// The node.
    pub node: Name,
    /// Who speaks for it, if anybody does.
    pub holder: Option<Name>,
    /// Who was refused.
    pub refused: Name,
    /// Why.
    pub reason: ClaimRefused,
    /// The same in words, with what to do.
    pub words: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) record: PeerRecord,
    pub(crate) signed: SignedRecord,
    /// The keys it had before.
    former: Vec<PeerId>,
    /// What became of its token, if it brought one.
    token: Option<Result<(), ClaimRefused>>,
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
    /// Go agents, whose identity anybody can have: they speak for nodes that nobody else speaks for.
    legacy: BTreeMap<Name, PeerId>,
    suspected: BTreeMap<Name, PeerId>,
    policy: IdentityPolicy,
    /// Names that a token proved.
    enrolled: BTreeMap<Name, Enrolment>,
    enrolled_changed: bool,
    /// The latest moment that a token of an authority was made at: it is later than that, whatever the clock says.
    latest_issued: u64,
    conflicts: BTreeMap<(Name, PeerId), ClaimRefused>,
    fresh_conflicts: Vec<(Name, PeerId)>,
}

impl Directory {
    pub(crate) fn new(node: Option<Name>, peer: PeerId, identity: &IdentitySpec) -> Self {
        let enrolled = identity.enrolled.iter().take(MAX_RECORDS);
        Self {
            own: node.map(|node| (node, peer)),
            policy: identity.policy,
            latest_issued: identity.enrolled.iter().map(|known| known.issued).max().unwrap_or(0),
            enrolled: enrolled.map(|known| (known.node.clone(), known.clone())).collect(),
            ..Self::default()
        }
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
        claim: Claim,
        now: Instant,
    ) -> Learned {
        if !self.records.contains_key(&record.peer) && !self.make_room() {
            return Learned::Full;
        }
        let node = record.node.clone();
        let token = self.enrol(&record, &claim);
        let former = claim.former;
        let learned = match self.records.get_mut(&record.peer) {
            Some(entry) => {
                entry.sources.insert(conn);
                entry.gone = None;
                entry.token = token;
                let newer = direct || entry.from == conn || record.sequence > entry.record.sequence;
                if newer && entry.record != record {
                    *entry = Entry {
                        record,
                        signed,
                        former,
                        token,
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
                    Entry { record, signed, former, token, sources, gone: None, from: conn, learned: now },
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

    /// A Go agent claims a node by the identity that follows from its name; says whether that is news.
    pub(crate) fn claim(&mut self, node: Name, peer: PeerId) -> bool {
        if self.legacy.len() >= MAX_RECORDS && !self.legacy.contains_key(&node) {
            return false;
        }
        self.suspected.remove(&node);
        self.legacy.insert(node, peer).is_none()
    }

    /// The Go agent that claims a node, where a key that everybody can make is enough.
    fn derived(&self, node: &str) -> Option<&PeerId> {
        let enough = self.policy != IdentityPolicy::Require && !self.enrolled.contains_key(node);
        self.legacy.get(node).filter(|_| enough)
    }

    /// Why a Go agent that claims a node is not believed.
    pub(crate) fn refusal_of_derived(&self, node: &Name) -> ClaimRefused {
        if self.own.as_ref().is_some_and(|(own, _)| own == node) {
            ClaimRefused::OwnName
        } else if self.vouched.contains_key(node) {
            ClaimRefused::NotVouched
        } else if self.enrolled.contains_key(node) {
            ClaimRefused::ChangedKey
        } else if self.policy == IdentityPolicy::Require {
            ClaimRefused::Unproven
        } else {
            ClaimRefused::Duplicate
        }
    }

    /// Notes whose identity the Go agent on a node would have.
    pub(crate) fn suspect(&mut self, node: Name, peer: PeerId) {
        if self.suspected.len() >= MAX_DEMANDED {
            self.suspected.pop_first();
        }
        self.suspected.insert(node, peer);
    }

    /// The identity that the Go agent on a node would have.
    pub(crate) fn suspected(&self, node: &str) -> Option<&PeerId> {
        self.suspected.get(node)
    }

    /// Lets names go whose holders are away for too long; says when to look again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let contested: BTreeSet<Name> = self.conflicts.keys().map(|(node, _)| node.clone()).collect();
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
            _ => self.names.get(node).or_else(|| self.vouched.get(node)).or_else(|| self.derived(node)),
        }
    }

    /// The node a peer speaks for, as far as that is settled.
    pub(crate) fn node_of(&self, peer: &PeerId) -> Option<&Name> {
        let claimed = self.records.get(peer).and_then(|entry| entry.record.node.as_ref());
        match claimed {
            Some(node) => (self.peer_of(node) == Some(peer)).then_some(node),
            None => {
                let claimed = self.legacy.iter().filter(|(node, _)| self.peer_of(node) == Some(peer));
                self.vouched.iter().chain(claimed).find(|(_, other)| *other == peer).map(|(node, _)| node)
            }
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
        self.names.keys().chain(self.vouched.keys()).chain(self.legacy.keys()).cloned().collect()
    }

    pub(crate) fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts.iter().map(|((node, peer), reason)| self.conflict(node, peer, *reason)).collect()
    }

    fn conflict(&self, node: &Name, refused: &PeerId, reason: ClaimRefused) -> Conflict {
        let holder = self.peer_of(node).map(|holder| holder.0.clone());
        Conflict { node: node.clone(), holder, refused: refused.0.clone(), reason, words: reason.words() }
    }

    /// Claims that are refused since the last call, or for another reason.
    pub(crate) fn take_fresh_conflicts(&mut self) -> Vec<Conflict> {
        let fresh = std::mem::take(&mut self.fresh_conflicts);
        fresh
            .into_iter()
            .filter_map(|key| {
                let reason = *self.conflicts.get(&key)?;
                Some(self.conflict(&key.0, &key.1, reason))
            })
            .collect()
    }

    /// The names that tokens have proven, when they changed since the last call.
    pub(crate) fn take_enrolments(&mut self) -> Option<Vec<Enrolment>> {
        std::mem::take(&mut self.enrolled_changed).then(|| self.enrolled.values().cloned().collect())
    }

    /// Judges a record's token, and remembers whose it is.
    ///
    /// The expiry bounds how long a token may find a new owner here: who is known as the owner stays it, so that
    /// neither an expired token nor a clock that jumps takes a name from a running node. A clock that is behind, as
    /// that of a node without a battery is after every start, is corrected by what the authority has signed: it is
    /// never earlier than the latest token was made. So a token is never refused for being too young.
    fn enrol(&mut self, record: &PeerRecord, claim: &Claim) -> Option<Result<(), ClaimRefused>> {
        if self.policy == IdentityPolicy::Off {
            return None;
        }
        let token = match claim.token.as_ref()? {
            Ok(token) => token,
            Err(reason) => return Some(Err(*reason)),
        };
        self.latest_issued = self.latest_issued.max(token.issued);
        Some(self.judge(token, record, claim))
    }

    fn judge(&mut self, token: &Token, record: &PeerRecord, claim: &Claim) -> Result<(), ClaimRefused> {
        if record.node.as_ref() != Some(&token.node) {
            return Err(ClaimRefused::ForeignToken);
        }
        if self.own.as_ref().is_some_and(|(own, _)| *own == token.node) {
            return Err(ClaimRefused::OwnName);
        }
        let own = |peer: &PeerId| *peer == record.peer || claim.former.contains(peer);
        if token.pinned.as_ref().is_some_and(|pinned| !own(pinned)) {
            return Err(ClaimRefused::PinnedElsewhere);
        }
        let known = self.enrolled.get(&token.node);
        let same_owner = known.is_some_and(|known| own(&known.owner));
        let later = known.is_none_or(|known| token.issued > known.issued);
        if let Some(known) = known
            && !same_owner
        {
            if known.token == token.id {
                return Err(ClaimRefused::ReplayedToken);
            }
            if !later {
                return Err(ClaimRefused::OutdatedToken);
            }
        }
        let clock = claim.clock.max(self.latest_issued);
        if !same_owner && token.expires.is_some_and(|expires| clock > expires.saturating_add(CLOCK_SKEW)) {
            return Err(ClaimRefused::ExpiredToken);
        }
        if known.is_none() && self.enrolled.len() >= MAX_RECORDS {
            // More nodes than records: what is known is worth more than what comes.
            return Err(ClaimRefused::Duplicate);
        }
        let kept = known.filter(|_| !later).map(|known| (known.token, known.issued));
        let (id, issued) = kept.unwrap_or((token.id, token.issued));
        let enrolment = Enrolment { node: token.node.clone(), owner: record.peer.clone(), token: id, issued };
        if known != Some(&enrolment) {
            self.enrolled_changed = true;
            self.enrolled.insert(token.node.clone(), enrolment);
        }
        Ok(())
    }

    /// Whether a record claims the node.
    fn claims(entry: &Entry, node: &Name) -> bool {
        entry.record.node.as_ref() == Some(node)
    }

    /// Settles who speaks for a node among all who claim it.
    fn bind(&mut self, node: &Name, now: Instant) {
        match self.holder(node, now) {
            Some(peer) => {
                self.names.insert(node.clone(), peer);
            }
            None => {
                self.names.remove(node);
            }
        }
        let refused: Vec<(PeerId, ClaimRefused)> = self
            .records
            .values()
            .filter(|entry| Self::claims(entry, node) && entry.gone.is_none())
            .filter(|entry| self.peer_of(node) != Some(&entry.record.peer))
            .map(|entry| (entry.record.peer.clone(), self.refusal(node, entry)))
            .collect();
        self.conflicts
            .retain(|(other, peer), _| other != node || refused.iter().any(|(refused, _)| refused == peer));
        for (peer, reason) in refused {
            let key = (node.clone(), peer);
            let known = self.conflicts.get(&key);
            if known == Some(&reason) || (known.is_none() && self.conflicts.len() >= MAX_CONFLICTS) {
                continue;
            }
            self.conflicts.insert(key.clone(), reason);
            self.fresh_conflicts.push(key);
        }
    }

    /// Whose the name is: whom a Node object names, else who proved it by a token, else, unless policy wants a proof, who
    /// came first. A key that signed its successor over is followed by it.
    fn holder(&self, node: &Name, now: Instant) -> Option<PeerId> {
        let current = self.names.get(node);
        let proven = self.vouched.get(node).or_else(|| Some(&self.enrolled.get(node)?.owner));
        if let Some(root) = proven {
            // Of several successors of one key the first that came stays.
            let kept = current.filter(|peer| {
                let entry = self.records.get(*peer);
                entry.is_some_and(|entry| Self::claims(entry, node) && entry.former.contains(root))
            });
            return Some(self.successor(node, kept.unwrap_or(root)));
        }
        if self.policy == IdentityPolicy::Require {
            return None;
        }
        let claimants =
            || self.records.values().filter(|entry| Self::claims(entry, node) && Self::may_come_first(entry));
        let known = current.filter(|peer| claimants().any(|entry| entry.record.peer == **peer));
        let held = known.filter(|peer| {
            let gone = self.records.get(*peer).and_then(|entry| entry.gone);
            gone.is_none_or(|gone| now < gone + CONFLICT_HOLD)
        });
        // Where the name was held by a key that has gone, its successor's record says so.
        let follows = |peer: &&PeerId| claimants().any(|entry| entry.former.contains(*peer));
        let first = held
            .or_else(|| current.filter(follows))
            .or_else(|| claimants().find(|entry| entry.gone.is_none()).map(|entry| &entry.record.peer));
        // With nobody else to claim it the name stays: its peer may return after a long cut.
        first.or(known).map(|peer| self.successor(node, peer))
    }

    /// A token that was refused is worse than none, but for one that came too late: a clock may be wrong.
    fn may_come_first(entry: &Entry) -> bool {
        matches!(entry.token, None | Some(Ok(()) | Err(ClaimRefused::ExpiredToken)))
    }

    /// The last of the keys that follow `peer`, each signed by the one before.
    fn successor(&self, node: &Name, peer: &PeerId) -> PeerId {
        let mut last = peer;
        for _ in 0..=MAX_FORMER {
            let next = self
                .records
                .values()
                .filter(|entry| Self::claims(entry, node) && entry.record.peer != *last)
                .find(|entry| entry.former.contains(last));
            match next {
                Some(entry) => last = &entry.record.peer,
                None => break,
            }
        }
        last.clone()
    }

    /// Why a peer that claims the node is not its holder.
    fn refusal(&self, node: &Name, entry: &Entry) -> ClaimRefused {
        let holder = self.peer_of(node).and_then(|holder| self.records.get(holder));
        if self.own.as_ref().is_some_and(|(own, _)| own == node) {
            ClaimRefused::OwnName
        } else if holder.is_some_and(|holder| holder.former.contains(&entry.record.peer)) {
            ClaimRefused::FormerKey
        } else if self.vouched.contains_key(node) {
            ClaimRefused::NotVouched
        } else if let Some(Err(reason)) = entry.token {
            reason
        } else if self.policy == IdentityPolicy::Off {
            ClaimRefused::Duplicate
        } else if self.enrolled.contains_key(node) {
            match entry.token {
                Some(_) => ClaimRefused::OutdatedToken,
                None => ClaimRefused::ChangedKey,
            }
        } else if self.policy == IdentityPolicy::Require {
            ClaimRefused::Unproven
        } else {
            ClaimRefused::Duplicate
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
                self.conflicts.retain(|(_, refused), _| *refused != entry.record.peer);
                true
            }
            None => false,
        }
    }
}
