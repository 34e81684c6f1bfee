//! What proves that a key may speak for a node: join tokens of the mesh's authority, and the word of a former key.

use std::fmt;

use bytes::Bytes;
use edgemesh_api::Name;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::record::{MAX_NODE, PeerId};
use crate::wire::{Reader, kubernetes_name, put_short};

/// Prefixed to a token's body before the authority signs it.
pub const TOKEN_DOMAIN: &[u8] = b"edgemesh join token 1\0";

/// Prefixed to [`succession`]'s bytes before a former key signs them.
pub const SUCCESSION_DOMAIN: &[u8] = b"edgemesh key succession 1\0";

/// What the words of a token begin with, so that it is known for one where it was pasted to.
const PREFIX: &str = "edgemesh-join-";

/// A token with a name and an identity at their bounds has 408 bytes.
pub const MAX_TOKEN: usize = 512;

/// Former keys a record names. Rotated once a year, a node that was away for four is still known again.
pub const MAX_FORMER: usize = 4;

/// How far a clock may be ahead before a token that has not expired is refused. NTP keeps nodes within a second;
/// a clock that ran free for a month between two synchronisations is off by minutes (50 ppm are 130 s).
pub const CLOCK_SKEW: u64 = 600;

const VERSION: u8 = 1;

/// A token's number, drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 16]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TokenId {
    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text)?.try_into().ok().map(Self)
    }
}

/// What a join token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub id: TokenId,
    /// The node its holder may speak for.
    pub node: Name,
    /// When it was made, in seconds since 1970. Of two tokens for a node the later one counts.
    pub issued: u64,
    /// Until when nodes that do not know its holder yet take it, in seconds since 1970; `None` is for ever.
    pub expires: Option<u64>,
    /// The only key that may present it. Without one it belongs to the first key that does.
    pub pinned: Option<PeerId>,
}

/// A token as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedToken {
    /// [`Token::encode`].
    pub body: Bytes,
    /// The authority's signature over [`TOKEN_DOMAIN`] and the body.
    pub signature: Bytes,
}

/// Why text or bytes are no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It does not begin as tokens do, or has other characters than a token's.
    #[error("this is no join token: it begins with edgemesh-join- and has hexadecimal digits after it")]
    Text,
    /// A part is missing, or there is too much.
    #[error("the join token is not whole; copy all of it")]
    Length,
    /// A newer program made it.
    #[error("the join token is of a newer kind than this program knows; install that version here")]
    Version,
    /// A field breaks its bound.
    #[error("the join token is malformed; make a new one with `edgemesh token create`")]
    Field,
}

impl TokenError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Length => "length",
            Self::Version => "version",
            Self::Field => "field",
        }
    }
}

impl Token {
    /// The canonical bytes, to be signed.
    pub fn encode(&self) -> Result<Bytes, TokenError> {
        if self.node.is_empty()
            || self.node.len() > MAX_NODE
            || kubernetes_name(self.node.as_bytes()).is_none()
        {
            return Err(TokenError::Field);
        }
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.issued.to_be_bytes());
        out.extend_from_slice(&self.expires.unwrap_or(0).to_be_bytes());
        let pinned = self.pinned.as_ref().map_or("", PeerId::as_str);
        if !(put_short(&mut out, self.node.as_bytes()) && put_short(&mut out, pinned.as_bytes())) {
            return Err(TokenError::Field);
        }
        Ok(out.into())
    }

    /// Reads a whole body.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let mut reader = Reader::new(bytes);
        if reader.u8().ok_or(TokenError::Length)? != VERSION {
            return Err(TokenError::Version);
        }
        let id = TokenId(reader.array().ok_or(TokenError::Length)?);
        let issued = reader.u64().ok_or(TokenError::Length)?;
        let expires = Some(reader.u64().ok_or(TokenError::Length)?).filter(|expires| *expires != 0);
        let node = reader.short().ok_or(TokenError::Length)?;
        let pinned = reader.short().ok_or(TokenError::Length)?;
        if !reader.is_empty() {
            return Err(TokenError::Length);
        }
        let node = kubernetes_name(node)
            .filter(|node| !node.is_empty() && node.len() <= MAX_NODE)
            .ok_or(TokenError::Field)?;
        let pinned = match pinned {
            [] => None,
            bytes => Some(PeerId::decode(bytes).ok_or(TokenError::Field)?),
        };
        Ok(Self { id, node: node.into(), issued, expires, pinned })
    }
}

