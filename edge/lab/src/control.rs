//! What the command line asks of a running laboratory: one JSON line each way per connection.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topology::LinkState;

/// How long either side waits for the other. Every request is answered within milliseconds; this only ends what would
/// otherwise hang for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Longest line either side takes: a status of a thousand pods is about 300 KiB.
const LINE: u64 = 4 << 20;

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What there is.
    Status,
    /// How to enter a node or pod.
    Enter(String),
    /// Cut a link, a node's link, `lan:NAME` or `cloud`.
    Cut(String),
    /// Heal what `Cut` names.
    Heal(String),
    /// Kill the agent of a node or the process of a pod.
    Kill(String),
    /// Start it again.
    Start(String),
    /// End the laboratory.
    Down,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// To `Status`.
    Status(Status),
    /// To `Enter`.
    Door(Door),
    /// To the others: the names of what was touched.
    Done(Vec<String>),
    /// What was asked cannot be done.
    Refused(String),
}

/// What there is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The folder of logs and sockets.
    pub folder: PathBuf,
    /// Nodes.
    pub nodes: Vec<NodeState>,
    /// Links that can be cut.
    pub links: Vec<LinkState>,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// Its name.
    pub name: String,
    /// The LAN it is in, or `cloud`.
    pub lan: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its agent.
    pub agent: ProcessState,
    /// The admin interface of its agent.
    pub admin: PathBuf,
    /// Its pods.
    pub pods: Vec<PodState>,
}

/// A pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodState {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its process.
    pub process: ProcessState,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProcessState {
    /// There is none by design.
    Absent,
    /// It runs.
    Running,
    /// It ended, as the text says.
    Ended(String),
}

/// How to enter a node or pod: numbers under `/proc/DAEMON/fd`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Door {
    /// Its network namespace.
    pub net: i32,
    /// Its mount namespace.
    pub mount: i32,
}

/// Asks the laboratory that listens at `socket`.
pub(crate) fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send(&mut stream, request)?;
    receive(&stream)
}

/// Sends one line.
pub(crate) fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Receives one line.
pub(crate) fn receive<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    let mut reader = BufReader::new(io::Read::take(stream, LINE));
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(io::Error::from)
}
