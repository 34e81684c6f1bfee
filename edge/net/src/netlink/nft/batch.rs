use super::set::write_set;
use super::{
    Base, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, Chain, ELEM_LIST_ELEMENTS,
    ELEM_LIST_SET, ELEM_LIST_TABLE, EXPR_NAME, Element, HOOK_NUM, HOOK_PRIORITY, LIST_ELEM, Learned,
    MSG_DELCHAIN, MSG_DELRULE, MSG_DELSET, MSG_DELSETELEM, MSG_DELTABLE, MSG_NEWCHAIN, MSG_NEWRULE,
    MSG_NEWSET, MSG_NEWSETELEM, MSG_NEWTABLE, Nft, RULE_CHAIN, RULE_HANDLE, RULE_TABLE, Rule, SET_NAME,
    SET_TABLE, SUBSYSTEM, Set, SetOptions, TABLE_NAME, Table, message_type, nfgen,
};
use crate::netlink::message::{Attrs, HEADER_LEN};
use crate::netlink::socket::Answer;
use crate::netlink::{MessageBuf, NetlinkError};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// The length of an attribute has 16 bits, and the list of elements is one attribute. An element takes below 1 KiB:
/// two keys and a value of 64 bytes at most (`NFT_DATA_VALUE_MAXLEN`), or the name of a chain (`NFT_NAME_MAXLEN`, 256).
const ELEMENT_BYTES_PER_MESSAGE: usize = 48 * 1024;
/// Header and `nfgenmsg` of the messages that begin and end a batch.
const FRAME_LEN: usize = 2 * (HEADER_LEN + 4);

/// Changes that the kernel makes all at once, or none of.
#[derive(Debug, Default)]
pub struct Batch {
    steps: Vec<Step>,
    sets: u32,
}

#[derive(Debug)]
struct Step {
    kind: u16,
    flags: u16,
    family: u8,
    body: MessageBuf,
    what: String,
    /// Adds or deletes elements: may follow in a transaction of its own where one is not enough.
    elements: bool,
}

impl Step {
    fn len(&self) -> usize {
        HEADER_LEN + 4 + self.body.len()
    }
}

/// How a batch was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// 1, unless the host's limit on send buffers forced elements into transactions of their own.
    pub transactions: usize,
    /// Bytes sent.
    pub bytes: usize,
}

impl Batch {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Adds a table, if it is not there.
    pub fn add_table(&mut self, table: Table<'_>) {
        self.step(MSG_NEWTABLE, NLM_F_CREATE, table, format!("add table {}", table.name), |message| {
            message.attr_str(TABLE_NAME, table.name);
        });
    }

