use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use edgemesh_api::{EndpointSlice, Kind, Name, Object, Protocol, Service, label};

use crate::address::routable;
use crate::endpoints::{Gather, addresses};
use crate::objects::Objects;
use crate::service::shape;
use crate::{
    Finding, Frontend, FrontendEntry, LocalNode, MeshOptions, MeshSnapshot, PodAddress, Policy, ServiceEntry,
    ServiceId, ServiceKind,
};

/// Findings of one snapshot: enough to name what is wrong in a cluster, and a megabyte at most.
const MAX_FINDINGS: usize = 4096;

/// A Service's entry with what was found on the way, kept between compiles.
#[derive(Debug)]
pub(crate) struct Compiled {
    entry: Arc<ServiceEntry>,
    findings: Vec<Finding>,
}

/// Brings the entries up to date with the objects. Only Services that something dirty concerns (`None`: all), or whose
/// policy changed, are built again.
pub(crate) fn services(
    objects: &Objects,
    options: &MeshOptions,
    dirty: Option<BTreeSet<ServiceId>>,
    policies: &BTreeMap<ServiceId, Policy>,
    compiled: &mut BTreeMap<ServiceId, Compiled>,
) {
    let mut ids = dirty.unwrap_or_else(|| objects.service_ids().chain(compiled.keys()).cloned().collect());
    let policy_of = |id: &ServiceId| policies.get(id).copied().unwrap_or_default();
    let changed = compiled.iter().filter(|(id, old)| old.entry.policy != policy_of(id));
    ids.extend(changed.map(|(id, _)| id.clone()));
    for id in ids {
        let Some(service) = objects.service(&id) else {
            compiled.remove(&id);
            continue;
        };
        let mut new = build(objects, options, &id, service, policy_of(&id));
        if let Some(old) = compiled.get(&id)
            && old.entry == new.entry
        {
            new.entry = old.entry.clone();
        }
        compiled.insert(id, new);
    }
}

fn build(
    objects: &Objects,
    options: &MeshOptions,
    id: &ServiceId,
    service: &Service,
    policy: Policy,
) -> Compiled {
    let mut findings = Vec::new();
    let (mut entry, ports) = shape(id, service, options, policy, &mut findings);
    let slices_serve = objects.slices(id).next().is_some() && !endpoints_contradict(objects, id);
    let mut gather = Gather::new(objects, ports, &entry.cluster_ips, &mut findings);
    if matches!(entry.kind, ServiceKind::ExternalName(_)) {
        // An alias has no endpoints, whatever objects bear its name.
    } else if slices_serve {
        objects.slices(id).for_each(|slice| gather.slice(slice));
    } else if let Some(endpoints) = objects.endpoints(id) {
        gather.endpoints(endpoints);
    } else {
        gather.pods(service);
    }
    entry.ports = gather.finish();
    Compiled { entry: Arc::new(entry), findings }
}

/// Whether the Endpoints of a Service changed later than its slices and name other ready addresses: then the slices are
/// no longer kept up to date. Endpoints that leave addresses out (KEP-752), and slices that no controller derives from
/// the same Pods, prove nothing.
fn endpoints_contradict(objects: &Objects, id: &ServiceId) -> bool {
    if !objects.endpoints_are_newer(id) {
        return false;
    }
    let Some(endpoints) = objects.endpoints(id) else { return false };
    let derived = |slice: &EndpointSlice| {
        slice.metadata.label(label::MANAGED_BY).is_some_and(|by| by.ends_with(".k8s.io"))
    };
    if endpoints.metadata.annotation(label::OVER_CAPACITY).is_some() || !objects.slices(id).all(derived) {
        return false;
    }
    let newer: BTreeSet<&str> =
        endpoints.subsets.iter().flat_map(|subset| &subset.addresses).map(|address| &*address.ip).collect();
    let older: BTreeSet<&str> = objects
        .slices(id)
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.ready != Some(false))
        .filter_map(|endpoint| endpoint.addresses.first().map(|address| &**address))
        .collect();
    newer != older
}

/// Puts the entries together into one snapshot. Services that are `held` give way to others.
pub(crate) fn assemble(
    node: &Name,
    objects: &Objects,
    compiled: &BTreeMap<ServiceId, Compiled>,
    held: &dyn Fn(&ServiceId) -> bool,
    findings: Vec<Finding>,
) -> MeshSnapshot {
    let mut snapshot = MeshSnapshot::empty(node.clone());
    snapshot.findings = findings;
    nodes(objects, &mut snapshot);
    snapshot.namespaces = namespaces(objects);
    snapshot.pods_by_ip = pods_by_ip(objects);
    for (id, Compiled { entry, findings }) in compiled {
        snapshot.services.insert(id.clone(), entry.clone());
        snapshot.findings.extend_from_slice(findings);
        local_backends(entry, &mut snapshot);
    }
    endpoints_by_ip(&mut snapshot);
    // Cluster addresses come first: no Service may take another's by naming it as an external address.
    for (external, held_ones) in [(false, false), (false, true), (true, false), (true, true)] {
        for Compiled { entry, .. } in
            compiled.values().filter(|compiled| held(&compiled.entry.id) == held_ones)
        {
            frontends(entry, external, &mut snapshot);
        }
    }
    for slice in objects.orphan_slices() {
        let message = format!("has no label {}: it belongs to no Service", label::SERVICE_NAME);
        snapshot.findings.push(Finding { object: format!("EndpointSlice {slice}"), message });
    }
    bound(&mut snapshot.findings);
    snapshot
}

