use std::net::{IpAddr, SocketAddr};

use edgemesh_api::{
    Endpoint, EndpointAddress, EndpointPort, EndpointSlice, Endpoints, ForName, IntOrString, Name, ObjectKey,
    Pod, Protocol, Service, ServicePort, TargetRef, label,
};

use crate::address::routable;
use crate::objects::Objects;
use crate::{Backend, Finding, Hints, PortEntry};

/// Gathers the endpoints of one Service, port by port.
pub(crate) struct Gather<'a> {
    objects: &'a Objects,
    /// Each port with its endpoints as they come.
    ports: Vec<(ServicePort, Vec<Backend>)>,
    cluster_ips: &'a [IpAddr],
    findings: &'a mut Vec<Finding>,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(
        objects: &'a Objects,
        ports: Vec<ServicePort>,
        cluster_ips: &'a [IpAddr],
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        let ports = ports.into_iter().map(|port| (port, Vec::new())).collect();
        Self { objects, ports, cluster_ips, findings }
    }

    pub(crate) fn finish(self) -> Vec<PortEntry> {
        let entry = |(port, backends): (ServicePort, Vec<Backend>)| PortEntry {
            name: port.name.filter(|name| !name.is_empty()),
            port: port.port,
            protocol: port.protocol,
            node_port: port.node_port,
            backends: in_order(backends).into(),
        };
        self.ports.into_iter().map(entry).collect()
    }

    fn report(&mut self, kind: &str, key: &ObjectKey, message: String) {
        self.findings.push(Finding { object: format!("{kind} {key}"), message });
    }

    /// Reads an address, or reports why it is not used. An endpoint at the Service's own address would send
    /// connections in circles.
    fn address(&mut self, kind: &str, key: &ObjectKey, text: &str) -> Option<IpAddr> {
        let reason = match routable(text) {
            Ok(ip) if !self.cluster_ips.contains(&ip) => return Some(ip),
            Ok(_) => "is the Service's own clusterIP",
            Err(error) => error.as_str(),
        };
        self.report(kind, key, format!("endpoint address {text:?} {reason}"));
        None
    }

    /// Adds a backend to the ports that have these indices, with the numbers that it has for them.
    fn add(&mut self, numbers: &[(usize, u16)], backend: Backend) {
        let Some((last, others)) = numbers.split_last() else { return };
        for (index, port) in others {
            self.ports[*index].1.push(at_port(backend.clone(), *port));
        }
        self.ports[last.0].1.push(at_port(backend, last.1));
    }

    /// The node's own spelling of its name and its zone: all backends of a node then share one string each.
    fn place(&self, node: Option<&Name>, zone: Option<&Name>) -> (Option<Name>, Option<Name>) {
        let Some(node) = node.filter(|name| !name.is_empty()) else { return (None, zone.cloned()) };
        let Some(known) = self.objects.node(node) else { return (Some(node.clone()), zone.cloned()) };
        let label = known.metadata.labels.get(label::ZONE);
        let zone = zone.filter(|zone| Some(*zone) != label).or(label);
        (Some(known.metadata.name.clone()), zone.cloned())
    }

    /// Endpoints of the Service's slices; ports match by name and protocol.
    pub(crate) fn slice(&mut self, slice: &EndpointSlice) {
        let key = slice.metadata.key();
        if &*slice.address_type == "FQDN" {
            self.report("EndpointSlice", &key, "address type FQDN is not supported".to_owned());
            return;
        }
        let numbers = self.match_ports("EndpointSlice", &key, &slice.ports);
        for (index, _) in &numbers {
            self.ports[*index].1.reserve_exact(slice.endpoints.len());
        }
        for endpoint in &slice.endpoints {
            // Consumers use the first address: the API defines no meaning for further ones.
            let Some(text) = endpoint.addresses.first() else { continue };
            let Some(ip) = self.address("EndpointSlice", &key, text) else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            if !slice.address_type.is_empty() && *slice.address_type != *family {
                let message =
                    format!("endpoint address {ip} is not of the slice's type {}", slice.address_type);
                self.report("EndpointSlice", &key, message);
                continue;
            }
            let backend = self.slice_backend(&key, ip, endpoint);
            self.add(&numbers, backend);
        }
    }

    fn slice_backend(&self, slice: &ObjectKey, ip: IpAddr, endpoint: &Endpoint) -> Backend {
        let (node, zone) = self.place(endpoint.node_name.as_ref(), endpoint.zone.as_ref());
        let conditions = endpoint.conditions;
        let ready = conditions.ready.unwrap_or(true);
        let names = |names: &[ForName]| names.iter().map(|hint| hint.name.clone()).collect();
        let hints = endpoint.hints.as_ref();
        Backend {
            addr: SocketAddr::new(ip, 0),
            node,
            zone,
            hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
            pod: pod_of(slice, endpoint.target_ref.as_ref()),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            hints: hints.map_or_else(Hints::default, |hints| Hints {
                zones: names(&hints.for_zones),
                nodes: names(&hints.for_nodes),
            }),
        }
    }

    /// Endpoints of an Endpoints object.
    pub(crate) fn endpoints(&mut self, endpoints: &Endpoints) {
        let key = endpoints.metadata.key();
        for subset in &endpoints.subsets {
            let numbers = self.match_ports("Endpoints", &key, &subset.ports);
            let ready = subset.addresses.iter().map(|address| (address, true));
            let unready = subset.not_ready_addresses.iter().map(|address| (address, false));
            for (address, ready) in ready.chain(unready) {
                let Some(ip) = self.address("Endpoints", &key, &address.ip) else { continue };
                let backend = self.subset_backend(&key, ip, address, ready);
                self.add(&numbers, backend);
            }
        }
    }

    fn subset_backend(&self, key: &ObjectKey, ip: IpAddr, address: &EndpointAddress, ready: bool) -> Backend {
        let (node, zone) = self.place(address.node_name.as_ref(), None);
        Backend {
            addr: SocketAddr::new(ip, 0),
            node,
            zone,
            hostname: address.hostname.clone().filter(|name| !name.is_empty()),
            pod: pod_of(key, address.target_ref.as_ref()),
            ready,
            serving: ready,
            terminating: false,
            hints: Hints::default(),
        }
    }

    /// Index of each Service port with the number its endpoints have for it.
    fn match_ports(&mut self, kind: &str, key: &ObjectKey, ports: &[EndpointPort]) -> Vec<(usize, u16)> {
        let mut numbers = Vec::with_capacity(self.ports.len());
        let mut all_ports = false;
        for (index, (wanted, _)) in self.ports.iter().enumerate() {
            if is_portless(wanted) {
                numbers.push((index, 0));
                continue;
            }
            let name = wanted.name.as_deref().unwrap_or_default();
            let same = |port: &&EndpointPort| {
                port.name.as_deref().unwrap_or_default() == name && port.protocol == wanted.protocol
            };
            let Some(port) = ports.iter().find(same) else { continue };
            match port.port {
                Some(0) | None => all_ports = true,
                Some(number) => numbers.push((index, number)),
            }
        }
        if all_ports {
            self.report(kind, key, "a port without a number is not supported".to_owned());
        }
        numbers
    }

    /// Endpoints of a Service with a selector and without endpoint objects, as the endpoint slice controller of
    /// Kubernetes would write them.
    pub(crate) fn pods(&mut self, service: &Service) {
        let families = Families::of(self.cluster_ips);
        for pod in self.objects.select(&service.metadata.namespace, &service.spec.selector) {
            if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                continue;
            }
            let numbers = self.pod_ports(pod);
            for text in addresses(self.objects, pod) {
                let Some(ip) = self.address("Pod", &pod.metadata.key(), text) else { continue };
                if !families.contain(ip) {
                    continue;
                }
                let backend = self.pod_backend(service, pod, ip);
                self.add(&numbers, backend);
            }
        }
    }

    fn pod_backend(&self, service: &Service, pod: &Pod, ip: IpAddr) -> Backend {
        let (node, zone) = self.place(pod.spec.node_name.as_ref(), None);
        let serving = is_ready(pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let named = pod.spec.subdomain.as_ref() == Some(&service.metadata.name);
        Backend {
            addr: SocketAddr::new(ip, 0),
            node,
            zone,
            hostname: pod.spec.hostname.clone().filter(|name| named && !name.is_empty()),
            pod: Some(pod.metadata.key()),
            ready: service.spec.publish_not_ready_addresses || (serving && !terminating),
            serving,
            terminating,
            hints: Hints::default(),
        }
    }

    fn pod_ports(&mut self, pod: &Pod) -> Vec<(usize, u16)> {
        let mut numbers = Vec::with_capacity(self.ports.len());
        let mut missing = Vec::new();
        for (index, (port, _)) in self.ports.iter().enumerate() {
            match &port.target_port {
                _ if is_portless(port) => numbers.push((index, 0)),
                None | Some(IntOrString::Int(0)) => numbers.push((index, port.port)),
                Some(IntOrString::Int(number)) => numbers.push((index, *number)),
                Some(IntOrString::String(name)) => match container_port(pod, name, port.protocol) {
                    Some(number) => numbers.push((index, number)),
                    None => missing.push(format!("no container has a {} port named {name:?}", port.protocol)),
                },
            }
        }
        for message in missing {
            self.report("Pod", &pod.metadata.key(), message);
        }
        numbers
    }
}

