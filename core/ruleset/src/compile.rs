use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use edgemesh_mesh::{
    Frontend, FrontendEntry, HostFacts, MeshSnapshot, PathSnapshot, Scope, ServiceEntry, ServiceId, SortedMap,
};
use edgemesh_route::Via;
use ipnet::IpNet;

use crate::rules::chains;
use crate::steer::{families, steer};
use crate::{
    ADDRESS_V4, MAX_FRONTENDS, Population, RefuseReason, Refused, Ruleset, RulesetSettings, Steer, VipRoute,
    restriction,
};

impl Ruleset {
    /// The rules of a mesh without Services.
    pub fn empty(host: &HostFacts, settings: &RulesetSettings) -> Self {
        let families = families(settings);
        let population = Population::default();
        Self {
            device: settings.device.clone(),
            families,
            chains: chains(host, settings, families, &population),
            population,
            frontends: SortedMap::default(),
            picks: BTreeMap::new(),
            backends: SortedMap::default(),
            hairpins: SortedMap::default(),
            vips: SortedMap::default(),
            restricted: SortedMap::default(),
            refused: Vec::new(),
        }
    }

    /// The rules for a snapshot. At a virtual address, a frontend without an endpoint to try is left out; the address is
    /// not, so that clients are refused at once.
    pub fn compile(snapshot: &MeshSnapshot, paths: &PathSnapshot, settings: &RulesetSettings) -> Self {
        let mut ruleset = Self::empty(&paths.host, settings);
        let mut refused = BTreeMap::new();
        for (frontend, entry) in all_frontends(snapshot, &paths.host, settings) {
            let reason = refusal(frontend.ip, entry.scope, &paths.host, settings)
                .or_else(|| (ruleset.frontends.len() >= MAX_FRONTENDS).then_some(RefuseReason::TableFull));
            if let Some(reason) = reason {
                refused.entry((frontend.ip, entry.service.id.clone())).or_insert(reason);
                continue;
            }
            if !paths.host.addresses.contains(&frontend.ip) && !ruleset.vips.contains_key(&frontend.ip) {
                ruleset.vips.insert(frontend.ip, VipRoute::to(frontend.ip, settings));
            }
            ruleset.put(snapshot, paths, settings, &frontend, Some(entry));
        }
        ruleset.chains = chains(&paths.host, settings, ruleset.families, &ruleset.population);
        ruleset.refused =
            refused.into_iter().map(|((vip, service), reason)| Refused { service, vip, reason }).collect();
        ruleset
    }

    /// The rules for `after`, where these are the rules for `before` with the same paths and settings; `None` when they
    /// are the same. Costs what the snapshots do not share.
    pub fn follow(
        &self,
        before: &MeshSnapshot,
        after: &MeshSnapshot,
        paths: &PathSnapshot,
        settings: &RulesetSettings,
    ) -> Option<Self> {
        let unshared = unshared(before, after, &paths.host, settings);
        let refused = |frontend: &Frontend| {
            let scope = after.lookup(frontend, true).map_or(Scope::Cluster, |entry| entry.scope);
            refusal(frontend.ip, scope, &paths.host, settings).is_some()
        };
        let apart = before.node != after.node
            || before.pod_ranges != after.pod_ranges
            || before.zones != after.zones
            || !self.refused.is_empty()
            || self.frontends.len() + unshared.len() > MAX_FRONTENDS
            || unshared.iter().any(refused);
        if apart {
            return Some(Self::compile(after, paths, settings)).filter(|ruleset| ruleset != self);
        }
        let mut ruleset = self.clone();
        let mut changed = false;
        for frontend in &unshared {
            let is_host = paths.host.addresses.contains(&frontend.ip);
            let (old, new) = (before.lookup(frontend, is_host), after.lookup(frontend, is_host));
            if let (Some(old), Some(new)) = (old, new)
                && (old.port, old.scope) == (new.port, new.scope)
                && Arc::ptr_eq(&old.service, &new.service)
            {
                continue;
            }
            changed |= ruleset.put(after, paths, settings, frontend, new);
            changed |= ruleset.adjust_vip(after, paths, settings, frontend.ip);
        }
        // An endpoint that is a frontend itself is none; that changes with frontends of other Services.
        if unshared.iter().any(|it| before.frontend(it).is_some() != after.frontend(it).is_some()) {
            changed |= ruleset.reconsider(before, after, paths, settings, &unshared);
        }
        if !ruleset.population.fills_alike(&self.population) {
            ruleset.chains = chains(&paths.host, settings, ruleset.families, &ruleset.population);
        }
        (changed && ruleset != *self).then_some(ruleset)
    }

