use std::io;
use std::sync::Arc;

use edgemesh_api::Object;
use edgemesh_metadata::{JournalError, Saved};

use crate::disk::{Disk, Files};
use crate::{Commit, Current, Previous, at, check, parse};

/// A life of a journal in which everything happens: new, changed and deleted objects, and only time that passes.
fn life() -> Vec<Commit> {
    let mut life =
        [("a b", 1000), ("a=changed b c", 1005), ("b", 1010), ("b", 5000), ("", 5005), ("a=again b c", 5010)]
            .map(|(text, at)| Commit::new(text, at))
            .to_vec();
    life[0].objects.extend(slice());
    life
}

/// A slice with one endpoint.
fn slice() -> Vec<Arc<Object>> {
    parse(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, \
          endpoints: [{addresses: ['fd00::1'], nodeName: n}]}",
    )
}

/// A disk with a previous generation, a current one that has the whole life, and the length of the latter after each
/// commit.
fn lived() -> (Disk, Commit, Vec<(usize, Commit)>) {
    let disk = Disk::default();
    let older = Commit::new("older", 10);
    assert_eq!(disk.journal().save(&older.objects, at(older.at)), Ok(Saved::NewGeneration));
    let mut journal = disk.journal();
    let mut commits = Vec::new();
    for commit in life() {
        let saved = journal.save(&commit.objects, at(commit.at));
        let expected = if commits.is_empty() { Saved::NewGeneration } else { Saved::Appended };
        assert_eq!(saved, Ok(expected));
        check(&disk.journal().load(), &commit, Current, None);
        commits.push((disk.file("journal").len(), commit));
    }
    (disk, older, commits)
}

/// A journal that was found like this goes on: what is saved next is there, and nothing is left to complain about.
#[track_caller]
fn check_goes_on(files: &Files) {
    let disk = Disk::of(files);
    let mut journal = disk.journal();
    let _ = journal.load();
    for next in [Commit::new("b next", 9000), Commit::new("next", 9005)] {
        journal.save(&next.objects, at(next.at)).expect("saved");
        check(&disk.journal().load(), &next, Current, None);
    }
}

#[test]
fn cut_off_anywhere() {
    let (disk, older, commits) = lived();
    let good = disk.file("journal");
    for cut in 0..good.len() {
        disk.put("journal", &good[..cut]);
        let loaded = disk.journal().load();
        match commits.iter().rfind(|(length, _)| *length <= cut) {
            Some((length, commit)) => {
                check(&loaded, commit, Current, (*length != cut).then_some(JournalError::Truncated));
            }
            None => check(&loaded, &older, Previous, Some(JournalError::Truncated)),
        }
        check_goes_on(&disk.files());
    }
}

#[test]
fn damaged_anywhere() {
    let (disk, older, commits) = lived();
    let good = disk.file("journal");
    for place in 0..good.len() {
        for bits in [1, 0x80, 0xff] {
            let mut text = good.clone();
            text[place] ^= bits;
            disk.put("journal", &text);
            let loaded = disk.journal().load();
            let ignored = loaded.as_ref().expect("a journal").ignored;
            assert!(ignored.is_some(), "a change at {place} is not seen");
            match commits.iter().rfind(|(length, _)| *length <= place) {
                Some((_, commit)) => check(&loaded, commit, Current, ignored),
                None => check(&loaded, &older, Previous, ignored),
            }
        }
        check_goes_on(&disk.files());
    }
}

#[test]
fn what_stands_behind_the_last_commit_does_not_count() {
    let (disk, _, commits) = lived();
    let good = disk.file("journal");
    let (base, last) = (commits[0].0, commits[commits.len() - 1].1.clone());
    let batch = &good[base..commits[1].0];
    for (rest, ignored) in [
        (&b"\n"[..], JournalError::Truncated),
        (&[0; 4096], JournalError::Checksum),
        (&[0xff; 4096], JournalError::Truncated),
        // A batch that was valid elsewhere, and a whole journal.
        (batch, JournalError::Checksum),
        (&good, JournalError::Truncated),
    ] {
        disk.put("journal", &[&good[..], rest].concat());
        check(&disk.journal().load(), &last, Current, Some(ignored));
        check_goes_on(&disk.files());
    }
    // A batch that is left out takes those behind it with it.
    disk.put("journal", &[&good[..base], &good[commits[1].0..]].concat());
    check(&disk.journal().load(), &commits[0].1, Current, Some(JournalError::Checksum));
}

#[test]
fn a_torn_end_is_told_once() {
    let (disk, _, commits) = lived();
    let good = disk.file("journal");
    disk.put("journal", &good[..good.len() - 1]);
    let kept = &commits[commits.len() - 2].1;
    let mut journal = disk.journal();
    check(&journal.load(), kept, Current, Some(JournalError::Truncated));
    // Nothing changed, yet the torn batch goes.
    assert_eq!(journal.save(&kept.objects, at(kept.at)), Ok(Saved::Appended));
    check(&disk.journal().load(), kept, Current, None);
}

/// Saves a state on a copy of the disk, in a process that loaded it or one that did not.
fn save(files: &Files, next: &Commit, loads: bool) -> (Disk, Result<Saved, JournalError>) {
    let disk = Disk::of(files);
    let mut journal = disk.journal();
    if loads {
        journal.load().expect("a journal");
    }
    let saved = journal.save(&next.objects, at(next.at));
    (disk, saved)
}

