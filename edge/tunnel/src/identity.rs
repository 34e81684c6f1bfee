//! Proofs of node names as files and signatures: the authority, join tokens, rotated keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgemesh_api::Name;
use edgemesh_tunnel_proto::{
    self as proto, Claim, ClaimRefused, Enrolment, MAX_FORMER, MAX_RECORDS, PeerRecord, Proof, SignedToken,
    Succession, Token, TokenError, TokenId, succession,
};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use thiserror::Error;

use crate::key::{KeyError, make_node_key, node_key, read_private, write_private};
use crate::pnet::random;
use crate::text::peer_text;

/// What a line with an authority's public key begins with.
const AUTHORITY: &str = "edgemesh-authority-";

/// Authorities at a time. Rotating takes two, and each costs a record with a foreign token one verification.
const MAX_AUTHORITIES: usize = 4;

/// No file of tokens or former keys is longer than their bounds as text; enrolments have a line of at most 400 bytes
/// for each record.
const MAX_FILE: u64 = 400 * MAX_RECORDS as u64;

/// Why something about identities cannot be done.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key would be overwritten.
    #[error("{path} exists; a key is never overwritten (move it away first)")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no authority key.
    #[error("{path} holds no authority key; `edgemesh token authority {path}` makes one where there is none")]
    Authority {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no public keys of authorities.
    #[error(
        "{path} holds no authority's public key: one to four lines such as `edgemesh token authority` prints, each \
             beginning with edgemesh-authority-"
    )]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// A token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A token for another key.
    #[error("the token is pinned to {pinned}, and the key of this node is {own}: make a token for that one")]
    Pinned {
        /// Whose it is.
        pinned: String,
        /// The node's identity.
        own: String,
    },
    /// A name is none of a node.
    #[error("{0:?} is no node name: lower-case letters, digits, - and ., as Kubernetes names its nodes")]
    Node(String),
    /// An identity is none.
    #[error("{0:?} is no identity; `edgemesh key show` prints the one of a node")]
    Peer(String),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> IdentityError + '_ {
    move |source| IdentityError::File { path: path.to_owned(), source }
}

/// Seconds since 1970 by this node's clock.
pub(crate) fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The authority of a mesh: it says which key may speak for which node.
pub struct Authority(Keypair);

