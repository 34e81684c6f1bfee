use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use edgemesh_metadata::{Journal, JournalError, Saved, check_journal};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{Commit, Current, Previous, at, check, every_kind, namespaces, parse};

/// What the first version of the journal wrote for one Service.
const FIRST_VERSION: &[u8] =
    b"EMJOURN\n\x01\0\0\0\0\0\0\0\0\0\0\0\x91\0\0\0\0\0\0\0\xf4\x7a\x0f\xc8\xba\x57\xc8\x5f\
{\"kind\":\"Service\",\"metadata\":{\"namespace\":\"default\",\"name\":\"shop\"},\
\"spec\":{\"clusterIP\":\"10.96.0.1\",\"ports\":[],\"publishNotReadyAddresses\":false}}\n";

/// The same Service.
const SHOP: &str = "{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: default}, spec: {clusterIP: 10.96.0.1}}";

#[test]
fn two_generations_of_every_kind() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("state/deep");
    let mut journal = Journal::new(&directory);
    assert_eq!(journal.load().err(), Some(JournalError::Missing));
    let first = Commit { objects: every_kind(&["a"]), at: 1000 };
    let second = Commit { objects: every_kind(&["a", "b"]), at: 2000 };
    let third = Commit { objects: every_kind(&["b"]), at: 3000 };
    assert_eq!(journal.save(&first.objects, at(first.at)), Ok(Saved::NewGeneration));
    check(&journal.load(), &first, Current, None);
    assert_eq!(journal.save(&second.objects, at(second.at)), Ok(Saved::Appended));
    check(&journal.load(), &second, Current, None);
    assert_eq!(Journal::new(&directory).save(&third.objects, at(third.at)), Ok(Saved::NewGeneration));
    check(&journal.load(), &third, Current, None);
    for (path, mode) in [("", 0o700), ("journal", 0o600), ("journal.previous", 0o600)] {
        let found = fs::metadata(directory.join(path)).expect("there").permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
    assert!(!directory.join("journal.new").exists());
    fs::remove_file(directory.join("journal")).expect("removed");
    check(&journal.load(), &second, Previous, Some(JournalError::Missing));
}

#[test]
fn a_torn_batch_is_cut_off_before_the_next() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("journal");
    let mut journal = Journal::new(root.path());
    let (first, second) = (Commit::new("a", 1000), Commit::new("a b", 1005));
    journal.save(&first.objects, at(first.at)).expect("saved");
    let base = fs::metadata(&path).expect("there").len();
    // Longer than the batch that comes instead.
    let large = Commit::new("a c d e f g h i j k", 1005);
    journal.save(&large.objects, at(large.at)).expect("saved");
    let text = fs::read(&path).expect("there");
    fs::write(&path, &text[..text.len() - 1]).expect("written");
    check(&journal.load(), &first, Current, Some(JournalError::Truncated));
    assert_eq!(journal.save(&second.objects, at(second.at)), Ok(Saved::Appended));
    check(&journal.load(), &second, Current, None);
    let length = fs::metadata(&path).expect("there").len();
    assert!(base < length && length < text.len() as u64 - 1);
}

#[test]
fn the_first_version_is_loaded_and_replaced() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("journal"), FIRST_VERSION).expect("written");
    let shop = Commit { objects: parse(SHOP), at: 0 };
    let mut journal = Journal::new(root.path());
    check(&journal.load(), &shop, Current, None);
    assert_eq!(journal.load().expect("a journal").source, "");
    assert_eq!(check_journal(FIRST_VERSION), Ok(1));
    // Also where nothing changed: a batch cannot stand behind it.
    assert_eq!(journal.save(&shop.objects, at(0)), Ok(Saved::NewGeneration));
    assert_eq!(fs::read(root.path().join("journal.previous")).expect("there"), FIRST_VERSION);
    check(&journal.load(), &shop, Current, None);
    assert_eq!(journal.save(&namespaces("a"), at(1)), Ok(Saved::Appended));
    fs::write(root.path().join("journal"), "damaged").expect("written");
    check(&journal.load(), &shop, Previous, Some(JournalError::Foreign));
    for cut in 0..FIRST_VERSION.len() {
        assert_eq!(check_journal(&FIRST_VERSION[..cut]), Err(JournalError::Truncated));
    }
    for place in 0..FIRST_VERSION.len() {
        let mut text = FIRST_VERSION.to_vec();
        text[place] ^= 0x10;
        assert!(check_journal(&text).is_err(), "a change at {place} is not seen");
    }
}

/// A file as the format says it is, begun at 1000 by the source `s`, with records of these kinds.
pub(crate) fn file(records: &[(u8, &[u8])]) -> Vec<u8> {
    file_of_version(3, records)
}

