//! Scenarios with bounds.

use std::time::Duration;

use bytes::Bytes;
use edgemesh_tunnel_proto::session::{
    BUSY_FOR, CarrierId, MAX_QUEUED_DATAGRAMS, OpenRefused, PATIENCE, ResetReason, SessionLimits, StreamId,
};

use crate::app::{End, Plan};
use crate::draws::Draws;
use crate::history::{MS, S};
use crate::world::{Happening, Line, World};

/// 40 Mbit/s over 20 ms.
const LINE: Line = Line { delay: Duration::from_millis(10), rate: 5_000, buffer: 64 << 10, cost: 1 };

fn world() -> World {
    World::new([SessionLimits::default(); 2])
}

#[test]
fn a_silent_cut_in_a_transfer_is_bridged_within_600_ms_and_two_round_trips() {
    for seed in 0..60 {
        let mut draws = Draws(seed);
        let mut world = world();
        let lines = [0, 1].map(|cost| Line { delay: draws.millis(0, 50), cost, ..LINE });
        let [first, _] = lines.map(|line| world.connect(line));
        let side = draws.between(0, 1) as usize;
        let back = if draws.one_in(2) { 20_000_000 } else { 0 };
        let stream = world.open(side, (Plan::bulk(20_000_000), Plan::bulk(back))).unwrap();
        let at = draws.millis(1000, 2000);
        for from in 0..2 {
            world.after(at, Happening::Cut { pipe: first, from });
        }
        assert!(world.run(30 * S, World::idle), "seed {seed}");
        let bound = 600 * MS + lines[1].rtt();
        for side in 0..2 {
            let app = &world.apps[&(side, stream)];
            assert_eq!(app.end, Some(End::Finished), "seed {seed}");
            // The second round trip is that of the first byte after the answer, with what a frame takes on the line.
            let silence = app.longest_silence;
            let most = bound + lines[1].rtt() + 20 * MS;
            assert!(app.read == 0 || silence <= most, "seed {seed}: silent for {silence:?}, may be {most:?}");
        }
        assert_eq!(world.dead.len(), 2, "seed {seed}: both ends notice");
        for (pipe, _, silent) in &world.dead {
            assert!(*pipe == first && *silent <= 600 * MS, "seed {seed}: noticed after {silent:?}");
        }
    }
}

#[test]
fn a_cut_of_an_idle_carrier_is_noticed_when_it_is_used() {
    let mut world = world();
    let first = world.connect(Line { cost: 0, ..LINE });
    world.connect(LINE);
    world.run(20 * S, |_| false);
    for from in 0..2 {
        world.happen_now(Happening::Cut { pipe: first, from });
    }
    world.run(BUSY_FOR, |_| false);
    let before = world.now;
    world.open(0, (Plan::bulk(10), Plan::bulk(10)));
    assert!(world.run(S, World::idle), "{:?}", world.dead);
    for ((side, _), app) in &world.apps {
        // Each end notices by its own question, when it first sends: the answer waits for both.
        let bound = PATIENCE * if *side == 1 { 1 } else { 2 } + LINE.rtt() * 2;
        assert!(app.last_read - before <= bound, "side {side}: {:?}", app.last_read - before);
    }
}

#[test]
fn one_stream_fills_a_long_fat_link() {
    let mut world = world();
    // 1 Gbit/s over 60 ms.
    world.connect(Line { delay: 30 * MS, rate: 125_000, buffer: 1 << 20, cost: 0 });
    let stream = world.open(0, (Plan::bulk(1 << 40), Plan::bulk(0))).unwrap();
    world.run(S, |_| false);
    let before = world.apps[&(1, stream)].read;
    world.run(400 * MS, |_| false);
    let read = world.apps[&(1, stream)].read - before;
    assert!(read >= 9 * 5_000_000, "{read} bytes in 400 ms");
}

