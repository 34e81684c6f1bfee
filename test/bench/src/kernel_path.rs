//! What a Service costs over a plain route: by our rules in the kernel, by our proxy, and by rules of kube-proxy's shapes,
//! beside 10 Services, 1,000 and 10,000.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::alone;
use crate::frame::Report;
use crate::inside::Samples;
use crate::kernel_path_stage::{
    Agent, BULK, ECHO, KERNEL_VIP, LAST, SERVER, Stage, USER_VIP, account_seconds, agent_seconds, connect,
    own_account,
};
use crate::scale::{pod, vip};

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "kernel-path";

/// Ratios are medians of ratios within a round, whose parts are a second apart. Odd, so that each is a sample; as many as
/// three minutes hold.
const ROUNDS: usize = 9;

/// Services beside the measured one, and the ending of the figures.
const SIZES: [(usize, &str); 3] = [(10, "10"), (1_000, "1k"), (10_000, "10k")];

/// One bulk sample, by so many streams.
const BULK_BYTES: u64 = 500_000_000;
const STREAMS: [u64; 2] = [1, 8];
/// Requests on one connection.
const REQUESTS: usize = 4_000;
/// Connections of one sample, by so many clients at a time: more than the two ends need to keep a small machine busy.
const CONNECTIONS: usize = 2_000;
const CLIENTS: usize = 4;

/// Arms whose client is a process of the node, and those of them where its sockets connect to the endpoint at once.
const ON_NODE: &str = "_on_node";
const CONNECT: &str = "connect";

/// Threads of a server for each of its ports: one for each client, and one that is free.
const THREADS: usize = 9;

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "accounts",
        "all of the machine's side of the path: threads of client and server, the agent's process, and ksoftirqd, by the \
         scheduler (/proc/PID/schedstat); other work in soft interrupts counts with the thread it interrupts",
    );
    report.note(
        "paths",
        "client, node and server in namespaces of their own, routed. raw: to the server's address, no rules, no connection \
         tracking; kernel_N: to a Service of an agent with N others; user: through the agent's proxy beside 10,000 others; \
         nft_N: a verdict map by address and port, a chain for each Service and endpoint, as kube-proxy's nftables mode; \
         linear_N: one rule after the other for each Service, as its iptables mode, loaded as nftables rules, the \
         measured one in the middle; raw_on_node and connect_10k: the same as raw and kernel_10k for a client that is a \
         process of the node, whose sockets the agent's BPF programs connect to the endpoint at once",
    );
    report.note(
        "ratios",
        "kernel path to raw at 10,000 Services, medians of the ratios within each round; throughput and CPU per GB over 1 and \
         8 streams together",
    );
    report.note(
        "samples",
        &format!(
            "{ROUNDS} rounds of {} MB by {STREAMS:?} streams, {REQUESTS} requests of one byte each way on one connection, \
             {CONNECTIONS} connections of one byte each way by {CLIENTS} clients",
            BULK_BYTES / 1_000_000
        ),
    );
    // `user_cpu_per_gb_ratio` and `user_conn_per_cpu_ratio`: what must pass the proxy, beside bare ones.
    crate::user_path::run(report)
}

