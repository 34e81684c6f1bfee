use std::net::IpAddr;
use std::time::Duration;

use edgemesh_api::{Name, ObjectKey, Protocol, Service, ServicePort, label};
use ipnet::IpNet;

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
    let (external_ips, load_balancer_ips) =
        if addressed { outer_addresses(service, &cluster_ips, &mut report) } else { Default::default() };
    let ports = match &kind {
        ServiceKind::ExternalName(_) => Vec::new(),
        ServiceKind::Headless if service.spec.ports.is_empty() => vec![portless()],
        ServiceKind::Headless | ServiceKind::ClusterIp => ports(service, addressed, &mut report),
    };
    let external_local = is_local(
        "externalTrafficPolicy",
        service.spec.external_traffic_policy.as_ref().filter(|_| addressed),
        &mut report,
    );
    let entry = ServiceEntry {
        id: id.clone(),
        kind,
        cluster_ips,
        external_ips,
        load_balancer_ips,
        ports: Vec::new(),
        affinity: affinity(service, &mut report),
        distribution: distribution(service, &mut report),
        internal_local: is_local(
            "internalTrafficPolicy",
            service.spec.internal_traffic_policy.as_ref(),
            &mut report,
        ),
        external_local,
        source_ranges: source_ranges(service, &mut report),
        health_check_node_port: health_check_node_port(service, external_local, &mut report),
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

/// External addresses, and those a load balancer gave and that lead here (`ipMode: VIP`, KEP-1860). One that is both is
/// the load balancer's: who lists source ranges does not expect another way in.
fn outer_addresses(
    service: &Service,
    cluster_ips: &[IpAddr],
    report: &mut impl FnMut(String),
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let mut balanced = Vec::new();
    for entry in &service.status.load_balancer.ingress {
        let Some(text) = entry.ip.as_ref().filter(|text| !text.is_empty()) else { continue };
        match entry.ip_mode.as_deref() {
            None | Some("VIP") => balanced.push(text),
            Some("Proxy") => {}
            Some(other) => report(format!(
                "ipMode {other:?} of load-balancer address {text} is unknown: it is not intercepted"
            )),
        }
    }
    let load_balancer_ips = usable("load-balancer", balanced, cluster_ips, report);
    let external = service.spec.external_ips.iter().filter(|text| !text.is_empty()).collect();
    let taken: Vec<IpAddr> = cluster_ips.iter().chain(&load_balancer_ips).copied().collect();
    (usable("external", external, &taken, report), load_balancer_ips)
}

fn usable(kind: &str, given: Vec<&Name>, taken: &[IpAddr], report: &mut impl FnMut(String)) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in given {
        match routable(text) {
            Ok(ip) if ips.contains(&ip) || taken.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(error) => report(format!("{kind} address {text:?} {}", error.as_str())),
        }
    }
    ips
}

/// Clients that may use the load-balancer addresses. A range that cannot be read allows nobody: the opposite would open
/// what was meant to be closed.
fn source_ranges(service: &Service, report: &mut impl FnMut(String)) -> Option<Vec<IpNet>> {
    let given = &service.spec.load_balancer_source_ranges;
    if given.is_empty() {
        return None;
    }
    let mut ranges = Vec::with_capacity(given.len());
    for text in given {
        // The API server accepts white space around a range.
        match text.trim().parse::<IpNet>() {
            Ok(range) => ranges.push(range),
            Err(_) => report(format!(
                "loadBalancerSourceRanges {text:?} is no CIDR (write ADDRESS/LENGTH): it allows nobody"
            )),
        }
    }
    Some(IpNet::aggregate(&ranges))
}

/// Where a load balancer asks, when it has a reason to.
fn health_check_node_port(
    service: &Service,
    external_local: bool,
    report: &mut impl FnMut(String),
) -> Option<u16> {
    let port = service.spec.health_check_node_port.filter(|port| *port != 0)?;
    if service.spec.type_.as_deref() == Some("LoadBalancer") && external_local {
        return Some(port);
    }
    report(format!(
        "healthCheckNodePort {port} is for type LoadBalancer with externalTrafficPolicy Local only: it is not opened"
    ));
    None
}

fn ports(service: &Service, addressed: bool, report: &mut impl FnMut(String)) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(service.spec.ports.len());
    for port in &service.spec.ports {
        if port.port == 0 {
            report(format!("port {:?} has no number", port.name.as_deref().unwrap_or_default()));
        } else if ports.iter().any(|other| (other.port, other.protocol) == (port.port, port.protocol)) {
            report(format!("port {}/{} is declared twice", port.port, port.protocol));
        } else {
            if port.protocol == Protocol::Sctp {
                report(format!(
                    "port {}/sctp reaches endpoints that the kernel reaches by itself: the tunnel carries TCP and UDP",
                    port.port
                ));
            }
            let of_nodes =
                addressed && matches!(service.spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
            let node_port = node_port(port, of_nodes, &ports, report);
            ports.push(ServicePort { node_port, ..port.clone() });
        }
    }
    ports
}

/// The node port of a port that may have one and shares it with no other port.
fn node_port(
    port: &ServicePort,
    of_nodes: bool,
    others: &[ServicePort],
    report: &mut impl FnMut(String),
) -> Option<u16> {
    let number = port.node_port.filter(|number| *number != 0)?;
    if !of_nodes {
        report(format!(
            "nodePort {number} is for types NodePort and LoadBalancer with a clusterIP: it is not opened"
        ));
        return None;
    }
    let same = |other: &ServicePort| other.node_port == Some(number) && other.protocol == port.protocol;
    if others.iter().any(same) {
        report(format!("nodePort {number}/{} is declared twice", port.protocol));
        return None;
    }
    Some(number)
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

/// Whether a traffic policy is `Local`.
fn is_local(field: &str, policy: Option<&Name>, report: &mut impl FnMut(String)) -> bool {
    match policy.map(|policy| &**policy) {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            report(format!("{field} {other:?} is unknown: Cluster is used"));
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
