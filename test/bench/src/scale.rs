//! What it takes to install the rules of a large cluster, and to change them.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_api::{Name, Object, SourceEvent};
use edgemesh_intercept::{Change, Interceptor};
use edgemesh_mesh::{MeshSnapshot, MeshState, PathSnapshot};
use edgemesh_net::netlink::nft::{Batch, Family, Nft, Table};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::Namespace;
use edgemesh_ruleset::{Ruleset, RulesetSettings};
use serde_json::json;

use crate::alone;
use crate::cpu;
use crate::frame::Report;
use crate::inside::Samples;

/// The part that runs in namespaces of its own.
pub(crate) const PART: &str = "scale";

/// A cluster at the limit of what Kubernetes is tested with (scalability thresholds: 10,000 Services).
pub(crate) const SERVICES: usize = 10_000;
pub(crate) const ENDPOINTS: usize = 5;

/// Smaller clusters, to see how the cost grows; the ending of the figures.
const SIZES: [(usize, &str); 3] = [(100, "_100"), (1_000, "_1k"), (SERVICES, "_10k")];

/// Installations of one size; odd, so that the median is a sample.
const INSTALLS: usize = 5;

/// Changes of one endpoint.
const CHANGES: usize = 200;

/// How long an agent's threads would be looked at that have nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// Pods of one node have a range of so many addresses (a /24, Kubernetes' default for a node).
const POD_RANGE: usize = 256;

/// Every so many Services one is of UDP: to change its endpoints takes a walk over the host's tracked connections.
const UDP_EVERY: usize = 100;

const NODE: &str = "node";

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.add_all(&alone::start(PART)?)?;
    report.note(
        "install",
        &format!(
            "an empty kernel gets the rules of Services with {ENDPOINTS} endpoints each: user and system time of the \
             process for compile, netlink messages, the kernel's transaction, reading back, and a route for each \
             address; objects are folded into a snapshot before (snapshot_cpu_ms)"
        ),
    );
    report.note(
        "change",
        &format!(
            "one endpoint of one Service gets another address, from the new snapshot to the kernel's \
             acknowledgement, wall-clock time of {CHANGES}; fold_ms is from the object to the snapshot"
        ),
    );
    report.note(
        "idle_cpu_ms",
        &format!("what the process that holds the rules runs in {} s without changes", IDLE.as_secs()),
    );
    Ok(())
}

/// A Service with the slice of its endpoints, each with its node.
fn objects(index: usize, endpoints: &[usize]) -> Result<[Object; 2]> {
    let (name, vip) = (format!("s{index}"), vip(index)?);
    let endpoint = |it: &usize| -> Result<_> {
        let node = format!("n{}", it / POD_RANGE);
        Ok(json!({ "addresses": [pod(*it)?], "nodeName": node, "conditions": { "ready": true } }))
    };
    let protocol = if index.is_multiple_of(UDP_EVERY) { "UDP" } else { "TCP" };
    let endpoints = endpoints.iter().map(endpoint).collect::<Result<Vec<_>>>()?;
    Ok([
        serde_json::from_value(json!({
            "kind": "Service", "metadata": { "name": name, "namespace": "default" },
            "spec": { "clusterIP": vip, "ports": [{ "name": "it", "port": 80, "protocol": protocol }] },
        }))?,
        serde_json::from_value(json!({
            "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "it", "port": 8080, "protocol": protocol }],
        }))?,
    ])
}

/// Addresses of Services, from 10.96.0.0/12, Kubernetes' usual range.
pub(crate) fn vip(index: usize) -> Result<Ipv4Addr> {
    /// 10.96.1.0: past the addresses that benches give to what they measure.
    const FIRST: u32 = 0x0a60_0100;
    Ok(Ipv4Addr::from_bits(FIRST + u32::try_from(index)?))
}

/// Addresses of Pods, from 10.128.0.0/9.
pub(crate) fn pod(index: usize) -> Result<Ipv4Addr> {
    const FIRST: u32 = 0x0a80_0000;
    Ok(Ipv4Addr::from_bits(FIRST + u32::try_from(index)?))
}

