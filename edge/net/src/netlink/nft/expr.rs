use std::time::Duration;

use super::set::{millis, write_value, write_verdict};
use super::{EXPR_DATA, EXPR_NAME, Family, LIST_ELEM};
use crate::netlink::MessageBuf;

const REG_VERDICT: u32 = 0;
/// The first of the sixteen 32-bit registers (`NFT_REG32_00`).
const REG32_00: u32 = 8;
/// `enum nft_ct_keys`.
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `enum ip_conntrack_dir`.
const CT_DIR_ORIGINAL: u8 = 0;
/// `enum nft_hash_types`.
const HASH_JENKINS: u32 = 0;
/// `enum nft_fib_result`.
const FIB_RESULT_ADDRTYPE: u32 = 3;

/// Bits of `ct state` (`NF_CT_STATE_BIT`).
pub mod ct_state {
    /// Matches nothing known.
    pub const INVALID: u32 = 1;
    /// Packets were seen in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection, such as an ICMP error.
    pub const RELATED: u32 = 4;
    /// First packet.
    pub const NEW: u32 = 8;
    /// Exempt from tracking.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status` and of a conntrack entry (`enum ip_conntrack_status`).
pub mod ct_status {
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: u32 = 2;
    /// Not given up early when the table is full.
    pub const ASSURED: u32 = 4;
    /// The first packet left the host or reached a socket.
    pub const CONFIRMED: u32 = 8;
    /// The source is translated.
    pub const SRC_NAT: u32 = 0x10;
    /// The destination is translated.
    pub const DST_NAT: u32 = 0x20;
    /// It was decided whether the source is translated.
    pub const SRC_NAT_DONE: u32 = 0x80;
    /// It was decided whether the destination is translated.
    pub const DST_NAT_DONE: u32 = 0x100;
    /// Deleted, and held only by packets under way.
    pub const DYING: u32 = 0x200;
    /// Its packets go through a flow table.
    pub const OFFLOAD: u32 = 0x4000;
}

/// Flags of translations (`NF_NAT_RANGE_*`).
pub mod nat_flags {
    /// A random port, hashed by the destination.
    pub const RANDOM: u32 = 4;
    /// One client keeps one address.
    pub const PERSISTENT: u32 = 8;
    /// A random port for every connection.
    pub const FULLY_RANDOM: u32 = 16;
}

/// Properties of a packet that are not in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum Meta {
    Priority,
    Mark,
    Iif,
    Oif,
    Iifname,
    Oifname,
    Nfproto,
    L4proto,
}

impl Meta {
    fn code(self) -> u32 {
        match self {
            Self::Priority => 2,
            Self::Mark => 3,
            Self::Iif => 4,
            Self::Oif => 5,
            Self::Iifname => 6,
            Self::Oifname => 7,
            Self::Nfproto => 15,
            Self::L4proto => 16,
        }
    }
}

/// Where an offset into the packet counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum PayloadBase {
    Link,
    Network,
    Transport,
}

/// How a register is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum Cmp {
    Eq,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// TCP reset.
    TcpReset,
    /// ICMP or ICMPv6 port unreachable.
    PortUnreachable,
    /// ICMP or ICMPv6 host (address) unreachable.
    HostUnreachable,
    /// ICMP or ICMPv6 administratively prohibited.
    AdminProhibited,
}

/// Which address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum Nat {
    Snat,
    Dnat,
}

/// A part of a connection's original tuple: what its first packet had before it was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtField {
    /// IPv4 source; a connection of another family ends the rule.
    Saddr4,
    /// IPv4 destination; a connection of another family ends the rule.
    Daddr4,
    /// IPv6 source; a connection of another family ends the rule.
    Saddr6,
    /// IPv6 destination; a connection of another family ends the rule.
    Daddr6,
    /// Source port.
    ProtoSrc,
    /// Destination port.
    ProtoDst,
}

impl CtField {
    /// `enum nft_ct_keys`; those with an address family need Linux 4.17.
    fn code(self) -> u32 {
        match self {
            Self::ProtoSrc => 11,
            Self::ProtoDst => 12,
            Self::Saddr4 => 19,
            Self::Daddr4 => 20,
            Self::Saddr6 => 21,
            Self::Daddr6 => 22,
        }
    }
}

/// Which address of a packet is looked up in the routing tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "nftables' own names")]
pub enum FibAddr {
    Saddr,
    Daddr,
}

/// What becomes of a key that is in the set already (`enum nft_dynset_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnOp {
    /// It stays as it is.
    Add,
    /// Its time starts anew. Its value stays; only one that is not there gets the value of the packet.
    Update,
    /// It is deleted; a key that is not there ends the rule (Linux 5.1).
    Delete,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Goes on to the next chain of the hook.
    Accept,
    /// Ends here.
    Drop,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes on in another chain, and comes back to where this chain was jumped to from.
    Goto(String),
    /// Goes back to the chain it came from.
    Return,
    /// Any other code, only read.
    Other(i32),
}