#[test]
fn the_power_is_cut_at_any_moment() {
    let (disk, older, commits) = lived();
    let last = &commits[commits.len() - 1].1;
    let next = Commit::new("a=next c e", 6000);
    let only_current: Files = [("journal".to_owned(), disk.file("journal"))].into();
    let broken = Files::from([
        ("journal".to_owned(), b"damaged".to_vec()),
        ("journal.previous".to_owned(), disk.file("journal.previous")),
        ("journal.new".to_owned(), b"left over by a crash".to_vec()),
    ]);
    for (files, before, loads, expected) in [
        (Files::new(), None, false, Saved::NewGeneration),
        (disk.files(), Some(last), true, Saved::Appended),
        (disk.files(), Some(last), false, Saved::NewGeneration),
        (only_current, Some(last), false, Saved::NewGeneration),
        (broken, Some(&older), true, Saved::NewGeneration),
    ] {
        let disk = Disk::of(&files);
        let mut journal = disk.journal();
        if loads {
            journal.load().expect("a journal");
        }
        let moments = disk.moments(|| assert_eq!(journal.save(&next.objects, at(next.at)), Ok(expected)));
        let mut is_new = false;
        for files in &moments {
            let loaded = Disk::of(files).journal().load();
            if next.is_in(&loaded) {
                is_new = true;
            } else {
                assert!(!is_new, "what was there is gone: {loaded:?}");
                let kept = before.map_or_else(|| loaded.is_err(), |before| before.is_in(&loaded));
                assert!(kept, "neither the one nor the other: {loaded:?}");
            }
            check_goes_on(files);
        }
        assert!(is_new);
    }
}

#[test]
fn a_disk_that_is_full_at_any_byte() {
    let (disk, _, commits) = lived();
    let (files, last) = (disk.files(), &commits[commits.len() - 1].1);
    let (next, then) = (Commit::new("a=next c e", 6000), Commit::new("a=then", 6005));
    for loads in [true, false] {
        let (written, saved) = save(&files, &next, loads);
        saved.expect("saved");
        let length = written.written();
        assert!(length > 0);
        for room in 0..=length {
            let disk = Disk::of(&files);
            let mut journal = disk.journal();
            if loads {
                journal.load().expect("a journal");
            }
            disk.set_room(Some(room));
            assert_eq!(journal.save(&next.objects, at(next.at)), Err(JournalError::Full));
            assert_eq!(disk.written(), room, "a full disk is not filled twice");
            let loaded = disk.journal().load();
            // All of a batch may be there although the disk did not confirm it.
            assert!(last.is_in(&loaded) || loads && room == length && next.is_in(&loaded), "{loaded:?}");
            assert!(!disk.files().contains_key("journal.new"), "half a copy takes the room");
            check_goes_on(&disk.files());
            // The same process goes on once there is room: with another state, or back with the old one.
            disk.set_room(None);
            if room % 2 == 0 {
                journal.save(&then.objects, at(then.at)).expect("saved");
                check(&disk.journal().load(), &then, Current, None);
            } else {
                journal.save(&last.objects, at(last.at)).expect("saved");
                check(&disk.journal().load(), last, Current, None);
            }
        }
    }
}

#[test]
fn any_operation_that_is_refused() {
    let (disk, _, commits) = lived();
    let (files, last) = (disk.files(), &commits[commits.len() - 1].1);
    let (next, then) = (Commit::new("a=next c e", 6000), Commit::new("a=then", 6005));
    for loads in [true, false] {
        for operations in 0.. {
            let disk = Disk::of(&files);
            let mut journal = disk.journal();
            if loads {
                journal.load().expect("a journal");
            }
            disk.refuse_after(operations, io::ErrorKind::Other);
            let saved = journal.save(&next.objects, at(next.at));
            if !disk.has_refused() {
                assert!(operations > 0 && saved.is_ok());
                break;
            }
            let loaded = disk.journal().load();
            match saved {
                // An append that fails is followed by a new generation.
                Ok(saved) => {
                    assert_eq!((loads, operations, saved), (true, 0, Saved::NewGeneration));
                    check(&loaded, &next, Current, None);
                }
                Err(error) => {
                    assert_eq!(error, JournalError::Io(io::ErrorKind::Other));
                    assert!(last.is_in(&loaded) || next.is_in(&loaded), "{loaded:?}");
                }
            }
            journal.save(&then.objects, at(then.at)).expect("saved");
            check(&disk.journal().load(), &then, Current, None);
        }
    }
}

#[test]
fn refusals_are_named() {
    let (disk, _, _) = lived();
    for (kind, expected, word) in [
        (io::ErrorKind::StorageFull, JournalError::Full, "full"),
        (io::ErrorKind::QuotaExceeded, JournalError::Full, "full"),
        (io::ErrorKind::ReadOnlyFilesystem, JournalError::ReadOnly, "read_only"),
        (io::ErrorKind::PermissionDenied, JournalError::Io(io::ErrorKind::PermissionDenied), "io"),
    ] {
        disk.refuse_after(0, kind);
        let error = disk.journal().save(&[], at(9000)).expect_err("refused");
        assert_eq!((error, error.as_str()), (expected, word));
    }
}