/// As [`file`], of another version.
pub(crate) fn file_of_version(version: u8, records: &[(u8, &[u8])]) -> Vec<u8> {
    let mut text = b"EMJOURN\n\x03\0\0\0\xe8\x03\0\0\0\0\0\0\x01\0s".to_vec();
    text[8] = version;
    let mut sum = xxh3_64(&text[8..]);
    text.extend(sum.to_le_bytes());
    for (kind, payload) in records {
        let start = text.len();
        text.extend(u32::try_from(payload.len()).expect("short").to_le_bytes());
        text.push(*kind);
        text.extend(*payload);
        sum = xxh3_64_with_seed(&text[start..], sum);
        text.extend(sum.to_le_bytes());
    }
    text
}

const UPSERT_A: (u8, &[u8]) =
    (1, br#"{"kind":"Namespace","metadata":{"namespace":"","name":"a","labels":{"n":""}}}"#);
const DELETE_A: (u8, &[u8]) = (2, br#"["Namespace",{"namespace":"","name":"a"}]"#);
pub(crate) const COMMIT_1000: (u8, &[u8]) = (3, b"\xe8\x03\0\0\0\0\0\0");
const COMMIT_1001: (u8, &[u8]) = (3, b"\xe9\x03\0\0\0\0\0\0");

#[test]
fn the_format_is_the_documented_one() {
    let root = tempfile::tempdir().expect("a directory");
    let mut journal = Journal::new(root.path()).of_source("s");
    journal.save(&namespaces("a"), at(1000)).expect("saved");
    assert_eq!(fs::read(root.path().join("journal")).expect("there"), file(&[UPSERT_A, COMMIT_1000]));
    journal.save(&[], at(1001)).expect("saved");
    let whole = file(&[UPSERT_A, COMMIT_1000, DELETE_A, COMMIT_1001]);
    assert_eq!(fs::read(root.path().join("journal")).expect("there"), whole);
}

#[test]
fn what_cannot_be_decoded_is_not_used_and_pushes_nothing_out() {
    let root = tempfile::tempdir().expect("a directory");
    let previous = Commit { objects: parse(SHOP), at: 0 };
    let (a, next) = (Commit::new("a", 1000), Commit::new("next", 2000));
    let unknown: (u8, &[u8]) = (1, br#"{"kind":"Unknown","metadata":{}}"#);
    for bad in [unknown, (2, b"{}"), (2, b""), (3, b"1234567"), (3, &[0xff; 8]), (4, b""), (5, b""), (0, b"")]
    {
        fs::write(root.path().join("journal.previous"), FIRST_VERSION).expect("written");
        fs::write(root.path().join("journal"), file(&[bad, COMMIT_1000])).expect("written");
        check(&Journal::new(root.path()).load(), &previous, Previous, Some(JournalError::Malformed));
        Journal::new(root.path()).save(&next.objects, at(next.at)).expect("saved");
        check(&Journal::new(root.path()).load(), &next, Current, None);
        fs::remove_file(root.path().join("journal")).expect("removed");
        check(&Journal::new(root.path()).load(), &previous, Previous, Some(JournalError::Missing));

        let text = file(&[UPSERT_A, COMMIT_1000, DELETE_A, bad, COMMIT_1001]);
        fs::write(root.path().join("journal"), text).expect("written");
        check(&Journal::new(root.path()).load(), &a, Current, Some(JournalError::Malformed));
    }
}

#[test]
fn foreign_files_and_other_versions_are_named() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("journal");
    Journal::new(root.path()).save(&every_kind(&["a"]), at(1)).expect("saved");
    let good = fs::read(&path).expect("there");
    let mut other_version = good.clone();
    other_version[8] = 4;
    for (text, expected) in [
        (&b"kind: Service\nmetadata: {name: nobody knows why this is here}\n"[..], JournalError::Foreign),
        (&b"short"[..], JournalError::Foreign),
        (&b""[..], JournalError::Truncated),
        (&good[..good.len() - 1], JournalError::Truncated),
        (&other_version, JournalError::Version),
    ] {
        fs::write(&path, text).expect("written");
        assert_eq!(Journal::new(root.path()).load().err(), Some(expected));
        assert_eq!(check_journal(text), Err(expected));
    }
    assert_eq!(check_journal(&good), Ok(every_kind(&["a"]).len()));
}

#[test]
fn a_damaged_generation_does_not_push_out_the_good_one() {
    let root = tempfile::tempdir().expect("a directory");
    let (first, second) = (Commit::new("a", 1000), Commit::new("b", 1005));
    for loads in [true, false] {
        let mut journal = Journal::new(root.path());
        Journal::new(root.path()).save(&first.objects, at(first.at)).expect("saved");
        Journal::new(root.path()).save(&second.objects, at(second.at)).expect("saved");
        if loads {
            journal.load().expect("a journal");
        }
        fs::write(root.path().join("journal"), "damaged").expect("written");
        fs::write(root.path().join("journal.new"), "left over by a crash").expect("written");
        assert_eq!(journal.save(&second.objects, at(second.at)), Ok(Saved::NewGeneration));
        check(&journal.load(), &second, Current, None);
        fs::remove_file(root.path().join("journal")).expect("removed");
        check(&journal.load(), &first, Previous, Some(JournalError::Missing));
    }
}

/// Saves although somebody did this to the files since the save before.
#[track_caller]
fn check_replaced(replace: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("state");
    let mut journal = Journal::new(&directory);
    journal.save(&namespaces("a b c"), at(1000)).expect("saved");
    replace(&directory);
    let next = Commit::new("a b c", 1001);
    assert_eq!(journal.save(&next.objects, at(next.at)), Ok(Saved::NewGeneration));
    check(&journal.load(), &next, Current, None);
    assert!(fs::symlink_metadata(directory.join("journal")).expect("there").is_file());
}

#[test]
fn files_that_somebody_removes_or_replaces() {
    check_replaced(|directory| fs::remove_dir_all(directory).expect("removed"));
    check_replaced(|directory| fs::remove_file(directory.join("journal")).expect("removed"));
    check_replaced(|directory| fs::write(directory.join("journal"), "").expect("written"));
    check_replaced(|directory| {
        // Valid, of another history, and longer.
        let other = (0..100).map(|name| format!("n{name}")).collect::<Vec<_>>().join(" ");
        Journal::new(directory).save(&namespaces(&other), at(1)).expect("saved");
    });
}

#[test]
fn no_link_is_followed() {
    let outside = tempfile::tempdir().expect("a directory");
    let victim = outside.path().join("victim");
    check_replaced(|directory| {
        fs::rename(directory.join("journal"), &victim).expect("renamed");
        symlink(&victim, directory.join("journal")).expect("linked");
        symlink(&victim, directory.join("journal.new")).expect("linked");
        assert!(matches!(Journal::new(directory).load(), Err(JournalError::Io(_))));
    });
    let text = fs::read(&victim).expect("there");
    assert_eq!(check_journal(&text), Ok(3), "it is as it was");
}

#[test]
fn a_write_that_fails_leaves_the_last_journal() {
    let root = tempfile::tempdir().expect("a directory");
    let (first, second) = (Commit::new("a", 1000), Commit::new("b", 1005));
    Journal::new(root.path()).save(&first.objects, at(first.at)).expect("saved");
    fs::create_dir(root.path().join("journal.new")).expect("in the way");
    let mut journal = Journal::new(root.path());
    assert!(matches!(journal.save(&second.objects, at(second.at)), Err(JournalError::Io(_))));
    check(&journal.load(), &first, Current, None);
    fs::remove_dir(root.path().join("journal.new")).expect("out of the way");
    journal.save(&second.objects, at(second.at)).expect("saved");
    check(&journal.load(), &second, Current, None);
    // A directory in place of the file is no journal, and nothing takes it away.
    fs::remove_file(root.path().join("journal")).expect("removed");
    fs::create_dir(root.path().join("journal")).expect("in the way");
    assert!(matches!(Journal::new(root.path()).load(), Err(JournalError::Io(_))));
    assert!(matches!(journal.save(&first.objects, at(first.at)), Err(JournalError::Io(_))));
}

/// Keys of certificates do not belong on a disk: neither a new generation nor a batch has them, nor a word of them.
#[test]
fn secrets_are_never_written() {
    let root = tempfile::tempdir().expect("a directory");
    let secret = |key: &str| {
        parse(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: shop-tls}}, type: kubernetes.io/tls, data: {{tls.key: {key}}}}}"
        ))
    };
    let kept = every_kind(&["a"]);
    let mut journal = Journal::new(root.path());
    let with = |key: &str| [kept.clone(), secret(key)].concat();
    assert_eq!(journal.save(&with("S0VZ"), at(1000)), Ok(Saved::NewGeneration));
    assert_eq!(journal.save(&with("T1RIRVI="), at(1000)), Ok(Saved::Unchanged));
    let more = [with("T1RIRVI="), namespaces("b")].concat();
    assert_eq!(journal.save(&more, at(1000)), Ok(Saved::Appended));
    let expected = Commit { objects: [kept, namespaces("b")].concat(), at: 1000 };
    check(&journal.load(), &expected, Current, None);
    for entry in fs::read_dir(root.path()).expect("there").flatten() {
        let text = fs::read(entry.path()).expect("readable");
        let text = String::from_utf8_lossy(&text);
        for word in ["Secret", "shop-tls", "S0VZ", "T1RIRVI"] {
            assert!(!text.contains(word), "{word} is in {:?}", entry.path());
        }
    }
}
