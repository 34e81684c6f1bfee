use super::expr::{Cmp, CtField, Expr, FibAddr, Meta, Nat, PayloadBase, Verdict};
use super::{Family, RULE_EXPRESSIONS, RULE_USERDATA, UDATA_COMMENT};
use crate::netlink::MessageBuf;

/// `IFNAMSIZ`.
const INTERFACE_NAME_LEN: usize = 16;
/// The type of a route to the host itself, what the kernel's `fib ... type` tells of an own address.
const RTN_LOCAL: u8 = 2;

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

    /// Matches connections in any of the states of [`super::ct_state`].
    #[must_use]
    pub fn ct_state(self, states: u32) -> Self {
        self.expr(Expr::CtState { reg: 0 })
            .expr(Expr::Mask { reg: 0, mask: states.to_ne_bytes().to_vec() })
            .expr(Expr::Cmp { op: Cmp::Neq, reg: 0, data: vec![0; 4] })
    }

    /// Matches connections with any of the bits of [`super::ct_status`].
    #[must_use]
    pub fn ct_status(self, bits: u32) -> Self {
        self.expr(Expr::CtStatus { reg: 0 })
            .expr(Expr::Mask { reg: 0, mask: bits.to_ne_bytes().to_vec() })
            .expr(Expr::Cmp { op: Cmp::Neq, reg: 0, data: vec![0; 4] })
    }

    /// Matches what the first packet of the connection had before it was translated. An address also matches the
    /// address family: a connection of the other one ends the rule.
    #[must_use]
    pub fn ct_original(self, field: CtField, op: Cmp, value: &[u8]) -> Self {
        self.expr(Expr::CtOriginal { field, reg: 0 }).expr(Expr::Cmp { op, reg: 0, data: value.to_vec() })
    }

    /// Matches packets whose address is one of the host's own, in any table.
    #[must_use]
    pub fn local(self, addr: FibAddr) -> Self {
        self.expr(Expr::FibType { addr, reg: 0 }).expr(Expr::Cmp {
            op: Cmp::Eq,
            reg: 0,
            data: u32::from(RTN_LOCAL).to_ne_bytes().to_vec(),
        })
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

    /// Translates the source to the address of the output interface; flags of [`super::nat_flags`].
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
