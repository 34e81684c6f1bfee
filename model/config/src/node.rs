use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use yaml_serde::Deserializer;

use crate::problem::{Cause, Problem};

/// A ConfigMap or Secret holds no more (Kubernetes 1.36).
const MAX_BYTES: usize = 1 << 20;

/// The whole table is less than 200 values, a thousand relays with four addresses each are 8,000. YAML aliases can make
/// far more of a short text.
const MAX_VALUES: usize = 1 << 16;

/// A YAML value as it is written: keys in their order, also those that are given twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Flag(bool),
    Integer(i64),
    Fraction(f64),
    Text(String),
    List(Vec<Node>),
    Block(Vec<(String, Node)>),
}

impl Node {
    /// What was found, for people.
    pub(crate) fn found(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Flag(flag) => flag.to_string(),
            Self::Integer(number) => format!("the number {number}"),
            Self::Fraction(number) => format!("the number {number}"),
            Self::Text(text) => format!("the text {}", excerpt(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Block(_) => "a block of keys".to_owned(),
        }
    }
}

/// Longer texts are cut in messages: a line of a terminal has room for this and a key.
const MAX_EXCERPT: usize = 60;

/// Text in quotes, cut where it is long.
pub(crate) fn excerpt(text: &str) -> String {
    if text.chars().count() <= MAX_EXCERPT {
        return format!("{text:?}");
    }
    let cut: String = text.chars().take(MAX_EXCERPT).collect();
    format!("{cut:?}…")
}

/// The first document of a text and whether more follow, as Go EdgeMesh reads it.
pub(crate) fn first_document(text: &str) -> Result<(Node, bool), Problem> {
    if text.len() > MAX_BYTES {
        let message = format!("{} bytes are more than the {MAX_BYTES} that a ConfigMap can hold", text.len());
        return Err(Problem::error(Cause::TooLarge, "", message));
    }
    let mut documents = Deserializer::from_str(text);
    let Some(document) = documents.next() else { return Ok((Node::Null, false)) };
    let count = Cell::new(0);
    let node = Reader(&count).deserialize(document).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let cause = if count.get() > MAX_VALUES { Cause::TooLarge } else { Cause::Syntax };
        Problem::error(cause, "", format!("this is no YAML that can be read: {error}")).at(line)
    })?;
    Ok((node, documents.next().is_some()))
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > MAX_VALUES {
            return Err(de::Error::custom(format_args!("more than {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Flag(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Fraction(value as f64), Node::Integer))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Fraction(value as f64))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Fraction(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Fraction(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut block = Vec::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let key = match key {
                Node::Text(text) => text,
                Node::Null => "null".to_owned(),
                Node::Flag(flag) => flag.to_string(),
                Node::Integer(number) => number.to_string(),
                Node::Fraction(number) => number.to_string(),
                Node::List(_) | Node::Block(_) => return Err(de::Error::custom("a key that is no text")),
            };
            block.push((key, entries.next_value_seed(self)?));
        }
        Ok(Node::Block(block))
    }

    /// A value with a tag of its own counts without it.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (_, content) = data.variant::<String>()?;
        content.newtype_variant_seed(self)
    }
}
