//! A client, a node and a server, each in a network namespace, with a wire from one to the next.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::{Isolation, Namespace};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::alone::{LOOK, PATIENCE, loopback_up};
use crate::cpu;
use crate::inside::is_applied;
use crate::lab::beside;
use crate::scale::{pod, vip};

/// The server's address, and its ports: one sends as many bytes as it is asked for, the other answers each byte with one.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
pub(crate) const BULK: u16 = 7001;
pub(crate) const ECHO: u16 = 7002;

/// The Service that the kernel carries, and the one that the proxy carries.
pub(crate) const KERNEL_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const USER_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const NODE: &str = "node";

/// How many bytes the server writes at a time.
const CHUNK: usize = 256 << 10;

/// Services of one manifest file: far below what the agent reads of one.
const PER_FILE: usize = 1_000;

/// The three namespaces.
pub(crate) struct Stage {
    pub(crate) client: Namespace,
    pub(crate) node: Arc<Namespace>,
    pub(crate) server: Namespace,
    /// The accounts of the server's threads.
    accounts: Vec<PathBuf>,
}

impl Stage {
    /// Wires them. Nothing filters, translates or tracks yet.
    pub(crate) fn new() -> Result<Self> {
        let (client, node, server) = (Namespace::new_net()?, Namespace::new_net()?, Namespace::new_net()?);
        node.run(|| wire(&client, &server).map_err(io::Error::other))?;
        end(&client, CLIENT, Ipv4Addr::new(10, 1, 0, 1))?;
        end(&server, SERVER, Ipv4Addr::new(10, 244, 0, 1))?;
        Ok(Self { client, node: Arc::new(node), server, accounts: Vec::new() })
    }

    /// Starts so many threads of the server for each port.
    pub(crate) fn serve(&mut self, threads: usize) -> Result<()> {
        for (port, serve) in [(BULK, send as fn(TcpStream) -> io::Result<()>), (ECHO, echo)] {
            let listener = self.server.run(|| TcpListener::bind((SERVER, port)))?;
            for _ in 0..threads {
                let listener = listener.try_clone()?;
                let (told, account) = mpsc::sync_channel(1);
                thread::spawn(move || {
                    if told.send(own_account()).is_err() {
                        return;
                    }
                    // What becomes of one connection is seen by its client.
                    while let Ok((stream, _)) = listener.accept() {
                        let _ = serve(stream);
                    }
                });
                self.accounts.push(account.recv()??);
            }
        }
        Ok(())
    }

    /// CPU seconds of the server.
    pub(crate) fn server_seconds(&self) -> Result<f64> {
        self.accounts.iter().map(|account| account_seconds(account)).sum()
    }
}

fn wire(client: &Namespace, server: &Namespace) -> Result<()> {
    loopback_up()?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    let mut rt = Handle::open()?;
    for (name, peer, address) in [("client0", client, [10, 1, 0, 1]), ("pod0", server, [10, 244, 0, 1])] {
        rt.add_link(name, LinkKind::Veth(Peer { name: "eth0", netns: Some(peer.as_fd()) }))?;
        let link = rt.link(name)?.context("no veth")?.index;
        rt.set_up(link, true)?;
        rt.add_address(link, Prefix::new(Ipv4Addr::from(address), 24), false)?;
        if name == "pod0" {
            // Where the endpoints of the other Services would be.
            rt.add_route(&Route::on_link(Prefix::new(pod(0)?, 9), link))?;
        }
    }
    Ok(())
}

fn end(place: &Namespace, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    let set_up = || -> Result<()> {
        loopback_up()?;
        let mut rt = Handle::open()?;
        let link = rt.link("eth0")?.context("no eth0")?.index;
        rt.set_up(link, true)?;
        rt.add_address(link, Prefix::new(address, 24), false)?;
        let gateway = IpAddr::from(gateway);
        Ok(rt.add_route(&Route::via(Prefix::default_of(gateway), gateway))?)
    };
    Ok(place.run(|| set_up().map_err(io::Error::other))?)
}

/// Where the kernel keeps the account of the calling thread.
pub(crate) fn own_account() -> Result<PathBuf> {
    Ok(Path::new("/proc").join(fs::read_link("/proc/thread-self")?).join("schedstat"))
}

/// CPU seconds of one thread.
pub(crate) fn account_seconds(account: &Path) -> Result<f64> {
    let text = fs::read_to_string(account)?;
    let nanoseconds: f64 = text.split_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds * 1e-9)
}

/// Sends as many bytes as it is asked for, as often as it is asked.
fn send(mut stream: TcpStream) -> io::Result<()> {
    let content = vec![b'x'; CHUNK];
    let mut ask = [0; 8];
    loop {
        stream.read_exact(&mut ask)?;
        let mut left = usize::try_from(u64::from_be_bytes(ask)).unwrap_or(usize::MAX);
        while left > 0 {
            let length = left.min(CHUNK);
            stream.write_all(&content[..length])?;
            left -= length;
        }
    }
}

/// The byte with which a client takes its leave.
pub(crate) const LAST: u8 = b'.';

/// Answers each byte with one. After the last it ends the connection first, so that no port of the client waits it out.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0; 1];
    loop {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        if byte == [LAST] {
            return Ok(());
        }
    }
}

