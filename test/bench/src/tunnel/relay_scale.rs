//! What a relay costs that many nodes behind one address use.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netns::{Isolation, Namespace};

use super::agents::{Agent, PART as PROGRAM, TUNNEL, write_psk};
use super::crowd::{OPEN, OPENED, START};
use super::stage::{Ground, Stage};
use crate::alone;
use crate::cpu;
use crate::frame::Report;
use crate::inside::Samples;

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "relay-scale";

/// Nodes, all in one network namespace with one address.
const NODES: usize = 500;

/// Nodes that start together, and how long is waited until they have the relay. Every node verifies the record of every
/// other one: here they share the CPU that each has for itself elsewhere, and all at once would look dead to each other.
const BATCH: usize = 25;
const BATCH_UP: Duration = Duration::from_secs(20);

/// How long the last of them may take, and all of them when the relay came back.
const ALL_UP: Duration = Duration::from_secs(60);

/// What is promised for a relay that comes back.
const PROMISED: Duration = Duration::from_secs(1);

/// For how long the relay is watched while nothing happens: several of the pulses that keep connections alive.
const IDLE: Duration = Duration::from_secs(15);

/// How long nodes may take to notice that the relay was killed: its kernel tells them at once.
const NOTICED: Duration = Duration::from_secs(30);

/// How often is asked whether the relay that comes back listens.
const KNOCK: Duration = Duration::from_millis(1);

/// Lines of the crowd that wait to be read; one for each node at most, and a few.
const LINES: usize = 2 * NODES;

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "nodes",
        &format!(
            "{NODES} tunnel drivers in one process and behind one address, on the same machine as the relay, started {BATCH} at \
             a time: times hold the crowd's own work"
        ),
    );
    report.note(
        "figures",
        "reservations: nodes whose reservation stands; all_up_s: from the start of the first until then; relay_cpu_s_all_up: CPU \
         of the relay's process until then; relay_idle_cpu_percent: of one CPU, with every reservation; circuits: streams of \
         every other node to the next that carried a byte each way, all opened at one moment and held; relay_kib_per_node and \
         _per_circuit: growth of the relay's resident memory",
    );
    report.note(
        "restart",
        "kill -9 of the relay and a start: back_1s: nodes that have it again 1 s after it listens; back: within 60 s; back_ms: until \
         the last of these; the CPU of the relay and of the crowd meanwhile says which of them was waited for",
    );
    Ok(())
}

/// The nodes' process.
struct Crowd {
    process: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    /// How many nodes have the relay, and since when.
    up: (usize, Instant),
}

