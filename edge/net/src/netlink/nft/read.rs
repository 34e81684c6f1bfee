use std::time::Duration;

use super::{
    CHAIN_HANDLE, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, ELEM_LIST_ELEMENTS,
    ELEM_LIST_SET, ELEM_LIST_TABLE, EXPR_NAME, Element, Family, GEN_ID, HOOK_NUM, HOOK_PRIORITY,
    MSG_GETCHAIN, MSG_GETGEN, MSG_GETRULE, MSG_GETSET, MSG_GETSETELEM, MSG_GETTABLE, Nft, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, SET_DATA_LEN, SET_DATA_TYPE, SET_DESC,
    SET_DESC_SIZE, SET_FLAG_EVAL, SET_FLAGS, SET_KEY_LEN, SET_KEY_TYPE, SET_NAME, SET_TABLE, SET_TIMEOUT,
    TABLE_NAME, Table, UDATA_COMMENT, message_type, nfgen,
};
use crate::netlink::message::read_str;
use crate::netlink::{Attrs, NetlinkError};

/// `struct nfgenmsg`.
const NFGEN_LEN: usize = 4;

/// A table as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableState {
    /// Address family.
    pub family: Family,
    /// Name.
    pub name: String,
}

/// A chain as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainState {
    /// Name.
    pub name: String,
    /// Handle, unique in the table.
    pub handle: u64,
    /// `filter`, `nat` or `route`, for base chains.
    pub kind: Option<String>,
    /// Hook number and priority, for base chains.
    pub hook: Option<(u32, i32)>,
    /// Drops what no rule decides.
    pub drop: bool,
}

/// A chain that the stack calls, of any table, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseChain {
    /// Address family of its table, which also says what the number of its hook means.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Name.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Hook number: for `inet`, `ip`, `ip6` and `bridge` as [`super::Hook::code`].
    pub hook: u32,
    /// In which order with others at the same hook, lowest first.
    pub priority: i32,
    /// Drops what no rule decides.
    pub drop: bool,
}

/// A set as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetState {
    /// Name.
    pub name: String,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// nft's number of the key's type.
    pub key_type: u32,
    /// Bytes of the key.
    pub key_len: u32,
    /// nft's number of the value's type, for a map; `0xffffff00` for verdicts.
    pub data_type: Option<u32>,
    /// Bytes of the value, for a map of values.
    pub data_len: Option<u32>,
    /// Most elements, where that is bounded.
    pub size: Option<u32>,
    /// How long elements live that say nothing else.
    pub timeout: Option<Duration>,
}

impl SetState {
    /// Whether rules may change it while packets pass: what is in it then says nothing of who wrote the table.
    pub fn is_learned(&self) -> bool {
        self.flags & SET_FLAG_EVAL != 0
    }
}

/// A rule as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleState {
    /// Chain.
    pub chain: String,
    /// Handle, unique in the table.
    pub handle: u64,
    /// Names of its expressions in order.
    pub expressions: Vec<String>,
    /// Comment.
    pub comment: Option<String>,
    /// The expressions as the kernel encodes them: equal bytes are equal rules, but for counters.
    pub bytes: Vec<u8>,
}

