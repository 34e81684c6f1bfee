use std::fs;
use std::time::{Duration, SystemTime};

use edgemesh_metadata::{Journal, JournalError, JournalStatus};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::disk::Disk;
use crate::{at, events, namespaces};

const DEADLINE: Duration = Duration::from_secs(30);

async fn until(
    status: &mut watch::Receiver<JournalStatus>,
    reached: impl FnMut(&JournalStatus) -> bool,
) -> JournalStatus {
    *timeout(DEADLINE, status.wait_for(reached)).await.expect("in time").expect("the task runs")
}

#[tokio::test]
async fn writes_at_once_and_flushes_what_was_offered_last() {
    let directory = tempfile::tempdir().expect("a directory");
    let (writer, task) = Journal::new(directory.path()).start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    let before = SystemTime::now();
    writer.offer(namespaces("a").into_iter());
    let saved = until(&mut status, |status| status.saved_at.is_some()).await;
    assert_eq!((saved.error, saved.saved_at >= Some(before)), (None, true));
    assert_eq!(Journal::new(directory.path()).load().expect("a journal").events, events(&namespaces("a")));
    writer.offer(namespaces("b").into_iter());
    writer.offer(namespaces("c").into_iter());
    drop(writer);
    timeout(DEADLINE, task).await.expect("in time").expect("no panic");
    assert_eq!(Journal::new(directory.path()).load().expect("a journal").events, events(&namespaces("c")));
    assert!(!directory.path().join("journal.previous").exists(), "it is the same generation");
}

#[tokio::test]
async fn signs_of_life_are_noted_every_ten_minutes() {
    let disk = Disk::default();
    disk.journal().save(&namespaces("a"), at(1000)).expect("saved");
    let mut journal = disk.journal().pace(Duration::ZERO, DEADLINE);
    journal.load().expect("a journal");
    let (writer, task) = journal.start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    // Nothing is complete yet, so nothing is touched.
    writer.touch();
    disk.written();
    writer.offer(namespaces("a").into_iter());
    let saved = until(&mut status, |status| status.saved_at.is_some()).await;
    // Only the time is new, which is long ago in the journal.
    assert_eq!(disk.written(), 21);
    for _ in 0..10 {
        writer.touch();
    }
    writer.offer(namespaces("a").into_iter());
    drop(writer);
    timeout(DEADLINE, task).await.expect("in time").expect("no panic");
    assert_eq!(disk.written(), 0);
    assert_eq!(status.borrow().saved_at, saved.saved_at);
}

#[tokio::test]
async fn a_full_disk_is_told_and_written_again_once_it_is_freed() {
    let disk = Disk::default();
    let (writer, task) = disk.journal().pace(Duration::ZERO, Duration::from_millis(1)).start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    writer.offer(namespaces("a").into_iter());
    let saved = until(&mut status, |status| status.saved_at.is_some()).await;
    disk.set_room(Some(10));
    writer.offer(namespaces("a b").into_iter());
    let failed = until(&mut status, |status| status.error.is_some()).await;
    assert_eq!(failed, JournalStatus { error: Some(JournalError::Full), ..saved });
    assert_eq!(disk.journal().load().expect("a journal").events, events(&namespaces("a")));
    disk.set_room(None);
    until(&mut status, |status| status.error.is_none()).await;
    assert_eq!(disk.journal().load().expect("a journal").events, events(&namespaces("a b")));
    drop(writer);
    timeout(DEADLINE, task).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_file_system_that_refuses_is_told_and_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    let blocked = directory.path().join("file");
    fs::write(&blocked, "in the way").expect("written");
    let (writer, task) = Journal::new(blocked.join("state")).start();
    let task = tokio::spawn(task);
    let mut status = writer.watch_status();
    writer.offer(namespaces("a").into_iter());
    let failed = until(&mut status, |status| status.error.is_some()).await;
    assert!(matches!(failed.error, Some(JournalError::Io(_))), "{failed:?}");
    drop(writer);
    timeout(DEADLINE, task).await.expect("in time").expect("no panic");
}
