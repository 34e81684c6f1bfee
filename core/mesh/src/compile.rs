use std::collections::BTreeSet;

use edgemesh_api::{EndpointSlice, Service, label};

use crate::endpoints::Gather;
use crate::objects::Objects;
use crate::service::shape;
use crate::{Finding, MeshOptions, Policy, ServiceEntry, ServiceId, ServiceKind};

/// A Service's entry with what was found on the way.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) entry: ServiceEntry,
    pub(crate) findings: Vec<Finding>,
}

/// Builds one Service from the objects that concern it.
pub(crate) fn build(
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
    Compiled { entry, findings }
}

/// Whether the Endpoints of a Service changed later than its slices and name other ready addresses: then the slices are
/// no longer kept up to date. Endpoints that leave addresses out (KEP-752), and slices that no controller derives from
/// the same Pods, prove nothing; nor do slices of the family that Endpoints never have (they have one only).
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
    let is_v6 = |address: &str| address.contains(':');
    let families: BTreeSet<bool> = newer.iter().map(|address| is_v6(address)).collect();
    let older: BTreeSet<&str> = objects
        .slices(id)
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.ready != Some(false))
        .filter_map(|endpoint| endpoint.addresses.first().map(|address| &**address))
        .filter(|address| families.is_empty() || families.contains(&is_v6(address)))
        .collect();
    newer != older
}
