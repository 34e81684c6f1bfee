//! The signed word of a peer about itself.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use edgemesh_api::Name;
use thiserror::Error;

use crate::claim::Proof;
use crate::wire::{Reader, kubernetes_name, plain_text, put_short};

/// The longest encoded record; with every field at its bound it stays below, and 4096 of them fit in 8 MiB.
pub const MAX_RECORD: usize = 2048;

/// Prefixed to a record's bytes before signing, so that no other signature of the key can pass for one.
pub const SIGNING_DOMAIN: &[u8] = b"edgemesh peer record 1\0";

/// A node has a handful of addresses; two families on eight interfaces.
const MAX_ADDRESSES: usize = 16;
/// More relays than this help nobody.
const MAX_RELAYS: usize = 8;
/// An IPv6 circuit address with two peer identities is 180 bytes.
const MAX_ADDRESS: usize = 255;
/// Node names are DNS subdomains (RFC 1123).
pub(crate) const MAX_NODE: usize = 253;
/// Label values (zones) have 63 bytes at most.
const MAX_LABEL: usize = 63;
/// base58 of the longest identity multihash in use (SHA-256 of an RSA key) has 46 characters, Ed25519 has 52.
pub(crate) const MAX_PEER: usize = 64;
const VERSION: u8 = 1;
/// With a [`Proof`] behind the addresses. A record without one is still written as version 1, which every agent reads.
const VERSION_PROOF: u8 = 2;

/// A libp2p peer identity as text (base58).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub Name);