    /// Brings what is said of one frontend up to date; whether it is different now.
    fn put(
        &mut self,
        snapshot: &MeshSnapshot,
        paths: &PathSnapshot,
        settings: &RulesetSettings,
        frontend: &Frontend,
        entry: Option<&FrontendEntry>,
    ) -> bool {
        let at_host = paths.host.addresses.contains(&frontend.ip);
        let steered = entry.map(|entry| steer(snapshot, paths, settings, entry, frontend));
        let steered = steered.filter(|steer| at_host || *steer != Steer::Reject);
        let ranges = entry.filter(|entry| entry.scope == Scope::LoadBalancer);
        let restricted =
            self.restrict(frontend, ranges.and_then(|it| it.service.source_ranges.as_deref()).map(Arc::from));
        if self.frontends.get(frontend) == steered.as_ref() {
            return restricted;
        }
        for member in steered.iter().flat_map(|steer| steer.members(*frontend)) {
            self.population.add(&member);
        }
        if let Some(Steer::Kernel(spread)) = &steered {
            *self.picks.entry(spread.pick()).or_default() += 1;
            for (addr, via) in spread.endpoints.iter() {
                let key = (*addr, frontend.protocol);
                let uses = self.backends.get(&key).map_or(0, |(_, uses)| *uses);
                self.backends.insert(key, (*via, uses + 1));
                if *via == Via::Pod {
                    count(&mut self.hairpins, addr.ip());
                }
            }
        }
        let old = match steered {
            Some(steer) => self.frontends.insert(*frontend, steer),
            None => self.frontends.remove(frontend),
        };
        if let Some(old) = old {
            self.forget(frontend, &old);
        }
        true
    }

    /// Sets the sources that may connect; whether they are others now.
    fn restrict(&mut self, frontend: &Frontend, ranges: Option<Arc<[IpNet]>>) -> bool {
        if self.restricted.get(frontend) == ranges.as_ref() {
            return false;
        }
        for member in ranges.iter().flat_map(|ranges| restriction(*frontend, ranges)) {
            self.population.add(&member);
        }
        let old = match ranges {
            Some(ranges) => self.restricted.insert(*frontend, ranges),
            None => self.restricted.remove(frontend),
        };
        for member in old.iter().flat_map(|ranges| restriction(*frontend, ranges)) {
            self.population.remove(&member);
        }
        true
    }

    /// Removes what is said of a frontend.
    pub(crate) fn withdraw(&mut self, frontend: &Frontend) {
        self.restrict(frontend, None);
        if let Some(old) = self.frontends.remove(frontend) {
            self.forget(frontend, &old);
        }
    }

    /// Takes back what a frontend needed.
    fn forget(&mut self, frontend: &Frontend, old: &Steer) {
        for member in old.members(*frontend) {
            self.population.remove(&member);
        }
        let Steer::Kernel(spread) = old else { return };
        let pick = spread.pick();
        if let Some(uses) = self.picks.get_mut(&pick) {
            *uses -= 1;
            if *uses == 0 {
                self.picks.remove(&pick);
            }
        }
        for (addr, via) in spread.endpoints.iter() {
            let key = (*addr, frontend.protocol);
            match self.backends.get(&key).copied() {
                Some((via, uses)) if uses > 1 => drop(self.backends.insert(key, (via, uses - 1))),
                _ => drop(self.backends.remove(&key)),
            }
            if *via == Via::Pod {
                discount(&mut self.hairpins, addr.ip());
            }
        }
    }

    /// Adds or removes a virtual address, as frontends have it.
    fn adjust_vip(
        &mut self,
        snapshot: &MeshSnapshot,
        paths: &PathSnapshot,
        settings: &RulesetSettings,
        ip: IpAddr,
    ) -> bool {
        let claimed = snapshot.frontends.get_by(|frontend| frontend.ip.cmp(&ip)).is_some();
        let wanted = claimed && !paths.host.addresses.contains(&ip);
        if wanted == self.vips.contains_key(&ip) {
            return false;
        }
        match wanted {
            true => drop(self.vips.insert(ip, VipRoute::to(ip, settings))),
            false => drop(self.vips.remove(&ip)),
        }
        true
    }

