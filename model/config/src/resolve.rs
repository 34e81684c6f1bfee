use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::address;
use crate::problem::{Cause, Problem};
use crate::raw::Raw;
use crate::settings::{
    AccessLog, CniSettings, DeviceSettings, DnsSettings, Effective, GatewaySettings, IdentityMode,
    KernelBackend, KernelPath, LogSettings, ProcessSettings, ProxySettings, Role, ServiceFilter, Settings,
    SourceSettings, TunnelSettings,
};
use crate::table;
use crate::value::{RelayNode, Value};

/// Where Kubernetes puts the token of a pod's service account; edgecore does the same.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// What the process finds around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NODE_NAME`.
    pub node_name: Option<String>,
    /// `NAMESPACE`.
    pub namespace: Option<String>,
    /// Whether `KUBERNETES_PORT` is set: the kubelet sets it and KubeEdge's edged does not.
    pub in_cluster: bool,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub kubernetes_service: Option<(String, u16)>,
}

/// Settings that can be used, and what to say about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Warnings.
    pub problems: Vec<Problem>,
}

/// Joins what a file says with the environment.
pub fn resolve(raw: &Raw, environment: &Environment) -> Result<Resolved, Vec<Problem>> {
    let effective = Effective::of(raw, environment);
    let mut problems = Vec::new();
    let node_name = node_name(environment, &mut problems);
    let namespace = environment.namespace.clone().filter(|name| !name.is_empty());
    if namespace.is_none() && raw.role == Role::Agent {
        let text = "not set; the downward API gives it: env: [{name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: \
                    metadata.namespace}}}]";
        problems.push(Problem::warning(Cause::Environment, "NAMESPACE", text));
    }
    let source = source(&effective, environment, &mut problems);
    let device = device(&effective, raw.role);
    let dns = dns(&effective, raw.role, device.as_ref(), &mut problems);
    let proxy = proxy(&effective, raw.role);
    let tunnel = tunnel(&effective, raw.role, &node_name, &mut problems);
    let process = process(&effective, raw.role, tunnel.as_ref(), &mut problems);
    if problems.iter().any(Problem::is_error) {
        return Err(problems);
    }
    let settings = Settings {
        role: raw.role,
        node_name,
        namespace,
        source,
        process,
        log: log(&effective),
        device,
        dns,
        proxy,
        tunnel,
        cni: cni(&effective, raw.role),
        gateway: gateway(&effective, raw.role),
        effective,
    };
    Ok(Resolved { settings, problems })
}

impl Effective {
    /// What the file says, and the defaults where it says nothing.
    fn of(raw: &Raw, environment: &Environment) -> Self {
        let value = |field: &crate::Field| {
            // CoreDNS or kube-dns answers where the kubelet runs pods; at the edge there is only the agent.
            let by_mode = || Value::Flag(!environment.in_cluster);
            raw.given
                .get(field.path)
                .cloned()
                .unwrap_or_else(|| field.default(raw.role).unwrap_or_else(by_mode))
        };
        Self(table::fields_of(raw.role).map(|field| (field.path, value(field))).collect::<BTreeMap<_, _>>())
    }

    pub(crate) fn flag(&self, path: &str) -> bool {
        matches!(self.0.get(path), Some(Value::Flag(true)))
    }

    fn number(&self, path: &str) -> u64 {
        match self.0.get(path) {
            Some(Value::Number(number)) => number.unsigned_abs(),
            _ => 0,
        }
    }

    fn port(&self, path: &str) -> u16 {
        u16::try_from(self.number(path)).unwrap_or_default()
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs(self.number(path))
    }

    fn count(&self, path: &str) -> usize {
        usize::try_from(self.number(path)).unwrap_or(usize::MAX)
    }

    fn text(&self, path: &str) -> &str {
        match self.0.get(path) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(self.text(path))
    }

