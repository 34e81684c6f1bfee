//! Between libp2p's identities and addresses and the state's text.

use std::net::{IpAddr, SocketAddr};

use edgemesh_tunnel_proto as proto;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

pub(crate) fn peer_text(peer: &PeerId) -> proto::PeerId {
    proto::PeerId::new(peer.to_base58())
}

pub(crate) fn peer_from(text: &proto::PeerId) -> Option<PeerId> {
    text.as_str().parse().ok()
}

pub(crate) fn address_text(address: &Multiaddr) -> proto::Address {
    proto::Address::new(address.to_string())
}

pub(crate) fn tcp_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The address without the identity at its end.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay of a circuit address.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut peer = None;
    for part in address.iter() {
        match part {
            Protocol::P2p(id) => peer = Some(id),
            Protocol::P2pCircuit => return peer,
            _ => {}
        }
    }
    None
}

/// The address and port of a TCP address.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    match address.iter().nth(1)? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip_of(address)?, port)),
        _ => None,
    }
}

/// The IP address at the beginning.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)),
        _ => None,
    }
}
