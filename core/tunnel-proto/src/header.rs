//! What opens a stream: the header that names the backend, its answer, and the framing of datagrams.

use std::net::{IpAddr, SocketAddr};

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::ServiceId;
use edgemesh_route::{DialError, RejectReason};
use thiserror::Error;

use crate::wire::{Reader, kubernetes_name};

/// The libp2p protocol of streams to a backend.
pub const CARRIER_PROTOCOL: &str = "/edgemesh/carrier/1.0.0";

/// An upper bound a reader may allocate for; the longest valid header is far below it, so that fields can be added.
pub const MAX_HEADER: usize = 1024;

/// The largest UDP payload over IPv4: 65535 less 20 bytes of IP and 8 of UDP header (RFC 768, RFC 791).
pub const MAX_DATAGRAM: usize = 65_507;

/// Distinguishes a header from text or TLS sent to the wrong place.
const MAGIC: u8 = 0xe5;
const VERSION: u8 = 1;
/// With a namespace at the end. A header without one is still written as version 1, which every agent reads.
const VERSION_NAMESPACE: u8 = 2;

/// Kubernetes namespaces and Service names are DNS labels (RFC 1123).
const MAX_NAME: usize = 63;

/// Asks the peer for a stream to a backend on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Transport of the backend.
    pub protocol: Protocol,
    /// The backend.
    pub backend: SocketAddr,
    /// The Service the backend was picked for.
    pub service: ServiceId,
    /// The client's namespace. The peer's word, and worth what the peer's node is; told only to who asks for it.
    pub namespace: Option<Name>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Another protocol speaks here.
    #[error("not a stream header")]
    Magic,
    /// A newer agent speaks here.
    #[error("unknown version of the stream header")]
    Version,
    /// The transport is neither TCP nor UDP.
    #[error("unknown transport in the stream header")]
    Protocol,
    /// The address family is neither IPv4 nor IPv6.
    #[error("unknown address family in the stream header")]
    Family,
    /// A name is too long or no Kubernetes name.
    #[error("malformed name in the stream header")]
    Name,
    /// A datagram is longer than UDP can carry.
    #[error("datagram longer than UDP can carry")]
    Datagram,
}

impl HeaderError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Family => "family",
            Self::Name => "name",
            Self::Datagram => "datagram",
        }
    }
}

impl StreamHeader {
    /// The bytes on the wire, or why a field cannot be sent.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let protocol = match self.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp => return Err(HeaderError::Protocol),
        };
        let version = if self.namespace.is_none() { VERSION } else { VERSION_NAMESPACE };
        let mut out = vec![MAGIC, version, protocol];
        match self.backend.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.backend.port().to_be_bytes());
        for name in [Some(&self.service.namespace), Some(&self.service.name), self.namespace.as_ref()]
            .into_iter()
            .flatten()
        {
            if kubernetes_name(name.as_bytes()).is_none() || name.len() > MAX_NAME {
                return Err(HeaderError::Name);
            }
            crate::wire::put_short(&mut out, name.as_bytes());
        }
        Ok(out)
    }

    /// Reads a header from the beginning of `bytes` and says how many bytes it took; `None` asks for more bytes.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        let mut reader = Reader::new(bytes);
        macro_rules! more {
            ($read:expr) => {
                match $read {
                    Some(value) => value,
                    None => return Ok(None),
                }
            };
        }
        if more!(reader.u8()) != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = more!(reader.u8());
        if !matches!(version, VERSION | VERSION_NAMESPACE) {
            return Err(HeaderError::Version);
        }
        let protocol = match more!(reader.u8()) {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => return Err(HeaderError::Protocol),
        };
        let ip = match more!(reader.u8()) {
            4 => IpAddr::from(more!(reader.array::<4>())),
            6 => IpAddr::from(more!(reader.array::<16>())),
            _ => return Err(HeaderError::Family),
        };
        let port = more!(reader.u16());
        let mut names: [Name; 3] = [Name::from(""), Name::from(""), Name::from("")];
        let told = if version == VERSION_NAMESPACE { 3 } else { 2 };
        for slot in names.iter_mut().take(told) {
            let len = usize::from(more!(reader.u8()));
            if len > MAX_NAME {
                return Err(HeaderError::Name);
            }
            *slot = kubernetes_name(more!(reader.bytes(len))).ok_or(HeaderError::Name)?.into();
        }
        let [namespace, name, client] = names;
        let header = Self {
            protocol,
            backend: SocketAddr::new(ip, port),
            service: ServiceId::new(namespace, name),
            namespace: Some(client).filter(|client| !client.is_empty()),
        };
        Ok(Some((header, reader.taken())))
    }
}

