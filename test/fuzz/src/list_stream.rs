use std::time::{Duration, Instant};

use edgemesh_api::{Kind, SourceEvent};
use edgemesh_mesh::{MeshOptions, MeshState};
use edgemesh_reflector::{Consistency, Interner, ListEnd, Reflector, ReflectorSpec, Splitter, Step};

/// Between two answers of the server: a byte that JSON cannot hold.
const BETWEEN: u8 = 0x1e;

/// Answers of one run: more than any corner of the reflector is away.
const MAX_ANSWERS: usize = 64;

/// Longest wait that a reflector may ask for: its own slowest pace, and the longest that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// An API server's answers to lists and watches, through splitter, reflector and state. The first byte says what kind
/// of which server is followed, the second in what pieces answers come, the others are the answers.
///
/// Whatever a server says, objects come as `ResetKind … SyncedKind`, a list that fails completes nothing, and the
/// pieces make no difference.
pub fn list_stream(bytes: &[u8]) {
    let [how, piece, answers @ ..] = bytes else { return };
    let consistency = if how & 1 == 0 { Consistency::Consistent } else { Consistency::Cached };
    let kind = Kind::ALL[usize::from(how >> 1) % Kind::ALL.len()];
    let answers: Vec<&[u8]> = answers.split(|byte| *byte == BETWEEN).take(MAX_ANSWERS).collect();
    let told = follow(kind, consistency, &answers, usize::from(*piece).max(1));
    assert_eq!(told, follow(kind, consistency, &answers, usize::MAX), "pieces make no difference");
    let options = MeshOptions { cached_source: consistency == Consistency::Cached, ..MeshOptions::default() };
    let mut state = MeshState::with_options("here".into(), options);
    let mut listing = false;
    for event in told {
        listing = match event {
            SourceEvent::ResetKind(_) => true,
            SourceEvent::SyncedKind(_) => {
                assert!(listing, "only a listing is completed");
                false
            }
            SourceEvent::Upsert(_) | SourceEvent::Delete(..) | SourceEvent::Keep(..) => listing,
            SourceEvent::Reset | SourceEvent::Synced => panic!("kinds are listed one by one"),
        };
        state.apply(event);
    }
    let _ = state.compile();
}

fn follow(kind: Kind, consistency: Consistency, answers: &[&[u8]], piece: usize) -> Vec<SourceEvent> {
    let mut reflector = Reflector::new(ReflectorSpec { kind, consistency, seed: 1 });
    let mut names = Interner::default();
    let mut told = Vec::new();
    // Only differences count: any instant will do.
    let mut now = Instant::now();
    for answer in answers {
        let mut step = reflector.next(now);
        if let Step::Wait(until) = step {
            assert!(until > now && until - now <= MAX_WAIT, "waits {:?}", until - now);
            now = until;
            step = reflector.next(now);
        }
        match step {
            Step::Wait(until) => panic!("waits again, {:?}", until - now),
            Step::List(_) => list(&mut reflector, &mut names, &mut told, now, answer.chunks(piece)),
            Step::Watch(_) => now = watch(&mut reflector, &mut names, &mut told, now, answer.chunks(piece)),
        }
    }
    told
}

fn list<'a>(
    reflector: &mut Reflector,
    names: &mut Interner,
    told: &mut Vec<SourceEvent>,
    now: Instant,
    pieces: impl Iterator<Item = &'a [u8]>,
) {
    let mut splitter = Splitter::list();
    for piece in pieces {
        if let Err(error) = splitter.push(piece, &mut |json| reflector.list_item(json, names, told)) {
            return reflector.failed(error.into(), now, told);
        }
    }
    let before = told.len();
    match splitter.finish() {
        Ok(members) => {
            let end = reflector.list_end(&members, now, told);
            let completed = told[before..].iter().any(|event| matches!(event, SourceEvent::SyncedKind(_)));
            assert!(
                end == ListEnd::Complete || !completed || is_absent(reflector),
                "{end:?} completes nothing"
            );
        }
        Err(error) => reflector.failed(error.into(), now, told),
    }
}

/// The server says that it does not have the kind: that completes an empty list.
fn is_absent(reflector: &Reflector) -> bool {
    reflector.status().state == edgemesh_reflector::KindState::Absent
}

fn watch<'a>(
    reflector: &mut Reflector,
    names: &mut Interner,
    told: &mut Vec<SourceEvent>,
    now: Instant,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Instant {
    reflector.watch_open();
    let mut splitter = Splitter::stream();
    let mut over = false;
    for piece in pieces {
        let cut = splitter.push(piece, &mut |json| {
            over = over || reflector.watch_event(json, names, now, told).is_break();
        });
        if over {
            return now;
        }
        if let Err(error) = cut {
            reflector.failed(error.into(), now, told);
            return now;
        }
    }
    let deadline = reflector.watch_deadline().expect("every watch has an end");
    reflector.watch_end(deadline);
    deadline
}