impl Crowd {
    fn start(place: &Arc<Namespace>, relay: &str, psk: &str, folder: PathBuf) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([PROGRAM, "crowd", relay, psk]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let isolation = Isolation::new().enter(Arc::clone(place)).die_with_parent();
        let mut process = isolation.apply(&mut command).spawn().context("the crowd")?;
        let input = process.stdin.take().context("its standard input")?;
        let output = BufReader::new(process.stdout.take().context("its standard output")?);
        let (said, lines) = mpsc::sync_channel(LINES);
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Ok(Self { process, input, lines, up: (0, Instant::now()) })
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.input, "{word}")?)
    }

    /// Takes the next line, if one comes in time.
    fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Ok(up) = line.parse() {
                    self.up = (up, Instant::now());
                }
                Ok(Some(line))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the crowd ended"),
        }
    }

    /// Waits until so many nodes have the relay, or until the time is over; how many have it, and since when.
    fn until_up(&mut self, wanted: usize, deadline: Instant) -> Result<(usize, Instant)> {
        while self.up.0 != wanted && self.line(deadline)?.is_some() {}
        Ok(self.up)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    let stage = Stage::new(Ground::default())?;
    let (place, address) = &stage.relays[0];
    let folder = tempfile::tempdir()?;
    let psk = write_psk(folder.path())?;
    let flags = ["--node-name", "relay", "--role", "relay", "--psk-file", &psk].map(str::to_owned);
    let mut relay = Agent::start(place, folder.path().join("relay"), flags.into())?;
    relay.until("the relay's status", alone::PATIENCE, |_| true)?;
    let resident = |relay: &Agent| -> Result<f64> { Ok(cpu::memory(relay.pid()?)?.resident) };
    let empty = resident(&relay)?;
    samples.add("relay_mib_empty", empty);

    let spent = cpu::precise_seconds(relay.pid()?)?;
    let began = Instant::now();
    let name = SocketAddr::from((*address, TUNNEL)).to_string();
    let mut crowd = Crowd::start(&stage.a, &name, &psk, folder.path().join("crowd"))?;
    let mut up = (0, began);
    for started in (BATCH..=NODES).step_by(BATCH) {
        crowd.say(&format!("{START}{BATCH}"))?;
        let patience = if started == NODES { ALL_UP } else { BATCH_UP };
        up = crowd.until_up(started, Instant::now() + patience)?;
    }
    samples.add("nodes", NODES as f64);
    samples.add("reservations", up.0 as f64);
    samples.add("all_up_s", (up.1 - began).as_secs_f64());
    samples.add("relay_cpu_s_all_up", cpu::precise_seconds(relay.pid()?)? - spent);
    let spent = cpu::precise_seconds(relay.pid()?)?;
    thread::sleep(IDLE);
    let percent = (cpu::precise_seconds(relay.pid()?)? - spent) / IDLE.as_secs_f64() * 100.0;
    samples.add("relay_idle_cpu_percent", percent);
    let full = resident(&relay)?;
    samples.add("relay_mib", full);
    samples.add("relay_kib_per_node", (full - empty) * 1024.0 / NODES as f64);

    circuits(samples, &relay, &mut crowd)?;
    samples.add("relay_mib_circuits", resident(&relay)?);

    relay.kill();
    if crowd.until_up(0, Instant::now() + NOTICED)?.0 > 0 {
        bail!("nodes do not notice that the relay is gone");
    }
    relay.restart()?;
    let crowd_spent = cpu::precise_seconds(crowd.process.id())?;
    let listens = stage.a.run(|| {
        let deadline = Instant::now() + alone::PATIENCE;
        while TcpStream::connect((*address, TUNNEL)).is_err() {
            if Instant::now() > deadline {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            thread::sleep(KNOCK);
        }
        Ok(Instant::now())
    });
    let listens = listens.context("the relay listens again")?;
    samples.add("back_1s", crowd.until_up(NODES, listens + PROMISED)?.0 as f64);
    let (back, last) = crowd.until_up(NODES, listens + ALL_UP)?;
    samples.add("back", back as f64);
    samples.add("back_ms", (last - listens).as_secs_f64() * 1e3);
    samples.add("back_relay_cpu_s", cpu::precise_seconds(relay.pid()?)?);
    samples.add("back_crowd_cpu_s", cpu::precise_seconds(crowd.process.id())? - crowd_spent);
    Ok(())
}

fn circuits(samples: &mut Samples, relay: &Agent, crowd: &mut Crowd) -> Result<()> {
    let (before, spent) = (cpu::memory(relay.pid()?)?.resident, cpu::precise_seconds(relay.pid()?)?);
    let began = Instant::now();
    crowd.say(OPEN)?;
    let deadline = Instant::now() + ALL_UP;
    let opened = loop {
        let line = crowd.line(deadline)?.context("no word of circuits")?;
        if let Some(count) = line.strip_prefix(OPENED) {
            break f64::from(count.parse::<u32>()?);
        }
    };
    samples.add("circuits_asked", (NODES / 2) as f64);
    samples.add("circuits", opened);
    samples.add("circuits_s", began.elapsed().as_secs_f64());
    samples.add("relay_cpu_s_circuits", cpu::precise_seconds(relay.pid()?)? - spent);
    if opened > 0.0 {
        let grown = cpu::memory(relay.pid()?)?.resident - before;
        samples.add("relay_kib_per_circuit", grown * 1024.0 / opened);
    }
    Ok(())
}
