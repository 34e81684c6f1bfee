use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// `IP`, `IP:PORT` or `[IPv6]:PORT`.
pub(crate) fn socket_addr(text: &str, port: u16) -> Option<SocketAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_) => text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0),
    }
}

/// A CIDR block, or one address as the block of itself.
pub(crate) fn net(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The items of a list that Go EdgeMesh writes as one text; empty where everything is meant.
pub(crate) fn comma_list(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty() && *item != "*").collect()
}

/// The address of a relay with its port, or `None` when it is no address of a relay.
pub(crate) fn relay(text: &str, port: u16) -> Option<String> {
    let text = text.trim();
    if text.starts_with('/') {
        return is_multiaddr(text).then(|| text.to_owned());
    }
    let (address, identity) = match text.split_once("/p2p/") {
        Some((_, "")) => return None,
        Some((address, identity)) => (address, format!("/p2p/{identity}")),
        None => (text, String::new()),
    };
    if let Some(address) = socket_addr(address, port) {
        return Some(format!("{address}{identity}"));
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (address, port),
    };
    is_host_name(host).then(|| format!("{host}:{port}{identity}"))
}

/// The IP address and port of a relay address, if it has them.
pub(crate) fn relay_socket(text: &str) -> Option<SocketAddr> {
    if let Some(rest) = text.strip_prefix('/') {
        let mut parts = rest.split('/');
        let (_, ip, _, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        return Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
    }
    text.split("/p2p/").next()?.parse().ok()
}

fn is_multiaddr(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').skip(1).collect();
    let (host, rest) = match parts.as_slice() {
        ["ip4", ip, rest @ ..] => (ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()), rest),
        ["ip6", ip, rest @ ..] => (ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()), rest),
        ["dns" | "dns4" | "dns6", name, rest @ ..] => (is_host_name(name), rest),
        _ => return false,
    };
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port != 0);
    host && match rest {
        ["tcp", number] => port(number),
        ["tcp", number, "p2p", identity] => port(number) && !identity.is_empty(),
        _ => false,
    }
}

/// A host name (RFC 1123). One whose last label is a number is a mistyped IPv4 address.
fn is_host_name(text: &str) -> bool {
    is_dns_name(text) && !text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

/// A DNS name (RFC 1035): labels of 1 to 63 letters, digits and hyphens, 253 in all.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The link-local IPv6 address with the same number as an IPv4 address: 169.254.96.16 is fe80::a9fe:6010.
pub(crate) fn link_local(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V4(v4) = ip else { return None };
    let [a, b, c, d] = v4.octets();
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Some(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, pair(a, b), pair(c, d))))
}