/// One expression of a rule. Registers are indices 0 to 15.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are nftables' own")]
pub enum Expr {
    Meta {
        key: Meta,
        reg: u32,
    },
    Payload {
        base: PayloadBase,
        offset: u32,
        len: u32,
        reg: u32,
    },
    Cmp {
        op: Cmp,
        reg: u32,
        data: Vec<u8>,
    },
    /// `reg = reg & mask`.
    Mask {
        reg: u32,
        mask: Vec<u8>,
    },
    /// Continues when the key from `reg` on is in the set, or is not; in a map, the value is put to `value`.
    Lookup {
        set: String,
        reg: u32,
        invert: bool,
        value: Option<u32>,
    },
    /// Ends in the verdict that the map made by [`super::Batch::add_verdict_map`] has for the key from `reg` on;
    /// continues when there is none.
    VerdictMap {
        set: String,
        reg: u32,
    },
    Immediate {
        reg: u32,
        data: Vec<u8>,
    },
    CtState {
        reg: u32,
    },
    /// Bits of [`ct_status`].
    CtStatus {
        reg: u32,
    },
    /// What the connection's first packet had before it was translated.
    CtOriginal {
        field: CtField,
        reg: u32,
    },
    /// `dreg` becomes Jenkins' hash of `len` bytes from `sreg` on, below `modulus`; equal seeds give equal hashes.
    Jhash {
        sreg: u32,
        len: u32,
        dreg: u32,
        modulus: u32,
        seed: u32,
    },
    /// `reg` becomes the type (`RTN_*`, in the host's byte order) of the route to an address.
    FibType {
        addr: FibAddr,
        reg: u32,
    },
    /// Counts up, or draws, below `modulus`.
    Numgen {
        reg: u32,
        modulus: u32,
        random: bool,
    },
    /// Counts up below `modulus`, from `offset` on.
    NumgenFrom {
        reg: u32,
        modulus: u32,
        offset: u32,
    },
    /// Turns a 16-bit number from the host's byte order into the network's.
    HtonU16 {
        reg: u32,
    },
    /// Sets a property to what the register has.
    MetaSet {
        key: Meta,
        reg: u32,
    },
    /// Remembers a key, in a map with a value, in a set made by [`super::Batch::add_learned_map`]. A full set ends
    /// the rule.
    Learn {
        op: LearnOp,
        set: String,
        key: u32,
        value: Option<u32>,
        /// How long the element lives, in place of what the set says; only in sets with a timeout.
        timeout: Option<Duration>,
    },
    Counter,
    Notrack,
    Tproxy {
        family: Family,
        addr: u32,
        port: u32,
    },
    Reject(Reject),
    Masquerade {
        flags: u32,
    },
    Nat {
        kind: Nat,
        family: Family,
        addr: u32,
        port: Option<u32>,
        flags: u32,
    },
    Verdict(Verdict),
}

