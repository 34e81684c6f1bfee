use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use edgemesh_api::Protocol;

use crate::assembly::Change;
use crate::{Finding, Frontend, FrontendEntry, Scope, ServiceEntry, ServiceId, SortedMap};

/// Which Service has which address, frontend and node port. The first by name has what several claim; cluster addresses
/// come before external ones, and Services that are held give way.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    frontends: SortedMap<Frontend, FrontendEntry>,
    node_ports: SortedMap<NodePort, FrontendEntry>,
    service_by_ip: SortedMap<IpAddr, ServiceId>,
    clashes: Vec<Finding>,
    /// Services that claim what another one claims too. Only among them does the order of claims count.
    rivals: BTreeSet<ServiceId>,
    /// The rivals that were held.
    held: BTreeSet<ServiceId>,
}

type Services = SortedMap<ServiceId, Arc<ServiceEntry>>;
type NodePort = (Protocol, u16);

impl Claims {
    /// Every frontend.
    pub(crate) fn frontends(&self) -> &SortedMap<Frontend, FrontendEntry> {
        &self.frontends
    }

    /// Every node port.
    pub(crate) fn node_ports(&self) -> &SortedMap<NodePort, FrontendEntry> {
        &self.node_ports
    }

    /// Every virtual address.
    pub(crate) fn service_by_ip(&self) -> &SortedMap<IpAddr, ServiceId> {
        &self.service_by_ip
    }

    /// Claims that were in vain.
    pub(crate) fn clashes(&self) -> &[Finding] {
        &self.clashes
    }

    /// Takes in the changes. While they meet no other Service they are written into what there is; else all is decided
    /// anew.
    pub(crate) fn update(
        &mut self,
        services: &Services,
        changes: &[Change],
        held: &dyn Fn(&ServiceId) -> bool,
    ) {
        let first = self.service_by_ip.is_empty() && self.frontends.is_empty();
        let mut whole = first || self.held_rivals(held) != self.held;
        let (alike, others): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.claims_alike());
        whole |= others.iter().any(|change| self.rivals.contains(&change.id));
        if !whole {
            for entry in others.iter().filter_map(|change| change.old.as_ref()) {
                self.withdraw(entry);
            }
            for external in [false, true] {
                for entry in others.iter().filter_map(|change| change.new.as_ref()) {
                    self.claim(services, entry, external);
                }
            }
            whole = others.iter().any(|change| self.rivals.contains(&change.id));
        }
        if whole {
            *self = Self::decide(services, held);
            return;
        }
        for entry in alike.iter().filter_map(|change| change.new.as_ref()) {
            self.renew(entry);
        }
    }

    /// All claims, in their order.
    fn decide(services: &Services, held: &dyn Fn(&ServiceId) -> bool) -> Self {
        if let Some(claims) = Self::distinct(services) {
            return claims;
        }
        let mut claims = Self::default();
        // Cluster addresses come first: no Service may take another's by naming it as an external address.
        for (external, held_ones) in [(false, false), (false, true), (true, false), (true, true)] {
            for (_, entry) in services.iter().filter(|(id, _)| held(id) == held_ones) {
                claims.claim(services, entry, external);
            }
        }
        claims.held = claims.held_rivals(held);
        claims
    }

    /// The claims of Services none of which claims what another one does; `None` where some do. Addresses come in the
    /// order of Services, and a map that gets them so looks for the place of each.
    fn distinct(services: &Services) -> Option<Self> {
        let (mut by_ip, mut by_frontend, mut by_node_port) = (Vec::new(), Vec::new(), Vec::new());
        for (id, entry) in services {
            let claim = |port, scope| FrontendEntry { service: entry.clone(), port, scope };
            for (scope, ip) in addresses(entry) {
                by_ip.push((ip, id.clone()));
                by_frontend.extend(frontends(entry, ip).map(|(port, key)| (key, claim(port, scope))));
            }
            by_node_port.extend(node_ports(entry).map(|(port, key)| (key, claim(port, Scope::NodePort))));
        }
        Some(Self {
            frontends: distinct_by_key(by_frontend)?,
            node_ports: distinct_by_key(by_node_port)?,
            service_by_ip: distinct_by_key(by_ip)?,
            ..Self::default()
        })
    }

    fn held_rivals(&self, held: &dyn Fn(&ServiceId) -> bool) -> BTreeSet<ServiceId> {
        self.rivals.iter().filter(|id| held(id)).cloned().collect()
    }

    fn claim(&mut self, services: &Services, entry: &Arc<ServiceEntry>, external: bool) {
        for (scope, ip) in addresses(entry).filter(|(scope, _)| (*scope != Scope::Cluster) == external) {
            if external && let Some(owner) = self.cluster_owner(services, &ip) {
                let message = format!("external address {ip} is the clusterIP of Service {owner}");
                self.clash(entry, owner, Some(message));
                continue;
            }
            match self.service_by_ip.get(&ip).filter(|owner| **owner != entry.id).cloned() {
                // Two may share an address while their ports differ; PTR names the first.
                Some(owner) => self.clash(entry, owner, None),
                None => drop(self.service_by_ip.insert(ip, entry.id.clone())),
            }
            for (port, frontend) in frontends(entry, ip) {
                if let Some(owner) = self.frontends.get(&frontend).map(|owner| owner.service.id.clone()) {
                    let message = format!("{frontend} belongs to Service {owner}");
                    self.clash(entry, owner, Some(message));
                    continue;
                }
                self.frontends.insert(frontend, FrontendEntry { service: entry.clone(), port, scope });
            }
        }
        if external {
            self.claim_node_ports(entry);
        }
    }

    fn claim_node_ports(&mut self, entry: &Arc<ServiceEntry>) {
        for (port, node_port) in node_ports(entry) {
            if let Some(owner) = self.node_ports.get(&node_port).map(|owner| owner.service.id.clone()) {
                let (protocol, number) = node_port;
                let message = format!("node port {number}/{protocol} belongs to Service {owner}");
                self.clash(entry, owner, Some(message));
                continue;
            }
            let scope = Scope::NodePort;
            self.node_ports.insert(node_port, FrontendEntry { service: entry.clone(), port, scope });
        }
    }

    fn cluster_owner(&self, services: &Services, ip: &IpAddr) -> Option<ServiceId> {
        let owner = self.service_by_ip.get(ip)?;
        services.get(owner).filter(|entry| entry.cluster_ips.contains(ip)).map(|entry| entry.id.clone())
    }

    fn clash(&mut self, entry: &ServiceEntry, owner: ServiceId, message: Option<String>) {
        self.rivals.extend([entry.id.clone(), owner]);
        let object = || format!("Service {}", entry.id);
        self.clashes.extend(message.map(|message| Finding { object: object(), message }));
    }

    /// Takes back everything of a Service that is no rival's.
    fn withdraw(&mut self, entry: &ServiceEntry) {
        for (_, ip) in addresses(entry) {
            self.service_by_ip.remove(&ip);
            for (_, frontend) in frontends(entry, ip) {
                self.frontends.remove(&frontend);
            }
        }
        for (_, node_port) in node_ports(entry) {
            self.node_ports.remove(&node_port);
        }
    }

    /// Puts a Service in the place of its predecessor, which claimed the same.
    fn renew(&mut self, entry: &Arc<ServiceEntry>) {
        for (scope, ip) in addresses(entry) {
            for (port, frontend) in frontends(entry, ip) {
                if self.frontends.get(&frontend).is_some_and(|known| known.service.id == entry.id) {
                    self.frontends.insert(frontend, FrontendEntry { service: entry.clone(), port, scope });
                }
            }
        }
        for (port, node_port) in node_ports(entry) {
            if self.node_ports.get(&node_port).is_some_and(|known| known.service.id == entry.id) {
                let scope = Scope::NodePort;
                self.node_ports.insert(node_port, FrontendEntry { service: entry.clone(), port, scope });
            }
        }
    }
}

