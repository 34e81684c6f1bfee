use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address of an object is not used. The ranges are those the Kubernetes API server refuses in endpoints
/// (`ValidateEndpointIP`), and the ways to write the same addresses in IPv6: nobody who may write objects shall
/// reach the loopback or the metadata service of another machine through the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    Malformed,
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    Broadcast,
    Embedded,
}

impl AddressError {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "is no IP address",
            Self::Unspecified => "is unspecified (0.0.0.0/8, ::)",
            Self::Loopback => "is a loopback address",
            Self::LinkLocal => "is a link-local address",
            Self::Multicast => "is a multicast address",
            Self::Broadcast => "is a broadcast address",
            Self::Embedded => "embeds an IPv4 address",
        }
    }
}

/// Reads an address that traffic may be sent to.
pub(crate) fn routable(text: &str) -> Result<IpAddr, AddressError> {
    let ip = text.parse().map_err(|_| AddressError::Malformed)?;
    match ip {
        IpAddr::V4(v4) => check_v4(v4)?,
        IpAddr::V6(v6) => check_v6(v6)?,
    }
    Ok(ip)
}

fn check_v4(ip: Ipv4Addr) -> Result<(), AddressError> {
    if ip.octets()[0] == 0 {
        // RFC 1122 section 3.2.1.3: "this host on this network"; Linux connects 0.0.0.0 to the loopback.
        Err(AddressError::Unspecified)
    } else if ip.is_loopback() {
        Err(AddressError::Loopback)
    } else if ip.is_link_local() {
        Err(AddressError::LinkLocal)
    } else if ip.is_multicast() {
        Err(AddressError::Multicast)
    } else if ip.is_broadcast() {
        Err(AddressError::Broadcast)
    } else {
        Ok(())
    }
}

fn check_v6(ip: Ipv6Addr) -> Result<(), AddressError> {
    if ip.is_unspecified() {
        Err(AddressError::Unspecified)
    } else if ip.is_loopback() {
        Err(AddressError::Loopback)
    } else if ip.is_unicast_link_local() {
        Err(AddressError::LinkLocal)
    } else if ip.is_multicast() {
        Err(AddressError::Multicast)
    } else if ip.to_ipv4().is_some() || ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // RFC 4291 section 2.5.5 and RFC 6052 section 2.1: a translator would turn these into any of the above.
        Err(AddressError::Embedded)
    } else {
        Ok(())
    }
}
