//! A laboratory from the outside: started, asked, entered, ended.

use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_net::netns::{self, Forbidden, Isolation, Kind, Namespace};

use crate::control::{self, Door, NodeState, Reply, Request, Status};
use crate::daemon::Order;
use crate::manifests::{self, Manifest};
use crate::plan::Plan;
use crate::site::{Site, SiteError};
use crate::state::StateFolder;

/// The name of a laboratory that is given none.
pub(crate) const DEFAULT_NAME: &str = "lab";

/// How long the processes of a laboratory may take to be gone: they are killed, so this is the kernel's time to take
/// down namespaces, which it does one after the other.
const GONE: Duration = Duration::from_secs(20);

/// Why a laboratory does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The site file is wrong.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The host does not allow namespaces.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// There is no such laboratory.
    #[error("no laboratory {0:?} is running: `edgemesh lab up FILE` starts one")]
    NotRunning(String),
    /// There is one already.
    #[error("a laboratory {0:?} is running: `edgemesh lab down` ends it, --name starts another")]
    Running(String),
    /// It did not come up.
    #[error("the laboratory did not come up:\n{0}")]
    Start(String),
    /// It refused a request.
    #[error("{0}")]
    Refused(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The reason.
        error: io::Error,
    },
    /// Something that was asserted is not so.
    #[error("{0}")]
    Failed(String),
}

/// Adds what was tried to an error of the system.
pub(crate) trait Trying<T> {
    /// Names what was tried.
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T> Trying<T> for io::Result<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::System { what: what(), error })
    }
}

/// What a laboratory is built from.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    /// The site file's text.
    pub(crate) text: String,
    /// Where it comes from, for messages.
    pub(crate) place: String,
    /// Manifests that are added to the generated ones.
    pub(crate) manifests: Vec<Manifest>,
    /// Overrides the site's word on agents.
    pub(crate) agents: Option<bool>,
    /// The EdgeMesh binary; this program when absent.
    pub(crate) edgemesh: Option<PathBuf>,
    /// The workload binary; beside this program when absent.
    pub(crate) workload: Option<PathBuf>,
}

/// A laboratory.
pub(crate) struct Lab {
    name: String,
    folder: StateFolder,
    /// The keeper, when it is a child of this process and ends with it.
    keeper: Option<Child>,
    inside: bool,
}

impl Lab {
    /// The running laboratory of this name.
    pub(crate) fn attach(name: &str) -> Result<Self, LabError> {
        let folder = StateFolder::named(name);
        let lab = Self { name: name.into(), folder, keeper: None, inside: false };
        lab.status()?;
        Ok(lab)
    }

    /// Starts one; with `owned` it ends when this process does, however that ends.
    pub(crate) fn up(name: &str, blueprint: &Blueprint, owned: bool) -> Result<Self, LabError> {
        let folder = StateFolder::named(name);
        if control::ask(&folder.control(), &Request::Status).is_ok() {
            return Err(LabError::Running(name.into()));
        }
        let site = Site::parse(&blueprint.text, &blueprint.place)?;
        let plan = Plan::new(&site)?;
        folder.create().trying(|| format!("folder {}", folder.path().display()))?;
        // Held by the keeper too, until it ends.
        let _held = folder.hold().trying(|| format!("lock {}", folder.path().display()))?;
        let prepared = prepare(&folder, &site, &plan, blueprint);
        prepared.trying(|| format!("files in {}", folder.path().display()))?;
        let mut lab = Self { name: name.into(), folder, keeper: None, inside: false };
        lab.start(owned)?;
        Ok(lab)
    }

