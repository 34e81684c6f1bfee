use std::sync::Arc;

use edgemesh_api::{Namespace, Object, ObjectMeta};
use edgemesh_metadata::{JournalError, Saved};

use crate::disk::Disk;
use crate::{Commit, Current, Previous, at, check, events, every_kind, namespaces};

const KIB: usize = 1 << 10;

/// A Namespace whose JSON is longer than this by a constant.
fn namespace(name: usize, size: usize, note: char) -> Arc<Object> {
    let annotations = [("n".into(), note.to_string().repeat(size).into())].into();
    let metadata = ObjectMeta { name: name.to_string().into(), annotations, ..ObjectMeta::default() };
    Arc::new(Object::Namespace(Namespace { metadata }))
}

/// Many changes of one object among `count`, of 1 KiB each: how often a new generation begins, while the file never
/// outgrows its bound.
#[track_caller]
fn check_growth(count: usize, changes: usize, generations: usize) {
    let disk = Disk::default();
    let mut journal = disk.journal();
    let mut objects: Vec<_> = (0..count).map(|name| namespace(name, KIB, '-')).collect();
    let mut begun = 0;
    let mut base = 0;
    for change in 0..=changes {
        objects[change % count] = namespace(change % count, KIB, char::from(b'a' + (change % 26) as u8));
        match journal.save(&objects, at(1000 + change as u64)).expect("saved") {
            Saved::NewGeneration => {
                begun += 1;
                base = disk.file("journal").len();
            }
            Saved::Appended => {}
            Saved::Unchanged => panic!("change {change} is lost"),
        }
        let length = disk.file("journal").len();
        assert!(length - base <= base.max(64 * KIB), "{length} bytes upon a base of {base}");
    }
    let last = Commit { objects, at: 1000 + changes as u64 };
    check(&disk.journal().load(), &last, Current, None);
    assert_eq!(begun, generations);
}

#[test]
fn batches_are_bounded_by_a_floor_where_the_base_is_small() {
    // 57 batches of 1 KiB and what stands around it are in 64 KiB.
    check_growth(2, 57, 1);
    check_growth(2, 58, 2);
    check_growth(2, 10 * 58, 11);
}

#[test]
fn batches_are_bounded_by_the_base() {
    // A batch has the object and, as the base has once, a commit.
    check_growth(200, 195, 1);
    check_growth(200, 1000, 6);
}

#[test]
fn a_change_larger_than_the_base_begins_a_generation() {
    let disk = Disk::default();
    let mut journal = disk.journal();
    let few = Commit::new("a", 1000);
    let many = Commit { objects: (0..100).map(|name| namespace(name, KIB, 'm')).collect(), at: 1005 };
    assert_eq!(journal.save(&few.objects, at(few.at)), Ok(Saved::NewGeneration));
    assert_eq!(journal.save(&many.objects, at(many.at)), Ok(Saved::NewGeneration));
    check(&disk.journal().load(), &many, Current, None);
    let mut files = disk.files();
    files.remove("journal");
    check(&Disk::of(&files).journal().load(), &few, Previous, Some(JournalError::Missing));
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let disk = Disk::default();
    let mut journal = disk.journal();
    let objects = every_kind(&["a", "b"]);
    journal.save(&objects, at(1000)).expect("saved");
    assert!(disk.written() > 0);
    let mut turned = every_kind(&["b", "a"]);
    turned.reverse();
    for (objects, heard, expected) in [
        (&objects, 1000, Saved::Unchanged),
        // Other copies in another order.
        (&turned, 1001, Saved::Unchanged),
        // That the source is heard is written every 10 minutes.
        (&objects, 1599, Saved::Unchanged),
        (&objects, 1600, Saved::Appended),
        (&objects, 1601, Saved::Unchanged),
        // A clock that is set back, a little and much.
        (&objects, 1001, Saved::Unchanged),
        (&objects, 999, Saved::Appended),
    ] {
        assert_eq!(journal.save(objects, at(heard)), Ok(expected), "at {heard}");
        // Length, kind, time, checksum.
        assert_eq!(
            disk.written(),
            if expected == Saved::Unchanged { 0 } else { 4 + 1 + 8 + 8 },
            "at {heard}"
        );
    }
    check(&disk.journal().load(), &Commit { objects, at: 999 }, Current, None);
    assert_eq!(journal.saved_at(), Some(at(999)));
}

