//! The node's networks, as far as they are LANs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Interfaces that lead to containers or tunnels of this node, by the beginning of their names; the list of Go
/// EdgeMesh and what container runtimes have added since.
const NO_LAN: [&str; 13] = [
    "lo",
    "docker",
    "edgemesh",
    "tunl",
    "flannel",
    "cni",
    "br-",
    "kube-ipvs",
    "veth",
    "cali",
    "cilium",
    "lxc",
    "nodelocaldns",
];

/// How old the list may be; interfaces come and go when somebody plugs.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The kernel's index of it; 0 when it is unknown.
    pub(crate) index: u32,
    pub(crate) subnets: Vec<IpNet>,
    /// Whether mesh neighbours may be found there.
    pub(crate) lan: bool,
}

impl Interface {
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&ip))
    }
}

/// Remembers the interfaces for a while.
pub(crate) struct Interfaces {
    skip: Vec<String>,
    known: Vec<Interface>,
    read: Option<Instant>,
}

impl Interfaces {
    pub(crate) fn new(skip: Vec<String>) -> Self {
        Self { skip, known: Vec::new(), read: None }
    }

    /// The interfaces now, or a moment ago.
    pub(crate) fn list(&mut self) -> &[Interface] {
        if self.read.is_none_or(|read| read.elapsed() >= MAX_AGE) {
            self.known = read(&self.skip);
            self.read = Some(Instant::now());
        }
        &self.known
    }

    /// Whether an address belongs to a neighbour.
    pub(crate) fn in_lan(&mut self, ip: IpAddr) -> bool {
        !ip.is_loopback() && self.list().iter().any(|interface| interface.lan && interface.contains(ip))
    }

    /// Whether an own address is worth telling: not the containers' side of the node.
    pub(crate) fn is_inner(&mut self, ip: IpAddr) -> bool {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let list = self.list();
        let within = |lan: bool| list.iter().any(|interface| interface.lan == lan && interface.contains(ip));
        link_local || (!ip.is_loopback() && within(false) && !within(true))
    }
}

/// Reads `/proc`, which needs no privilege and shows the network namespace of the process.
pub(crate) fn read(skip: &[String]) -> Vec<Interface> {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    parse(&file("/proc/net/route"), &file("/proc/net/if_inet6"), &file("/proc/net/igmp"), skip)
}

fn parse(routes: &str, inet6: &str, igmp: &str, skip: &[String]) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    let v4 = routes.lines().skip(1).filter_map(connected_route);
    let v6 = inet6.lines().filter_map(inet6_address);
    for (name, subnet) in v4.chain(v6) {
        match found.iter_mut().find(|interface| interface.name == name) {
            Some(interface) => interface.subnets.push(subnet),
            None => {
                let inner = NO_LAN.iter().any(|prefix| name.starts_with(prefix))
                    || skip.iter().any(|prefix| !prefix.is_empty() && name.starts_with(prefix.as_str()));
                let index = index_of(name, inet6, igmp);
                found.push(Interface { name: name.to_owned(), index, subnets: vec![subnet], lan: !inner });
            }
        }
    }
    found
}

/// `/proc/net/igmp` names every interface with IPv4 after its index, `/proc/net/if_inet6` every one with IPv6.
fn index_of(name: &str, inet6: &str, igmp: &str) -> u32 {
    let v4 = igmp.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let index = fields.next()?.parse().ok()?;
        (fields.next()? == name).then_some(index)
    });
    let v6 = || {
        inet6.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(5) == Some(&name)).then(|| u32::from_str_radix(fields.get(1)?, 16).ok())?
        })
    };
    v4.or_else(v6).unwrap_or(0)
}

/// A line of `/proc/net/route` that is a subnet on a link: no gateway, and a mask.
fn connected_route(line: &str) -> Option<(&str, IpNet)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |field: usize| {
        // The kernel prints the address as it lies in memory.
        Some(Ipv4Addr::from(u32::from_str_radix(fields.get(field)?, 16).ok()?.to_ne_bytes()))
    };
    let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    if !gateway.is_unspecified() || mask.is_unspecified() {
        return None;
    }
    Some((fields.first()?, Ipv4Net::with_netmask(destination, mask).ok()?.into()))
}

/// A line of `/proc/net/if_inet6`: address, index, prefix length, scope, flags, name.
fn inet6_address(line: &str) -> Option<(&str, IpNet)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let length = u8::from_str_radix(fields.get(2)?, 16).ok()?;
    Some((fields.get(5)?, Ipv6Net::new(address, length).ok()?.trunc().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_files_of_the_kernel() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            wlan7\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fd000000000000000000000000000005 02 40 00 80     eth0\n";
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            3\tdocker0   :     1      V3\n";
        let list = parse(routes, inet6, igmp, &["wlan".to_owned()]);
        let shown: Vec<String> = list
            .iter()
            .map(|interface| {
                format!("{} {} {:?} {}", interface.index, interface.name, interface.subnets, interface.lan)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "2 eth0 [192.168.1.0/24, fd00::/64] true",
                "3 docker0 [172.17.0.0/16] false",
                "0 wlan7 [10.0.0.0/8] false",
                "1 lo [::1/128] false",
            ]
        );
    }
}
