use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::value::{RelayNode, Value};

/// Which program reads the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `edgemesh agent`, on every node.
    Agent,
    /// The ingress gateway.
    Gateway,
}

impl Role {
    /// The program's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Agent => "EdgeMeshAgent",
            Self::Gateway => "EdgeMeshGateway",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Agent => "agent.edgemesh.config.kubeedge.io/v1alpha1",
            Self::Gateway => "gateway.edgemesh.config.kubeedge.io/v1alpha1",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Agent => Self::Gateway,
            Self::Gateway => Self::Agent,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything a program is told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The program.
    pub role: Role,
    /// The Kubernetes name of the node it runs on.
    pub node_name: String,
    /// The namespace it runs in, where that is known.
    pub namespace: Option<String>,
    /// Where Services, EndpointSlices and Nodes come from.
    pub source: SourceSettings,
    /// Files and sockets.
    pub process: ProcessSettings,
    /// What is logged.
    pub log: LogSettings,
    /// The device of the agent's own addresses; none at a gateway.
    pub device: Option<DeviceSettings>,
    /// The DNS server.
    pub dns: Option<DnsSettings>,
    /// Interception and proxy.
    pub proxy: Option<ProxySettings>,
    /// The tunnel.
    pub tunnel: Option<TunnelSettings>,
    /// The pod network.
    pub cni: Option<CniSettings>,
    /// The listeners of the gateway.
    pub gateway: Option<GatewaySettings>,
    pub(crate) effective: Effective,
}

/// The value of every key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effective(pub(crate) BTreeMap<&'static str, Value>);

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// A directory of manifests, and no cluster.
    Manifests(PathBuf),
    /// A Kubernetes API server.
    Kubernetes {
        /// Its URL; over what the kubeconfig says. In the cluster it is the Service `kubernetes` of the environment.
        master: Option<String>,
        /// The kubeconfig.
        kubeconfig: Option<PathBuf>,
        /// Whether the pod's service account is what it shows.
        in_cluster: bool,
    },
    /// The metaServer of KubeEdge's edgecore on the node.
    MetaServer {
        /// Its URL.
        url: String,
        /// Who signed its certificate.
        ca_file: Option<PathBuf>,
        /// The certificate shown to it.
        cert_file: Option<PathBuf>,
        /// The key of that certificate.
        key_file: Option<PathBuf>,
        /// Whether its certificate is taken unseen.
        insecure_skip_verify: bool,
        /// The file with the bearer token.
        token_file: Option<PathBuf>,
    },
}

impl SourceSettings {
    /// The running mode, in Go EdgeMesh's words where it had one.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Manifests(_) => "ManifestMode",
            Self::Kubernetes { in_cluster: true, .. } => "CloudMode",
            Self::Kubernetes { .. } => "ManualMode",
            Self::MetaServer { .. } => "EdgeMode",
        }
    }
}

/// Files and sockets of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Where the node's key and the journal are kept.
    pub state_dir: PathBuf,
    /// Where status is asked.
    pub admin_socket: PathBuf,
    /// Where metrics and health are served; `None` is nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Which connections get a line.
    pub access: AccessLog,
    /// The level, or levels by crate.
    pub level: String,
    /// Whether a line is JSON.
    pub json: bool,
}

/// Which connections get a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Every one.
    All,
    /// Those that failed.
    Errors,
    /// None.
    Off,
}

impl AccessLog {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Errors => "errors",
            Self::Off => "off",
        }
    }
}

/// The device of the agent's own addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Its name.
    pub name: String,
    /// Its addresses: the one of the file, and for an IPv4 address the same number as a link-local IPv6 address.
    pub addresses: Vec<IpAddr>,
}

/// The DNS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Where it listens. A link-local IPv6 address is meant on the agent's own device.
    pub listen: Vec<SocketAddr>,
    /// The domain of the cluster, without a dot at the end.
    pub cluster_domain: String,
    /// The longest time that an answer of another server is kept.
    pub cache_ttl: Duration,
    /// Servers that are asked for other names; none means those of the node's resolver.
    pub upstreams: Vec<SocketAddr>,
    /// Whether the cluster's own DNS servers are looked up and asked too.
    pub auto_detect_cluster_dns: bool,
    /// Whether every name is asked upstream and the mesh answers none itself.
    pub forward_only: bool,
}

