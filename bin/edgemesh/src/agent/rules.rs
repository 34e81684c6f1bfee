//! The kernel's rules follow the snapshots.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edgemesh_api::Name;
use edgemesh_config::{KernelBackend, KernelPath};
use edgemesh_intercept::{InterceptError, Interceptor};
use edgemesh_mesh::{Generation, HostFacts, MeshSnapshot, Path, PathSnapshot};
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::rt::Monitor;
use edgemesh_ruleset::{DeviceAddress, Ruleset, RulesetSettings, render};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::settings::AgentSettings;

/// Somebody may change the device, a route or a part of the table; this is how long it goes unnoticed. Go EdgeMesh and
/// kube-proxy look every 30 s too.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// Docker or a firewall that starts drops Pods' connections that the kernel carries until this look notices; a container
/// engine takes a second to start anyway. A flush of the whole ruleset (firewall reloads do that) lasts as long. It costs one question to the kernel.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// After a failed transaction; the reason is often another program that holds the ruleset for a moment.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// From the first change of the host's links, addresses or routes to a look at them: what makes a Pod's network takes tens
/// of milliseconds, and a Pod waits longer than this to be ready.
const SETTLE: Duration = Duration::from_millis(100);

/// What the status page tells of the rules.
#[derive(Default)]
pub(super) struct State {
    applied: AtomicU64,
    error: Mutex<Option<String>>,
    ruleset: Mutex<Option<Arc<Ruleset>>>,
    /// What carries the rules out, and why.
    backend: Option<(&'static str, String)>,
    /// How many frontends sockets of the host connect past, or why none; absent before the rules are.
    connect: Mutex<Option<Result<usize, String>>>,
}

/// What the kernel was brought to, and for what.
struct Brought {
    snapshot: Arc<MeshSnapshot>,
    paths: Arc<PathSnapshot>,
    ruleset: Arc<Ruleset>,
}

impl State {
    /// Of rules that this carries out, if anything does.
    pub(super) fn of(interceptor: Option<&Interceptor>) -> Self {
        let backend = interceptor.map(Interceptor::backend);
        Self { backend: backend.map(|(name, reason)| (name, reason.to_owned())), ..Self::default() }
    }

    pub(super) fn backend(&self) -> Option<(&'static str, &str)> {
        self.backend.as_ref().map(|(name, reason)| (*name, reason.as_str()))
    }