fn at_port(mut backend: Backend, port: u16) -> Backend {
    backend.addr.set_port(port);
    backend
}

/// Orders the endpoints of a port by address. Pod ranges may repeat between nodes, so an address alone is not one
/// endpoint.
fn in_order(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_by(|a, b| (a.addr, &a.node).cmp(&(b.addr, &b.node)));
    // While an endpoint moves from one slice to another it is in both; the readier report is the newer one.
    backends.dedup_by(|latter, former| {
        let same = (latter.addr, &latter.node) == (former.addr, &former.node);
        if same && (former.ready, former.serving) < (latter.ready, latter.serving) {
            std::mem::swap(latter, former);
        }
        same
    });
    backends
}

/// Stands for the ports of a headless Service that declares none, see [`PortEntry::port`].
pub(crate) fn portless() -> ServicePort {
    ServicePort::default()
}

fn is_portless(port: &ServicePort) -> bool {
    port.port == 0
}

/// Address families of a Service.
#[derive(Clone, Copy, Debug)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// The families of the virtual addresses; without any (headless), both.
    fn of(cluster_ips: &[IpAddr]) -> Self {
        let any = cluster_ips.is_empty();
        Self {
            v4: any || cluster_ips.iter().any(IpAddr::is_ipv4),
            v6: any || cluster_ips.iter().any(IpAddr::is_ipv6),
        }
    }

    fn contain(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The addresses of a Pod. A Pod of the host network whose status nobody wrote has those of its node.
pub(crate) fn addresses<'a>(objects: &'a Objects, pod: &'a Pod) -> Vec<&'a Name> {
    let given = || pod.status.pod_ips.iter().map(|entry| &entry.ip).chain(&pod.status.pod_ip);
    let mut found: Vec<_> = given().filter(|ip| !ip.is_empty()).collect();
    if found.is_empty() && pod.spec.host_network {
        let node = pod.spec.node_name.as_ref().and_then(|name| objects.node(name));
        let all = node.into_iter().flat_map(|node| &node.status.addresses);
        found.extend(all.filter(|address| &*address.type_ == "InternalIP").map(|address| &address.address));
    }
    // `podIP` repeats the first of `podIPs`.
    if found.len() > 1 && found.last() == found.first() {
        found.pop();
    }
    found
}

/// The condition `Ready`. A Pod written by hand has no conditions: it counts as ready unless its phase says that it
/// does not run yet.
fn is_ready(pod: &Pod) -> bool {
    match pod.status.conditions.iter().find(|condition| &*condition.type_ == "Ready") {
        Some(ready) => &*ready.status == "True",
        None => {
            pod.status.conditions.is_empty() && matches!(pod.status.phase.as_deref(), None | Some("Running"))
        }
    }
}

/// The number of a named port; sidecars among the init containers count (KEP-753).
fn container_port(pod: &Pod, name: &str, protocol: Protocol) -> Option<u16> {
    let sidecars = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let same = |name_of: &Option<Name>| name_of.as_deref() == Some(name);
    let port = ports.find(|port| same(&port.name) && port.protocol == protocol)?;
    Some(port.container_port).filter(|number| *number != 0)
}

fn pod_of(owner: &ObjectKey, target: Option<&TargetRef>) -> Option<ObjectKey> {
    let target = target.filter(|target| &*target.kind == "Pod" && !target.name.is_empty())?;
    let namespace = if target.namespace.is_empty() { &owner.namespace } else { &target.namespace };
    Some(ObjectKey { namespace: namespace.clone(), name: target.name.clone() })
}
