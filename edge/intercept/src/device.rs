use std::net::IpAddr;

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::rt::{Handle, Link, LinkKind, Prefix};
use edgemesh_ruleset::{DEVICE_MAC, Device};

use crate::InterceptError;

/// The device of a name, if it is ours; an error if it is somebody else's.
pub(crate) fn find(rt: &mut Handle, name: &str) -> Result<Option<Link>, InterceptError> {
    let Some(link) = rt.link(name)? else { return Ok(None) };
    if link.mac == Some(DEVICE_MAC) {
        return Ok(Some(link));
    }
    let reason =
        format!("a {} without our hardware address", link.kind.as_deref().unwrap_or("hardware device"));
    Err(InterceptError::DeviceTaken { name: name.to_owned(), reason })
}

/// Makes the device what it should be, whatever a predecessor left. Returns whether anything had to be done, and
/// whether IPv6 is there.
pub(crate) fn ensure(rt: &mut Handle, device: &Device) -> Result<Ensured, InterceptError> {
    let mut made = false;
    let mut changed = false;
    let adopted = adopt(rt, device)?;
    changed |= adopted;
    let link = match find(rt, &device.name)? {
        Some(link) => link,
        None => {
            create(rt, &device.name)?;
            (made, changed) = (true, true);
            find(rt, &device.name)?.ok_or_else(|| {
                InterceptError::NotAsWritten(format!("device {} is gone after it was made", device.name))
            })?
        }
    };
    if !link.is_up() {
        rt.set_up(link.index, true)?;
        changed = true;
    }
    let (addresses, ipv6) = ensure_addresses(rt, link.index, device)?;
    Ok(Ensured { made, changed: changed || addresses, ipv6 })
}

/// Makes the device that Go EdgeMesh leaves behind ours: a bridge of this name without ports that has our address and
/// no other (`commonConfig.bridgeDeviceIP`; Go EdgeMesh pkg/util creates it and never removes it). Nothing but a mesh
/// agent makes such a device, and a node that moves from one to the other has it.
fn adopt(rt: &mut Handle, device: &Device) -> Result<bool, InterceptError> {
    let Some(link) = rt.link(&device.name)? else { return Ok(false) };
    if link.mac == Some(DEVICE_MAC) || link.kind.as_deref() != Some("bridge") {
        return Ok(false);
    }
    let ports = rt.links()?.iter().any(|port| port.master == Some(link.index));
    let own: Vec<IpAddr> = rt
        .addresses()?
        .into_iter()
        .filter(|address| address.link == link.index)
        .map(|address| address.prefix.addr)
        // The kernel gives every device that is up one of these.
        .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
        .collect();
    let ours = |ip: &IpAddr| device.addresses.iter().any(|address| address.addr == *ip);
    if ports || own.is_empty() || !own.iter().all(ours) {
        return Ok(false);
    }
    tracing::info!(device = device.name, "the device of another mesh agent is taken over");
    rt.set_mac(link.index, DEVICE_MAC)?;
    Ok(true)
}

/// What [`ensure`] found and did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ensured {
    /// The device was not there.
    pub(crate) made: bool,
    /// Something had to be done.
    pub(crate) changed: bool,
    /// The host has IPv6.
    pub(crate) ipv6: bool,
}

/// A bridge without ports is the one device that every kernel with container networks has; some have no dummy.
fn create(rt: &mut Handle, name: &str) -> Result<(), NetlinkError> {
    match rt.add_link_with_mac(name, LinkKind::Bridge, DEVICE_MAC) {
        Err(error) if error.is_unsupported() => rt.add_link_with_mac(name, LinkKind::Dummy, DEVICE_MAC),
        result => result,
    }
}

fn ensure_addresses(rt: &mut Handle, link: u32, device: &Device) -> Result<(bool, bool), NetlinkError> {
    let present: Vec<Prefix> = rt
        .addresses()?
        .into_iter()
        .filter(|address| address.link == link)
        .map(|address| address.prefix)
        .collect();
    // An address that the host has elsewhere is there already: DNS may listen on the node's own.
    let elsewhere: Vec<IpAddr> = host_addresses(rt, device)?.collect();
    let wanted: Vec<Prefix> = device
        .addresses
        .iter()
        .filter(|address| !elsewhere.contains(&address.addr))
        .map(|address| Prefix::new(address.addr, address.prefix_len))
        .collect();
    let mut changed = false;
    let mut ipv6 = true;
    for prefix in wanted.iter().filter(|prefix| !present.contains(prefix)) {
        // Duplicate detection would wait for answers on a device that has no peers.
        match rt.add_address(link, *prefix, prefix.addr.is_ipv6()) {
            Ok(()) => changed = true,
            Err(error) if error.is_exists() => {}
            Err(error) if prefix.addr.is_ipv6() && error.is_switched_off() => ipv6 = false,
            Err(error) => return Err(error),
        }
    }
    for prefix in present.iter().filter(|prefix| !wanted.contains(prefix)) {
        match rt.delete_address(link, *prefix) {
            Ok(()) => changed = true,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((changed, ipv6))
}

/// Addresses that the host has on any other device.
pub(crate) fn host_addresses(
    rt: &mut Handle,
    device: &Device,
) -> Result<impl Iterator<Item = IpAddr> + use<>, NetlinkError> {
    let own = rt.link(&device.name)?.map(|link| link.index);
    let addresses = rt.addresses()?.into_iter().filter(move |address| Some(address.link) != own);
    Ok(addresses.map(|address| address.prefix.addr))
}