    fn list(&self, path: &str) -> &[String] {
        match self.0.get(path) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    fn addresses(&self, path: &str, port: u16) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.list(path).iter().filter_map(|text| address::socket_addr(text, port)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn words(&self, path: &str) -> Vec<String> {
        address::comma_list(self.text(path)).into_iter().map(str::to_owned).collect()
    }

    fn nets(&self, path: &str) -> Vec<ipnet::IpNet> {
        address::comma_list(self.text(path)).into_iter().filter_map(address::net).collect()
    }
}

fn node_name(environment: &Environment, problems: &mut Vec<Problem>) -> String {
    let name = environment.node_name.clone().unwrap_or_default();
    // Kubernetes names nodes by RFC 1123: lower-case DNS names.
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if name.is_empty() {
        let text = "not set; the downward API gives it: env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: \
                    spec.nodeName}}}]";
        problems.push(Problem::error(Cause::Environment, "NODE_NAME", text));
    } else if !address::is_dns_name(&name) || !is_lower {
        let text = format!("{} is no name of a Kubernetes node", crate::node::excerpt(&name));
        problems.push(Problem::error(Cause::Environment, "NODE_NAME", text));
    }
    name
}

fn source(effective: &Effective, environment: &Environment, problems: &mut Vec<Problem>) -> SourceSettings {
    let (master, kubeconfig) =
        (effective.text("kubeAPIConfig.master"), effective.text("kubeAPIConfig.kubeConfig"));
    let manifests = effective.text("kubeAPIConfig.manifests");
    if !manifests.is_empty() {
        for (key, text) in [("kubeAPIConfig.master", master), ("kubeAPIConfig.kubeConfig", kubeconfig)] {
            if !text.is_empty() {
                let text = "without effect: kubeAPIConfig.manifests is set";
                problems.push(Problem::warning(Cause::Conflict, key, text));
            }
        }
        return SourceSettings::Manifests(PathBuf::from(manifests));
    }
    if !master.is_empty() || !kubeconfig.is_empty() {
        return SourceSettings::Kubernetes {
            master: (!master.is_empty()).then(|| master.to_owned()),
            kubeconfig: (!kubeconfig.is_empty()).then(|| PathBuf::from(kubeconfig)),
            in_cluster: false,
        };
    }
    let in_cluster = match effective.text("kubeAPIConfig.mode") {
        "EdgeMode" => false,
        "CloudMode" | "ManualMode" => true,
        _ => environment.in_cluster,
    };
    if !in_cluster {
        return meta_server(effective);
    }
    let master = environment.kubernetes_service.as_ref().map(|(host, port)| match host.parse::<IpAddr>() {
        Ok(ip) => format!("https://{}", SocketAddr::new(ip, *port)),
        Err(_) => format!("https://{host}:{port}"),
    });
    if master.is_none() {
        let text = "not set, with KUBERNETES_SERVICE_PORT: the kubelet sets both; elsewhere set kubeAPIConfig.kubeConfig, \
                    or kubeAPIConfig.mode to EdgeMode on an edge node";
        problems.push(Problem::error(Cause::Environment, "KUBERNETES_SERVICE_HOST", text));
    }
    SourceSettings::Kubernetes { master, kubeconfig: None, in_cluster }
}

fn meta_server(effective: &Effective) -> SourceSettings {
    let url = effective.text("kubeAPIConfig.metaServer.server");
    let security = |key: &str| format!("kubeAPIConfig.metaServer.security.{key}");
    let authorized = effective.flag(&security("requireAuthorization"));
    let insecure = authorized && effective.flag(&security("insecureSkipTLSVerify"));
    let file = |key: &str| (authorized && !insecure).then(|| effective.file(&security(key)));
    SourceSettings::MetaServer {
        url: if authorized { url.replace("http://", "https://") } else { url.to_owned() },
        ca_file: file("tlsCaFile"),
        cert_file: file("tlsCertFile"),
        key_file: file("tlsPrivateKeyFile"),
        insecure_skip_verify: insecure,
        token_file: authorized.then(|| PathBuf::from(TOKEN_FILE)),
    }
}

fn process(
    effective: &Effective,
    role: Role,
    tunnel: Option<&TunnelSettings>,
    problems: &mut Vec<Problem>,
) -> ProcessSettings {
    const LISTEN: &str = "commonConfig.metricsListen";
    let mut metrics_listen: Option<SocketAddr> = effective.text(LISTEN).parse().ok();
    let everywhere = tunnel.and_then(|tunnel| tunnel.metrics);
    if let Some(listen) = metrics_listen
        && everywhere == Some(listen.port())
    {
        let default =
            table::fields_of(role).find(|field| field.path == LISTEN).and_then(|field| field.default(role));
        if effective.0.get(LISTEN) == default.as_ref() {
            // All interfaces have the loopback among them.
            metrics_listen = None;
        } else {
            let text = format!(
                "port {} is served on all interfaces by modules.edgeTunnel.metricConfig; say off here or another port",
                listen.port()
            );
            problems.push(Problem::error(Cause::Conflict, LISTEN, text));
        }
    }
    ProcessSettings {
        state_dir: effective.file("commonConfig.stateDir"),
        admin_socket: effective.file("commonConfig.adminSocket"),
        metrics_listen,
    }
}

fn log(effective: &Effective) -> LogSettings {
    LogSettings {
        access: match effective.text("commonConfig.accessLog") {
            "errors" => AccessLog::Errors,
            "off" => AccessLog::Off,
            _ => AccessLog::All,
        },
        level: effective.text("commonConfig.logLevel").to_owned(),
        json: effective.text("commonConfig.logFormat") == "json",
    }
}

fn device(effective: &Effective, role: Role) -> Option<DeviceSettings> {
    let ip: IpAddr = effective.text("commonConfig.bridgeDeviceIP").parse().ok()?;
    (role == Role::Agent).then(|| DeviceSettings {
        name: effective.text("commonConfig.bridgeDeviceName").to_owned(),
        addresses: [Some(ip), address::link_local(ip)].into_iter().flatten().collect(),
    })
}

fn dns(
    effective: &Effective,
    role: Role,
    device: Option<&DeviceSettings>,
    problems: &mut Vec<Problem>,
) -> Option<DnsSettings> {
    if role != Role::Agent || !effective.flag("modules.edgeDNS.enable") {
        return None;
    }
    let port = effective.port("modules.edgeDNS.listenPort");
    let mut listen = effective.addresses("modules.edgeDNS.listenAddresses", port);
    if listen.is_empty() {
        listen = device?.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    }
    let forward_only = effective.flag("modules.edgeDNS.cacheDNS.enable");
    let auto_detect_cluster_dns = forward_only && effective.flag("modules.edgeDNS.cacheDNS.autoDetect");
    let servers = if forward_only {
        "modules.edgeDNS.cacheDNS.upstreamServers"
    } else {
        "modules.edgeDNS.upstreamServers"
    };
    let upstreams = effective.addresses(servers, DNS_PORT);
    if forward_only && !auto_detect_cluster_dns && upstreams.is_empty() {
        let text = "there is nobody to ask: name servers here, or set autoDetect to true";
        problems.push(Problem::error(Cause::Conflict, servers, text));
    }
    if let Some(own) = upstreams.iter().find(|upstream| listen.contains(upstream)) {
        let text = format!("{own} is where this server listens: it would ask itself");
        problems.push(Problem::error(Cause::Conflict, servers, text));
    }
    // Go EdgeMesh keeps answers 30 s unless cacheDNS is on.
    let kept = if forward_only {
        effective.seconds("modules.edgeDNS.cacheDNS.cacheTTL")
    } else {
        Duration::from_secs(30)
    };
    Some(DnsSettings {
        listen,
        cluster_domain: effective.text("modules.edgeDNS.clusterDomain").trim_end_matches('.').to_owned(),
        cache_ttl: kept,
        upstreams,
        auto_detect_cluster_dns,
        forward_only,
    })
}

fn proxy(effective: &Effective, role: Role) -> Option<ProxySettings> {
    (role == Role::Agent && effective.flag("modules.edgeProxy.enable")).then(|| ProxySettings {
        filter: match effective.text("modules.edgeProxy.serviceFilterMode") {
            "FilterIfLabelDoesNotExists" => ServiceFilter::IfLabelDoesNotExist,
            _ => ServiceFilter::IfLabelExists,
        },
        hijack_kubernetes: effective.flag("modules.edgeProxy.hijackKubernetesService"),
        port: effective.port("modules.edgeProxy.proxyPort"),
        socks5: effective
            .flag("modules.edgeProxy.socks5Proxy.enable")
            .then(|| effective.port("modules.edgeProxy.socks5Proxy.listenPort")),
        kernel_path: match effective.text("modules.edgeProxy.kernelPath") {
            "always" => KernelPath::Always,
            "off" => KernelPath::Off,
            _ => KernelPath::Auto,
        },
        connect_rewrite: effective.text("modules.edgeProxy.connectRewrite") != "off",
        backend: match effective.text("modules.edgeProxy.backend") {
            "nftables" => KernelBackend::Nftables,
            "iptables" => KernelBackend::Iptables,
            _ => KernelBackend::Auto,
        },
        node_port_addresses: effective.nets("modules.edgeProxy.nodePortAddresses"),
        keep_rules: effective.flag("modules.edgeProxy.keepRules"),
        max_connections: effective.count("modules.edgeProxy.maxConnections"),
        max_udp_sessions: effective.count("modules.edgeProxy.maxUDPSessions"),
        tcp_idle: effective.seconds("modules.edgeProxy.tcpIdleSeconds"),
        udp_idle: effective.seconds("modules.edgeProxy.udpIdleSeconds"),
    })
}

fn tunnel(
    effective: &Effective,
    role: Role,
    node_name: &str,
    problems: &mut Vec<Problem>,
) -> Option<TunnelSettings> {
    if !effective.flag("modules.edgeTunnel.enable") {
        return None;
    }
    let port = effective.port("modules.edgeTunnel.listenPort");
    let listen_port = match role {
        Role::Agent => port,
        Role::Gateway => port.checked_add(1).unwrap_or_else(|| {
            let text = "a gateway listens on the next port, and there is none after 65535";
            problems.push(Problem::error(Cause::Conflict, "modules.edgeTunnel.listenPort", text));
            port
        }),
    };
    let relays = relays(effective, port);
    let own = relays.iter().filter(|relay| role == Role::Agent && relay.node_name == node_name);
    let own_addresses: Vec<_> = own.clone().flat_map(|relay| &relay.advertise).collect();
    let mut advertise = effective.addresses("modules.edgeTunnel.advertiseAddress", listen_port);
    for address in own_addresses.into_iter().filter_map(|text| address::relay_socket(text)) {
        if !advertise.contains(&address) {
            advertise.push(address);
        }
    }
    Some(TunnelSettings {
        name: match role {
            Role::Agent => node_name.to_owned(),
            Role::Gateway => format!("{node_name}-gateway"),
        },
        listen_port,
        listen_interfaces: effective.words("modules.edgeTunnel.listenInterfaces"),
        extra_filtered_interfaces: effective.words("modules.edgeTunnel.extraFilteredInterfaces"),
        advertise,
        is_relay: own.count() > 0,
        relays,
        psk_file: effective.file("modules.edgeTunnel.psk.path"),
        identity: match effective.text("modules.edgeTunnel.identity.policy") {
            "require" => IdentityMode::Require,
            "prefer" => IdentityMode::Prefer,
            "off" => IdentityMode::Off,
            _ => IdentityMode::Auto,
        },
        authority_file: effective.file("modules.edgeTunnel.identity.authorityFile"),
        authority_key_file: effective.file("modules.edgeTunnel.identity.authorityKeyFile"),
        mdns: effective.flag("modules.edgeTunnel.mdns"),
        go_peers: effective.flag("modules.edgeTunnel.goPeers"),
        metrics: effective
            .flag("modules.edgeTunnel.metricConfig.enable")
            .then(|| effective.port("modules.edgeTunnel.metricConfig.port")),
    })
}

fn relays(effective: &Effective, port: u16) -> Vec<RelayNode> {
    let Some(Value::Relays(relays)) = effective.0.get("modules.edgeTunnel.relayNodes") else {
        return Vec::new();
    };
    let with_port = |relay: &RelayNode| RelayNode {
        node_name: relay.node_name.clone(),
        advertise: relay.advertise.iter().filter_map(|text| address::relay(text, port)).collect(),
    };
    relays.iter().map(with_port).collect()
}

fn cni(effective: &Effective, role: Role) -> Option<CniSettings> {
    let cidrs = |key: &str| {
        let list = effective.list(key);
        list.iter().filter_map(|text| text.parse().ok()).collect()
    };
    (role == Role::Agent && effective.flag("modules.edgeCNI.enable")).then(|| CniSettings {
        cloud_cidrs: cidrs("modules.edgeCNI.meshCIDRConfig.cloudCIDR"),
        edge_cidrs: cidrs("modules.edgeCNI.meshCIDRConfig.edgeCIDR"),
    })
}

fn gateway(effective: &Effective, role: Role) -> Option<GatewaySettings> {
    (role == Role::Gateway && effective.flag("modules.edgeGateway.enable")).then(|| GatewaySettings {
        nics: effective.words("modules.edgeGateway.nic"),
        include: effective.nets("modules.edgeGateway.includeIP"),
        exclude: effective.nets("modules.edgeGateway.excludeIP"),
    })
}
