//! The site with every address decided: values only, nothing is made here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::site::{Lan, Link, Nat, Node, Outbound, Pod, Site, SiteError};

/// The internet of the laboratory: documentation ranges (RFC 5737, RFC 3849), so that no real address is hidden.
pub const INTERNET4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
/// As above.
pub const INTERNET6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 64);

/// Carriers number their customers from the range RFC 6598 has for it, one /24 of it for each LAN here; IPv6 ends there.
const CARRIER4: [u8; 2] = [100, 64];
const CARRIER6: u16 = 0xfd64;
/// Host number of a LAN's router in its carrier's network; 1 is the carrier's own.
const CUSTOMER: u32 = 2;

/// First host numbers of the internet: its gateway, then routers, then cloud nodes.
const GATEWAY: u32 = 1;
const FIRST_CLOUD_NODE: u32 = 10;
const FIRST_ROUTER: u32 = 100;
/// First host number of nodes in a LAN and of pods in a node; 1 is the gateway.
const FIRST_NODE: u32 = 11;
const FIRST_POD: u32 = 2;

/// One IPv4 and one IPv6 address with their prefix lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

impl Addresses {
    /// Both, without their prefix lengths.
    pub fn hosts(&self) -> [IpAddr; 2] {
        [self.v4.addr().into(), self.v6.addr().into()]
    }