/// A node whose Pods have a range.
fn node(index: usize) -> Result<Object> {
    let range = format!("{}/24", pod(index * POD_RANGE)?);
    Ok(serde_json::from_value(json!({
        "kind": "Node", "metadata": { "name": format!("n{index}") },
        "spec": { "podCIDR": range, "podCIDRs": [range] },
    }))?)
}

/// The LAN of the nodes with a route to each one's Pods, as flannel's `host-gw` makes them. The namespace keeps the LAN up.
fn lan(nodes: usize) -> Result<Namespace> {
    let rest = Namespace::new_net()?;
    let mut rt = Handle::open()?;
    rt.add_link("lan0", LinkKind::Veth(Peer { name: "eth0", netns: Some(rest.as_fd()) }))?;
    let link = rt.link("lan0")?.context("no veth")?.index;
    rt.set_up(link, true)?;
    rt.add_address(link, Prefix::new(Ipv4Addr::new(192, 168, 0, 1), 16), false)?;
    let routes: Vec<Route> = (0..nodes)
        .map(|index| {
            let gateway = Ipv4Addr::from_bits(0xc0a8_0100 + u32::try_from(index)?);
            Ok(Route::via(Prefix::new(pod(index * POD_RANGE)?, 24), gateway.into()))
        })
        .collect::<Result<_>>()?;
    rt.add_routes(&routes)?;
    Ok(rest)
}

/// The part in its own namespaces.
pub(crate) fn inside(samples: &mut Samples) -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    let _lan = lan(nodes(SERVICES))?;
    for (services, ending) in SIZES {
        let mut cluster = Cluster { services, pods: services * ENDPOINTS };
        let mut state = cluster.state()?;
        let folding = own_seconds()?;
        let snapshot = state.compile();
        samples.add(format!("snapshot_cpu_ms{ending}"), (own_seconds()? - folding) * 1e3);
        for round in 0..INSTALLS {
            let mut interceptor = Interceptor::install(RulesetSettings::default())?;
            let paths = PathSnapshot { host: Arc::new(interceptor.facts()?), ..PathSnapshot::default() };
            let ruleset = install(samples, ending, &mut interceptor, &snapshot, &paths)?;
            if round + 1 == INSTALLS {
                let mut follow = Follow { interceptor, paths, state, snapshot, ruleset };
                change(samples, ending, &mut cluster, &mut follow)?;
                if services == SERVICES {
                    idle(samples, &mut follow)?;
                }
                follow.interceptor.remove()?;
                break;
            }
            interceptor.remove()?;
        }
    }
    Ok(())
}

fn own_seconds() -> Result<f64> {
    cpu::precise_seconds(std::process::id())
}

/// What the source tells of.
struct Cluster {
    services: usize,
    /// Addresses given out so far.
    pods: usize,
}

/// Nodes for the Pods of so many Services, and for those that come later.
fn nodes(services: usize) -> usize {
    (services * ENDPOINTS + CHANGES).div_ceil(POD_RANGE)
}

impl Cluster {
    fn state(&self) -> Result<MeshState> {
        let mut state = MeshState::new(Name::from(NODE));
        state.apply(SourceEvent::Reset);
        for index in 0..nodes(self.services) {
            state.apply(SourceEvent::Upsert(Arc::new(node(index)?)));
        }
        for index in 0..self.services {
            let first = index * ENDPOINTS;
            let endpoints: Vec<usize> = (first..first + ENDPOINTS).collect();
            for object in objects(index, &endpoints)? {
                state.apply(SourceEvent::Upsert(Arc::new(object)));
            }
        }
        state.apply(SourceEvent::Synced);
        Ok(state)
    }

    /// The slice of a Service of which one endpoint was replaced by a new Pod.
    fn changed(&mut self, index: usize) -> Result<Object> {
        let first = index * ENDPOINTS;
        let mut endpoints: Vec<usize> = (first..first + ENDPOINTS).collect();
        endpoints[ENDPOINTS / 2] = self.pods;
        self.pods += 1;
        let [_, slice] = objects(index, &endpoints)?;
        Ok(slice)
    }
}

