//! What the user-space path costs over a bare proxy: the agent's proxy and two bare ones, in turns, between the same
//! client and the same server. Only the proxy's own process is counted.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bare::{self, Ask, Way};
use crate::cpu;
use crate::frame::Report;
use crate::inside::Samples;
use crate::lab::{Lab, process};

/// Ratios are medians of ratios within a round, whose parts are seconds apart: odd, so that each is a sample, and
/// enough that a neighbour's burst moves two of them and not the median.
const ROUNDS: usize = 7;

/// One bulk sample is more than half a second of CPU time; the account is the scheduler's, to the nanosecond.
const BULK_BYTES: u64 = 2_000_000_000;
const STREAMS: [u64; 2] = [1, 8];

/// Connections of one sample, by so many clients at a time: more than the two ends need to keep a small machine busy.
const CONNECTIONS: u32 = 3_000;
const CLIENTS: u32 = 8;
/// Requests of one keep-alive sample, and the length of their answers: a small JSON document.
const REQUESTS: usize = 8_000;
const ANSWER: u64 = 512;

/// Open and idle connections.
const IDLE: usize = 2_000;

/// Twice the clients at a time that keep the machine busy, each of which comes again as soon as it was served.
const OVERLOAD_CLIENTS: u32 = 64;
const OVERLOAD_CONNECTIONS: Duration = Duration::from_secs(2);

/// Everything answers within milliseconds; past this a connection is lost, and the bench ends with an error.
const PATIENCE: Duration = Duration::from_secs(20);

const NODE: &str = "node";
const CLIENT: &str = "client";
const SERVER: &str = "server";
const PORT: u16 = 8090;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
/// The node's end of its pods' bridge; the first pod of a node is host 2 of its range, the server is the second.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);

/// The parts that run inside the laboratory.
pub(crate) const MEASURE: &str = "user-path";
const SERVE: &str = "user-path-server";

/// The agent's figures are compared with the bare proxy that is best at it.
const COMPARED: [(&str, Way); 5] = [
    ("cpu_per_gb_1", Way::Splice),
    ("cpu_per_gb_8", Way::Splice),
    ("cpu_us_per_conn", Way::Copy),
    ("cpu_us_per_request", Way::Copy),
    ("latency_us_request_p50", Way::Copy),
];

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&site()?, SERVICE)?;
    let _bare: Vec<Killed> =
        Way::ALL.iter().map(|way| lab.spawn(NODE, &part(*way)).map(Killed)).collect::<Result<_>>()?;
    report.add_all(&lab.inside(CLIENT, MEASURE)?)?;
    report.note(
        "accounts",
        "user and system time of the proxy's process alone, by the scheduler (/proc/PID/task/*/schedstat); what the kernel \
         does for it in soft interrupts counts with whichever process is interrupted",
    );
    report.note(
        "paths",
        "client pod, node, server pod. agent: by TPROXY to a Service with consistentHash by useSourceIp, with the access \
         log on; splice and copy: bare proxies on the node, same runtime and workers, reached at their own ports",
    );
    report.note(
        "ratios",
        "of CPU: agent to splice per GB, agent to copy per connection and request; user_conn_per_cpu_ratio is connections \
         per CPU-second, agent to copy. Medians of the ratios within each round",
    );
    report.note(
        "samples",
        &format!(
            "{ROUNDS} rounds of {} MB down by {STREAMS:?} streams, {CONNECTIONS} connections by {CLIENTS} clients, {REQUESTS} \
             requests on one connection; once {IDLE} idle connections, requests beside {} streams of bulk, and \
             {OVERLOAD_CLIENTS} clients that come again at once",
            BULK_BYTES / 1_000_000,
            STREAMS[1],
        ),
    );
    Ok(())
}

/// A process that ends with the bench.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn part(way: Way) -> String {
    format!("bare-{}", way.as_str())
}

fn site() -> Result<String> {
    let program = std::env::current_exe()?;
    Ok(format!(
        "lans:\n  - name: lan\n    nodes:\n      - name: {NODE}\n        pods:\n          - {{ name: {CLIENT} }}\n          \
         - {{ name: {SERVER}, labels: {{ app: {SERVER} }}, run: [{:?}, {}, {SERVE}, '-'] }}\n",
        program.display().to_string(),
        crate::lab::INSIDE,
    ))
}

/// The policy keeps the Service in user space whatever the kernel may carry.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: server, namespace: default }
spec:
  clusterIP: 10.96.0.11
  selector: { app: server }
  ports: [{ name: tcp, port: 8090 }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: server, namespace: default }
spec:
  host: server
  trafficPolicy: { loadBalancer: { consistentHash: { useSourceIp: true } } }
";