impl SignedToken {
    /// The bytes in a record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.signature.len() + self.body.len());
        put_short(&mut out, &self.signature);
        out.extend_from_slice(&self.body);
        out
    }

    /// Reads the bytes of a record; whose signature it is, is the edge's to verify.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() > MAX_TOKEN {
            return Err(TokenError::Length);
        }
        let mut reader = Reader::new(bytes);
        let signature = Bytes::copy_from_slice(reader.short().ok_or(TokenError::Length)?);
        let body = Bytes::copy_from_slice(&bytes[reader.taken()..]);
        Token::decode(&body)?;
        Ok(Self { body, signature })
    }

    /// Reads the text that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Text)?;
        if !digits.len().is_multiple_of(2) {
            return Err(TokenError::Length);
        }
        Self::decode(&from_hex(digits).ok_or(TokenError::Text)?)
    }

    /// What it says.
    pub fn token(&self) -> Result<Token, TokenError> {
        Token::decode(&self.body)
    }

    /// What the authority signs.
    pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
        [TOKEN_DOMAIN, body].concat()
    }
}

impl fmt::Display for SignedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.encode().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The word of a former key of a node: that another key follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The former key in libp2p's protobuf form.
    pub key: Bytes,
    /// Its signature over [`succession`].
    pub signature: Bytes,
}

/// What a former key signs to name its successor.
pub fn succession(former: &PeerId, successor: &PeerId) -> Vec<u8> {
    let mut out = SUCCESSION_DOMAIN.to_vec();
    put_short(&mut out, former.as_str().as_bytes());
    put_short(&mut out, successor.as_str().as_bytes());
    out
}

/// What a record offers in proof of its node's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The node's join token.
    pub token: Option<SignedToken>,
    /// The keys it had before: each signed the one before it in the list, the first one the record's own key.
    pub former: Vec<Succession>,
}

impl Proof {
    pub(crate) fn is_empty(&self) -> bool {
        self.token.is_none() && self.former.is_empty()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        let token = self.token.as_ref().map(SignedToken::encode).unwrap_or_default();
        if token.len() > MAX_TOKEN || self.former.len() > MAX_FORMER {
            return None;
        }
        out.extend_from_slice(&(token.len() as u16).to_be_bytes());
        out.extend_from_slice(&token);
        out.push(self.former.len() as u8);
        self.former
            .iter()
            .all(|link| put_short(out, &link.key) && put_short(out, &link.signature))
            .then_some(())
    }

    /// `None` for what ends too early or breaks a bound.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let len = usize::from(reader.u16()?);
        let token = match reader.bytes(len)? {
            [] => None,
            bytes => Some(SignedToken::decode(bytes).ok()?),
        };
        let count = usize::from(reader.u8()?);
        if count > MAX_FORMER {
            return None;
        }
        let mut former = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Bytes::copy_from_slice(reader.short()?);
            former.push(Succession { key, signature: Bytes::copy_from_slice(reader.short()?) });
        }
        Some(Self { token, former })
    }
}

/// What of a record's proof is true: the edge has verified the signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The token, if there is one and this node knows an authority.
    pub token: Option<Result<Token, ClaimRefused>>,
    /// The keys before, the last one first.
    pub former: Vec<PeerId>,
    /// The clock of this node when the record arrived, in seconds since 1970.
    pub clock: u64,
}

/// Whose claims of node names are believed. What Node objects say holds with each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityPolicy {
    /// A claim needs a join token or a Node object, and a peer without a proven name may open no stream.
    Require,
    /// Who proves a name has it; a name that nobody proves is the first one's who claims it.
    #[default]
    Prefer,
    /// A name is the first one's who claims it; tokens are not looked at.
    Off,
}

impl IdentityPolicy {
    /// The word in the configuration and the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Off => "off",
        }
    }
}

/// Why a peer is not believed to speak for a node. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimRefused {
    /// It is this node's own name.
    OwnName,
    /// The Node object names another key.
    NotVouched,
    /// A key that a later one of the same node followed.
    FormerKey,
    /// Another peer speaks for the node, and neither has a proof.
    Duplicate,
    /// Another key has proven the name, and this one brings no token.
    ChangedKey,
    /// It brings no proof, and policy wants one.
    Unproven,
    /// No authority that this node knows signed its token.
    ForgedToken,
    /// Its token is for another node.
    ForeignToken,
    /// Its token is pinned to another key.
    PinnedElsewhere,
    /// Another key has presented the same token before.
    ReplayedToken,
    /// A later token for the node was seen.
    OutdatedToken,
    /// Its token's time is over, and this node did not know the peer before.
    ExpiredToken,
}

