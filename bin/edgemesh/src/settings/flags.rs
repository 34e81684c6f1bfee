//! The flags of `edgemesh agent`.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use edgemesh_admin::AccessLog;
use edgemesh_config::{IdentityMode, KernelBackend, KernelPath};
use edgemesh_mesh::{MeshOptions, ServiceFilter};
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::Consistency;
use edgemesh_tunnel::RelayAddress;
use ipnet::IpNet;
use lexopt::{Arg, ValueExt as _};

use super::{
    AgentSettings, DEFAULT_ADMIN_SOCKET, DEFAULT_DEVICE, DEFAULT_DNS_V4, DEFAULT_DNS_V6, DEFAULT_METRICS,
    DEFAULT_PROXY_PORT, DEFAULT_STATE_DIR, DEFAULT_TUNNEL_PORT, DnsFlags, ProxyFlags, SourceChoice,
    TunnelFlags, access, file,
};

use crate::identity::DEFAULT_AUTHORITY;

pub(crate) const AGENT_HELP: &str = "\
edgemesh agent: DNS, interception, proxy and tunnel of one node

  --node-name NAME         the node's name in the manifests (or the environment's NODE_NAME)
  --config-file FILE       the agent's configuration in Go EdgeMesh's form (docs/config.md); flags win over it
  --manifests DIR          Kubernetes YAML: Services, EndpointSlices, Pods, Nodes, ... (followed while running)
  --kubeconfig FILE        or: the objects of a Kubernetes API server, by kubeconfig
  --master URL             or: the API server itself; over what the kubeconfig says
  --metaserver URL         or: KubeEdge's local API server (edgecore's metaServer), http://127.0.0.1:10550
  --filter MODE            FilterIfLabelExists (default) or FilterIfLabelDoesNotExists, by the Service label
                           service.edgemesh.kubeedge.io/service-proxy-name
  --role relay             also relay for other nodes; without --manifests the agent only relays
  --relay ADDR             a relay: IP:PORT or a multiaddr, repeatable; /p2p/ID at its end pins the relay's identity
  --psk-file FILE          the private-network key (default /etc/edgemesh/psk; make one with `edgemesh psk FILE`)
  --identity POLICY        whose claims of node names are believed: auto (default: require where the authority file
                           names one, prefer elsewhere), require, prefer, off (docs/security.md)
  --authority-file FILE    public keys of the mesh's authorities (default /etc/edgemesh/authority.pub)
  --authority-key-file FILE  the authority's key: this node pins the tokens of nodes that join to their keys
  --state-dir DIR          the node's key and the journal (default /var/lib/edgemesh)
  --listen ADDR            tunnel address, repeatable (default 0.0.0.0:20006 and [::]:20006)
  --advertise ADDR         address at which other nodes reach the tunnel, repeatable (default: the node's own)
  --no-mdns                do not look for peers in the LAN
  --go-peers               speak with agents of Go EdgeMesh too; on every agent of the mesh or on none
  --no-tunnel              no tunnel: only backends this node can dial itself
  --dns-listen IP[:PORT]   DNS address, repeatable (default 169.254.96.16 and fe80::a9fe:6010%edgemesh0, port 53); `off`
  --dns-upstream IP[:PORT] where other names are asked, repeatable (default: /etc/resolv.conf)
  --cluster-domain NAME    default cluster.local
  --proxy-port PORT        loopback port of the interception (default 15001)
  --no-intercept           leave the kernel alone: DNS and tunnel only
  --bridge-device NAME     device of the agent's own addresses (default edgemesh0)
  --kernel-path MODE       auto (default): the kernel translates connections to endpoints it reaches; always; off
  --connect-rewrite MODE   auto (default): sockets of the host connect to endpoints at once, where the kernel takes BPF; off
  --backend NAME           auto (default): nftables where the kernel takes every rule, else iptables; nftables; iptables
  --node-port-addresses R  addresses and ranges, separated by commas, at which node ports are open (default: all)
  --keep-rules             leave the kernel's rules when the agent ends; `edgemesh cleanup` removes them
  --max-connections N      open TCP connections (default 10240)
  --max-udp-sessions N     open UDP sessions (default 4096)
  --tcp-idle SECONDS       default 7200
  --udp-idle SECONDS       default 60
  --admin-socket PATH      default /run/edgemesh/agent.sock
  --metrics-listen ADDR    /metrics and /healthz (default 127.0.0.1:9999); `off`
  --access-log WHICH       all (default), errors, off
  --log-level LEVEL        error, warn, info (default), debug, trace; `info,edgemesh_tunnel=debug` by crate
  --log-json               log lines as JSON
";

/// Flags of Go EdgeMesh's logger (klog) and how many values follow; they are read and do nothing.
const KLOG_FLAGS: [(&str, bool); 13] = [
    ("vmodule", true),
    ("logtostderr", false),
    ("log-dir", true),
    ("log-file", true),
    ("log-file-max-size", true),
    ("log-flush-frequency", true),
    ("alsologtostderr", false),
    ("stderrthreshold", true),
    ("add-dir-header", false),
    ("skip-headers", false),
    ("skip-log-headers", false),
    ("one-output", false),
    ("log-backtrace-at", true),
];

/// klog's verbosity from which Go EdgeMesh tells every connection.
const KLOG_DEBUG: u8 = 4;

/// Reads the flags; `None` when help was asked for.
pub(crate) fn parse_agent(arguments: Vec<OsString>) -> Result<Option<AgentSettings>> {
    let mut raw = Raw::default();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        let flag = match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Short('v') => {
                raw.verbosity = parser.value()?.parse()?;
                continue;
            }
            Arg::Long(flag) => flag.to_owned(),
            other => return Err(other.unexpected().into()),
        };
        raw.take(&flag, &mut parser).with_context(|| format!("--{flag}"))?;
    }
    raw.resolve().map(Some)
}

