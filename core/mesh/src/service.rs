use std::net::IpAddr;
use std::time::Duration;

use edgemesh_api::{Name, ObjectKey, Protocol, Service, ServicePort, label};

use crate::address::routable;
use crate::endpoints::portless;
use crate::{
    Distribution, Finding, MeshOptions, Policy, ServiceEntry, ServiceFilter, ServiceId, ServiceKind,
};

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds` (core/v1: three hours).
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

/// Largest value of `timeoutSeconds` that the API server accepts (core/v1: one day).
const AFFINITY_TIMEOUT_MAX: u32 = 86_400;

/// The part of a Service's entry that its own object tells, and the ports its endpoints are gathered for.
pub(crate) fn shape(
    id: &ServiceId,
    service: &Service,
    options: &MeshOptions,
    policy: Policy,
    findings: &mut Vec<Finding>,
) -> (ServiceEntry, Vec<ServicePort>) {
    let mut report = |message: String| findings.push(Finding { object: format!("Service {id}"), message });
    let kind = kind(service, &mut report);
    let addressed = kind == ServiceKind::ClusterIp;
    let cluster_ips = if addressed { cluster_ips(service, &mut report) } else { Vec::new() };
    let external_ips = if addressed { external_ips(service, &cluster_ips, &mut report) } else { Vec::new() };
    let ports = match &kind {
        ServiceKind::ExternalName(_) => Vec::new(),
        ServiceKind::Headless if service.spec.ports.is_empty() => vec![portless()],
        ServiceKind::Headless | ServiceKind::ClusterIp => ports(service, &mut report),
    };
    let entry = ServiceEntry {
        id: id.clone(),
        kind,
        cluster_ips,
        external_ips,
        ports: Vec::new(),
        affinity: affinity(service, &mut report),
        distribution: distribution(service, &mut report),
        internal_local: internal_local(service, &mut report),
        policy,
        publish_not_ready: service.spec.publish_not_ready_addresses,
        intercepted: is_intercepted(id, service, options),
    };
    (entry, ports)
}

fn kind(service: &Service, report: &mut impl FnMut(String)) -> ServiceKind {
    let spec = &service.spec;
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().unwrap_or_else(|| Name::from(""));
        if name.is_empty() {
            report("type ExternalName without externalName".to_owned());
        }
        return ServiceKind::ExternalName(name);
    }
    let first = spec.cluster_ips.first().or(spec.cluster_ip.as_ref());
    if first.is_some_and(|ip| &**ip == "None") { ServiceKind::Headless } else { ServiceKind::ClusterIp }
}

fn cluster_ips(service: &Service, report: &mut impl FnMut(String)) -> Vec<IpAddr> {
    let spec = &service.spec;
    let given: Vec<_> = match spec.cluster_ips.as_slice() {
        [] => spec.cluster_ip.iter().collect(),
        all => all.iter().collect(),
    };
    let mut ips: Vec<IpAddr> = Vec::with_capacity(given.len());
    for text in given.into_iter().filter(|text| !text.is_empty()) {
        match routable(text) {
            Ok(ip) if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                report(format!("clusterIP {ip} is a second one of its family"));
            }
            Ok(ip) => ips.push(ip),
            Err(error) => report(format!("clusterIP {text:?} {}", error.as_str())),
        }
    }
    if ips.is_empty() {
        report("has no usable clusterIP, and only an API server allocates one: set clusterIP".to_owned());
    }
    ips
}

/// External addresses, then those a load balancer gave and that lead here (`ipMode: VIP`, KEP-1860).
fn external_ips(service: &Service, cluster_ips: &[IpAddr], report: &mut impl FnMut(String)) -> Vec<IpAddr> {
    let ingress = &service.status.load_balancer.ingress;
    let balanced = ingress.iter().filter(|entry| entry.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
    let given = service.spec.external_ips.iter().chain(balanced.filter_map(|entry| entry.ip.as_ref()));
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in given.filter(|text| !text.is_empty()) {
        match routable(text) {
            Ok(ip) if ips.contains(&ip) || cluster_ips.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(error) => report(format!("external address {text:?} {}", error.as_str())),
        }
    }
    ips
}

fn ports(service: &Service, report: &mut impl FnMut(String)) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(service.spec.ports.len());
    for port in &service.spec.ports {
        if port.port == 0 {
            report(format!("port {:?} has no number", port.name.as_deref().unwrap_or_default()));
        } else if ports.iter().any(|other| (other.port, other.protocol) == (port.port, port.protocol)) {
            report(format!("port {}/{} is declared twice", port.port, port.protocol));
        } else {
            if port.protocol == Protocol::Sctp {
                report(format!("port {}/sctp is not carried by the mesh", port.port));
            }
            ports.push(port.clone());
        }
    }
    ports
}

fn affinity(service: &Service, report: &mut impl FnMut(String)) -> Option<Duration> {
    match service.spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            report(format!("sessionAffinity {other:?} is unknown: connections do not stick"));
            return None;
        }
    }
    let config = service.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    match config.and_then(|config| config.timeout_seconds) {
        None => Some(AFFINITY_TIMEOUT),
        Some(seconds @ 1..=AFFINITY_TIMEOUT_MAX) => Some(Duration::from_secs(seconds.into())),
        Some(seconds) => {
            report(format!(
                "timeoutSeconds {seconds} is not in 1..={AFFINITY_TIMEOUT_MAX}: the default is used"
            ));
            Some(AFFINITY_TIMEOUT)
        }
    }
}

fn distribution(service: &Service, report: &mut impl FnMut(String)) -> Distribution {
    match service.spec.traffic_distribution.as_deref() {
        None | Some("") => Distribution::Spread,
        Some("PreferClose" | "PreferSameZone") => Distribution::PreferSameZone,
        Some("PreferSameNode") => Distribution::PreferSameNode,
        Some(other) => {
            report(format!("trafficDistribution {other:?} is unknown: all endpoints are alike"));
            Distribution::Spread
        }
    }
}

fn internal_local(service: &Service, report: &mut impl FnMut(String)) -> bool {
    match service.spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            report(format!("internalTrafficPolicy {other:?} is unknown: Cluster is used"));
            false
        }
    }
}

/// Only the presence of the labels counts, as in kube-proxy and Go EdgeMesh. The API server's own Service is left
/// alone unless it is asked for: on the way to it the mesh would depend on itself.
fn is_intercepted(id: &ObjectKey, service: &Service, options: &MeshOptions) -> bool {
    let has = |name: &str| service.metadata.labels.contains_key(name);
    let ours = match options.filter {
        ServiceFilter::IfLabelExists => !has(label::EDGEMESH_PROXY_NAME),
        ServiceFilter::IfLabelDoesNotExist => has(label::EDGEMESH_PROXY_NAME),
    };
    ours && !has(label::SERVICE_PROXY_NAME)
        && !has(label::HEADLESS)
        && (options.kubernetes_service || (&*id.namespace, &*id.name) != ("default", "kubernetes"))
}