    /// Looks again at every frontend with an endpoint that became a frontend, or ceased to be one.
    fn reconsider(
        &mut self,
        before: &MeshSnapshot,
        after: &MeshSnapshot,
        paths: &PathSnapshot,
        settings: &RulesetSettings,
        frontends: &[Frontend],
    ) -> bool {
        let turned =
            frontends.iter().filter(|it| before.frontend(it).is_some() != after.frontend(it).is_some());
        let turned: HashSet<SocketAddr> = turned.map(Frontend::socket_addr).collect();
        let has_one = |entry: &Arc<ServiceEntry>| {
            let mut backends = entry.ports.iter().flat_map(|port| port.backends.iter());
            backends.any(|backend| turned.contains(&backend.addr))
        };
        let concerned: HashSet<&ServiceId> =
            after.services.values().filter(|entry| has_one(entry)).map(|entry| &entry.id).collect();
        let mut changed = false;
        if concerned.is_empty() {
            return changed;
        }
        for (frontend, entry) in all_frontends(after, &paths.host, settings) {
            if concerned.contains(&entry.service.id) {
                changed |= self.put(after, paths, settings, &frontend, Some(entry));
            }
        }
        changed
    }
}

/// Every frontend: those of virtual and outer addresses, and the node ports at each address of the host that has them.
fn all_frontends<'a>(
    snapshot: &'a MeshSnapshot,
    host: &HostFacts,
    settings: &RulesetSettings,
) -> impl Iterator<Item = (Frontend, &'a FrontendEntry)> {
    let exact = snapshot.frontends.iter().map(|(frontend, entry)| (*frontend, entry));
    let at = node_port_addresses(host, settings);
    let ports = snapshot.node_ports.iter().flat_map(move |((protocol, port), entry)| {
        let frontends = at.iter().map(|ip| Frontend { ip: *ip, port: *port, protocol: *protocol });
        frontends.map(|frontend| (frontend, entry)).collect::<Vec<_>>()
    });
    exact.chain(ports.filter(|(frontend, _)| snapshot.frontend(frontend).is_none()))
}

/// Frontends that the two do not share.
fn unshared(
    before: &MeshSnapshot,
    after: &MeshSnapshot,
    host: &HostFacts,
    settings: &RulesetSettings,
) -> Vec<Frontend> {
    let mut unshared: Vec<Frontend> =
        after.frontends.unshared(&before.frontends).into_iter().copied().collect();
    let ports = after.node_ports.unshared(&before.node_ports);
    if !ports.is_empty() {
        for ip in node_port_addresses(host, settings) {
            unshared.extend(ports.iter().map(|(protocol, port)| Frontend {
                ip,
                port: *port,
                protocol: *protocol,
            }));
        }
        unshared.sort_unstable();
        unshared.dedup();
    }
    unshared
}

/// The addresses of the host at which node ports are open.
fn node_port_addresses(host: &HostFacts, settings: &RulesetSettings) -> Vec<IpAddr> {
    let chosen = |ip: &IpAddr| {
        let ranges = &settings.node_port_addresses;
        ranges.is_empty() || ranges.iter().any(|range| range.contains(ip))
    };
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => settings.ipv6 && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    host.addresses.iter().copied().filter(chosen).filter(usable).collect()
}

fn count(uses: &mut SortedMap<IpAddr, u32>, ip: IpAddr) {
    let known = uses.get(&ip).copied().unwrap_or_default();
    uses.insert(ip, known + 1);
}

fn discount(uses: &mut SortedMap<IpAddr, u32>, ip: IpAddr) {
    match uses.get(&ip).copied() {
        Some(known) if known > 1 => drop(uses.insert(ip, known - 1)),
        _ => drop(uses.remove(&ip)),
    }
}

fn refusal(vip: IpAddr, scope: Scope, host: &HostFacts, settings: &RulesetSettings) -> Option<RefuseReason> {
    let routable = match vip {
        IpAddr::V4(vip) => {
            !(vip.is_loopback() || vip.is_multicast() || vip.is_broadcast() || vip.is_unspecified())
        }
        IpAddr::V6(vip) => {
            !(vip.is_loopback() || vip.is_multicast() || vip.is_unspecified() || vip.is_unicast_link_local())
        }
    };
    let own = settings.device.addresses.iter().any(|address| address.addr == vip);
    if vip.is_ipv6() && !settings.ipv6 {
        Some(RefuseReason::NoIpv6)
    } else if !routable {
        Some(RefuseReason::NotRoutable)
    } else if own || (scope == Scope::Cluster && host.addresses.contains(&vip)) {
        Some(RefuseReason::HostAddress)
    } else {
        None
    }
}

impl VipRoute {
    /// The route to a virtual address. Its source is the device's IPv4 address, which is there whatever other links do.
    fn to(vip: IpAddr, settings: &RulesetSettings) -> Self {
        let own = settings.device.addresses.iter().find_map(|address| match address.addr {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        });
        let source: Option<Ipv4Addr> = vip.is_ipv4().then(|| own.unwrap_or(ADDRESS_V4));
        Self { vip, source }
    }
}
