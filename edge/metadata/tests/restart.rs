//! Source, state and journal together, as the agent joins them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::SourceEvent;
use edgemesh_mesh::{Applied, MeshState};
use edgemesh_metadata::{Journal, ManifestDir};
use edgemesh_net::meet::{Report, Source, Trouble};
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

const WEB: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, spec: {nodeName: here}, status: {podIP: 10.1.0.1}}
"#;

struct Deaf;

impl Report for Deaf {
    fn report(&self, _: &str, _: Option<&Trouble>) {}
}

fn follow(directory: &Path) -> mpsc::Receiver<SourceEvent> {
    let (sender, events) = mpsc::channel(64);
    let source = ManifestDir::new(directory, "default").rescan_every(Duration::from_millis(10));
    tokio::spawn(Box::new(source).run(sender, Arc::new(Deaf)));
    events
}

/// Feeds the state until a listing ends.
async fn sync(state: &mut MeshState, events: &mut mpsc::Receiver<SourceEvent>) -> Applied {
    loop {
        let event = timeout(DEADLINE, events.recv()).await.expect("in time").expect("the source runs");
        let end = event == SourceEvent::Synced;
        let applied = state.apply(event);
        if end {
            return applied;
        }
    }
}

#[tokio::test]
async fn a_restart_serves_from_the_journal_and_believes_the_source_later() {
    let root = tempfile::tempdir().expect("a directory");
    let (manifests, journal) = (root.path().join("manifests"), root.path().join("state"));
    fs::create_dir(&manifests).expect("made");
    fs::write(manifests.join("web.yaml"), WEB).expect("written");

    let mut state = MeshState::new("here".into());
    let (writer, task) = Journal::new(&journal).start();
    let task = tokio::spawn(task);
    sync(&mut state, &mut follow(&manifests)).await;
    assert!(!state.is_stale());
    writer.offer(state.objects().cloned());
    let before = state.compile();
    drop(writer);
    timeout(DEADLINE, task).await.expect("in time").expect("no panic");

    fs::remove_file(manifests.join("web.yaml")).expect("removed");
    fs::write(manifests.join("ns.yaml"), "{apiVersion: v1, kind: Namespace, metadata: {name: x}}")
        .expect("written");

    let mut state = MeshState::new("here".into());
    state.restore(Journal::new(&journal).load().expect("a journal").events);
    let restored = state.compile();
    assert!(restored.stale);
    assert_eq!(restored.services, before.services);
    assert_eq!(restored.local_backends, before.local_backends);

    let mut events = follow(&manifests);
    assert_eq!(sync(&mut state, &mut events).await, Applied::ListingDoubted);
    assert_eq!(state.compile().services, before.services);
    assert_eq!(sync(&mut state, &mut events).await, Applied::Changed, "the rescan confirms it");
    let after = state.compile();
    assert!(after.services.is_empty() && !after.stale);
}
