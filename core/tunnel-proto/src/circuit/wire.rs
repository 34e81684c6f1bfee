//! What travels before the bytes of a circuit.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;

use crate::record::{MAX_PEER, PeerId};
use crate::wire::{Reader, put_short};

/// What a connection begins with that is not libp2p's. libp2p's begin with a random nonce: one in 2^64 is taken for
/// ours, fails, and is dialled again. The first byte is no ASCII, so no text protocol is either.
pub const PREFACE: [u8; 8] = *b"\xe5edgemes";

/// Prefixed to what a request's key signs, so that no other signature of the key can pass for one.
pub const CIRCUIT_DOMAIN: &[u8] = b"edgemesh circuit request 1\0";

/// Prefixed to what a request's code authenticates; another one than the signature's, so that neither is the other.
pub const CIRCUIT_MAC_DOMAIN: &[u8] = b"edgemesh circuit member 1\0";

/// What the key of the code is derived from the private network's key with.
pub const CIRCUIT_KEY_DOMAIN: &[u8] = b"edgemesh circuit key 1\0";

/// As long as the code that covers it, so that no nonce comes twice.
pub const NONCE_LEN: usize = 32;

/// HMAC-SHA256 (RFC 2104, FIPS 180-4).
pub const MAC_LEN: usize = 32;

/// Key and signature of the largest libp2p kind that has a short identity are below this (length byte).
const MAX_SHORT: usize = 255;

/// Version and length, and the longest body: operation, two identities, key, signature, each behind a length byte, and
/// the code.
pub const MAX_REQUEST: usize = 3 + 1 + 2 * (1 + MAX_PEER) + 2 * (1 + MAX_SHORT) + MAC_LEN;

/// The longest answer: status, family, an IPv6 address, a port.
pub const MAX_ANSWER: usize = 1 + 1 + 16 + 2;

const VERSION: u8 = 1;

/// Drawn by the relay for every connection, so that no request can be used again.
pub type Nonce = [u8; NONCE_LEN];

/// What follows the preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A TLS ClientHello: a carrier directly to this node.
    Carrier,
    /// A request to this node as a relay.
    Relay,
}

impl Kind {
    /// The byte after the preface.
    pub fn byte(self) -> u8 {
        match self {
            Self::Carrier => b'T',
            Self::Relay => b'R',
        }
    }

    /// All a dialler sends before anything else.
    pub fn preface(self) -> [u8; PREFACE.len() + 1] {
        let mut out = [self.byte(); PREFACE.len() + 1];
        out[..PREFACE.len()].copy_from_slice(&PREFACE);
        out
    }
}

/// What the first bytes of a connection tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// More bytes must be seen.
    Undecided,
    /// libp2p's.
    Foreign,
    /// Ours.
    Ours(Kind),
    /// Ours, of a kind that a newer agent knows.
    Unknown,
}

/// Tells whose a connection is, by as few bytes as can tell.
pub fn sniff(bytes: &[u8]) -> Sniff {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] != PREFACE[..seen] {
        return Sniff::Foreign;
    }
    match bytes.get(PREFACE.len()) {
        None => Sniff::Undecided,
        Some(b'T') => Sniff::Ours(Kind::Carrier),
        Some(b'R') => Sniff::Ours(Kind::Relay),
        Some(_) => Sniff::Unknown,
    }
}

/// Names one pending circuit to the peer it is meant for; whoever else has it gets nothing by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    /// A token opens a circuit: it is not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The relay's word on a request. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Granted.
    Ok,
    /// The target is not connected to this relay.
    NoReservation,
    /// The relay has no room.
    Full,
    /// One of the two peers has as many circuits as it may.
    PeerFull,
    /// The relay is about to end.
    Draining,
    /// Key, signature or private network do not fit.
    NotMember,
    /// The bytes are no request.
    Malformed,
    /// The token is used up, too old, or another peer's.
    Stale,
    /// The target was told and did not come.
    TargetTimeout,
    /// This node does not serve as a relay.
    NotARelay,
    /// The request is of a version this relay does not know.
    Version,
}

