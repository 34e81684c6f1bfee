//! The agent: how its parts are joined, started and stopped.

mod pages;
mod rules;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use edgemesh_admin::{Admin, HealthPorts, Metrics};
use edgemesh_api::{Kind, Name};
use edgemesh_config::{IdentityMode, Role};
use edgemesh_dns::{DnsServer, DnsSettings, ListenAddress, UpstreamSource};
use edgemesh_intercept::Interceptor;
use edgemesh_mesh::{MeshSnapshot, PathSnapshot};
use edgemesh_net::meet::{Connect, Connected};
use edgemesh_proxy::{Proxy, ProxyDeps, ProxySettings, Remote};
use edgemesh_resolver::ResolverSettings;
use edgemesh_route::{DialError, Router, Target};
use edgemesh_tunnel::{IdentitySettings, RelayAddress, Tunnel, TunnelHandle, TunnelSettings};
use edgemesh_tunnel_proto::IdentityPolicy;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::process::{STOP_TIMEOUT, start_journal, wait_for_signal};
use crate::settings::{AgentSettings, DEFAULT_TUNNEL_PORT, DnsFlags, TunnelFlags};
use crate::{logging, metadata, process, reload};

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) fn run(settings: AgentSettings) -> Result<()> {
    let (level, json) = (settings.log_level.clone(), settings.log_json);
    process::run(&level, json, |levels| serve(settings, levels))
}

/// What every part shares.
struct Shared {
    settings: AgentSettings,
    started: Instant,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    paths: Arc<ArcSwap<PathSnapshot>>,
    router: Arc<Router>,
    metadata: Arc<metadata::State>,
    rules: rules::State,
    reload: Arc<reload::State>,
}