    /// Deletes a table with all that is in it; it must be there.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.step(MSG_DELTABLE, 0, table, format!("delete table {}", table.name), |message| {
            message.attr_str(TABLE_NAME, table.name);
        });
    }

    /// Leaves an empty table, whatever there was before. It is added first because deleting what is not there is an
    /// error, and kernels before 6.3 know no other way.
    pub fn replace_table(&mut self, table: Table<'_>) {
        self.add_table(table);
        self.delete_table(table);
        self.add_table(table);
    }

    /// Adds a chain.
    pub fn add_chain(&mut self, table: Table<'_>, chain: Chain<'_>) {
        self.step(MSG_NEWCHAIN, NLM_F_CREATE, table, format!("add chain {}", chain.name), |message| {
            message.attr_str(CHAIN_TABLE, table.name);
            message.attr_str(CHAIN_NAME, chain.name);
            if let Some(Base { kind, hook, priority, drop }) = chain.base {
                message.nest(CHAIN_HOOK, |message| {
                    message.attr_be32(HOOK_NUM, hook.code());
                    message.attr_be32(HOOK_PRIORITY, priority.cast_unsigned());
                });
                message.attr_be32(CHAIN_POLICY, u32::from(!drop));
                message.attr_str(CHAIN_TYPE, kind.as_str());
            }
        });
    }

    /// Deletes an empty chain.
    pub fn delete_chain(&mut self, table: Table<'_>, chain: &str) {
        self.step(MSG_DELCHAIN, 0, table, format!("delete chain {chain}"), |message| {
            message.attr_str(CHAIN_TABLE, table.name);
            message.attr_str(CHAIN_NAME, chain);
        });
    }

    /// Deletes every rule of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        self.step(MSG_DELRULE, 0, table, format!("flush chain {chain}"), |message| {
            message.attr_str(RULE_TABLE, table.name);
            message.attr_str(RULE_CHAIN, chain);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, rule: &Rule) {
        let what = match &rule.comment {
            Some(comment) => format!("add rule to {chain} ({comment})"),
            None => format!("add rule to {chain}"),
        };
        self.step(MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table, what, |message| {
            message.attr_str(RULE_TABLE, table.name);
            message.attr_str(RULE_CHAIN, chain);
            rule.write(message);
        });
    }

    /// Deletes a rule by its handle.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        self.step(MSG_DELRULE, 0, table, format!("delete rule {handle} of {chain}"), |message| {
            message.attr_str(RULE_TABLE, table.name);
            message.attr_str(RULE_CHAIN, chain);
            message.attr(RULE_HANDLE, &handle.to_be_bytes());
        });
    }

    /// Adds a set, or a map when it has data.
    pub fn add_set(&mut self, table: Table<'_>, set: Set<'_>) {
        self.add_set_with(table, set, SetOptions::default());
    }

    /// Adds a map whose data are verdicts ([`super::Expr::VerdictMap`]); `set` has no data of its own.
    pub fn add_verdict_map(&mut self, table: Table<'_>, set: Set<'_>) {
        self.add_set_with(table, set, SetOptions { verdicts: true, ..SetOptions::default() });
    }

    /// Adds a set, or a map when it has data, whose keys are ranges: of a simple key ([`super::prefixes`]), or of any
    /// part of a concatenation ([`Element::to`], Linux 5.6).
    pub fn add_interval_set(&mut self, table: Table<'_>, set: Set<'_>) {
        self.add_set_with(table, set, SetOptions { interval: true, ..SetOptions::default() });
    }

    /// Adds a set, or a map when it has data, that rules fill while packets pass ([`super::Expr::Learn`]).
    pub fn add_learned_map(&mut self, table: Table<'_>, set: Set<'_>, learned: Learned) {
        self.add_set_with(table, set, SetOptions { learned: Some(learned), ..SetOptions::default() });
    }

    /// Adds a set or map that is kept in any way the kernel knows.
    pub fn add_set_with(&mut self, table: Table<'_>, set: Set<'_>, options: SetOptions) {
        self.sets += 1;
        let id = self.sets;
        self.step(MSG_NEWSET, NLM_F_CREATE, table, format!("add set {}", set.name), |message| {
            write_set(message, table.name, set, options, id);
        });
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, table: Table<'_>, set: &str) {
        self.step(MSG_DELSET, 0, table, format!("delete set {set}"), |message| {
            message.attr_str(SET_TABLE, table.name);
            message.attr_str(SET_NAME, set);
        });
    }

    /// Adds elements to a set. In a batch that exceeds the host's send buffer, elements that come last may be
    /// committed after the rest.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(MSG_NEWSETELEM, table, set, elements);
    }

    /// Deletes elements of a set by their keys; each must be there.
    pub fn delete_elements(
        &mut self,
        table: Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) {
        self.elements(MSG_DELSETELEM, table, set, elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        table: Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) {
        let (flags, verb) = match kind {
            MSG_NEWSETELEM => (NLM_F_CREATE, "add elements to"),
            _ => (0, "delete elements of"),
        };
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.step(kind, flags, table, format!("{verb} {set}"), |message| {
                message.attr_str(ELEM_LIST_TABLE, table.name);
                message.attr_str(ELEM_LIST_SET, set);
                message.nest(ELEM_LIST_ELEMENTS, |message| {
                    while message.len() < ELEMENT_BYTES_PER_MESSAGE
                        && let Some(element) = elements.next()
                    {
                        message.nest(LIST_ELEM, |message| match kind {
                            MSG_NEWSETELEM => element.write(message),
                            _ => element.write_key(message),
                        });
                    }
                });
            });
            if let Some(step) = self.steps.last_mut() {
                step.elements = true;
            }
        }
    }

    fn step(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        what: String,
        body: impl FnOnce(&mut MessageBuf),
    ) {
        let mut buf = MessageBuf::default();
        body(&mut buf);
        self.steps.push(Step { kind, flags, family: table.family.code(), body: buf, what, elements: false });
    }

    /// Steps up to the last one that is not about elements belong together.
    fn indivisible(&self) -> usize {
        self.steps.iter().rposition(|step| !step.elements).map_or(0, |last| last + 1)
    }
}