    /// How many frontends are replaced when sockets of the host connect, or why none.
    pub(super) fn connect_rewrite(&self) -> Option<Result<usize, String>> {
        self.connect.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Whether the kernel is as it should be.
    pub(super) fn is_in_place(&self) -> bool {
        self.applied() > 0 && self.error().is_none()
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rules as the backend's tools take them; made when it is asked for, since it is megabytes in a large cluster.
    pub(super) fn text(&self) -> String {
        let Some(ruleset) = self.ruleset() else { return String::new() };
        if self.backend().is_none_or(|(name, _)| name != "iptables") {
            return render::nft(&ruleset);
        }
        let families = ruleset.families.iter();
        families.map(|it| render::ipset(&ruleset, *it) + &render::iptables(&ruleset, *it)).collect()
    }

    /// Services whose address cannot be intercepted, with the reason.
    pub(super) fn refused(&self) -> Vec<String> {
        let ruleset = self.ruleset();
        ruleset.iter().flat_map(|ruleset| &ruleset.refused).map(ToString::to_string).collect()
    }

    pub(super) fn ruleset(&self) -> Option<Arc<Ruleset>> {
        self.ruleset.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn succeeded(&self, brought: &Brought, connect: Result<usize, &str>) {
        *self.connect.lock().unwrap_or_else(PoisonError::into_inner) = Some(connect.map_err(str::to_owned));
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.ruleset.lock().unwrap_or_else(PoisonError::into_inner) = Some(brought.ruleset.clone());
        self.applied.store(brought.snapshot.generation.0, Ordering::Relaxed);
    }

    fn failed(&self, error: &InterceptError) {
        let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        if known.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "the kernel's rules are not as they should be; trying again");
        }
        *known = Some(text);
    }
}

/// What the rules are made with; `None` when the kernel is left alone.
pub(super) fn settings(settings: &AgentSettings) -> Option<RulesetSettings> {
    if settings.dns.is_none() && settings.proxy.is_none() {
        return None;
    }
    let mut rules = RulesetSettings::default();
    rules.device.name.clone_from(&settings.device);
    if let Some(proxy) = &settings.proxy {
        rules.port = proxy.port;
        rules.kernel_path = proxy.kernel_path != KernelPath::Off;
        rules.connect_rewrite = proxy.connect_rewrite && rules.kernel_path;
        rules.backend = match proxy.backend {
            KernelBackend::Auto => edgemesh_ruleset::KernelBackend::Auto,
            KernelBackend::Nftables => edgemesh_ruleset::KernelBackend::Nftables,
            KernelBackend::Iptables => edgemesh_ruleset::KernelBackend::Iptables,
        };
        rules.node_port_addresses.clone_from(&proxy.node_port_addresses);
    }
    for addr in settings.dns.iter().flat_map(|dns| &dns.listen).map(SocketAddr::ip) {
        let here = rules.device.addresses.iter().any(|known| known.addr == addr);
        // Loopback and wildcard addresses are there without us.
        if !here && !addr.is_loopback() && !addr.is_unspecified() {
            rules
                .device
                .addresses
                .push(DeviceAddress { addr, prefix_len: if addr.is_ipv4() { 32 } else { 128 } });
        }
    }
    Some(rules)
}

/// Keeps the kernel at the newest snapshot and paths until shutdown, then removes everything or leaves it, as the settings
/// say.
pub(super) async fn run(
    interceptor: Interceptor,
    shared: Arc<Shared>,
    mut generations: watch::Receiver<Generation>,
    mut tunnel: Option<watch::Receiver<u64>>,
    shutdown: CancellationToken,
) -> Result<()> {
    generations.mark_changed();
    let mut monitor = Monitor::open().map_err(|error| unmonitored(&error)).ok();
    let mut look_at = None;
    let mut due = Instant::now() + VERIFY_EVERY;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut follower = Follower { interceptor, shared: shared.clone(), last: None, facts: None };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = generations.changed() => if changed.is_err() { break },
            () = changed(&mut tunnel) => {}
            () = host_changed(&mut monitor) => {
                // A Pod that comes is several changes; the first one waits for the others.
                look_at.get_or_insert(Instant::now() + SETTLE);
                continue;
            }
            () = at(look_at) => {
                look_at = None;
                follower.facts = None;
            }
            () = tokio::time::sleep_until(due) => {}
            _ = look.tick() => match follower.look() {
                Ok(Look::Same) => continue,
                Ok(Look::Facts) => {}
                // What the check repairs is also what it would say of an error.
                Ok(Look::Flushed) | Err(_) => due = Instant::now(),
            }
        }
        // A stream of changes that leave the kernel alone does not put the check off.
        let verify = Instant::now() >= due;
        let (returned, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = follower.bring(verify);
            (follower, outcome)
        })
        .await
        .context("the task of a netlink transaction died")?;
        follower = returned;
        match outcome {
            Ok(touched) => {
                if let Some(last) = &follower.last {
                    shared.rules.succeeded(last, follower.interceptor.connect_rewrite());
                }
                if touched {
                    due = Instant::now() + VERIFY_EVERY;
                }
            }
            Err(error) => {
                shared.rules.failed(&error);
                due = Instant::now() + RETRY_AFTER;
            }
        }
    }
    let interceptor = follower.interceptor;
    if shared.settings.keep_rules {
        interceptor.leave();
        return Ok(());
    }
    tokio::task::spawn_blocking(move || interceptor.remove())
        .await
        .context("the task of the removal died")??;
    Ok(())
}

/// Waits until then; for ever where there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the host's links, addresses or routes; for ever once they cannot be followed.
async fn host_changed(monitor: &mut Option<Monitor>) {
    let error = match monitor {
        Some(following) => following.changed().await.err(),
        None => std::future::pending().await,
    };
    if let Some(error) = error {
        unmonitored(&error);
        *monitor = None;
    }
}

fn unmonitored(error: &NetlinkError) {
    tracing::warn!(%error, "changes of the host's network are noticed by the check of every 30 s only");
}

/// Waits for the tunnel to tell of a change; for ever where there is none.
async fn changed(tunnel: &mut Option<watch::Receiver<u64>>) {
    let gone = match tunnel {
        Some(receiver) => receiver.changed().await.is_err(),
        None => std::future::pending().await,
    };
    if gone {
        *tunnel = None;
    }
}