/// Which Services the mesh leaves to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceFilter {
    /// Those that have the label `service.edgemesh.kubeedge.io/service-proxy-name`.
    IfLabelExists,
    /// Those that do not have it.
    IfLabelDoesNotExist,
}

/// Which connections the kernel translates by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelPath {
    /// Those to endpoints it reaches; those of Pods go through the proxy on a host whose firewall drops forwarded packets
    /// that no rule of its own accepts.
    #[default]
    Auto,
    /// Those to endpoints it reaches, whatever the firewall does.
    Always,
    /// None.
    Off,
}

/// What carries the kernel's rules out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelBackend {
    /// nftables where the kernel takes every rule, else iptables.
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables and ipset.
    Iptables,
}

/// Interception and proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Which Services are left alone.
    pub filter: ServiceFilter,
    /// Whether the Service `default/kubernetes` is intercepted.
    pub hijack_kubernetes: bool,
    /// The loopback port that intercepted connections reach.
    pub port: u16,
    /// The port of the SOCKS5 server on the agent's own addresses.
    pub socks5: Option<u16>,
    /// Which connections the kernel translates by itself.
    pub kernel_path: KernelPath,
    /// Whether sockets of the host connect to endpoints at once, where the kernel lets them.
    pub connect_rewrite: bool,
    /// What carries the kernel's rules out.
    pub backend: KernelBackend,
    /// Addresses of the host at which node ports are open; none means all.
    pub node_port_addresses: Vec<IpNet>,
    /// Whether the kernel's rules stay when the agent ends.
    pub keep_rules: bool,
    /// Open TCP connections.
    pub max_connections: usize,
    /// Open UDP sessions.
    pub max_udp_sessions: usize,
    /// How long a TCP connection may be silent.
    pub tcp_idle: Duration,
    /// How long a UDP session may be silent.
    pub udp_idle: Duration,
}

/// Whose claims of node names the tunnel believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityMode {
    /// `Require` where an authority is known, `Prefer` elsewhere.
    #[default]
    Auto,
    /// Who proves them by a join token or is named by the Node object.
    Require,
    /// Those, and who comes first where nobody proves the name.
    Prefer,
    /// Who comes first.
    Off,
}

/// The tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The name it tells other nodes: the node's, or `NODE-gateway`.
    pub name: String,
    /// Its port.
    pub listen_port: u16,
    /// Interfaces it listens on; none means all.
    pub listen_interfaces: Vec<String>,
    /// Beginnings of further interface names that are no LAN.
    pub extra_filtered_interfaces: Vec<String>,
    /// Addresses at which others reach this node, besides those of its interfaces.
    pub advertise: Vec<SocketAddr>,
    /// The relays.
    pub relays: Vec<RelayNode>,
    /// Whether this node is one of them.
    pub is_relay: bool,
    /// The private network's key.
    pub psk_file: PathBuf,
    /// Whose claims of node names are believed.
    pub identity: IdentityMode,
    /// Public keys of the mesh's authorities.
    pub authority_file: PathBuf,
    /// The authority's own key, where this node has it.
    pub authority_key_file: PathBuf,
    /// Whether peers are looked for in the LAN.
    pub mdns: bool,
    /// Speak with agents of Go EdgeMesh too.
    pub go_peers: bool,
    /// The port of metrics on all interfaces.
    pub metrics: Option<u16>,
}

/// The pod network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniSettings {
    /// Pods of the cloud.
    pub cloud_cidrs: Vec<IpNet>,
    /// Pods of the edge.
    pub edge_cidrs: Vec<IpNet>,
}

/// Where the gateway listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Interfaces; none means all.
    pub nics: Vec<String>,
    /// Addresses it may listen on; none means all.
    pub include: Vec<IpNet>,
    /// Addresses it leaves alone.
    pub exclude: Vec<IpNet>,
}