/// The entries as a map; `None` where two have one key.
fn distinct_by_key<K: Ord + Clone, V: Clone>(mut entries: Vec<(K, V)>) -> Option<SortedMap<K, V>> {
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let distinct = entries.windows(2).all(|pair| pair[0].0 != pair[1].0);
    distinct.then(|| entries.into_iter().collect())
}

impl Change {
    fn claims_alike(&self) -> bool {
        let Some((old, new)) = self.old.as_ref().zip(self.new.as_ref()) else { return false };
        let ports = |entry: &ServiceEntry| -> Vec<(u16, Protocol, Option<u16>)> {
            entry.ports.iter().map(|port| (port.port, port.protocol, port.node_port)).collect()
        };
        old.cluster_ips == new.cluster_ips
            && old.external_ips == new.external_ips
            && old.load_balancer_ips == new.load_balancer_ips
            && old.intercepted == new.intercepted
            && ports(old) == ports(new)
    }
}

/// The addresses that a Service claims. None appears twice.
fn addresses(entry: &ServiceEntry) -> impl Iterator<Item = (Scope, IpAddr)> {
    let all = [
        (Scope::Cluster, &entry.cluster_ips),
        (Scope::External, &entry.external_ips),
        (Scope::LoadBalancer, &entry.load_balancer_ips),
    ];
    all.into_iter().flat_map(|(scope, ips)| ips.iter().map(move |ip| (scope, *ip)))
}

/// The frontends that a Service claims at an address, with the index of the port.
fn frontends(entry: &ServiceEntry, ip: IpAddr) -> impl Iterator<Item = (usize, Frontend)> {
    let ports = entry.ports.iter().enumerate().filter(|_| entry.intercepted);
    ports.map(move |(index, port)| (index, Frontend { ip, port: port.port, protocol: port.protocol }))
}

/// The node ports that a Service claims, with the index of the port.
fn node_ports(entry: &ServiceEntry) -> impl Iterator<Item = (usize, NodePort)> {
    let ports = entry.ports.iter().enumerate().filter(|_| entry.intercepted);
    ports.filter_map(|(index, port)| Some((index, (port.protocol, port.node_port?))))
}
