use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::{Name, ObjectKey, Protocol};
use ipnet::IpNet;

use crate::{EndpointIndex, IngressObjects, Provenance, SortedMap, TunnelRules};

/// Namespace and name of a Service.
pub type ServiceId = ObjectKey;

/// Counts the snapshots of one process, from 1; readers report which one they applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual address and port that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The virtual address.
    pub ip: IpAddr,
    /// The Service port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl Frontend {
    /// Address and port as one.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_addr(), self.protocol)
    }
}

/// One endpoint of one Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address of the Pod, or of whatever the endpoint names.
    pub addr: SocketAddr,
    /// The node it runs on; `None` for endpoints outside the cluster, which are dialled from here.
    pub node: Option<Name>,
    /// The zone (LAN) it runs in.
    pub zone: Option<Name>,
    /// Host label for DNS.
    pub hostname: Option<Name>,
    /// The Pod behind it, `namespace/name`.
    pub pod: Option<ObjectKey>,
    /// Takes new connections.
    pub ready: bool,
    /// Would take connections but for being deleted.
    pub serving: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Who should use it.
    pub hints: Hints,
}

/// Topology hints of an endpoint (KEP-2433, KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones that should use it.
    pub zones: Box<[Name]>,
    /// Nodes that should use it.
    pub nodes: Box<[Name]>,
}

/// What a Service is to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has virtual addresses.
    ClusterIp,
    /// Its name resolves to its endpoints.
    Headless,
    /// Its name is an alias.
    ExternalName(Name),
}

/// `spec.trafficDistribution` (KEP-4444, KEP-3015).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// All endpoints alike.
    #[default]
    Spread,
    /// Endpoints of the own zone first; `PreferClose` is its older name.
    PreferSameZone,
    /// Endpoints of the own node first, then of the own zone.
    PreferSameNode,
}

/// How one endpoint is picked, from a DestinationRule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Uniformly.
    Random,
    /// By a hash of the client's address.
    SourceIpHash,
}

/// One port of a Service with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// The port's name.
    pub name: Option<Name>,
    /// The Service port. 0 in the one entry of a headless Service that declares no ports: its backends carry
    /// addresses for DNS and cannot be connected to by port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The port at every address of the node.
    pub node_port: Option<u16>,
    /// Every endpoint, ready or not, in the order of address; both families.
    pub backends: Arc<[Backend]>,
}

/// One Service, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Namespace and name.
    pub id: ServiceId,
    /// Virtual addresses, headless, or alias.
    pub kind: ServiceKind,
    /// Virtual addresses, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// External addresses; they lead to the same endpoints.
    pub external_ips: Vec<IpAddr>,
    /// Addresses that a load balancer gave and that lead here (`ipMode: VIP`, KEP-1860). One that is an external address
    /// too is here only: `source_ranges` are for it.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The ports.
    pub ports: Vec<PortEntry>,
    /// `ClientIP` persistence with its timeout.
    pub affinity: Option<Duration>,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Clients that may use the load-balancer addresses, in order and without overlap; `None` when everybody may, an empty
    /// list when nobody may. A family without a range has no client that may.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Where a load balancer asks whether this node has ready endpoints.
    pub health_check_node_port: Option<u16>,
    /// How one endpoint is picked.
    pub policy: Policy,
    /// DNS names endpoints that are not ready.
    pub publish_not_ready: bool,
    /// Whether the mesh intercepts its addresses; a filtered Service is still resolved by DNS.
    pub intercepted: bool,
}

/// From where clients know a frontend; it decides which traffic policy is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A cluster address: `internalTrafficPolicy`.
    Cluster,
    /// One of `externalIPs`: `externalTrafficPolicy`.
    External,
    /// An address that a load balancer gave: `externalTrafficPolicy` and the source ranges.
    LoadBalancer,
    /// A port at every address of the node: `externalTrafficPolicy`.
    NodePort,
}

impl Scope {
    /// The word for explanations and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::External => "external",
            Self::LoadBalancer => "load_balancer",
            Self::NodePort => "node_port",
        }
    }
}

/// A frontend's place in the snapshot.
#[derive(Clone, Debug)]
pub struct FrontendEntry {
    /// The Service.
    pub service: Arc<ServiceEntry>,
    /// Index into `service.ports`.
    pub port: usize,
    /// From where clients know it.
    pub scope: Scope,
}

impl FrontendEntry {
    /// The port with its endpoints.
    pub fn port(&self) -> &PortEntry {
        &self.service.ports[self.port]
    }

    /// Whether only endpoints of the own node may be used. Clients inside, which are this node and its Pods, reach
    /// what they know by an outer address as if it were a cluster address of policy `Cluster`: `externalTrafficPolicy` is
    /// there to keep the addresses of clients that come from elsewhere, and to spare them a second hop.
    pub fn local_only(&self, inside: bool) -> bool {
        match self.scope {
            Scope::Cluster => self.service.internal_local,
            Scope::External | Scope::LoadBalancer | Scope::NodePort => self.service.external_local && !inside,
        }
    }
}

impl ServiceEntry {
    /// Whether a client may use the load-balancer addresses.
    pub fn admits_source(&self, client: IpAddr) -> bool {
        self.source_ranges.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&client)))
    }

    /// How many ready endpoints run on a node. An endpoint counts once for all its ports, and once for both families.
    pub fn ready_on(&self, node: &str) -> usize {
        let backends = self.ports.iter().flat_map(|port| port.backends.iter());
        let ready = backends.filter(|backend| backend.ready && backend.node.as_deref() == Some(node));
        let ips: BTreeSet<IpAddr> = ready.map(|backend| backend.addr.ip()).collect();
        let v4 = ips.iter().filter(|ip| ip.is_ipv4()).count();
        v4.max(ips.len() - v4)
    }
}