/// Brings the kernel to what snapshot, paths and host say.
struct Follower {
    interceptor: Interceptor,
    shared: Arc<Shared>,
    last: Option<Brought>,
    /// What the host was when it was looked at last.
    facts: Option<Arc<HostFacts>>,
}

/// What others did to nftables.
enum Look {
    /// Nothing.
    Same,
    /// Something that may be another fact of the host.
    Facts,
    /// Took our table away, as `nft flush ruleset` does.
    Flushed,
}

impl Follower {
    /// Looks for what others did. A program that changes its rules all the time costs no more than the facts.
    fn look(&mut self) -> Result<Look, InterceptError> {
        if !self.interceptor.changed_by_others()? {
            return Ok(Look::Same);
        }
        if self.interceptor.is_flushed()? {
            return Ok(Look::Flushed);
        }
        // Read again at the next step.
        self.facts = None;
        Ok(Look::Facts)
    }

    /// Brings the kernel to the newest snapshot, or only looks whether it still is as it was brought. The kernel is not
    /// touched when nothing changed that it is to know; the value says whether it was.
    fn bring(&mut self, verify: bool) -> Result<bool, InterceptError> {
        if verify {
            self.interceptor.verify()?;
        }
        let snapshot = self.shared.snapshots.load_full();
        if self.last.is_none() && snapshot.stale && snapshot.services.is_empty() {
            // Nothing is known yet, not even from the journal: what a predecessor left serves meanwhile.
            return Ok(false);
        }
        let paths = self.paths(&snapshot, verify)?;
        let settings = self.interceptor.settings().clone();
        let last = self.last.take();
        let alike = last.as_ref().filter(|last| lead_alike(&last.paths, &paths));
        let (ruleset, changed) = match alike {
            // Without the proxy the table is empty: it replaces what a predecessor with a proxy left.
            _ if self.shared.settings.proxy.is_none() => {
                (Arc::new(Ruleset::empty(&paths.host, &settings)), true)
            }
            None => (Arc::new(Ruleset::compile(&snapshot, &paths, &settings)), true),
            Some(last) => match last.ruleset.follow(&last.snapshot, &snapshot, &paths, &settings) {
                None => (last.ruleset.clone(), false),
                Some(ruleset) => (Arc::new(ruleset), true),
            },
        };
        // What somebody else had is looked for again at every check: it may be free now.
        let touched = changed || verify;
        if touched {
            self.interceptor.apply(&ruleset)?;
        }
        self.last = Some(Brought { snapshot, paths, ruleset });
        Ok(touched)
    }

    /// The paths, with what the host is now; the router learns it as well.
    fn paths(&mut self, snapshot: &MeshSnapshot, verify: bool) -> Result<Arc<PathSnapshot>, InterceptError> {
        let mut facts = match self.facts.take().filter(|_| !verify) {
            Some(facts) => facts,
            None => Arc::new(self.interceptor.facts()?),
        };
        let always = self.shared.settings.proxy.as_ref().map(|it| it.kernel_path) == Some(KernelPath::Always);
        if always && facts.forward_drops {
            Arc::make_mut(&mut facts).forward_drops = false;
        }
        let unknown = |range: &&IpNet| !facts.pod_ranges.contains(range);
        let ranges: Vec<IpNet> = snapshot.node.pod_ranges.iter().filter(unknown).copied().collect();
        if !ranges.is_empty() {
            Arc::make_mut(&mut facts).pod_ranges.extend(ranges);
        }
        self.facts = Some(facts.clone());
        if self.shared.paths.load().host != facts {
            self.shared.paths.rcu(|old| PathSnapshot { nodes: old.nodes.clone(), host: facts.clone() });
        }
        Ok(self.shared.paths.load_full())
    }
}

/// Whether the same endpoints are reached in the same ways; round-trip times do not count.
fn lead_alike(one: &PathSnapshot, other: &PathSnapshot) -> bool {
    let ways = |paths: &PathSnapshot| -> Vec<(Name, Path, Option<IpAddr>)> {
        let nodes = paths.nodes.iter().filter(|(_, it)| it.path != Path::Unreachable);
        nodes.map(|(node, it)| (node.clone(), it.path, it.lan_address)).collect()
    };
    one.host == other.host && ways(one) == ways(other)
}
