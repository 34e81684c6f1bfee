//! What the long-running programs have in common: runtime, signals, the journal's task.

use std::time::Duration;

use anyhow::{Context as _, Result};
use edgemesh_metadata::{Journal, JournalWriter};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::logging::{self, Levels};

/// More threads than this only pass work around: the proxy is bound by the kernel, the tunnel by one swarm.
const MAX_WORKERS: usize = 4;

/// Netlink transactions, file scans and journal writes; each is rare and one of its kind runs at a time.
const BLOCKING_THREADS: usize = 4;

/// After the proxy's drain (5 s) everything else stops at once; a part that hangs is left behind.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Starts logging and runs a program until it ends.
pub(crate) fn run<F: Future<Output = Result<()>>>(
    level: &str,
    json: bool,
    serve: impl FnOnce(Levels) -> F,
) -> Result<()> {
    let levels = logging::start(level, json)?;
    match edgemesh_net::limits::raise_descriptor_limit() {
        Ok(limit) => tracing::debug!(limit, "open descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of open descriptors stays as it is"),
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("the runtime cannot be made")?
        .block_on(serve(levels))
}

pub(crate) fn start_journal(journal: Journal, tracker: &TaskTracker) -> JournalWriter {
    let (writer, keep) = journal.start();
    tracker.spawn(keep);
    writer
}

/// Waits until the program is asked to end.
pub(crate) async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that goes away is no reason to stop serving.
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => tracing::info!("SIGHUP is ignored: the configuration file and manifests are followed as they change"),
        }
    }
}
