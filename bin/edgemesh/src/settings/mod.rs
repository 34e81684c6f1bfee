//! Everything the agent is told: by flags, or by a configuration file with flags over it.

mod access;
pub(crate) mod file;
mod flags;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use edgemesh_admin::AccessLog;
use edgemesh_config::{IdentityMode, KernelBackend, KernelPath};
use edgemesh_mesh::MeshOptions;
use edgemesh_metadata::ApiAccess;
use edgemesh_reflector::Consistency;
use ipnet::IpNet;

pub(crate) use edgemesh_reflector::percent_encode;
pub(crate) use flags::{AGENT_HELP, parse_agent, skip_klog};

/// Where status, explain and rules look for the agent.
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/run/edgemesh/agent.sock";
/// The node's key and the journal.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/edgemesh";
/// The device that carries the agent's own addresses; Go EdgeMesh's name (commonConfig.bridgeDeviceName).
pub(crate) const DEFAULT_DEVICE: &str = "edgemesh0";
/// Where pods find their DNS server; Go EdgeMesh's address (commonConfig.bridgeDeviceIP).
pub(crate) const DEFAULT_DNS_V4: &str = "169.254.96.16";
/// The same number as a link-local IPv6 address: 169.254.96.16 is a9fe:6010.
pub(crate) const DEFAULT_DNS_V6: &str = "fe80::a9fe:6010";
/// Next to the ports that other meshes' sidecars use for the same purpose, away from the ephemeral range.
pub(crate) const DEFAULT_PROXY_PORT: u16 = 15001;
/// Go EdgeMesh's metric port (modules.edgeTunnel.metricConfig.port), on loopback only.
pub(crate) const DEFAULT_METRICS: &str = "127.0.0.1:9999";
/// Go EdgeMesh's tunnel port (modules.edgeTunnel.listenPort).
pub(crate) const DEFAULT_TUNNEL_PORT: u16 = 20006;

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    pub(crate) node_name: String,
    pub(crate) source: SourceChoice,
    pub(crate) mesh: MeshOptions,
    /// The file this came from, to be followed; flags that were given over it stay.
    pub(crate) file: Option<PathBuf>,
    /// What the file asks for and this version does not do, in words.
    pub(crate) unserved: Vec<String>,
    pub(crate) state_dir: PathBuf,
    pub(crate) tunnel: Option<TunnelFlags>,
    pub(crate) dns: Option<DnsFlags>,
    pub(crate) proxy: Option<ProxyFlags>,
    pub(crate) device: String,
    /// The kernel's rules stay when the agent ends.
    pub(crate) keep_rules: bool,
    pub(crate) admin_socket: PathBuf,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) access_log: AccessLog,
    pub(crate) log_level: String,
    pub(crate) log_json: bool,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceChoice {
    /// Nowhere: the node only relays.
    None,
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server.
    Api {
        /// Where it is and how to log in.
        access: Box<ApiAccess>,
        /// What its answers are worth.
        consistency: Consistency,
    },
}

impl SourceChoice {
    /// For the status page.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Manifests(directory) => format!("manifests {}", directory.display()),
            Self::Api { access, consistency: Consistency::Consistent } => {
                format!("kubernetes {}", access.url())
            }
            Self::Api { access, consistency: Consistency::Cached } => format!("metaServer {}", access.url()),
        }
    }

    /// Whether there are objects at all.
    pub(crate) fn is_some(&self) -> bool {
        *self != Self::None
    }
}

/// The tunnel's flags.
#[derive(Clone, Debug)]
pub(crate) struct TunnelFlags {
    pub(crate) relay: bool,
    pub(crate) relays: Vec<String>,
    pub(crate) psk_file: PathBuf,
    pub(crate) identity: IdentityMode,
    pub(crate) authority_file: PathBuf,
    /// The authority's own key, where this node pins the tokens of those who join.
    pub(crate) authority_key_file: Option<PathBuf>,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) advertise: Vec<SocketAddr>,
    pub(crate) mdns: bool,
    /// Speak with agents of Go EdgeMesh too.
    pub(crate) go_peers: bool,
    pub(crate) skip_interfaces: Vec<String>,
    /// Interfaces whose addresses are listened on; none means all.
    pub(crate) listen_interfaces: Vec<String>,
}

/// The DNS server's flags.
#[derive(Clone, Debug)]
pub(crate) struct DnsFlags {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) cluster_domain: String,
    /// The longest time that another server's answer is kept.
    pub(crate) cache_ttl: Option<Duration>,
    /// Ask the cluster's own DNS Services too.
    pub(crate) cluster_dns: bool,
}

/// The proxy's flags.
#[derive(Clone, Debug)]
pub(crate) struct ProxyFlags {
    pub(crate) port: u16,
    pub(crate) kernel_path: KernelPath,
    /// Sockets of the host connect to endpoints at once, where the kernel lets them.
    pub(crate) connect_rewrite: bool,
    pub(crate) backend: KernelBackend,
    /// Addresses of the host at which node ports are open; none means all.
    pub(crate) node_port_addresses: Vec<IpNet>,
    pub(crate) max_connections: usize,
    pub(crate) max_udp_sessions: usize,
    pub(crate) tcp_idle: Duration,
    pub(crate) udp_idle: Duration,
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

    #[test]
    fn percent_coding_returns_what_it_was_given() {
        for text in ["svc.ns:80/udp", "[::1]:80", "50%", "%zz", "ü"] {
            assert_eq!(percent_decode(&percent_encode(text)), text);
        }
    }
}
