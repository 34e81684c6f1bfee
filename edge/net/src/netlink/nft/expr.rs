use super::{
    DATA_VALUE, EXPR_DATA, EXPR_NAME, Family, LIST_ELEM, RULE_EXPRESSIONS, RULE_USERDATA, UDATA_COMMENT,
};
use crate::netlink::MessageBuf;

const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const REG_VERDICT: u32 = 0;
/// The first of the sixteen 32-bit registers (`NFT_REG32_00`).
const REG32_00: u32 = 8;
/// `IFNAMSIZ`.
const INTERFACE_NAME_LEN: usize = 16;

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

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the next chain of the hook.
    Accept,
    /// Ends here.
    Drop,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes back to the chain it came from.
    Return,
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
    Immediate {
        reg: u32,
        data: Vec<u8>,
    },
    CtState {
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
    /// Remembers a key with a value in a map made by [`super::Batch::add_learned_map`]; a key that is there keeps
    /// its value.
    Learn {
        set: String,
        key: u32,
        value: u32,
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
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::CtState { .. } => "ct",
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

    fn write(&self, message: &mut MessageBuf) {
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
            Self::Immediate { reg, data } => {
                message.attr_be32(1, REG32_00 + reg);
                write_value(message, 2, data);
            }
            Self::CtState { reg } => {
                message.attr_be32(1, REG32_00 + reg);
                message.attr_be32(2, 0);
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
            Self::Verdict(verdict) => write_verdict(message, verdict),
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
            Self::Learn { set, key, value } => {
                message.attr_str(1, set);
                message.attr_be32(3, 0);
                message.attr_be32(4, REG32_00 + key);
                message.attr_be32(5, REG32_00 + value);
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

fn write_value(message: &mut MessageBuf, kind: u16, data: &[u8]) {
    message.nest(kind, |message| message.attr(DATA_VALUE, data));
}

fn write_verdict(message: &mut MessageBuf, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Return => (-5, None),
    };
    message.attr_be32(1, REG_VERDICT);
    message.nest(2, |message| {
        message.nest(DATA_VERDICT, |message| {
            message.attr_be32(VERDICT_CODE, i32::cast_unsigned(code));
            if let Some(chain) = chain {
                message.attr_str(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// A rule under construction: each method appends an expression or a matching pair of them. Register 0 is used
/// for single values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The expressions, evaluated in order until one does not match.
    pub exprs: Vec<Expr>,
    /// Shown by `nft list`.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule that matches every packet and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an expression.
    #[must_use]
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// Sets the comment; at most 128 bytes of it are kept (libnftnl's limit).
    #[must_use]
    pub fn comment(mut self, comment: &str) -> Self {
        let end = comment.floor_char_boundary(127);
        self.comment = Some(comment[..end].to_owned());
        self
    }

    /// Matches a property.
    #[must_use]
    pub fn meta(self, key: Meta, op: Cmp, value: &[u8]) -> Self {
        self.expr(Expr::Meta { key, reg: 0 }).expr(Expr::Cmp { op, reg: 0, data: value.to_vec() })
    }

    /// Matches the input interface by name.
    #[must_use]
    pub fn iifname(self, name: &str) -> Self {
        self.meta(Meta::Iifname, Cmp::Eq, &interface(name))
    }

    /// Matches the output interface by name.
    #[must_use]
    pub fn oifname(self, name: &str) -> Self {
        self.meta(Meta::Oifname, Cmp::Eq, &interface(name))
    }

    /// Matches IPv4 or IPv6 packets in an `inet` table.
    #[must_use]
    pub fn nfproto(self, family: Family) -> Self {
        self.meta(Meta::Nfproto, Cmp::Eq, &[family.code()])
    }

    /// Matches the transport protocol, `IPPROTO_*`.
    #[must_use]
    pub fn l4proto(self, op: Cmp, proto: u8) -> Self {
        self.meta(Meta::L4proto, op, &[proto])
    }

    /// Matches bytes of the packet.
    #[must_use]
    pub fn payload(self, base: PayloadBase, offset: u32, op: Cmp, value: &[u8]) -> Self {
        let len = u32::try_from(value.len()).expect("values fit in registers");
        self.expr(Expr::Payload { base, offset, len, reg: 0 }).expr(Expr::Cmp {
            op,
            reg: 0,
            data: value.to_vec(),
        })
    }

    /// Matches connections in any of the states of [`ct_state`].
    #[must_use]
    pub fn ct_state(self, states: u32) -> Self {
        self.expr(Expr::CtState { reg: 0 })
            .expr(Expr::Mask { reg: 0, mask: states.to_ne_bytes().to_vec() })
            .expr(Expr::Cmp { op: Cmp::Neq, reg: 0, data: vec![0; 4] })
    }

    /// Counts packets and bytes.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expr(Expr::Counter)
    }

    /// Ends in a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// Accepts.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// Drops.
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// Translates the source to the address of the output interface; flags of [`nat_flags`].
    #[must_use]
    pub fn masquerade(self, flags: u32) -> Self {
        self.expr(Expr::Masquerade { flags })
    }

    /// Translates to an address, and a port if given.
    #[must_use]
    pub fn nat(self, kind: Nat, to: std::net::IpAddr, port: Option<u16>) -> Self {
        // An IPv6 address takes the registers 0 to 3.
        let (family, addr) = match to {
            std::net::IpAddr::V4(to) => (Family::Ip, to.octets().to_vec()),
            std::net::IpAddr::V6(to) => (Family::Ip6, to.octets().to_vec()),
        };
        let mut rule = self.expr(Expr::Immediate { reg: 0, data: addr });
        if let Some(port) = port {
            rule = rule.expr(Expr::Immediate { reg: 4, data: port.to_be_bytes().to_vec() });
        }
        rule.expr(Expr::Nat { kind, family, addr: 0, port: port.map(|_| 4), flags: 0 })
    }

    pub(super) fn write(&self, message: &mut MessageBuf) {
        message.nest(RULE_EXPRESSIONS, |message| {
            for expr in &self.exprs {
                expr.write(message);
            }
        });
        if let Some(comment) = &self.comment {
            let len = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
            let mut userdata = vec![UDATA_COMMENT, len];
            userdata.extend_from_slice(comment.as_bytes());
            userdata.push(0);
            message.attr(RULE_USERDATA, &userdata);
        }
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_LEN, 0);
    bytes
}
