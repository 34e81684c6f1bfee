//! Log lines on standard error.

use std::str::FromStr as _;

use anyhow::{Result, anyhow};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

/// Starts logging at `level` (`error`, `warn`, `info`, `debug`, `trace`), or by target (`info,edgemesh_tunnel=debug`).
/// Libraries say nothing below WARN unless they are named.
pub(crate) fn start(level: &str, json: bool) -> Result<Levels> {
    let (targets, handle) = reload::Layer::new(targets(level)?);
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let layer = if json { layer.json().flatten_event(true).boxed() } else { layer.boxed() };
    tracing_subscriber::registry().with(layer.with_filter(targets)).init();
    Ok(Levels(handle))
}

/// Changes the levels while the program runs.
pub(crate) struct Levels(reload::Handle<Targets, Registry>);

impl Levels {
    /// Sets the levels as [`start`] does.
    pub(crate) fn set(&self, level: &str) -> Result<()> {
        Ok(self.0.reload(targets(level)?)?)
    }
}

fn targets(level: &str) -> Result<Targets> {
    let own = Level::from_str(level.split(',').next().unwrap_or(level))
        .map_err(|_| anyhow!("--log-level {level:?}: begin with one of error, warn, info, debug, trace"))?;
    let mut targets = Targets::new().with_default(LevelFilter::WARN).with_target("edgemesh", own);
    for part in level.split(',').skip(1) {
        let (target, level) = part
            .split_once('=')
            .and_then(|(target, level)| Some((target, Level::from_str(level).ok()?)))
            .ok_or_else(|| anyhow!("--log-level {part:?}: write it as target=level"))?;
        targets = targets.with_target(target, level);
    }
    Ok(targets)
}