impl Status {
    /// Every one, in the order of their codes.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::NoReservation,
        Self::Full,
        Self::PeerFull,
        Self::Draining,
        Self::NotMember,
        Self::Malformed,
        Self::Stale,
        Self::TargetTimeout,
        Self::NotARelay,
        Self::Version,
    ];

    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoReservation => "no_reservation",
            Self::Full => "full",
            Self::PeerFull => "peer_full",
            Self::Draining => "draining",
            Self::NotMember => "not_member",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
            Self::TargetTimeout => "target_timeout",
            Self::NotARelay => "not_a_relay",
            Self::Version => "version",
        }
    }

    /// What is wrong and what to look at.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "granted",
            Self::NoReservation => "the peer is not connected to this relay: see its status",
            Self::Full => "the relay has no room: raise its limits or add a relay",
            Self::PeerFull => "one of the two peers has as many circuits as the relay grants it",
            Self::Draining => "the relay is about to end: another one is needed",
            Self::NotMember => "the relay did not believe key, signature or pre-shared key: compare the keys",
            Self::Malformed => "the relay could not read the request",
            Self::Stale => "the offer of a circuit is used up or too old",
            Self::TargetTimeout => "the peer was told of the circuit and did not come in time",
            Self::NotARelay => "the node does not serve as a relay: compare the addresses of the relays",
            Self::Version => "the relay's software is of another version",
        }
    }

    /// The byte on the wire: the place in [`Status::ALL`], which is part of the protocol.
    pub fn encode(self) -> u8 {
        self as u8
    }

    /// Reads the byte; `None` for one a newer relay may send.
    pub fn decode(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The relay's first word: the nonce, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// A request is expected that covers this nonce.
    Nonce(Nonce),
    /// Refused before anything was asked.
    Refused(Status),
}

/// Why bytes are no greeting or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the words of a relay")]
pub struct GreetingError;

impl Greeting {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Nonce(nonce) => [&[Status::Ok.encode()], &nonce[..]].concat(),
            Self::Refused(status) => vec![status.encode()],
        }
    }

    /// Reads a greeting; `None` asks for more bytes. The relay waits after it, so nothing may follow.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, GreetingError> {
        let Some((&status, rest)) = bytes.split_first() else { return Ok(None) };
        match Status::decode(status).ok_or(GreetingError)? {
            Status::Ok if rest.len() < NONCE_LEN => Ok(None),
            Status::Ok => rest.try_into().map(|nonce| Some(Self::Nonce(nonce))).map_err(|_| GreetingError),
            _ if !rest.is_empty() => Err(GreetingError),
            status => Ok(Some(Self::Refused(status))),
        }
    }
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A circuit to a peer that is connected to this relay.
    Connect(PeerId),
    /// The other half of a circuit that this peer was told of.
    Accept(Token),
    /// The address and port from which this connection comes.
    Observe,
}

impl Op {
    /// The log word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Accept(_) => "accept",
            Self::Observe => "observe",
        }
    }
}

/// The one request of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What for.
    pub op: Op,
    /// Who asks.
    pub peer: PeerId,
    /// Its public key in libp2p's protobuf form.
    pub key: Bytes,
    /// Over [`Request::signed`].
    pub signature: Bytes,
    /// Over [`Request::authenticated`].
    pub mac: [u8; MAC_LEN],
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A newer agent wrote it.
    #[error("unknown version of the circuit request")]
    Version,
    /// Longer than [`MAX_REQUEST`].
    #[error("circuit request is too long")]
    TooLong,
    /// Its body ends too early or too late.
    #[error("circuit request has the wrong length")]
    Length,
    /// It asks for something unknown.
    #[error("unknown operation in the circuit request")]
    Operation,
    /// A field breaks its bound.
    #[error("malformed field in the circuit request")]
    Field,
}

impl RequestError {
    /// The log word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::TooLong => "too_long",
            Self::Length => "length",
            Self::Operation => "operation",
            Self::Field => "field",
        }
    }

    /// What the peer is told.
    pub fn status(self) -> Status {
        match self {
            Self::Version => Status::Version,
            Self::TooLong | Self::Length | Self::Operation | Self::Field => Status::Malformed,
        }
    }
}

impl Request {
    /// The bytes the key signs. They name the relay and its nonce, so that a relay cannot use the request at another.
    pub fn signed(&self, nonce: &Nonce, relay: &PeerId) -> Result<Vec<u8>, RequestError> {
        self.covered(CIRCUIT_DOMAIN, nonce, relay)
    }

    /// The bytes the code authenticates.
    pub fn authenticated(&self, nonce: &Nonce, relay: &PeerId) -> Result<Vec<u8>, RequestError> {
        self.covered(CIRCUIT_MAC_DOMAIN, nonce, relay)
    }

    /// Everything but signature and code themselves, each field behind its length or of a fixed one.
    fn covered(&self, domain: &[u8], nonce: &Nonce, relay: &PeerId) -> Result<Vec<u8>, RequestError> {
        let mut out = [domain, nonce].concat();
        put_peer(&mut out, relay)?;
        out.push(VERSION);
        self.put_head(&mut out)?;
        Ok(out)
    }

