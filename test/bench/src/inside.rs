//! What runs in a node of the laboratory: an agent of the bench's own, and probes that see it as a client of the node does.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netlink::rt::{Handle, TABLE_MAIN};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Served;
use crate::dns::Dns;
use crate::lab::{beside, process};
use crate::{coldstart, cpu, metadata, user_path};

/// The node, and the pod on it that says its name to whoever connects.
pub(crate) const NODE: &str = "node";
pub(crate) const BANNER: u16 = 8081;
/// The first pod of a node is host 2 of its range.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// Between two tries of a probe. It is the resolution of every figure that waits for something; shorter, the probes would
/// take the agent's CPU time.
const PROBE: Duration = Duration::from_millis(1);

/// Connecting within a node takes less than a millisecond. A packet that meets rules without a listener is dropped, and
/// the kernel would send the next one after a second.
const CONNECT: Duration = Duration::from_millis(10);

/// The pod speaks at once; a loaded machine may take a few times as long.
const SPEAK: Duration = Duration::from_millis(200);

/// Everything that is waited for takes at most a few seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a status.
const LOOK: Duration = Duration::from_millis(20);

/// An address that nobody has (RFC 5737).
const NO_RELAY: &str = "192.0.2.1:20006";

/// Figures with their values, in the order in which they were measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Samples(Vec<(String, f64)>);

impl Samples {
    pub(crate) fn add(&mut self, figure: impl Into<String>, value: f64) {
        self.0.push((figure.into(), value));
    }

    /// Adds two percentiles.
    pub(crate) fn percentiles(&mut self, figure: &str, suffix: &str, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        for percent in [50, 99] {
            // The nearest rank.
            let rank = (times.len() * percent).div_ceil(100).max(1);
            if let Some(time) = times.get(rank - 1) {
                self.add(format!("{figure}_p{percent}{suffix}"), *time);
            }
        }
    }
}

/// The site of both benches.
pub(crate) fn site() -> String {
    format!(
        "lans:\n  - name: lan\n    nodes:\n      - name: {NODE}\n        pods:\n          - {{ name: server, run: \
         [edgemesh-workload, serve, {}, --banner={BANNER}] }}\n",
        crate::lab::serve_name("server")
    )
}

/// Runs one bench in the node.
pub(crate) fn run(part: &str, psk: &Path) -> Result<Value> {
    if let Some(said) = user_path::inside(part) {
        return said;
    }
    drop_default_routes()?;
    let mut samples = Samples::default();
    match part {
        "coldstart" => coldstart::inside(&mut samples, psk)?,
        "metadata" => metadata::inside(&mut samples, psk)?,
        other => bail!("there is no part {other:?}"),
    }
    Ok(json!(samples))
}

/// Leaves the node its LAN and nothing else.
fn drop_default_routes() -> Result<()> {
    let mut kernel = Handle::open()?;
    for route in kernel.routes(Some(TABLE_MAIN))?.into_iter().filter(|route| route.dst.len == 0) {
        kernel.delete_route(&route)?;
    }
    Ok(())
}

/// Where an agent keeps what outlives it.
#[derive(Debug)]
pub(crate) struct Home {
    folder: TempDir,
    psk: String,
    url: String,
}

impl Home {
    /// An empty one.
    pub(crate) fn new(psk: &Path, url: String) -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, psk: psk.display().to_string(), url })
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Result<Agent<'_>> {
        let state = self.folder.path().display().to_string();
        let admin = format!("{state}/admin.sock");
        let log = File::create(self.folder.path().join("agent.log"))?;
        let mut command = Command::new(beside("edgemesh")?);
        command.args(["agent", "--node-name", NODE, "--master", &self.url, "--state-dir", &state]);
        command.args(["--psk-file", &self.psk, "--admin-socket", &admin, "--relay", NO_RELAY]);
        command.args(["--access-log", "errors"]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        Ok(Agent { home: self, process: command.spawn()?, began })
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent<'h> {
    home: &'h Home,
    process: Child,
    /// When it was started.
    pub(crate) began: Instant,
}