impl Authority {
    /// Makes the authority's key; the file is for its holder alone.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        if path.exists() {
            return Err(IdentityError::Exists { path: path.to_owned() });
        }
        let key = Keypair::generate_ed25519();
        make_node_key(path, &key).map_err(failed(path))?;
        Ok(Self(key))
    }

    /// Reads the authority's key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let bytes = read_private(path)?;
        let key = Keypair::from_protobuf_encoding(&bytes);
        key.map(Self).map_err(|_| IdentityError::Authority { path: path.to_owned() })
    }

    /// The line by which nodes know it.
    pub fn public(&self) -> String {
        let key = self.0.public().encode_protobuf();
        key.iter().fold(AUTHORITY.to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Makes a token for a node: for the first key that presents it, or for one alone.
    pub fn token(
        &self,
        node: &str,
        ttl: Option<Duration>,
        pinned: Option<&str>,
    ) -> Result<SignedToken, IdentityError> {
        let pinned = match pinned {
            Some(text) => {
                Some(peer_text(&text.parse::<PeerId>().map_err(|_| IdentityError::Peer(text.to_owned()))?))
            }
            None => None,
        };
        self.sign(node, clock(), ttl, pinned)
    }

    /// As [`Authority::token`], at a given moment.
    pub(crate) fn sign(
        &self,
        node: &str,
        issued: u64,
        ttl: Option<Duration>,
        pinned: Option<proto::PeerId>,
    ) -> Result<SignedToken, IdentityError> {
        let id = TokenId(random().map_err(failed(Path::new("/dev/urandom")))?);
        let expires = ttl.map(|ttl| issued.saturating_add(ttl.as_secs()).max(1));
        let token = Token { id, node: Name::from(node), issued, expires, pinned };
        let body = token.encode().map_err(|_| IdentityError::Node(node.to_owned()))?;
        // Only RSA keys can fail to sign.
        let signature = self.0.sign(&SignedToken::signed_bytes(&body)).unwrap_or_default();
        Ok(SignedToken { body, signature: signature.into() })
    }
}

/// The public keys of the authorities that a node believes.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<PublicKey>);

impl Authorities {
    /// Reads a file of them; a file that is missing has none.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let wrong = || IdentityError::Authorities { path: path.to_owned() };
        let Some(text) = optional(path)? else { return Ok(Self::default()) };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let key = |line: &str| {
            let bytes = hex(line.strip_prefix(AUTHORITY)?)?;
            PublicKey::try_decode_protobuf(&bytes).ok()
        };
        let keys: Vec<PublicKey> = lines.map(key).collect::<Option<_>>().ok_or_else(wrong)?;
        if keys.is_empty() || keys.len() > MAX_AUTHORITIES { Err(wrong()) } else { Ok(Self(keys)) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a token says, if one of them signed it.
    pub fn verify(&self, signed: &SignedToken) -> Option<Token> {
        let bytes = SignedToken::signed_bytes(&signed.body);
        let known = self.0.iter().any(|key| key.verify(&bytes, &signed.signature));
        signed.token().ok().filter(|_| known)
    }

    /// What of a verified record's proof is true.
    pub(crate) fn claim(&self, record: &PeerRecord) -> Claim {
        let token = record.proof.token.as_ref().filter(|_| !self.is_empty());
        Claim {
            token: token.map(|token| self.verify(token).ok_or(ClaimRefused::ForgedToken)),
            former: former_of(&record.peer, &record.proof.former),
            clock: clock(),
        }
    }
}

/// The former keys of a peer, as far as each signed the one after it.
fn former_of(peer: &proto::PeerId, links: &[Succession]) -> Vec<proto::PeerId> {
    let mut successor = peer.clone();
    let mut former = Vec::with_capacity(links.len());
    for link in links.iter().take(MAX_FORMER) {
        let Ok(key) = PublicKey::try_decode_protobuf(&link.key) else { break };
        let before = peer_text(&key.to_peer_id());
        // A key that follows itself proves nothing and would never end.
        if before == *peer || former.contains(&before) {
            break;
        }
        if !key.verify(&succession(&before, &successor), &link.signature) {
            break;
        }
        former.push(before.clone());
        successor = before;
    }
    former
}

/// The files beside a node's key.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    key: PathBuf,
}

impl IdentityFiles {
    /// Those beside the given key.
    pub fn beside(key: impl Into<PathBuf>) -> Self {
        Self { key: key.into() }
    }

    /// The node's join token.
    pub fn token(&self) -> PathBuf {
        self.key.with_extension("token")
    }

    /// The keys the node had before.
    pub(crate) fn former(&self) -> PathBuf {
        self.key.with_extension("former")
    }

    /// Names that other nodes have proven.
    pub(crate) fn enrolled(&self) -> PathBuf {
        self.key.with_extension("enrolled")
    }

    /// The node's identity; its key is made where there is none.
    pub fn identity(&self) -> Result<String, IdentityError> {
        Ok(node_key(&self.key)?.public().to_peer_id().to_base58())
    }

    /// Puts a token beside the node's key; a running agent presents it within seconds. Says which node it is for.
    pub fn join(&self, text: &str) -> Result<Token, IdentityError> {
        let signed = SignedToken::parse(text)?;
        let token = signed.token()?;
        let own = self.identity()?;
        if let Some(pinned) = token.pinned.as_ref().filter(|pinned| pinned.as_str() != own) {
            let links = self.links(&own)?;
            if !former_of(&proto::PeerId::new(own.as_str()), &links).contains(pinned) {
                return Err(IdentityError::Pinned { pinned: pinned.to_string(), own });
            }
        }
        self.save_token(&signed)?;
        Ok(token)
    }

    pub(crate) fn save_token(&self, signed: &SignedToken) -> Result<(), IdentityError> {
        let path = self.token();
        write_private(&path, format!("{signed}\n").as_bytes()).map_err(failed(&path))
    }

    /// What the node's record offers in proof of its name.
    pub(crate) fn proof(&self, own: &PeerId) -> Result<Proof, IdentityError> {
        let path = self.token();
        let token = match read_private(&path) {
            Ok(bytes) => Some(SignedToken::parse(&String::from_utf8_lossy(&bytes))?),
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let former = self.links(&own.to_base58())?;
        Ok(Proof { token, former })
    }

    /// The former keys that lead to the own one. A rotation that was cut short leaves a link to a key that never was.
    fn links(&self, own: &str) -> Result<Vec<Succession>, IdentityError> {
        let text = optional(&self.former())?.unwrap_or_default();
        let mut links: Vec<Succession> = text
            .lines()
            .filter_map(|line| {
                let (key, signature) = line.split_once(' ')?;
                Some(Succession { key: hex(key)?.into(), signature: hex(signature)?.into() })
            })
            .collect();
        let own = proto::PeerId::new(own);
        while !links.is_empty() && former_of(&own, &links).is_empty() {
            links.remove(0);
        }
        links.truncate(MAX_FORMER);
        links.truncate(former_of(&own, &links).len());
        Ok(links)
    }

    /// Gives the node a new key that the one before signs over to. Returns both identities, the former first; the
    /// agent takes the new one at its next start.
    pub fn rotate(&self) -> Result<(String, String), IdentityError> {
        let before = Keypair::from_protobuf_encoding(&read_private(&self.key)?)
            .map_err(|_| KeyError::NodeKey { path: self.key.clone() })?;
        let next = Keypair::generate_ed25519();
        let former = before.public().to_peer_id();
        let successor = next.public().to_peer_id();
        let mut links = self.links(&former.to_base58())?;
        let signed =
            before.sign(&succession(&peer_text(&former), &peer_text(&successor))).unwrap_or_default();
        links.insert(
            0,
            Succession { key: before.public().encode_protobuf().into(), signature: signed.into() },
        );
        links.truncate(MAX_FORMER);
        let text: String =
            links.iter().map(|link| format!("{} {}\n", digits(&link.key), digits(&link.signature))).collect();
        // The link first: a crash between the two leaves the former key and a link that leads to none.
        let path = self.former();
        write_private(&path, text.as_bytes()).map_err(failed(&path))?;
        make_node_key(&self.key, &next).map_err(failed(&self.key))?;
        Ok((former.to_base58(), successor.to_base58()))
    }

    /// Names that were proven before the start. A file that cannot be read is as good as none: the names are proven
    /// anew.
    pub(crate) fn enrolments(&self) -> Vec<Enrolment> {
        let text = match optional(&self.enrolled()) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "names that were proven before are forgotten");
                String::new()
            }
        };
        text.lines().filter_map(Enrolment::parse).take(MAX_RECORDS).collect()
    }

    pub(crate) fn save_enrolments(&self, enrolled: &[Enrolment]) -> Result<(), IdentityError> {
        let text: String = enrolled.iter().map(|known| format!("{known}\n")).collect();
        let path = self.enrolled();
        write_private(&path, text.as_bytes()).map_err(failed(&path))
    }
}

