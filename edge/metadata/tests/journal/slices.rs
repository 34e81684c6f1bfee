//! The record of an EndpointSlice.

use std::fs;

use edgemesh_api::Object;
use edgemesh_metadata::{Journal, JournalError, Saved, check_journal};

use crate::files::{COMMIT_1000, file, file_of_version};
use crate::{Commit, Current, at, check, parse};

/// A slice with these endpoints.
fn slice(endpoints: &str) -> Commit {
    let objects = parse(&format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, labels: {{a: b}}}}, \
          addressType: IPv6, endpoints: [{endpoints}], ports: [{{name: p, port: 1}}]}}"
    ));
    Commit { objects, at: 1000 }
}

/// The payload that the format prescribes for a slice: its head, and these bytes for its endpoints.
fn payload(commit: &Commit, endpoints: &[u8]) -> Vec<u8> {
    let Object::EndpointSlice(slice) = &*commit.objects[0] else { panic!("it is made so") };
    let mut head = slice.clone();
    head.endpoints.clear();
    let head = serde_json::to_vec(&head).expect("it has a JSON form");
    let length = u32::try_from(head.len()).expect("short").to_le_bytes();
    [&length[..], &head, endpoints].concat()
}

const EVERY_PART: &str = "{addresses: [a, bc], conditions: {ready: true, serving: false, terminating: true}, \
    hostname: h, nodeName: n, zone: z, targetRef: {kind: Pod, namespace: n, name: p}, \
    hints: {forZones: [{name: z}, {name: y}], forNodes: [{name: n}]}}, {nodeName: y, targetRef: {kind: Pod}}";

#[rustfmt::skip]
const EVERY_PART_BYTES: &[u8] = &[
    2,
    0b10_01_10, 0b11111, 2, 1, b'a', 2, b'b', b'c', 1, b'h', 2, b'n', 2, b'z', 6, b'P', b'o', b'd', 1, 1, b'p',
    2, 3, 2, b'y', 1, 1,
    0, 0b01010, 0, 7, 5, 0, 0,
];

#[test]
fn the_record_is_the_documented_one() {
    for (endpoints, bytes) in [
        ("", &[0][..]),
        ("{}", &[1, 0, 0, 0]),
        ("{addresses: ['fd00::1'], conditions: {ready: false}}", b"\x01\x01\0\x01\x07fd00::1"),
        ("{hints: {}}", &[1, 0, 0b10000, 0, 0, 0]),
        ("{zone: ''}, {zone: ''}", &[2, 0, 0b100, 0, 0, 0, 0b100, 0, 1]),
        (EVERY_PART, EVERY_PART_BYTES),
    ] {
        let root = tempfile::tempdir().expect("a directory");
        let commit = slice(endpoints);
        let mut journal = Journal::new(root.path()).of_source("s");
        journal.save(&commit.objects, at(1000)).expect("saved");
        let text = fs::read(root.path().join("journal")).expect("there");
        assert_eq!(text, file(&[(4, &payload(&commit, bytes)), COMMIT_1000]), "{endpoints}");
        check(&journal.load(), &commit, Current, None);
    }
}

#[test]
fn long_lists_and_texts() {
    let node = "n".repeat(200);
    let endpoints: Vec<_> = (0..300)
        .map(|number| format!("{{addresses: ['{}'], nodeName: {node}{}}}", "9".repeat(number), number % 150))
        .collect();
    let commit = slice(&endpoints.join(", "));
    let root = tempfile::tempdir().expect("a directory");
    let mut journal = Journal::new(root.path());
    assert_eq!(journal.save(&commit.objects, at(1000)), Ok(Saved::NewGeneration));
    check(&journal.load(), &commit, Current, None);
}

#[test]
fn records_that_are_wrong_under_a_right_checksum() {
    let commit = slice(EVERY_PART);
    let good = payload(&commit, EVERY_PART_BYTES);
    let read = |payload: &[u8]| check_journal(&file(&[(4, payload), COMMIT_1000]));
    assert_eq!(read(&good), Ok(1));
    for cut in 0..good.len() {
        assert_eq!(read(&good[..cut]), Err(JournalError::Malformed), "cut off at {cut}");
    }
    assert_eq!(read(&[&good[..], &[0]].concat()), Err(JournalError::Malformed), "something behind");
    for place in 0..good.len() {
        for bits in [1, 2, 0x40, 0x80, 0xff] {
            let mut text = good.clone();
            text[place] ^= bits;
            let seen = read(&text);
            assert!(matches!(seen, Ok(1) | Err(JournalError::Malformed)), "{seen:?} at {place}");
        }
    }
    for endpoints in [
        &[0xff, 0xff, 0xff, 0x7f][..],         // more than there can be
        &[0x80, 0x80, 0x80, 0x80, 0],          // longer than a number is
        &[1, 0b11, 0, 0],                      // no state of a condition
        &[1, 0b100_0000, 0, 0],                // no condition
        &[1, 0, 0b10_0000, 0],                 // no part
        &[1, 0, 0b100, 0, 1],                  // a name that is not there yet
        &[1, 0, 0b100, 0, 2, 0xff],            // no UTF-8
        &[1, 0, 0, 1, 1, 0xff],                // no UTF-8
        &[1, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0], // more addresses than there can be
    ] {
        assert_eq!(read(&payload(&commit, endpoints)), Err(JournalError::Malformed), "{endpoints:?}");
    }
}

/// Files of the version before have slices in JSON.
#[test]
fn the_second_version_is_loaded_and_replaced() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("journal");
    let commit = slice(EVERY_PART);
    let json = serde_json::to_vec(&*commit.objects[0]).expect("it has a JSON form");
    let text = file_of_version(2, &[(1, &json), COMMIT_1000]);
    fs::write(&path, &text).expect("written");
    let mut journal = Journal::new(root.path()).of_source("s");
    check(&journal.load(), &commit, Current, None);
    assert_eq!(journal.load().expect("a journal").source, "s");
    // Also where nothing changed: a batch of this version cannot stand behind it.
    assert_eq!(journal.save(&commit.objects, at(1000)), Ok(Saved::NewGeneration));
    assert_eq!(fs::read(root.path().join("journal.previous")).expect("there"), text);
    check(&journal.load(), &commit, Current, None);
    for cut in 0..text.len() {
        assert_eq!(check_journal(&text[..cut]), Err(JournalError::Truncated));
    }
    for place in 0..text.len() {
        let mut damaged = text.clone();
        damaged[place] ^= 0x10;
        assert!(check_journal(&damaged).is_err(), "a change at {place} is not seen");
    }
}
