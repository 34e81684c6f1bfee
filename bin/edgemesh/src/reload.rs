//! The configuration file is followed: what can change while the program runs does, and the rest is told.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgemesh_admin::{AccessLog, Metrics};
use edgemesh_config::{Role, Settings, changes};
use edgemesh_tunnel::TunnelHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::logging::Levels;
use crate::metadata::Change;
use crate::settings::{AgentSettings, file};

/// How often the file is looked at. A ConfigMap reaches its volume within a minute (the kubelet's sync period); one
/// `stat` per look sees both its links and a plain file.
const LOOK: Duration = Duration::from_secs(2);

/// What the status page tells of the file.
pub(crate) struct State {
    levels: Levels,
    pending: Mutex<Option<String>>,
}

impl State {
    pub(crate) fn new(levels: Levels) -> Self {
        Self { levels, pending: Mutex::default() }
    }

    /// What the file says and the program does not do yet.
    pub(crate) fn pending(&self) -> Option<String> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_pending(&self, pending: Option<String>) {
        let mut known = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = pending.as_ref().filter(|text| known.as_ref() != Some(text)) {
            tracing::warn!("{text}");
        }
        *known = pending;
    }
}

/// Follows the file, and does what it newly says.
pub(crate) struct Follow {
    /// The file, and whose it is.
    pub(crate) path: Option<PathBuf>,
    pub(crate) role: Role,
    pub(crate) started_with: StartedWith,
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tunnel: Option<TunnelHandle>,
    pub(crate) change: mpsc::Sender<Change>,
}

/// What the program was started with: a flag wins over the file for as long as the process runs.
pub(crate) struct StartedWith {
    log_level: String,
    access_log: AccessLog,
}

impl From<&AgentSettings> for StartedWith {
    fn from(settings: &AgentSettings) -> Self {
        Self { log_level: settings.log_level.clone(), access_log: settings.access_log }
    }
}

impl Follow {
    /// Runs until shutdown; without a file there is nothing to do.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Some(path) = self.path.clone() else {
            // The other end takes the channel's end for the program's.
            return shutdown.cancelled().await;
        };
        let mut seen = stamp(&path);
        let started_with = load(&path, self.role).ok();
        let mut running = started_with.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = stamp(&path);
            if now.is_none() || now == seen {
                continue;
            }
            seen = now;
            let new = match load(&path, self.role) {
                Ok(new) => new,
                Err(problems) => {
                    let text = format!("{} is not taken over: {problems}", path.display());
                    self.state.set_pending(Some(text));
                    continue;
                }
            };
            if let (Some(first), Some(old)) = (&started_with, &running) {
                self.take_over(first, old, &new).await;
            }
            let restart = started_with.as_ref().map(|first| changes(first, &new).restart).unwrap_or_default();
            self.state.set_pending((!restart.is_empty()).then(|| {
                let keys = restart.join(", ");
                format!("{} changed since the start, and this needs a restart: {keys}", path.display())
            }));
            running = Some(new);
        }
    }

    async fn take_over(&self, first: &Settings, old: &Settings, new: &Settings) {
        let running = changes(old, new).running;
        if running.is_empty() {
            return;
        }
        let told = &self.started_with;
        if old.log.level != new.log.level
            && told.log_level == first.log.level
            && let Err(error) = self.state.levels.set(&new.log.level)
        {
            tracing::warn!(%error, "the log level stays as it was");
        }
        if old.log.access != new.log.access && told.access_log == file::access_log(first.log.access) {
            self.metrics.set_access_log(file::access_log(new.log.access));
        }
        if let (Some(handle), Some(tunnel)) = (&self.tunnel, &new.tunnel) {
            match agent::relay_addresses(&file::relays(new, tunnel)) {
                Ok(relays) => handle.set_relays(relays),
                Err(error) => tracing::warn!("the relays stay as they were: {error:#}"),
            }
        }
        if self.change.send(Change::Options(file::mesh_options(new))).await.is_err() {
            return;
        }
        tracing::info!(changed = running.join(", "), "the configuration file is taken over");
    }
}

/// Which content the name leads to now, without reading it.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

fn load(path: &Path, role: Role) -> Result<Settings, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let (settings, problems) = file::check(&text, role);
    settings.ok_or_else(|| {
        let errors = problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string);
        errors.collect::<Vec<_>>().join("; ")
    })
}
