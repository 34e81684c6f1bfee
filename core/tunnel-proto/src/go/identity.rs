//! Identities made from names, and the key of the private network.

use super::digest::{md5, sha256};
use super::random::Random;

/// The Ed25519 seed of the agent on a node of this name. Its key is the only one a Go agent has, and anybody can make
/// it: it proves no more than that its holder is in the private network.
pub fn identity_seed(node: &str) -> [u8; 32] {
    let [a, b, c, d, e, f, g, h, ..] = md5(node.as_bytes());
    Random::new(i64::from_be_bytes([a, b, c, d, e, f, g, h])).read()
}

/// The private network's key that Go agents make from the bytes of the key file, whatever they are: SHA-256 as
/// hexadecimal digits, and these read as if they were base64.
pub fn private_network_key(file: &[u8]) -> [u8; 32] {
    let digits: Vec<u32> = sha256(file)
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(|digit| symbol(digit.into()))
        .collect();
    let mut key = [0; 32];
    // Four symbols of six bits are three bytes; of the 48 bytes the first 32 are the key.
    for (bytes, symbols) in key.chunks_mut(3).zip(digits.chunks_exact(4)) {
        let bits = symbols.iter().fold(0, |bits, symbol| bits << 6 | symbol);
        bytes.copy_from_slice(&bits.to_be_bytes()[1..][..bytes.len()]);
    }
    key
}

/// What a hexadecimal digit counts in base64 (RFC 4648): `0` to `9` are 52 to 61, `a` to `f` 26 to 31.
fn symbol(digit: u32) -> u32 {
    if digit < 10 { 52 + digit } else { 26 + digit - 10 }
}