/// Runs a part inside the laboratory; `None` when it is none of this bench's.
pub(crate) fn inside(name: &str) -> Option<Result<Value>> {
    let forever = |served: Result<()>| served.map(|()| Value::Null);
    match name {
        MEASURE => Some(measure()),
        SERVE => Some(forever(bare::server(PORT))),
        _ => {
            let way = Way::ALL.into_iter().find(|way| part(*way) == name)?;
            Some(forever(bare::proxy(way, (POD, PORT).into())))
        }
    }
}

/// One way from the client to the server.
#[derive(Debug)]
struct Arm {
    name: &'static str,
    target: SocketAddr,
    pid: u32,
}

fn measure() -> Result<Value> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    let arms = arms()?;
    let mut samples = Samples::default();
    for arm in &arms {
        idle(&mut samples, arm)?;
    }
    for _ in 0..ROUNDS {
        let mut round: Vec<(String, f64)> = Vec::new();
        for streams in STREAMS {
            for arm in &arms {
                bulk(&mut round, arm, streams)?;
            }
        }
        for arm in &arms {
            connections(&mut round, arm)?;
        }
        for arm in &arms {
            requests(&mut round, arm)?;
        }
        compare(&mut samples, &round)?;
        round.into_iter().for_each(|(figure, value)| samples.add(figure, value));
    }
    for arm in &arms {
        beside_bulk(&mut samples, arm)?;
        overload(&mut samples, arm)?;
    }
    Ok(json!(samples))
}

/// Waits until every way works.
fn arms() -> Result<[Arm; 3]> {
    let found = |name, target: SocketAddr, words: &[&str]| -> Result<Arm> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match (process(words), one(target)) {
                (Ok(pid), Ok(())) => return Ok(Arm { name, target, pid }),
                (Err(error), _) | (_, Err(error)) if Instant::now() > deadline => {
                    return Err(error.context(format!("{name} does not serve")));
                }
                // The agent applies its rules, and the bare proxies bind, within a second of their start.
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    };
    let bare = |way: Way| found(way.as_str(), (BRIDGE, way.port()).into(), &[crate::lab::INSIDE, &part(way)]);
    Ok([
        found("agent", (VIP, PORT).into(), &["agent", "--node-name", NODE])?,
        bare(Way::Splice)?,
        bare(Way::Copy)?,
    ])
}

/// Adds what stands in `COMPARED`, as ratios of this round.
fn compare(samples: &mut Samples, round: &[(String, f64)]) -> Result<()> {
    let value = |figure: &str, arm: &str| -> Result<f64> {
        let name = format!("{figure}_{arm}");
        let found = round.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).with_context(|| format!("{name} was not measured"))
    };
    for (figure, way) in COMPARED {
        let ratio = value(figure, "agent")? / value(figure, way.as_str())?;
        samples.add(format!("user_{figure}_ratio"), ratio);
        if figure == "cpu_us_per_conn" {
            samples.add("user_conn_per_cpu_ratio", ratio.recip());
        }
    }
    // One figure for the aim: one stream and many weigh the same.
    let both = STREAMS.iter().map(|streams| {
        let figure = format!("cpu_per_gb_{streams}");
        Ok((value(&figure, "agent")?, value(&figure, Way::Splice.as_str())?))
    });
    let (ours, base) = both
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    samples.add("user_cpu_per_gb_ratio", ours / base);
    Ok(())
}

pub(crate) fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks once and reads the answer.
pub(crate) fn ask(stream: &mut TcpStream, ask: Ask, buffer: &mut [u8]) -> Result<()> {
    stream.write_all(&ask.encode()).context("ask")?;
    let mut left = ask.bytes;
    while left > 0 {
        match stream.read(buffer) {
            Ok(0) => bail!("the answer ended {left} bytes short"),
            Ok(length) => left -= length as u64,
            Err(error) => return Err(error).context("answer"),
        }
    }
    Ok(())
}

/// A connection from its start to its end.
pub(crate) fn one(target: SocketAddr) -> Result<()> {
    let mut stream = connect(target)?;
    let mut buffer = [0; 4096];
    ask(&mut stream, Ask { bytes: ANSWER, last: true }, &mut buffer)?;
    match stream.read(&mut buffer).context("end")? {
        0 => Ok(()),
        _ => bail!("more than was asked for"),
    }
}

/// Runs `count` clients at a time, and returns what each says.
pub(crate) fn clients<T: Send>(count: u64, client: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&client)).collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(said) => said,
                Err(_) => bail!("a client died"),
            })
            .collect()
    })
}

