//! A laboratory for one test.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::api::{ApiServer, Http};
use crate::manifests::{TWO_NODES, services, site};
use crate::objects::Place;
use crate::process::{eventually, output, program, run};

/// A running site without agents; the test starts those it needs. It ends with the test, however that ends.
pub struct Lab {
    name: String,
    folder: PathBuf,
    guard: Child,
    _files: TempDir,
}

impl Lab {
    /// Starts a site; `manifests` are the files that agents read besides the Nodes and Pods of the site.
    pub fn up(test: &str, site: &str, manifests: &[(&str, &str)]) -> Self {
        // The laboratory sweeps folders of this prefix whose processes are gone.
        let name = format!("test-{test}-{}", std::process::id());
        let files = tempfile::tempdir().expect("a temporary folder");
        let folder = files.path().join("manifests");
        std::fs::create_dir(&folder).expect("a new folder");
        for (file, text) in manifests {
            std::fs::write(folder.join(file), text).expect("a new file");
        }
        let path = files.path().join("site.yaml");
        std::fs::write(&path, format!("manifests: {}\n{site}", folder.display())).expect("a new file");
        let guard = guard(&name);
        let mut up = lab(&name, "up");
        run(up.arg("--no-agents").arg(path));
        let status: Value = serde_json::from_str(&run(lab(&name, "status").arg("--json"))).expect("JSON");
        let folder = status["folder"].as_str().expect("the folder's path").into();
        Self { name, folder, guard, _files: files }
    }

    /// Starts [`TWO_NODES`] and waits until its servers listen.
    pub fn two_nodes(test: &str) -> Self {
        let lab = Self::up(test, &site(TWO_NODES), &[("services.yaml", &services())]);
        for server in ["s1", "s2"] {
            lab.until_listening(server, &[8080, 8081, 8085, 8443]);
        }
        for server in ["o1", "o2"] {
            lab.until_listening(server, &[9001, 9002]);
        }
        lab
    }

    /// A verb of `edgemesh lab` for this laboratory.
    pub fn ask(&self, words: &[&str]) -> String {
        run(lab(&self.name, words[0]).args(&words[1..]))
    }

    /// A command that runs in a node or pod.
    pub fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = lab(&self.name, "exec");
        command.args([host, "--"]).args(words);
        // What administrators have in their path, ordinary users lack.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    /// Runs a command in a node or pod to its end.
    pub fn output(&self, host: &str, words: &[&str]) -> Output {
        output(&mut self.command(host, words))
    }

    /// Runs a command that must succeed in a node or pod.
    pub fn exec(&self, host: &str, words: &[&str]) -> String {
        run(&mut self.command(host, words))
    }

