use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use edgemesh_api::{Kind, Name, Node, Protocol, label};
use ipnet::IpNet;

use crate::address::routable;
use crate::claims::Claims;
use crate::compile::{self, Compiled};
use crate::endpoints::addresses;
use crate::objects::{Objects, Touched};
use crate::{
    EndpointIndex, Finding, Generation, IngressObjects, LocalNode, MeshOptions, MeshSnapshot, PodAddress,
    Policy, ServiceEntry, ServiceId, SortedMap, TunnelRules,
};

/// Findings of one snapshot: enough to name what is wrong in a cluster, and a megabyte at most.
const MAX_FINDINGS: usize = 4096;

/// A Service that is not what it was.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) id: ServiceId,
    pub(crate) old: Option<Arc<ServiceEntry>>,
    pub(crate) new: Option<Arc<ServiceEntry>>,
}

/// The parts of the newest snapshot. A change of one Service costs what concerns that Service, however many there are.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    services: SortedMap<ServiceId, Arc<ServiceEntry>>,
    /// What was found in each Service, where anything was.
    findings: BTreeMap<ServiceId, Vec<Finding>>,
    policies: BTreeMap<ServiceId, Policy>,
    claims: Claims,
    /// Services with an endpoint on this node.
    local_services: BTreeSet<ServiceId>,
    local_backends: SortedMap<(SocketAddr, Protocol), ServiceId>,
    endpoints_by_ip: EndpointIndex,
    nodes: Nodes,
    namespaces: Arc<BTreeSet<Name>>,
    pods_by_ip: Arc<HashMap<IpAddr, Vec<PodAddress>>>,
    ingress: Arc<IngressObjects>,
    tunnel_rules: Arc<TunnelRules>,
    /// What was found in the TunnelPolicies.
    tunnel_findings: Vec<Finding>,
}

/// What the Node objects say.
#[derive(Debug, Default)]
struct Nodes {
    zones: Arc<BTreeMap<Name, Option<Name>>>,
    pod_ranges: Arc<BTreeMap<Name, Vec<IpNet>>>,
    peer_ids: Arc<BTreeMap<Name, Name>>,
    /// Of the own node.
    addresses: Vec<IpAddr>,
    findings: Vec<Finding>,
}

impl Assembly {
    /// Brings the parts up to date with the objects. Only Services that something touched concerns, or whose policy
    /// changed, are built again. Services that are `held` give way to others.
    pub(crate) fn update(
        &mut self,
        node: &Name,
        objects: &Objects,
        options: &MeshOptions,
        touched: Touched,
        policies: BTreeMap<ServiceId, Policy>,
        held: &dyn Fn(&ServiceId) -> bool,
    ) {
        if touched.nodes {
            self.nodes = Nodes::read(node, objects);
        }
        if touched.namespaces {
            self.namespaces = Arc::new(objects.namespaces().cloned().collect());
        }
        if touched.ingress {
            self.ingress = Arc::new(IngressObjects::of_state(objects));
        }
        if touched.pods || touched.nodes {
            self.pods_by_ip = Arc::new(pods_by_ip(objects));
        }
        let mut ids = touched
            .services
            .unwrap_or_else(|| objects.service_ids().chain(self.services.keys()).cloned().collect());
        ids.extend(differing(&self.policies, &policies));
        self.policies = policies;
        let changes: Vec<Change> =
            ids.into_iter().filter_map(|id| self.build(objects, options, id)).collect();
        self.claims.update(&self.services, &changes, held);
        self.update_local(node, &changes);
        // Few policies are there, and a cluster without any has nothing to gather.
        let policed = objects.count(Kind::TunnelPolicy) > 0 && !changes.is_empty();
        if touched.tunnel_policies || policed {
            let (rules, findings) = TunnelRules::compile(objects, &self.services);
            self.tunnel_findings = findings;
            if *self.tunnel_rules != rules {
                self.tunnel_rules = Arc::new(rules);
            }
        }
        self.endpoints_by_ip = self.endpoints_by_ip.follow(&changes, &self.services);
    }

