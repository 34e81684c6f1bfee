use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// What a device is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Only Pods of this node are behind it: one end of a veth pair, or a bridge whose ports all are.
    Pods,
    /// Carries packets between nodes in packets of its own (VXLAN, WireGuard, IPIP …).
    Overlay,
    /// Anything else: a network that others share.
    Shared,
}

/// One route of the host to other hosts; those for its own addresses are not here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Where it leads.
    pub prefix: IpNet,
    /// Whether packets are sent on to another router; on the link otherwise.
    pub gateway: bool,
    /// What the device is.
    pub device: DeviceKind,
    /// The device is a bridge, and bridged packets pass netfilter (`net.bridge.bridge-nf-call-iptables`).
    pub bridge_filtered: bool,
    /// The device is a bridge of which no port, or not every port, sends back what came in by it (hairpin mode).
    pub one_way: bool,
    /// Discards what it matches (`blackhole`, `unreachable`, `prohibit`).
    pub discards: bool,
}

/// What the host is at the moment, as far as it decides which connections the kernel can carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Addresses of the host, but for those of the mesh's device.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes of the main table, by length of prefix, longest first.
    pub routes: Vec<HostRoute>,
    /// Ranges in which this node's Pods have their addresses: those of its Node object, and the prefixes of devices behind
    /// which only Pods are.
    pub pod_ranges: Vec<IpNet>,
    /// `net.ipv4.ip_forward`.
    pub forward_v4: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forward_v6: bool,
    /// A base chain at the forward hook discards what no rule of its table accepts. What it accepts is its owner's
    /// secret, so Pods' connections go through the proxy then.
    pub forward_drops: bool,
    /// Whoever translates other Services refuses what the host sends to their addresses untranslated (kube-proxy in mode
    /// `nftables`): the listener's share of a Service that it shares with the kernel.
    pub untranslated_refused: bool,
    /// The host has a bridge, and what bridges carry passes netfilter (`net.bridge.bridge-nf-call-iptables`).
    pub bridges_filtered: bool,
}

impl HostFacts {
    /// The route that packets to an address take.
    pub fn route(&self, ip: IpAddr) -> Option<&HostRoute> {
        self.routes.iter().find(|route| covers(route.prefix, ip))
    }

    /// Whether Pods' packets are sent on.
    pub fn forwards(&self, ipv6: bool) -> bool {
        !self.forward_drops && if ipv6 { self.forward_v6 } else { self.forward_v4 }
    }
}

/// Whether the prefix has the address. A host with a route to each node's Pods asks this millions of times for the rules of
/// a large cluster; `IpNet::contains` works out both ends of the prefix each time.
fn covers(prefix: IpNet, ip: IpAddr) -> bool {
    match (prefix, ip) {
        (IpNet::V4(prefix), IpAddr::V4(ip)) => {
            let apart = prefix.addr().to_bits() ^ ip.to_bits();
            apart.leading_zeros() >= u32::from(prefix.prefix_len())
        }
        (IpNet::V6(prefix), IpAddr::V6(ip)) => {
            let apart = prefix.addr().to_bits() ^ ip.to_bits();
            apart.leading_zeros() >= u32::from(prefix.prefix_len())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn prefixes_cover_what_they_should() {
        for (prefix, ip, expected) in [
            ("10.1.2.0/24", "10.1.2.255", true),
            ("10.1.2.0/24", "10.1.3.0", false),
            ("10.1.2.7/32", "10.1.2.7", true),
            ("10.1.2.7/32", "10.1.2.6", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
        ] {
            let (net, addr) = (prefix.parse().expect("a prefix"), ip.parse().expect("an address"));
            assert_eq!(covers(net, addr), expected, "{prefix} {ip}");
        }
    }
}