async fn serve(settings: AgentSettings, levels: logging::Levels) -> Result<()> {
    let started = Instant::now();
    let shutdown = CancellationToken::new();
    let tracker = TaskTracker::new();
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("--state-dir {} cannot be made", settings.state_dir.display()))?;

    let router = Arc::new(Router::new());
    let figures = Arc::new(pages::FigureBoard::default());
    let metrics = Arc::new(Metrics::new(settings.access_log, figures.clone()));
    let admin = Admin::bind(&settings.admin_socket, settings.metrics_listen)?;

    // The kernel makes the device while the journal is read here. To decode half of a large journal on another thread
    // gained nothing on two cores.
    let rules_settings = rules::settings(&settings);
    let installing = tokio::task::spawn_blocking(|| rules_settings.map(Interceptor::install).transpose());
    let (first, journal) = metadata::restore(&settings, Name::from(settings.node_name.as_str()));
    let journal = journal.map(|journal| start_journal(journal, &tracker));
    let snapshots = Arc::new(ArcSwap::from_pointee(first.snapshot.clone()));
    let mut interceptor = Installed(installing.await.context("the kernel's part died")??);

    let proxy_settings = proxy_settings(&settings);
    let stop_inbound = CancellationToken::new();
    let remote =
        Remote::new(proxy_settings.clone(), snapshots.clone(), metrics.clone(), stop_inbound.clone());
    let tunnel = match &settings.tunnel {
        Some(flags) => Some(start_tunnel(&settings, flags, Arc::new(remote.clone()), &snapshots, &shutdown)?),
        None => None,
    };
    let paths = tunnel.as_ref().map_or_else(Arc::default, TunnelHandle::paths);

    let shared = Arc::new(Shared {
        metadata: Arc::new(metadata::State::new(&first, journal)),
        rules: rules::State::of(interceptor.0.as_ref()),
        reload: Arc::new(reload::State::new(levels)),
        started,
        snapshots: snapshots.clone(),
        paths: paths.clone(),
        router: router.clone(),
        settings,
    });

    let mut parts =
        pages::Parts { tunnel: tunnel.clone(), remote: Some(remote.counters()), ..Default::default() };
    if let Some(flags) = &shared.settings.dns {
        let dns = DnsServer::bind(dns_settings(flags, &shared.settings.device), snapshots.clone())
            .context("--dns-listen")?;
        parts.dns = Some(dns.counters());
        tracker.spawn(dns.run(shutdown.clone()));
    }
    if shared.settings.proxy.is_some() {
        let connect: Arc<dyn Connect> = match &tunnel {
            Some(tunnel) => Arc::new(tunnel.clone()),
            None => Arc::new(NoTunnel),
        };
        let observe = metrics.clone();
        let deps = ProxyDeps { snapshots: snapshots.clone(), paths: paths.clone(), router, connect, observe };
        let proxy = Proxy::bind(proxy_settings, deps).context("--proxy-port")?;
        parts.proxy = Some(proxy.counters());
        tracker.spawn(proxy.run(shutdown.clone()));
    }

    let (published, generations) = tokio::sync::watch::channel(first.snapshot.generation);
    if shared.settings.proxy.is_some() {
        let rules = shared.clone();
        let ports = HealthPorts::new(snapshots.clone(), Arc::new(move || rules.rules.is_in_place()));
        parts.health_ports = Some(ports.faults());
        tracker.spawn(ports.run(generations.clone(), shutdown.clone()));
    }
    let rules_task = interceptor.0.take().map(|interceptor| {
        let changes = tunnel.as_ref().map(TunnelHandle::changes);
        tokio::spawn(rules::run(interceptor, shared.clone(), generations, changes, shutdown.clone()))
    });
    let (change, changes) = tokio::sync::mpsc::channel(1);
    let follow = metadata::Follow {
        metadata: shared.metadata.clone(),
        snapshots: snapshots.clone(),
        source: shared.settings.source.clone(),
        kinds: Kind::AGENT.to_vec(),
        started,
    };
    tracker.spawn(metadata::run(follow, first.state, published, changes, shutdown.clone()));
    let follow = reload::Follow {
        path: shared.settings.file.clone(),
        role: Role::Agent,
        started_with: (&shared.settings).into(),
        state: shared.reload.clone(),
        metrics: metrics.clone(),
        tunnel,
        change,
    };
    tracker.spawn(follow.run(shutdown.clone()));
    let pages = Arc::new(pages::AgentPages::new(shared.clone(), metrics.clone(), parts));
    figures.show(pages.clone());
    tracker.spawn(admin.run(metrics, pages, shutdown.clone()));
    tracing::info!(
        node = %shared.settings.node_name,
        version = env!("CARGO_PKG_VERSION"),
        milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "agent serves"
    );

    wait_for_signal().await?;
    tracing::info!("agent stops");
    shutdown.cancel();
    stop_inbound.cancel();
    tracker.close();
    if tokio::time::timeout(STOP_TIMEOUT, tracker.wait()).await.is_err() {
        tracing::warn!("a part did not stop in time and is left behind");
    }
    // Last, so that open connections could drain: packets of theirs need the routes.
    match rules_task {
        Some(task) => task.await.context("the task of the kernel rules died")?,
        None => Ok(()),
    }
}

/// The kernel's part until every other part has started: a start that fails takes back what it made.
struct Installed(Option<Interceptor>);

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Interceptor::abandon) {
            tracing::warn!(%error, "the device stays behind; `edgemesh cleanup` removes it");
        }
    }
}

fn proxy_settings(settings: &AgentSettings) -> ProxySettings {
    let mut proxy = ProxySettings::default();
    if let Some(flags) = &settings.proxy {
        proxy.port = flags.port;
        proxy.max_connections = flags.max_connections;
        proxy.max_sessions = flags.max_udp_sessions;
        proxy.tcp_idle = flags.tcp_idle;
        proxy.udp_idle = flags.udp_idle;
    }
    proxy
}

