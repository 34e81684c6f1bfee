//! The tunnel: what its bytes, connections and requests cost on a direct path and through a relay, beside raw TCP and two
//! plain proxies one behind the other; and what one stream carries over a long link.

mod agents;
mod crowd;
pub(crate) mod failover;
mod load;
mod long_link;
pub(crate) mod relay_scale;
mod stage;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netns::Namespace;
use serde_json::Value;

pub(crate) use agents::{PART as PROGRAM, path};

use agents::{Agents, Process, VIP};
use stage::{BRIDGE, Ground, NODE_B, ROUTED_SERVER, SERVER_POD, Stage};

use crate::alone::{self, LOOK, PATIENCE};
use crate::bare::{self, Ask, Way};
use crate::cpu;
use crate::frame::Report;
use crate::inside::Samples;
use crate::kernel_path_stage::{account_seconds, agent_seconds, own_account};
use crate::user_path::{ask, clients, connect, one, request};

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "tunnel";

/// Ratios are medians of ratios within a round. Odd, so that each is a sample; as many as two minutes hold.
const ROUNDS: usize = 5;

/// Bytes of one sample, all streams together: raw TCP, the plain proxies, and the tunnel. A third of a second of CPU time
/// and more each, by accounts to the nanosecond.
const BULK_BYTES: [u64; 3] = [1_000_000_000, 500_000_000, 250_000_000];
const STREAMS: [u64; 2] = [1, 8];

/// Connections of one sample, by so many clients at a time, and the answer to each.
const CONNECTIONS: u64 = 1_600;
const CLIENTS: u64 = 8;
const ANSWER: u64 = 512;

/// Requests on one connection.
const REQUESTS: usize = 2_000;

/// Streams that are opened at the same moment, and those that are opened one after the other by some clients.
const AT_ONCE: u64 = 64;
const MANY: u64 = 10_000;
const MANY_CLIENTS: u64 = 16;

/// How long memory is given to come back. Allocators return pages within seconds or not at all.
const MEMORY_SETTLES: Duration = Duration::from_secs(10);

/// A node finds the other by the relay within seconds; one that restarts tries a relay every two.
const PATH_COMES: Duration = Duration::from_secs(60);

const PORT: u16 = 8090;

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "accounts",
        "by the scheduler (/proc/PID/task/*/schedstat). raw: threads of the client and the server's process; hop: both proxies; \
         direct: both agents; relayed: both agents and the relay. What the kernel does in soft interrupts counts with whichever \
         thread is interrupted",
    );
    report.note(
        "paths",
        "client pod, node, hub, node, server pod, each in a namespace of its own. raw: routed from pod to pod; hop: two bare \
         proxies (tokio, copies of 64 KiB), one on each node; direct: VIP, agent, agent; relayed: the same by the agent of a relay, \
         while the hub drops what the nodes send each other",
    );
    report.note(
        "ratios",
        "direct_cpu_ratio, relayed_cpu_ratio, hop_cpu_ratio: CPU per GB to raw TCP's own, 1 and 8 streams together; \
         conn_rate_ratio: new connections per second, direct to hop; medians of the ratios within each round",
    );
    report.note("long link", long_link::NOTE);
    // Namespaces have the machine's, and may not choose what it does not allow.
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    report.note("congestion control", control.context("tcp_congestion_control")?.trim());
    report.note(
        "samples",
        &format!(
            "{ROUNDS} rounds of {BULK_BYTES:?} bytes down (raw, hop, tunnel) by {STREAMS:?} streams, {CONNECTIONS} connections by \
             {CLIENTS} clients, {REQUESTS} requests on one connection; once {AT_ONCE} streams opened at one moment and {MANY} by \
             {MANY_CLIENTS} clients"
        ),
    );
    Ok(())
}

/// Another program of a stage: the server, or a plain proxy.
pub(crate) fn program(words: &[&str]) -> Result<Value> {
    match words {
        ["server"] => bare::server(PORT)?,
        ["crowd", relay, psk, folder] => crowd::run(relay, psk.as_ref(), folder.as_ref())?,
        ["failover-server"] => load::server(PORT)?,
        ["proxy", backend] => bare::proxy(Way::Copy, backend.parse().context("a backend")?)?,
        other => bail!("there is no program {other:?}"),
    }
    Ok(Value::Null)
}

/// A stage on which everything runs.
struct Running {
    stage: Stage,
    agents: Agents,
    server: Process,
    /// The plain proxies.
    hops: Vec<Process>,
}

