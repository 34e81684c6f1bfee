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
    text: Mutex<String>,
    refused: Mutex<Vec<String>>,
}

impl State {
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rules as nft text.
    pub(super) fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Services whose address cannot be intercepted, with the reason.
    pub(super) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn succeeded(&self, generation: Generation, ruleset: &Ruleset) {
        self.applied.store(generation.0, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = edgemesh_ruleset::render::nft(ruleset);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) =
            ruleset.refused.iter().map(ToString::to_string).collect();
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
    let mut wait = VERIFY_EVERY;
    loop {
        let mut verify = false;
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = generations.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(wait) => verify = true,
        }
        let snapshot = shared.snapshots.load_full();
        let intercept = shared.settings.proxy.is_some();
        let (returned, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = bring(&mut interceptor, &snapshot, intercept, verify);
            (interceptor, outcome)
        })
        .await
        .context("the task of a netlink transaction died")?;
        interceptor = returned;
        match outcome {
            Ok((generation, ruleset)) => {
                shared.rules.succeeded(generation, &ruleset);
                wait = VERIFY_EVERY;
            }
            Err(error) => {
                shared.rules.failed(&error);
                wait = RETRY_AFTER;
            }
        }
    }
    tokio::task::spawn_blocking(move || interceptor.remove())
        .await
        .context("the task of the removal died")??;
    Ok(())
}

/// Brings the kernel to a snapshot, or only looks whether it still is as it was brought.
fn bring(
    interceptor: &mut Interceptor,
    snapshot: &MeshSnapshot,
    intercept: bool,
    verify: bool,
) -> Result<(Generation, Ruleset), InterceptError> {
    if verify {
        interceptor.verify()?;
    }
    let settings = interceptor.settings()?;
    // Without the proxy the table is empty: it replaces what a predecessor with a proxy left.
    let ruleset = if intercept { Ruleset::compile(snapshot, &settings) } else { Ruleset::empty(&settings) };
    interceptor.apply(&ruleset)?;
    Ok((snapshot.generation, ruleset))
}
