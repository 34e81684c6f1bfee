//! A laboratory of the bench's own: `edgemesh lab` from the outside, as a user runs it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::cpu;

/// The laboratory's name. There is one: two benches at once would measure each other.
const NAME: &str = "bench";

/// The word by which this program knows that it runs in a node.
pub(crate) const INSIDE: &str = "inside";

/// How long agents may take to serve, and to find each other: mDNS asks at start and answers within seconds; a loaded
/// machine takes a few times as long.
const READY: Duration = Duration::from_secs(30);

/// Between two looks at something that is coming about.
const POLL: Duration = Duration::from_millis(100);

/// A running laboratory; ends when it is dropped.
pub(crate) struct Lab {
    edgemesh: PathBuf,
    workload: PathBuf,
    /// Where the laboratory keeps its sockets.
    state: PathBuf,
    /// The site file and the manifests.
    files: TempDir,
    /// Locked as long as the laboratory is ours.
    _lock: File,
}

impl Lab {
    /// Starts the site. `manifests` is YAML that its agents read.
    pub(crate) fn up(site: &str, manifests: &str) -> Result<Self> {
        Self::start(site, manifests, &[])
    }

    /// Starts the site without agents.
    pub(crate) fn without_agents(site: &str) -> Result<Self> {
        Self::start(site, "", &["--no-agents"])
    }

    fn start(site: &str, manifests: &str, flags: &[&str]) -> Result<Self> {
        let (edgemesh, workload) = (beside("edgemesh")?, beside("edgemesh-workload")?);
        let lock = File::create(edgemesh.with_file_name("edgemesh-bench.lock"))?;
        if lock.try_lock().is_err() {
            bail!("another bench runs");
        }
        let files = tempfile::tempdir()?;
        fs::create_dir(files.path().join("manifests"))?;
        fs::write(files.path().join("manifests/services.yaml"), manifests)?;
        let site_file = files.path().join("site.yaml");
        fs::write(&site_file, format!("manifests: manifests\n{site}"))?;
        // Nobody holds the lock: what runs under the name was left by a bench that was killed.
        run(Command::new(&edgemesh).args(["lab", "down", "--name", NAME]))?;
        // From here on dropping it ends the laboratory.
        let mut lab = Self { edgemesh, workload, state: PathBuf::new(), files, _lock: lock };
        let words = [OsStr::new("up"), site_file.as_os_str()];
        lab.ask(words.into_iter().chain(flags.iter().map(OsStr::new)))?;
        let status: Value = serde_json::from_slice(&lab.ask(["status", "--json"])?.stdout)?;
        lab.state = status["folder"].as_str().context("the laboratory's status names no folder")?.into();
        Ok(lab)
    }

    fn ask<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<Output> {
        let mut command = Command::new(&self.edgemesh);
        run(command.arg("lab").args(words).args(["--name", NAME]))
    }

    /// Runs a client of the workload in a pod: what it says, and the CPU seconds of its process and of `lab exec`.
    pub(crate) fn client(&self, pod: &str, words: &[&str]) -> Result<(Value, f64)> {
        let mut command = Command::new(&self.edgemesh);
        command.args(["lab", "exec", "--name", NAME, pod, "--"]).arg(&self.workload).args(words);
        let before = cpu::children_seconds()?;
        let output = run(&mut command)?;
        let spent = cpu::children_seconds()? - before;
        Ok((serde_json::from_slice(&output.stdout)?, spent))
    }

    /// Runs a part of this program in a node or pod; it says what it measured.
    pub(crate) fn inside(&self, host: &str, part: &str) -> Result<Value> {
        let said = self.part(host, part)?.stderr(Stdio::inherit()).output()?;
        if !said.status.success() {
            bail!("{part} inside the laboratory: {}", said.status);
        }
        Ok(serde_json::from_slice(&said.stdout)?)
    }

    /// Starts a part of this program in a node or pod; it ends with the returned process.
    pub(crate) fn spawn(&self, host: &str, part: &str) -> Result<Child> {
        Ok(self.part(host, part)?.stdout(Stdio::null()).spawn()?)
    }

