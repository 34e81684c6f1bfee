//! Services whose address is replaced when a socket of the host connects, so that no packet needs translation.
//!
//! Two programs of BPF for each family: one looks a connection's destination up and puts an endpoint in its place, the
//! other tells the client who asks for its peer the address that it asked for. They are values here; the kernel gets
//! them from `edgemesh-intercept`. What they do not find, they leave to the rules, which say the same: so every doubt is
//! settled by doing nothing.
//!
//! Only TCP: a socket of UDP that is connected stays with its endpoint when that is gone, where the kernel's rules lead it to
//! another. Only sockets of the host's own network namespace: another may be a whole node of another cluster, whose
//! Services have the same addresses.

mod asm;
mod program;

use std::net::{IpAddr, SocketAddr};

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_route::Via;

pub use asm::{
    ADD_IMM, CALL, Call, EXIT, FP, Insn, JEQ_IMM, JNE, JNE_IMM, LOAD_IMM64, LOAD32, MAP_FD, MOD32, MOV,
    MOV_IMM, Program, Reg, STORE32, STORE32_IMM, STORE64,
};
pub use program::{context, peer_name, rewrite};

use crate::{Ruleset, Steer};

/// Bytes of an address with its port: 16 of the address, an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2), and the port
/// in the network's order in a word of its own.
pub const END_LEN: usize = 20;
/// Bytes of what a frontend leads to: [`Target`].
pub const TARGET_LEN: usize = 8;
/// Bytes of the key of an endpoint: the target's number and a slot.
pub const SLOT_LEN: usize = 8;
/// Bytes of what is known of a socket: the address it asked for, and the one it got.
pub const PEER_LEN: usize = 2 * END_LEN;

/// The descriptors of the maps that the programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maps {
    /// From an [end](end) to a [`Target`].
    pub frontends: i32,
    /// From [a slot](slot) to an [end](end).
    pub backends: i32,
    /// From a socket's cookie to two ends.
    pub peers: i32,
}

/// What a frontend leads to. Every change gets a number of its own, so that a program that has read the old one finds
/// either all of its endpoints or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The number.
    pub number: u32,
    /// How many endpoints it has.
    pub count: u32,
}

impl Target {
    /// As the maps hold it.
    pub fn bytes(self) -> [u8; TARGET_LEN] {
        pair(self.number, self.count)
    }
}

/// The key of an endpoint.
pub fn slot(number: u32, slot: u32) -> [u8; SLOT_LEN] {
    pair(number, slot)
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// An address with its port.
pub fn end(addr: SocketAddr) -> [u8; END_LEN] {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; END_LEN];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&u32::from(addr.port().to_be()).to_ne_bytes());
    bytes
}

/// Why connections to a frontend are left to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It is not of TCP.
    Protocol,
    /// The proxy carries some or all, or nobody does.
    NotTheKernels,
    /// Clients stay with their endpoint.
    Sessions,
    /// A traffic policy is not for this node and its Pods.
    LocalPolicy,
    /// Only some sources may connect.
    SourceRanges,
}

impl Left {
    /// The words of `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "only TCP is",
            Self::NotTheKernels => "not all of its connections are the kernel's",
            Self::Sessions => "its clients have sessions",
            Self::LocalPolicy => "its traffic policy depends on the client",
            Self::SourceRanges => "it has source ranges",
        }
    }
}

impl Ruleset {
    /// The endpoints among which a socket of the host chooses when it connects, or why packets are translated instead.
    pub fn at_connect(&self, frontend: &Frontend) -> Result<&[(SocketAddr, Via)], Left> {
        if frontend.protocol != Protocol::Tcp {
            return Err(Left::Protocol);
        }
        match self.frontends.get(frontend) {
            Some(Steer::Kernel(spread)) if spread.proxied == 0 => match () {
                () if spread.affinity.is_some() => Err(Left::Sessions),
                () if spread.inside => Err(Left::LocalPolicy),
                () if self.restricted.contains_key(frontend) => Err(Left::SourceRanges),
                () => Ok(&spread.endpoints),
            },
            _ => Err(Left::NotTheKernels),
        }
    }
}
