//! The journal through crashes, damage and refusing file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgemesh_api::{Object, SourceEvent};
use edgemesh_metadata::{Journal, JournalError, JournalGeneration, Loaded, parse_manifests};

const DEADLINE: Duration = Duration::from_secs(30);

const EVERY_KIND: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: NAME, labels: {a: b}}, spec: {clusterIP: 10.96.0.1, selector: {a: b}, ports: [{port: 80, targetPort: http}, {name: x, port: 81, targetPort: 8081, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: NAME}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}, hints: {forZones: [{name: z}]}, targetRef: {kind: Pod, name: p}}], ports: [{port: 1}]}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: NAME}, subsets: [{addresses: [{ip: 10.0.0.1}], notReadyAddresses: [{ip: "fd00::1", nodeName: n}], ports: [{port: 1}]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: NAME, deletionTimestamp: now}, spec: {hostNetwork: true, initContainers: [{restartPolicy: Always}], containers: [{ports: [{name: http, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: NAME, annotations: {edgemesh.kubeedge.io/peer-id: p}}, spec: {podCIDRs: [10.0.0.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: NAME}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: NAME}, spec: {host: h, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}}
"#;

fn objects(names: &[&str]) -> Vec<Arc<Object>> {
    let parse = |name: &&str| {
        let (objects, problems) = parse_manifests("a.yaml", EVERY_KIND.replace("NAME", name).as_bytes());
        assert_eq!((objects.len(), problems.len()), (7, 0));
        objects
    };
    names.iter().flat_map(parse).map(Arc::new).collect()
}

fn events(objects: &[Arc<Object>]) -> Vec<SourceEvent> {
    let upserts = objects.iter().cloned().map(SourceEvent::Upsert);
    [SourceEvent::Reset].into_iter().chain(upserts).chain([SourceEvent::Synced]).collect()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[track_caller]
fn check(
    loaded: &Result<Loaded, JournalError>,
    objects: &[Arc<Object>],
    saved_at: u64,
    generation: JournalGeneration,
) {
    let loaded = loaded.as_ref().expect("a journal");
    assert_eq!(loaded.events, events(objects));
    assert_eq!((loaded.saved_at, loaded.generation), (at(saved_at), generation));
}

#[test]
fn two_generations_of_every_kind() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = Journal::new(directory.path().join("state/deep"));
    assert_eq!(journal.load().err(), Some(JournalError::Missing));
    let (first, second) = (objects(&["a"]), objects(&["a", "b"]));
    journal.save(&first, at(1)).expect("saved");
    check(&journal.load(), &first, 1, JournalGeneration::Current);
    journal.save(&second, at(2)).expect("saved");
    check(&journal.load(), &second, 2, JournalGeneration::Current);
    let current = directory.path().join("state/deep/journal");
    assert_eq!(fs::metadata(&current).expect("there").permissions().mode() & 0o777, 0o600);
    fs::remove_file(&current).expect("removed");
    check(&journal.load(), &first, 1, JournalGeneration::Previous);
}

/// The journal after its current file was replaced.
fn damaged(directory: &Path, text: &[u8]) -> Result<Loaded, JournalError> {
    fs::write(directory.join("journal"), text).expect("written");
    Journal::new(directory).load()
}

#[test]
fn no_damage_gives_a_wrong_object() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = Journal::new(directory.path());
    let (first, second) = (objects(&["a"]), objects(&["b"]));
    journal.save(&first, at(1)).expect("saved");
    journal.save(&second, at(2)).expect("saved");
    let good = fs::read(directory.path().join("journal")).expect("there");
    for cut in 0..good.len() {
        check(&damaged(directory.path(), &good[..cut]), &first, 1, JournalGeneration::Previous);
    }
    for place in 0..good.len() {
        for bit in [1, 0x80] {
            let mut text = good.clone();
            text[place] ^= bit;
            check(&damaged(directory.path(), &text), &first, 1, JournalGeneration::Previous);
        }
    }
    let longer = [&good[..], b"\n"].concat();
    check(&damaged(directory.path(), &longer), &first, 1, JournalGeneration::Previous);
    check(&damaged(directory.path(), &good), &second, 2, JournalGeneration::Current);
}

#[test]
fn foreign_files_and_other_versions_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    Journal::new(directory.path()).save(&objects(&["a"]), at(1)).expect("saved");
    let good = fs::read(directory.path().join("journal")).expect("there");
    let mut other_version = good.clone();
    other_version[8] = 2;
    for (text, expected) in [
        (&b"kind: Service\nmetadata: {name: nobody knows why this is here}\n"[..], JournalError::Foreign),
        (&b"short"[..], JournalError::Foreign),
        (&b""[..], JournalError::Truncated),
        (&good[..good.len() - 1], JournalError::Truncated),
        (&other_version, JournalError::Version),
    ] {
        assert_eq!(damaged(directory.path(), text).err(), Some(expected));
    }
}

#[test]
fn a_damaged_generation_does_not_push_out_the_good_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = Journal::new(directory.path());
    let (first, second) = (objects(&["a"]), objects(&["b"]));
    journal.save(&first, at(1)).expect("saved");
    journal.save(&second, at(2)).expect("saved");
    fs::write(directory.path().join("journal"), "damaged").expect("written");
    fs::write(directory.path().join("journal.new"), "left over by a crash").expect("written");
    journal.save(&second, at(3)).expect("saved");
    check(&journal.load(), &second, 3, JournalGeneration::Current);
    fs::remove_file(directory.path().join("journal")).expect("removed");
    check(&journal.load(), &first, 1, JournalGeneration::Previous);
}

#[test]
fn a_write_that_fails_leaves_the_last_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = Journal::new(directory.path());
    journal.save(&objects(&["a"]), at(1)).expect("saved");
    fs::create_dir(directory.path().join("journal.new")).expect("in the way");
    assert!(matches!(journal.save(&objects(&["b"]), at(2)), Err(JournalError::Io(_))));
    check(&journal.load(), &objects(&["a"]), 1, JournalGeneration::Current);
}

