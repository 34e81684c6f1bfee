//! What clients see while endpoints come and go, and while the agent is killed and started again.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use edgemesh_net::netlink::rt::{Handle, Prefix};

use crate::alone;
use crate::frame::Report;
use crate::inside::Samples;
use crate::kernel_path_stage::{Agent, Stage, by_source, connect, service};

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "churn";

/// Connections through a set of endpoints that changes, by so many clients at a time.
const CONNECTIONS: usize = 100_000;
const CLIENTS: usize = 4;

/// How often the set changes.
const CHANGE_EVERY: Duration = Duration::from_millis(100);

/// Endpoints there can be, and how many of them are in the set at a time: one that left stays away for 5.4 s, longer than
/// `GRACE`.
const ENDPOINTS: usize = 60;
const AT_A_TIME: usize = 6;

/// A connection that meets an endpoint later than this after it left is misrouted. The agent reads a manifest file that
/// changed and brings the kernel to it within some milliseconds; a busy machine may take a hundred times as long.
const GRACE: Duration = Duration::from_secs(1);

/// Agents that are killed, each while clients connect for this long.
const KILLS: usize = 3;
const AROUND_A_KILL: Duration = Duration::from_secs(4);

/// Services beside.
const OTHERS: usize = 1_000;

const PORT: u16 = 7003;
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const USER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 21);

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "churn",
        &format!(
            "{CONNECTIONS} connections by {CLIENTS} clients to a Service in the kernel that has {AT_A_TIME} of {ENDPOINTS} \
             endpoints; a manifest replaces one every {} ms, and every server goes on serving. lost: connections that \
             failed; misrouted: answered by an endpoint that had left more than {} s ago, or by none of the Service's; \
             latest_ms_after_leaving: how long after the manifest left it out an endpoint still got a connection",
            CHANGE_EVERY.as_millis(),
            GRACE.as_secs(),
        ),
    );
    report.note(
        "kill",
        &format!(
            "SIGKILL and a new start at once, {KILLS} times, while one client for each way connects without pause; \
             longest_gap_ms: from one answer to the next; failed: connections refused, reset, or without an answer"
        ),
    );
    Ok(())
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    let stage = Stage::new()?;
    for index in 0..ENDPOINTS {
        serve(&stage, index)?;
    }
    let mut agent = Agent::start(&stage.node, OTHERS)?;
    write(&agent, 0)?;
    agent.until_current()?;
    until_answered(&stage, KERNEL)?;
    until_answered(&stage, USER)?;
    changes(samples, &stage, &agent)?;
    for _ in 0..KILLS {
        kill(samples, &stage, &mut agent)?;
    }
    Ok(())
}

fn endpoint(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(10, 244, 0, u8::try_from(100 + index)?))
}

/// Starts a server that answers each connection with its number.
fn serve(stage: &Stage, index: usize) -> Result<()> {
    let address = endpoint(index)?;
    let add = || -> Result<()> {
        let mut rt = Handle::open()?;
        let link = rt.link("eth0")?.context("no eth0")?.index;
        Ok(rt.add_address(link, Prefix::new(address, 24), false)?)
    };
    let listener = stage.server.run(|| {
        add().map_err(io::Error::other)?;
        TcpListener::bind((address, PORT))
    })?;
    let name = u8::try_from(index)?;
    thread::spawn(move || {
        // What becomes of one connection is seen by its client.
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&[name]);
        }
    });
    Ok(())
}

/// Which endpoints the Service has after so many changes.
fn members(change: usize) -> impl Iterator<Item = usize> {
    (0..AT_A_TIME).map(move |slot| (change + slot) % ENDPOINTS)
}

fn write(agent: &Agent, change: usize) -> Result<()> {
    let endpoints = members(change).map(endpoint).collect::<Result<Vec<_>>>()?;
    let all = (0..ENDPOINTS).map(endpoint).collect::<Result<Vec<_>>>()?;
    let mut objects = Vec::new();
    objects.extend(service("changing", KERNEL, &[PORT], &endpoints));
    objects.extend(service("by-source", USER, &[PORT], &all));
    objects.push(by_source("by-source"));
    agent.write("changing", &objects)
}

/// One connection: the number of the endpoint that answered.
fn ask(target: Ipv4Addr) -> Result<usize> {
    let mut stream = connect(SocketAddr::from((target, PORT)))?;
    let mut name = [0; 1];
    stream.read_exact(&mut name).context("answer")?;
    // The server ends first, so that no port of the client waits out the connection.
    match stream.read(&mut [0; 1]).context("end")? {
        0 => Ok(usize::from(name[0])),
        _ => bail!("more than an answer"),
    }
}

