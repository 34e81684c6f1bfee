use std::net::{IpAddr, SocketAddr};

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::{MeshSnapshot, ServiceId, TunnelRule};
use serde::Serialize;

use crate::RejectReason;

/// Who asks through the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker<'a> {
    /// The node the peer speaks for, as far as it is proven.
    pub node: Option<&'a str>,
    /// The namespace of the client. Only the peer knows it, so it is worth what the peer's node is.
    pub namespace: Option<&'a str>,
}

/// Whether a peer may reach `backend` through this node: only what is a ready endpoint of a Service and runs here, and
/// what TunnelPolicies let its node and the client's namespace reach.
pub fn admit(
    snapshot: &MeshSnapshot,
    protocol: Protocol,
    backend: SocketAddr,
    asker: Asker<'_>,
) -> Result<ServiceId, RejectReason> {
    match protocol {
        Protocol::Tcp | Protocol::Udp => {}
        Protocol::Sctp => return Err(RejectReason::UnsupportedProtocol),
    }
    let service =
        snapshot.local_backends.get(&(backend, protocol)).cloned().ok_or(RejectReason::NotAnEndpoint)?;
    match snapshot.tunnel_rules.of(backend, protocol) {
        Some(rules) if !rules.iter().any(|rule| rule.admits(asker.node, asker.namespace)) => {
            Err(RejectReason::NotAllowed)
        }
        Some(_) | None => Ok(service),
    }
}

/// What TunnelPolicies say to clients of this node about a backend on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// No policy selects a Service of the backend.
    Open,
    /// This node may reach it.
    Allowed,
    /// Clients of some namespaces of this node may reach it.
    SomeNamespaces,
    /// No client of this node may.
    NotAllowed,
}

impl Admission {
    /// The same in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Open => "no TunnelPolicy selects its Service",
            Self::Allowed => "a TunnelPolicy admits this node",
            Self::SomeNamespaces => "a TunnelPolicy admits clients of some namespaces of this node",
            Self::NotAllowed => "its TunnelPolicies do not name this node: the other node will refuse",
        }
    }
}

/// What a backend's node will say to clients of this one.
pub fn admission(snapshot: &MeshSnapshot, protocol: Protocol, backend: SocketAddr) -> Admission {
    let Some(rules) = snapshot.tunnel_rules.of(backend, protocol) else { return Admission::Open };
    let own = Some(&*snapshot.node.name);
    let named = || rules.iter().filter(|rule| rule.names_node(own));
    if named().any(|rule| rule.namespaces.is_empty()) {
        Admission::Allowed
    } else if named().next().is_some() {
        Admission::SomeNamespaces
    } else {
        Admission::NotAllowed
    }
}

/// The namespace of a client on this node, where a rule of the backend asks for one: who is not asked need not tell.
pub(crate) fn namespace_for(
    snapshot: &MeshSnapshot,
    protocol: Protocol,
    backend: SocketAddr,
    client: IpAddr,
) -> Option<Name> {
    let asks = |rules: &[TunnelRule]| rules.iter().any(|rule| !rule.namespaces.is_empty());
    snapshot.tunnel_rules.of(backend, protocol).filter(|rules| asks(rules))?;
    client_namespace(snapshot, client)
}

/// The namespace of a Pod of this node. Agents of an API server do not list Pods: there, only those are known that are
/// endpoints of a Service.
fn client_namespace(snapshot: &MeshSnapshot, client: IpAddr) -> Option<Name> {
    let own = Some(&snapshot.node.name);
    let listed = snapshot.pods_by_ip.get(&client).into_iter().flatten();
    let mut listed = listed.filter(|pod| pod.node.as_ref() == own).map(|pod| &pod.pod.namespace);
    if let Some(first) = listed.next() {
        // Two Pods with one address, as those in the host's network have: neither can be told from the other.
        return listed.all(|other| other == first).then(|| first.clone());
    }
    let services = snapshot.endpoints_by_ip.get(&client);
    let services = services.into_iter().flatten().filter_map(|id| snapshot.services.get(id));
    let backends = services.flat_map(|service| service.ports.iter().flat_map(|port| port.backends.iter()));
    let here = backends.filter(|backend| backend.addr.ip() == client && backend.node.as_ref() == own);
    let mut namespaces = here.filter_map(|backend| Some(&backend.pod.as_ref()?.namespace));
    let first = namespaces.next()?;
    namespaces.all(|other| other == first).then(|| first.clone())
}
