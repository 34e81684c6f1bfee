//! What clients see while endpoints come and go, and while the agent is killed and started again.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::conntrack::{Conntrack, Tuple};
use edgemesh_net::netlink::rt::{Handle, Prefix};
use socket2::{Domain, SockRef, Socket, Type};

use crate::alone;
use crate::frame::Report;
use crate::inside::Samples;
use crate::kernel_path_stage::{Agent, Stage, by_source, connect, service};

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "churn";

/// Connections through a set of endpoints that changes, by so many clients at a time.
const CONNECTIONS: usize = 100_000;
const CLIENTS: usize = 4;

/// How often a connection that waits is asked whether its endpoint died: some never answer who died.
const STEP: Duration = Duration::from_millis(20);

/// The first port of each client, above the reserved ones; a client makes fewer connections than there are ports.
const FIRST_PORT: u16 = 2_000;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// How often the set changes.
const CHANGE_EVERY: Duration = Duration::from_millis(100);

/// Endpoints there can be, and how many of them are in the set at a time: one that left stays away for 5.4 s, and dead for a tenth less, longer than
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
             endpoints; every {} ms one dies (nobody listens, its address is gone) and a manifest replaces it. \
             lost_to_dead: connections that failed and that the node had led to an endpoint that died meanwhile or \
             before; lost_otherwise: all others that failed; misrouted: answered by an endpoint that had left more than {} s ago, or by none of the Service's; \
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
    let pods = (0..ENDPOINTS).map(|index| Pod::start(&stage, index)).collect::<Result<Vec<_>>>()?;
    let mut agent = Agent::start(&stage.node, OTHERS)?;
    write(&agent, 0)?;
    agent.until_current()?;
    until_answered(&stage, KERNEL)?;
    until_answered(&stage, USER)?;
    changes(samples, &stage, &agent, &pods)?;
    for _ in 0..KILLS {
        kill(samples, &stage, &mut agent)?;
    }
    Ok(())
}

fn endpoint(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(10, 244, 0, u8::try_from(100 + index)?))
}

/// An endpoint: an address of the server's namespace where somebody answers each connection with a number.
struct Pod {
    index: usize,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    /// Absent while it is dead.
    listener: Option<Arc<TcpListener>>,
    /// When it died last.
    died: Option<Instant>,
}

impl Pod {
    fn start(stage: &Stage, index: usize) -> Result<Self> {
        let pod = Self { index, life: Mutex::default() };
        pod.live(stage)?;
        Ok(pod)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, stage: &Stage) -> Result<()> {
        let mut life = self.life();
        if life.listener.is_some() {
            return Ok(());
        }
        let address = endpoint(self.index)?;
        let listener = stage.server.run(|| {
            addresses(|rt, link| rt.add_address(link, Prefix::new(address, 24), false))
                .map_err(io::Error::other)?;
            TcpListener::bind((address, PORT))
        })?;
        let listener = Arc::new(listener);
        life.listener = Some(listener.clone());
        let name = u8::try_from(self.index)?;
        thread::spawn(move || {
            // What becomes of one connection is seen by its client.
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(&[name]);
            }
        });
        Ok(())
    }

    /// Ends without notice: nobody listens any more, and its address is gone.
    fn die(&self, stage: &Stage) -> Result<()> {
        let mut life = self.life();
        let listener = life.listener.take().context("it is dead already")?;
        // Connections that end from here on end by this.
        life.died = Some(Instant::now());
        let address = endpoint(self.index)?;
        // An address without a listener would refuse connections, and the node forget at once where it led them.
        Ok(stage.server.run(|| {
            addresses(|rt, link| rt.delete_address(link, Prefix::new(address, 24)))
                .map_err(io::Error::other)?;
            SockRef::from(&*listener).shutdown(Shutdown::Both)
        })?)
    }

    /// Whether it was dead at some time since then.
    fn was_dead_since(&self, then: Instant) -> bool {
        let life = self.life();
        life.listener.is_none() || life.died.is_some_and(|died| died >= then)
    }
}

fn addresses(change: impl FnOnce(&mut Handle, u32) -> Result<(), NetlinkError>) -> Result<()> {
    let mut rt = Handle::open()?;
    let link = rt.link("eth0")?.context("no eth0")?.index;
    Ok(change(&mut rt, link)?)
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

/// How a connection through the changing set ended.
enum End {
    Answered(usize),
    /// The endpoint that it was led to died.
    Died,
    Lost,
}

/// A client that finds out why a connection is lost.
struct Client<'a> {
    pods: &'a [Pod],
    conntrack: Conntrack,
    source: Ipv4Addr,
    /// The next one: what the kernel tracks of a connection that failed outlives it by minutes and leads the next one of
    /// the same port astray.
    port: u16,
}

impl<'a> Client<'a> {
    /// In the client's namespace; the node's connection tracking tells where its connections were led.
    fn start(stage: &Stage, pods: &'a [Pod], number: usize) -> Result<Self> {
        let conntrack = stage.node.run(|| Conntrack::open().map_err(io::Error::other))?;
        stage.client.enter()?;
        let source = Ipv4Addr::new(10, 1, 0, u8::try_from(10 + number)?);
        addresses(|rt, link| rt.add_address(link, Prefix::new(source, 24), false))?;
        Ok(Self { pods, conntrack, source, port: FIRST_PORT })
    }

