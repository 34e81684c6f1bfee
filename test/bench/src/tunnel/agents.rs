//! The agents of a stage, and the other programs in it.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netns::{Isolation, Namespace};
use serde_json::Value;
use tempfile::TempDir;

use super::stage::{SERVER_POD, Stage, counters_of};
use crate::alone::{LOOK, PATIENCE};
use crate::inside::is_applied;
use crate::lab::beside;

/// The word by which this program knows that it is another program of a stage.
pub(crate) const PART: &str = "tunnel-part";

/// The Service in front of the server's pod.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

/// The tunnel's port.
pub(crate) const TUNNEL: u16 = 20006;

/// The nodes.
pub(crate) const A: &str = "a";
pub(crate) const B: &str = "b";

/// A process of a stage; killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts another part of this program.
    pub(crate) fn part(place: &Arc<Namespace>, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(PART).args(words).stdin(Stdio::null()).stdout(Stdio::null());
        Self::start(place, &mut command)
    }

    fn start(place: &Arc<Namespace>, command: &mut Command) -> Result<Self> {
        let isolation = Isolation::new().enter(Arc::clone(place)).die_with_parent();
        Ok(Self(isolation.apply(command).spawn().context("a process of the stage")?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent that can be killed and started again with the key and the flags it had.
pub(crate) struct Agent {
    process: Option<Process>,
    place: Arc<Namespace>,
    folder: PathBuf,
    flags: Vec<String>,
}

impl Agent {
    /// Starts it; what outlives it lies in `folder`.
    pub(crate) fn start(place: &Arc<Namespace>, folder: PathBuf, flags: Vec<String>) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut agent = Self { process: None, place: Arc::clone(place), folder, flags };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it once more.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("agent.log"))?;
        let mut command = Command::new(beside("edgemesh")?);
        command.args(["agent", "--dns-listen", "off", "--metrics-listen", "off"]).args(&self.flags);
        command.arg("--state-dir").arg(self.folder.join("state")).arg("--admin-socket").arg(self.socket());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::start(&self.place, &mut command)?);
        Ok(())
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("the agent does not run")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&edgemesh_admin::fetch(&self.socket(), "/status")?)?)
    }

    /// Waits for a status.
    pub(crate) fn until(
        &self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            // The socket is not there at once.
            let status = self.status();
            match &status {
                Ok(status) if holds(status) => return Ok(status.clone()),
                _ if Instant::now() < deadline => thread::sleep(LOOK),
                _ => bail!("{what}: not within {} s; {status:?}\n{}", patience.as_secs(), self.log()),
            }
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("::access: ")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Bytes that its interfaces have received and sent.
    pub(crate) fn bytes_moved(&self) -> Result<u64> {
        let text = fs::read_to_string(counters_of(self.pid()?))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
        let fields: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // Received bytes are the first of eight fields, sent bytes the ninth.
        Ok(fields.first().context("no counters")? + fields.get(8).context("no counters")?)
    }
}

/// The path to a node that a status shows.
pub(crate) fn path<'s>(status: &'s Value, node: &str) -> Option<&'s str> {
    peer(status, node).and_then(|peer| peer["path"].as_str())
}

/// What a status shows of the peer of a node.
pub(crate) fn peer<'s>(status: &'s Value, node: &str) -> Option<&'s Value> {
    status["tunnel"]["peers"].as_array()?.iter().find(|peer| peer["node"] == node)
}

/// Whether every relay of a status can be used.
pub(crate) fn relays_up(status: &Value) -> bool {
    let relays = status["tunnel"]["relays"].as_array().map(Vec::as_slice).unwrap_or_default();
    !relays.is_empty() && relays.iter().all(|relay| relay["state"] == "up")
}

/// The agents of a stage.
pub(crate) struct Agents {
    pub(crate) a: Agent,
    pub(crate) b: Agent,
    pub(crate) relays: Vec<Agent>,
    _folder: TempDir,
}

impl Agents {
    /// Starts all of them; `ports` are those of the server that have a Service.
    pub(crate) fn start(stage: &Stage, ports: &[u16]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let psk = write_psk(root)?;
        fs::create_dir(root.join("manifests"))?;
        fs::write(root.join("manifests/server.yaml"), manifests(ports))?;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut relays = Vec::new();
        let mut node_flags = words(&["--psk-file", &psk, "--manifests"]);
        node_flags.push(root.join("manifests").display().to_string());
        for (number, (place, address)) in stage.relays.iter().enumerate() {
            let name = format!("relay{number}");
            let flags = words(&["--node-name", &name, "--role", "relay", "--psk-file", &psk]);
            relays.push(Agent::start(place, root.join(&name), flags)?);
            node_flags.extend(words(&["--relay", &format!("{address}:{TUNNEL}")]));
        }
        let node = |place, name: &str| {
            let flags = [words(&["--node-name", name]), node_flags.clone()].concat();
            Agent::start(place, root.join(name), flags)
        };
        let (a, b) = (node(&stage.a, A)?, node(&stage.b, B)?);
        let agents = Self { a, b, relays, _folder: folder };
        for agent in [&agents.a, &agents.b] {
            agent.until("the agent's rules", PATIENCE, |status| {
                status["metadata"]["stale"] == false && is_applied(status)
            })?;
        }
        Ok(agents)
    }

    /// Waits until both ends say that this is their path to the other.
    pub(crate) fn until_path(&self, wanted: &str, patience: Duration) -> Result<()> {
        for (agent, other) in [(&self.a, B), (&self.b, A)] {
            let is = |status: &Value| path(status, other) == Some(wanted);
            agent.until(&format!("the path to {other} is {wanted}"), patience, is)?;
        }
        Ok(())
    }

    /// Waits until no stream is open between the nodes.
    pub(crate) fn until_idle(&self) -> Result<()> {
        let idle = |status: &Value| peer(status, B).is_none_or(|peer| peer["streams_out"] == 0);
        self.a.until("no stream is open", PATIENCE, idle).map(drop)
    }
}

/// Makes a private network's key.
pub(crate) fn write_psk(folder: &Path) -> Result<String> {
    let mut key = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let path = folder.join("psk");
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(&path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(path.display().to_string())
}

fn manifests(ports: &[u16]) -> String {
    let objects = crate::kernel_path_stage::service_on("server", VIP, ports, &[SERVER_POD], B);
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}