#[test]
fn a_restart_goes_on_with_the_journal_it_loaded() {
    let disk = Disk::default();
    let objects = every_kind(&["a", "b"]);
    disk.journal().of_source("x").save(&objects, at(1000)).expect("saved");
    let fewer = every_kind(&["b"]);
    for (source, objects, expected) in [
        ("x", &objects, Saved::Unchanged),
        ("x", &fewer, Saved::Appended),
        ("x", &fewer, Saved::Unchanged),
        // Another source never stands in the file of this one.
        ("y", &fewer, Saved::NewGeneration),
        ("y", &fewer, Saved::Unchanged),
    ] {
        let mut journal = disk.journal().of_source(source);
        journal.load().expect("a journal");
        assert_eq!(journal.save(objects, at(1000)), Ok(expected));
        let loaded = disk.journal().load().expect("a journal");
        assert_eq!((&*loaded.source, loaded.begun_at), (source, at(1000)));
        assert_eq!(loaded.events, events(objects));
    }
    // A name longer than any path is cut between two characters.
    let long = "ä".repeat(5000) + "b";
    disk.journal().of_source(&long).save(&objects, at(1)).expect("saved");
    let mut journal = disk.journal().of_source(&long);
    assert_eq!(journal.load().expect("a journal").source, "ä".repeat(2048));
    assert_eq!(journal.save(&objects, at(1)), Ok(Saved::Unchanged));
}

#[test]
fn of_two_objects_with_one_key_the_latter_counts() {
    let disk = Disk::default();
    disk.journal().save(&namespaces("a=1 b a=2 a=3"), at(1)).expect("saved");
    check(&disk.journal().load(), &Commit::new("a=3 b", 1), Current, None);
}

#[test]
fn fifty_thousand_objects_are_read_once_and_shared() {
    let disk = Disk::default();
    let mut objects: Vec<_> = (0..50_000).map(|name| namespace(name, 8, 'o')).collect();
    disk.journal().save(&objects, at(1000)).expect("saved");
    disk.read_names();
    let mut journal = disk.journal();
    let loaded = journal.load();
    assert_eq!(disk.read_names(), ["journal"]);
    check(&loaded, &Commit { objects: objects.clone(), at: 1000 }, Current, None);
    // The state's copies are the journal's: one here and one there.
    let upserts = loaded.expect("a journal").events.into_iter();
    let shared = upserts.filter_map(|event| match event {
        edgemesh_api::SourceEvent::Upsert(object) => Some(Arc::strong_count(&object)),
        _ => None,
    });
    assert!(shared.eq(std::iter::repeat_n(2, 50_000)));
    // One change costs what it is long, not what the state is.
    disk.written();
    objects[25_000] = namespace(25_000, 8, 'p');
    assert_eq!(journal.save(&objects, at(1005)), Ok(Saved::Appended));
    assert!(disk.written() < 200);
    assert_eq!(disk.read_names(), [""; 0]);
}

#[test]
fn the_size_is_bounded() {
    let disk = Disk::default();
    let mut journal = disk.journal();
    let small = Commit::new("small", 1000);
    journal.save(&small.objects, at(small.at)).expect("saved");
    let Object::Namespace(large) = &*namespace(0, KIB * KIB, 'x') else { panic!("it is made so") };
    let objects: Vec<_> = (0..64)
        .map(|name: usize| {
            let metadata = ObjectMeta { name: name.to_string().into(), ..large.metadata.clone() };
            Arc::new(Object::Namespace(Namespace { metadata }))
        })
        .collect();
    assert_eq!(journal.save(&objects, at(1005)), Err(JournalError::TooLarge));
    check(&disk.journal().load(), &small, Current, None);
    disk.put("journal", &vec![0; 64 * KIB * KIB + 1]);
    assert_eq!(disk.journal().load().err(), Some(JournalError::TooLarge));
    assert_eq!(journal.save(&small.objects, at(1010)), Ok(Saved::NewGeneration));
    check(&disk.journal().load(), &Commit { at: 1010, ..small }, Current, None);
}