#[tokio::test]
async fn the_writer_writes_at_once_and_flushes_what_was_offered_last() {
    let directory = tempfile::tempdir().expect("a directory");
    let (writer, task) = Journal::new(directory.path()).start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    writer.offer(objects(&["a"]).into_iter());
    let saved = tokio::time::timeout(DEADLINE, status.wait_for(|status| status.saved_at.is_some())).await;
    assert_eq!(saved.expect("in time").expect("the task runs").error, None);
    assert_eq!(Journal::new(directory.path()).load().expect("a journal").events, events(&objects(&["a"])));
    writer.offer(objects(&["b"]).into_iter());
    writer.offer(objects(&["c"]).into_iter());
    drop(writer);
    tokio::time::timeout(DEADLINE, task).await.expect("in time").expect("no panic");
    assert_eq!(Journal::new(directory.path()).load().expect("a journal").events, events(&objects(&["c"])));
    let previous = fs::read(directory.path().join("journal.previous")).expect("there");
    check(
        &damaged(directory.path(), &previous).map(|loaded| Loaded { saved_at: at(1), ..loaded }),
        &objects(&["a"]),
        1,
        JournalGeneration::Current,
    );
}

#[tokio::test]
async fn a_file_system_that_refuses_is_told_and_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    let blocked = directory.path().join("file");
    fs::write(&blocked, "in the way").expect("written");
    let (writer, task) = Journal::new(blocked.join("state")).start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    writer.offer(objects(&["a"]).into_iter());
    let failed = tokio::time::timeout(DEADLINE, status.wait_for(|status| status.error.is_some())).await;
    let failed = *failed.expect("in time").expect("the task runs");
    assert!(matches!(failed.error, Some(JournalError::Io(_))), "{failed:?}");
    drop(writer);
    tokio::time::timeout(DEADLINE, task).await.expect("in time").expect("no panic");
}
