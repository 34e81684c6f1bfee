//! CPU time on the way of a byte, a connection, a request.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cpu;
use crate::frame::Report;
use crate::lab::{Lab, serve_name};

/// Odd, so that the median is a sample. A request costs twice as much when the scheduler puts its ends on two CPUs as on
/// one, and it decides anew for each sample: five were too few. Seven take two minutes.
const ROUNDS: usize = 7;

/// Megabytes of one bulk sample: about a second of CPU time each, a hundred times the accounts' resolution.
const BULK_MB: [u32; 3] = [2000, 1000, 500];
/// Connections and requests of one sample: a third of a second and more, so that the client's start (5 ms) and the
/// accounts' resolution are each below two percent.
const CONNECTIONS: u32 = 3_000;
const REQUESTS: u32 = 15_000;

const HTTP: u16 = 8080;
const BANNER: u16 = 8081;
const TRANSFER: u16 = 8084;

/// The client's and the local server's node, and the node at the other end of the tunnel, in one LAN.
const NEAR: &str = "near";
const FAR: &str = "far";
const CLIENT: &str = "client";
const NEAR_SERVER: &str = "server-near";
const FAR_SERVER: &str = "server-far";

/// One way from the client to a server.
struct Arm {
    name: &'static str,
    address: &'static str,
    /// The processes on it, without the client.
    servers: Vec<u32>,
    agents: Vec<u32>,
    bulk_mb: u32,
}

/// CPU seconds that one sample took.
struct Spent {
    agents: f64,
    all: f64,
    said: Value,
}

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&site(), &services())?;
    let arms = arms(&lab)?;
    settle(&lab, &arms)?;
    for _ in 0..ROUNDS {
        for arm in &arms {
            bulk(report, &lab, arm)?;
        }
        for arm in &arms {
            connections(report, &lab, arm)?;
        }
        for arm in &arms {
            requests(report, &lab, arm)?;
        }
    }
    for figure in
        ["cpu_per_gb", "cpu_us_per_conn", "cpu_us_per_request", "latency_us_conn", "latency_us_request"]
    {
        for arm in &arms[1..] {
            report.compare(&format!("{figure}_{}", arm.name), &format!("{figure}_{}", arms[0].name));
        }
    }
    report.note(
        "accounts",
        "user and system time of client, server and agents; kernel work in soft interrupts counts \
        with whichever process it interrupts, and not at all in ksoftirqd",
    );
    report.note(
        "paths",
        "raw: pod to pod address over the node's bridge; proxy: pod, VIP, agent, pod of the same node; \
        tunnel: pod, VIP, agent, libp2p in the LAN, agent, pod of the other node",
    );
    report.note(
        "samples",
        &format!(
            "{ROUNDS} rounds of {BULK_MB:?} MB down, {CONNECTIONS} connections (the server speaks first, one line each \
             way), {REQUESTS} requests on one HTTP connection; 1 GB is 1000 MB"
        ),
    );
    Ok(())
}

impl Arm {
    fn target(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }
}

fn site() -> String {
    let server = |name: &str| {
        format!(
            "          - {{ name: {name}, labels: {{ app: {name} }}, run: [edgemesh-workload, serve, {}, \
             --http={HTTP}, --banner={BANNER}, --transfer={TRANSFER}] }}\n",
            serve_name(name)
        )
    };
    format!(
        "lans:\n  - name: lan\n    nodes:\n      - name: {NEAR}\n        pods:\n          - {{ name: {CLIENT} }}\n{}\
         \x20     - name: {FAR}\n        pods:\n{}",
        server(NEAR_SERVER),
        server(FAR_SERVER)
    )
}

const NEAR_VIP: &str = "10.96.0.11";
const FAR_VIP: &str = "10.96.0.12";
/// The first pod of a node is host 2 of its range, the server is the second.
const NEAR_POD: &str = "172.17.0.3";

fn services() -> String {
    let service = |name: &str, vip: &str| {
        let port = |port: u16| format!("    - {{ name: p{port}, port: {port} }}\n");
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {vip}\n  selector:\n    \
             app: {name}\n  ports:\n{}{}{}---\n",
            port(HTTP),
            port(BANNER),
            port(TRANSFER)
        )
    };
    service(NEAR_SERVER, NEAR_VIP) + &service(FAR_SERVER, FAR_VIP)
}

