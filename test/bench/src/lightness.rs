//! What an agent weighs that has nothing to do.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cpu;
use crate::frame::Report;
use crate::lab::{Lab, serve_name};

const NODE: &str = "node";
const SERVER: &str = "server";
const SERVICES: usize = 20;
const HTTP: u16 = 8080;

/// The agent is idle when it runs for at most `IDLE` seconds of so many windows in a row: ten seconds of nothing else.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 10;
/// One tick of the accounts: a timer that fires costs less, start-up costs more.
const IDLE: f64 = 0.011;

/// How long it may take to become idle: its own start is done within a second, what is left are timers.
const SETTLED: Duration = Duration::from_secs(60);

/// Long enough that one tick is a tenth of a percent.
const MEASURED: Duration = Duration::from_secs(10);

/// Readings of memory; it does not change by itself, so that few tell whether it does.
const ROUNDS: usize = 3;

const MIB: f64 = 1024.0 * 1024.0;

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::up(&site(), &services())?;
    let agent = lab.agent(NODE)?;
    lab.wait("20 Services served", || {
        let status = lab.agent_status(NODE)?;
        Ok(status.pointer("/metadata/services").and_then(serde_json::Value::as_u64) == Some(SERVICES as u64))
    })?;
    for number in 0..SERVICES {
        lab.wait("an answer by every Service", || {
            lab.client("client", &["http", &format!("{}:{HTTP}", vip(number))])?;
            Ok(true)
        })?;
    }
    settle(agent)?;
    let (before, began) = (cpu::precise_seconds(agent)?, Instant::now());
    for _ in 0..ROUNDS {
        thread::sleep(MEASURED / ROUNDS as u32);
        let memory = cpu::memory(agent)?;
        report.add("rss_mib_20_services", memory.resident);
        report.add("rss_anon_mib_20_services", memory.anonymous);
        report.add("rss_file_mib_20_services", memory.file);
    }
    let spent = cpu::precise_seconds(agent)? - before;
    report.add("idle_cpu_percent", spent / began.elapsed().as_secs_f64() * 100.0);
    report.add("threads", fs::read_dir(format!("/proc/{agent}/task"))?.count() as f64);
    report.add("binary_mib", fs::metadata(lab.edgemesh())?.len() as f64 / MIB);
    report.note(
        "agent",
        "one node, tunnel, DNS and proxy on, 20 Services with one endpoint each, after one request to each",
    );
    Ok(())
}

fn settle(agent: u32) -> Result<()> {
    let deadline = Instant::now() + SETTLED;
    let mut idle = 0;
    while idle < WINDOWS {
        let before = cpu::precise_seconds(agent)?;
        thread::sleep(WINDOW);
        idle = if cpu::precise_seconds(agent)? - before <= IDLE { idle + 1 } else { 0 };
        if Instant::now() > deadline {
            bail!("the agent is not idle within {} s", SETTLED.as_secs());
        }
    }
    Ok(())
}

fn site() -> String {
    format!(
        "lans:\n  - name: lan\n    nodes:\n      - name: {NODE}\n        pods:\n          - {{ name: client }}\n          \
         - {{ name: {SERVER}, labels: {{ app: {SERVER} }}, run: [edgemesh-workload, serve, {}, --http={HTTP}] }}\n",
        serve_name(SERVER)
    )
}

fn services() -> String {
    let service = |number: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{number}\nspec:\n  clusterIP: {}\n  selector:\n    \
             app: {SERVER}\n  ports:\n    - {{ name: http, port: {HTTP} }}\n---\n",
            vip(number)
        )
    };
    (0..SERVICES).map(service).collect()
}

fn vip(number: usize) -> String {
    format!("10.96.0.{}", number + 1)
}
