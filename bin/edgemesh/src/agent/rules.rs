//! The kernel's rules follow the snapshots.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edgemesh_intercept::{InterceptError, Interceptor};
use edgemesh_mesh::{Generation, MeshSnapshot};
use edgemesh_ruleset::{DeviceAddress, Ruleset, RulesetSettings};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::settings::AgentSettings;

/// Somebody may flush the whole ruleset (firewall reloads do); this is how long it goes unnoticed. Go EdgeMesh and
/// kube-proxy look every 30 s too.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// After a failed transaction; the reason is often another program that holds the ruleset for a moment.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the status page tells of the rules.
#[derive(Default)]
pub(super) struct State {
    applied: AtomicU64,
    error: Mutex<Option<String>>,
    ruleset: Mutex<Option<Arc<Ruleset>>>,
}

/// What the kernel was brought to, and for what.
struct Brought {
    snapshot: Arc<MeshSnapshot>,
    settings: RulesetSettings,
    ruleset: Arc<Ruleset>,
}

impl State {
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rules as nft text; made when it is asked for, since it is megabytes in a large cluster.
    pub(super) fn text(&self) -> String {
        self.ruleset().map(|ruleset| edgemesh_ruleset::render::nft(&ruleset)).unwrap_or_default()
    }

    /// Services whose address cannot be intercepted, with the reason.
    pub(super) fn refused(&self) -> Vec<String> {
        let ruleset = self.ruleset();
        ruleset.iter().flat_map(|ruleset| &ruleset.refused).map(ToString::to_string).collect()
    }

    fn ruleset(&self) -> Option<Arc<Ruleset>> {
        self.ruleset.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn succeeded(&self, brought: &Brought) {
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

/// Keeps the kernel at the newest snapshot until shutdown, then removes everything.
pub(super) async fn run(
    mut interceptor: Interceptor,
    shared: Arc<Shared>,
    mut generations: watch::Receiver<Generation>,
    shutdown: CancellationToken,
) -> Result<()> {
    generations.mark_changed();
    let mut due = Instant::now() + VERIFY_EVERY;
    let mut brought = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = generations.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(due) => {}
        }
        // A stream of changes that leave the kernel alone does not put the check off.
        let verify = Instant::now() >= due;
        let snapshot = shared.snapshots.load_full();
        let intercept = shared.settings.proxy.is_some();
        let last = brought.take();
        let (returned, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = bring(&mut interceptor, last, snapshot, intercept, verify);
            (interceptor, outcome)
        })
        .await
        .context("the task of a netlink transaction died")?;
        interceptor = returned;
        match outcome {
            Ok((now, touched)) => {
                shared.rules.succeeded(&now);
                brought = Some(now);
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
    tokio::task::spawn_blocking(move || interceptor.remove())
        .await
        .context("the task of the removal died")??;
    Ok(())
}

/// Brings the kernel to a snapshot, or only looks whether it still is as it was brought. The kernel is not touched when
/// only endpoints changed and every frontend still has one; the second value says whether it was.
fn bring(
    interceptor: &mut Interceptor,
    last: Option<Brought>,
    snapshot: Arc<MeshSnapshot>,
    intercept: bool,
    verify: bool,
) -> Result<(Brought, bool), InterceptError> {
    if verify {
        interceptor.verify()?;
    }
    let settings = interceptor.settings()?;
    let last = last.filter(|last| last.settings == settings);
    let (ruleset, changed) = match &last {
        // Without the proxy the table is empty: it replaces what a predecessor with a proxy left.
        _ if !intercept => (Arc::new(Ruleset::empty(&settings)), true),
        None => (Arc::new(Ruleset::compile(&snapshot, &settings)), true),
        Some(last) => match last.ruleset.follow(&last.snapshot, &snapshot, &settings) {
            None => (last.ruleset.clone(), false),
            Some(ruleset) => (Arc::new(ruleset), true),
        },
    };
    // What somebody else had is looked for again at every check: it may be free now.
    let touched = changed || verify;
    if touched {
        interceptor.apply(&ruleset)?;
    }
    Ok((Brought { snapshot, settings, ruleset }, touched))
}