fn until_answered(stage: &Stage, target: Ipv4Addr) -> Result<()> {
    let deadline = Instant::now() + alone::PATIENCE;
    loop {
        match stage.client.run(|| ask(target).map_err(io::Error::other)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error).context("no answer by the Service"),
            Err(_) => thread::sleep(alone::LOOK),
        }
    }
}

/// When each endpoint left last; in the set while it is `None`.
type Left = Mutex<[Option<Instant>; ENDPOINTS]>;

fn changes(samples: &mut Samples, stage: &Stage, agent: &Agent) -> Result<()> {
    let mut first = [Some(Instant::now()); ENDPOINTS];
    members(0).for_each(|index| first[index] = None);
    let left: Left = Mutex::new(first);
    let done = AtomicBool::new(false);
    let client = || -> Result<(usize, usize, Duration)> {
        stage.client.enter()?;
        let (mut lost, mut misrouted, mut latest) = (0, 0, Duration::ZERO);
        for _ in 0..CONNECTIONS / CLIENTS {
            let began = Instant::now();
            match ask(KERNEL) {
                Err(_) => lost += 1,
                Ok(index) => {
                    let left = left.lock().unwrap_or_else(PoisonError::into_inner);
                    let late = |left: Instant| began.saturating_duration_since(left);
                    let late = left.get(index).map(|left| left.map(late).unwrap_or_default());
                    misrouted += usize::from(late.is_none_or(|late| late > GRACE));
                    latest = latest.max(late.unwrap_or_default());
                }
            }
        }
        Ok((lost, misrouted, latest))
    };
    let began = Instant::now();
    let (seen, changes) = thread::scope(|scope| -> Result<_> {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let changer = scope.spawn(|| -> Result<usize> {
            let mut change = 0;
            while !done.load(Ordering::Relaxed) {
                change += 1;
                {
                    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                    left[(change - 1) % ENDPOINTS] = Some(Instant::now());
                    left[(change + AT_A_TIME - 1) % ENDPOINTS] = None;
                }
                write(agent, change)?;
                thread::sleep(CHANGE_EVERY);
            }
            Ok(change)
        });
        let seen = clients.into_iter().map(|it| it.join().map_err(|_| anyhow!("a client died"))?);
        let seen = seen.collect::<Result<Vec<_>>>();
        done.store(true, Ordering::Relaxed);
        let changes = changer.join().map_err(|_| anyhow!("what changes the endpoints died"))??;
        Ok((seen?, changes))
    })?;
    samples.add("lost", seen.iter().map(|it| it.0).sum::<usize>() as f64);
    samples.add("misrouted", seen.iter().map(|it| it.1).sum::<usize>() as f64);
    let latest = seen.iter().map(|it| it.2).max().unwrap_or_default();
    samples.add("latest_ms_after_leaving", latest.as_secs_f64() * 1e3);
    samples.add("changes", changes as f64);
    samples.add("conn_per_s", CONNECTIONS as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

/// What one client sees of a way: the longest time without an answer in milliseconds, answers, and failures.
struct View {
    longest: f64,
    served: usize,
    failed: usize,
}

fn kill(samples: &mut Samples, stage: &Stage, agent: &mut Agent) -> Result<()> {
    let done = AtomicBool::new(false);
    let view = |target: Ipv4Addr| -> Result<View> {
        stage.client.enter()?;
        let mut view = View { longest: 0.0, served: 0, failed: 0 };
        let mut last = Instant::now();
        while !done.load(Ordering::Relaxed) {
            match ask(target) {
                Ok(_) => view.served += 1,
                Err(_) => view.failed += 1,
            }
            view.longest = view.longest.max(last.elapsed().as_secs_f64() * 1e3);
            last = Instant::now();
        }
        Ok(view)
    };
    let [kernel, user] = thread::scope(|scope| -> Result<_> {
        let views = [KERNEL, USER].map(|target| scope.spawn(move || view(target)));
        thread::sleep(AROUND_A_KILL / 4);
        let killed = agent.kill_and_start();
        thread::sleep(AROUND_A_KILL * 3 / 4);
        done.store(true, Ordering::Relaxed);
        killed?;
        let [kernel, user] = views.map(|view| view.join().map_err(|_| anyhow!("a client died"))?);
        Ok([kernel?, user?])
    })?;
    for (name, view) in [("kernel", kernel), ("user", user)] {
        if view.served == 0 {
            bail!("nobody answered by way of {name}");
        }
        samples.add(format!("longest_gap_ms_{name}"), view.longest);
        samples.add(format!("failed_{name}"), view.failed as f64);
        samples.add(format!("served_{name}"), view.served as f64);
    }
    agent.until_current()
}