impl Nft {
    /// Makes the changes of a batch: in one transaction, unless the host's limit on send buffers
    /// (`net.core.wmem_max`, which only root of the initial namespace may exceed) is too small. Then the elements at
    /// the end of the batch follow in further transactions.
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, NetlinkError> {
        let mut committed = Committed { transactions: 0, bytes: 0 };
        let mut rest = &batch.steps[..];
        let mut indivisible = batch.indivisible();
        while !rest.is_empty() {
            let count = self.fitting(rest, indivisible)?;
            let (now, later) = rest.split_at(count);
            committed.bytes += self.transaction(now)?;
            committed.transactions += 1;
            indivisible = indivisible.saturating_sub(count);
            rest = later;
        }
        Ok(committed)
    }

    /// How many steps the next transaction takes.
    fn fitting(&self, steps: &[Step], indivisible: usize) -> Result<usize, NetlinkError> {
        let lengths: Vec<usize> = steps.iter().map(Step::len).collect();
        fitting(&lengths, indivisible, |bytes| self.socket.reserve_send(bytes))
            .map_err(|bytes| NetlinkError::TooLarge { bytes })
    }

    fn transaction(&mut self, steps: &[Step]) -> Result<usize, NetlinkError> {
        let mut message = MessageBuf::default();
        let first = self.socket.next_seq();
        message.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, &nfgen(0, SUBSYSTEM), |_| {});
        let mut last = first;
        for (index, step) in steps.iter().enumerate() {
            last = self.socket.next_seq();
            // One acknowledgement tells of all: the kernel commits the whole or nothing, and answers to thousands
            // of messages would overrun the receive buffer.
            let ack = if index + 1 == steps.len() { NLM_F_ACK } else { 0 };
            let flags = NLM_F_REQUEST | step.flags | ack;
            message.message(message_type(step.kind), flags, last, &nfgen(step.family, 0), |message| {
                message.append(step.body.as_slice());
            });
        }
        let end = self.socket.next_seq();
        message.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, &nfgen(0, SUBSYSTEM), |_| {});
        let what = || "nftables transaction".to_owned();
        match self.socket.transact(&what, message.as_slice(), first, last)? {
            None => Ok(message.len()),
            Some(answer) => {
                let index = answer.seq.wrapping_sub(first).wrapping_sub(1) as usize;
                Err(refusal(steps.get(index), answer))
            }
        }
    }
}

/// How many steps of these lengths go into one transaction: all, or as many as fit but no fewer than the indivisible
/// first ones. The error is the size of what must go at once and does not fit.
fn fitting(lengths: &[usize], indivisible: usize, fits: impl Fn(usize) -> bool) -> Result<usize, usize> {
    if fits(FRAME_LEN + lengths.iter().sum::<usize>()) {
        return Ok(lengths.len());
    }
    let mut count = indivisible.max(1);
    let mut bytes = FRAME_LEN + lengths[..count].iter().sum::<usize>();
    if !fits(bytes) {
        return Err(bytes);
    }
    while let Some(length) = lengths.get(count)
        && fits(bytes + length)
    {
        bytes += length;
        count += 1;
    }
    Ok(count)
}

fn refusal(step: Option<&Step>, answer: Answer) -> NetlinkError {
    let expression = step.and_then(|step| {
        let offset = answer.offset?.checked_sub(HEADER_LEN + 4)?;
        let (_, element) = Attrs(step.body.as_slice().get(offset..)?).next()?;
        (step.kind == MSG_NEWRULE).then(|| Attrs(element).str(EXPR_NAME)).flatten()
    });
    NetlinkError::Refused {
        what: step
            .map_or_else(|| "nftables transaction".to_owned(), |step| format!("nftables: {}", step.what)),
        errno: answer.errno,
        detail: answer.detail,
        expression,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lengths: &[usize], indivisible: usize, room: usize, expected: Result<usize, usize>) {
        assert_eq!(fitting(lengths, indivisible, |bytes| bytes <= FRAME_LEN + room), expected);
    }

    #[test]
    fn elements_are_split_and_nothing_else() {
        check(&[10, 10, 10, 10], 2, 40, Ok(4));
        check(&[10, 10, 10, 10], 2, 39, Ok(3));
        check(&[10, 10, 10, 10], 2, 20, Ok(2));
        check(&[10, 10, 10, 10], 2, 19, Err(FRAME_LEN + 20));
        check(&[10, 10], 0, 10, Ok(1));
        check(&[10], 0, 9, Err(FRAME_LEN + 10));
    }
}