    fn part(&self, host: &str, part: &str) -> Result<Command> {
        let mut command = Command::new(&self.edgemesh);
        command.args(["lab", "exec", "--name", NAME, host, "--"]).arg(std::env::current_exe()?);
        command.args([INSIDE, part]).arg(self.state.join("psk")).stdin(Stdio::null());
        Ok(command)
    }

    /// Asks until the answer is yes.
    pub(crate) fn wait(&self, what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let seen = ready();
            match seen {
                Ok(true) => return Ok(()),
                Ok(false) | Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(false) => bail!("{what}: not within {} s", READY.as_secs()),
                Err(error) => return Err(error.context(format!("{what}: not within {} s", READY.as_secs()))),
            }
        }
    }

    /// What the agent of a node says of itself.
    pub(crate) fn agent_status(&self, node: &str) -> Result<Value> {
        let mut command = Command::new(&self.edgemesh);
        let output = run(command.args(["status", "--json", "--admin-socket"]).arg(self.admin(node)))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn admin(&self, node: &str) -> PathBuf {
        self.state.join("nodes").join(node).join("admin.sock")
    }

    /// The agent's process.
    pub(crate) fn agent(&self, node: &str) -> Result<u32> {
        let admin = self.admin(node);
        process(&["agent", &admin.display().to_string()])
    }

    /// Starts an agent in a node of a laboratory without agents; it ends with the returned process.
    pub(crate) fn start_agent(&self, node: &str, flags: &[String]) -> Result<Child> {
        let folder = self.state.join("nodes").join(node);
        fs::create_dir_all(&folder)?;
        let log = File::options().create(true).append(true).open(folder.join("agent.log"))?;
        let mut command = Command::new(&self.edgemesh);
        command.args(["lab", "exec", "--name", NAME, node, "--"]).arg(&self.edgemesh);
        command.args(["agent", "--node-name", node, "--psk-file"]).arg(self.state.join("psk"));
        command.arg("--state-dir").arg(&folder).arg("--admin-socket").arg(self.admin(node)).args(flags);
        Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// What the agent of a node says of itself, asked without a process in between.
    pub(crate) fn status_of(&self, node: &str) -> Result<Value> {
        Ok(serde_json::from_str(&edgemesh_admin::fetch(&self.admin(node), "/status")?)?)
    }

    /// The end of the log of [`Lab::start_agent`].
    pub(crate) fn agent_log(&self, node: &str) -> String {
        let log = self.state.join("nodes").join(node).join("agent.log");
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A folder of files for this bench; it goes with the laboratory.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// The process of a pod that serves under this name.
    pub(crate) fn server(&self, name: &str) -> Result<u32> {
        process(&["serve", &self.workload.display().to_string(), &serve_name(name)])
    }

    /// The agents' binary.
    pub(crate) fn edgemesh(&self) -> &Path {
        &self.edgemesh
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.ask(["down"]) {
            eprintln!("warning: the laboratory {NAME:?} stays: {error:#}");
        }
    }
}

/// The flag that names a server, and by which its process is found: pods of other laboratories have other names.
pub(crate) fn serve_name(name: &str) -> String {
    format!("--name={NAME}-{}-{name}", std::process::id())
}

/// A program that was built beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing; `cargo xtask bench` builds it", path.display());
    }
    Ok(path)
}

/// The one process on whose command line all these words stand.
pub(crate) fn process(words: &[&str]) -> Result<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Processes end while the folder is read.
        let Ok(line) = fs::read_to_string(format!("/proc/{pid}/cmdline")) else { continue };
        let line: Vec<&str> = line.split('\0').collect();
        if words.iter().all(|word| line.contains(word)) {
            found.push(pid);
        }
    }
    match found[..] {
        [pid] => Ok(pid),
        _ => bail!("{} processes have {words:?} on their command lines", found.len()),
    }
}

/// Runs a command to its end; an error holds what it said.
fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(output)
}
