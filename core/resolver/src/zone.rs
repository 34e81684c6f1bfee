use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use edgemesh_mesh::{Backend, MeshSnapshot, PortEntry, ServiceEntry, ServiceId, ServiceKind};

use crate::name::{LowerName, dashed_ip, dashed_label};
use crate::settings::ZoneSettings;
use crate::wire::{HEADER, Section, Writer, pointer_to, put_labels, put_u16, put_u32, rtype};

/// The schema version of the Kubernetes DNS specification that is implemented.
const SCHEMA_VERSION: &[u8] = b"1.1.0";
/// SOA refresh, retry and expire. Nothing transfers the zone; the values are those of CoreDNS.
const SOA_TIMERS: [u32; 3] = [7200, 1800, 86_400];

/// What a name in the cluster domain stands for.
pub(crate) enum Node<'s> {
    /// The cluster domain itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `edgemesh-metadata`: where the answers come from, and how old that is.
    Metadata(&'s MeshSnapshot),
    /// `ns.dns`, the name in SOA and NS.
    NameServer,
    /// Exists only because names below it do (RFC 8020).
    Empty,
    /// Does not exist.
    Missing,
    /// A Service; headless ones have at least one published endpoint.
    Service(&'s ServiceEntry),
    /// One endpoint of a Service, by its label.
    Endpoint(&'s ServiceEntry, String),
    /// A named port of a Service.
    Port(&'s ServiceEntry, String, String),
    /// A pod name; the address is in the name.
    Address(IpAddr),
}

/// Finds what a name with `depth` labels below the cluster domain stands for.
pub(crate) fn lookup<'s>(name: &LowerName, depth: usize, snapshot: &'s MeshSnapshot) -> Node<'s> {
    find(name, depth, snapshot).unwrap_or(Node::Missing)
}

fn find<'s>(name: &LowerName, depth: usize, snapshot: &'s MeshSnapshot) -> Option<Node<'s>> {
    let Some(last) = depth.checked_sub(1) else { return Some(Node::Apex) };
    match (name.label(last)?, depth) {
        ("dns-version", 1) => Some(Node::Version),
        ("edgemesh-metadata", 1) => Some(Node::Metadata(snapshot)),
        ("dns" | "svc" | "pod", 1) => Some(Node::Empty),
        ("dns", 2) => (name.label(0)? == "ns").then_some(Node::NameServer),
        ("svc" | "pod", 2) => snapshot.namespaces.contains(name.label(0)?).then_some(Node::Empty),
        ("pod", 3) => {
            let known = snapshot.namespaces.contains(name.label(1)?);
            known.then(|| dashed_ip(name.label(0)?).map(Node::Address))?
        }
        ("svc", 3..=5) => {
            let service = snapshot.service(name.label(depth - 2)?, name.label(depth - 3)?)?;
            find_in_service(name, depth, service)
        }
        _ => None,
    }
}

fn find_in_service<'s>(name: &LowerName, depth: usize, service: &'s ServiceEntry) -> Option<Node<'s>> {
    // Specification 2.4.1: a headless Service without ready endpoints does not exist.
    if service.kind == ServiceKind::Headless && published(service).next().is_none() {
        return None;
    }
    let named = |port: &PortEntry, name: Option<&str>, protocol: &str| {
        let matches =
            name.is_none_or(|name| port.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name)));
        port.name.as_deref().is_some_and(|own| !own.is_empty())
            && matches
            && port.protocol.as_str() == protocol
    };
    match depth {
        3 => Some(Node::Service(service)),
        _ if matches!(service.kind, ServiceKind::ExternalName(_)) => None,
        4 => {
            let label = name.label(0)?;
            if let Some(protocol) = label.strip_prefix('_') {
                return service.ports.iter().any(|port| named(port, None, protocol)).then_some(Node::Empty);
            }
            let wanted = Label::new(label);
            published(service)
                .any(|backend| wanted.names(backend))
                .then(|| Node::Endpoint(service, label.to_owned()))
        }
        _ => {
            let (port, protocol) = (name.label(0)?.strip_prefix('_')?, name.label(1)?.strip_prefix('_')?);
            let found = service.ports.iter().any(|entry| named(entry, Some(port), protocol));
            found.then(|| Node::Port(service, port.to_owned(), protocol.to_owned()))
        }
    }
}