/// A Pod with an address, for pod names in DNS and for the per-pod names of headless Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The Pod.
    pub pod: ObjectKey,
    /// The node it runs on.
    pub node: Option<Name>,
}

/// What is known of the node the agent runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: Name,
    /// Its zone label.
    pub zone: Option<Name>,
    /// The addresses that its Node object names.
    pub addresses: Vec<IpAddr>,
    /// The ranges that its Node object gives to its Pods.
    pub pod_ranges: Vec<IpNet>,
}

/// Something in the objects that the mesh cannot act on, reported per object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `Kind namespace/name`.
    pub object: String,
    /// What, and what to do.
    pub message: String,
}

/// The whole mesh at one moment, as every reader sees it. Copies, and snapshots that follow each other, share what is
/// equal in them.
#[derive(Clone, Debug)]
pub struct MeshSnapshot {
    /// Which snapshot this is.
    pub generation: Generation,
    /// True until a source has delivered a complete listing in this process: the data is the journal's.
    pub stale: bool,
    /// Where the objects come from and how old they are; `None` where nothing follows a source.
    pub provenance: Option<Arc<Provenance>>,
    /// The node the agent runs on.
    pub node: LocalNode,
    /// Every Service by namespace and name.
    pub services: SortedMap<ServiceId, Arc<ServiceEntry>>,
    /// Frontends of intercepted Services.
    pub frontends: SortedMap<Frontend, FrontendEntry>,
    /// Node ports of intercepted Services: frontends at whatever addresses the node has.
    pub node_ports: SortedMap<(Protocol, u16), FrontendEntry>,
    /// Namespaces that exist, by object or by use.
    pub namespaces: Arc<BTreeSet<Name>>,
    /// Service that owns a virtual address, for PTR.
    pub service_by_ip: SortedMap<IpAddr, ServiceId>,
    /// Services with an endpoint at an address, for PTR; only endpoints that DNS publishes.
    pub endpoints_by_ip: EndpointIndex,
    /// Pods by address. Pod ranges may repeat between nodes, hence a list.
    pub pods_by_ip: Arc<HashMap<IpAddr, Vec<PodAddress>>>,
    /// Ready endpoints on this node: what a peer may reach (invariant 4).
    pub local_backends: SortedMap<(SocketAddr, Protocol), ServiceId>,
    /// Who may reach backends through the tunnel, where TunnelPolicies say so.
    pub tunnel_rules: Arc<TunnelRules>,
    /// Peer identities that Node objects vouch for, by node name.
    pub peer_ids: Arc<BTreeMap<Name, Name>>,
    /// Nodes with their zones.
    pub zones: Arc<BTreeMap<Name, Option<Name>>>,
    /// Ranges from which a node's Pods get their addresses (`spec.podCIDRs`), for nodes that have any.
    pub pod_ranges: Arc<BTreeMap<Name, Vec<IpNet>>>,
    /// Objects that only a gateway acts on.
    pub ingress: Arc<IngressObjects>,
    /// What could not be acted on.
    pub findings: Vec<Finding>,
}

impl MeshSnapshot {
    /// A snapshot of nothing: what readers hold until the first compile.
    pub fn empty(node: Name) -> Self {
        Self {
            generation: Generation(0),
            stale: true,
            provenance: None,
            node: LocalNode { name: node, zone: None, addresses: Vec::new(), pod_ranges: Vec::new() },
            services: SortedMap::default(),
            frontends: SortedMap::default(),
            node_ports: SortedMap::default(),
            namespaces: Arc::default(),
            service_by_ip: SortedMap::default(),
            endpoints_by_ip: EndpointIndex::default(),
            pods_by_ip: Arc::default(),
            local_backends: SortedMap::default(),
            tunnel_rules: Arc::default(),
            peer_ids: Arc::default(),
            zones: Arc::default(),
            pod_ranges: Arc::default(),
            ingress: Arc::default(),
            findings: Vec::new(),
        }
    }

    /// The Service behind a frontend.
    pub fn frontend(&self, frontend: &Frontend) -> Option<&FrontendEntry> {
        self.frontends.get(frontend)
    }

    /// The Service behind an address and port, the node's own ports among them. The snapshot does not know which
    /// addresses the node has: the caller tells whether this is one.
    pub fn lookup(&self, frontend: &Frontend, is_host_address: bool) -> Option<&FrontendEntry> {
        let node_port =
            || self.node_ports.get(&(frontend.protocol, frontend.port)).filter(|_| is_host_address);
        self.frontend(frontend).or_else(node_port)
    }

    /// Whether a client is this node itself or one of its Pods. The node appears with a link-local address when it
    /// connects through the mesh's device, and with its own ones otherwise.
    pub fn is_inside(&self, client: IpAddr) -> bool {
        let link_local = match client {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let node = &self.node;
        let is_pod = |pod: &PodAddress| pod.node.as_ref() == Some(&node.name);
        link_local
            || client.is_loopback()
            || node.addresses.contains(&client)
            || node.pod_ranges.iter().any(|range| range.contains(&client))
            || self.pods_by_ip.get(&client).is_some_and(|pods| pods.iter().any(is_pod))
    }

    /// A Service by name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceEntry>> {
        self.services.get_by(|id| (&*id.namespace, &*id.name).cmp(&(namespace, name)))
    }
}
