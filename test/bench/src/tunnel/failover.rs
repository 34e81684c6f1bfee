//! What sessions see when what carries them goes away: the relay in use is killed, the direct path is cut, the node's
//! address changes.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::agents::{A, Agent, Agents, B, Process, VIP, path, relays_up};
use super::load::Load;
use super::stage::{Ground, Stage};
use super::{PATH_COMES, PORT};
use crate::alone::{self, LOOK};
use crate::frame::Report;
use crate::inside::Samples;

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "failover";

/// How often each thing happens, and within which time: together they leave a run below five minutes.
const KILLS: Limit = Limit { times: 50, within: Duration::from_secs(170) };
const CUTS: Limit = Limit { times: 10, within: Duration::from_secs(50) };
const ROAMS: Limit = Limit { times: 10, within: Duration::from_secs(40) };

/// How long sessions are waited for after something happened, and how long what was there before: past either the bench
/// goes on and counts.
const FLOWS_AGAIN: Duration = Duration::from_secs(15);
const BACK_AGAIN: Duration = Duration::from_secs(15);

/// Sessions flow when each made progress in so many looks one after the other, so far apart: what lay in buffers is
/// used up by then.
const LOOKS: usize = 5;
const APART: Duration = Duration::from_millis(100);

/// For how long the sessions are watched before anything happens: what silence the load alone makes.
const BEFORE: Duration = Duration::from_secs(3);

/// For how long relays are compared by what they carry.
const COMPARE: Duration = Duration::from_millis(150);

/// A relay that moves less in this time carries no session: its reservations and records are a few kilobytes, a transfer
/// is megabytes.
const IDLE_RELAY: u64 = 200_000;

#[derive(Clone, Copy)]
struct Limit {
    times: usize,
    within: Duration,
}

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "sessions",
        "client pod, VIP, agent, agent, server pod: an echo of a byte every 10 ms, an upload without end, downloads of 1 GB. \
         Every byte's place is checked at the other end. A session is broken when it ends before its time or makes no \
         progress for 10 s; it comes again at once",
    );
    report.note(
        "silence",
        "longest time between two answers of the echo from one event to the next; _before: without any event, for what the load \
         itself costs",
    );
    report.note(
        "events",
        "kill -9 of the relay that carries the bytes (of two, the one whose interface moves more), both nodes behind routers that \
         no hole can be punched through; started again when the sessions flow. cut_: the hub swallows what the nodes send each \
         other; healed when the sessions flow. roam_: the client's node has another address from one moment to the next. Before each of \
         these two the sessions begin anew, for they may have stayed on a relay",
    );
    report.note(
        "counts",
        "stuck: events after which not every session flowed again within 15 s; late: after which the relay, or the direct path, \
         was not there again within 15 s of its return; missed: before which the sessions were not on what was ended, and which \
         no silence counts; wrong: sessions whose bytes were not those sent",
    );
    Ok(())
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    {
        let ground = Ground { nat: true, two_relays: true, ..Ground::default() };
        let mut scene = Scene::start(ground, "relayed")?;
        scene.events(samples, "", KILLS, Scene::kill_relay)?;
    }
    let ground = Ground { two_relays: true, ..Ground::default() };
    let mut scene = Scene::start(ground, "direct")?;
    scene.events(samples, "cut_", CUTS, Scene::cut)?;
    drop(scene);
    let mut scene = Scene::start(ground, "direct")?;
    scene.events(samples, "roam_", ROAMS, Scene::roam)
}

struct Scene {
    // Ends first: sessions end before what carries them.
    load: Load,
    agents: Agents,
    stage: Stage,
    _server: Process,
    /// Of sessions that were ended to begin anew.
    ended: Totals,
}

/// What became of all sessions.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    broken: [u64; 3],
    wrong: u64,
    whole: u64,
}

impl Totals {
    fn add(&mut self, load: &Load) {
        for (sum, account) in self.broken.iter_mut().zip(load.accounts()) {
            *sum += account.broken();
            self.wrong += account.wrong.load(Ordering::Relaxed);
            self.whole += account.whole.load(Ordering::Relaxed);
        }
    }
}

/// What an event left.
#[derive(Default)]
struct Outcome {
    stuck: bool,
    late: bool,
    /// The sessions were not where something happened.
    missed: bool,
}

impl Scene {
    fn start(ground: Ground, wanted: &str) -> Result<Self> {
        let stage = Stage::new(ground)?;
        let server = Process::part(&stage.server, &["failover-server"])?;
        let agents = Agents::start(&stage, &[PORT])?;
        agents.until_path(wanted, PATH_COMES)?;
        for agent in [&agents.a, &agents.b] {
            agent.until("every relay is up", PATH_COMES, relays_up)?;
        }
        let load = Load::start(&stage.client, (VIP, PORT).into());
        Ok(Self { load, agents, stage, _server: server, ended: Totals::default() })
    }