fn nodes(objects: &Objects, snapshot: &mut MeshSnapshot) {
    let mut node_of: BTreeMap<Name, Name> = BTreeMap::new();
    for (name, node) in objects.nodes() {
        let zone = node.metadata.labels.get(label::ZONE).filter(|zone| !zone.is_empty()).cloned();
        if *name == snapshot.node.name {
            snapshot.node = LocalNode { name: name.clone(), zone: zone.clone() };
        }
        snapshot.zones.insert(name.clone(), zone);
        if let Some(peer) = node.metadata.annotations.get(label::PEER_ID).filter(|peer| !peer.is_empty()) {
            snapshot.peer_ids.insert(name.clone(), peer.clone());
            if let Some(other) = node_of.insert(peer.clone(), name.clone()) {
                let message = format!("peer {peer} is Node {other} too: one of them runs with a copied key");
                snapshot.findings.push(Finding { object: format!("Node {name}"), message });
            }
        }
    }
}

fn namespaces(objects: &Objects) -> BTreeSet<Name> {
    let named = |object: &Arc<Object>| match &**object {
        Object::Namespace(namespace) => namespace.metadata.name.clone(),
        other => other.metadata().namespace.clone(),
    };
    let mut last = Name::from("");
    let mut all = BTreeSet::new();
    // Keys sort by namespace, so most objects repeat the one before them.
    for namespace in objects.all().map(named) {
        if namespace != last && !namespace.is_empty() {
            all.insert(namespace.clone());
            last = namespace;
        }
    }
    all
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
fn local_backends(entry: &ServiceEntry, snapshot: &mut MeshSnapshot) {
    if !entry.intercepted {
        return;
    }
    for port in entry.ports.iter().filter(|port| port.port != 0 && port.protocol != Protocol::Sctp) {
        for backend in port.backends.iter() {
            let here = backend.node.as_ref() == Some(&snapshot.node.name);
            if here && (backend.ready || (backend.serving && backend.terminating)) {
                snapshot
                    .local_backends
                    .entry((backend.addr, port.protocol))
                    .or_insert_with(|| entry.id.clone());
            }
        }
    }
}

fn endpoints_by_ip(snapshot: &mut MeshSnapshot) {
    for entry in snapshot.services.values() {
        for backend in entry.ports.iter().flat_map(|port| port.backends.iter()) {
            if !backend.ready && !entry.publish_not_ready {
                continue;
            }
            let services = snapshot.endpoints_by_ip.entry(backend.addr.ip()).or_default();
            if services.last() != Some(&entry.id) {
                services.push(entry.id.clone());
            }
        }
    }
}

fn frontends(entry: &Arc<ServiceEntry>, external: bool, snapshot: &mut MeshSnapshot) {
    let ips = if external { &entry.external_ips } else { &entry.cluster_ips };
    for ip in ips {
        if external && let Some(owner) = cluster_owner(snapshot, ip) {
            let message = format!("external address {ip} is the clusterIP of Service {owner}");
            snapshot.findings.push(Finding { object: format!("Service {}", entry.id), message });
            continue;
        }
        snapshot.service_by_ip.entry(*ip).or_insert_with(|| entry.id.clone());
        for (index, port) in entry.ports.iter().enumerate() {
            if !entry.intercepted || port.protocol == Protocol::Sctp {
                continue;
            }
            let frontend = Frontend { ip: *ip, port: port.port, protocol: port.protocol };
            match snapshot.frontends.entry(frontend) {
                Entry::Vacant(slot) => {
                    slot.insert(FrontendEntry { service: entry.clone(), port: index });
                }
                Entry::Occupied(slot) => {
                    let owner = &slot.get().service.id;
                    let message = format!("{frontend} belongs to Service {owner}");
                    snapshot.findings.push(Finding { object: format!("Service {}", entry.id), message });
                }
            }
        }
    }
}

fn cluster_owner(snapshot: &MeshSnapshot, ip: &IpAddr) -> Option<ServiceId> {
    let owner = snapshot.service_by_ip.get(ip)?;
    snapshot.services.get(owner).filter(|entry| entry.cluster_ips.contains(ip)).map(|entry| entry.id.clone())
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