/// One way from a client to a server.
struct Arm {
    name: String,
    stage: usize,
    target: Ipv4Addr,
    agents: Vec<u32>,
    /// The client is a process of the node, not of a network namespace behind it.
    on_node: bool,
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    let mut stages = Vec::new();
    let mut agents = Vec::new();
    let mut arms = Vec::new();
    let mut arm = |name: String, stages: &[Stage], target, agents| {
        let on_node = name.ends_with(ON_NODE) || name.starts_with(CONNECT);
        arms.push(Arm { name, stage: stages.len() - 1, target, agents, on_node });
    };
    stages.push(Stage::new()?);
    arm("raw".to_owned(), &stages, SERVER, Vec::new());
    arm(format!("raw{ON_NODE}"), &stages, SERVER, Vec::new());
    // The largest first: raw and it are compared.
    for (services, ending) in SIZES.into_iter().rev() {
        stages.push(Stage::new()?);
        let agent = Agent::start(&stages[stages.len() - 1].node, services)?;
        arm(format!("kernel_{ending}"), &stages, KERNEL_VIP, vec![agent.pid()]);
        if ending == "10k" {
            arm("user".to_owned(), &stages, USER_VIP, vec![agent.pid()]);
            match agent.connect_rewrite()? {
                true => arm(format!("{CONNECT}_10k"), &stages, KERNEL_VIP, vec![agent.pid()]),
                false => eprintln!("no arm {CONNECT}_10k: the kernel keeps BPF from the agent"),
            }
        }
        agents.push(agent);
    }
    for (services, ending) in SIZES {
        for (name, rules) in [("nft", by_map(services)?), ("linear", one_by_one(services)?)] {
            stages.push(Stage::new()?);
            load(&stages[stages.len() - 1], &rules)?;
            arm(format!("{name}_{ending}"), &stages, KERNEL_VIP, Vec::new());
        }
    }
    for stage in &mut stages {
        stage.serve(THREADS)?;
    }
    let bench = Bench { stages, softirq: softirq_accounts() };
    for round in 0..ROUNDS {
        let mut order: Vec<&Arm> = arms.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut figures = Figures::default();
        for streams in STREAMS {
            order.iter().try_for_each(|arm| bench.bulk(&mut figures, arm, streams))?;
        }
        order.iter().try_for_each(|arm| bench.requests(&mut figures, arm))?;
        order.iter().try_for_each(|arm| bench.connections(&mut figures, arm))?;
        figures.compare(samples)?;
        figures.0.into_iter().for_each(|(figure, value)| samples.add(figure, value));
    }
    Ok(())
}

/// What one round measured.
#[derive(Default)]
struct Figures(Vec<(String, f64)>);

impl Figures {
    fn add(&mut self, figure: &str, arm: &Arm, value: f64) {
        self.0.push((format!("{figure}_{}", arm.name), value));
    }

    fn get(&self, figure: &str, arm: &str) -> Result<f64> {
        let name = format!("{figure}_{arm}");
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).with_context(|| format!("{name} was not measured"))
    }

    fn compare(&self, samples: &mut Samples) -> Result<()> {
        let of_both = |arm: &str, each: &dyn Fn(f64) -> f64, figure: &str| -> Result<f64> {
            STREAMS.iter().map(|streams| Ok(each(self.get(&format!("{figure}_{streams}"), arm)?))).sum()
        };
        for (_, size) in SIZES {
            let ending = if size == "10k" { String::new() } else { format!("_{size}") };
            let arm = format!("kernel_{size}");
            let slowness = |arm: &str| of_both(arm, &f64::recip, "gbit_per_s");
            let spent = |arm: &str| of_both(arm, &|it| it, "cpu_per_gb");
            samples.add(format!("throughput_ratio{ending}"), slowness("raw")? / slowness(&arm)?);
            samples.add(format!("cpu_per_gb_ratio{ending}"), spent(&arm)? / spent("raw")?);
            for figure in ["cpu_us_per_request", "cpu_us_per_conn"] {
                let ratio = self.get(figure, &arm)? / self.get(figure, "raw")?;
                samples.add(format!("{figure}_ratio{ending}"), ratio);
            }
            let rate = self.get("conn_per_s", &arm)? / self.get("conn_per_s", "raw")?;
            samples.add(format!("connection_rate_ratio{ending}"), rate);
        }
        let (connect, raw) = (format!("{CONNECT}_10k"), format!("raw{ON_NODE}"));
        if let Ok(rate) = self.get("conn_per_s", &connect) {
            samples.add("connection_rate_ratio_connect", rate / self.get("conn_per_s", &raw)?);
            let spent = self.get("cpu_us_per_conn", &connect)? / self.get("cpu_us_per_conn", &raw)?;
            samples.add("cpu_us_per_conn_ratio_connect", spent);
        }
        Ok(())
    }
}

