//! A laboratory for one test, and the small programs that run inside it.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Names the program a copy of the test binary runs inside the laboratory.
const PROBE: &str = "EDGEMESH_LAB_PROBE";

/// The command line under test.
pub(crate) fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgemesh-lab"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A running laboratory without agents, ended with the test.
pub(crate) struct TestLab {
    pub(crate) name: String,
    _file: tempfile::NamedTempFile,
}

impl TestLab {
    pub(crate) fn up(test: &str, site: &str) -> Self {
        let name = format!("{test}-{}", std::process::id());
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), site).expect("site file");
        let path = file.path().display().to_string();
        run(lab(&["up", &path, "--no-agents", "--name", &name]));
        Self { name, _file: file }
    }

    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut args = words.to_vec();
        args.extend(["--name", &self.name]);
        run(lab(&args))
    }

    /// A command that runs a probe in a node or pod.
    pub(crate) fn probe(&self, host: &str, words: &str) -> Command {
        let own = std::env::current_exe().expect("own path").display().to_string();
        let mut command = lab(&["exec", "--name", &self.name, host, "--", &own]);
        command.args(["--exact", "probe", "--nocapture", "--test-threads=1"]).env(PROBE, words);
        command
    }

    /// Runs a probe to its end and returns what it said.
    pub(crate) fn ask_probe(&self, host: &str, words: &str) -> String {
        let output = run(self.probe(host, words));
        let said = output.lines().find_map(said).unwrap_or_else(|| panic!("{words}: {output}"));
        said.to_owned()
    }

    /// Starts a probe that serves, and waits until it says that it is ready.
    pub(crate) fn serve(&self, host: &str, words: &str) -> Server {
        let mut child = self.probe(host, words).stdout(Stdio::piped()).spawn().expect("probe");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| said(&line) == Some("ready"));
        assert!(ready, "{words} did not start on {host}");
        Server { child }
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).expect("status is JSON")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.status()["folder"].as_str().expect("folder").into()
    }

    /// The process that must die with everything, as the test sees it.
    pub(crate) fn daemon(&self) -> u32 {
        daemon_of(&self.folder())
    }
}

pub(crate) fn daemon_of(folder: &std::path::Path) -> u32 {
    let text = std::fs::read_to_string(folder.join("daemon.pid")).expect("daemon.pid");
    text.trim().parse().expect("a number")
}

impl Drop for TestLab {
    fn drop(&mut self) {
        drop(lab(&["down", "--name", &self.name]).output());
    }
}

pub(crate) struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

/// Polls a condition that has no event to wait for.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes in the same PID namespace as the link says.
pub(crate) fn processes_in(pid_namespace: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let inside =
        |path: &PathBuf| std::fs::read_link(path.join("ns/pid")).is_ok_and(|link| link == pid_namespace);
    entries.map(|entry| entry.path()).filter(inside).map(|path| path.display().to_string()).collect()
}

/// What runs inside the laboratory, when the environment asks for it.
pub(crate) fn run_probe() {
    let Ok(words) = std::env::var(PROBE) else { return };
    let words: Vec<&str> = words.split(' ').collect();
    match words[..] {
        ["reflect", ip] => reflect(ip),
        ["mapping", port, ref targets @ ..] => say(&mapping(port, targets)),
        ["filtering", target, other] => say(&filtering(target, other)),
        ["knock", target] => say(&knock(target)),
        ["rtt", target] => say(&rtt(target)),
        ["burst", target] => say(&burst(target)),
        _ => panic!("no such probe: {words:?}"),
    }
}

const PREFIX: &str = "PROBE ";

fn say(text: &str) {
    // Not print!: that is captured by the test runner.
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{PREFIX}{text}").and_then(|()| out.flush()).expect("standard output");
}

fn said(line: &str) -> Option<&str> {
    line.strip_prefix(PREFIX)
}

/// Ports of the reflector: two that answer, and one that only ever sends.
pub(crate) const REFLECTORS: [u16; 2] = [7000, 7001];
const STRANGER: u16 = 7002;