/// The endpoints DNS names: the ready ones, or all with `publishNotReadyAddresses`.
fn published(service: &ServiceEntry) -> impl Iterator<Item = &Backend> {
    let all = service.publish_not_ready;
    service.ports.iter().flat_map(|port| port.backends.iter()).filter(move |backend| all || backend.ready)
}

fn published_addresses(service: &ServiceEntry, wanted: impl Fn(&Backend) -> bool) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> =
        published(service).filter(|backend| wanted(backend)).map(|backend| backend.addr.ip()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// The addresses of both families of a node that has any of its own.
pub(crate) fn addresses(node: &Node<'_>) -> Vec<IpAddr> {
    match node {
        Node::Address(ip) => vec![*ip],
        Node::Service(service) if service.kind == ServiceKind::Headless => {
            published_addresses(service, |_| true)
        }
        Node::Service(service) => service.cluster_ips.clone(),
        Node::Endpoint(service, label) => {
            let wanted = Label::new(label);
            published_addresses(service, |backend| wanted.names(backend))
        }
        Node::Apex
        | Node::Version
        | Node::Metadata(_)
        | Node::NameServer
        | Node::Empty
        | Node::Missing
        | Node::Port(..) => Vec::new(),
    }
}

/// The label of an endpoint in a query: its hostname, or its address with dashes where it has none.
struct Label<'l> {
    text: &'l str,
    ip: Option<IpAddr>,
}

impl<'l> Label<'l> {
    fn new(text: &'l str) -> Self {
        Self { text, ip: dashed_ip(text) }
    }

    fn names(&self, backend: &Backend) -> bool {
        match backend.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
            Some(hostname) => hostname.eq_ignore_ascii_case(self.text),
            None => self.ip == Some(backend.addr.ip()),
        }
    }
}

fn endpoint_label(backend: &Backend) -> String {
    match backend.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => dashed_label(backend.addr.ip()),
    }
}

/// Appends the records of nodes in the cluster domain to one response.
pub(crate) struct Records<'z, 'w, 'o> {
    zone: &'z ZoneSettings,
    writer: &'w mut Writer<'o>,
    /// Pointer to the cluster domain inside the question.
    zone_pointer: u16,
    /// Where the order of several records begins.
    draw: u64,
    now: Instant,
}

impl<'z, 'w, 'o> Records<'z, 'w, 'o> {
    /// For a question whose name has `depth` labels below the cluster domain.
    pub(crate) fn new(
        zone: &'z ZoneSettings,
        writer: &'w mut Writer<'o>,
        question: &LowerName,
        depth: usize,
        draw: u64,
        now: Instant,
    ) -> Self {
        let zone_pointer = pointer_to(HEADER + question.start(depth)).unwrap_or_default();
        Self { zone, writer, zone_pointer, draw, now }
    }

