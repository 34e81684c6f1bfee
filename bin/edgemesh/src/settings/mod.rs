//! What the command line says, with the defaults.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use edgemesh_admin::AccessLog;
use lexopt::{Arg, ValueExt as _};

/// Where status, explain and rules look for the agent.
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/run/edgemesh/agent.sock";
/// The device that carries the agent's own addresses; Go EdgeMesh's name (commonConfig.bridgeDeviceName).
pub(crate) const DEFAULT_DEVICE: &str = "edgemesh0";
/// Where pods find their DNS server; Go EdgeMesh's address (commonConfig.bridgeDeviceIP).
const DEFAULT_DNS_V4: &str = "169.254.96.16";
/// The same number as a link-local IPv6 address: 169.254.96.16 is a9fe:6010.
const DEFAULT_DNS_V6: &str = "fe80::a9fe:6010";
/// Next to the ports that other meshes' sidecars use for the same purpose, away from the ephemeral range.
const DEFAULT_PROXY_PORT: u16 = 15001;
/// Go EdgeMesh's metric port (modules.edgeTunnel.metricConfig.port), on loopback only.
const DEFAULT_METRICS: &str = "127.0.0.1:9999";
/// Go EdgeMesh's tunnel port (modules.edgeTunnel.listenPort).
pub(crate) const DEFAULT_TUNNEL_PORT: u16 = 20006;

pub(crate) const HELP: &str = "\
edgemesh agent: DNS, interception, proxy and tunnel of one node

  --node-name NAME         the node's name in the manifests (or the environment's NODE_NAME)
  --manifests DIR          Kubernetes YAML: Services, EndpointSlices, Pods, Nodes, ... (followed while running)
  --role relay             also relay for other nodes; without --manifests the agent only relays
  --relay ADDR             a relay: IP:PORT or a multiaddr, repeatable; /p2p/ID at its end pins the relay's identity
  --psk-file FILE          the private-network key (default /etc/edgemesh/psk; make one with `edgemesh psk FILE`)
  --state-dir DIR          the node's key and the journal (default /var/lib/edgemesh)
  --listen ADDR            tunnel address, repeatable (default 0.0.0.0:20006 and [::]:20006)
  --advertise ADDR         address at which other nodes reach the tunnel, repeatable (default: the node's own)
  --no-mdns                do not look for peers in the LAN
  --no-tunnel              no tunnel: only backends this node can dial itself
  --dns-listen IP[:PORT]   DNS address, repeatable (default 169.254.96.16 and fe80::a9fe:6010%edgemesh0, port 53); `off`
  --dns-upstream IP[:PORT] where other names are asked, repeatable (default: /etc/resolv.conf)
  --cluster-domain NAME    default cluster.local
  --proxy-port PORT        loopback port of the interception (default 15001)
  --no-intercept           leave the kernel alone: DNS and tunnel only
  --bridge-device NAME     device of the agent's own addresses (default edgemesh0)
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

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    pub(crate) node_name: String,
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) state_dir: PathBuf,
    pub(crate) tunnel: Option<TunnelFlags>,
    pub(crate) dns: Option<DnsFlags>,
    pub(crate) proxy: Option<ProxyFlags>,
    pub(crate) device: String,
    pub(crate) admin_socket: PathBuf,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) access_log: AccessLog,
    pub(crate) log_level: String,
    pub(crate) log_json: bool,
}

/// The tunnel's flags.
#[derive(Clone, Debug)]
pub(crate) struct TunnelFlags {
    pub(crate) relay: bool,
    pub(crate) relays: Vec<String>,
    pub(crate) psk_file: PathBuf,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) advertise: Vec<SocketAddr>,
    pub(crate) mdns: bool,
}

/// The DNS server's flags.
#[derive(Clone, Debug)]
pub(crate) struct DnsFlags {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) cluster_domain: String,
}

/// The proxy's flags.
#[derive(Clone, Debug)]
pub(crate) struct ProxyFlags {
    pub(crate) port: u16,
    pub(crate) max_connections: usize,
    pub(crate) max_udp_sessions: usize,
    pub(crate) tcp_idle: Duration,
    pub(crate) udp_idle: Duration,
}

impl AgentSettings {
    /// Reads the flags; `None` when help was asked for.
    pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Option<Self>> {
        let mut raw = Raw::default();
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            let flag = match argument {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long(flag) => flag.to_owned(),
                other => return Err(other.unexpected().into()),
            };
            raw.take(&flag, &mut parser).with_context(|| format!("--{flag}"))?;
        }
        raw.resolve().map(Some)
    }
}

#[derive(Default)]
struct Raw {
    node_name: Option<String>,
    manifests: Option<PathBuf>,
    relay_role: bool,
    relays: Vec<String>,
    psk_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    listen: Vec<SocketAddr>,
    advertise: Vec<SocketAddr>,
    no_mdns: bool,
    no_tunnel: bool,
    dns_listen: Vec<SocketAddr>,
    dns_off: bool,
    dns_upstreams: Vec<SocketAddr>,
    cluster_domain: Option<String>,
    proxy_port: Option<u16>,
    no_intercept: bool,
    device: Option<String>,
    max_connections: Option<usize>,
    max_udp_sessions: Option<usize>,
    tcp_idle: Option<u64>,
    udp_idle: Option<u64>,
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<String>,
    access_log: AccessLog,
    log_level: Option<String>,
    log_json: bool,
}

