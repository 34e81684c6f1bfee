//! What Gateways ask to be listened on.

use std::fmt;

use edgemesh_api::{Kind, Name};
use edgemesh_mesh::IngressObjects;
use serde::Serialize;

use super::NOT_SERVED;

/// One server of an Istio Gateway, or one listener of a Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ServerLine {
    /// `Kind namespace/name`.
    pub(super) gateway: String,
    /// The server's own name.
    pub(super) name: Option<Name>,
    /// The GatewayClass; of the Gateway API only.
    pub(super) class: Option<Name>,
    pub(super) port: u16,
    /// As the object has it.
    pub(super) protocol: Name,
    /// Hosts; `*` where there is no limit.
    pub(super) hosts: Vec<Name>,
    pub(super) state: &'static str,
}

impl fmt::Display for ServerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.gateway)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, ": port {} {} for {}", self.port, self.protocol, self.hosts.join(" "))?;
        if let Some(class) = &self.class {
            write!(f, " (class {class})")?;
        }
        write!(f, ": {}", self.state)
    }
}

/// Every server and listener, Istio's first, in the order of names and of the objects.
pub(super) fn of(objects: &IngressObjects) -> Vec<ServerLine> {
    let istio = objects.istio_gateways().flat_map(|(key, gateway)| {
        gateway.spec.servers.iter().map(move |server| ServerLine {
            gateway: format!("{} {key}", Kind::IstioGateway),
            name: server.name.clone().or_else(|| server.port.name.clone()),
            class: None,
            port: server.port.number,
            protocol: server.port.protocol.clone(),
            hosts: server.hosts.clone(),
            state: NOT_SERVED,
        })
    });
    let listeners = objects.gateways().flat_map(|(key, gateway)| {
        gateway.spec.listeners.iter().map(move |listener| ServerLine {
            gateway: format!("{} {key}", Kind::Gateway),
            name: Some(listener.name.clone()),
            class: Some(gateway.spec.gateway_class_name.clone()),
            port: listener.port,
            protocol: listener.protocol.clone(),
            hosts: vec![listener.hostname.clone().unwrap_or_else(|| Name::from("*"))],
            state: NOT_SERVED,
        })
    });
    istio.chain(listeners).collect()
}