impl PeerId {
    /// From text; nothing is checked here, the edge only makes them from real identities.
    pub fn new(text: impl Into<Name>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = plain_text(bytes)?;
        (!text.is_empty() && text.len() <= MAX_PEER && text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
            .then(|| Self(text.into()))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A multiaddr as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub Name);

impl Address {
    /// From text.
    pub fn new(text: impl Into<Name>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The IP address it begins with.
    pub fn ip(&self) -> Option<IpAddr> {
        let mut parts = self.0.split('/').skip(1);
        match parts.next()? {
            "ip4" => parts.next()?.parse().ok().map(IpAddr::V4),
            "ip6" => parts.next()?.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// The node it speaks for; relays and gateways may speak for none.
    pub node: Option<Name>,
    /// Its identity.
    pub peer: PeerId,
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// Relays that hold a reservation for it, each as `<address>/p2p/<relay>`.
    pub relays: Vec<Address>,
    /// The zone (LAN) of its node.
    pub zone: Option<Name>,
    /// Grows with every record of the peer.
    pub sequence: u64,
    /// Version of its software.
    pub version: Name,
    /// What proves that it may speak for the node.
    pub proof: Proof,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Longer than [`MAX_RECORD`].
    #[error("peer record is too long")]
    TooLong,
    /// Ends too early, or has bytes after its end.
    #[error("peer record has the wrong length")]
    Length,
    /// A newer agent wrote it.
    #[error("unknown version of the peer record")]
    Version,
    /// A field breaks its bound.
    #[error("malformed field in the peer record")]
    Field,
    /// The key, the identity and the signature do not belong together.
    #[error("the peer record's signature does not verify")]
    Signature,
}

impl RecordError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Length => "length",
            Self::Version => "version",
            Self::Field => "field",
            Self::Signature => "signature",
        }
    }
}

impl PeerRecord {
    /// The canonical bytes: fields in fixed order, each behind its length. Addresses beyond the bounds are left out.
    pub fn encode(&self) -> Result<Bytes, RecordError> {
        let mut proof = Vec::new();
        let version = if self.proof.is_empty() { VERSION } else { VERSION_PROOF };
        if version == VERSION_PROOF {
            self.proof.encode(&mut proof).ok_or(RecordError::Field)?;
        }
        let mut out = vec![version];
        out.extend_from_slice(&self.sequence.to_be_bytes());
        let mut fits = put_short(&mut out, self.peer.as_str().as_bytes());
        for text in [self.node.as_deref().unwrap_or(""), self.zone.as_deref().unwrap_or(""), &self.version] {
            fits &= put_short(&mut out, text.as_bytes());
        }
        if !fits {
            return Err(RecordError::Field);
        }
        // The relays' half of what is left, at least, whatever else listens: without one a peer may be out of reach.
        let room = MAX_RECORD.saturating_sub(out.len() + proof.len() + 2);
        for (list, bound, room) in
            [(&self.addresses, MAX_ADDRESSES, room / 2), (&self.relays, MAX_RELAYS, room / 2)]
        {
            let mut left = room;
            let fitting = list.iter().filter(|address| {
                let fits = address.as_str().len() <= MAX_ADDRESS && address.as_str().len() < left;
                left -= if fits { address.as_str().len() + 1 } else { 0 };
                fits
            });
            let list: Vec<_> = fitting.take(bound).collect();
            out.push(list.len() as u8);
            for address in list {
                put_short(&mut out, address.as_str().as_bytes());
            }
        }
        out.extend_from_slice(&proof);
        if out.len() > MAX_RECORD {
            return Err(RecordError::TooLong);
        }
        Ok(out.into())
    }

    /// Reads a whole record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLong);
        }
        let mut reader = Reader::new(bytes);
        let format = reader.u8().ok_or(RecordError::Length)?;
        if !matches!(format, VERSION | VERSION_PROOF) {
            return Err(RecordError::Version);
        }
        let sequence = reader.u64().ok_or(RecordError::Length)?;
        let peer = PeerId::decode(reader.short().ok_or(RecordError::Length)?).ok_or(RecordError::Field)?;
        let node = optional(reader.short(), MAX_NODE)?;
        let zone = reader.short().ok_or(RecordError::Length)?;
        let zone = plain_text(zone).filter(|zone| zone.len() <= MAX_LABEL).ok_or(RecordError::Field)?;
        let version = reader.short().ok_or(RecordError::Length)?;
        let version =
            plain_text(version).filter(|version| version.len() <= MAX_LABEL).ok_or(RecordError::Field)?;
        let listens = addresses(&mut reader, MAX_ADDRESSES)?;
        let relays = addresses(&mut reader, MAX_RELAYS)?;
        let proof = match format {
            VERSION_PROOF => Proof::decode(&mut reader).ok_or(RecordError::Field)?,
            _ => Proof::default(),
        };
        if !reader.is_empty() {
            return Err(RecordError::Length);
        }
        let zone = (!zone.is_empty()).then(|| zone.into());
        Ok(Self { node, peer, addresses: listens, relays, zone, sequence, version: version.into(), proof })
    }
}

fn optional(bytes: Option<&[u8]>, bound: usize) -> Result<Option<Name>, RecordError> {
    let text = kubernetes_name(bytes.ok_or(RecordError::Length)?).ok_or(RecordError::Field)?;
    if text.len() > bound {
        return Err(RecordError::Field);
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

fn addresses(reader: &mut Reader<'_>, bound: usize) -> Result<Vec<Address>, RecordError> {
    let count = usize::from(reader.u8().ok_or(RecordError::Length)?);
    if count > bound {
        return Err(RecordError::Field);
    }
    (0..count)
        .map(|_| {
            let text = plain_text(reader.short().ok_or(RecordError::Length)?).ok_or(RecordError::Field)?;
            if text.starts_with('/') { Ok(Address::new(text)) } else { Err(RecordError::Field) }
        })
        .collect()
}

/// A record as it travels: its bytes, the key and the signature over [`SIGNING_DOMAIN`] and the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    /// [`PeerRecord::encode`].
    pub body: Bytes,
    /// The public key in libp2p's protobuf form.
    pub key: Bytes,
    /// The signature.
    pub signature: Bytes,
}

/// Signs the own record with the node's key.
pub trait Sign: Send {
    /// Signs the bytes of a record.
    fn sign(&self, body: Bytes) -> SignedRecord;
}