/// Passes over a flag of klog and its value; whether it was one. Go's programs take `_` for `-` in names.
pub(crate) fn skip_klog(flag: &str, parser: &mut lexopt::Parser) -> Result<bool> {
    let name = flag.replace('_', "-");
    match KLOG_FLAGS.iter().find(|(known, _)| *known == name) {
        // Booleans of Go's flags take a value only after `=`.
        Some((_, false)) => drop(parser.optional_value()),
        Some((_, true)) => drop(parser.value()?),
        None => return Ok(false),
    }
    Ok(true)
}

#[derive(Default)]
struct Raw {
    node_name: Option<String>,
    config_file: Option<PathBuf>,
    manifests: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    master: Option<String>,
    metaserver: Option<String>,
    filter: Option<ServiceFilter>,
    verbosity: u8,
    relay_role: bool,
    relays: Vec<String>,
    psk_file: Option<PathBuf>,
    identity: Option<IdentityMode>,
    authority_file: Option<PathBuf>,
    authority_key_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    listen: Vec<SocketAddr>,
    advertise: Vec<SocketAddr>,
    no_mdns: bool,
    go_peers: bool,
    no_tunnel: bool,
    dns_listen: Vec<SocketAddr>,
    dns_off: bool,
    dns_upstreams: Vec<SocketAddr>,
    cluster_domain: Option<String>,
    proxy_port: Option<u16>,
    no_intercept: bool,
    device: Option<String>,
    kernel_path: Option<KernelPath>,
    connect_rewrite: Option<bool>,
    backend: Option<KernelBackend>,
    node_port_addresses: Option<Vec<IpNet>>,
    keep_rules: bool,
    max_connections: Option<usize>,
    max_udp_sessions: Option<usize>,
    tcp_idle: Option<u64>,
    udp_idle: Option<u64>,
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<String>,
    access_log: Option<AccessLog>,
    log_level: Option<String>,
    log_json: bool,
}

