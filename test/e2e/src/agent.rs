//! An agent whose life the test decides.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use edgemesh_net::netns;
use serde_json::Value;

use crate::lab::Lab;
use crate::process::eventually;

/// Lines of an agent's log that a failing test shows: of its own words, and of its access lines.
const SHOWN: [usize; 2] = [60, 10];

/// A running agent; killed when dropped. An ERROR in its log fails the test.
pub struct Agent {
    node: String,
    /// `edgemesh lab exec`, whose only child is the agent.
    exec: Mutex<Child>,
    pid: u32,
    admin: PathBuf,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn spawn(lab: &Lab, node: &str, flags: &[&str]) -> Self {
        let mut agent = Self::start(lab, node, lab.agent_command(node, flags));
        if let Some(at) = flags.iter().position(|flag| *flag == "--admin-socket") {
            agent.admin = flags[at + 1].into();
        }
        agent
    }

    /// Starts an agent, or a gateway, by a command of the laboratory.
    pub fn start(lab: &Lab, node: &str, mut command: Command) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = lab.folder().join("logs").join(format!("agent-{number}-{node}.log"));
        let file = std::fs::File::create(&log).expect("a new log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second descriptor")).stderr(file);
        let exec = command.spawn().expect("edgemesh lab exec");
        let children = format!("/proc/{0}/task/{0}/children", exec.id());
        let exec = Mutex::new(exec);
        let mut agent = Self { node: node.to_owned(), exec, pid: 0, admin: lab.admin(node), log };
        agent.pid = eventually("the agent's process", || {
            agent.assert_runs();
            let text = std::fs::read_to_string(&children).ok()?;
            let pid: u32 = text.split_whitespace().next()?.parse().ok()?;
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            // Until it has become the agent it is a copy of its parent.
            let mut words = words.split(|byte| *byte == 0);
            let linked = words.next().is_some_and(|word| {
                word.ends_with(b"/edgemesh-agent") || word.ends_with(b"/edgemesh-gateway")
            });
            (linked || words.next().is_some_and(|word| word == b"agent")).then_some(pid)
        });
        agent
    }

    fn assert_runs(&self) {
        let ended = self.exec.lock().expect("not poisoned").try_wait().expect("the child is ours");
        assert!(ended.is_none(), "the agent of {} ended: {ended:?}", self.node);
    }

    /// The agent's process, as the test sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A page of the admin socket, once the agent answers there.
    pub fn page(&self, target: &str) -> String {
        eventually(target, || {
            self.assert_runs();
            edgemesh_admin::fetch(&self.admin, target).ok()
        })
    }

    /// What `edgemesh status --json` says.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.page("/status")).expect("the status is JSON")
    }

    /// Waits for a status; returns it.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&format!("{} of {}", what, self.node), || {
                last = self.status();
                holds(&last).then(|| last.clone())
            })
        }));
        seen.unwrap_or_else(|panic| {
            eprintln!("the last status of {}: {last:#}", self.node);
            std::panic::resume_unwind(panic)
        })
    }

    /// Waits until the agent serves what its source says, with the kernel's rules in place.
    pub fn until_ready(&self) {
        self.until("readiness", |status| status["metadata"]["stale"] == false && is_applied(status));
    }

    /// Waits until the kernel's rules are those of what the agent knows, from whatever source.
    pub fn until_applied(&self) -> Value {
        self.until("the rules", is_applied)
    }

    /// Waits until there is a path to another node.
    pub fn until_path(&self, to: &str) -> Value {
        self.until(&format!("a path to {to}"), |status| {
            let peers = status["tunnel"]["peers"].as_array();
            peers.into_iter().flatten().any(|peer| peer["node"] == to && peer["path"] != "unreachable")
        })
    }

    /// What `edgemesh explain --json` says.
    pub fn explain(&self, question: &str) -> Value {
        let target =
            format!("/explain?json={}", question.replace('/', "%2F").replace('[', "%5B").replace(']', "%5D"));
        serde_json::from_str(&self.page(&target)).expect("the explanation is JSON")
    }

    /// A figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.page("/metrics");
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        values.next().unwrap_or_else(|| panic!("no metric {name}:\n{text}"))
    }

    /// Lines of the log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines of the log hold all these words.
    pub fn logged(&self, words: &[&str]) -> usize {
        self.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        netns::kill(self.pid, libc::SIGKILL).expect("the agent runs");
        self.ended();
    }

    /// Tells it that its terminal is gone, or its file new, as administrators and old daemons do.
    pub fn hang_up(&self) {
        netns::kill(self.pid, libc::SIGHUP).expect("the agent runs");
    }

    /// Asks it to end, as an init system does.
    pub fn terminate(&mut self) -> ExitStatus {
        netns::kill(self.pid, libc::SIGTERM).expect("the agent runs");
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("the agent's end", || {
            self.exec.lock().expect("not poisoned").try_wait().expect("the child is ours")
        })
    }

    /// What the kernel says of the process.
    pub fn footprint(&self) -> Footprint {
        Footprint::of(self.pid)
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory that no file backs, in KiB.
    pub anon_kib: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let folder = Path::new("/proc").join(pid.to_string());
        let descriptors = std::fs::read_dir(folder.join("fd")).expect("the process runs").count();
        let status = std::fs::read_to_string(folder.join("status")).expect("the process runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of proc(5)");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        Self { descriptors, threads: field("Threads:"), anon_kib: field("RssAnon:") }
    }
}

/// What a status says an operator should look at, one line each.
pub fn alarms(status: &Value) -> String {
    let alarms = status["alarms"].as_array().into_iter().flatten();
    alarms.map(|alarm| alarm.as_str().unwrap_or_default().to_owned() + "\n").collect()
}

/// How a status says a kind of an API server is followed.
pub fn kind<'s>(status: &'s Value, kind: &str) -> &'s Value {
    let mut kinds = status["metadata"]["kinds"].as_array().into_iter().flatten();
    kinds.find(|line| line["kind"] == kind).unwrap_or(&Value::Null)
}

/// What a status says of objects that cannot be acted on.
pub fn findings(status: &Value) -> Vec<String> {
    let findings = status["metadata"]["findings"].as_array().into_iter().flatten();
    findings.map(|finding| finding.as_str().unwrap_or_default().to_owned()).collect()
}

fn is_applied(status: &Value) -> bool {
    let generation = &status["metadata"]["generation"];
    let applied = status["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    generation.as_u64() > Some(0)
        && applied.iter().all(|loop_| loop_["generation"] == *generation && loop_["error"].is_null())
}

impl Drop for Agent {
    fn drop(&mut self) {
        let exec = self.exec.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // `exec` ends after the agent it waits for. Without an agent it is killed itself.
        if exec.try_wait().is_ok_and(|ended| ended.is_none()) && netns::kill(self.pid, libc::SIGKILL).is_err()
        {
            drop(exec.kill());
        }
        drop(exec.wait());
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        if std::thread::panicking() {
            let (access, own): (Vec<&str>, Vec<&str>) =
                log.lines().partition(|line| line.contains("::access: "));
            eprintln!(
                "--- log of {}, the end of {} lines and {} access lines",
                self.node,
                own.len(),
                access.len()
            );
            for (lines, shown) in [own, access].iter().zip(SHOWN) {
                eprintln!("{}", lines[lines.len().saturating_sub(shown)..].join("\n"));
            }
            return;
        }
        let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.is_empty(), "errors in the log of {}: {errors:#?}", self.node);
    }
}
