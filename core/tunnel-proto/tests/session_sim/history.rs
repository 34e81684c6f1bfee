//! A history drawn from a seed, and what must be true after it.

use std::time::Duration;

use edgemesh_tunnel_proto::session::{NO_PATH_AFTER, ResetReason, SessionLimits, StreamId};

use crate::app::{End, Plan};
use crate::draws::Draws;
use crate::world::{Happening, Line, World};

pub(crate) const S: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// What the draw allows the sessions to do to a stream that both applications want to live.
struct Allowed {
    no_path: bool,
    full: bool,
    overloaded: bool,
}

pub(crate) fn run(seed: u64) {
    let mut draws = Draws(seed);
    let initial = draws.pick(&[4 << 10, 32 << 10, 256 << 10]);
    let streams = draws.pick(&[2, 8, 4096]);
    let tight = draws.one_in(8);
    let limits = SessionLimits {
        streams,
        initial_window: initial,
        max_window: initial * draws.pick(&[1, 4, 16]),
        total_window: if tight { u64::from(initial) * 2 } else { 64 << 20 },
    };
    let other = SessionLimits { streams: draws.pick(&[streams, 3]), ..limits };
    let mut world = World::new([limits, other]);
    world.coded = draws.one_in(8);
    let busy = draws.millis(500, 8000);
    let outage = draws.one_in(16);
    carriers(&mut world, &mut draws, busy);
    for _ in 0..draws.between(1, 12) {
        let at = draws.millis(0, busy.as_millis() as u64);
        let side = draws.between(0, 1) as usize;
        let plans = (plan(&mut draws), plan(&mut draws));
        world.plans.push_back(plans);
        world.after(at, Happening::Open { side });
    }
    let quiet = if outage { busy + NO_PATH_AFTER + 10 * S } else { busy + 2 * S };
    let last = world.pipe(line(&mut draws, false));
    for side in 0..2 {
        world.after(quiet + draws.millis(0, 300), Happening::Up { pipe: last, side });
    }
    if outage {
        for pipe in 0..last {
            for side in 0..2 {
                world.after(busy + draws.millis(0, 2000), Happening::Down { pipe, side });
            }
        }
    }
    let done = world.run(quiet + 600 * S, World::idle);
    let allowed = Allowed {
        no_path: quiet + S > NO_PATH_AFTER,
        full: limits.streams != other.streams || limits.streams <= 8,
        overloaded: tight,
    };
    check(&world, &allowed, done);
}

/// Carriers that come, stall, are cut and closed while the streams run.
fn carriers(world: &mut World, draws: &mut Draws, busy: Duration) {
    let span = busy.as_millis() as u64;
    for _ in 0..draws.between(1, 6) {
        let line = line(draws, true);
        let pipe = world.pipe(line);
        let up = if draws.one_in(2) { 0 } else { draws.between(0, span) };
        for side in 0..2 {
            let at = Duration::from_millis(up) + draws.millis(0, 200);
            world.after(at, Happening::Up { pipe, side });
        }
        for _ in 0..draws.between(0, 2) {
            let begin = draws.millis(up, up + span);
            let length = draws.pick(&[50, 300, 700, 2500]) * MS;
            let from = draws.between(0, 1) as usize;
            world.after(begin, Happening::Stall { pipe, from, until: world.now + begin + length });
        }
        for side in 0..2 {
            if draws.one_in(4) {
                let cost = draws.between(0, 3) as u32;
                world.after(draws.millis(up, up + span), Happening::Cost { pipe, side, cost });
            }
        }
        let end = draws.millis(up, up + span);
        match draws.between(0, 4) {
            // Cut without a word, both ways or one.
            0 | 1 => {
                let both = !draws.one_in(4);
                let first = draws.between(0, 1) as usize;
                for from in 0..2 {
                    if both || from == first {
                        world.after(end, Happening::Cut { pipe, from });
                    }
                }
                // The kernel may tell one side before its pulse does.
                if draws.one_in(2) {
                    world.after(end + draws.millis(0, 500), Happening::Down { pipe, side: first });
                }
            }
            // Closed by one side; the other learns.
            2 | 3 => world.after(end, Happening::Down { pipe, side: draws.between(0, 1) as usize }),
            _ => {}
        }
    }
}

