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
         other; healed when the sessions flow. roam_: the client's node has another address from one moment to the next",
    );
    report.note(
        "counts",
        "stuck: events after which not every session flowed again within 15 s; late: after which the relay, or the direct path, \
         was not in use again within 15 s of its return; wrong: sessions whose bytes were not those sent",
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
}

/// What an event left.
#[derive(Default)]
struct Outcome {
    stuck: bool,
    late: bool,
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
        Ok(Self { load, agents, stage, _server: server })
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
        let broken_before = self.load.broken();
        self.reset();
        thread::sleep(BEFORE);
        samples.add(format!("{prefix}silence_ms_before"), ms(self.load.echo.silence()));
        let began = Instant::now();
        let (mut silences, mut stuck, mut late, mut times) = (Vec::new(), 0.0, 0.0, 0);
        let mut bulk: [Duration; 2] = [Duration::ZERO; 2];
        while times < limit.times && began.elapsed() < limit.within {
            self.reset();
            let outcome = event(self)?;
            // Whoever is back early must not disturb either.
            let settled = self.flows(FLOWS_AGAIN);
            times += 1;
            stuck += f64::from(u8::from(outcome.stuck || !settled));
            late += f64::from(u8::from(outcome.late));
            silences.push(ms(self.load.echo.silence()));
            for (longest, account) in bulk.iter_mut().zip([&self.load.upload, &self.load.download]) {
                *longest = (*longest).max(account.silence());
            }
        }
        samples.add(format!("{prefix}events"), times as f64);
        samples.add(format!("{prefix}silence_ms_max"), silences.iter().copied().fold(0.0, f64::max));
        samples.percentiles(&format!("{prefix}silence_ms"), "", silences);
        samples.add(format!("{prefix}sessions_broken"), (self.load.broken() - broken_before) as f64);
        for account in self.load.accounts() {
            samples.add(format!("{prefix}broken_{}", account.name), account.broken() as f64);
        }
        let wrong = self.load.accounts().map(|account| account.wrong.load(Ordering::Relaxed));
        samples.add(format!("{prefix}sessions_wrong"), wrong.iter().sum::<u64>() as f64);
        let whole = self.load.download.whole.load(Ordering::Relaxed);
        samples.add(format!("{prefix}downloads_whole"), whole as f64);
        for (name, longest) in ["upload", "download"].into_iter().zip(bulk) {
            samples.add(format!("{prefix}silence_ms_max_{name}"), ms(longest));
        }
        samples.add(format!("{prefix}stuck"), stuck);
        samples.add(format!("{prefix}late"), late);
        Ok(())
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
        let relay = self.relay_in_use()?;
        // The comparison took time in which nothing has happened yet.
        self.reset();
        self.agents.relays[relay].kill();
        let stuck = !self.flows(FLOWS_AGAIN);
        self.agents.relays[relay].restart()?;
        let late = !self.shown(|status, _| relays_up(status));
        Ok(Outcome { stuck, late })
    }

    /// The relay that moves more bytes. A status names the way of new streams, which need not be that of the old ones.
    fn relay_in_use(&self) -> Result<usize> {
        let moved = || self.agents.relays.iter().map(Agent::bytes_moved).collect::<Result<Vec<u64>>>();
        let before = moved()?;
        thread::sleep(COMPARE);
        let after = moved()?;
        let carried = after.iter().zip(&before).map(|(after, before)| after - before);
        carried.enumerate().max_by_key(|(_, bytes)| *bytes).map(|(relay, _)| relay).context("no relay")
    }

    fn cut(&mut self) -> Result<Outcome> {
        self.stage.cut(None)?;
        let stuck = !self.flows(FLOWS_AGAIN);
        self.stage.heal()?;
        let late = !self.shown(is_direct);
        Ok(Outcome { stuck, late })
    }

    fn roam(&mut self) -> Result<Outcome> {
        self.stage.roam()?;
        let stuck = !self.flows(FLOWS_AGAIN);
        let late = !self.shown(is_direct);
        Ok(Outcome { stuck, late })
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