impl Raw {
    fn take(&mut self, flag: &str, parser: &mut lexopt::Parser) -> Result<()> {
        match flag {
            "node-name" => self.node_name = Some(parser.value()?.string()?),
            "config-file" => self.config_file = Some(PathBuf::from(parser.value()?)),
            "manifests" => self.manifests = Some(PathBuf::from(parser.value()?)),
            "kubeconfig" => self.kubeconfig = Some(PathBuf::from(parser.value()?)),
            "master" => self.master = Some(parser.value()?.string()?),
            "metaserver" => self.metaserver = Some(parser.value()?.string()?),
            "filter" => {
                self.filter = Some(match parser.value()?.string()?.as_str() {
                    "FilterIfLabelExists" => ServiceFilter::IfLabelExists,
                    "FilterIfLabelDoesNotExists" => ServiceFilter::IfLabelDoesNotExist,
                    other => bail!("{other:?} is none of FilterIfLabelExists, FilterIfLabelDoesNotExists"),
                });
            }
            "role" => match parser.value()?.string()?.as_str() {
                "relay" => self.relay_role = true,
                "agent" => self.relay_role = false,
                other => bail!("{other:?} is none of agent, relay"),
            },
            "relay" => {
                let text = parser.value()?.string()?;
                // Said here, where the flag is known.
                text.parse::<RelayAddress>()?;
                self.relays.push(text);
            }
            "psk-file" => self.psk_file = Some(PathBuf::from(parser.value()?)),
            "identity" => {
                self.identity = Some(match parser.value()?.string()?.as_str() {
                    "auto" => IdentityMode::Auto,
                    "require" => IdentityMode::Require,
                    "prefer" => IdentityMode::Prefer,
                    "off" => IdentityMode::Off,
                    other => bail!("{other:?} is none of auto, require, prefer, off"),
                });
            }
            "authority-file" => self.authority_file = Some(PathBuf::from(parser.value()?)),
            "authority-key-file" => self.authority_key_file = Some(PathBuf::from(parser.value()?)),
            "state-dir" => self.state_dir = Some(PathBuf::from(parser.value()?)),
            "listen" => self.listen.push(socket_addr(&parser.value()?.string()?, DEFAULT_TUNNEL_PORT)?),
            "advertise" => self.advertise.push(socket_addr(&parser.value()?.string()?, DEFAULT_TUNNEL_PORT)?),
            "no-mdns" => self.no_mdns = true,
            "go-peers" => self.go_peers = true,
            "no-tunnel" => self.no_tunnel = true,
            "dns-listen" => match parser.value()?.string()?.as_str() {
                "off" => self.dns_off = true,
                text => self.dns_listen.push(socket_addr(text, 53)?),
            },
            "dns-upstream" => self.dns_upstreams.push(socket_addr(&parser.value()?.string()?, 53)?),
            "cluster-domain" => self.cluster_domain = Some(parser.value()?.string()?),
            "proxy-port" => self.proxy_port = Some(parser.value()?.parse()?),
            "no-intercept" => self.no_intercept = true,
            "bridge-device" => self.device = Some(parser.value()?.string()?),
            "kernel-path" => {
                self.kernel_path = Some(match parser.value()?.string()?.as_str() {
                    "auto" => KernelPath::Auto,
                    "always" => KernelPath::Always,
                    "off" => KernelPath::Off,
                    other => bail!("{other:?} is none of auto, always, off"),
                });
            }
            "connect-rewrite" => {
                self.connect_rewrite = Some(match parser.value()?.string()?.as_str() {
                    "auto" => true,
                    "off" => false,
                    other => bail!("{other:?} is none of auto, off"),
                });
            }
            "backend" => {
                self.backend = Some(match parser.value()?.string()?.as_str() {
                    "auto" => KernelBackend::Auto,
                    "nftables" => KernelBackend::Nftables,
                    "iptables" => KernelBackend::Iptables,
                    other => bail!("{other:?} is none of auto, nftables, iptables"),
                });
            }
            "node-port-addresses" => {
                self.node_port_addresses = Some(ranges(&parser.value()?.string()?)?);
            }
            "keep-rules" => self.keep_rules = true,
            "max-connections" => self.max_connections = Some(parser.value()?.parse()?),
            "max-udp-sessions" => self.max_udp_sessions = Some(parser.value()?.parse()?),
            "tcp-idle" => self.tcp_idle = Some(parser.value()?.parse()?),
            "udp-idle" => self.udp_idle = Some(parser.value()?.parse()?),
            "admin-socket" => self.admin_socket = Some(PathBuf::from(parser.value()?)),
            "metrics-listen" => self.metrics_listen = Some(parser.value()?.string()?),
            "access-log" => {
                let which = parser.value()?.string()?.parse().map_err(|error: String| anyhow!(error))?;
                self.access_log = Some(which);
            }
            "log-level" => self.log_level = Some(parser.value()?.string()?),
            "log-json" => self.log_json = true,
            "v" => self.verbosity = parser.value()?.parse()?,
            other if skip_klog(other, parser)? => {}
            _ => bail!("there is no such flag; `edgemesh agent --help` lists them"),
        }
        Ok(())
    }

