use std::net::IpAddr;

use edgemesh_mesh::Frontend;

use super::sets::protocol;
use super::{Chains, PREFIX};
use crate::{Family, Ruleset, Spread, Steer};

/// The root of the tree, in which a packet finds the chain of its frontend.
pub(super) const ROOT: &str = "EDGEMESH-FRONTENDS";

/// Most frontends of one chain of the tree. A node with more branches into 16, so both meet as many rules.
const LEAF: usize = 16;

/// Chains of the frontends the kernel translates, and the tree that leads to them.
pub(super) fn chains(ruleset: &Ruleset, family: Family) -> Chains {
    let mut chains = Chains::new();
    let mut leaves: Vec<(Vec<u8>, &Frontend)> = Vec::new();
    for (frontend, steer) in &ruleset.frontends {
        if Family::of(frontend.ip) != family {
            continue;
        }
        if let Steer::Kernel(spread) = steer {
            chains.insert(chain_of(frontend), endpoints(frontend, spread));
            leaves.push((path(frontend), frontend));
        }
    }
    if !leaves.is_empty() {
        branch(&mut chains, ROOT.to_owned(), 0, &leaves);
    }
    chains
}

/// Where a frontend lies in the tree: the address's four-bit digits from the last one on, because addresses of one range
/// share the first ones, then the port's from the first one on, because rules can tell ranges of ports.
fn path(frontend: &Frontend) -> Vec<u8> {
    let octets = match frontend.ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let digits = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
    let ports = frontend.port.to_be_bytes();
    digits.chain(ports.iter().flat_map(|octet| [octet >> 4, octet & 15])).collect()
}

/// One node of the tree. A digit that is the same everywhere is no branch.
fn branch(chains: &mut Chains, name: String, mut depth: usize, leaves: &[(Vec<u8>, &Frontend)]) {
    let Some((first, _)) = leaves.first() else { return };
    let all_share = |depth: usize| leaves.iter().all(|(path, _)| path.get(depth) == first.get(depth));
    while depth < first.len() && all_share(depth) {
        depth += 1;
    }
    if leaves.len() <= LEAF || depth == first.len() {
        let rules = leaves.iter().map(|(_, it)| format!("{} -j {}", to(it), chain_of(it)));
        chains.insert(name, rules.collect());
        return;
    }
    let mut rules = Vec::new();
    for digit in 0..16 {
        let own: Vec<_> =
            leaves.iter().filter(|(path, _)| path.get(depth) == Some(&digit)).cloned().collect();
        let Some((path, frontend)) = own.first() else { continue };
        let trail =
            path.iter().take(depth + 1).fold(String::new(), |trail, digit| format!("{trail}{digit:x}"));
        let child = format!("{PREFIX}AT-{}", digest(&trail));
        rules.extend(test(frontend, path, depth).into_iter().map(|test| format!("{test} -g {child}")));
        branch(chains, child, depth + 1, &own);
    }
    chains.insert(name, rules);
}

/// What tells packets whose digit at this depth is that of the frontend.
fn test(frontend: &Frontend, path: &[u8], depth: usize) -> Vec<String> {
    let digit = path.get(depth).copied().unwrap_or_default();
    let digits = match frontend.ip {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 32,
    };
    if let Some(place) = depth.checked_sub(digits) {
        // The port's digits before this one are known from the nodes above, or the same everywhere.
        let shift = 12 - 4 * place;
        let low = frontend.port >> shift << shift;
        let high = low | ((1u16 << shift) - 1);
        let range = if low == high { low.to_string() } else { format!("{low}:{high}") };
        let protocols = ["tcp", "udp", "sctp"];
        return protocols.iter().map(|it| format!("-p {it} -m {it} --dport {range}")).collect();
    }
    let shift = 4 * depth;
    let masked = match frontend.ip {
        IpAddr::V4(_) => {
            let (value, mask) = (u32::from(digit) << shift, 0xf_u32 << shift);
            format!("-d {}/{}", std::net::Ipv4Addr::from_bits(value), std::net::Ipv4Addr::from_bits(mask))
        }
        IpAddr::V6(_) => {
            let (value, mask) = (u128::from(digit) << shift, 0xf_u128 << shift);
            format!("-d {}/{}", std::net::Ipv6Addr::from_bits(value), std::net::Ipv6Addr::from_bits(mask))
        }
    };
    vec![masked]
}

/// What tells packets to a frontend.
fn to(frontend: &Frontend) -> String {
    let Frontend { ip, port, .. } = frontend;
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let protocol = protocol(frontend.protocol);
    format!("-d {ip}/{length} -p {protocol} -m {protocol} --dport {port}")
}

fn chain_of(frontend: &Frontend) -> String {
    format!("{PREFIX}SVC-{}", digest(&frontend.to_string()))
}

/// Picks an endpoint: that of the client's session, or one by lot. A list of clients ends with the last rule that names
/// it, so a session does not outlive its endpoint; the kernel keeps the newest hundred clients of each (`xt_recent`'s
/// `ip_list_tot`).
fn endpoints(frontend: &Frontend, spread: &Spread) -> Vec<String> {
    let mut rules = Vec::new();
    let protocol = protocol(frontend.protocol);
    let list = |addr| format!("{PREFIX}{}", digest(&format!("{frontend} {addr}")));
    let dnat = |addr| format!("-p {protocol} -j DNAT --to-destination {addr}");
    let seconds = spread.pick().affinity;
    if seconds > 0 {
        for (addr, _) in spread.endpoints.iter() {
            let list = list(addr);
            let session = format!("-m recent --update --seconds {seconds} --reap --name {list} --rsource");
            rules.push(format!("{session} {}", dnat(addr)));
        }
    }
    let mut left = u32::try_from(spread.endpoints.len()).unwrap_or(u32::MAX);
    for (addr, _) in spread.endpoints.iter() {
        let lot = match left {
            0 | 1 => String::new(),
            // Of those that came so far, each gets its share of what is left.
            _ => format!("-m statistic --mode random --probability {:.11} ", 1.0 / f64::from(left)),
        };
        let begin = match seconds {
            0 => String::new(),
            _ => format!("-m recent --set --name {} --rsource ", list(addr)),
        };
        rules.push(format!("{lot}{begin}{}", dnat(addr)));
        left = left.saturating_sub(1);
    }
    rules
}

/// Names of chains end at 28 characters, of which 60 bits of a hash take 15.
fn digest(text: &str) -> String {
    format!("{:015X}", hash(text) >> 4)
}

/// FNV-1a, which is the same in every version and on every machine.
fn hash(text: &str) -> u64 {
    let (basis, prime) = (0xcbf2_9ce4_8422_2325_u64, 0x0000_0100_0000_01b3_u64);
    text.bytes().fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(prime))
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn names_are_those_of_fnv() {
        // Test vectors of the hash's authors.
        for (text, expected) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c)] {
            assert_eq!(hash(text), expected, "{text:?}");
        }
    }
}
