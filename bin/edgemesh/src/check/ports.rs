//! Sockets of others at the ports that an agent with default settings wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::Taken;
use crate::settings::{DEFAULT_DNS_V4, DEFAULT_DNS_V6, DEFAULT_PROXY_PORT, DEFAULT_TUNNEL_PORT};

/// States of net/tcp_states.h in which a socket holds its port for itself: a TCP listener, an unconnected UDP socket.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// A socket that holds a port, as proc(5) shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) protocol: &'static str,
    pub(super) address: SocketAddr,
    pub(super) inode: u64,
}

/// The sockets in the agent's way.
pub(super) fn taken() -> Vec<Taken> {
    let mut taken = Vec::new();
    for (file, protocol, state) in [
        ("tcp", "tcp", TCP_LISTEN),
        ("tcp6", "tcp", TCP_LISTEN),
        ("udp", "udp", UDP_UNCONNECTED),
        ("udp6", "udp", UDP_UNCONNECTED),
    ] {
        let text = std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        for held in text.lines().skip(1).filter_map(|line| parse(line, protocol, state)) {
            let Some(purpose) = purpose(&held.address) else { continue };
            let socket = format!("{protocol} {}", held.address);
            taken.push(Taken { socket, purpose, owner: owner(held.inode) });
        }
    }
    taken
}

/// What the agent wants an address for. The proxy listens on loopback, DNS at addresses of its own, the tunnel everywhere.
pub(super) fn purpose(address: &SocketAddr) -> Option<&'static str> {
    let ip = address.ip();
    let at = |wanted: &[&str]| {
        ip.is_unspecified() || wanted.iter().any(|it| it.parse::<IpAddr>().is_ok_and(|it| it == ip))
    };
    match address.port() {
        DEFAULT_PROXY_PORT if at(&["127.0.0.1", "::1"]) => Some("its proxy"),
        53 if at(&[DEFAULT_DNS_V4, DEFAULT_DNS_V6]) => Some("its DNS server"),
        DEFAULT_TUNNEL_PORT => Some("its tunnel"),
        _ => None,
    }
}

/// `  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode …`
pub(super) fn parse(line: &str, protocol: &'static str, state: &str) -> Option<Held> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, inode) = (*fields.get(1)?, fields.get(9)?.parse().ok()?);
    if *fields.get(3)? != state {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each 32-bit word is printed as the number that it is to this host.
    let words =
        (0..ip.len() / 8).map(|number| u32::from_str_radix(ip.get(number * 8..number * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(Held { protocol, address: SocketAddr::new(ip, port), inode })
}

/// Name and number of the process that has the socket, where it may be seen.
fn owner(inode: u64) -> Option<String> {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let has = |folder: std::fs::ReadDir| {
            folder.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == wanted))
        };
        if std::fs::read_dir(process.path().join("fd")).is_ok_and(has) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().display()));
        }
    }
    None
}