    fn ask(&mut self) -> Result<End> {
        let began = Instant::now();
        let target = SocketAddr::from((KERNEL, PORT));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_write_timeout(Some(STEP))?;
        socket.set_read_timeout(Some(STEP))?;
        socket.bind(&SocketAddr::from((self.source, self.port)).into())?;
        self.port = self.port.checked_add(1).context("more connections than ports")?;
        let mut connected = false;
        // Room for more than an answer, which would be wrong.
        let mut name = [0; 2];
        loop {
            let step = if connected {
                (&socket).read(&mut name)
            } else {
                // Asked again while it waits, the kernel goes on waiting.
                socket.connect(&target.into()).map(|()| usize::MAX)
            };
            let waits = match step {
                Ok(1) => return Ok(End::Answered(usize::from(name[0]))),
                Ok(usize::MAX) => {
                    connected = true;
                    continue;
                }
                // The end without an answer, or more than one.
                Ok(_) => false,
                Err(error) => {
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
                        || [Some(libc::EINPROGRESS), Some(libc::EALREADY)].contains(&error.raw_os_error())
                }
            };
            if self.is_led_to_a_dead(&socket, target, began)? {
                return Ok(End::Died);
            }
            if !waits || began.elapsed() > alone::PATIENCE {
                return Ok(End::Lost);
            }
        }
    }

    fn is_led_to_a_dead(&mut self, socket: &Socket, target: SocketAddr, began: Instant) -> Result<bool> {
        let Some(source) = socket.local_addr()?.as_socket() else { return Ok(false) };
        let original = Tuple { protocol: TCP, src: source, dst: target, zone: None };
        let led = self.conntrack.find(&original, 0)?.map(|entry| entry.reply.src.ip());
        for pod in self.pods {
            if led == Some(endpoint(pod.index)?.into()) {
                return Ok(pod.was_dead_since(began));
            }
        }
        Ok(false)
    }
}

/// When each endpoint left last; in the set while it is `None`.
type Left = Mutex<[Option<Instant>; ENDPOINTS]>;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    lost_to_dead: usize,
    lost_otherwise: usize,
    misrouted: usize,
    latest: Duration,
}

fn watch(client: &mut Client<'_>, left: &Left) -> Result<Seen> {
    let mut seen = Seen::default();
    for _ in 0..CONNECTIONS / CLIENTS {
        let began = Instant::now();
        match client.ask()? {
            End::Died => seen.lost_to_dead += 1,
            End::Lost => seen.lost_otherwise += 1,
            End::Answered(index) => {
                let left = left.lock().unwrap_or_else(PoisonError::into_inner);
                let late = |left: Instant| began.saturating_duration_since(left);
                let late = left.get(index).map(|left| left.map(late).unwrap_or_default());
                seen.misrouted += usize::from(late.is_none_or(|late| late > GRACE));
                seen.latest = seen.latest.max(late.unwrap_or_default());
            }
        }
    }
    Ok(seen)
}

/// Changes the set until it is done, at moments that do not depend on how long a change takes. Returns how often, and how often
/// a second.
fn change(
    stage: &Stage,
    agent: &Agent,
    pods: &[Pod],
    left: &Left,
    done: &AtomicBool,
) -> Result<(usize, f64)> {
    let began = Instant::now();
    let mut due = began;
    let mut change = 0;
    while !done.load(Ordering::Relaxed) {
        change += 1;
        let goes = (change - 1) % ENDPOINTS;
        // One comes back to life before it is an endpoint again.
        pods[(change + AT_A_TIME) % ENDPOINTS].live(stage)?;
        {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            left[goes] = Some(Instant::now());
            left[(change + AT_A_TIME - 1) % ENDPOINTS] = None;
        }
        pods[goes].die(stage)?;
        write(agent, change)?;
        due += CHANGE_EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let rate = change as f64 / began.elapsed().as_secs_f64();
    pods.iter().try_for_each(|pod| pod.live(stage))?;
    Ok((change, rate))
}

fn changes(samples: &mut Samples, stage: &Stage, agent: &Agent, pods: &[Pod]) -> Result<()> {
    let mut first = [Some(Instant::now()); ENDPOINTS];
    members(0).for_each(|index| first[index] = None);
    let left: Left = Mutex::new(first);
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let (seen, (changes, rate)) = thread::scope(|scope| -> Result<_> {
        let client = |number| watch(&mut Client::start(stage, pods, number)?, &left);
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let changer = scope.spawn(|| change(stage, agent, pods, &left, &done));
        let seen = clients.into_iter().map(|it| it.join().map_err(|_| anyhow!("a client died"))?);
        let seen = seen.collect::<Result<Vec<_>>>();
        done.store(true, Ordering::Relaxed);
        let changes = changer.join().map_err(|_| anyhow!("what changes the endpoints died"))??;
        Ok((seen?, changes))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>() as f64;
    samples.add("lost_to_dead", sum(|it| it.lost_to_dead));
    samples.add("lost_otherwise", sum(|it| it.lost_otherwise));
    samples.add("misrouted", sum(|it| it.misrouted));
    let latest = seen.iter().map(|it| it.latest).max().unwrap_or_default();
    samples.add("latest_ms_after_leaving", latest.as_secs_f64() * 1e3);
    samples.add("changes", changes as f64);
    samples.add("changes_per_s", rate);
    // One dies with each change.
    samples.add("deaths", changes as f64);
    samples.add("conn_per_s", CONNECTIONS as f64 / seconds);
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