impl Raw {
    fn take(&mut self, flag: &str, parser: &mut lexopt::Parser) -> Result<()> {
        match flag {
            "node-name" => self.node_name = Some(parser.value()?.string()?),
            "manifests" => self.manifests = Some(PathBuf::from(parser.value()?)),
            "role" => match parser.value()?.string()?.as_str() {
                "relay" => self.relay_role = true,
                "agent" => self.relay_role = false,
                other => bail!("{other:?} is none of agent, relay"),
            },
            "relay" => self.relays.push(parser.value()?.string()?),
            "psk-file" => self.psk_file = Some(PathBuf::from(parser.value()?)),
            "state-dir" => self.state_dir = Some(PathBuf::from(parser.value()?)),
            "listen" => self.listen.push(socket_addr(&parser.value()?.string()?, DEFAULT_TUNNEL_PORT)?),
            "advertise" => self.advertise.push(socket_addr(&parser.value()?.string()?, DEFAULT_TUNNEL_PORT)?),
            "no-mdns" => self.no_mdns = true,
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
            "max-connections" => self.max_connections = Some(parser.value()?.parse()?),
            "max-udp-sessions" => self.max_udp_sessions = Some(parser.value()?.parse()?),
            "tcp-idle" => self.tcp_idle = Some(parser.value()?.parse()?),
            "udp-idle" => self.udp_idle = Some(parser.value()?.parse()?),
            "admin-socket" => self.admin_socket = Some(PathBuf::from(parser.value()?)),
            "metrics-listen" => self.metrics_listen = Some(parser.value()?.string()?),
            "access-log" => {
                self.access_log = parser.value()?.string()?.parse().map_err(|error: String| anyhow!(error))?
            }
            "log-level" => self.log_level = Some(parser.value()?.string()?),
            "log-json" => self.log_json = true,
            _ => bail!("there is no such flag; `edgemesh agent --help` lists them"),
        }
        Ok(())
    }

    fn resolve(self) -> Result<AgentSettings> {
        let node_name = self
            .node_name
            .or_else(|| std::env::var("NODE_NAME").ok())
            .filter(|name| !name.is_empty())
            .context("--node-name is missing (or set NODE_NAME)")?;
        if node_name.len() > 253
            || !node_name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        {
            bail!("--node-name {node_name:?} is no Kubernetes node name (RFC 1123 subdomain)");
        }
        let relay_only = self.relay_role && self.manifests.is_none();
        if self.manifests.is_none() && !self.relay_role {
            bail!(
                "--manifests DIR is missing: the folder with the Services, EndpointSlices, Pods and Nodes as YAML"
            );
        }
        if self.relay_role && self.no_tunnel {
            bail!("--role relay and --no-tunnel exclude each other");
        }
        let device = self.device.unwrap_or_else(|| DEFAULT_DEVICE.to_owned());
        if device.is_empty() || device.len() > 15 || device.contains(['/', ' ']) {
            bail!("--bridge-device {device:?} is no device name (1 to 15 characters, no slash, no space)");
        }
        let metrics_listen = match self.metrics_listen.as_deref().unwrap_or(DEFAULT_METRICS) {
            "off" => None,
            text => Some(text.parse().with_context(|| format!("--metrics-listen {text:?} is no IP:PORT"))?),
        };
        let tunnel = (!self.no_tunnel).then(|| TunnelFlags {
            relay: self.relay_role,
            relays: self.relays,
            psk_file: self.psk_file.unwrap_or_else(|| PathBuf::from("/etc/edgemesh/psk")),
            listen: self.listen,
            advertise: self.advertise,
            mdns: !self.no_mdns,
        });
        let dns_listen = if self.dns_listen.is_empty() {
            vec![socket_addr(DEFAULT_DNS_V4, 53)?, socket_addr(DEFAULT_DNS_V6, 53)?]
        } else {
            self.dns_listen
        };
        Ok(AgentSettings {
            node_name,
            manifests: self.manifests,
            state_dir: self.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/edgemesh")),
            tunnel,
            dns: (!self.dns_off && !relay_only).then(|| DnsFlags {
                listen: dns_listen,
                upstreams: self.dns_upstreams,
                cluster_domain: self.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            }),
            proxy: (!self.no_intercept && !relay_only).then(|| ProxyFlags {
                port: self.proxy_port.unwrap_or(DEFAULT_PROXY_PORT),
                max_connections: self.max_connections.unwrap_or(10_240),
                max_udp_sessions: self.max_udp_sessions.unwrap_or(4_096),
                tcp_idle: Duration::from_secs(self.tcp_idle.unwrap_or(7_200)),
                udp_idle: Duration::from_secs(self.udp_idle.unwrap_or(60)),
            }),
            device,
            admin_socket: self.admin_socket.unwrap_or_else(|| PathBuf::from(DEFAULT_ADMIN_SOCKET)),
            metrics_listen,
            access_log: self.access_log,
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            log_json: self.log_json,
        })
    }
}

/// `IP`, `IP:PORT`, `[IPv6]:PORT`.
fn socket_addr(text: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse().map_err(|_| anyhow!("{text:?} is no IP address, IP:PORT or [IPv6]:PORT"))
}

/// Encodes what may not stand in a query string (RFC 3986 §2.1).
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Undoes [`percent_encode`]; what is no valid encoding stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<AgentSettings> {
        AgentSettings::parse(words.iter().map(OsString::from).collect())
            .map(|settings| settings.expect("not help"))
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

    #[test]
    fn percent_coding_returns_what_it_was_given() {
        for text in ["svc.ns:80/udp", "[::1]:80", "50%", "%zz", "ü"] {
            assert_eq!(percent_decode(&percent_encode(text)), text);
        }
    }
}