fn line(draws: &mut Draws, any: bool) -> Line {
    Line {
        delay: draws.millis(0, 80),
        rate: if any { draws.pick(&[60, 500, 5_000, 50_000]) } else { 5_000 },
        buffer: draws.pick(&[1 << 10, 32 << 10, 256 << 10]),
        cost: draws.between(0, 3) as u32,
    }
}

fn plan(draws: &mut Draws) -> Plan {
    let most = draws.pick(&[0, 10, 2_000, 60_000, 400_000]);
    let slow = draws.one_in(4);
    Plan {
        to_write: draws.between(0, most),
        write_size: draws.pick(&[1, 100, 5_000, 20_000, 70_000]).max(most / 200),
        write_pause: if draws.one_in(4) { draws.millis(0, 40) } else { Duration::ZERO },
        read_pause: if slow { draws.millis(0, 60) } else { Duration::ZERO },
        read_from: if draws.one_in(6) { draws.millis(0, 4000) } else { Duration::ZERO },
        reset_after: draws.one_in(6).then(|| draws.between(0, most)),
    }
}

fn check(world: &World, allowed: &Allowed, done: bool) {
    if !done {
        for ((side, stream), app) in &world.apps {
            if app.end.is_none() {
                eprintln!(
                    "side {side} {stream:?}: wrote {} of {} ({}), read {} ({}), age {:?}",
                    app.written,
                    app.plan.to_write,
                    app.finished_writing,
                    app.read,
                    app.finished_reading,
                    app.age(world.now)
                );
            }
        }
        panic!(
            "not over after {:?}: {:?}",
            world.now - world.start,
            world.sessions.each_ref().map(|s| s.view())
        );
    }
    for (side, session) in world.sessions.iter().enumerate() {
        let view = session.view();
        let sums = (view.streams, view.replay, view.held, view.windows, view.gaps);
        assert_eq!(sums, (0, 0, 0, 0, 0), "side {side} remembers something");
    }
    for ((side, stream), app) in &world.apps {
        let other = world.apps.get(&(1 - side, *stream));
        assert!(
            world.ended.contains_key(&(*side, *stream)),
            "side {side} was not told that {stream:?} is over"
        );
        match app.end.expect("all are over") {
            End::Finished => {
                let other = other.expect("its end came from there");
                assert!(other.finished_writing);
                assert_eq!(app.read, other.plan.to_write, "{stream:?}: bytes are missing");
                assert!(app.read == other.written && app.written == app.plan.to_write);
            }
            End::Gave(reason) => {
                let end = other.and_then(|other| other.end);
                let known = match end {
                    Some(End::Told(told)) => told == reason || is_allowed(told, allowed),
                    Some(End::Finished | End::Gave(_)) => true,
                    None => other.is_none(),
                };
                assert!(known, "{stream:?}: side {side} gave up ({reason:?}), the other side has {end:?}");
            }
            End::Told(reason) => {
                let gave = other.and_then(|other| other.end);
                let fits = gave == Some(End::Gave(reason)) || is_allowed(reason, allowed);
                assert!(fits, "{stream:?}: side {side} was told {reason:?}, the other side has {gave:?}");
                if let Some(End::Finished) = gave {
                    assert!(is_allowed(reason, allowed), "{stream:?} finished there and was reset here");
                }
            }
        }
    }
    opened_or_given_up(world);
}

fn is_allowed(reason: ResetReason, allowed: &Allowed) -> bool {
    match reason {
        ResetReason::NoPath => allowed.no_path,
        ResetReason::Full => allowed.full,
        ResetReason::Overloaded => allowed.overloaded,
        ResetReason::Unspecified | ResetReason::Cancelled | ResetReason::Broken => false,
    }
}

/// A stream that the other side never saw was reset here.
fn opened_or_given_up(world: &World) {
    for ((side, stream), app) in &world.apps {
        let alone: Option<&StreamId> = (!world.apps.contains_key(&(1 - side, *stream))).then_some(stream);
        assert!(alone.is_none() || app.end != Some(End::Finished), "{stream:?} finished without another end");
    }
}
