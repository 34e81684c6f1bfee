//! nftables: transactions ([`Batch`]), reading back, and news of what others change ([`Watch`]).
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`. Registers are named by their index among the sixteen 32-bit
//! registers, so a concatenated key lies in consecutive registers, one per started four bytes of each part.

mod batch;
mod expr;
mod read;
mod rule;
mod set;
mod watch;

pub use batch::{Batch, Committed};
pub use expr::{
    Cmp, CtField, Expr, FibAddr, LearnOp, Meta, Nat, PayloadBase, Reject, Verdict, ct_state, ct_status,
    nat_flags,
};
pub use read::{BaseChain, ChainState, RuleState, SetState, TableState};
pub use rule::Rule;
pub use set::{Data, Element, KeyType, Learned, Set, SetOptions, concat, prefixes};
pub use watch::{Touched, Watch};

use super::{NetlinkError, NetlinkSocket};

const SUBSYSTEM: u16 = 10;

const MSG_NEWTABLE: u16 = 0;
const MSG_GETTABLE: u16 = 1;
const MSG_DELTABLE: u16 = 2;
const MSG_NEWCHAIN: u16 = 3;
const MSG_GETCHAIN: u16 = 4;
const MSG_DELCHAIN: u16 = 5;
const MSG_NEWRULE: u16 = 6;
const MSG_GETRULE: u16 = 7;
const MSG_DELRULE: u16 = 8;
const MSG_NEWSET: u16 = 9;
const MSG_GETSET: u16 = 10;
const MSG_DELSET: u16 = 11;
const MSG_NEWSETELEM: u16 = 12;
const MSG_GETSETELEM: u16 = 13;
const MSG_DELSETELEM: u16 = 14;
const MSG_NEWGEN: u16 = 15;
const MSG_GETGEN: u16 = 16;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUM: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESC: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
const SET_DESC_SIZE: u16 = 1;
const SET_DESC_CONCAT: u16 = 2;
const SET_FIELD_LEN: u16 = 1;
const SET_FLAG_INTERVAL: u32 = 4;
const SET_FLAG_MAP: u32 = 8;
const SET_FLAG_TIMEOUT: u32 = 0x10;
const SET_FLAG_EVAL: u32 = 0x20;
const SET_FLAG_CONCAT: u32 = 0x80;
const ELEM_LIST_TABLE: u16 = 1;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_TIMEOUT: u16 = 4;
const ELEM_EXPIRATION: u16 = 5;
const ELEM_KEY_END: u16 = 10;
const ELEM_FLAG_INTERVAL_END: u32 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const GEN_ID: u16 = 1;
/// Userdata is a list of (type, length, value) bytes; type 0 of a rule is its comment (libnftnl `udata.h`).
const UDATA_COMMENT: u8 = 0;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Any other `NFPROTO_*`, only read.
    Other(u8),
}

impl Family {
    /// `NFPROTO_*`.
    pub fn code(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Inet,
            2 => Self::Ip,
            10 => Self::Ip6,
            other => Self::Other(other),
        }
    }
}

/// A table's name: what every object of nftables belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// Address family.
    pub family: Family,
    /// Name.
    pub name: &'a str,
}

/// Where in the stack a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "netfilter's own names")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    /// `NF_INET_*`.
    pub fn code(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainKind {
    /// Verdicts.
    Filter,
    /// Address translation, for the first packet of a connection.
    Nat,
    /// Verdicts, and routing anew when a packet was changed.
    Route,
}

impl ChainKind {
    /// nftables' word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// A base chain's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// In which order with others at the same hook, lowest first.
    pub priority: i32,
    /// What happens to packets that no rule decides; true drops them.
    pub drop: bool,
}

/// A chain; without a base it is only jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Name, unique in the table.
    pub name: &'a str,
    /// Where it is called.
    pub base: Option<Base>,
}

/// Reads and changes nftables of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: NetlinkSocket,
}

impl Nft {
    /// A handle on the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: NetlinkSocket::open(libc::NETLINK_NETFILTER)? })
    }
}

fn message_type(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// `struct nfgenmsg`.
fn nfgen(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}
