use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use edgemesh_api::Name;
use edgemesh_tunnel_proto::IdentityPolicy;
use edgemesh_tunnel_proto::circuit::CircuitLimits;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;

use crate::identity::IdentityError;
use crate::key::KeyError;
use crate::transport::MAX_STREAMS;

/// The port of the tunnel, as Go EdgeMesh uses it.
pub(crate) const DEFAULT_PORT: u16 = 20006;

/// Streams this node opens to one peer. With as many from there, yamux keeps a little room for libp2p's own.
pub(crate) const MAX_STREAMS_PER_PEER: u32 = MAX_STREAMS as u32 / 2 - 128;

/// Streams a peer may open to this node: more than it opens by itself, as the end of a stream is seen later here than
/// there.
const MAX_INBOUND_PER_PEER: u32 = MAX_STREAMS as u32 / 2;

/// What the tunnel needs to start.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// The own node's name; a relay or gateway may have none.
    pub node: Option<Name>,
    /// The zone of the own node.
    pub zone: Option<Name>,
    /// The node's Ed25519 key; made at the first start.
    pub key_file: PathBuf,
    /// The private network's key, 32 bytes as hex, base64 or in the `swarm.key` format.
    pub psk_file: PathBuf,
    /// Where to listen; `[::]:P` listens on both families.
    pub listen: Vec<SocketAddr>,
    /// The relays to use.
    pub relays: Vec<RelayAddress>,
    /// Serve as a relay.
    pub relay: bool,
    /// Addresses at which others reach this node, besides those it listens on.
    pub advertise: Vec<SocketAddr>,
    /// Dial from a port that is listened on too, so that holes can be punched through NATs.
    pub punch: bool,
    /// Find peers in the LAN.
    pub mdns: bool,
    /// Speak with agents of Go EdgeMesh as well. The private network's key is then made from its file as they make
    /// it, so every agent of the mesh must have it alike.
    pub go_peers: bool,
    /// Further interfaces, by the beginning of their names, that are no LAN.
    pub skip_interfaces: Vec<String>,
    /// Whose claims of node names are believed.
    pub identity: IdentitySettings,
    /// Bounds.
    pub limits: TunnelLimits,
}

/// How peers prove their nodes' names.
#[derive(Clone, Debug, Default)]
pub struct IdentitySettings {
    /// The policy; without one it is `require` where an authority is known, and `prefer` elsewhere.
    pub policy: Option<IdentityPolicy>,
    /// Public keys of the mesh's authorities; a file that is missing has none.
    pub authority_file: Option<PathBuf>,
    /// The authority's own key: with it this node pins the tokens of those who join to their keys.
    pub authority_key_file: Option<PathBuf>,
}

impl TunnelSettings {
    /// Settings with every default but the two files.
    pub fn new(node: Option<Name>, key_file: impl Into<PathBuf>, psk_file: impl Into<PathBuf>) -> Self {
        Self {
            node,
            zone: None,
            key_file: key_file.into(),
            psk_file: psk_file.into(),
            listen: vec![SocketAddr::new(IpAddr::from([0u16; 8]), DEFAULT_PORT)],
            relays: Vec::new(),
            relay: false,
            advertise: Vec::new(),
            punch: true,
            mdns: true,
            go_peers: false,
            skip_interfaces: Vec::new(),
            identity: IdentitySettings::default(),
            limits: TunnelLimits::default(),
        }
    }
}

/// Bounds of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Streams that peers may have open to this node. Idle ones cost about 4 KiB each; the copy buffers of busy ones are
    /// shared by a thread's streams.
    pub inbound_streams: u32,
    /// Streams that one peer may have open to this node, and this node to one peer. yamux ends a connection with more
    /// than 4096 in both directions together; past the bound a new UDP session takes the place of the one that was
    /// idle longest, so that datagrams go on (kubeedge/edgemesh#567).
    pub inbound_streams_per_peer: u32,
    /// Connections in all. A relay keeps one for every node of the cluster.
    pub connections: u32,
    /// Reservations and circuits a relay grants; one reservation for every node of the largest cluster.
    pub relay_circuits: usize,
    /// Circuits a relay grants one peer.
    pub relay_circuits_per_peer: usize,
}

