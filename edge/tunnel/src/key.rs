//! The node's key and the private network's key, as files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use thiserror::Error;

/// The key in Go EdgeMesh's published manifests: whoever reads them is in the network.
const PUBLISHED_PSK: &str = "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=";

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
    #[error("{path} holds no pre-shared key: 32 bytes as hex, base64 or in the swarm.key format")]
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

/// Written under another name first: a crash leaves no half key, and two starts at once one whole one.
fn make_node_key(path: &Path, key: &Keypair) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let bytes = key.to_protobuf_encoding().map_err(io::Error::other)?;
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
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

/// Reads the private network's key.
pub(crate) fn pre_shared_key(path: &Path) -> Result<PreSharedKey, KeyError> {
    let bytes = match read_private(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::PskMissing { path: path.to_owned() });
        }
        other => other?,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Psk { path: path.to_owned() })?;
    let key = parse_psk(text).ok_or_else(|| KeyError::Psk { path: path.to_owned() })?;
    if Some(key) == base64_key(PUBLISHED_PSK) {
        return Err(KeyError::PublishedPsk { path: path.to_owned() });
    }
    Ok(PreSharedKey::new(key))
}

fn parse_psk(text: &str) -> Option<[u8; 32]> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next()?;
    let key = if first == "/key/swarm/psk/1.0.0/" {
        let encoding = lines.next()?;
        let key = lines.next()?;
        match encoding {
            "/base16/" => hex_key(key),
            "/base64/" => base64_key(key),
            _ => None,
        }
    } else {
        hex_key(first).or_else(|| base64_key(first))
    };
    key.filter(|_| lines.next().is_none())
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
            assert_eq!(parse_psk(&text), Some(key), "{text}");
        }
        for text in
            ["", "00", "/key/swarm/psk/1.0.0/", &format!("{hex}00"), &format!("{hex}\nmore"), "Zürich"]
        {
            assert_eq!(parse_psk(text), None, "{text}");
        }
    }
}