    /// Has something happen again and again.
    fn events(
        &mut self,
        samples: &mut Samples,
        prefix: &str,
        limit: Limit,
        event: fn(&mut Self) -> Result<Outcome>,
    ) -> Result<()> {
        self.flows(PATH_COMES).then_some(()).context("sessions do not begin")?;
        self.reset();
        thread::sleep(BEFORE);
        samples.add(format!("{prefix}silence_ms_before"), ms(self.load.echo.silence()));
        let began = Instant::now();
        let (mut silences, mut counts, mut times) = (Vec::new(), [0.0; 3], 0);
        let mut bulk: [Duration; 2] = [Duration::ZERO; 2];
        while times < limit.times && began.elapsed() < limit.within {
            let Outcome { stuck, late, missed } = event(self)?;
            // Whoever is back early must not disturb either.
            let settled = self.flows(FLOWS_AGAIN);
            times += 1;
            for (count, yes) in counts.iter_mut().zip([stuck || !settled, late, missed]) {
                *count += f64::from(u8::from(yes));
            }
            if missed {
                continue;
            }
            silences.push(ms(self.load.echo.silence()));
            for (longest, account) in bulk.iter_mut().zip([&self.load.upload, &self.load.download]) {
                *longest = (*longest).max(account.silence());
            }
        }
        let mut totals = self.ended;
        totals.add(&self.load);
        samples.add(format!("{prefix}events"), times as f64);
        for (name, count) in ["stuck", "late", "missed"].into_iter().zip(counts) {
            samples.add(format!("{prefix}{name}"), count);
        }
        if !silences.is_empty() {
            samples.add(format!("{prefix}silence_ms_max"), silences.iter().copied().fold(0.0, f64::max));
        }
        samples.percentiles(&format!("{prefix}silence_ms"), "", silences);
        for (name, longest) in ["upload", "download"].into_iter().zip(bulk) {
            samples.add(format!("{prefix}silence_ms_max_{name}"), ms(longest));
        }
        samples.add(format!("{prefix}sessions_broken"), totals.broken.iter().sum::<u64>() as f64);
        for (account, broken) in self.load.accounts().iter().zip(totals.broken) {
            samples.add(format!("{prefix}broken_{}", account.name), broken as f64);
        }
        samples.add(format!("{prefix}sessions_wrong"), totals.wrong as f64);
        samples.add(format!("{prefix}downloads_whole"), totals.whole as f64);
        Ok(())
    }

    /// Has new sessions begin on the direct path; whether they are there, and not still on a relay.
    fn on_direct_path(&mut self) -> Result<bool> {
        if !self.shown(is_direct) {
            return Ok(false);
        }
        self.ended.add(&self.load);
        self.load = Load::start(&self.stage.client, (VIP, PORT).into());
        if !self.flows(FLOWS_AGAIN) {
            return Ok(false);
        }
        let carried = self.carried_by_relays()?;
        Ok(carried.iter().all(|bytes| *bytes < IDLE_RELAY))
    }

    fn reset(&self) {
        self.load.accounts().iter().for_each(|account| account.reset());
    }

    /// Waits until every session flows; whether that came about.
    fn flows(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut good = 0;
        let mut since = Instant::now();
        while good < LOOKS {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(APART);
            good =
                if self.load.accounts().iter().all(|account| account.last() > since) { good + 1 } else { 0 };
            since = Instant::now();
        }
        true
    }

    /// Ends the relay that carries the bytes, and starts it again when the sessions flow by the other.
    fn kill_relay(&mut self) -> Result<Outcome> {
        // A status names the way of new streams, which need not be that of the old ones.
        let carried = self.carried_by_relays()?;
        let most = carried.iter().enumerate().max_by_key(|(_, bytes)| **bytes);
        let (relay, bytes) = most.context("there is no relay")?;
        let missed = *bytes < IDLE_RELAY;
        self.reset();
        self.agents.relays[relay].kill();
        let stuck = !self.flows(FLOWS_AGAIN);
        self.agents.relays[relay].restart()?;
        let late = !self.shown(|status, _| relays_up(status));
        Ok(Outcome { stuck, late, missed })
    }

    /// Bytes that each relay moves within [`COMPARE`].
    fn carried_by_relays(&self) -> Result<Vec<u64>> {
        let moved = || self.agents.relays.iter().map(Agent::bytes_moved).collect::<Result<Vec<u64>>>();
        let before = moved()?;
        thread::sleep(COMPARE);
        Ok(moved()?.iter().zip(&before).map(|(after, before)| after - before).collect())
    }

    fn cut(&mut self) -> Result<Outcome> {
        let missed = !self.on_direct_path()?;
        self.reset();
        self.stage.cut(None)?;
        let stuck = !self.flows(FLOWS_AGAIN);
        self.stage.heal()?;
        let late = !self.shown(is_direct);
        Ok(Outcome { stuck, late, missed })
    }

    fn roam(&mut self) -> Result<Outcome> {
        let missed = !self.on_direct_path()?;
        self.reset();
        self.stage.roam()?;
        let stuck = !self.flows(FLOWS_AGAIN);
        let late = !self.shown(is_direct);
        Ok(Outcome { stuck, late, missed })
    }

    /// Waits until both agents show something of the other; whether that came about.
    fn shown(&self, holds: impl Fn(&Value, &str) -> bool) -> bool {
        let shows = |agent: &Agent, other| agent.status().is_ok_and(|status| holds(&status, other));
        let deadline = Instant::now() + BACK_AGAIN;
        loop {
            if shows(&self.agents.a, B) && shows(&self.agents.b, A) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
    }
}

fn is_direct(status: &Value, other: &str) -> bool {
    path(status, other) == Some("direct")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