impl TunnelLimits {
    /// What a relay grants of circuits that are not libp2p's.
    pub(crate) fn circuits(&self) -> CircuitLimits {
        CircuitLimits::of(self.relay_circuits, self.relay_circuits_per_peer)
    }
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            inbound_streams: 8192,
            inbound_streams_per_peer: MAX_INBOUND_PER_PEER,
            connections: 8192,
            relay_circuits: 4096,
            relay_circuits_per_peer: 256,
        }
    }
}

/// A relay of the configuration: a multiaddr, or `host:port`, either with an optional `/p2p/<identity>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// The host, an address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The identity, when it is known beforehand.
    pub peer: Option<PeerId>,
}

/// Why text is no relay address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RelayAddressError {
    /// Neither a multiaddr nor `host:port`.
    #[error("relay address {0:?} is neither a multiaddr nor host:port, such as relay.example.org:20006")]
    Malformed(String),
    /// A multiaddr of something else than TCP.
    #[error("relay address {0:?} is not TCP, such as /ip4/192.0.2.1/tcp/20006")]
    NotTcp(String),
    /// The identity after `/p2p/` is none.
    #[error("relay address {0:?} has a malformed identity after /p2p/")]
    Identity(String),
}

impl RelayAddress {
    /// The address as a multiaddr without identity, when no name must be looked up.
    pub(crate) fn multiaddr(&self) -> Option<Multiaddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(crate::text::tcp_multiaddr(SocketAddr::new(ip, self.port)))
    }

    /// What the state calls it: the multiaddr, or `host:port`.
    pub(crate) fn name(&self) -> String {
        self.multiaddr().map_or_else(|| format!("{}:{}", self.host, self.port), |address| address.to_string())
    }
}

impl FromStr for RelayAddress {
    type Err = RelayAddressError;

    fn from_str(text: &str) -> Result<Self, RelayAddressError> {
        let text = text.trim();
        if text.starts_with('/') {
            return from_multiaddr(text);
        }
        let (address, peer) = match text.split_once("/p2p/") {
            Some((address, id)) => {
                let id = id.parse().map_err(|_| RelayAddressError::Identity(text.to_owned()))?;
                (address, Some(id))
            }
            None => (text, None),
        };
        if let Ok(address) = address.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port(), peer });
        }
        if let Ok(ip) = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: DEFAULT_PORT, peer });
        }
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => {
                (host, port.parse().map_err(|_| RelayAddressError::Malformed(text.to_owned()))?)
            }
            None => (address, DEFAULT_PORT),
        };
        let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if host.is_empty() || host.len() > 253 || !host.bytes().all(name) {
            return Err(RelayAddressError::Malformed(text.to_owned()));
        }
        Ok(Self { host: host.to_owned(), port, peer })
    }
}

fn from_multiaddr(text: &str) -> Result<RelayAddress, RelayAddressError> {
    let address: Multiaddr = text.parse().map_err(|_| RelayAddressError::Malformed(text.to_owned()))?;
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.to_string(),
        Some(Protocol::Ip6(ip)) => ip.to_string(),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => name.into_owned(),
        _ => return Err(RelayAddressError::NotTcp(text.to_owned())),
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return Err(RelayAddressError::NotTcp(text.to_owned()));
    };
    match (parts.next(), parts.next()) {
        (None, _) => Ok(RelayAddress { host, port, peer: None }),
        (Some(Protocol::P2p(peer)), None) => Ok(RelayAddress { host, port, peer: Some(peer) }),
        _ => Err(RelayAddressError::NotTcp(text.to_owned())),
    }
}

/// Why the tunnel did not start.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// The node's key or the private network's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A join token, or the authorities' keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A listen address cannot be bound.
    #[error("the tunnel cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The handshake could not be set up from the key.
    #[error("the tunnel's transport cannot be built: {0}")]
    Transport(String),
}