struct Bench {
    stages: Vec<Stage>,
    softirq: Vec<PathBuf>,
}

impl Bench {
    /// Runs clients at a time; what each says, the CPU seconds of the whole path, and seconds of time.
    fn spend<T: Send>(
        &self,
        arm: &Arm,
        clients: usize,
        client: impl Fn() -> Result<T> + Sync,
    ) -> Result<(Vec<T>, f64, f64)> {
        let stage = &self.stages[arm.stage];
        let standing = || -> Result<f64> {
            let softirq: f64 = self.softirq.iter().map(|it| account_seconds(it)).sum::<Result<f64>>()?;
            Ok(stage.server_seconds()? + agent_seconds(&arm.agents)? + softirq)
        };
        let one = || -> Result<(T, f64)> {
            if arm.on_node {
                stage.node.enter()?
            } else {
                stage.client.enter()?
            }
            let said = client()?;
            Ok((said, account_seconds(&own_account()?)?))
        };
        let (before, began) = (standing()?, Instant::now());
        let said = thread::scope(|scope| -> Result<Vec<(T, f64)>> {
            let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
            let joined =
                threads.into_iter().map(|it| it.join().map_err(|_| anyhow::anyhow!("a client died"))?);
            joined.collect()
        })
        .with_context(|| arm.name.clone())?;
        let seconds = began.elapsed().as_secs_f64();
        let own: f64 = said.iter().map(|(_, spent)| spent).sum();
        Ok((said.into_iter().map(|(said, _)| said).collect(), standing()? - before + own, seconds))
    }

    fn bulk(&self, figures: &mut Figures, arm: &Arm, streams: u64) -> Result<()> {
        let target = SocketAddr::from((arm.target, BULK));
        let count = usize::try_from(streams)?;
        let (_, spent, seconds) = self.spend(arm, count, || {
            let mut stream = connect(target)?;
            let mut left = BULK_BYTES / streams;
            stream.write_all(&left.to_be_bytes())?;
            let mut buffer = vec![0; 256 << 10];
            while left > 0 {
                match stream.read(&mut buffer)? {
                    0 => bail!("the answer ended {left} bytes short"),
                    length => left -= length as u64,
                }
            }
            Ok(())
        })?;
        let gigabytes = BULK_BYTES as f64 / 1e9;
        figures.add(&format!("gbit_per_s_{streams}"), arm, gigabytes * 8.0 / seconds);
        figures.add(&format!("cpu_per_gb_{streams}"), arm, spent / gigabytes);
        Ok(())
    }

