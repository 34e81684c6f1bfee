use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use edgemesh_api::Protocol;

use crate::assembly::Change;
use crate::{Finding, Frontend, FrontendEntry, ServiceEntry, ServiceId, SortedMap};

/// Which Service has which address and frontend. The first by name has what several claim; cluster addresses come before
/// external ones, and Services that are held give way.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    frontends: SortedMap<Frontend, FrontendEntry>,
    service_by_ip: SortedMap<IpAddr, ServiceId>,
    clashes: Vec<Finding>,
    /// Services that claim what another one claims too. Only among them does the order of claims count.
    rivals: BTreeSet<ServiceId>,
    /// The rivals that were held.
    held: BTreeSet<ServiceId>,
}

type Services = SortedMap<ServiceId, Arc<ServiceEntry>>;

impl Claims {
    /// Every frontend.
    pub(crate) fn frontends(&self) -> &SortedMap<Frontend, FrontendEntry> {
        &self.frontends
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
        let mut whole = self.held_rivals(held) != self.held;
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

    fn held_rivals(&self, held: &dyn Fn(&ServiceId) -> bool) -> BTreeSet<ServiceId> {
        self.rivals.iter().filter(|id| held(id)).cloned().collect()
    }

    fn claim(&mut self, services: &Services, entry: &Arc<ServiceEntry>, external: bool) {
        let ips = if external { &entry.external_ips } else { &entry.cluster_ips };
        for ip in ips {
            if external && let Some(owner) = self.cluster_owner(services, ip) {
                let message = format!("external address {ip} is the clusterIP of Service {owner}");
                self.clash(entry, owner, Some(message));
                continue;
            }
            match self.service_by_ip.get(ip).filter(|owner| **owner != entry.id).cloned() {
                // Two may share an address while their ports differ; PTR names the first.
                Some(owner) => self.clash(entry, owner, None),
                None => drop(self.service_by_ip.insert(*ip, entry.id.clone())),
            }
            for (index, frontend) in frontends(entry, *ip) {
                if let Some(owner) = self.frontends.get(&frontend).map(|owner| owner.service.id.clone()) {
                    let message = format!("{frontend} belongs to Service {owner}");
                    self.clash(entry, owner, Some(message));
                    continue;
                }
                self.frontends.insert(frontend, FrontendEntry { service: entry.clone(), port: index });
            }
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
        for ip in entry.cluster_ips.iter().chain(&entry.external_ips) {
            self.service_by_ip.remove(ip);
            for (_, frontend) in frontends(entry, *ip) {
                self.frontends.remove(&frontend);
            }
        }
    }

    /// Puts a Service in the place of its predecessor, which claimed the same.
    fn renew(&mut self, entry: &Arc<ServiceEntry>) {
        for ip in entry.cluster_ips.iter().chain(&entry.external_ips) {
            for (index, frontend) in frontends(entry, *ip) {
                if self.frontends.get(&frontend).is_some_and(|known| known.service.id == entry.id) {
                    self.frontends.insert(frontend, FrontendEntry { service: entry.clone(), port: index });
                }
            }
        }
    }
}

impl Change {
    fn claims_alike(&self) -> bool {
        let Some((old, new)) = self.old.as_ref().zip(self.new.as_ref()) else { return false };
        let ports = |entry: &ServiceEntry| -> Vec<(u16, Protocol)> {
            entry.ports.iter().map(|port| (port.port, port.protocol)).collect()
        };
        old.cluster_ips == new.cluster_ips
            && old.external_ips == new.external_ips
            && old.intercepted == new.intercepted
            && ports(old) == ports(new)
    }
}

/// The frontends that a Service claims at an address, with the index of the port.
fn frontends(entry: &ServiceEntry, ip: IpAddr) -> impl Iterator<Item = (usize, Frontend)> {
    let ports = entry.ports.iter().enumerate().filter(|(_, port)| port.protocol != Protocol::Sctp);
    let ports = ports.filter(|_| entry.intercepted);
    ports.map(move |(index, port)| (index, Frontend { ip, port: port.port, protocol: port.protocol }))
}