/// The text of a file, if there is one.
fn optional(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => {
            Err(failed(path)(io::Error::new(io::ErrorKind::InvalidData, "too long")))
        }
        Ok(_) => fs::read_to_string(path).map(Some).map_err(failed(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn tokens_of_an_authority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority.key");
        let authority = Authority::create(&path).unwrap();
        assert!(matches!(Authority::create(&path), Err(IdentityError::Exists { .. })));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = Authority::create(&dir.path().join("other.key")).unwrap();
        let file = dir.path().join("authority.pub");
        assert!(Authorities::load(&file).unwrap().is_empty(), "no file is no authority");
        fs::write(&file, format!("# of the mesh\n{}\n", authority.public())).unwrap();
        let known = Authorities::load(&file).unwrap();
        let token = authority.token("a", Some(Duration::from_secs(60)), None).unwrap();
        assert_eq!(known.verify(&token).unwrap().node, Name::from("a"));
        let forged = other.token("a", None, None).unwrap();
        assert_eq!(known.verify(&forged), None);
        let grafted = SignedToken { body: forged.body.clone(), ..token };
        assert_eq!(known.verify(&grafted), None);
        fs::write(&file, format!("{}\n{}\n", authority.public(), other.public())).unwrap();
        assert!(Authorities::load(&file).unwrap().verify(&forged).is_some());
        for text in ["", "nonsense", "edgemesh-authority-00"] {
            fs::write(&file, text).unwrap();
            assert!(matches!(Authorities::load(&file), Err(IdentityError::Authorities { .. })), "{text}");
        }
        assert!(matches!(authority.token("Not A Name", None, None), Err(IdentityError::Node(_))));
        assert!(matches!(authority.token("a", None, Some("nobody")), Err(IdentityError::Peer(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Authority::load(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
    }

    #[test]
    fn a_token_for_another_key_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("authority.key")).unwrap();
        let files = IdentityFiles::beside(dir.path().join("node.key"));
        let own = files.identity().unwrap();
        let stranger = Keypair::generate_ed25519().public().to_peer_id().to_base58();
        let foreign = authority.token("a", None, Some(&stranger)).unwrap().to_string();
        assert!(matches!(files.join(&foreign), Err(IdentityError::Pinned { .. })));
        let good = authority.token("a", None, Some(&own)).unwrap();
        files.join(&good.to_string()).unwrap();
        let peer = own.parse().unwrap();
        assert_eq!(files.proof(&peer).unwrap().token, Some(good.clone()));
        // It stays good for the key that follows.
        let (before, after) = files.rotate().unwrap();
        assert_eq!((before, files.identity().unwrap()), (own, after));
        files.join(&good.to_string()).unwrap();
    }

    #[test]
    fn a_rotated_key_names_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::beside(dir.path().join("node.key"));
        let mut keys = vec![files.identity().unwrap()];
        for _ in 0..MAX_FORMER + 2 {
            let (before, after) = files.rotate().unwrap();
            assert_eq!(Some(&before), keys.last());
            keys.push(after);
        }
        keys.reverse();
        let own: PeerId = keys[0].parse().unwrap();
        let proof = files.proof(&own).unwrap();
        let texts = |peers: &[proto::PeerId]| peers.iter().map(ToString::to_string).collect::<Vec<_>>();
        let former = former_of(&peer_text(&own), &proof.former);
        assert_eq!(texts(&former), keys[1..=MAX_FORMER], "the last ones");
        // Neither for another key, nor in another order.
        let other: PeerId = keys[1].parse().unwrap();
        assert_eq!(former_of(&peer_text(&other), &proof.former), Vec::new());
        let mut swapped = proof.former.clone();
        swapped.swap(0, 1);
        assert_eq!(former_of(&peer_text(&own), &swapped), Vec::new());
        // A rotation that was cut short before its key was in place.
        let path = files.former();
        let kept = fs::read(dir.path().join("node.key")).unwrap();
        files.rotate().unwrap();
        fs::write(dir.path().join("node.key"), kept).unwrap();
        assert!(fs::read_to_string(&path).unwrap().lines().count() == MAX_FORMER);
        let proof = files.proof(&own).unwrap();
        assert_eq!(texts(&former_of(&peer_text(&own), &proof.former)), keys[1..MAX_FORMER]);
    }
}