    fn start(&mut self, owned: bool) -> Result<(), LabError> {
        let log = self.folder.log("daemon");
        let errors = std::fs::File::create(&log).trying(|| format!("log {}", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["lab", "keeper"]).arg(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut isolation =
            Isolation::new().fresh(&[Kind::Net, Kind::Mount, Kind::Pid]).fresh_user_if_needed().new_session();
        if owned {
            isolation = isolation.die_with_parent();
        }
        let mut keeper = isolation.apply(&mut command).spawn().map_err(|error| {
            drop(self.folder.remove());
            Forbidden::diagnose(error)
        })?;
        let mut word = String::new();
        if let Some(out) = keeper.stdout.take() {
            BufReader::new(out).read_line(&mut word).trying(|| "the daemon's word".into())?;
        }
        if word.trim() == "ready" {
            self.keeper = owned.then_some(keeper);
            return Ok(());
        }
        drop(keeper.wait());
        let why = std::fs::read_to_string(&log).unwrap_or_default();
        drop(self.folder.remove());
        Err(LabError::Start(why.trim().into()))
    }

    /// The folder of logs and sockets.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the agent of a node listens for `edgemesh status`.
    pub(crate) fn admin(&self, node: &str) -> PathBuf {
        self.folder.admin(node)
    }

    /// What there is.
    pub(crate) fn status(&self) -> Result<Status, LabError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            _ => Err(LabError::Refused("the daemon gave another answer".into())),
        }
    }

    /// Asks for something whose answer is a list of names.
    pub(crate) fn change(&self, request: &Request) -> Result<Vec<String>, LabError> {
        match self.ask(request)? {
            Reply::Done(names) => Ok(names),
            _ => Err(LabError::Refused("the daemon gave another answer".into())),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, LabError> {
        match control::ask(&self.folder.control(), request) {
            Ok(Reply::Refused(why)) => Err(LabError::Refused(why)),
            Ok(reply) => Ok(reply),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Err(LabError::NotRunning(self.name.clone()))
            }
            Err(error) => Err(LabError::System { what: format!("laboratory {:?}", self.name), error }),
        }
    }

    /// Moves this process into the laboratory's user namespace, and its future children into the laboratory's PID
    /// namespace, so that they end with it. The process must have one thread, and may make no more afterwards.
    pub(crate) fn step_inside(&mut self) -> Result<(), LabError> {
        if self.inside {
            return Ok(());
        }
        let enter = || -> io::Result<()> {
            let own = std::fs::read_link("/proc/self/ns/user")?;
            let daemon = self.daemon()?;
            if std::fs::read_link(daemon.join("ns/user"))? != own {
                // Both are opened first: from the inner user namespace the outer /proc shows less.
                let pid = Namespace::open(Kind::Pid, daemon.join("ns/pid"))?;
                Namespace::open(Kind::User, daemon.join("ns/user"))?.enter()?;
                return pid.enter();
            }
            Namespace::open(Kind::Pid, daemon.join("ns/pid"))?.enter()
        };
        enter().trying(|| format!("enter laboratory {:?}", self.name))?;
        self.inside = true;
        Ok(())
    }

    /// A command that runs in a node or pod. Its process ends with this one. Needs `step_inside`.
    pub(crate) fn command(&self, host: &str, argv: &[String]) -> Result<Command, LabError> {
        let Reply::Door(Door { net, mount }) = self.ask(&Request::Enter(host.into()))? else {
            return Err(LabError::Refused("the daemon gave another answer".into()));
        };
        let Some((program, args)) = argv.split_first() else {
            return Err(LabError::Usage("a command is missing".into()));
        };
        let open = |kind, number: i32| Namespace::open(kind, self.daemon()?.join(format!("fd/{number}")));
        let mount = open(Kind::Mount, mount).trying(|| format!("mounts of {host}"))?;
        let net = open(Kind::Net, net).trying(|| format!("network of {host}"))?;
        let mut command = Command::new(program);
        command.args(args);
        // The directory may not exist in the host's view; the mount namespace starts at its root anyway.
        Isolation::new().enter(Arc::new(mount)).enter(Arc::new(net)).die_with_parent().apply(&mut command);
        Ok(command)
    }

    /// The command with the laboratory's own programs in place of their names.
    pub(crate) fn resolve(&self, argv: &[String]) -> Result<Vec<String>, LabError> {
        let order = self.order().trying(|| "what the laboratory was built from".into())?;
        let mut argv = argv.to_vec();
        if let Some(program) = argv.first_mut() {
            *program = order.program(program);
        }
        Ok(argv)
    }

    /// The path from the node of `from` (a node or pod) to node `to`, in the words of `edgemesh status`.
    pub(crate) fn path(&self, from: &str, to: &str) -> Result<String, LabError> {
        let status = self.status()?;
        let runs = |node: &&NodeState| node.name == from || node.pods.iter().any(|pod| pod.name == from);
        let node = status.nodes.iter().find(runs);
        let node = node.ok_or_else(|| LabError::Failed(format!("there is no node or pod {from:?}")))?;
        let seen = self.agent_status(&node.name)?;
        let mut peers =
            seen.pointer("/tunnel/peers").and_then(|peers| peers.as_array()).into_iter().flatten();
        let peer = peers.find(|peer| peer.get("node").is_some_and(|node| node == to));
        let path = peer.and_then(|peer| peer.get("path")).and_then(|path| path.as_str());
        Ok(path.unwrap_or("unknown").to_owned())
    }

    /// What `edgemesh status --json` says of the agent of a node.
    pub(crate) fn agent_status(&self, node: &str) -> Result<serde_json::Value, LabError> {
        let order = self.order().trying(|| "what the laboratory was built from".into())?;
        let mut command = Command::new(&order.edgemesh);
        command.args(["status", "--json", "--admin-socket"]).arg(self.admin(node)).stdin(Stdio::null());
        let output = output_until(&mut command, Instant::now() + control::PATIENCE)?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            LabError::Failed(format!("status of {node}: {error}: {} {}", text.trim(), said.trim()))
        })
    }

    fn order(&self) -> io::Result<Order> {
        Ok(serde_json::from_slice(&std::fs::read(self.folder.order())?)?)
    }

    fn daemon(&self) -> io::Result<PathBuf> {
        let pid = std::fs::read_to_string(self.folder.daemon_pid())?;
        Ok(Path::new("/proc").join(pid.trim()))
    }

    /// Ends the laboratory and waits until nothing of it is left; keeps the logs if asked.
    pub(crate) fn down(mut self, keep_logs: bool) -> Result<(), LabError> {
        self.change(&Request::Down)?;
        let daemon = self.daemon().trying(|| "the daemon's process".into())?;
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.wait());
        }
        let deadline = Instant::now() + GONE;
        while daemon.exists() {
            if Instant::now() > deadline {
                return Err(LabError::Failed(format!("{} does not end", daemon.display())));
            }
            // The process is another one's child: there is nothing to wait on but its place in /proc.
            std::thread::sleep(Duration::from_millis(2));
        }
        if keep_logs {
            return Ok(());
        }
        self.folder.remove().trying(|| format!("remove {}", self.folder.path().display()))
    }

    /// Removes the folder of a laboratory that was killed.
    pub(crate) fn clear(name: &str) -> Result<(), LabError> {
        let folder = StateFolder::named(name);
        folder.remove().trying(|| format!("remove {}", folder.path().display()))
    }
}

