//! How soon the mesh follows the API server, and what a large cluster costs a node.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::{ApiServer, Load, Served};
use crate::cpu;
use crate::dns::Dns;
use crate::frame::Report;
use crate::inside::{self, Agent, BANNER, Home, NODE, POD, Samples, Signal, is_applied};
use crate::lab::Lab;

/// Services that are made one by one, in an otherwise empty cluster and in the large one: a p99 of 200 is the second largest.
const WRITTEN: u8 = 200;
const WRITTEN_5K: u8 = 100;

/// The large cluster; an agent follows no Pods, which the server has nevertheless.
const LARGE: Load = Load { services: 5_000, endpoints: 10, pods: 20_000 };
/// The cluster that the memory of Go EdgeMesh was measured with.
const THOUSAND: Load = Load { services: 1_000, endpoints: 10, pods: 0 };

/// Twice what the slowest of the agent's timers takes; a tick of the accounts is a sixtieth of a percent of it.
const IDLE: Duration = Duration::from_secs(60);

/// Endpoints that change.
const CHANGES: usize = 1_000;
/// Between two changes that come one by one: twice the time that an agent waits for further ones, so that each is one
/// compile.
const PACE: Duration = Duration::from_millis(25);
/// The journal is written at most every 5 s: what the changes cost is paid after so long.
const JOURNAL: Duration = Duration::from_secs(6);

/// Between two rounds over the names that are not right yet.
const ROUND: Duration = Duration::from_millis(2);
const ALL_RIGHT: Duration = Duration::from_secs(60);

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::without_agents(&inside::site())?;
    report.add_all(&lab.inside(NODE, "metadata")?)?;
    report.note(
        "connectable, resolvable",
        "from before the first of two writes, Service and EndpointSlice, to the first line from a pod of the node \
         through the Service's address, and to the first right answer over UDP; probes try every millisecond",
    );
    report.note("_5k", "5,000 Services, dual stack, of 10 endpoints each, and 20,000 Pods on the server");
    report.note(
        "all right",
        "from before the process is made, without a journal, until every name has resolved right and the kernel has all rules",
    );
    report.note(
        "changes",
        "an endpoint becomes unready: one every 25 ms, then 1,000 as fast as the server takes them",
    );
    Ok(())
}

/// The part in the node.
pub(crate) fn inside(samples: &mut Samples, psk: &Path) -> Result<()> {
    small(samples, psk)?;
    thousand(samples, psk)?;
    large(samples, psk)
}

fn small(samples: &mut Samples, psk: &Path) -> Result<()> {
    let mut api = ApiServer::start()?;
    let home = Home::new(psk, api.url())?;
    // Without any object there is nothing whose arrival could be waited for.
    api.create(&served(0, 0))?;
    let agent = home.start()?;
    agent.until_current(1)?;
    write_services(samples, &mut api, &agent, (WRITTEN, 1), "")?;
    agent.stop(Signal::Term)
}

fn thousand(samples: &mut Samples, psk: &Path) -> Result<()> {
    let mut api = ApiServer::start()?;
    api.load(THOUSAND)?;
    let home = Home::new(psk, api.url())?;
    let agent = home.start()?;
    agent.until_current(THOUSAND.services)?;
    memory(samples, &agent, "1k")?;
    agent.stop(Signal::Term)
}

fn large(samples: &mut Samples, psk: &Path) -> Result<()> {
    let mut api = ApiServer::start()?;
    api.load(LARGE)?;
    let before = api.served()?;
    let home = Home::new(psk, api.url())?;
    let agent = home.start()?;
    let right = all_right(&agent)?;
    samples.add("ms_to_all_right_5k", right.duration_since(agent.began).as_secs_f64() * 1e3);
    let pid = agent.pid()?;
    samples.add("cpu_ms_to_all_right_5k", cpu::seconds(&[pid])? * 1e3);
    memory(samples, &agent, "5k")?;
    let (spent, began) = (cpu::seconds(&[pid])?, Instant::now());
    thread::sleep(IDLE);
    let spent = cpu::seconds(&[pid])? - spent;
    samples.add("idle_cpu_percent_5k", spent / began.elapsed().as_secs_f64() * 100.0);
    let served = api.served()?;
    samples.add("api_lists_5k", served.0 - before.0);
    samples.add("api_mib_5k", (served.1 - before.1) / 1024.0 / 1024.0);
    changes(samples, &mut api, &agent, pid)?;
    memory(samples, &agent, "5k_changed")?;
    write_services(samples, &mut api, &agent, (WRITTEN_5K, 2), "_5k")?;
    agent.stop(Signal::Term)
}

