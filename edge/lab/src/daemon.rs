//! The two processes behind a running laboratory. The keeper stays in the user's PID namespace and only waits; the daemon
//! is the first process of the laboratory's own, so that whatever ends it ends every process of the laboratory, and
//! with the processes go the namespaces.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgemesh_net::netns::{self, Isolation};
use serde::{Deserialize, Serialize};

use crate::control::{self, Door, NodeState, PodState, ProcessState, Reply, Request, Status};
use crate::plan::{NodePlan, Plan};
use crate::site::Site;
use crate::state::StateFolder;
use crate::topology::{Host, Topology};

/// How often the daemon looks for processes that ended while nobody asks it anything.
const REAP: Duration = Duration::from_millis(100);
/// How long a killed process may take to end: SIGKILL acts when the process next leaves the kernel.
const KILL: Duration = Duration::from_secs(5);
/// What stands in a site file for the programs that come with the laboratory.
const WORKLOAD: &str = "edgemesh-workload";
const EDGEMESH: &str = "edgemesh";
/// The tunnel's port, where agents find the relays.
const TUNNEL_PORT: u16 = 20006;

/// What the daemon is told to build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The site file's text.
    pub site: String,
    /// Where it comes from, for messages.
    pub place: String,
    /// Whether agents run.
    pub agents: bool,
    /// The EdgeMesh binary.
    pub edgemesh: PathBuf,
    /// The workload binary.
    pub workload: PathBuf,
}

impl Order {
    /// The program a word of a site file stands for.
    pub(crate) fn program(&self, word: &str) -> String {
        match word {
            WORKLOAD => self.workload.display().to_string(),
            EDGEMESH => self.edgemesh.display().to_string(),
            other => other.to_owned(),
        }
    }
}

/// Runs the keeper: starts the daemon and ends with it.
pub(crate) fn keep(folder: &StateFolder) -> io::Result<i32> {
    let _held = folder.hold()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab", "daemon"]).arg(folder.path()).stdin(Stdio::piped());
    let mut daemon = Isolation::new().die_with_parent().apply(&mut command).spawn()?;
    std::fs::write(folder.daemon_pid(), daemon.id().to_string())?;
    let mut stdin =
        daemon.stdin.take().ok_or_else(|| io::Error::other("the daemon has no standard input"))?;
    stdin.write_all(b"go\n")?;
    // The pipe stays open as long as this process lives: its end tells the daemon.
    let status = daemon.wait()?;
    drop(stdin);
    Ok(status.code().unwrap_or(1))
}

/// Runs the daemon until it is told to end.
pub(crate) fn run(folder: &StateFolder) -> io::Result<()> {
    follow_keeper()?;
    netns::make_mounts_private()?;
    // Where the host's /proc is partly hidden (in some containers) a new one is forbidden; the old one works too, it
    // only shows the host's processes.
    drop(netns::mount_proc());
    let order: Order = serde_json::from_slice(&std::fs::read(folder.order())?)?;
    let site = Site::parse(&order.site, &order.place).map_err(io::Error::other)?;
    let plan = Plan::new(&site).map_err(io::Error::other)?;
    let topology = Topology::build(&plan, site.seed, &folder.hosts())?;
    let listener = UnixListener::bind(folder.control())?;
    let mut daemon = Daemon { folder, plan, topology, processes: BTreeMap::new() };
    daemon.prepare(&order)?;
    for process in daemon.processes.values_mut() {
        process.start()?;
    }
    announce("ready")?;
    daemon.serve(&listener)
}

/// Tells the command that started the laboratory how it went.
pub(crate) fn announce(word: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}

/// Waits for the keeper's word, and from then on ends when the keeper ends.
fn follow_keeper() -> io::Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let watch = || {
        while io::stdin().lock().read_line(&mut String::new()).is_ok_and(|length| length > 0) {}
        std::process::exit(1);
    };
    std::thread::Builder::new().name("keeper".into()).spawn(watch)?;
    Ok(())
}

struct Process {
    name: String,
    host: Host,
    argv: Vec<String>,
    log: PathBuf,
    pid: Option<u32>,
    ended: Option<String>,
}

impl Process {
    fn start(&mut self) -> io::Result<()> {
        let Some((program, args)) = self.argv.split_first() else { return Ok(()) };
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program);
        command.args(args).env("POD_NAME", &self.name);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let isolation = Isolation::new()
            .enter(self.host.mount.clone())
            .enter(self.host.net.clone())
            .new_session()
            .die_with_parent();
        let child = isolation
            .apply(&mut command)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        self.pid = Some(child.id());
        self.ended = None;
        Ok(())
    }

    fn state(&self) -> ProcessState {
        match (&self.pid, &self.ended) {
            (Some(_), _) => ProcessState::Running,
            (None, Some(how)) => ProcessState::Ended(how.clone()),
            (None, None) => ProcessState::Absent,
        }
    }
}

struct Daemon<'a> {
    folder: &'a StateFolder,
    plan: Plan,
    topology: Topology,
    /// By node name (the agent) or pod name.
    processes: BTreeMap<String, Process>,
}

