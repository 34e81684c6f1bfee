//! What status and metrics tell of the metadata.

use edgemesh_admin::Figure;
use edgemesh_api::Kind;
use edgemesh_mesh::MeshSnapshot;
use edgemesh_reflector::{FailureReason, KindState, KindStatus};

use super::State;
use crate::status::{KindLine, MetadataStatus, counter, gauge};

/// Findings and reports shown; a broken folder could fill the screen otherwise.
const MAX_FINDINGS: usize = 100;

/// What fits on a screen.
pub(crate) fn first_of(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > MAX_FINDINGS {
        let more = lines.len() - MAX_FINDINGS;
        lines.truncate(MAX_FINDINGS);
        lines.push(format!("and {more} more"));
    }
    lines
}

impl State {
    /// The metadata as a status page has them; `more` are findings of other parts.
    pub(crate) fn status(&self, snapshot: &MeshSnapshot, more: Vec<String>) -> MetadataStatus {
        let mut findings: Vec<String> = snapshot
            .findings
            .iter()
            .map(|finding| format!("{}: {}", finding.object, finding.message))
            .collect();
        findings.extend(self.reports());
        findings.extend(more);
        let findings = first_of(findings);
        MetadataStatus {
            source: self.source().to_owned(),
            stale: snapshot.stale,
            age_seconds: self.age().map(|age| age.as_secs()),
            generation: snapshot.generation.0,
            services: snapshot.services.len(),
            frontends: snapshot.frontends.len(),
            backends_here: snapshot.local_backends.len(),
            findings,
            journal: self.journal(),
            kinds: self.kinds().iter().map(kind_line).collect(),
        }
    }

    /// What of the metadata an operator should look at. `expected` says whether there is a source at all.
    pub(crate) fn alarms(&self, stale: bool, expected: bool) -> Vec<String> {
        let mut alarms = Vec::new();
        if let Some(error) = self.journal_error() {
            alarms.push(format!("journal: {error}; a restart will not know the newest objects"));
        }
        if let Some(words) = self.away() {
            alarms.push(format!("metadata: the API server is away, what is known is served on: {words}"));
        } else if stale && expected {
            alarms.push("metadata: no source has answered yet, the journal's copy is served".to_owned());
        }
        alarms.extend(self.held().into_iter().map(|held| format!("metadata: {held}")));
        let reachable = self.away().is_none();
        alarms.extend(self.kinds().iter().filter(|_| reachable).filter_map(kind_alarm));
        alarms
    }

    /// Figures of the snapshot and its source.
    pub(crate) fn figures(&self, snapshot: &MeshSnapshot) -> Vec<Figure> {
        let generation = usize::try_from(snapshot.generation.0).unwrap_or(usize::MAX);
        let mut figures = vec![
            gauge("services", "Known Services", snapshot.services.len()),
            gauge("frontends", "Intercepted addresses and ports", snapshot.frontends.len()),
            gauge("node_ports", "Node ports of Services", snapshot.node_ports.len()),
            gauge("backends_here", "Ready endpoints on this node", snapshot.local_backends.len()),
            gauge("findings", "Objects that cannot be acted on", snapshot.findings.len()),
            gauge("metadata_stale", "1 while the journal's copy is served", usize::from(snapshot.stale)),
            gauge("generation", "Newest snapshot", generation),
        ];
        if let Some(age) = self.age() {
            let seconds = usize::try_from(age.as_secs()).unwrap_or(usize::MAX);
            figures.push(gauge("metadata_age_seconds", "Since the source was last heard", seconds));
        }
        let kinds = self.kinds();
        if kinds.is_empty() {
            return figures;
        }
        let sum = |value: fn(&KindStatus) -> u64| kinds.iter().map(value).sum();
        let watching = kinds.iter().filter(|kind| kind.state == KindState::Watching).count();
        let away = usize::from(self.away().is_some());
        figures.extend([
            gauge("source_away", "1 while the API server cannot be reached", away),
            gauge("source_kinds_watching", "Kinds whose changes come by a watch", watching),
            counter("source_lists", "Complete lists of the API server", sum(|kind| kind.lists)),
            counter("source_events", "Changes that came by watches", sum(|kind| kind.events)),
            counter("source_odd_events", "Events of watches that said nothing", sum(|kind| kind.odd_events)),
            counter(
                "source_missed",
                "Changes that a list showed and no watch had told",
                sum(|kind| kind.missed),
            ),
        ]);
        figures
    }
}

fn kind_line(status: &KindStatus) -> KindLine {
    let undecodable = status.undecodable.as_ref().map(|object| format!("cannot be read: {object}"));
    KindLine {
        kind: status.kind.as_str(),
        state: status.state.as_str(),
        reason: status.failure.as_ref().map(ToString::to_string).or(undecodable),
        objects: status.listed,
        lists: status.lists,
        events: status.events,
        odd_events: status.odd_events,
        missed: status.missed,
    }
}

/// Why a kind is not followed although its server can be reached, in words.
fn kind_alarm(status: &KindStatus) -> Option<String> {
    let (kind, failure) = (status.kind, status.failure.as_ref()?);
    // Others a cluster may lack; they are told under `kind`.
    let needed = matches!(kind, Kind::Service | Kind::EndpointSlice | Kind::Endpoints);
    match status.state {
        KindState::Forbidden if needed => {
            Some(format!("metadata: {kind} may not be read, add it to the ClusterRole: {failure}"))
        }
        // A version that is too old only asks for another list.
        KindState::Failing if failure.reason != FailureReason::Gone => {
            Some(format!("metadata: {kind} is not followed, what is known is served on: {failure}"))
        }
        _ => None,
    }
}