    fn resolve(self) -> Result<AgentSettings> {
        let from_file = self.config_file.as_ref().map(|path| file::read_agent(path)).transpose()?;
        let node_name = self
            .node_name
            .clone()
            .or_else(|| std::env::var("NODE_NAME").ok())
            .filter(|name| !name.is_empty())
            .context("--node-name is missing (or set NODE_NAME)")?;
        if node_name.len() > 253
            || !node_name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        {
            bail!("--node-name {node_name:?} is no Kubernetes node name (RFC 1123 subdomain)");
        }
        let mut settings = match from_file {
            Some(settings) => settings,
            None => defaults(&node_name),
        };
        settings.node_name = node_name;
        self.over(&mut settings)?;
        Ok(settings)
    }

    fn source(&self) -> Result<Option<SourceChoice>> {
        let given = [
            self.manifests.is_some(),
            self.kubeconfig.is_some() || self.master.is_some(),
            self.metaserver.is_some(),
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            bail!("--manifests, --kubeconfig or --master, and --metaserver exclude each other");
        }
        if let Some(directory) = &self.manifests {
            return Ok(Some(SourceChoice::Manifests(directory.clone())));
        }
        if let Some(url) = &self.metaserver {
            let access = Box::new(ApiAccess::of_url(url).context("--metaserver")?);
            return Ok(Some(SourceChoice::Api { access, consistency: Consistency::Cached }));
        }
        if !given[1] {
            return Ok(None);
        }
        let access = access::kubernetes(self.kubeconfig.as_deref(), self.master.as_deref())?;
        Ok(Some(SourceChoice::Api { access: Box::new(access), consistency: Consistency::Consistent }))
    }