/// Connects; everything here answers within milliseconds.
pub(crate) fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&target, PATIENCE).with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// An agent on a node of a stage; killed when dropped.
pub(crate) struct Agent {
    process: Child,
    folder: TempDir,
    node: Arc<Namespace>,
}

impl Agent {
    /// Starts it with what is measured and so many Services beside, and waits until the kernel has the rules.
    pub(crate) fn start(node: &Arc<Namespace>, services: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests)?;
        write_manifests(&manifests, services)?;
        let process = spawn(node, folder.path())?;
        let mut agent = Self { process, folder, node: node.clone() };
        agent.until_current()?;
        Ok(agent)
    }

    /// Replaces a manifest file, as one who edits it does.
    pub(crate) fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        write_file(&self.folder.path().join("manifests"), name, objects)
    }

    /// Ends it without notice and starts it again.
    pub(crate) fn kill_and_start(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(&self.node, self.folder.path())?;
        Ok(())
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether sockets of the node connect to endpoints at once.
    pub(crate) fn connect_rewrite(&self) -> Result<bool> {
        let status = edgemesh_admin::fetch(&self.folder.path().join("agent.sock"), "/status")?;
        let status: Value = serde_json::from_str(&status)?;
        let words = status["kernel"]["connect_rewrite"].as_str().context("no word of connect_rewrite")?;
        Ok(words.starts_with("sockets of this host"))
    }

    /// Waits until the kernel has the rules of what the manifests say.
    pub(crate) fn until_current(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let socket = self.folder.path().join("agent.sock");
        loop {
            // The socket is not there at once.
            let status = edgemesh_admin::fetch(&socket, "/status").ok();
            let status: Option<Value> = status.and_then(|text| serde_json::from_str(&text).ok());
            let current = |it: &Value| it["metadata"]["stale"] == false && is_applied(it);
            if status.as_ref().is_some_and(current) {
                return Ok(());
            }
            if Instant::now() > deadline || self.process.try_wait()?.is_some() {
                let log = fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
                bail!("the agent is not ready; {status:?}\n{log}");
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(node: &Arc<Namespace>, folder: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join("agent.log"))?;
    let mut command = Command::new(beside("edgemesh")?);
    command.args(["agent", "--node-name", NODE, "--no-tunnel", "--dns-listen", "off", "--access-log", "off"]);
    command.args(["--metrics-listen", "off", "--manifests"]).arg(folder.join("manifests"));
    command.arg("--state-dir").arg(folder.join("state")).arg("--admin-socket").arg(folder.join("agent.sock"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Isolation::new().enter(node.clone()).die_with_parent().apply(&mut command).spawn().context("the agent")
}

/// A Service with the slice of its endpoints on the stage's node.
pub(crate) fn service(name: &str, vip: Ipv4Addr, ports: &[u16], endpoints: &[Ipv4Addr]) -> [Value; 2] {
    service_on(name, vip, ports, endpoints, NODE)
}

/// A Service with the slice of its endpoints on a node.
pub(crate) fn service_on(
    name: &str,
    vip: Ipv4Addr,
    ports: &[u16],
    endpoints: &[Ipv4Addr],
    node: &str,
) -> [Value; 2] {
    let named = |port: &u16| json!({ "name": format!("p{port}"), "port": port, "protocol": "TCP" });
    let ports: Vec<Value> = ports.iter().map(named).collect();
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|it| json!({ "addresses": [it], "nodeName": node, "conditions": { "ready": true } }))
        .collect();
    let labels = json!({ "kubernetes.io/service-name": name });
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
            "spec": { "clusterIP": vip, "ports": ports },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "namespace": "default", "labels": labels },
            "endpoints": endpoints, "ports": ports,
        }),
    ]
}

/// The policy that keeps a Service in user space whatever the kernel may carry.
pub(crate) fn by_source(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "host": name,
            "trafficPolicy": { "loadBalancer": { "consistentHash": { "useSourceIp": true } } },
        },
    })
}

fn write_manifests(folder: &Path, services: usize) -> Result<()> {
    let mut measured = Vec::new();
    measured.extend(service("kernel", KERNEL_VIP, &[BULK, ECHO], &[SERVER]));
    measured.extend(service("user", USER_VIP, &[BULK, ECHO], &[SERVER]));
    measured.push(by_source("user"));
    write_file(folder, "measured", &measured)?;
    let indices: Vec<usize> = (0..services).collect();
    for (number, chunk) in indices.chunks(PER_FILE).enumerate() {
        let mut objects = Vec::new();
        for index in chunk {
            objects.extend(service(&format!("s{index}"), vip(*index)?, &[80], &[pod(*index)?]));
        }
        write_file(folder, &format!("others-{number}"), &objects)?;
    }
    Ok(())
}

/// YAML documents in a file that is there as a whole or not at all.
fn write_file(folder: &Path, name: &str, objects: &[Value]) -> Result<()> {
    let mut text = String::new();
    for object in objects {
        text += &format!("---\n{object}\n");
    }
    let hidden = folder.join(format!(".{name}"));
    fs::write(&hidden, text)?;
    Ok(fs::rename(hidden, folder.join(format!("{name}.yaml")))?)
}

/// CPU seconds of an agent.
pub(crate) fn agent_seconds(agents: &[u32]) -> Result<f64> {
    agents.iter().map(|pid| cpu::precise_seconds(*pid)).sum()
}