    /// Runs a probe in a node or pod; it answers in JSON.
    pub fn probe(&self, host: &str, words: &[&str]) -> Value {
        let text = run(&mut self.probe_command(host, words));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    /// The word a probe has for what became of its connection or datagram.
    pub fn outcome(&self, host: &str, words: &[&str]) -> String {
        let answer = self.probe(host, words);
        answer["outcome"].as_str().unwrap_or_else(|| panic!("{words:?}: {answer}")).to_owned()
    }

    /// Runs `edgemesh-workload` in a node or pod; it answers in JSON.
    pub fn workload(&self, host: &str, words: &[&str]) -> Value {
        let workload = program("edgemesh-workload").display().to_string();
        let text = self.exec(host, &[&[workload.as_str()], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    fn probe_command(&self, host: &str, words: &[&str]) -> Command {
        let probe = program("edgemesh-e2e-probe").display().to_string();
        let mut command = self.command(host, &[&probe]);
        command.args(words);
        command
    }

    /// Starts a probe that serves, and waits until it says that it is ready.
    pub fn background(&self, host: &str, words: &[&str]) -> Background {
        let (background, said) = Background::start(&mut self.probe_command(host, words));
        assert_eq!(said, "ready", "{words:?} on {host}");
        background
    }

    /// Waits until something listens at these ports of a pod or node.
    pub fn until_listening(&self, host: &str, ports: &[u16]) {
        let script = "cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6";
        eventually(&format!("{host} listens at {ports:?}"), || {
            let sockets = self.exec(host, &["sh", "-c", script]);
            let listens = |port: &u16| {
                let local = format!(":{port:04X} ");
                // States of net/tcp_states.h: a TCP listener is 0A, an unconnected UDP socket 07.
                sockets
                    .lines()
                    .any(|line| line.contains(&local) && (line.contains(" 0A ") || line.contains(" 07 ")))
            };
            ports.iter().all(listens).then_some(())
        });
    }

    /// Starts the agent of a node; flags of the test come last and win.
    pub fn spawn_agent(&self, node: &str, flags: &[&str]) -> Agent {
        Agent::spawn(self, node, flags)
    }

    /// Starts the agent of a node and waits until it serves what its source says.
    pub fn agent(&self, node: &str, flags: &[&str]) -> Agent {
        let agent = Agent::spawn(self, node, flags);
        agent.until_ready();
        agent
    }

    /// Runs an agent that must refuse to start; returns its exit code and what it said.
    pub fn failing_agent(&self, node: &str, flags: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = output(&mut self.agent_command(node, flags));
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        (status.code().unwrap_or_else(|| panic!("{status}: {said}")), said)
    }

    pub(crate) fn agent_command(&self, node: &str, flags: &[&str]) -> Command {
        let text = |path: PathBuf| path.display().to_string();
        let state = self.state(node);
        std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
        let mut command = self.command(node, &[&text(program("edgemesh")), "agent", "--node-name", node]);
        // A relay that is given manifests is an ordinary node besides.
        if !flags.windows(2).any(|pair| pair == ["--role", "relay"]) {
            command.args(["--manifests", &text(self.manifests())]);
        }
        command.args(["--psk-file", &text(self.psk())]);
        command.args(["--admin-socket", &text(self.admin(node)), "--state-dir", &text(state)]);
        command.args(flags);
        command
    }

    /// The command of an agent as Go EdgeMesh's: its name, and a file with this text. In the text STATE, ADMIN and PSK
    /// stand for the node's own paths.
    pub fn agent_by_file(&self, node: &str, text: &str) -> Command {
        self.program_by_file("edgemesh-agent", node, text)
    }

    /// The same of a gateway, which is in the agent's place.
    pub fn gateway_by_file(&self, node: &str, text: &str) -> Command {
        self.program_by_file("edgemesh-gateway", node, text)
    }

    fn program_by_file(&self, name: &str, node: &str, text: &str) -> Command {
        let file = self.config_file(node);
        self.write_config(node, text);
        let link = self.link(name);
        let mut command = self.command(node, &[&link, "--config-file", &file.display().to_string()]);
        command.env("NODE_NAME", node).env("NAMESPACE", "kubeedge");
        // What a test machine that is a pod itself would add.
        for name in ["KUBERNETES_PORT", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
            command.env_remove(name);
        }
        command
    }

    /// Replaces the file of [`Lab::agent_by_file`] as editors do: in one step.
    pub fn write_config(&self, node: &str, text: &str) {
        let state = self.state(node);
        std::fs::create_dir_all(&state).expect("the laboratory's folder is ours");
        let text = text
            .replace("STATE", &state.display().to_string())
            .replace("ADMIN", &self.admin(node).display().to_string())
            .replace("PSK", &self.psk().display().to_string());
        let new = state.join("config.new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, self.config_file(node)))
            .expect("the node's folder is ours");
    }

    /// Where [`Lab::agent_by_file`] puts the file.
    pub fn config_file(&self, node: &str) -> PathBuf {
        self.state(node).join("edgemesh-agent.yaml")
    }

    /// The binary under another name, as images have it.
    pub fn link(&self, name: &str) -> String {
        let link = self.folder.join(name);
        match std::os::unix::fs::symlink(program("edgemesh"), &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{link:?}: {error}"),
            _ => link.display().to_string(),
        }
    }

    /// Starts an agent by a file, as [`Lab::agent_by_file`] says.
    pub fn spawn_by_file(&self, node: &str, text: &str) -> Agent {
        Agent::start(self, node, self.agent_by_file(node, text))
    }

    /// Starts an API server in a node; its port is 6443 in both families.
    pub fn api_server(&self, node: &str, flags: &[&str]) -> ApiServer<'_> {
        ApiServer::start(self, node, flags)
    }

    /// A client for HTTP in a node or pod.
    pub fn http(&self, host: &str) -> Http {
        Http::new(self, host)
    }

    /// The Nodes of the site, as an API server has them.
    pub fn node_objects(&self) -> Vec<Value> {
        self.site_objects().into_iter().filter(|object| object["kind"] == "Node").collect()
    }

    /// Where a pod is.
    pub fn place(&self, pod: &str) -> Place {
        let objects = self.site_objects();
        let is = |object: &&Value| object["kind"] == "Pod" && object["metadata"]["name"] == pod;
        let object = objects.iter().find(is).unwrap_or_else(|| panic!("there is no pod {pod}"));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let addresses = [0, 1].map(|family| text(&object["status"]["podIPs"][family]["ip"]));
        Place { pod: pod.to_owned(), node: text(&object["spec"]["nodeName"]), addresses }
    }

    fn site_objects(&self) -> Vec<Value> {
        let text = std::fs::read(self.manifests().join("edgemesh-lab.json")).expect("the site's objects");
        let mut list: Value = serde_json::from_slice(&text).expect("the laboratory wrote JSON");
        match list["items"].take() {
            Value::Array(items) => items,
            other => panic!("a List has items: {other}"),
        }
    }

    /// The folder that every agent reads.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// A copy of the manifests, for a test that spoils them.
    pub fn copy_of_manifests(&self, name: &str) -> PathBuf {
        let copy = self.folder.join(name);
        std::fs::create_dir(&copy).expect("a new folder");
        for entry in std::fs::read_dir(self.manifests()).expect("the manifests").flatten() {
            std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
        }
        copy
    }

    /// The private network's key.
    pub fn psk(&self) -> PathBuf {
        self.folder.join("psk")
    }

    /// The state folder of a node's agent.
    pub fn state(&self, node: &str) -> PathBuf {
        self.folder.join("nodes").join(node)
    }

    /// The admin socket of a node's agent.
    pub fn admin(&self, node: &str) -> PathBuf {
        self.state(node).join("admin.sock")
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

/// A probe that goes on until it is dropped.
pub struct Background {
    child: Child,
    pub(crate) said: BufReader<ChildStdout>,
    pub(crate) input: Option<ChildStdin>,
}

impl Background {
    /// Starts a program and waits for its first line, which it returns.
    pub(crate) fn start(command: &mut Command) -> (Self, String) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take();
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("the program's word");
        (Self { child, said, input }, line.trim().to_owned())
    }

    /// Waits for its end; returns what it said after it was ready.
    pub fn end(mut self) -> Value {
        drop(self.input.take());
        let status = eventually("the probe's end", || self.child.try_wait().expect("the child is ours"));
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("a pipe whose writer ended");
        assert!(status.success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lab(name: &str, verb: &str) -> Command {
    let mut command = Command::new(program("edgemesh"));
    command.args(["lab", verb, "--name", name]);
    command
}

/// A process that ends the laboratory when its standard input ends: with the test, also when that is killed.
fn guard(name: &str) -> Child {
    let script = "read -r _; exec \"$0\" lab down --name \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program("edgemesh")).arg(name);
    // Out of the terminal's reach, so that an interrupt ends the test and not the guard.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("a shell")
}