/// Tells everybody the address they are seen at; from the stranger's port first when asked for `stranger`, and to somebody
/// else first when asked for `to ADDRESS`.
fn reflect(ip: &str) {
    let ip: IpAddr = ip.parse().expect("address");
    let bind = |port| UdpSocket::bind((ip, port)).expect("bind");
    let stranger = bind(STRANGER);
    let threads = REFLECTORS.map(|port| {
        let (socket, stranger) = (bind(port), stranger.try_clone().expect("clone"));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                match &buffer[..length] {
                    b"stranger" => drop(stranger.send_to(b"from the stranger", from)),
                    b"who" => drop(socket.send_to(from.to_string().as_bytes(), from)),
                    [b't', b'o', b' ', address @ ..] => {
                        let address = std::str::from_utf8(address).expect("an address");
                        drop(socket.send_to(b"from elsewhere", address));
                        drop(socket.send_to(b"sent", from));
                    }
                    _ => drop(socket.send_to(&buffer[..length], from)),
                }
            }
        })
    });
    say("ready");
    for thread in threads {
        thread.join().expect("serves until it is killed");
    }
}

fn ask(socket: &UdpSocket, target: &str, question: &[u8]) -> Option<String> {
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.send_to(question, target).ok()?;
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The addresses one socket is seen at by each target.
fn mapping(port: &str, targets: &[&str]) -> String {
    let socket = UdpSocket::bind(("0.0.0.0", port.parse().expect("port"))).expect("bind");
    let seen = targets.iter().map(|target| ask(&socket, target, b"who").unwrap_or_else(|| "nothing".into()));
    seen.collect::<Vec<_>>().join(" ")
}

/// Whether packets come in from a port that was never sent to (`by-address`), and from an address that was never sent to
/// (`open`). Packets keep their order on the way, so the answer to a later question tells that a stranger's packet was
/// dropped.
fn filtering(target: &str, other: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let Some(outer) = ask(&socket, target, b"who") else { return "nothing".into() };
    socket.send_to(b"stranger", target).expect("send");
    if ask(&socket, target, b"who").as_deref() != Some("from the stranger") {
        return "filtered".into();
    }
    let messenger = UdpSocket::bind("0.0.0.0:0").expect("bind");
    assert_eq!(ask(&messenger, other, format!("to {outer}").as_bytes()).as_deref(), Some("sent"));
    socket.set_nonblocking(true).expect("an option");
    let mut buffer = [0; 2048];
    let mut waiting =
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
    if waiting.any(|packet| packet == b"from elsewhere") { "open".into() } else { "by-address".into() }
}

/// What becomes of a connection to a port nobody has: TCP and UDP.
fn knock(target: &str) -> String {
    // A drop is told from a refusal by silence; a refusal takes a few milliseconds here.
    let silence = Duration::from_millis(500);
    let address: SocketAddr = target.parse().expect("address");
    let tcp = match TcpStream::connect_timeout(&address, silence) {
        Ok(_) => "open",
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "refused",
        Err(_) => "dropped",
    };
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.connect(address).expect("connect");
    socket.set_read_timeout(Some(silence)).expect("timeout");
    socket.send(b"hello").expect("send");
    let udp = match socket.recv(&mut [0; 16]) {
        Ok(_) => "open",
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "refused",
        Err(_) => "dropped",
    };
    format!("{tcp} {udp}")
}

/// The fastest of three round trips in microseconds, or `nothing`.
fn rtt(target: &str) -> String {
    let local = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let one = |_| {
        let began = Instant::now();
        socket.send_to(b"echo", target).ok()?;
        socket.recv(&mut [0; 16]).ok()?;
        Some(began.elapsed())
    };
    let fastest = (0..3).filter_map(one).min();
    fastest.map_or_else(|| "nothing".into(), |time| time.as_micros().to_string())
}

/// Sends 50 datagrams of 1000 bytes at once; how many came back, and microseconds from the first to the last.
fn burst(target: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    for _ in 0..50 {
        socket.send_to(&[7; 1000], target).expect("send");
    }
    let mut times = Vec::new();
    while socket.recv(&mut [0; 2048]).is_ok() {
        times.push(Instant::now());
    }
    let spread = times.last().zip(times.first()).map_or(0, |(last, first)| (*last - *first).as_micros());
    format!("{} {spread}", times.len())
}