#[test]
fn everything_moves_to_a_cheaper_carrier_and_the_old_one_runs_empty() {
    let mut world = world();
    let old = world.connect(Line { cost: 5, delay: 30 * MS, ..LINE });
    let bulk = world.open(0, (Plan::bulk(60_000_000), Plan::bulk(0))).unwrap();
    let typing = Plan { write_size: 10, write_pause: 100 * MS, ..Plan::bulk(400) };
    world.open(1, (typing.clone(), typing));
    // Idle: it has written and read, and waits.
    let late = Plan { write_pause: 20 * S, write_size: 10, ..Plan::bulk(20) };
    world.open(0, (late.clone(), late));
    world.run(2 * S, |_| false);
    let new = world.connect(Line { cost: 0, ..LINE });
    let empty = |world: &World, pipe: usize| {
        world.sessions.iter().all(|session| {
            let carrier =
                session.view().carriers.into_iter().find(|c| c.id == CarrierId(pipe as u64)).unwrap();
            (carrier.sending, carrier.receiving) == (0, 0)
        })
    };
    assert!(!empty(&world, old));
    assert!(world.run(S, |world| empty(world, old)), "the old one carries nothing after a second");
    assert!(
        world.apps[&(1, bulk)].longest_silence <= 130 * MS,
        "{:?}",
        world.apps[&(1, bulk)].longest_silence
    );
    world.happen_now(Happening::Down { pipe: old, side: 0 });
    assert!(world.run(60 * S, World::idle), "with {new} alone");
    assert!(world.apps.values().all(|app| app.end == Some(End::Finished)));
}

#[test]
fn four_thousand_streams_move_in_one_flight() {
    let mut world = world();
    let first = world.connect(Line { cost: 0, ..LINE });
    world.connect(LINE);
    let waits = Plan { write_pause: 3 * S, write_size: 10, ..Plan::bulk(20) };
    for _ in 0..4096 {
        world.open(0, (waits.clone(), waits.clone())).unwrap();
    }
    assert!(world.open(0, (waits.clone(), waits)).is_none());
    assert_eq!(world.refused, [OpenRefused::Full]);
    world.run(S, |_| false);
    world.happen_now(Happening::Down { pipe: first, side: 1 });
    assert!(world.run(30 * S, World::idle));
    assert!(world.apps.values().all(|app| app.end == Some(End::Finished)));
}

#[test]
fn streams_wait_a_bounded_time_for_a_carrier() {
    for (pause, end) in [(14, End::Finished), (16, End::Told(ResetReason::NoPath))] {
        let mut world = world();
        world.open(0, (Plan::bulk(10), Plan::bulk(10)));
        world.run(pause * S, |_| false);
        world.connect(LINE);
        assert!(world.run(S, World::idle));
        assert_eq!(world.apps[&(0, StreamId(0))].end, Some(end), "after {pause} s");
    }
}

#[test]
fn nothing_is_opened_when_one_side_is_going_away() {
    let mut world = world();
    world.connect(LINE);
    let stream = world.open(1, (Plan::bulk(100_000), Plan::bulk(10))).unwrap();
    let now = world.now;
    world.sessions[0].go_away(now);
    world.pump();
    assert!(world.run(10 * S, World::idle));
    assert_eq!(world.apps[&(0, stream)].end, Some(End::Finished), "what is open goes on");
    for side in 0..2 {
        assert_eq!(world.sessions[side].open(world.now), Err(OpenRefused::GoingAway));
    }
}

#[test]
fn datagrams_keep_their_boundaries_and_the_oldest_makes_room() {
    let mut world = world();
    let now = world.now;
    let too_long = Bytes::from(vec![0; 65_508]);
    assert!(!world.sessions[0].send_datagram(1, too_long, now));
    let sent = |n: usize| (n as u64 % 3, Bytes::from(vec![n as u8; n]));
    for n in 0..MAX_QUEUED_DATAGRAMS + 44 {
        let (channel, payload) = sent(n);
        assert!(world.sessions[0].send_datagram(channel, payload, now));
    }
    world.connect(LINE);
    world.run(S, |_| false);
    for n in 44..MAX_QUEUED_DATAGRAMS + 44 {
        assert_eq!(world.sessions[1].poll_datagram(), Some(sent(n)));
    }
    assert_eq!(world.sessions[1].poll_datagram(), None);
    assert_eq!(world.sessions[0].view().datagrams_dropped, (44, 0));
}
