//! From a configuration file to settings.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use edgemesh_admin::AccessLog;
use edgemesh_config::{self as config, Environment, Problem, Role, Settings, parse, resolve};
use edgemesh_mesh::{MeshOptions, ServiceFilter};

use super::{AgentSettings, DEFAULT_DEVICE, DnsFlags, ProxyFlags, TunnelFlags, access};

/// What the process finds around it.
pub(crate) fn environment() -> Environment {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let port = var("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    Environment {
        node_name: var("NODE_NAME"),
        namespace: var("NAMESPACE"),
        in_cluster: var("KUBERNETES_PORT").is_some(),
        kubernetes_service: var("KUBERNETES_SERVICE_HOST").zip(port),
    }
}

/// Reads and checks a file; every problem is told on standard error, and errors end it.
pub(crate) fn read(path: &Path, role: Role) -> Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config-file {} cannot be read", path.display()))?;
    let (settings, problems) = check(&text, role);
    for problem in &problems {
        eprintln!("{}: {}: {problem}", path.display(), problem.severity.as_str());
    }
    match settings {
        Some(settings) => Ok(settings),
        None => bail!("--config-file {}: the errors above have to be mended", path.display()),
    }
}

/// Checks a text: the settings unless there are errors, and everything there is to say.
pub(crate) fn check(text: &str, role: Role) -> (Option<Settings>, Vec<Problem>) {
    check_in(text, role, &environment())
}

/// As [`check`], in another environment than the process's own.
pub(crate) fn check_in(
    text: &str,
    role: Role,
    environment: &Environment,
) -> (Option<Settings>, Vec<Problem>) {
    let parsed = match parse(role, text) {
        Ok(parsed) => parsed,
        Err(problems) => return (None, problems),
    };
    let mut problems = parsed.problems;
    match resolve(&parsed.raw, environment) {
        Ok(resolved) => {
            problems.extend(resolved.problems);
            (Some(resolved.settings), problems)
        }
        Err(more) => {
            problems.extend(more);
            (None, problems)
        }
    }
}

/// The agent's settings by its file.
pub(crate) fn read_agent(path: &Path) -> Result<AgentSettings> {
    let mut settings = of_config(&read(path, Role::Agent)?)?;
    settings.file = Some(path.to_owned());
    Ok(settings)
}

/// The settings that a checked file means.
pub(crate) fn of_config(settings: &Settings) -> Result<AgentSettings> {
    let tunnel = settings.tunnel.as_ref().map(|tunnel| TunnelFlags {
        relay: tunnel.is_relay,
        relays: relays(settings, tunnel),
        psk_file: tunnel.psk_file.clone(),
        identity: tunnel.identity,
        authority_file: tunnel.authority_file.clone(),
        authority_key_file: Some(tunnel.authority_key_file.clone()).filter(|path| path.exists()),
        listen: vec![std::net::SocketAddr::from(([0_u16; 8], tunnel.listen_port))],
        advertise: tunnel.advertise.clone(),
        mdns: tunnel.mdns,
        go_peers: tunnel.go_peers,
        skip_interfaces: tunnel.extra_filtered_interfaces.clone(),
        listen_interfaces: tunnel.listen_interfaces.clone(),
    });
    let dns = settings.dns.as_ref().map(|dns| DnsFlags {
        listen: dns.listen.clone(),
        upstreams: dns.upstreams.clone(),
        cluster_domain: dns.cluster_domain.clone(),
        cache_ttl: Some(dns.cache_ttl),
        cluster_dns: dns.auto_detect_cluster_dns,
    });
    let proxy = settings.proxy.as_ref().map(|proxy| ProxyFlags {
        port: proxy.port,
        kernel_path: proxy.kernel_path,
        connect_rewrite: proxy.connect_rewrite,
        backend: proxy.backend,
        node_port_addresses: proxy.node_port_addresses.clone(),
        max_connections: proxy.max_connections,
        max_udp_sessions: proxy.max_udp_sessions,
        tcp_idle: proxy.tcp_idle,
        udp_idle: proxy.udp_idle,
    });
    let source = access::source(&settings.source)?;
    Ok(AgentSettings {
        node_name: settings.node_name.clone(),
        mesh: mesh_options(settings),
        source,
        file: None,
        unserved: unserved(settings),
        keep_rules: settings.proxy.as_ref().is_some_and(|proxy| proxy.keep_rules),
        state_dir: settings.process.state_dir.clone(),
        tunnel,
        dns,
        proxy,
        device: settings
            .device
            .as_ref()
            .map_or_else(|| DEFAULT_DEVICE.to_owned(), |device| device.name.clone()),
        admin_socket: settings.process.admin_socket.clone(),
        metrics_listen: settings.process.metrics_listen,
        access_log: access_log(settings.log.access),
        log_level: settings.log.level.clone(),
        log_json: settings.log.json,
    })
}

/// Which connections are logged.
pub(crate) fn access_log(which: config::AccessLog) -> AccessLog {
    match which {
        config::AccessLog::All => AccessLog::All,
        config::AccessLog::Errors => AccessLog::Errors,
        config::AccessLog::Off => AccessLog::Off,
    }
}

/// Where the relays are; the node's own entry says where others find this one.
pub(crate) fn relays(settings: &Settings, tunnel: &config::TunnelSettings) -> Vec<String> {
    let others = tunnel.relays.iter().filter(|relay| relay.node_name != settings.node_name);
    others.flat_map(|relay| relay.advertise.iter().cloned()).collect()
}

/// What the file turns on and this version does not have. Each is an alarm: silence would look like a fault elsewhere.
fn unserved(settings: &Settings) -> Vec<String> {
    let mut unserved = Vec::new();
    if settings.proxy.as_ref().is_some_and(|proxy| proxy.socks5.is_some()) {
        unserved
            .push("modules.edgeProxy.socks5Proxy is on, and this version has no SOCKS5 server".to_owned());
    }
    if settings.cni.is_some() {
        unserved.push(
            "modules.edgeCNI is on, and this version has no pod network: Services work, addresses of Pods on other \
             nodes do not"
                .to_owned(),
        );
    }
    unserved
}

/// What the file says of all Services.
pub(crate) fn mesh_options(settings: &Settings) -> MeshOptions {
    let proxy = settings.proxy.as_ref();
    MeshOptions {
        filter: match proxy.map(|proxy| proxy.filter) {
            Some(config::ServiceFilter::IfLabelDoesNotExist) => ServiceFilter::IfLabelDoesNotExist,
            Some(config::ServiceFilter::IfLabelExists) | None => ServiceFilter::IfLabelExists,
        },
        kubernetes_service: proxy.is_some_and(|proxy| proxy.hijack_kubernetes),
        cached_source: matches!(settings.source, config::SourceSettings::MetaServer { .. }),
    }
}
