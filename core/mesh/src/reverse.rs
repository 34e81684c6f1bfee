use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Index;
use std::sync::{Arc, OnceLock};

use crate::assembly::Change;
use crate::{ServiceEntry, ServiceId, SortedMap};

/// Services with an endpoint at an address, for PTR; only endpoints that DNS publishes.
///
/// Few nodes are ever asked, so the index is made with the first question; from then on each snapshot's follows from the
/// one before.
#[derive(Clone, Debug, Default)]
pub struct EndpointIndex {
    services: SortedMap<ServiceId, Arc<ServiceEntry>>,
    made: Arc<OnceLock<ByIp>>,
}

type ByIp = SortedMap<IpAddr, Arc<[ServiceId]>>;

impl EndpointIndex {
    /// The Services, in order; `None` when there is none.
    pub fn get(&self, ip: &IpAddr) -> Option<&[ServiceId]> {
        self.by_ip().get(ip).map(|services| &**services)
    }

    /// Whether there is a Service.
    pub fn contains_key(&self, ip: &IpAddr) -> bool {
        self.get(ip).is_some()
    }

    /// The index of these Services, which differ from those so far by the changes.
    pub(crate) fn follow(
        &self,
        changes: &[Change],
        services: &SortedMap<ServiceId, Arc<ServiceEntry>>,
    ) -> Self {
        let made = OnceLock::new();
        if let Some(by_ip) = self.made.get() {
            let mut by_ip = by_ip.clone();
            for Change { id, old, new } in changes {
                let (old, new) = (published(old.as_deref()), published(new.as_deref()));
                old.difference(&new).for_each(|ip| remove(&mut by_ip, *ip, id));
                new.difference(&old).for_each(|ip| add(&mut by_ip, *ip, id));
            }
            // It was made this moment: nobody else could have filled it.
            let _ = made.set(by_ip);
        }
        Self { services: services.clone(), made: Arc::new(made) }
    }

    fn by_ip(&self) -> &ByIp {
        self.made.get_or_init(|| {
            let mut all: Vec<(IpAddr, &ServiceId)> = Vec::new();
            for (id, entry) in &self.services {
                all.extend(published(Some(entry)).into_iter().map(|ip| (ip, id)));
            }
            all.sort_unstable();
            let same = all.chunk_by(|(ip, _), (other, _)| ip == other);
            same.map(|same| (same[0].0, same.iter().map(|(_, id)| (*id).clone()).collect())).collect()
        })
    }
}

impl Index<&IpAddr> for EndpointIndex {
    type Output = [ServiceId];

    /// # Panics
    /// When no Service has an endpoint there.
    fn index(&self, ip: &IpAddr) -> &[ServiceId] {
        self.get(ip).expect("an address of an endpoint")
    }
}

fn published(entry: Option<&ServiceEntry>) -> BTreeSet<IpAddr> {
    let of = |entry: &ServiceEntry| -> BTreeSet<IpAddr> {
        let backends = entry.ports.iter().flat_map(|port| port.backends.iter());
        let published = backends.filter(|backend| backend.ready || entry.publish_not_ready);
        published.map(|backend| backend.addr.ip()).collect()
    };
    entry.map(of).unwrap_or_default()
}

fn add(by_ip: &mut ByIp, ip: IpAddr, id: &ServiceId) {
    let known = by_ip.get(&ip).into_iter().flat_map(|ids| ids.iter());
    let ids: BTreeSet<ServiceId> = known.chain([id]).cloned().collect();
    by_ip.insert(ip, ids.into_iter().collect());
}

fn remove(by_ip: &mut ByIp, ip: IpAddr, id: &ServiceId) {
    let known = by_ip.get(&ip).into_iter().flat_map(|ids| ids.iter());
    let ids: Arc<[ServiceId]> = known.filter(|known| *known != id).cloned().collect();
    match ids.is_empty() {
        true => drop(by_ip.remove(&ip)),
        false => drop(by_ip.insert(ip, ids)),
    }
}