    /// Both.
    pub fn nets(&self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The internet's gateway.
    pub gateway: Addresses,
    /// Routers, in the order of the site's LANs.
    pub routers: Vec<RouterPlan>,
    /// Nodes, cloud first.
    pub nodes: Vec<NodePlan>,
}

/// A router.
#[derive(Clone, Debug)]
pub struct RouterPlan {
    /// The LAN's name.
    pub lan: String,
    /// Address towards the internet.
    pub outer: Addresses,
    /// Address towards the LAN.
    pub inner: Addresses,
    /// Whether IPv6 passes.
    pub routed6: bool,
    /// Its translation.
    pub nat: Nat,
    /// What it lets out.
    pub outbound: Outbound,
    /// Its uplink.
    pub uplink: Link,
    /// The router between it and the internet.
    pub carrier: Option<CarrierPlan>,
}

/// A provider's router.
#[derive(Clone, Copy, Debug)]
pub struct CarrierPlan {
    /// Address towards the internet.
    pub outer: Addresses,
    /// Address towards the LAN's router.
    pub inner: Addresses,
    /// Its translation.
    pub nat: Nat,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Index into `Plan::routers`; none in the cloud.
    pub router: Option<usize>,
    /// Its address.
    pub addresses: Addresses,
    /// Its default gateway; IPv6 is absent where the LAN's range is not routed.
    pub gateway4: Ipv4Addr,
    /// As above.
    pub gateway6: Option<Ipv6Addr>,
    /// Impairments of its link.
    pub link: Option<Link>,
    /// The address of its pod bridge.
    pub bridge: Addresses,
    /// Its pods.
    pub pods: Vec<PodPlan>,
    /// As the site has it.
    pub spec: Node,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// Its address.
    pub addresses: Addresses,
    /// As the site has it.
    pub spec: Pod,
}

impl Plan {
    /// Decides every address.
    pub fn new(site: &Site) -> Result<Self, SiteError> {
        let gateway = at(INTERNET4, INTERNET6, GATEWAY)?;
        let mut routers = Vec::new();
        let mut nodes = Vec::new();
        for (number, node) in (FIRST_CLOUD_NODE..).zip(&site.cloud.nodes) {
            let addresses = at(INTERNET4, INTERNET6, number)?;
            let gateways = (gateway.v4.addr(), Some(gateway.v6.addr()));
            nodes.push(plan_node(node, None, addresses, gateways)?);
        }
        for (index, lan) in site.lans.iter().enumerate() {
            let router = plan_router(index, lan)?;
            let gateways = (router.inner.v4.addr(), lan.routed6.then(|| router.inner.v6.addr()));
            let (range4, range6) = (router.inner.v4.trunc(), router.inner.v6.trunc());
            for (number, node) in (FIRST_NODE..).zip(&lan.nodes) {
                nodes.push(plan_node(node, Some(index), at(range4, range6, number)?, gateways)?);
            }
            routers.push(router);
        }
        Ok(Self { gateway, routers, nodes })
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Every pod with its node.
    pub fn pods(&self) -> impl Iterator<Item = (&NodePlan, &PodPlan)> {
        self.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    /// The name of the LAN a node is in, `cloud` for the others.
    pub fn zone(&self, node: &NodePlan) -> &str {
        node.router.map_or("cloud", |index| &self.routers[index].lan)
    }
}

fn plan_router(index: usize, lan: &Lan) -> Result<RouterPlan, SiteError> {
    let number = u8::try_from(index + 1)
        .ok()
        .filter(|number| u32::from(*number) + FIRST_ROUTER < 255)
        .ok_or_else(|| SiteError::Contradiction("more LANs than the internet has addresses for".into()))?;
    let range4 = lan.subnet4.unwrap_or(Ipv4Net::new_assert(Ipv4Addr::new(10, number, 0, 0), 24));
    let own6 = Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, 0);
    let range6 = lan.subnet6.unwrap_or(Ipv6Net::new_assert(own6, 64));
    let public = at(INTERNET4, INTERNET6, FIRST_ROUTER + u32::from(number))?;
    let [first, second] = CARRIER4;
    let carrier4 = Ipv4Net::new_assert(Ipv4Addr::new(first, second, number, 0), 24);
    let carrier6 = Ipv6Net::new_assert(Ipv6Addr::new(CARRIER6, u16::from(number), 0, 0, 0, 0, 0, 0), 64);
    let (outer, carrier) = match lan.carrier {
        None => (public, None),
        Some(nat) => {
            let inner = at(carrier4, carrier6, GATEWAY)?;
            (at(carrier4, carrier6, CUSTOMER)?, Some(CarrierPlan { outer: public, inner, nat }))
        }
    };
    Ok(RouterPlan {
        lan: lan.name.clone(),
        outer,
        inner: at(range4, range6, GATEWAY)?,
        routed6: lan.routed6,
        nat: lan.nat,
        outbound: lan.outbound,
        uplink: lan.uplink,
        carrier,
    })
}

fn plan_node(
    node: &Node,
    router: Option<usize>,
    addresses: Addresses,
    (gateway4, gateway6): (Ipv4Addr, Option<Ipv6Addr>),
) -> Result<NodePlan, SiteError> {
    let mut taken: BTreeSet<IpAddr> = node.pods.iter().filter_map(|pod| pod.ip).collect();
    let mut pods = Vec::with_capacity(node.pods.len());
    let mut next = FIRST_POD;
    for pod in &node.pods {
        let mut planned = at(node.pods4, node.pods6, next)?;
        match pod.ip {
            Some(IpAddr::V4(ip)) if node.pods4.contains(&ip) => {
                planned.v4 = Ipv4Net::new_assert(ip, node.pods4.prefix_len());
                // The host number is carried over, so that the IPv6 address is free when the IPv4 address is.
                planned.v6 = at(node.pods4, node.pods6, u32::from(ip) - u32::from(node.pods4.network()))?.v6;
            }
            Some(ip) => {
                let text = format!("pod {:?}: {ip} is no IPv4 address of {}", pod.name, node.pods4);
                return Err(SiteError::Contradiction(text));
            }
            None => {
                while taken.contains(&planned.v4.addr().into()) {
                    next += 1;
                    planned = at(node.pods4, node.pods6, next)?;
                }
                taken.insert(planned.v4.addr().into());
            }
        }
        pods.push(PodPlan { addresses: planned, spec: pod.clone() });
    }
    Ok(NodePlan {
        name: node.name.clone(),
        router,
        addresses,
        gateway4,
        gateway6,
        link: node.link,
        bridge: at(node.pods4, node.pods6, GATEWAY)?,
        pods,
        spec: node.clone(),
    })
}

/// Host `number` of both ranges.
fn at(range4: Ipv4Net, range6: Ipv6Net, number: u32) -> Result<Addresses, SiteError> {
    let v4 = Ipv4Addr::from(u32::from(range4.network()).saturating_add(number));
    let v6 = Ipv6Addr::from(u128::from(range6.network()).saturating_add(u128::from(number)));
    if v4 >= range4.broadcast() || !range6.contains(&v6) {
        let text = format!("{range4} and {range6} have no host number {number}");
        return Err(SiteError::Contradiction(text));
    }
    Ok(Addresses {
        v4: Ipv4Net::new_assert(v4, range4.prefix_len()),
        v6: Ipv6Net::new_assert(v6, range6.prefix_len()),
    })
}