impl Daemon<'_> {
    /// Decides what runs where.
    fn prepare(&mut self, order: &Order) -> io::Result<()> {
        for node in &self.plan.nodes {
            let mut argv = Vec::new();
            if order.agents {
                std::fs::create_dir_all(self.folder.node(&node.name))?;
                argv = agent(self.folder, &self.plan, node, order.program(EDGEMESH));
            }
            let pods = node.pods.iter().map(|pod| {
                let words = pod.spec.run.iter().enumerate();
                let argv = words.map(|(n, word)| if n == 0 { order.program(word) } else { word.clone() });
                (pod.spec.name.clone(), argv.collect())
            });
            for (name, argv) in pods.chain([(node.name.clone(), argv)]) {
                let host = self.topology.host(&name).cloned();
                let host = host.ok_or_else(|| io::Error::other(format!("{name} was not built")))?;
                let log = self.folder.log(&name);
                let process = Process { name: name.clone(), host, argv, log, pid: None, ended: None };
                self.processes.insert(name, process);
            }
        }
        Ok(())
    }

    fn serve(&mut self, listener: &UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        loop {
            self.reap();
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(control::PATIENCE))?;
                    stream.set_write_timeout(Some(control::PATIENCE))?;
                    match self.answer(stream) {
                        Ok(true) => return Ok(()),
                        Ok(false) => {}
                        Err(error) => tracing::debug!(%error, "control connection failed"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(listener),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers one connection; `true` when the laboratory ends.
    fn answer(&mut self, mut stream: UnixStream) -> io::Result<bool> {
        let request: Request = control::receive(&stream)?;
        let reply = match &request {
            Request::Status => Reply::Status(self.status()),
            Request::Enter(name) => self.door(name),
            Request::Cut(target) => self.set_cut(target, true),
            Request::Heal(target) => self.set_cut(target, false),
            Request::Kill(name) => self.change(name, Self::kill),
            Request::Start(name) => self.change(name, Self::start),
            Request::Down => Reply::Done(Vec::new()),
        };
        control::send(&mut stream, &reply)?;
        Ok(matches!(request, Request::Down))
    }

    fn status(&self) -> Status {
        let state = |name: &str| self.processes.get(name).map_or(ProcessState::Absent, Process::state);
        let nodes = self.plan.nodes.iter().map(|node| NodeState {
            name: node.name.clone(),
            lan: self.plan.zone(node).into(),
            addresses: node.addresses.hosts().into(),
            agent: state(&node.name),
            admin: self.folder.admin(&node.name),
            pods: (node.pods.iter())
                .map(|pod| PodState {
                    name: pod.spec.name.clone(),
                    addresses: pod.addresses.hosts().into(),
                    process: state(&pod.spec.name),
                })
                .collect(),
        });
        Status { folder: self.folder.path().into(), nodes: nodes.collect(), links: self.topology.links() }
    }

    fn door(&self, name: &str) -> Reply {
        match self.topology.host(name) {
            Some(host) => Reply::Door(Door { net: host.net.fd_number(), mount: host.mount.fd_number() }),
            None => Reply::Refused(format!("there is no node or pod {name:?}")),
        }
    }

    fn set_cut(&mut self, target: &str, cut: bool) -> Reply {
        match self.topology.set_cut(target, cut) {
            Ok(touched) if touched.is_empty() => {
                let names: Vec<_> = self.topology.links().into_iter().map(|link| link.name).collect();
                Reply::Refused(format!("there is no link {target:?}: cloud, {}", names.join(", ")))
            }
            Ok(touched) => Reply::Done(touched),
            Err(error) => Reply::Refused(error.to_string()),
        }
    }

    fn change(&mut self, name: &str, change: fn(&mut Self, &str) -> io::Result<()>) -> Reply {
        if self.processes.get(name).is_none_or(|process| process.argv.is_empty()) {
            return Reply::Refused(format!("nothing runs in a node or pod {name:?}"));
        }
        match change(self, name) {
            Ok(()) => Reply::Done(vec![name.into()]),
            Err(error) => Reply::Refused(error.to_string()),
        }
    }

    fn kill(&mut self, name: &str) -> io::Result<()> {
        let pid = |daemon: &Self| daemon.processes.get(name).and_then(|process| process.pid);
        if let Some(pid) = pid(self) {
            netns::kill(pid, libc::SIGKILL)?;
        }
        let deadline = Instant::now() + KILL;
        while pid(self).is_some() {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{name} does not end")));
            }
            std::thread::yield_now();
            self.reap();
        }
        Ok(())
    }

    fn start(&mut self, name: &str) -> io::Result<()> {
        match self.processes.get_mut(name) {
            Some(process) if process.pid.is_none() => process.start(),
            _ => Ok(()),
        }
    }

    fn reap(&mut self) {
        while let Some(exit) = netns::reap() {
            let process = self.processes.iter_mut().find(|(_, process)| process.pid == Some(exit.pid));
            if let Some((name, process)) = process {
                let how = match (exit.status.code(), exit.status.signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, signal) => format!("signal {}", signal.unwrap_or_default()),
                };
                tracing::info!(name, how, "process ended");
                process.pid = None;
                process.ended = Some(how);
            }
        }
    }
}

/// The command line of an agent.
fn agent(folder: &StateFolder, plan: &Plan, node: &NodePlan, program: String) -> Vec<String> {
    let path = |path: PathBuf| path.display().to_string();
    let mut argv = vec![program, "agent".into()];
    let mut flag = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    flag("--node-name", node.name.clone());
    flag("--manifests", path(folder.manifests()));
    flag("--state-dir", path(folder.node(&node.name)));
    flag("--psk-file", path(folder.psk()));
    flag("--admin-socket", path(folder.admin(&node.name)));
    for relay in plan.nodes.iter().filter(|other| other.spec.relay && other.name != node.name) {
        flag("--relay", format!("{}:{TUNNEL_PORT}", relay.addresses.v4.addr()));
    }
    if node.spec.relay {
        flag("--role", "relay".into());
    }
    argv
}

/// Waits until somebody connects, or it is time to look for ended processes.
fn wait_for(listener: &UnixListener) {
    if netns::wait_readable(listener, REAP).is_err() {
        std::thread::sleep(REAP);
    }
}
