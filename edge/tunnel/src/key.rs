//! The node's key and the private network's key, as files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use edgemesh_tunnel_proto::private_network_key;
use libp2p::identity::Keypair;
use thiserror::Error;

use crate::pnet::Psk;

/// The key in Go EdgeMesh's published manifests: whoever reads them is in the network.
const PUBLISHED_PSK: &str = "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=";

/// Pre-shared keys at a time. Rotating takes two; each costs a failed handshake 20 bytes of cipher.
const MAX_PSKS: usize = 4;

/// No key file is longer; an RSA-4096 key has 2.4 KiB.
const MAX_KEY_FILE: u64 = 8192;

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("{path} is readable by others (mode {mode:04o}): chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds no node key.
    #[error("{path} holds no node key; remove it to have a new one made (the node gets a new identity)")]
    NodeKey {
        /// The file.
        path: PathBuf,
    },
    /// There is no pre-shared key.
    #[error(
        "{path} is missing; make the mesh's key once and give it to every node: \
             (umask 077; head -c 32 /dev/urandom | base64 > {path})"
    )]
    PskMissing {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no pre-shared key.
    #[error(
        "{path} holds no pre-shared key: one to four, each 32 bytes as hex, base64 or in the swarm.key format; the \
             first is dialled with, all are accepted"
    )]
    Psk {
        /// The file.
        path: PathBuf,
    },
    /// The pre-shared key is the one in Go EdgeMesh's manifests.
    #[error(
        "{path} holds the default key published with Go EdgeMesh, which keeps nobody out; make a new one: \
             (umask 077; head -c 32 /dev/urandom | base64 > {path})"
    )]
    PublishedPsk {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the node's key, or makes it.
pub(crate) fn node_key(path: &Path) -> Result<Keypair, KeyError> {
    match read_private(path) {
        Ok(bytes) => {
            Keypair::from_protobuf_encoding(&bytes).map_err(|_| KeyError::NodeKey { path: path.to_owned() })
        }
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = Keypair::generate_ed25519();
            make_node_key(path, &key).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// Makes the directory too.
pub(crate) fn make_node_key(path: &Path, key: &Keypair) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    write_private(path, &key.to_protobuf_encoding().map_err(io::Error::other)?)
}

/// Replaces a file that nobody else may read: by a rename, so that a crash leaves the old or the new one.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    // Files that are written at one moment, as a key and its token, must not share a draft.
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new.{}.{number}", std::process::id()));
    let draft = PathBuf::from(name);
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    // The rename is on the disk when its directory is.
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_KEY_FILE {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "too long for a key")));
    }
    fs::read(path).map_err(failed)
}

/// Reads the private network's keys: the first one is dialled with, all are accepted. With Go agents in the mesh it is
/// one, made from the file's bytes as they make it.
pub(crate) fn pre_shared_keys(path: &Path, go_peers: bool) -> Result<Vec<Psk>, KeyError> {
    let bytes = match read_private(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::PskMissing { path: path.to_owned() });
        }
        other => other?,
    };
    if go_peers {
        return if bytes.trim_ascii() == PUBLISHED_PSK.as_bytes() {
            Err(KeyError::PublishedPsk { path: path.to_owned() })
        } else if bytes.trim_ascii().is_empty() {
            Err(KeyError::Psk { path: path.to_owned() })
        } else {
            Ok(vec![private_network_key(&bytes)])
        };
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Psk { path: path.to_owned() })?;
    let keys = parse_psks(text).ok_or_else(|| KeyError::Psk { path: path.to_owned() })?;
    if base64_key(PUBLISHED_PSK).is_some_and(|published| keys.contains(&published)) {
        return Err(KeyError::PublishedPsk { path: path.to_owned() });
    }
    Ok(keys)
}

/// One key or several, each a line of hex or base64 or in the `swarm.key` format.
fn parse_psks(text: &str) -> Option<Vec<Psk>> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut keys: Vec<Psk> = Vec::new();
    while let Some(line) = lines.next() {
        let key = if line == "/key/swarm/psk/1.0.0/" {
            match (lines.next()?, lines.next()?) {
                ("/base16/", key) => hex_key(key),
                ("/base64/", key) => base64_key(key),
                _ => None,
            }
        } else {
            hex_key(line).or_else(|| base64_key(line))
        }?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    (1..=MAX_PSKS).contains(&keys.len()).then_some(keys)
}

fn hex_key(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() != 64 { None } else { bytes.try_into().ok() }
}

fn base64_key(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_suffix('=').unwrap_or(text);
    let mut bits: u32 = 0;
    let mut count = 0;
    let mut bytes = Vec::with_capacity(33);
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pre_shared_key_among_go_agents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for (text, go_peers, expected) in [
            (base64, false, Some(std::array::from_fn(|index| index as u8))),
            (base64, true, Some(private_network_key(base64.as_bytes()))),
            ("any words", true, Some(private_network_key(b"any words"))),
            ("any words", false, None),
            (" \n", true, None),
            (PUBLISHED_PSK, true, None),
            (PUBLISHED_PSK, false, None),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let keys = pre_shared_keys(&path, go_peers).ok();
            assert_eq!(keys, expected.map(|key| vec![key]), "{text:?} {go_peers}");
        }
    }

    #[test]
    fn forms_of_the_pre_shared_key() {
        let key: [u8; 32] = std::array::from_fn(|index| index as u8);
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [
            hex.to_owned(),
            format!("{hex}\n"),
            base64.to_owned(),
            format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n"),
            format!("/key/swarm/psk/1.0.0/\n/base64/\n{base64}"),
        ] {
            assert_eq!(parse_psks(&text), Some(vec![key]), "{text}");
        }
        let other = "ff".repeat(32);
        for text in [
            format!("{hex}\n{other}\n"),
            format!("# the new one\n{hex}\n\n# the one before\n{other}\n{base64}"),
            format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n/key/swarm/psk/1.0.0/\n/base16/\n{other}\n"),
        ] {
            assert_eq!(parse_psks(&text), Some(vec![key, [0xff; 32]]), "{text}");
        }
        let five: Vec<String> = (0..5).map(|byte| format!("{byte:02x}").repeat(32)).collect();
        assert_eq!(parse_psks(&five.join("\n")), None);
        for text in
            ["", "00", "/key/swarm/psk/1.0.0/", &format!("{hex}00"), &format!("{hex}\nmore"), "Zürich"]
        {
            assert_eq!(parse_psks(text), None, "{text}");
        }
    }
}