impl Agent<'_> {
    fn admin(&self) -> String {
        format!("{}/admin.sock", self.home.folder.path().display())
    }

    /// The process as `/proc` shows it: the laboratory counts processes by itself.
    pub(crate) fn pid(&self) -> Result<u32> {
        process(&["agent", &self.admin()])
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&edgemesh_admin::fetch(self.admin().as_ref(), "/status")?)?)
    }

    /// Waits for a status; returns it.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            // The socket is not there at once.
            if let Ok(status) = self.status() {
                if holds(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
            thread::sleep(LOOK);
        }
        let last = last.map(|status| status.to_string()).unwrap_or_default();
        bail!("{what}: not within {} s; {last}\n{}", PATIENCE.as_secs(), self.home.log())
    }

    /// Waits until it follows its source and the kernel has the rules of so many Services.
    pub(crate) fn until_current(&self, services: usize) -> Result<Value> {
        self.until("current", |status| {
            status["metadata"]["services"] == services
                && status["metadata"]["stale"] == false
                && is_applied(status)
        })
    }

    /// Ends it: by SIGTERM, after which nothing of it is left in the kernel, or by SIGKILL.
    pub(crate) fn stop(mut self, signal: Signal) -> Result<()> {
        match signal {
            Signal::Term => {
                /// SIGTERM (signal(7)).
                const TERM: i32 = 15;
                edgemesh_net::netns::kill(self.process.id(), TERM)?;
            }
            Signal::Kill => self.process.kill()?,
        }
        self.process.wait().context("wait for the agent").map(drop)
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How an agent is ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Term,
    Kill,
}

/// Whether the kernel's rules are those of the newest generation.
pub(crate) fn is_applied(status: &Value) -> bool {
    let generation = &status["metadata"]["generation"];
    let mut loops = status["applied"].as_array().into_iter().flatten();
    loops.all(|applied| applied["generation"] == *generation && applied["error"].is_null())
}

/// When a Service's name had its address, and when a connection to it was answered by the pod.
pub(crate) struct Seen {
    pub(crate) resolved: Instant,
    pub(crate) connected: Instant,
}

/// Runs `begin` and tries the Service from that moment on, as two clients of the node do.
pub(crate) fn probe(service: &Served, begin: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let mut dns = Dns::open()?;
    let (name, vip) = (service.dns_name(), service.vip);
    let target = SocketAddr::from((vip, service.port));
    thread::scope(|scope| {
        let resolved = scope.spawn(move || until(&name, || dns.has(&name, vip)));
        let connected = scope.spawn(move || until(&target.to_string(), || connects(target)));
        begin()?;
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Instant>>| match thread.join() {
            Ok(seen) => seen,
            Err(_) => bail!("a probe died"),
        };
        Ok(Seen { resolved: join(resolved)?, connected: join(connected)? })
    })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", PATIENCE.as_secs());
        }
        thread::sleep(PROBE);
    }
}

/// Whether the pod speaks to whoever connects.
pub(crate) fn connects(target: SocketAddr) -> bool {
    let speak = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&target, CONNECT)?;
        stream.set_read_timeout(Some(SPEAK))?;
        stream.read(&mut [0; 64])
    };
    speak().is_ok_and(|length| length > 0)
}

/// The agent is settled when it runs for less than one tick of the accounts in so many windows in a row: longer than the
/// journal waits between two writes (5 s).
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 6;
const TICK: f64 = 0.010;

/// Waits until the agent has nothing left to do.
pub(crate) fn settle(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut idle = 0;
    while idle < WINDOWS {
        let before = cpu::precise_seconds(pid)?;
        thread::sleep(WINDOW);
        idle = if cpu::precise_seconds(pid)? - before < TICK { idle + 1 } else { 0 };
        if Instant::now() > deadline {
            bail!("the agent is not idle within {} s", PATIENCE.as_secs());
        }
    }
    Ok(())
}