impl ClaimRefused {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::OwnName,
        Self::NotVouched,
        Self::FormerKey,
        Self::Duplicate,
        Self::ChangedKey,
        Self::Unproven,
        Self::ForgedToken,
        Self::ForeignToken,
        Self::PinnedElsewhere,
        Self::ReplayedToken,
        Self::OutdatedToken,
        Self::ExpiredToken,
    ];

    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OwnName => "own_name",
            Self::NotVouched => "not_vouched",
            Self::FormerKey => "former_key",
            Self::Duplicate => "duplicate",
            Self::ChangedKey => "changed_key",
            Self::Unproven => "unproven",
            Self::ForgedToken => "forged_token",
            Self::ForeignToken => "foreign_token",
            Self::PinnedElsewhere => "pinned_elsewhere",
            Self::ReplayedToken => "replayed_token",
            Self::OutdatedToken => "outdated_token",
            Self::ExpiredToken => "expired_token",
        }
    }

    /// The cause and the fix.
    pub fn words(self) -> &'static str {
        match self {
            Self::OwnName => {
                "another peer claims the name of this very node: two nodes were given one --node-name, or somebody \
                 poses as this one. Give the other node a name of its own"
            }
            Self::NotVouched => {
                "the annotation edgemesh.kubeedge.io/peer-id of the Node object names another key. If the node was set \
                 up anew, write the identity that `edgemesh key show` prints there into the annotation; otherwise \
                 somebody poses as the node"
            }
            Self::FormerKey => {
                "the node has rotated its key, and something still runs with the one before. Stop the copy; should the \
                 node itself have been restored from a backup, give it a new join token"
            }
            Self::Duplicate => {
                "two peers claim one name and neither proves it: two nodes were given one --node-name, or the state of \
                 a node was removed and made anew a moment ago (it is taken over when the former peer is away for a \
                 minute). Join tokens or the annotation edgemesh.kubeedge.io/peer-id settle it"
            }
            Self::ChangedKey => {
                "the name was proven by another key, and this one brings no join token. If the node was set up anew, \
                 make it a new token: `edgemesh token create --node NAME`, then `edgemesh join TOKEN` on the node"
            }
            Self::Unproven => {
                "the identity policy is require, and the peer has neither a join token nor an annotated Node object. \
                 Make it one: `edgemesh token create --node NAME`, then `edgemesh join TOKEN` on the node"
            }
            Self::ForgedToken => {
                "no authority of this node's authority file signed the peer's join token. Either the token is another \
                 mesh's or forged, or the authority was replaced: then add its new public key to the authority file"
            }
            Self::ForeignToken => {
                "the peer's join token is for another node: its --node-name is not the name that the token was made \
                 for. Correct the name, or make a token for it"
            }
            Self::PinnedElsewhere => {
                "the peer's join token is pinned to another key. If the node's key was made anew, make a token for the \
                 identity that `edgemesh key show` prints there"
            }
            Self::ReplayedToken => {
                "another key presented the same join token before: it was used on two nodes, the node's key was \
                 removed and made anew, or the token was stolen. Make the right node a new token; the later one counts"
            }
            Self::OutdatedToken => {
                "a later join token for the node was presented. `edgemesh join` the later one, or make a new one"
            }
            Self::ExpiredToken => {
                "the peer's join token has expired by this node's clock. Compare the clock (`date`) if it has not; \
                 otherwise make a new token, pinned with --key so that it need not expire"
            }
        }
    }
}

impl fmt::Display for ClaimRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that a token proved: kept over restarts, so that the first key stays the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The node.
    pub node: Name,
    /// Whose name it is.
    pub owner: PeerId,
    /// The latest token seen for it.
    pub token: TokenId,
    /// When that was made.
    pub issued: u64,
}

impl fmt::Display for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.node, self.owner, self.token, self.issued)
    }
}

impl Enrolment {
    /// Reads a line that [`fmt::Display`] wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let node = kubernetes_name(words.next()?.as_bytes()).filter(|node| !node.is_empty())?;
        let owner = PeerId::decode(words.next()?.as_bytes())?;
        let token = TokenId::parse(words.next()?)?;
        let issued = words.next()?.parse().ok()?;
        words.next().is_none().then(|| Self { node: node.into(), owner, token, issued })
    }
}
