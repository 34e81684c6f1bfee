//! Whether the kernel of this node can carry packets to an endpoint, or only the proxy and the tunnel can.

use std::fmt;
use std::net::IpAddr;

use edgemesh_mesh::{Backend, DeviceKind, MeshSnapshot, Path, PathSnapshot};

/// How the kernel reaches an endpoint; decides whose address the endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// The endpoint has an address of this host.
    Host,
    /// A Pod of this node: its answers come back through this host.
    Pod,
    /// A Pod of another node, whose pod range has a route. It answers this node's Pods by the route back, and
    /// others only through this host.
    PodRoute,
    /// An address that answers this host: a node of the same LAN, or something outside the cluster.
    Address,
}

impl Via {
    /// The word for `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Pod => "pod",
            Self::PodRoute => "pod_route",
            Self::Address => "address",
        }
    }
}

/// Why the kernel does not carry connections to an endpoint. Each variant is a word of `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyReason {
    /// The endpoint is on a node that only the tunnel reaches.
    TunnelOnly,
    /// The address means something else here: this host has it, or a Pod of this host may.
    OtherHere,
    /// The route to the node's pod range leads through a NAT, which drops what it carries.
    BehindNat,
    /// The host has no route to the address, or one that discards.
    NoRoute,
}

impl ProxyReason {
    /// The word for `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TunnelOnly => "tunnel_only",
            Self::OtherHere => "other_here",
            Self::BehindNat => "behind_nat",
            Self::NoRoute => "no_route",
        }
    }

    /// A sentence for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TunnelOnly => "no route of this host leads to the Pods of its node",
            Self::OtherHere => "its address belongs to this host or to a pod range of it",
            Self::BehindNat => "its node is behind a NAT, through which pod addresses are not routed",
            Self::NoRoute => "this host has no route to it",
        }
    }
}

impl fmt::Display for ProxyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the kernel can carry packets to an endpoint, and how.
///
/// An address alone proves nothing, because pod ranges repeat (every `docker0` is 172.17.0.0/16) and so do LANs. For
/// an endpoint of another node the kernel is trusted only where somebody vouches that the address is that node's: the
/// tunnel authenticated the node at this address inside the LAN, or the Node object has the pod range, and the host
/// has a route to it that is none of its own.
pub fn reach(snapshot: &MeshSnapshot, paths: &PathSnapshot, backend: &Backend) -> Result<Via, ProxyReason> {
    let facts = &paths.host;
    let ip = backend.addr.ip();
    let host = facts.addresses.contains(&ip);
    let route = facts.route(ip).filter(|route| !route.discards);
    let Some(node) = backend.node.as_ref().filter(|node| **node != snapshot.node.name) else {
        return match (host, route, &backend.node) {
            (true, ..) => Ok(Via::Host),
            (false, None, _) => Err(ProxyReason::NoRoute),
            (false, Some(route), _) if route.device == DeviceKind::Pods => Ok(Via::Pod),
            // A Pod of this node is behind a device of this node, never behind the way to everywhere.
            (false, Some(route), Some(_)) => match route.prefix.prefix_len() {
                0 => Err(ProxyReason::NoRoute),
                _ => Ok(Via::Pod),
            },
            (false, Some(_), None) => Ok(Via::Address),
        };
    };
    if host {
        return Err(ProxyReason::OtherHere);
    }
    let Some(route) = route else { return Err(ProxyReason::NoRoute) };
    if route.device == DeviceKind::Pods || in_own_pod_range(snapshot, ip) {
        return Err(ProxyReason::OtherHere);
    }
    if paths.lan_address(node) == Some(ip) {
        return Ok(Via::Address);
    }
    let declared =
        snapshot.pod_ranges.get(node).is_some_and(|ranges| ranges.iter().any(|it| it.contains(&ip)));
    let led = route.prefix.prefix_len() > 0 && (route.gateway || route.device == DeviceKind::Overlay);
    if !declared || !led {
        return Err(ProxyReason::TunnelOnly);
    }
    match paths.path(node) {
        Path::Punched | Path::Relayed => Err(ProxyReason::BehindNat),
        Path::Local | Path::Lan | Path::Direct | Path::Unreachable => Ok(Via::PodRoute),
    }
}

fn in_own_pod_range(snapshot: &MeshSnapshot, ip: IpAddr) -> bool {
    let own = snapshot.pod_ranges.get(&snapshot.node.name);
    own.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&ip)))
}