impl Nft {
    /// Counts the changes anybody made to nftables in this namespace.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let payload = self.socket.ask(
            &|| "read nftables generation".to_owned(),
            message_type(MSG_GETGEN),
            &nfgen(0, 0),
            |_| {},
        )?;
        Ok(Attrs::after(&payload, NFGEN_LEN).be32(GEN_ID).unwrap_or_default())
    }

    /// Every table, all families.
    pub fn tables(&mut self) -> Result<Vec<TableState>, NetlinkError> {
        let what = || "list tables".to_owned();
        self.socket.dump(
            &what,
            message_type(MSG_GETTABLE),
            &nfgen(0, 0),
            |_| {},
            |_, payload| {
                let family = Family::from_code(*payload.first()?);
                Some(TableState { family, name: Attrs::after(payload, NFGEN_LEN).str(TABLE_NAME)? })
            },
        )
    }

    /// Every base chain of every table, all families.
    pub fn base_chains(&mut self) -> Result<Vec<BaseChain>, NetlinkError> {
        let what = || "list base chains".to_owned();
        self.socket.dump(
            &what,
            message_type(MSG_GETCHAIN),
            &nfgen(0, 0),
            |_| {},
            |_, payload| read_base_chain(payload),
        )
    }

    /// The chains of a table.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<ChainState>, NetlinkError> {
        self.of_table(table, "chains", MSG_GETCHAIN, CHAIN_TABLE, |attrs| {
            let hook = attrs.nest(CHAIN_HOOK);
            Some(ChainState {
                name: attrs.str(CHAIN_NAME)?,
                handle: attrs.be64(CHAIN_HANDLE)?,
                kind: attrs.str(CHAIN_TYPE),
                hook: hook.be32(HOOK_NUM).zip(hook.be32(HOOK_PRIORITY).map(u32::cast_signed)),
                drop: attrs.be32(CHAIN_POLICY) == Some(0),
            })
        })
    }

    /// The sets of a table.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<SetState>, NetlinkError> {
        self.of_table(table, "sets", MSG_GETSET, SET_TABLE, |attrs| {
            Some(SetState {
                name: attrs.str(SET_NAME)?,
                flags: attrs.be32(SET_FLAGS).unwrap_or_default(),
                key_type: attrs.be32(SET_KEY_TYPE)?,
                key_len: attrs.be32(SET_KEY_LEN)?,
                data_type: attrs.be32(SET_DATA_TYPE),
                data_len: attrs.be32(SET_DATA_LEN).filter(|len| *len > 0),
                size: attrs.nest(SET_DESC).be32(SET_DESC_SIZE).filter(|size| *size > 0),
                timeout: attrs.be64(SET_TIMEOUT).filter(|time| *time > 0).map(Duration::from_millis),
            })
        })
    }

    /// The rules of a table, in the order of chains and of rules within them.
    pub fn rules(&mut self, table: Table<'_>) -> Result<Vec<RuleState>, NetlinkError> {
        self.of_table(table, "rules", MSG_GETRULE, RULE_TABLE, |attrs| {
            let bytes = attrs.get(RULE_EXPRESSIONS).unwrap_or_default();
            Some(RuleState {
                chain: attrs.str(RULE_CHAIN)?,
                handle: attrs.be64(RULE_HANDLE)?,
                expressions: Attrs(bytes).filter_map(|(_, expr)| Attrs(expr).str(EXPR_NAME)).collect(),
                comment: attrs.get(RULE_USERDATA).and_then(comment),
                bytes: bytes.to_vec(),
            })
        })
    }

    /// The elements of a set, in no order. While the kernel resizes the set, which it does in the background after
    /// many changes, some may be missing and others be there twice: read again before acting on a difference.
    pub fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let lists = self.socket.dump(
            &|| format!("list elements of {set}"),
            message_type(MSG_GETSETELEM),
            &nfgen(table.family.code(), 0),
            |message| {
                message.attr_str(ELEM_LIST_TABLE, table.name);
                message.attr_str(ELEM_LIST_SET, set);
            },
            |_, payload| Some(read_elements(Attrs::after(payload, NFGEN_LEN))),
        )?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Dumps objects of a family and keeps those of the table: kernels differ in which of them they filter.
    fn of_table<T>(
        &mut self,
        table: Table<'_>,
        word: &str,
        kind: u16,
        table_attr: u16,
        read: impl Fn(Attrs<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.socket.dump(
            &|| format!("list {word} of table {}", table.name),
            message_type(kind),
            &nfgen(table.family.code(), 0),
            |message| message.attr_str(table_attr, table.name),
            |_, payload| {
                let attrs = Attrs::after(payload, NFGEN_LEN);
                let ours = payload.first() == Some(&table.family.code())
                    && attrs.str(table_attr).as_deref() == Some(table.name);
                if ours { read(attrs) } else { None }
            },
        )
    }
}

/// Reads a chain; `None` for one that is only jumped to.
fn read_base_chain(payload: &[u8]) -> Option<BaseChain> {
    let attrs = Attrs::after(payload, NFGEN_LEN);
    let hook = attrs.nest(CHAIN_HOOK);
    Some(BaseChain {
        family: Family::from_code(*payload.first()?),
        table: attrs.str(CHAIN_TABLE)?,
        name: attrs.str(CHAIN_NAME)?,
        kind: attrs.str(CHAIN_TYPE)?,
        hook: hook.be32(HOOK_NUM)?,
        priority: hook.be32(HOOK_PRIORITY)?.cast_signed(),
        drop: attrs.be32(CHAIN_POLICY) == Some(0),
    })
}

fn read_elements(attrs: Attrs<'_>) -> Vec<Element> {
    attrs.nest(ELEM_LIST_ELEMENTS).filter_map(|(_, element)| Element::read(Attrs(element))).collect()
}

fn comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *kind == UDATA_COMMENT {
            return Some(read_str(value));
        }
        rest = &tail[value.len()..];
    }
    None
}