/// What the agent's loop holds.
struct Follow {
    interceptor: Interceptor,
    paths: PathSnapshot,
    state: MeshState,
    snapshot: MeshSnapshot,
    ruleset: Ruleset,
}

fn install(
    samples: &mut Samples,
    ending: &str,
    interceptor: &mut Interceptor,
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
) -> Result<Ruleset> {
    let settings = interceptor.settings().clone();
    let (began, before) = (Instant::now(), own_seconds()?);
    let ruleset = Ruleset::compile(snapshot, paths, &settings);
    let compiled = own_seconds()?;
    let applied = interceptor.apply(&ruleset)?;
    let done = own_seconds()?;
    samples.add(format!("install_cpu_ms{ending}"), (done - before) * 1e3);
    samples.add(format!("install_ms{ending}"), began.elapsed().as_secs_f64() * 1e3);
    samples.add(format!("install_compile_cpu_ms{ending}"), (compiled - before) * 1e3);
    samples.add(format!("install_apply_cpu_ms{ending}"), (done - compiled) * 1e3);
    let kernel = ruleset.picks.values().sum::<u32>() as usize;
    if kernel != snapshot.frontends.len() || applied.routes_added != snapshot.frontends.len() {
        bail!("not every Service is in the kernel: {applied:?}");
    }
    Ok(ruleset)
}

fn change(samples: &mut Samples, ending: &str, cluster: &mut Cluster, follow: &mut Follow) -> Result<()> {
    let settings = follow.interceptor.settings().clone();
    let mut times = Vec::with_capacity(CHANGES);
    let mut spent = 0.0;
    for round in 0..CHANGES {
        // Services all over the maps, each once: 7919 is a prime that divides no size.
        let slice = cluster.changed(round * 7919 % cluster.services)?;
        let began = Instant::now();
        follow.state.apply(SourceEvent::Upsert(Arc::new(slice)));
        let next = follow.state.compile();
        samples.add(format!("fold_ms{ending}"), began.elapsed().as_secs_f64() * 1e3);
        let (began, before) = (Instant::now(), own_seconds()?);
        let ruleset = follow
            .ruleset
            .follow(&follow.snapshot, &next, &follow.paths, &settings)
            .context("the rules do not follow the change")?;
        let applied = follow.interceptor.apply(&ruleset)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        spent += own_seconds()? - before;
        if applied.change != Change::Updated || !applied.repaired.is_empty() {
            bail!("not a small change: {applied:?}");
        }
        (follow.snapshot, follow.ruleset) = (next, ruleset);
    }
    times.iter().for_each(|time| samples.add(format!("change_ms{ending}"), *time));
    samples.add(format!("change_cpu_ms{ending}"), spent / CHANGES as f64 * 1e3);
    samples.percentiles("change_ms", ending, times);
    Ok(())
}

/// What is left to do when nothing changes: to look, twice a minute, whether the kernel still is as it was brought.
fn idle(samples: &mut Samples, follow: &mut Follow) -> Result<()> {
    let before = own_seconds()?;
    std::thread::sleep(IDLE);
    samples.add("idle_cpu_ms", (own_seconds()? - before) * 1e3);
    let before = own_seconds()?;
    let found = follow.interceptor.verify()?;
    samples.add("verify_cpu_ms", (own_seconds()? - before) * 1e3);
    if !found.is_empty() {
        bail!("somebody changed the rules of this namespace: {found:?}");
    }
    let mut foreign = Batch::new();
    foreign.add_table(Table { family: Family::Inet, name: "foreign" });
    Nft::open()?.commit(&foreign)?;
    let before = own_seconds()?;
    let found = follow.interceptor.verify()?;
    samples.add("verify_foreign_cpu_ms", (own_seconds()? - before) * 1e3);
    if !found.is_empty() {
        bail!("another table is taken for a difference: {found:?}");
    }
    let memory = cpu::memory(std::process::id())?;
    samples.add("resident_mib", memory.resident);
    Ok(())
}