    fn requests(&self, figures: &mut Figures, arm: &Arm) -> Result<()> {
        let target = SocketAddr::from((arm.target, ECHO));
        let (times, spent, _) = self.spend(arm, 1, || {
            let mut stream = connect(target)?;
            let mut times = Vec::with_capacity(REQUESTS);
            for _ in 0..REQUESTS {
                let began = Instant::now();
                stream.write_all(b"?")?;
                stream.read_exact(&mut [0; 1])?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        })?;
        let mut times = times.concat();
        times.sort_by(f64::total_cmp);
        for percent in [50, 99] {
            // The nearest rank.
            let rank = (times.len() * percent).div_ceil(100) - 1;
            figures.add(&format!("latency_us_p{percent}"), arm, times[rank]);
        }
        figures.add("cpu_us_per_request", arm, spent * 1e6 / REQUESTS as f64);
        Ok(())
    }

    fn connections(&self, figures: &mut Figures, arm: &Arm) -> Result<()> {
        let target = SocketAddr::from((arm.target, ECHO));
        let (_, spent, seconds) = self.spend(arm, CLIENTS, || {
            for _ in 0..CONNECTIONS / CLIENTS {
                let mut stream = connect(target)?;
                stream.write_all(&[LAST])?;
                stream.read_exact(&mut [0; 1])?;
                if stream.read(&mut [0; 1])? > 0 {
                    bail!("more than an answer");
                }
            }
            Ok(())
        })?;
        figures.add("conn_per_s", arm, CONNECTIONS as f64 / seconds);
        figures.add("cpu_us_per_conn", arm, spent * 1e6 / CONNECTIONS as f64);
        Ok(())
    }
}

/// The accounts of the kernel's threads for soft interrupts; none where they are not to be seen.
fn softirq_accounts() -> Vec<PathBuf> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_one = |folder: &Path| {
        std::fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    folders.map(|it| it.path()).filter(|it| is_one(it)).map(|it| it.join("schedstat")).collect()
}

/// The Services beside the measured one, which stands in the middle: virtual address, port, endpoint.
fn services(count: usize) -> Result<Vec<(Ipv4Addr, u16, Ipv4Addr, u16)>> {
    let mut all = Vec::with_capacity(count + 2);
    for index in 0..count {
        if index == count / 2 {
            all.extend([BULK, ECHO].map(|port| (KERNEL_VIP, port, SERVER, port)));
        }
        all.push((vip(index)?, 80, pod(index)?, 8080));
    }
    Ok(all)
}

/// Chains of a Service and of its one endpoint, and what every packet passes after that.
fn chains(text: &mut String, services: &[(Ipv4Addr, u16, Ipv4Addr, u16)]) -> Result<()> {
    for (number, (_, _, endpoint, port)) in services.iter().enumerate() {
        write!(
            text,
            "chain endpoint-{number} {{ ip saddr {endpoint} meta mark set 0x4000; ip protocol tcp dnat to {endpoint}:{port}; }}\n\
             chain service-{number} {{ ip saddr 10.1.0.77 meta mark set 0x4000; numgen random mod 1 vmap {{ 0 : goto \
             endpoint-{number} }}; }}\n"
        )?;
    }
    text.push_str(
        "chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade fully-random; }\n\
         chain postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n\
         chain forward { type filter hook forward priority filter; ct state invalid drop; \
         ct state established,related accept; }\n",
    );
    Ok(())
}

/// Rules in the shape of kube-proxy's nftables mode.
fn by_map(count: usize) -> Result<String> {
    let services = services(count)?;
    let mut text = "table ip services {\n".to_owned();
    chains(&mut text, &services)?;
    text.push_str("map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = {\n");
    for (number, (vip, port, ..)) in services.iter().enumerate() {
        writeln!(text, "{vip} . tcp . {port} : goto service-{number},")?;
    }
    text.push_str(
        "} }\nchain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n\
         chain prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         chain output { type nat hook output priority -100; jump services; }\n}\n",
    );
    Ok(text)
}

/// Rules in the shape of kube-proxy's iptables mode.
fn one_by_one(count: usize) -> Result<String> {
    let services = services(count)?;
    let mut text = "table ip services {\n".to_owned();
    chains(&mut text, &services)?;
    text.push_str("chain services {\n");
    for (number, (vip, port, ..)) in services.iter().enumerate() {
        writeln!(text, "ip daddr {vip} tcp dport {port} counter jump service-{number};")?;
    }
    text.push_str(
        "}\nchain prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         chain output { type nat hook output priority -100; jump services; }\n}\n",
    );
    Ok(text)
}

fn load(stage: &Stage, rules: &str) -> Result<()> {
    let loaded = stage.node.run(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = nft.stdin.take() {
            input.write_all(rules.as_bytes())?;
        }
        nft.wait()
    });
    let status = loaded.context("nft, for the rules that are compared with: install nftables")?;
    if !status.success() {
        bail!("nft refuses the rules that are compared with: {status}");
    }
    Ok(())
}