fn bulk(round: &mut Vec<(String, f64)>, arm: &Arm, streams: u64) -> Result<()> {
    let (before, began) = (cpu::precise_seconds(arm.pid)?, Instant::now());
    clients(streams, || {
        let mut buffer = vec![0; 256 << 10];
        ask(&mut connect(arm.target)?, Ask { bytes: BULK_BYTES / streams, last: true }, &mut buffer)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let gigabytes = BULK_BYTES as f64 / 1e9;
    let spent = cpu::precise_seconds(arm.pid)? - before;
    round.push((format!("cpu_per_gb_{streams}_{}", arm.name), spent / gigabytes));
    round.push((format!("gbit_per_s_{streams}_{}", arm.name), gigabytes * 8.0 / seconds));
    Ok(())
}

fn connections(round: &mut Vec<(String, f64)>, arm: &Arm) -> Result<()> {
    let (before, began) = (cpu::precise_seconds(arm.pid)?, Instant::now());
    clients(u64::from(CLIENTS), || (0..CONNECTIONS / CLIENTS).try_for_each(|_| one(arm.target)))?;
    let seconds = began.elapsed().as_secs_f64();
    let spent = cpu::precise_seconds(arm.pid)? - before;
    round.push((format!("cpu_us_per_conn_{}", arm.name), spent * 1e6 / f64::from(CONNECTIONS)));
    round.push((format!("conn_per_s_{}", arm.name), f64::from(CONNECTIONS) / seconds));
    Ok(())
}

/// One request on an open connection; microseconds.
pub(crate) fn request(stream: &mut TcpStream) -> Result<f64> {
    let began = Instant::now();
    ask(stream, Ask { bytes: ANSWER, last: false }, &mut [0; 4096])?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

fn requests(round: &mut Vec<(String, f64)>, arm: &Arm) -> Result<()> {
    let mut stream = connect(arm.target)?;
    let mut times = Vec::with_capacity(REQUESTS);
    let before = cpu::precise_seconds(arm.pid)?;
    for _ in 0..REQUESTS {
        times.push(request(&mut stream)?);
    }
    let spent = cpu::precise_seconds(arm.pid)? - before;
    round.push((format!("cpu_us_per_request_{}", arm.name), spent * 1e6 / REQUESTS as f64));
    times.sort_by(f64::total_cmp);
    for percent in [50, 99] {
        let rank = (REQUESTS * percent).div_ceil(100) - 1;
        round.push((format!("latency_us_request_p{percent}_{}", arm.name), times[rank]));
    }
    Ok(())
}

/// How long a request takes while bulk flows through the same proxy.
fn beside_bulk(samples: &mut Samples, arm: &Arm) -> Result<()> {
    let mut round = Vec::new();
    let times = thread::scope(|scope| -> Result<Vec<f64>> {
        let bulk = scope.spawn(|| bulk(&mut round, arm, STREAMS[1]));
        let mut stream = connect(arm.target)?;
        let mut times = Vec::new();
        while !bulk.is_finished() {
            times.push(request(&mut stream)?);
        }
        match bulk.join() {
            Ok(done) => done.map(|()| times),
            Err(_) => bail!("a client died"),
        }
    })?;
    samples.percentiles("latency_us_beside_bulk", &format!("_{}", arm.name), times);
    Ok(())
}

/// Memory of a process by open and idle connection that has carried something.
fn idle(samples: &mut Samples, arm: &Arm) -> Result<()> {
    // What is made on first use is there.
    clients(u64::from(CLIENTS), || one(arm.target))?;
    let before = cpu::memory(arm.pid)?;
    let mut open = Vec::with_capacity(IDLE);
    let mut buffer = [0; 4096];
    for _ in 0..IDLE {
        let mut stream = connect(arm.target)?;
        ask(&mut stream, Ask { bytes: ANSWER, last: false }, &mut buffer)?;
        open.push(stream);
    }
    let grown = cpu::memory(arm.pid)?.resident - before.resident;
    samples.add(format!("kib_per_idle_conn_{}", arm.name), grown * 1024.0 / IDLE as f64);
    Ok(())
}

/// What clients see that are more than can be served at a time: whether any is left out, and how long one waits.
fn overload(samples: &mut Samples, arm: &Arm) -> Result<()> {
    let said = clients(u64::from(OVERLOAD_CLIENTS), || {
        let deadline = Instant::now() + OVERLOAD_CONNECTIONS;
        let (mut served, mut failed, mut longest) = (0_u32, 0_u32, Duration::ZERO);
        while Instant::now() < deadline {
            let began = Instant::now();
            match one(arm.target) {
                Ok(()) => served += 1,
                Err(_) => failed += 1,
            }
            longest = longest.max(began.elapsed());
        }
        Ok((served, failed, longest))
    })?;
    let least = said.iter().map(|it| it.0).min().unwrap_or(0);
    let most = said.iter().map(|it| it.0).max().unwrap_or(0);
    let longest = said.iter().map(|it| it.2).max().unwrap_or_default();
    samples.add(format!("overload_failed_{}", arm.name), f64::from(said.iter().map(|it| it.1).sum::<u32>()));
    samples.add(format!("overload_max_to_min_served_{}", arm.name), f64::from(most) / f64::from(least));
    samples.add(format!("overload_longest_ms_{}", arm.name), longest.as_secs_f64() * 1e3);
    Ok(())
}
