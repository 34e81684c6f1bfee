//! What the host is, as far as it decides which connections the kernel can carry.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use edgemesh_mesh::{DeviceKind, HostFacts, HostRoute};
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{self, Nft};
use edgemesh_net::netlink::rt::{Handle, Link, Prefix, Route, RouteKind, TABLE_MAIN};
use edgemesh_net::xtables;
use ipnet::IpNet;

/// `net.bridge.bridge-nf-call-*`: whether bridged packets pass netfilter; absent without br_netfilter.
const BRIDGED: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];
/// `NF_IP_PRI_NAT_DST`, at which the kernel translates destinations.
const DESTINATION_NAT: i32 = -100;
const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Kinds of links that carry packets to other nodes inside packets of their own.
const OVERLAYS: [&str; 9] = ["vxlan", "geneve", "wireguard", "ipip", "sit", "gre", "ip6tnl", "ip6gre", "tun"];

/// Reads the facts of this network namespace; addresses and prefixes of the mesh's own device are left out.
pub(crate) fn read(
    rt: &mut Handle,
    nft: Option<&mut Nft>,
    own_device: &str,
) -> Result<HostFacts, NetlinkError> {
    let links = rt.links()?;
    let own = links.iter().find(|link| link.name == own_device).map(|link| link.index);
    let addresses = rt.addresses()?.into_iter().filter(|address| Some(address.link) != own);
    let addresses: BTreeSet<IpAddr> = addresses.map(|address| address.prefix.addr).collect();
    let mut routes = rt.routes(Some(TABLE_MAIN))?;
    routes.retain(|route| own.is_none() || route.oif != own);
    let devices = Devices::new(&links, &routes);
    let filtered = BRIDGED.map(is_on);
    // The kernel takes the lowest metric among routes to one prefix.
    routes.sort_by_key(|route| (Reverse(route.dst.len), route.dst.addr, route.metric));
    routes.dedup_by_key(|route| route.dst);
    let routes: Vec<HostRoute> =
        routes.iter().filter_map(|route| host_route(route, &devices, filtered)).collect();
    let chains = match nft {
        Some(nft) => nft.base_chains()?,
        None => Vec::new(),
    };
    let pods = routes.iter().filter(|route| route.device == DeviceKind::Pods && !route.gateway);
    Ok(HostFacts {
        addresses,
        pod_ranges: pods.map(|route| route.prefix).collect(),
        routes,
        forward_v4: is_on(FORWARD_V4),
        forward_v6: is_on(FORWARD_V6),
        forward_drops: chains.iter().any(drops_forwarded) || legacy_drops_forwarded(),
        untranslated_refused: chains.iter().any(refuses_untranslated),
        bridges_filtered: filtered.contains(&true)
            && links.iter().any(|link| is_bridge(link) && Some(link.index) != own),
    })
}

/// Whether a base chain at the forward hook drops what its rules do not accept (Docker sets that).
fn drops_forwarded(chain: &nft::BaseChain) -> bool {
    of_ip(chain) && chain.hook == nft::Hook::Forward.code() && chain.drop
}

/// The same by the legacy flavour of iptables. What cannot be read does not keep the agent from its work.
fn legacy_drops_forwarded() -> bool {
    [xtables::Family::V4, xtables::Family::V6].into_iter().any(|family| {
        xtables::forward_drops(family).unwrap_or_else(|error| {
            tracing::debug!(%error, ?family, "the policy of the legacy flavour of iptables is not known");
            false
        })
    })
}

/// kube-proxy's chain that refuses what still goes to a Service's address after destination NAT. The table's name has
/// been the same since mode `nftables` came (Kubernetes 1.29), the chain's has not.
fn refuses_untranslated(chain: &nft::BaseChain) -> bool {
    let filters_output = chain.kind == "filter" && chain.hook == nft::Hook::Output.code();
    of_ip(chain) && chain.table == "kube-proxy" && filters_output && chain.priority > DESTINATION_NAT
}

fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
}

fn of_ip(chain: &nft::BaseChain) -> bool {
    matches!(chain.family, nft::Family::Inet | nft::Family::Ip | nft::Family::Ip6)
}

fn is_on(sysctl: &str) -> bool {
    std::fs::read_to_string(sysctl).is_ok_and(|text| !matches!(text.trim(), "" | "0"))
}

struct Devices<'a> {
    by_index: HashMap<u32, &'a Link>,
    /// Bridges with a port that is no Pod's.
    shared_bridges: BTreeSet<u32>,
    /// Bridges with a port that is not in hairpin mode.
    one_way_bridges: BTreeSet<u32>,
    /// Devices by which other routers are reached.
    uplinks: BTreeSet<u32>,
}

impl<'a> Devices<'a> {
    fn new(links: &'a [Link], routes: &[Route]) -> Self {
        let ends_in_a_pod = |link: &&Link| matches!(link.kind.as_deref(), Some("veth" | "tun"));
        let shared_ports = links.iter().filter(|link| !ends_in_a_pod(link));
        Self {
            by_index: links.iter().map(|link| (link.index, link)).collect(),
            one_way_bridges: links
                .iter()
                .filter(|link| !link.hairpin)
                .filter_map(|link| link.master)
                .collect(),
            shared_bridges: shared_ports.filter_map(|link| link.master).collect(),
            uplinks: routes.iter().filter(|route| route.gateway.is_some()).filter_map(|it| it.oif).collect(),
        }
    }

    /// What the device of a route is. The other end of a veth pair is a Pod's where the pair carries one address; it may
    /// be a whole network where it carries more, as in a node that is a container itself.
    fn kind(&self, route: &Route) -> DeviceKind {
        let Some(link) = route.oif.and_then(|index| self.by_index.get(&index)) else {
            return DeviceKind::Shared;
        };
        let alone = route.dst.len == Prefix::host(route.dst.addr).len;
        match link.kind.as_deref() {
            _ if self.uplinks.contains(&link.index) => match link.kind.as_deref() {
                Some(kind) if OVERLAYS.contains(&kind) => DeviceKind::Overlay,
                _ => DeviceKind::Shared,
            },
            Some("bridge") if !self.shared_bridges.contains(&link.index) => DeviceKind::Pods,
            Some("veth") if alone => DeviceKind::Pods,
            Some(kind) if OVERLAYS.contains(&kind) => DeviceKind::Overlay,
            _ => DeviceKind::Shared,
        }
    }

    fn is_one_way(&self, route: &Route) -> bool {
        route.oif.is_some_and(|index| self.one_way_bridges.contains(&index))
    }

    fn is_bridge(&self, route: &Route) -> bool {
        route.oif.and_then(|index| self.by_index.get(&index)).is_some_and(|link| is_bridge(link))
    }
}

fn host_route(route: &Route, devices: &Devices<'_>, filtered: [bool; 2]) -> Option<HostRoute> {
    let discards = match route.kind {
        RouteKind::Unicast => false,
        RouteKind::Local => return None,
        _ => true,
    };
    // Link-local and multicast prefixes are on every link, and no endpoint is there.
    let skipped = match route.dst.addr {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    };
    if skipped {
        return None;
    }
    let family = usize::from(route.dst.addr.is_ipv6());
    Some(HostRoute {
        prefix: IpNet::new(route.dst.addr, route.dst.len).ok()?,
        gateway: route.gateway.is_some() || route.oif.is_none(),
        device: devices.kind(route),
        bridge_filtered: devices.is_bridge(route) && filtered[family],
        one_way: devices.is_one_way(route),
        discards,
    })
}