    /// Appends what the node has of the type; nothing for a name without such records.
    pub(crate) fn append(&mut self, node: &Node<'_>, owner: u16, qtype: u16, serial: u64) {
        match (node, qtype) {
            (Node::Apex, rtype::SOA) => self.soa(Section::Answer, serial),
            (Node::Apex, rtype::NS) => self.name_server(owner),
            (Node::Version, rtype::TXT) => {
                self.writer.record(Section::Answer, owner, rtype::TXT, self.zone.ttl, |out| {
                    out.push(u8::try_from(SCHEMA_VERSION.len()).unwrap_or_default());
                    out.extend_from_slice(SCHEMA_VERSION);
                    true
                });
            }
            (Node::Metadata(snapshot), rtype::TXT) => {
                let strings = metadata(snapshot, self.now);
                // What ages by the second is not to be kept.
                self.writer.record(Section::Answer, owner, rtype::TXT, 0, |out| {
                    for text in &strings {
                        // RFC 1035 section 3.3: a character-string has at most 255 octets.
                        let text = &text.as_bytes()[..text.len().min(255)];
                        out.push(u8::try_from(text.len()).unwrap_or_default());
                        out.extend_from_slice(text);
                    }
                    true
                });
            }
            (Node::NameServer, rtype::A | rtype::AAAA) => {
                for ip in self.zone.servers.iter().copied().filter(|ip| of_type(*ip, qtype)) {
                    self.writer.address(Section::Answer, owner, self.zone.ttl, ip);
                }
            }
            (Node::Address(ip), rtype::A | rtype::AAAA) if of_type(*ip, qtype) => {
                self.writer.address(Section::Answer, owner, self.zone.ttl, *ip);
            }
            (Node::Service(service), rtype::A | rtype::AAAA) => self.service_addresses(service, owner, qtype),
            (Node::Service(service), rtype::SRV) => {
                self.srv(service, owner, &service.ports.iter().collect::<Vec<_>>())
            }
            (Node::Endpoint(service, label), rtype::A | rtype::AAAA) => {
                let wanted = Label::new(label);
                self.endpoint_addresses(service, owner, qtype, |backend| wanted.names(backend));
            }
            (Node::Port(service, name, protocol), rtype::SRV) => {
                let ports: Vec<_> = service
                    .ports
                    .iter()
                    .filter(|port| port.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name)))
                    .filter(|port| port.protocol.as_str() == protocol)
                    .collect();
                self.srv(service, owner, &ports);
            }
            _ => {}
        }
    }

    /// Appends the SOA record that a negative answer carries in its authority section (RFC 2308 section 3), or that
    /// was asked for.
    pub(crate) fn soa(&mut self, section: Section, serial: u64) {
        let zone = self.zone;
        let pointer = self.zone_pointer;
        let ttl = if section == Section::Answer { zone.ttl } else { zone.ttl.min(zone.negative_ttl) };
        self.writer.record(section, pointer, rtype::SOA, ttl, |out| {
            soa_data(out, pointer, zone.negative_ttl, serial)
        });
    }

    fn name_server(&mut self, owner: u16) {
        let pointer = self.zone_pointer;
        let at = self.writer.record(Section::Answer, owner, rtype::NS, self.zone.ttl, |out| {
            put_labels(out, &["ns", "dns"], &pointer.to_be_bytes())
        });
        if let Some(target) = at.and_then(pointer_to) {
            for ip in &self.zone.servers {
                self.writer.address(Section::Additional, target, self.zone.ttl, *ip);
            }
        }
    }

    fn service_addresses(&mut self, service: &ServiceEntry, owner: u16, qtype: u16) {
        match service.kind {
            ServiceKind::ClusterIp => {
                for ip in service.cluster_ips.iter().copied().filter(|ip| of_type(*ip, qtype)) {
                    self.writer.address(Section::Answer, owner, self.zone.ttl, ip);
                }
            }
            ServiceKind::Headless => self.endpoint_addresses(service, owner, qtype, |_| true),
            ServiceKind::ExternalName(_) => {}
        }
    }

    fn endpoint_addresses(
        &mut self,
        service: &ServiceEntry,
        owner: u16,
        qtype: u16,
        wanted: impl Fn(&Backend) -> bool,
    ) {
        let ips =
            published_addresses(service, |backend| wanted(backend) && of_type(backend.addr.ip(), qtype));
        for ip in rotated(&ips, self.draw) {
            self.writer.address(Section::Answer, owner, self.zone.ttl, *ip);
        }
    }

    fn srv(&mut self, service: &ServiceEntry, owner: u16, ports: &[&PortEntry]) {
        // Keyed by target label and port number: an endpoint of two families, and several endpoints with one
        // hostname, are one target. The empty label is the Service itself.
        let mut targets: BTreeMap<(String, u16), Vec<IpAddr>> = BTreeMap::new();
        // Port 0 stands for the ports of a Service that declares none.
        let ports = ports.iter().filter(|port| port.port != 0);
        match service.kind {
            ServiceKind::ClusterIp => {
                for port in ports {
                    targets.insert((String::new(), port.port), service.cluster_ips.clone());
                }
            }
            ServiceKind::Headless => {
                for backend in ports.flat_map(|port| port.backends.iter()) {
                    if backend.ready || service.publish_not_ready {
                        let key = (endpoint_label(backend), backend.addr.port());
                        targets.entry(key).or_default().push(backend.addr.ip());
                    }
                }
            }
            ServiceKind::ExternalName(_) => return,
        }
        let targets: Vec<_> = targets.into_iter().collect();
        // Equal shares of the weight that CoreDNS uses; RFC 2782 wants at least 1 for a target that is to be used.
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let apex = self.zone.apex.wire();
        let mut placed: Vec<(&str, u16, &[IpAddr])> = Vec::new();
        for ((label, port), ips) in rotated(&targets, self.draw) {
            let at = self.writer.record(Section::Answer, owner, rtype::SRV, self.zone.ttl, |out| {
                for value in [0, weight, *port] {
                    put_u16(out, value);
                }
                put_service_name(
                    out,
                    Some(label.as_str()).filter(|label| !label.is_empty()),
                    &service.id,
                    apex,
                )
            });
            if let Some(target) = at.and_then(|at| pointer_to(at + 6))
                && placed.iter().all(|(known, ..)| known != label)
            {
                placed.push((label, target, ips));
            }
        }
        for (_, target, ips) in placed {
            for ip in ips {
                self.writer.address(Section::Additional, target, self.zone.ttl, *ip);
            }
        }
    }
}

