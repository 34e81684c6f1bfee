use crate::query::Query;
use crate::stored::{Age, Stored};
use crate::wire::{Ede, QUESTION_POINTER, Section, Writer, flag, pointer_to, rtype};

/// The targets of the CNAME records between a question and the name that was forwarded for it, on the wire. Empty
/// for a question that was forwarded itself.
pub(crate) type Aliases = Vec<Box<[u8]>>;

/// Longest chain of ExternalName Services that is followed; also what ends a loop of them. Resolvers commonly
/// follow 8 to 16.
pub(crate) const MAX_ALIASES: usize = 8;

/// Appends a CNAME record; the pointer to its target is the owner of what follows.
pub(crate) fn put_alias(writer: &mut Writer<'_>, owner: u16, ttl: u32, target: &[u8]) -> Option<u16> {
    let at = writer.record(Section::Answer, owner, rtype::CNAME, ttl, |out| {
        out.extend_from_slice(target);
        true
    });
    at.and_then(pointer_to)
}

/// Writes the answer to `query`: its aliases, then what an upstream said of the last one.
pub(crate) fn render(
    query: &Query<'_>,
    aliases: &Aliases,
    ttl: u32,
    stored: &Stored,
    age: Age,
    ede: Option<Ede>,
    out: &mut Vec<u8>,
) {
    if aliases.is_empty() {
        return stored.render(query, age, ede, out);
    }
    let mut writer = Writer::start(query, out);
    let mut owner = Some(QUESTION_POINTER);
    for target in aliases {
        owner = owner.and_then(|owner| put_alias(&mut writer, owner, ttl, target));
    }
    if owner.is_some() {
        stored.append_to(&mut writer, age);
    }
    // RFC 1035 section 4.1.1: AA speaks of the first owner in the answer, and that is ours.
    writer.finish(query, flag::AA, stored.rcode(), ede);
}