/// The one byte that answers a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The backend is connected; what follows are its bytes.
    Accepted,
    /// Policy of the asked node.
    NotAdmitted(RejectReason),
    /// The asked node could not connect the backend.
    Dial(DialError),
}

/// Codes are part of the protocol: never reuse one.
const ANSWERS: [(u8, Answer); 19] = [
    (0, Answer::Accepted),
    (1, Answer::NotAdmitted(RejectReason::UnknownFrontend)),
    (2, Answer::NotAdmitted(RejectReason::NoEndpoints)),
    (3, Answer::NotAdmitted(RejectReason::NoLocalEndpoints)),
    (4, Answer::NotAdmitted(RejectReason::NotAnEndpoint)),
    (5, Answer::NotAdmitted(RejectReason::UnsupportedProtocol)),
    (6, Answer::NotAdmitted(RejectReason::Overloaded)),
    (7, Answer::NotAdmitted(RejectReason::SourceNotAllowed)),
    (8, Answer::NotAdmitted(RejectReason::NotAllowed)),
    (9, Answer::NotAdmitted(RejectReason::PeerNotProven)),
    (16, Answer::Dial(DialError::Refused)),
    (17, Answer::Dial(DialError::Timeout)),
    (18, Answer::Dial(DialError::Unreachable)),
    (19, Answer::Dial(DialError::PeerUnknown)),
    (20, Answer::Dial(DialError::NoPath)),
    (21, Answer::Dial(DialError::RelayFull)),
    (22, Answer::Dial(DialError::NotAdmitted)),
    (23, Answer::Dial(DialError::Overloaded)),
    (24, Answer::Dial(DialError::Broken)),
];

impl Answer {
    /// The byte on the wire. A reason without a code is told as a broken stream.
    pub fn encode(self) -> u8 {
        ANSWERS.iter().find(|(_, answer)| *answer == self).map_or(24, |(code, _)| *code)
    }

    /// Reads the byte; one a newer agent may send reads as a broken stream.
    pub fn decode(byte: u8) -> Self {
        ANSWERS
            .iter()
            .find(|(code, _)| *code == byte)
            .map_or(Self::Dial(DialError::Broken), |(_, answer)| *answer)
    }

    /// What the asking side's proxy is told.
    pub fn into_result(self) -> Result<(), DialError> {
        match self {
            Self::Accepted => Ok(()),
            Self::NotAdmitted(RejectReason::Overloaded) => Err(DialError::Overloaded),
            Self::NotAdmitted(_) => Err(DialError::NotAdmitted),
            Self::Dial(error) => Err(error),
        }
    }
}

/// The two bytes before a datagram of `len` bytes; `None` when UDP cannot carry it.
pub fn datagram_prefix(len: usize) -> Option<[u8; 2]> {
    if len > MAX_DATAGRAM {
        return None;
    }
    u16::try_from(len).ok().map(u16::to_be_bytes)
}

/// Splits the first datagram off `bytes`: its payload and how many bytes it took; `None` asks for more bytes.
pub fn split_datagram(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, HeaderError> {
    let mut reader = Reader::new(bytes);
    let Some(len) = reader.u16() else { return Ok(None) };
    if usize::from(len) > MAX_DATAGRAM {
        return Err(HeaderError::Datagram);
    }
    Ok(reader.bytes(usize::from(len)).map(|payload| (payload, reader.taken())))
}