    /// Builds one Service; `None` when its entry is as it was.
    fn build(&mut self, objects: &Objects, options: &MeshOptions, id: ServiceId) -> Option<Change> {
        let Some(service) = objects.service(&id) else {
            self.findings.remove(&id);
            let old = self.services.remove(&id);
            return old.is_some().then_some(Change { id, old, new: None });
        };
        let policy = self.policies.get(&id).copied().unwrap_or_default();
        let Compiled { entry, findings } = compile::build(objects, options, &id, service, policy);
        match findings.is_empty() {
            true => drop(self.findings.remove(&id)),
            false => drop(self.findings.insert(id.clone(), findings)),
        }
        if self.services.get(&id).is_some_and(|old| **old == entry) {
            return None;
        }
        let new = Arc::new(entry);
        let old = self.services.insert(id.clone(), new.clone());
        Some(Change { id, old, new: Some(new) })
    }

    /// Invariant 4 names these to peers. There are as many as Pods on one node, so they are gathered anew when one of
    /// their Services changed.
    fn update_local(&mut self, node: &Name, changes: &[Change]) {
        let mut concerned = false;
        for Change { id, new, .. } in changes {
            let local = new.as_ref().is_some_and(|entry| local_backends(entry, node).next().is_some());
            concerned |= match local {
                true => {
                    self.local_services.insert(id.clone());
                    true
                }
                false => self.local_services.remove(id),
            };
        }
        if !concerned {
            return;
        }
        let entries = self.local_services.iter().filter_map(|id| Some((id, self.services.get(id)?)));
        let mut local: Vec<_> = entries
            .flat_map(|(id, entry)| local_backends(entry, node).map(move |backend| (backend, id)))
            .collect();
        // What several Services have is the first one's.
        local.sort();
        local.dedup_by_key(|(backend, _)| *backend);
        self.local_backends = local.into_iter().map(|(backend, id)| (backend, id.clone())).collect();
    }

    /// The parts as one snapshot, with further findings.
    pub(crate) fn snapshot(
        &self,
        node: &Name,
        objects: &Objects,
        mut findings: Vec<Finding>,
    ) -> MeshSnapshot {
        findings.extend_from_slice(&self.nodes.findings);
        findings.extend(self.findings.values().flatten().cloned());
        findings.extend_from_slice(self.claims.clashes());
        findings.extend_from_slice(&self.tunnel_findings);
        findings.extend(self.ingress.findings());
        for slice in objects.orphan_slices() {
            let message = format!("has no label {}: it belongs to no Service", label::SERVICE_NAME);
            findings.push(Finding { object: format!("EndpointSlice {slice}"), message });
        }
        bound(&mut findings);
        MeshSnapshot {
            generation: Generation(0),
            stale: true,
            provenance: None,
            node: LocalNode {
                name: node.clone(),
                zone: self.nodes.zones.get(node).cloned().flatten(),
                addresses: self.nodes.addresses.clone(),
                pod_ranges: self.nodes.pod_ranges.get(node).cloned().unwrap_or_default(),
            },
            services: self.services.clone(),
            frontends: self.claims.frontends().clone(),
            node_ports: self.claims.node_ports().clone(),
            namespaces: self.namespaces.clone(),
            service_by_ip: self.claims.service_by_ip().clone(),
            endpoints_by_ip: self.endpoints_by_ip.clone(),
            pods_by_ip: self.pods_by_ip.clone(),
            local_backends: self.local_backends.clone(),
            tunnel_rules: self.tunnel_rules.clone(),
            peer_ids: self.nodes.peer_ids.clone(),
            zones: self.nodes.zones.clone(),
            pod_ranges: self.nodes.pod_ranges.clone(),
            ingress: self.ingress.clone(),
            findings,
        }
    }
}