/// Source and age of the snapshot, as `key=value` (RFC 6763 section 6.3).
fn metadata(snapshot: &MeshSnapshot, now: Instant) -> Vec<String> {
    let mut strings = Vec::new();
    if let Some(provenance) = &snapshot.provenance {
        strings.push(format!("source={}", provenance.source()));
        if let Some(age) = provenance.age(now) {
            strings.push(format!("age={}s", age.as_secs()));
        }
    }
    let state = if snapshot.stale { "journal" } else { "live" };
    strings.extend([format!("state={state}"), format!("generation={}", snapshot.generation)]);
    strings
}

/// The names an address has in the snapshot: of the Service whose virtual address it is, else of the endpoints of
/// headless Services. Empty for an address of somebody else.
pub(crate) fn reverse(ip: IpAddr, snapshot: &MeshSnapshot) -> Vec<(Option<String>, &ServiceId)> {
    if let Some(id) = snapshot.service_by_ip.get(&ip) {
        return vec![(None, id)];
    }
    let mut names = Vec::new();
    for id in snapshot.endpoints_by_ip.get(&ip).into_iter().flatten() {
        let Some(service) = snapshot.services.get(id).filter(|service| service.kind == ServiceKind::Headless)
        else {
            continue;
        };
        for backend in published(service).filter(|backend| backend.addr.ip() == ip) {
            names.push((Some(endpoint_label(backend)), id));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Appends the name of a Service or of one of its endpoints.
pub(crate) fn put_service_name(out: &mut Vec<u8>, label: Option<&str>, id: &ServiceId, apex: &[u8]) -> bool {
    let own: &[&str] = &[&id.name, &id.namespace, "svc"];
    match label {
        Some(label) => put_labels(out, &[label], &[]) && put_labels(out, own, apex),
        None => put_labels(out, own, apex),
    }
}

/// Appends the data of an SOA record; `apex` is a pointer to the name it belongs to.
pub(crate) fn soa_data(out: &mut Vec<u8>, apex: u16, minimum: u32, serial: u64) -> bool {
    let apex = apex.to_be_bytes();
    if !(put_labels(out, &["ns", "dns"], &apex) && put_labels(out, &["hostmaster"], &apex)) {
        return false;
    }
    // The serial is the snapshot's generation modulo 2^32 (RFC 1982).
    put_u32(out, (serial & u64::from(u32::MAX)) as u32);
    for value in SOA_TIMERS {
        put_u32(out, value);
    }
    put_u32(out, minimum);
    true
}

fn of_type(ip: IpAddr, qtype: u16) -> bool {
    ip.is_ipv4() == (qtype == rtype::A)
}

/// All items, beginning at a drawn one, so that clients that take the first spread over them.
fn rotated<T>(items: &[T], draw: u64) -> impl Iterator<Item = &T> {
    let start = if items.is_empty() { 0 } else { (draw % items.len() as u64) as usize };
    items[start..].iter().chain(&items[..start])
}