/// Runs a command to its end, or kills it when the time is over. Its output must fit a pipe (64 KiB each).
pub(crate) fn output_until(command: &mut Command, deadline: Instant) -> Result<Output, LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut run = || -> io::Result<Output> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdout = Vec::new();
        if let Some(mut out) = child.stdout.take() {
            let mut chunk = [0; 4096];
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if !netns::wait_readable(&out, left)? {
                    child.kill()?;
                    break;
                }
                match io::Read::read(&mut out, &mut chunk)? {
                    0 => break,
                    length => stdout.extend_from_slice(&chunk[..length]),
                }
            }
        }
        // The end of the output is the end of the process; at the deadline it is killed.
        let mut output = child.wait_with_output()?;
        output.stdout = stdout;
        Ok(output)
    };
    run().trying(|| name)
}

/// Writes what the daemon and the agents read.
fn prepare(folder: &StateFolder, site: &Site, plan: &Plan, blueprint: &Blueprint) -> io::Result<()> {
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("edgemesh-workload");
    let order = Order {
        site: blueprint.text.clone(),
        place: blueprint.place.clone(),
        agents: blueprint.agents.unwrap_or(site.agents),
        edgemesh: blueprint.edgemesh.clone().unwrap_or(own),
        workload: blueprint.workload.clone().unwrap_or(beside),
    };
    std::fs::write(folder.order(), serde_json::to_vec(&order)?)?;
    manifests::write(plan, &blueprint.manifests, &folder.manifests())?;
    let mut key = [0; 32];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    // The form of libp2p's swarm.key.
    let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{digits}\n");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.psk())?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Leaves interrupts to the command that runs in the foreground.
pub(crate) fn leave_interrupts_to_child() {
    netns::ignore_interrupts();
}
