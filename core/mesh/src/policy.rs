use std::collections::BTreeMap;

use edgemesh_api::{DestinationRule, LoadBalancerSettings, Name, ObjectKey};

use crate::objects::Objects;
use crate::{Finding, Policy, ServiceId};

/// The policy of every Service that a DestinationRule names.
///
/// `spec.host` names the Service as Istio resolves it: a name without dots in the rule's own namespace, else
/// `service.namespace[.svc[.domain]]`. A host that names no Service falls back to Go EdgeMesh's reading, the Service
/// with the rule's own namespace and name. A rule by host beats a rule by name; among equals the first by name wins.
pub(crate) fn policies(objects: &Objects, findings: &mut Vec<Finding>) -> BTreeMap<ServiceId, Policy> {
    let mut claims: BTreeMap<(ServiceId, Claim), (&ObjectKey, Policy)> = BTreeMap::new();
    let mut report = |rule: &ObjectKey, message: String| {
        findings.push(Finding { object: format!("DestinationRule {rule}"), message });
    };
    for (key, rule) in objects.rules() {
        let Some((service, claim)) = service_of(objects, key, rule) else {
            report(
                key,
                format!("host {:?} names no known Service: the rule has no effect", &*rule.spec.host),
            );
            continue;
        };
        let policy = match policy_of(rule) {
            Ok(Some(policy)) => policy,
            Ok(None) => continue,
            Err(what) => {
                report(key, format!("{what} is not supported: Service {service} uses round robin"));
                Policy::RoundRobin
            }
        };
        if let Some((winner, _)) = claims.get(&(service.clone(), claim)) {
            report(key, format!("Service {service} already has the policy of DestinationRule {winner}"));
            continue;
        }
        claims.insert((service, claim), (key, policy));
    }
    // Claims by host sort last for each Service and so replace claims by name.
    claims.into_iter().map(|((service, _), (_, policy))| (service, policy)).collect()
}

/// How a rule came to its Service; the order is that of precedence, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Name,
    Host,
}

fn service_of(objects: &Objects, key: &ObjectKey, rule: &DestinationRule) -> Option<(ServiceId, Claim)> {
    let by_host = host_to_service(&key.namespace, &rule.spec.host).filter(|id| objects.has_service(id));
    let by_name = || Some(key.clone()).filter(|id| objects.has_service(id));
    by_host.map(|id| (id, Claim::Host)).or_else(|| by_name().map(|id| (id, Claim::Name)))
}

fn host_to_service(namespace: &Name, host: &str) -> Option<ServiceId> {
    let mut labels = host.trim_end_matches('.').splitn(4, '.');
    let name = labels.next().filter(|name| !name.is_empty())?;
    match (labels.next(), labels.next()) {
        (None, _) => Some(ObjectKey::new(namespace.clone(), name)),
        (Some(namespace), None | Some("svc")) => Some(ObjectKey::new(namespace, name)),
        (Some(_), Some(_)) => None,
    }
}

/// `Ok(None)` when the rule says nothing of balancing; an error names what the mesh cannot do at layer 4.
fn policy_of(rule: &DestinationRule) -> Result<Option<Policy>, String> {
    let balancer = rule.spec.traffic_policy.as_ref().and_then(|policy| policy.load_balancer.as_ref());
    let Some(LoadBalancerSettings { simple, consistent_hash }) = balancer else { return Ok(None) };
    if let Some(hash) = consistent_hash {
        return match &hash.http_header_name {
            Some(header) => Err(format!("consistentHash by header {header:?}")),
            None if hash.use_source_ip => Ok(Some(Policy::SourceIpHash)),
            None => Err("consistentHash by anything but useSourceIp".to_owned()),
        };
    }
    match simple.as_deref() {
        None | Some("UNSPECIFIED") => Ok(None),
        Some("ROUND_ROBIN") => Ok(Some(Policy::RoundRobin)),
        Some("RANDOM") => Ok(Some(Policy::Random)),
        Some(other) => Err(format!("load balancer {other}")),
    }
}
