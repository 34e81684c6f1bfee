//! The gateway: it follows its objects and tells of them. It has no listeners yet.

mod listen;
mod pages;
mod servers;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use edgemesh_admin::{Admin, Metrics};
use edgemesh_api::{Kind, Name};
use edgemesh_config::{GatewaySettings, Role};
use edgemesh_mesh::{Generation, MeshSnapshot};
use lexopt::{Arg, ValueExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::printed;
use crate::process::{STOP_TIMEOUT, start_journal, wait_for_signal};
use crate::settings::{AgentSettings, file, skip_klog};
use crate::{logging, metadata, process, reload};

const HELP: &str = "\
edgemesh-gateway: ingress from outside the cluster

It follows Gateways, VirtualServices, the Gateway API's kinds and certificates, and tells of them in `edgemesh status
--admin-socket /run/edgemesh/gateway.sock`. This version has no listeners: /readyz stays 503.

  --config-file FILE   the gateway's configuration in Go EdgeMesh's form (docs/config.md)
  --minconfig          print the keys to look at, and end
  --defaultconfig      print every key with its default, and end
  --version            print the version, and end
";

/// The file that Go EdgeMesh's gateway reads when it is not told another one.
const FILE: &str = "/etc/edgemesh/config/edgemesh-gateway.yaml";

/// Why it is not ready. Whoever waits for that keeps the gateway that works.
const NOT_SERVED: &str = "not served by this version";

/// `edgemesh-gateway`.
pub(crate) fn command(rest: Vec<OsString>) -> Result<()> {
    if printed(&rest, Role::Gateway) {
        return Ok(());
    }
    let mut path = PathBuf::from(FILE);
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("config-file") => path = PathBuf::from(parser.value()?),
            Arg::Long("help") | Arg::Short('h') => {
                print!("{HELP}");
                return Ok(());
            }
            Arg::Short('v') | Arg::Long("v") => drop(parser.value()?.string()?),
            Arg::Long(flag) => {
                let flag = flag.to_owned();
                if !skip_klog(&flag, &mut parser)? {
                    bail!("--{flag}: there is no such flag; `edgemesh-gateway --help` lists them");
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let config = file::read(&path, Role::Gateway)?;
    let mut settings = file::of_config(&config)?;
    settings.file = Some(path);
    let (level, json) = (settings.log_level.clone(), settings.log_json);
    process::run(&level, json, |levels| serve(settings, config.gateway, levels))
}

/// What every part shares.
struct Shared {
    settings: AgentSettings,
    /// Where it would listen; `None` when the file does not turn the gateway on.
    gateway: Option<GatewaySettings>,
    started: Instant,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    metadata: Arc<metadata::State>,
    reload: Arc<reload::State>,
}

async fn serve(
    settings: AgentSettings,
    gateway: Option<GatewaySettings>,
    levels: logging::Levels,
) -> Result<()> {
    let started = Instant::now();
    let shutdown = CancellationToken::new();
    let tracker = TaskTracker::new();
    let state_dir = settings.state_dir.display();
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("commonConfig.stateDir: {state_dir} cannot be made"))?;

    let node = Name::from(settings.node_name.as_str());
    let (first, journal) = metadata::restore(&settings, node);
    let journal = journal.map(|journal| start_journal(journal, &tracker));
    let snapshots = Arc::new(ArcSwap::from_pointee(first.snapshot.clone()));
    let (access_log, source) = (settings.access_log, settings.source.clone());
    let shared = Arc::new(Shared {
        metadata: Arc::new(metadata::State::new(&first, journal)),
        reload: Arc::new(reload::State::new(levels)),
        settings,
        gateway,
        started,
        snapshots: snapshots.clone(),
    });
    let pages = Arc::new(pages::GatewayPages(shared.clone()));
    let metrics = Arc::new(Metrics::new(access_log, pages.clone()));
    let admin = Admin::bind(&shared.settings.admin_socket, shared.settings.metrics_listen)?;

    let (published, generations) = watch::channel(first.snapshot.generation);
    let (change, changes) = tokio::sync::mpsc::channel(1);
    let kinds = [&Kind::AGENT[..], &Kind::INGRESS].concat();
    let follow = metadata::Follow { metadata: shared.metadata.clone(), snapshots, source, kinds, started };
    tracker.spawn(metadata::run(follow, first.state, published, changes, shutdown.clone()));
    let follow = reload::Follow {
        path: shared.settings.file.clone(),
        role: Role::Gateway,
        started_with: (&shared.settings).into(),
        state: shared.reload.clone(),
        metrics: metrics.clone(),
        tunnel: None,
        change,
    };
    tracker.spawn(follow.run(shutdown.clone()));
    tracker.spawn(warn_once(shared.clone(), generations, shutdown.clone()));
    tracker.spawn(admin.run(metrics, pages, shutdown.clone()));
    tracing::info!(
        node = %shared.settings.node_name,
        version = env!("CARGO_PKG_VERSION"),
        "gateway follows its objects; it has no listeners in this version"
    );

    wait_for_signal().await?;
    tracing::info!("gateway stops");
    shutdown.cancel();
    tracker.close();
    if tokio::time::timeout(STOP_TIMEOUT, tracker.wait()).await.is_err() {
        tracing::warn!("a part did not stop in time and is left behind");
    }
    Ok(())
}

/// Tells once that somebody asks for what this version does not do; which servers these are, the status tells.
async fn warn_once(
    shared: Arc<Shared>,
    mut generations: watch::Receiver<Generation>,
    shutdown: CancellationToken,
) {
    generations.mark_changed();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = generations.changed() => if changed.is_err() { return },
        }
        let servers = servers::of(&shared.snapshots.load().ingress);
        let Some(server) = servers.first() else { continue };
        let first = server.to_string();
        tracing::warn!(servers = servers.len(), %first, "servers of Gateways are {NOT_SERVED}: keep the gateway that works");
        return;
    }
}
