use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::{Name, ObjectKey, Protocol};

use crate::{EndpointIndex, Provenance, SortedMap};

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
    pub zones: Vec<Name>,
    /// Nodes that should use it.
    pub nodes: Vec<Name>,
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
    /// External and load-balancer addresses; they lead to the same endpoints.
    pub external_ips: Vec<IpAddr>,
    /// The ports.
    pub ports: Vec<PortEntry>,
    /// `ClientIP` persistence with its timeout.
    pub affinity: Option<Duration>,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// How one endpoint is picked.
    pub policy: Policy,
    /// DNS names endpoints that are not ready.
    pub publish_not_ready: bool,
    /// Whether the mesh intercepts its addresses; a filtered Service is still resolved by DNS.
    pub intercepted: bool,
}

/// A frontend's place in the snapshot.
#[derive(Clone, Debug)]
pub struct FrontendEntry {
    /// The Service.
    pub service: Arc<ServiceEntry>,
    /// Index into `service.ports`.
    pub port: usize,
}

impl FrontendEntry {
    /// The port with its endpoints.
    pub fn port(&self) -> &PortEntry {
        &self.service.ports[self.port]
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
    /// Peer identities that Node objects vouch for, by node name.
    pub peer_ids: Arc<BTreeMap<Name, Name>>,
    /// Nodes with their zones.
    pub zones: Arc<BTreeMap<Name, Option<Name>>>,
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
            node: LocalNode { name: node, zone: None },
            services: SortedMap::default(),
            frontends: SortedMap::default(),
            namespaces: Arc::default(),
            service_by_ip: SortedMap::default(),
            endpoints_by_ip: EndpointIndex::default(),
            pods_by_ip: Arc::default(),
            local_backends: SortedMap::default(),
            peer_ids: Arc::default(),
            zones: Arc::default(),
            findings: Vec::new(),
        }
    }

    /// The Service behind a frontend.
    pub fn frontend(&self, frontend: &Frontend) -> Option<&FrontendEntry> {
        self.frontends.get(frontend)
    }

    /// A Service by name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceEntry>> {
        self.services.get_by(|id| (&*id.namespace, &*id.name).cmp(&(namespace, name)))
    }
}