impl Running {
    fn start(ground: Ground) -> Result<Self> {
        let stage = Stage::new(ground)?;
        let server = Process::part(&stage.server, &["server"])?;
        let backends = [(&stage.a, (NODE_B, Way::Copy.port())), (&stage.b, (SERVER_POD, PORT))];
        let hops = backends
            .map(|(place, backend)| Process::part(place, &["proxy", &SocketAddr::from(backend).to_string()]));
        let hops = hops.into_iter().collect::<Result<Vec<_>>>()?;
        let agents = Agents::start(&stage, &[PORT])?;
        Ok(Self { stage, agents, server, hops })
    }

    fn arm(&self, name: &'static str) -> Result<Arm> {
        let [raw, hop, tunnel] = BULK_BYTES;
        let [a, b] = [self.agents.a.pid()?, self.agents.b.pid()?];
        let relay = self.agents.relays[0].pid()?;
        let (target, proxies, bulk): ((Ipv4Addr, u16), Vec<u32>, u64) = match name {
            "raw" => ((ROUTED_SERVER, PORT), Vec::new(), raw),
            "hop" => ((BRIDGE, Way::Copy.port()), self.hops.iter().map(Process::pid).collect(), hop),
            "direct" => ((VIP, PORT), vec![a, b], tunnel),
            _ => ((VIP, PORT), vec![a, b, relay], tunnel),
        };
        let (client, server) = (Arc::clone(&self.stage.client), self.server.pid());
        let arm = Arm { name, client, target: target.into(), server, proxies, bulk };
        arm.until_it_answers()?;
        Ok(arm)
    }
}

/// One way from the client to the server.
struct Arm {
    name: &'static str,
    client: Arc<Namespace>,
    target: SocketAddr,
    server: u32,
    proxies: Vec<u32>,
    bulk: u64,
}

impl Arm {
    fn until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.clients(1, || one(self.target)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("no answer by {}", self.name)));
                }
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    /// Runs so many clients in the client's pod.
    fn clients<T: Send>(&self, count: u64, client: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
        clients(count, || {
            self.client.enter()?;
            client()
        })
    }

    /// The server keeps a thread for each connection, whose account ends with it.
    fn until_server_is_idle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read_dir(format!("/proc/{}/task", self.server))?.count() > 1 {
            if Instant::now() > deadline {
                bail!("{}: the server still has connections", self.name);
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    {
        let open = Running::start(Ground::default())?;
        let closed = Running::start(Ground::default())?;
        closed.stage.cut(Some(Way::Copy.port()))?;
        open.agents.until_path("direct", PATH_COMES)?;
        closed.agents.until_path("relayed", PATH_COMES)?;
        let arms = [open.arm("raw")?, open.arm("hop")?, open.arm("direct")?, closed.arm("relayed")?];
        for number in 0..ROUNDS {
            rounds(samples, &arms, number % 2 == 1)?;
        }
        opened(samples, &open, &arms[2])?;
    }
    long_link::measure(samples)
}

/// What one round measured.
#[derive(Default)]
struct Round(Vec<(String, f64)>);

impl Round {
    fn add(&mut self, figure: &str, arm: &Arm, value: f64) {
        self.0.push((format!("{figure}_{}", arm.name), value));
    }

    fn value(&self, name: &str) -> Result<f64> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value).with_context(|| format!("{name} was not measured"))
    }

    /// The sum over one stream and many, so that both weigh the same.
    fn per_gb(&self, arm: &str) -> Result<f64> {
        STREAMS.iter().map(|streams| self.value(&format!("cpu_per_gb_{streams}_{arm}"))).sum()
    }
}

fn rounds(samples: &mut Samples, arms: &[Arm], backwards: bool) -> Result<()> {
    let mut order: Vec<&Arm> = arms.iter().collect();
    if backwards {
        order.reverse();
    }
    let mut round = Round::default();
    for streams in STREAMS {
        for arm in &order {
            bulk(&mut round, arm, streams).with_context(|| format!("bulk by {}", arm.name))?;
        }
    }
    // Raw TCP has nobody on its way whose connections could be counted.
    for arm in order.iter().filter(|arm| !arm.proxies.is_empty()) {
        connections(&mut round, arm).with_context(|| format!("connections by {}", arm.name))?;
    }
    for arm in &order {
        requests(&mut round, arm).with_context(|| format!("requests by {}", arm.name))?;
    }
    for arm in ["hop", "direct", "relayed"] {
        samples.add(format!("{arm}_cpu_ratio"), round.per_gb(arm)? / round.per_gb("raw")?);
    }
    let per_second = |arm: &str| round.value(&format!("conn_per_s_{arm}"));
    samples.add("conn_rate_ratio", per_second("direct")? / per_second("hop")?);
    samples.add("relayed_conn_rate_ratio", per_second("relayed")? / per_second("hop")?);
    round.0.into_iter().for_each(|(figure, value)| samples.add(figure, value));
    Ok(())
}