fn dns_settings(flags: &DnsFlags, device: &str) -> DnsSettings {
    let listen = flags.listen.iter().map(|&addr| {
        // A link-local address is one of a device (RFC 4007 section 6).
        let link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        ListenAddress { addr, device: link_local.then(|| device.to_owned()) }
    });
    let upstreams = if flags.cluster_dns {
        UpstreamSource::ClusterDns(flags.upstreams.clone())
    } else if flags.upstreams.is_empty() {
        UpstreamSource::ResolvConf("/etc/resolv.conf".into())
    } else {
        UpstreamSource::Servers(flags.upstreams.clone())
    };
    let mut resolver =
        ResolverSettings { cluster_domain: flags.cluster_domain.clone(), ..ResolverSettings::default() };
    if let Some(ttl) = flags.cache_ttl {
        resolver.max_ttl = ttl;
        resolver.max_negative_ttl = resolver.max_negative_ttl.min(ttl);
    }
    DnsSettings { listen: listen.collect(), upstreams, resolver }
}

/// The addresses of relays as the file or the flags have them.
pub(crate) fn relay_addresses(relays: &[String]) -> Result<Vec<RelayAddress>> {
    relays.iter().map(|text| text.parse().with_context(|| format!("relay {text:?}"))).collect()
}

fn start_tunnel(
    settings: &AgentSettings,
    flags: &TunnelFlags,
    remote: Arc<Remote>,
    snapshots: &Arc<ArcSwap<MeshSnapshot>>,
    shutdown: &CancellationToken,
) -> Result<TunnelHandle> {
    let relays = relay_addresses(&flags.relays)?;
    let mut tunnel = TunnelSettings::new(
        Some(Name::from(settings.node_name.as_str())),
        settings.state_dir.join("node.key"),
        flags.psk_file.clone(),
    );
    tunnel.zone = snapshots.load().node.zone.clone();
    tunnel.relays = relays;
    tunnel.relay = flags.relay;
    tunnel.mdns = flags.mdns;
    tunnel.go_peers = flags.go_peers;
    tunnel.identity = IdentitySettings {
        policy: match flags.identity {
            IdentityMode::Auto => None,
            IdentityMode::Require => Some(IdentityPolicy::Require),
            IdentityMode::Prefer => Some(IdentityPolicy::Prefer),
            IdentityMode::Off => Some(IdentityPolicy::Off),
        },
        authority_file: Some(flags.authority_file.clone()),
        authority_key_file: flags.authority_key_file.clone(),
    };
    tunnel.skip_interfaces.clone_from(&flags.skip_interfaces);
    if !flags.listen.is_empty() {
        tunnel.listen.clone_from(&flags.listen);
    }
    if !flags.listen_interfaces.is_empty() {
        let port = tunnel.listen.first().map_or(DEFAULT_TUNNEL_PORT, SocketAddr::port);
        tunnel.listen = addresses_of(&flags.listen_interfaces, port)?;
    }
    tunnel.advertise.clone_from(&flags.advertise);
    Ok(Tunnel::start(tunnel, remote, snapshots.clone(), shutdown.clone())?)
}

/// The addresses that the named interfaces have now (Go EdgeMesh `listenInterfaces`). Link-local ones are left out: they
/// say nothing without their interface, and no peer is told of them.
fn addresses_of(interfaces: &[String], port: u16) -> Result<Vec<SocketAddr>> {
    let mut kernel = edgemesh_net::netlink::rt::Handle::open()?;
    let mut found = Vec::new();
    let all = kernel.addresses()?;
    for name in interfaces {
        let link = kernel.link(name)?.with_context(|| {
            format!("modules.edgeTunnel.listenInterfaces names {name:?}, and the node has no such interface")
        })?;
        let own = all.iter().filter(|address| address.link == link.index).map(|address| address.prefix.addr);
        found.extend(own.filter(|ip| !is_link_local(*ip)).map(|ip| SocketAddr::new(ip, port)));
    }
    if found.is_empty() {
        bail!(
            "the interfaces of modules.edgeTunnel.listenInterfaces have no address: {}",
            interfaces.join(", ")
        );
    }
    Ok(found)
}

/// Whether an address says nothing without its interface.
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Stands where the tunnel is switched off.
struct NoTunnel;

impl Connect for NoTunnel {
    fn connect(&self, _: Target, _: bytes::Bytes) -> BoxFuture<'static, Result<Connected, DialError>> {
        Box::pin(std::future::ready(Err(DialError::NoPath)))
    }
}
