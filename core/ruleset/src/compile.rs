use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use edgemesh_api::Protocol;
use edgemesh_mesh::{Backend, Frontend, FrontendEntry, MeshSnapshot};

use crate::rules::{Family, chains};
use crate::{ADDRESS_V4, MAX_FRONTENDS, RefuseReason, Refused, Ruleset, RulesetSettings, VipRoute};

impl Ruleset {
    /// The rules of a mesh without Services.
    pub fn empty(settings: &RulesetSettings) -> Self {
        Self {
            device: settings.device.clone(),
            chains: chains(settings.port, families(settings.ipv6)),
            frontends: BTreeSet::new(),
            vips: BTreeSet::new(),
            routes: BTreeSet::new(),
            refused: Vec::new(),
        }
    }

    /// The rules for a snapshot. A frontend without an endpoint to try is left out, its address is not, so that
    /// clients are refused at once.
    pub fn compile(snapshot: &MeshSnapshot, settings: &RulesetSettings) -> Self {
        let mut ruleset = Self::empty(settings);
        let mut refused = BTreeMap::new();
        for (frontend, entry) in &snapshot.frontends {
            let reason = refusal(frontend.ip, settings)
                .or_else(|| (ruleset.frontends.len() >= MAX_FRONTENDS).then_some(RefuseReason::TableFull));
            if let Some(reason) = reason {
                refused.entry((frontend.ip, entry.service.id.clone())).or_insert(reason);
                continue;
            }
            if ruleset.vips.insert(frontend.ip) {
                ruleset.routes.insert(VipRoute { vip: frontend.ip, source: source(frontend.ip, settings) });
            }
            if frontend.protocol != Protocol::Sctp && has_endpoint(snapshot, frontend, entry) {
                ruleset.frontends.insert(*frontend);
            }
        }
        ruleset.refused =
            refused.into_iter().map(|((vip, service), reason)| Refused { service, vip, reason }).collect();
        ruleset
    }

    /// The rules for `after`, where these are the rules for `before` with the same settings; `None` when they are the
    /// same. Costs what the snapshots do not share, as long as only endpoints differ.
    pub fn follow(
        &self,
        before: &MeshSnapshot,
        after: &MeshSnapshot,
        settings: &RulesetSettings,
    ) -> Option<Self> {
        let unshared = after.frontends.unshared(&before.frontends);
        let full = self.frontends.len() + unshared.len() > MAX_FRONTENDS
            || self.refused.iter().any(|refused| refused.reason == RefuseReason::TableFull);
        let alike = |key: &&Frontend| {
            let entries = before.frontend(key).zip(after.frontend(key));
            entries.is_some_and(|(old, new)| old.service.id == new.service.id)
        };
        if full || before.node.name != after.node.name || !unshared.iter().all(alike) {
            return Some(Self::compile(after, settings)).filter(|ruleset| ruleset != self);
        }
        let mut changes = Vec::new();
        for frontend in unshared {
            let Some(entry) = after.frontend(frontend).filter(|_| self.vips.contains(&frontend.ip)) else {
                continue;
            };
            let served = frontend.protocol != Protocol::Sctp && has_endpoint(after, frontend, entry);
            if served != self.frontends.contains(frontend) {
                changes.push((*frontend, served));
            }
        }
        if changes.is_empty() {
            return None;
        }
        let mut ruleset = self.clone();
        for (frontend, served) in changes {
            match served {
                true => ruleset.frontends.insert(frontend),
                false => ruleset.frontends.remove(&frontend),
            };
        }
        Some(ruleset)
    }
}

fn families(ipv6: bool) -> &'static [Family] {
    if ipv6 { &Family::ALL } else { &[Family::V4] }
}

fn refusal(vip: IpAddr, settings: &RulesetSettings) -> Option<RefuseReason> {
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
    } else if own || settings.host_addresses.contains(&vip) {
        Some(RefuseReason::HostAddress)
    } else {
        None
    }
}

/// The device's IPv4 address, which is there whatever other links do.
fn source(vip: IpAddr, settings: &RulesetSettings) -> Option<std::net::Ipv4Addr> {
    if vip.is_ipv6() {
        return None;
    }
    let own = settings.device.addresses.iter().find_map(|address| match address.addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    });
    Some(own.unwrap_or(ADDRESS_V4))
}

/// Whether the router would find an endpoint for the frontend (`edgemesh-route`, `eligible`): one that is ready, or
/// one that is leaving and still serves (KEP-1669), of this node if the traffic policy says so (KEP-2086), and no
/// frontend itself.
fn has_endpoint(snapshot: &MeshSnapshot, frontend: &Frontend, entry: &FrontendEntry) -> bool {
    let service = &entry.service;
    let local_only = service.internal_local && service.cluster_ips.contains(&frontend.ip);
    let own = Some(&snapshot.node.name);
    let port = entry.port();
    let is_frontend = |backend: &Backend| {
        let (ip, port, protocol) = (backend.addr.ip(), backend.addr.port(), port.protocol);
        snapshot.frontend(&Frontend { ip, port, protocol }).is_some()
    };
    port.backends.iter().any(|backend| {
        (backend.ready || (backend.serving && backend.terminating))
            && (!local_only || backend.node.as_ref() == own)
            && !is_frontend(backend)
    })
}