impl Nodes {
    fn read(own: &Name, objects: &Objects) -> Self {
        let (mut zones, mut peer_ids, mut findings) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut pod_ranges = BTreeMap::new();
        let mut node_of: BTreeMap<Name, Name> = BTreeMap::new();
        for (name, node) in objects.nodes() {
            let zone = node.metadata.labels.get(label::ZONE).filter(|zone| !zone.is_empty()).cloned();
            zones.insert(name.clone(), zone);
            let (ranges, unread) = pod_ranges_of(node);
            findings.extend(unread.map(|text| Finding {
                object: format!("Node {name}"),
                message: format!("podCIDRs: {text:?} is no range of addresses such as 10.244.1.0/24"),
            }));
            if !ranges.is_empty() {
                pod_ranges.insert(name.clone(), ranges);
            }
            if let Some(peer) = node.metadata.annotations.get(label::PEER_ID).filter(|peer| !peer.is_empty())
            {
                peer_ids.insert(name.clone(), peer.clone());
                if let Some(other) = node_of.insert(peer.clone(), name.clone()) {
                    let message =
                        format!("peer {peer} is Node {other} too: one of them runs with a copied key");
                    findings.push(Finding { object: format!("Node {name}"), message });
                }
            }
        }
        let addresses = objects.node(own).into_iter().flat_map(|node| &node.status.addresses);
        // Names are among them; they are no addresses.
        let addresses = addresses.filter_map(|entry| entry.address.parse().ok()).collect();
        Self {
            zones: Arc::new(zones),
            pod_ranges: Arc::new(pod_ranges),
            peer_ids: Arc::new(peer_ids),
            addresses,
            findings,
        }
    }
}

/// The pod ranges of a node, and the first text that is none.
fn pod_ranges_of(node: &Node) -> (Vec<IpNet>, Option<&Name>) {
    let texts = &node.spec.pod_cidrs;
    let unread = texts.iter().find(|text| text.parse::<IpNet>().is_err());
    (texts.iter().filter_map(|text| text.parse().ok()).collect(), unread)
}

/// Services that the two say different things of.
fn differing<'a>(
    old: &'a BTreeMap<ServiceId, Policy>,
    new: &'a BTreeMap<ServiceId, Policy>,
) -> impl Iterator<Item = ServiceId> + 'a {
    let keys = old.keys().chain(new.keys());
    keys.filter(|id| old.get(*id).copied().unwrap_or_default() != new.get(*id).copied().unwrap_or_default())
        .cloned()
}

fn pods_by_ip(objects: &Objects) -> HashMap<IpAddr, Vec<PodAddress>> {
    let mut by_ip: HashMap<_, Vec<_>> = HashMap::with_capacity(objects.count(Kind::Pod));
    for pod in objects.pods() {
        if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            continue;
        }
        for ip in addresses(objects, pod).into_iter().filter_map(|text| routable(text).ok()) {
            let address = PodAddress { pod: pod.metadata.key(), node: pod.spec.node_name.clone() };
            by_ip.entry(ip).or_default().push(address);
        }
    }
    by_ip
}

/// Invariant 4: an endpoint that names no node, or another one, is never admitted for a peer, nor is one of a
/// Service that another proxy owns. Terminating endpoints that still serve are: kube-proxy on the peer's node falls
/// back to them when no other is left (KEP-1669), and the peer's view may be older than ours.
fn local_backends<'a>(
    entry: &'a ServiceEntry,
    node: &'a Name,
) -> impl Iterator<Item = (SocketAddr, Protocol)> + 'a {
    let ports = entry.ports.iter().filter(|port| port.port != 0 && port.protocol != Protocol::Sctp);
    let ports = ports.filter(|_| entry.intercepted);
    ports.flat_map(move |port| {
        let here = port.backends.iter().filter(move |backend| {
            backend.node.as_ref() == Some(node) && (backend.ready || (backend.serving && backend.terminating))
        });
        here.map(|backend| (backend.addr, port.protocol))
    })
}

fn bound(findings: &mut Vec<Finding>) {
    findings.sort();
    findings.dedup();
    if let Some(left_out) = findings.len().checked_sub(MAX_FINDINGS).filter(|left_out| *left_out > 0) {
        findings.truncate(MAX_FINDINGS);
        findings.push(Finding {
            object: "more".to_owned(),
            message: format!("{left_out} findings are left out"),
        });
    }
}