fn bulk(round: &mut Round, arm: &Arm, streams: u64) -> Result<()> {
    arm.until_server_is_idle()?;
    let (proxies, server) = (agent_seconds(&arm.proxies)?, cpu::precise_seconds(arm.server)?);
    let began = Instant::now();
    let done = arm.clients(streams, || {
        let account = own_account()?;
        let mut stream = connect(arm.target)?;
        let wanted = Ask { bytes: arm.bulk / streams, last: false };
        ask(&mut stream, wanted, &mut vec![0; 256 << 10])?;
        Ok((account_seconds(&account)?, stream))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let proxies = agent_seconds(&arm.proxies)? - proxies;
    // The connections are open still, and with them the server's threads.
    let server = cpu::precise_seconds(arm.server)? - server;
    let ends = server + done.iter().map(|(client, _)| client).sum::<f64>();
    let gigabytes = arm.bulk as f64 / 1e9;
    let spent = if arm.proxies.is_empty() { ends } else { proxies };
    round.add(&format!("cpu_per_gb_{streams}"), arm, spent / gigabytes);
    round.add(&format!("gbit_per_s_{streams}"), arm, gigabytes * 8.0 / seconds);
    Ok(())
}

fn connections(round: &mut Round, arm: &Arm) -> Result<()> {
    let (before, began) = (agent_seconds(&arm.proxies)?, Instant::now());
    arm.clients(CLIENTS, || (0..CONNECTIONS / CLIENTS).try_for_each(|_| one(arm.target)))?;
    let seconds = began.elapsed().as_secs_f64();
    let spent = agent_seconds(&arm.proxies)? - before;
    round.add("conn_per_s", arm, CONNECTIONS as f64 / seconds);
    round.add("cpu_us_per_conn", arm, spent * 1e6 / CONNECTIONS as f64);
    Ok(())
}

fn requests(round: &mut Round, arm: &Arm) -> Result<()> {
    let times = arm.clients(1, || {
        let mut stream = connect(arm.target)?;
        (0..REQUESTS).map(|_| request(&mut stream)).collect::<Result<Vec<f64>>>()
    })?;
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    for percent in [50, 99] {
        // The nearest rank.
        let rank = (times.len() * percent).div_ceil(100).max(1);
        round.add(&format!("latency_us_request_p{percent}"), arm, times[rank - 1]);
    }
    Ok(())
}

/// Streams that cannot be opened, and the agents' memory before and after.
fn opened(samples: &mut Samples, running: &Running, arm: &Arm) -> Result<()> {
    running.agents.until_idle()?;
    let memory = || arm.proxies.iter().map(|pid| Ok(cpu::memory(*pid)?.resident)).sum::<Result<f64>>();
    let before = memory()?;
    samples.add("tunnel_memory_before_mib", before);
    let barrier = Barrier::new(AT_ONCE as usize);
    let failed = arm.clients(AT_ONCE, || {
        barrier.wait();
        Ok(u32::from(one(arm.target).is_err()))
    })?;
    samples.add("tunnel_open_64", f64::from(failed.iter().sum::<u32>()));
    let began = Instant::now();
    let failed = arm.clients(MANY_CLIENTS, || {
        Ok((0..MANY / MANY_CLIENTS).filter(|_| one(arm.target).is_err()).count())
    })?;
    samples.add("tunnel_open_10k", failed.iter().sum::<usize>() as f64);
    samples.add("tunnel_open_10k_s", began.elapsed().as_secs_f64());
    running.agents.until_idle()?;
    let deadline = Instant::now() + MEMORY_SETTLES;
    while memory()? > before && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    samples.add("tunnel_memory_after_mib", memory()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Round;

    #[test]
    fn one_stream_and_many_weigh_the_same() {
        let figures = [("cpu_per_gb_1_raw", 1.0), ("cpu_per_gb_8_raw", 3.0), ("cpu_per_gb_1_hop", 5.0)];
        let round = Round(figures.map(|(name, value)| (name.to_owned(), value)).into());
        assert!((round.per_gb("raw").expect("both are there") - 4.0).abs() < 1e-9);
        let missing = round.per_gb("hop").expect_err("many streams were not measured").to_string();
        assert_eq!(missing, "cpu_per_gb_8_hop was not measured");
    }
}