impl Expr {
    /// nftables' name of the expression.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::CtState { .. } | Self::CtStatus { .. } | Self::CtOriginal { .. } => "ct",
            Self::Jhash { .. } => "hash",
            Self::FibType { .. } => "fib",
            Self::Numgen { .. } | Self::NumgenFrom { .. } => "numgen",
            Self::HtonU16 { .. } => "byteorder",
            Self::Learn { .. } => "dynset",
            Self::Counter => "counter",
            Self::Notrack => "notrack",
            Self::Tproxy { .. } => "tproxy",
            Self::Reject(_) => "reject",
            Self::Masquerade { .. } => "masq",
            Self::Nat { .. } => "nat",
        }
    }

    pub(super) fn write(&self, message: &mut MessageBuf) {
        message.nest(LIST_ELEM, |message| {
            message.attr_str(EXPR_NAME, self.name());
            message.nest(EXPR_DATA, |message| self.write_fields(message));
        });
    }

    fn write_fields(&self, message: &mut MessageBuf) {
        match self {
            Self::Meta { key, reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, key.code());
            }
            Self::MetaSet { key, reg } => {
                message.attr_be32(2, key.code());
                message.attr_be32(3, REG32_00 + reg);
            }
            Self::Payload { base, offset, len, reg } => {
                let base = match base {
                    PayloadBase::Link => 0,
                    PayloadBase::Network => 1,
                    PayloadBase::Transport => 2,
                };
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, base);
                message.attr_be32(3, *offset);
                message.attr_be32(4, *len);
            }
            Self::Cmp { op, reg, data } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, *op as u32);
                write_value(message, 3, data);
            }
            Self::Mask { reg, mask } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, REG32_00 + reg);
                message.attr_be32(3, u32::try_from(mask.len()).expect("masks fit in registers"));
                write_value(message, 4, mask);
                write_value(message, 5, &vec![0; mask.len()]);
            }
            Self::Lookup { set, reg, invert, value } => {
                message.attr_str(1, set);
                message.attr_be32(2, REG32_00 + reg);
                if let Some(value) = value {
                    message.attr_be32(3, REG32_00 + value);
                }
                if *invert {
                    message.attr_be32(5, 1);
                }
            }
            Self::VerdictMap { set, reg } => {
                message.attr_str(1, set);
                message.attr_be32(2, REG32_00 + reg);
                message.attr_be32(3, REG_VERDICT);
            }
            Self::Immediate { reg, data } => {
                message.attr_be32(1, REG32_00 + reg);
                write_value(message, 2, data);
            }
            Self::CtState { .. } | Self::CtStatus { .. } | Self::CtOriginal { .. } => self.write_ct(message),
            Self::Jhash { sreg, len, dreg, modulus, seed } => {
                message.attr_be32(1, REG32_00 + sreg);
                message.attr_be32(2, REG32_00 + dreg);
                message.attr_be32(3, *len);
                message.attr_be32(4, *modulus);
                message.attr_be32(5, *seed);
                message.attr_be32(7, HASH_JENKINS);
            }
            Self::FibType { addr, reg } => {
                let flags = match addr {
                    FibAddr::Saddr => 1,
                    FibAddr::Daddr => 2,
                };
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, FIB_RESULT_ADDRTYPE);
                message.attr_be32(3, flags);
            }
            Self::Numgen { reg, modulus, random } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, *modulus);
                message.attr_be32(3, u32::from(*random));
            }
            Self::NumgenFrom { .. } | Self::HtonU16 { .. } | Self::Learn { .. } => {
                self.write_learning(message)
            }
            Self::Counter | Self::Notrack => {}
            Self::Tproxy { .. } | Self::Reject(_) | Self::Masquerade { .. } | Self::Nat { .. } => {
                self.write_target(message);
            }
            Self::Verdict(verdict) => {
                message.attr_be32(1, REG_VERDICT);
                message.nest(2, |message| write_verdict(message, verdict));
            }
        }
    }

    fn write_ct(&self, message: &mut MessageBuf) {
        match self {
            Self::CtState { reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, CT_STATE);
            }
            Self::CtStatus { reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, CT_STATUS);
            }
            Self::CtOriginal { field, reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, field.code());
                message.attr(3, &[CT_DIR_ORIGINAL]);
            }
            _ => {}
        }
    }

    fn write_learning(&self, message: &mut MessageBuf) {
        match self {
            Self::NumgenFrom { reg, modulus, offset } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, *modulus);
                message.attr_be32(3, 0);
                message.attr_be32(4, *offset);
            }
            Self::HtonU16 { reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, REG32_00 + reg);
                message.attr_be32(3, 1);
                message.attr_be32(4, 2);
                message.attr_be32(5, 2);
            }
            Self::Learn { op, set, key, value, timeout } => {
                message.attr_str(1, set);
                message.attr_be32(3, *op as u32);
                message.attr_be32(4, REG32_00 + key);
                if let Some(value) = value {
                    message.attr_be32(5, REG32_00 + value);
                }
                if let Some(timeout) = timeout {
                    message.attr(6, &millis(*timeout));
                }
            }
            _ => {}
        }
    }

    fn write_target(&self, message: &mut MessageBuf) {
        match self {
            Self::Tproxy { family, addr, port } => {
                message.attr_be32(1, u32::from(family.code()));
                message.attr_be32(2, REG32_00 + addr);
                message.attr_be32(3, REG32_00 + port);
            }
            Self::Reject(reject) => {
                // Codes of the family-independent kind are `NFT_REJECT_ICMPX_*`.
                let (kind, code) = match reject {
                    Reject::TcpReset => (1, 0u8),
                    Reject::PortUnreachable => (2, 1),
                    Reject::HostUnreachable => (2, 2),
                    Reject::AdminProhibited => (2, 3),
                };
                message.attr_be32(1, kind);
                message.attr(2, &[code]);
            }
            Self::Masquerade { flags } if *flags != 0 => message.attr_be32(1, *flags),
            Self::Nat { kind, family, addr, port, flags } => {
                message.attr_be32(1, *kind as u32);
                message.attr_be32(2, u32::from(family.code()));
                message.attr_be32(3, REG32_00 + addr);
                if let Some(port) = port {
                    message.attr_be32(5, REG32_00 + port);
                }
                if *flags != 0 {
                    message.attr_be32(7, *flags);
                }
            }
            _ => {}
        }
    }
}