    fn put_head(&self, out: &mut Vec<u8>) -> Result<(), RequestError> {
        match &self.op {
            Op::Connect(target) => {
                out.push(1);
                put_peer(out, target)?;
            }
            Op::Accept(token) => {
                out.push(2);
                out.extend_from_slice(&token.0);
            }
            Op::Observe => out.push(3),
        }
        put_peer(out, &self.peer)?;
        if put_short(out, &self.key) { Ok(()) } else { Err(RequestError::Field) }
    }

    /// The bytes on the wire, or which field cannot be sent.
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        let mut body = Vec::with_capacity(MAX_REQUEST);
        self.put_head(&mut body)?;
        if !put_short(&mut body, &self.signature) {
            return Err(RequestError::Field);
        }
        body.extend_from_slice(&self.mac);
        let len = u16::try_from(body.len()).map_err(|_| RequestError::TooLong)?;
        Ok([&[VERSION], &len.to_be_bytes()[..], &body].concat())
    }

    /// Reads a request from the beginning of `bytes` and says how many bytes it took; `None` asks for more bytes.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, RequestError> {
        let mut reader = Reader::new(bytes);
        let Some(version) = reader.u8() else { return Ok(None) };
        if version != VERSION {
            return Err(RequestError::Version);
        }
        let Some(len) = reader.u16() else { return Ok(None) };
        if usize::from(len) + 3 > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let Some(body) = reader.bytes(usize::from(len)) else { return Ok(None) };
        Ok(Some((Self::decode_body(body)?, reader.taken())))
    }

    fn decode_body(body: &[u8]) -> Result<Self, RequestError> {
        let mut reader = Reader::new(body);
        let op = match reader.u8().ok_or(RequestError::Length)? {
            1 => Op::Connect(take_peer(&mut reader)?),
            2 => Op::Accept(Token(reader.array().ok_or(RequestError::Length)?)),
            3 => Op::Observe,
            _ => return Err(RequestError::Operation),
        };
        let peer = take_peer(&mut reader)?;
        let key = Bytes::copy_from_slice(reader.short().ok_or(RequestError::Length)?);
        let signature = Bytes::copy_from_slice(reader.short().ok_or(RequestError::Length)?);
        let mac = reader.array().ok_or(RequestError::Length)?;
        if !reader.is_empty() {
            return Err(RequestError::Length);
        }
        Ok(Self { op, peer, key, signature, mac })
    }
}

fn put_peer(out: &mut Vec<u8>, peer: &PeerId) -> Result<(), RequestError> {
    // What cannot be read again must not be sent.
    match PeerId::decode(peer.as_str().as_bytes()) {
        Some(_) if put_short(out, peer.as_str().as_bytes()) => Ok(()),
        Some(_) | None => Err(RequestError::Field),
    }
}

fn take_peer(reader: &mut Reader<'_>) -> Result<PeerId, RequestError> {
    PeerId::decode(reader.short().ok_or(RequestError::Length)?).ok_or(RequestError::Field)
}

/// The relay's last word of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Op::Connect`] and [`Op::Accept`]: what follows are the other end's bytes. To anything: why not.
    Status(Status),
    /// To [`Op::Observe`].
    Observed(SocketAddr),
}

impl Answer {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Status(status) => vec![status.encode()],
            Self::Observed(address) => {
                let mut out = vec![Status::Ok.encode()];
                match address.ip() {
                    IpAddr::V4(ip) => {
                        out.push(4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(6);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                out.extend_from_slice(&address.port().to_be_bytes());
                out
            }
        }
    }

    /// Reads what the relay sees, or why it does not tell; `None` asks for more bytes.
    pub fn decode_observed(bytes: &[u8]) -> Result<Option<Self>, GreetingError> {
        let mut reader = Reader::new(bytes);
        let Some(status) = reader.u8() else { return Ok(None) };
        match Status::decode(status).ok_or(GreetingError)? {
            Status::Ok => {}
            status => return Ok(Some(Self::Status(status))),
        }
        let ip = match reader.u8() {
            None => return Ok(None),
            Some(4) => reader.array::<4>().map(IpAddr::from),
            Some(6) => reader.array::<16>().map(IpAddr::from),
            Some(_) => return Err(GreetingError),
        };
        Ok(ip.and_then(|ip| Some(Self::Observed(SocketAddr::new(ip, reader.u16()?)))))
    }
}