    /// What the flags say over what the file or the defaults say.
    fn over(self, settings: &mut AgentSettings) -> Result<()> {
        let relay_only = self.relay_role && !settings.source.is_some() && self.source()?.is_none();
        if let Some(source) = self.source()? {
            settings.source = source;
        }
        if !settings.source.is_some() && !self.relay_role {
            bail!(
                "--manifests DIR is missing: the folder with the Services, EndpointSlices, Pods and Nodes as YAML \
                 (or --config-file, --kubeconfig, --metaserver: see `edgemesh agent --help`)"
            );
        }
        if self.relay_role && self.no_tunnel {
            bail!("--role relay and --no-tunnel exclude each other");
        }
        settings.mesh.cached_source =
            matches!(settings.source, SourceChoice::Api { consistency: Consistency::Cached, .. });
        settings.mesh.filter = self.filter.unwrap_or(settings.mesh.filter);
        if let Some(device) = self.device {
            settings.device = device;
        }
        let device = &settings.device;
        if device.is_empty() || device.len() > 15 || device.contains(['/', ' ']) {
            bail!("--bridge-device {device:?} is no device name (1 to 15 characters, no slash, no space)");
        }
        match self.metrics_listen.as_deref() {
            None => {}
            Some("off") => settings.metrics_listen = None,
            Some(text) => {
                let addr =
                    text.parse().with_context(|| format!("--metrics-listen {text:?} is no IP:PORT"))?;
                settings.metrics_listen = Some(addr);
            }
        }
        if let Some(path) = self.state_dir {
            settings.state_dir = path;
        }
        if let Some(path) = self.admin_socket {
            settings.admin_socket = path;
        }
        if let Some(which) = self.access_log {
            settings.access_log = which;
        }
        if self.verbosity >= KLOG_DEBUG {
            settings.log_level = "debug".to_owned();
        }
        if let Some(level) = self.log_level {
            settings.log_level = level;
        }
        settings.log_json |= self.log_json;

        if self.no_tunnel {
            settings.tunnel = None;
        } else if self.relay_role && settings.tunnel.is_none() {
            settings.tunnel = defaults(&settings.node_name).tunnel;
        }
        if let Some(tunnel) = &mut settings.tunnel {
            tunnel.relay |= self.relay_role;
            tunnel.relays.extend(self.relays);
            tunnel.mdns &= !self.no_mdns;
            tunnel.go_peers |= self.go_peers;
            tunnel.advertise.extend(self.advertise);
            if let Some(path) = self.psk_file {
                tunnel.psk_file = path;
            }
            tunnel.identity = self.identity.unwrap_or(tunnel.identity);
            if let Some(path) = self.authority_file {
                tunnel.authority_file = path;
            }
            tunnel.authority_key_file = self.authority_key_file.or(tunnel.authority_key_file.take());
            if !self.listen.is_empty() {
                tunnel.listen = self.listen;
            }
        }
        if self.dns_off || relay_only {
            settings.dns = None;
        } else if let Some(dns) = &mut settings.dns {
            if !self.dns_listen.is_empty() {
                dns.listen = self.dns_listen;
            }
            if !self.dns_upstreams.is_empty() {
                dns.upstreams = self.dns_upstreams;
            }
            if let Some(domain) = self.cluster_domain {
                dns.cluster_domain = domain;
            }
        }
        settings.keep_rules |= self.keep_rules;
        if self.no_intercept || relay_only {
            settings.proxy = None;
        } else if let Some(proxy) = &mut settings.proxy {
            proxy.port = self.proxy_port.unwrap_or(proxy.port);
            proxy.kernel_path = self.kernel_path.unwrap_or(proxy.kernel_path);
            proxy.connect_rewrite = self.connect_rewrite.unwrap_or(proxy.connect_rewrite);
            proxy.backend = self.backend.unwrap_or(proxy.backend);
            if let Some(ranges) = self.node_port_addresses {
                proxy.node_port_addresses = ranges;
            }
            proxy.max_connections = self.max_connections.unwrap_or(proxy.max_connections);
            proxy.max_udp_sessions = self.max_udp_sessions.unwrap_or(proxy.max_udp_sessions);
            proxy.tcp_idle = self.tcp_idle.map_or(proxy.tcp_idle, Duration::from_secs);
            proxy.udp_idle = self.udp_idle.map_or(proxy.udp_idle, Duration::from_secs);
        }
        Ok(())
    }
}

/// Addresses and ranges, separated by commas.
fn ranges(text: &str) -> Result<Vec<IpNet>> {
    let range = |word: &str| {
        let host = || word.parse::<IpAddr>().map(IpNet::from);
        word.parse::<IpNet>().or_else(|_| host()).map_err(|_| anyhow!("{word:?} is no address or range"))
    };
    text.split(',').map(|word| range(word.trim())).collect()
}