fn arms(lab: &Lab) -> Result<[Arm; 3]> {
    let (near, far) = (lab.server(NEAR_SERVER)?, lab.server(FAR_SERVER)?);
    let (near_agent, far_agent) = (lab.agent(NEAR)?, lab.agent(FAR)?);
    let [raw, proxy, tunnel] = BULK_MB;
    Ok([
        Arm { name: "raw", address: NEAR_POD, servers: vec![near], agents: Vec::new(), bulk_mb: raw },
        Arm {
            name: "proxy",
            address: NEAR_VIP,
            servers: vec![near],
            agents: vec![near_agent],
            bulk_mb: proxy,
        },
        Arm {
            name: "tunnel",
            address: FAR_VIP,
            servers: vec![far],
            agents: vec![near_agent, far_agent],
            bulk_mb: tunnel,
        },
    ])
}

/// Waits until every way works and the nodes have found each other, and warms it up.
fn settle(lab: &Lab, arms: &[Arm]) -> Result<()> {
    lab.wait("a LAN path between the nodes", || {
        let status = lab.agent_status(NEAR)?;
        let peers = status.pointer("/tunnel/peers").and_then(Value::as_array).context("no peers")?;
        Ok(peers.iter().any(|peer| peer["node"] == FAR && peer["path"] == "lan"))
    })?;
    for arm in arms {
        lab.wait(&format!("an answer by {}", arm.name), || {
            lab.client(CLIENT, &["http", &arm.target(HTTP), "--count", "100"])?;
            Ok(true)
        })?;
    }
    Ok(())
}

fn spend(lab: &Lab, arm: &Arm, words: &[&str]) -> Result<Spent> {
    let (servers, agents) = (cpu::seconds(&arm.servers)?, cpu::seconds(&arm.agents)?);
    let (said, client) = lab.client(CLIENT, words)?;
    let servers = cpu::seconds(&arm.servers)? - servers;
    let agents = cpu::seconds(&arm.agents)? - agents;
    Ok(Spent { agents, all: servers + agents + client, said })
}

/// Adds CPU time per unit, of all processes and of the agents alone.
fn add(report: &mut Report, arm: &Arm, figure: &str, spent: &Spent, scale: f64) {
    report.add(&format!("{figure}_{}", arm.name), spent.all * scale);
    if !arm.agents.is_empty() {
        report.add(&format!("agent_{figure}_{}", arm.name), spent.agents * scale);
    }
}

fn bulk(report: &mut Report, lab: &Lab, arm: &Arm) -> Result<()> {
    let megabytes = arm.bulk_mb.to_string();
    let words = ["down", &arm.target(TRANSFER), "--mb", &megabytes, "--timeout", "60000"];
    let spent = spend(lab, arm, &words)?;
    add(report, arm, "cpu_per_gb", &spent, 1e3 / f64::from(arm.bulk_mb));
    let mbit = spent.said["mbit_per_s"].as_f64().context("no rate")?;
    report.add(&format!("gbit_per_s_{}", arm.name), mbit / 1e3);
    Ok(())
}

fn connections(report: &mut Report, lab: &Lab, arm: &Arm) -> Result<()> {
    let words = ["banner", &arm.target(BANNER), "--count", &CONNECTIONS.to_string()];
    let spent = spend(lab, arm, &words)?;
    add(report, arm, "cpu_us_per_conn", &spent, 1e6 / f64::from(CONNECTIONS));
    latency(report, arm, "latency_us_conn", &spent)
}

fn requests(report: &mut Report, lab: &Lab, arm: &Arm) -> Result<()> {
    let words = ["http", &arm.target(HTTP), "--keep-alive", "--count", &REQUESTS.to_string()];
    let spent = spend(lab, arm, &words)?;
    add(report, arm, "cpu_us_per_request", &spent, 1e6 / f64::from(REQUESTS));
    latency(report, arm, "latency_us_request", &spent)
}

fn latency(report: &mut Report, arm: &Arm, figure: &str, spent: &Spent) -> Result<()> {
    let median = spent.said["latency_ms"]["median"].as_f64().context("no latency")?;
    report.add(&format!("{figure}_{}", arm.name), median * 1e3);
    Ok(())
}