fn served(net: u8, number: u8) -> Served {
    Served {
        name: format!("served-{net}-{number}"),
        vip: Ipv4Addr::new(10, 96, net, number + 1),
        port: BANNER,
        node: NODE,
        pod: POD,
        headless: false,
    }
}

/// Makes Services one by one: how long until each can be used.
fn write_services(
    samples: &mut Samples,
    api: &mut ApiServer,
    agent: &Agent<'_>,
    (count, net): (u8, u8),
    suffix: &str,
) -> Result<()> {
    let (mut resolvable, mut connectable) = (Vec::new(), Vec::new());
    for number in 0..count {
        let service = served(net, number);
        let mut began = Instant::now();
        let seen = inside::probe(&service, || {
            began = Instant::now();
            api.create(&service)
        })?;
        resolvable.push(seen.resolved.duration_since(began).as_secs_f64() * 1e3);
        connectable.push(seen.connected.duration_since(began).as_secs_f64() * 1e3);
        // The next one shall not meet what is left to do for this one.
        agent.until("rules", is_applied)?;
    }
    samples.percentiles("connectable_ms", suffix, connectable);
    samples.percentiles("resolvable_ms", suffix, resolvable);
    Ok(())
}

fn memory(samples: &mut Samples, agent: &Agent<'_>, size: &str) -> Result<()> {
    let pid = agent.pid()?;
    inside::settle(pid)?;
    let memory = cpu::memory(pid)?;
    samples.add(format!("rss_mib_{size}"), memory.resident);
    samples.add(format!("rss_anon_mib_{size}"), memory.anonymous);
    Ok(())
}

/// The moment at which every name of the made-up cluster had been right, and the kernel had the rules.
fn all_right(agent: &Agent<'_>) -> Result<Instant> {
    let mut dns = Dns::open()?;
    // The addresses that the server makes up: a /8 counted through from 1.
    let name = |number: u32| (format!("load-{number}.load"), Ipv4Addr::from((11 << 24) + number + 1));
    let mut missing: VecDeque<_> = (0..LARGE.services as u32).map(name).collect();
    let deadline = Instant::now() + ALL_RIGHT;
    while let Some((name, addr)) = missing.pop_front() {
        if dns.has(&name, addr) {
            continue;
        }
        missing.push_back((name, addr));
        if Instant::now() > deadline {
            bail!("{} names are wrong after {} s", missing.len(), ALL_RIGHT.as_secs());
        }
        thread::sleep(ROUND);
    }
    let frontends = LARGE.services * 2;
    agent.until("the kernel's rules", |status| {
        status["metadata"]["frontends"] == frontends && is_applied(status)
    })?;
    Ok(Instant::now())
}

/// What changes of endpoints cost.
fn changes(samples: &mut Samples, api: &mut ApiServer, agent: &Agent<'_>, pid: u32) -> Result<()> {
    let mut slices = Vec::new();
    for number in 0..CHANGES {
        let family = if number % 2 == 0 { 4 } else { 6 };
        let target =
            format!("/apis/discovery.k8s.io/v1/namespaces/load/endpointslices/load-{number}-{family}");
        slices.push((api.ask("GET", &target, None)?, target));
    }
    // Slices come in order: when the name of this one has its new address, all before it are followed.
    let mut marker = Served { headless: true, ..served(3, 0) };
    api.create(&marker)?;
    let mut dns = Dns::open()?;
    for (ready, pace, figure) in [(false, PACE, ""), (true, Duration::ZERO, "_burst")] {
        let before = generation(&agent.status()?)?;
        let spent = cpu::seconds(&[pid])?;
        let mut due = Instant::now();
        for (slice, target) in &mut slices {
            slice["endpoints"][0]["conditions"]["ready"] = json!(ready);
            // The version that was read is not the newest after the first round.
            slice["metadata"].as_object_mut().context("metadata")?.remove("resourceVersion");
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pace;
            api.ask("PUT", target, Some(slice))?;
        }
        marker.pod = Ipv4Addr::from(u32::from(marker.pod) + 1);
        api.move_endpoint(&marker)?;
        while !dns.has(&marker.dns_name(), marker.pod) {
            ensure!(due.elapsed() < ALL_RIGHT, "the changes are not followed");
            thread::sleep(ROUND);
        }
        let after = generation(&agent.until("the changes", is_applied)?)?;
        thread::sleep(JOURNAL);
        let spent = cpu::seconds(&[pid])? - spent;
        samples.add(format!("cpu_ms_per_1k_endpoint_changes{figure}"), spent * 1e3);
        samples.add(format!("compiles_per_1k_endpoint_changes{figure}"), after - before);
    }
    Ok(())
}

fn generation(status: &Value) -> Result<f64> {
    status["metadata"]["generation"].as_f64().context("a generation")
}
