//! Which addresses the file selects.

use std::collections::BTreeSet;
use std::net::IpAddr;

use edgemesh_config::GatewaySettings;
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::rt::Handle;

use crate::agent::is_link_local;

/// Addresses of the node that `nic`, `includeIP` and `excludeIP` leave, in order.
pub(super) fn addresses(settings: &GatewaySettings) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut kernel = Handle::open()?;
    let links = kernel.links()?;
    let name_of = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    let all = kernel.addresses()?;
    let all = all.iter().filter_map(|address| Some((name_of(address.link)?, address.prefix.addr)));
    Ok(select(settings, all))
}

/// Link-local addresses are never among them: they say nothing without their interface.
fn select<'a>(
    settings: &GatewaySettings,
    addresses: impl Iterator<Item = (&'a str, IpAddr)>,
) -> BTreeSet<IpAddr> {
    let GatewaySettings { nics, include, exclude } = settings;
    addresses
        .filter(|(nic, _)| nics.is_empty() || nics.iter().any(|known| known == nic))
        .map(|(_, ip)| ip)
        .filter(|ip| !is_link_local(*ip))
        .filter(|ip| include.is_empty() || include.iter().any(|net| net.contains(ip)))
        .filter(|ip| !exclude.iter().any(|net| net.contains(ip)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(nics: &[&str], include: &[&str], exclude: &[&str], expected: &[&str]) {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a net")).collect();
        let settings = GatewaySettings {
            nics: nics.iter().map(|nic| (*nic).to_owned()).collect(),
            include: nets(include),
            exclude: nets(exclude),
        };
        let node = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "192.0.2.1"),
            ("eth0", "2001:db8::1"),
            ("eth0", "fe80::1"),
            ("eth1", "10.0.0.1"),
        ];
        let node = node.map(|(nic, ip)| (nic, ip.parse().expect("an address")));
        let selected: Vec<String> =
            select(&settings, node.into_iter()).iter().map(ToString::to_string).collect();
        assert_eq!(selected, expected, "{nics:?} {include:?} {exclude:?}");
    }

    #[test]
    fn interfaces_and_nets_select_addresses_of_both_families() {
        check(&[], &[], &[], &["10.0.0.1", "127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]);
        check(&["eth0"], &[], &[], &["192.0.2.1", "2001:db8::1"]);
        check(&[], &["10.0.0.0/8", "2001:db8::1/128"], &[], &["10.0.0.1", "2001:db8::1"]);
        check(&["eth0", "eth1"], &[], &["192.0.2.0/24", "2001:db8::/32"], &["10.0.0.1"]);
        check(&["lo"], &["192.0.2.1/32"], &[], &[]);
    }
}