/// An agent that was told nothing but its node's name.
fn defaults(node_name: &str) -> AgentSettings {
    let dns_listen = [DEFAULT_DNS_V4, DEFAULT_DNS_V6].into_iter().filter_map(|ip| socket_addr(ip, 53).ok());
    AgentSettings {
        node_name: node_name.to_owned(),
        source: SourceChoice::None,
        mesh: MeshOptions::default(),
        file: None,
        unserved: Vec::new(),
        state_dir: PathBuf::from(DEFAULT_STATE_DIR),
        tunnel: Some(TunnelFlags {
            relay: false,
            relays: Vec::new(),
            psk_file: PathBuf::from("/etc/edgemesh/psk"),
            identity: IdentityMode::Auto,
            authority_file: PathBuf::from(DEFAULT_AUTHORITY),
            authority_key_file: None,
            listen: Vec::new(),
            advertise: Vec::new(),
            mdns: true,
            go_peers: false,
            skip_interfaces: Vec::new(),
            listen_interfaces: Vec::new(),
        }),
        dns: Some(DnsFlags {
            listen: dns_listen.collect(),
            upstreams: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            cache_ttl: None,
            cluster_dns: false,
        }),
        proxy: Some(ProxyFlags {
            port: DEFAULT_PROXY_PORT,
            kernel_path: KernelPath::Auto,
            connect_rewrite: true,
            backend: KernelBackend::Auto,
            node_port_addresses: Vec::new(),
            max_connections: 10_240,
            max_udp_sessions: 4_096,
            tcp_idle: Duration::from_secs(7_200),
            udp_idle: Duration::from_secs(60),
        }),
        device: DEFAULT_DEVICE.to_owned(),
        keep_rules: false,
        admin_socket: PathBuf::from(DEFAULT_ADMIN_SOCKET),
        metrics_listen: DEFAULT_METRICS.parse().ok(),
        access_log: AccessLog::default(),
        log_level: "info".to_owned(),
        log_json: false,
    }
}

/// `IP`, `IP:PORT`, `[IPv6]:PORT`.
fn socket_addr(text: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse().map_err(|_| anyhow!("{text:?} is no IP address, IP:PORT or [IPv6]:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<AgentSettings> {
        parse_agent(words.iter().map(OsString::from).collect()).map(|settings| settings.expect("not help"))
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let settings = parse(&["--node-name", "n", "--manifests", "/m"]).expect("valid");
        let dns = settings.dns.expect("on by default");
        assert_eq!(
            dns.listen,
            ["169.254.96.16:53".parse().unwrap(), "[fe80::a9fe:6010]:53".parse().unwrap()]
        );
        assert_eq!(settings.proxy.expect("on by default").port, 15001);
        assert_eq!(settings.metrics_listen, Some("127.0.0.1:9999".parse().unwrap()));
        assert!(!settings.tunnel.expect("on by default").relay);
    }

    #[test]
    fn a_relay_without_manifests_leaves_the_node_alone() {
        let settings = parse(&["--node-name", "n", "--role", "relay"]).expect("valid");
        assert!(settings.dns.is_none() && settings.proxy.is_none() && settings.tunnel.expect("relays").relay);
    }

    #[test]
    fn mistakes_are_named() {
        for (words, expected) in [
            (vec!["--node-name", "n"], "--manifests DIR is missing"),
            (vec!["--node-name", "a b", "--manifests", "/m"], "is no Kubernetes node name"),
            (vec!["--node-name", "n", "--manifests", "/m", "--dns-listen", "nowhere"], "is no IP address"),
            (vec!["--node-name", "n", "--manifests", "/m", "--speed", "9"], "there is no such flag"),
            (vec!["--node-name", "n", "--manifests", "/m", "--role", "king"], "none of agent, relay"),
            (vec!["--node-name", "n", "--role", "relay", "--no-tunnel"], "exclude each other"),
            (
                vec!["--node-name", "n", "--manifests", "/m", "--bridge-device", "a-name-that-is-too-long"],
                "device name",
            ),
        ] {
            let error = format!("{:#}", parse(&words).expect_err("a mistake"));
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }
}
