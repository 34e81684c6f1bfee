use std::cell::Cell;
use std::fmt;

use edgemesh_api::{DecodeError, Object, decode_value, unknown_fields};
use serde::de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::{Map, Value};

/// Objects of one file, and of a whole directory: ten times the 10,000 Services the mesh is measured with.
pub(crate) const MAX_OBJECTS: usize = 100_000;

/// Largest YAML document. The parser keeps its events while it builds a document, 45 bytes of memory for each byte of
/// text (measured with a `List` of small Services): this is 180 MiB for a moment, or 25,000 Services.
const MAX_YAML_DOCUMENT: usize = 4 << 20;

/// Problems told of one file; a file of a foreign format would name every line.
const MAX_PROBLEMS: usize = 200;

/// What a small document may grow to by aliases: they repeat a block of labels now and then, not a megabyte.
const ALIAS_ROOM: usize = 64 << 10;

/// An object of a file, with the line its document begins at.
pub(crate) struct Located {
    pub(crate) line: usize,
    pub(crate) object: Object,
}

/// A document or object that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// `Kind namespace/name`, as far as it is known.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// The text is broken, so that objects may be missing; otherwise it is understood and of no use to the mesh.
    pub broken: bool,
}

/// Reads the objects of one manifest. `name` decides by its extension whether it is JSON or YAML; any bytes are safe.
pub fn parse_manifests(name: &str, text: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let (objects, problems) = parse(name, text);
    (objects.into_iter().map(|located| located.object).collect(), problems)
}

pub(crate) fn parse(name: &str, text: &[u8]) -> (Vec<Located>, Vec<Problem>) {
    let mut found = Found::default();
    match std::str::from_utf8(text) {
        Ok(text) if name.ends_with(".json") => json(text, &mut found),
        Ok(text) => yaml(text, &mut found),
        Err(error) => {
            let line = 1 + text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            found.broken(line, "the text is not UTF-8".to_owned());
        }
    }
    if found.left_out > 0 {
        let message = format!("{} further problems are left out", found.left_out);
        found.problems.push(Problem { line: 0, object: "more".to_owned(), message, broken: false });
    }
    (found.objects, found.problems)
}

#[derive(Default)]
struct Found {
    objects: Vec<Located>,
    problems: Vec<Problem>,
    left_out: usize,
}

impl Found {
    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
            // A broken text must be known as such even when nobody reads its two hundred first problems.
            if problem.broken && !self.problems.iter().any(|known| known.broken) {
                self.problems.push(problem);
            }
        }
    }

    fn broken(&mut self, line: usize, message: String) {
        self.problem(Problem { line, object: "document".to_owned(), message, broken: true });
    }

    /// Takes a document in; lists are unfolded.
    fn document(&mut self, line: usize, value: Value) {
        let mut stack = vec![value];
        while let Some(mut value) = stack.pop() {
            if let Some(items) = take_items(&mut value) {
                stack.extend(items.into_iter().rev());
                continue;
            }
            if value.is_null() {
                continue;
            }
            if self.objects.len() >= MAX_OBJECTS {
                self.broken(line, format!("more than {MAX_OBJECTS} objects: the rest is left out"));
                return;
            }
            self.object(line, value);
        }
    }

    fn object(&mut self, line: usize, value: Value) {
        let described = describe(&value);
        let unknown = unknown_fields(&value);
        match decode_value(value) {
            Ok(object) => {
                if !unknown.is_empty() {
                    let message = format!("fields that the API does not define: {}", unknown.join(", "));
                    self.problem(Problem { line, object: described, message, broken: false });
                }
                self.objects.push(Located { line, object });
            }
            Err(error) => {
                let broken = matches!(error, DecodeError::Invalid { .. });
                let message = match error {
                    DecodeError::Invalid { reason, .. } => reason,
                    other => other.to_string(),
                };
                self.problem(Problem { line, object: described, message, broken });
            }
        }
    }
}

fn describe(value: &Value) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    match (kind, namespace, name) {
        ("", _, _) => "document".to_owned(),
        (kind, _, "") => kind.to_owned(),
        (kind, "", name) => format!("{kind} {name}"),
        (kind, namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

/// The items of a list. In a typed list (`ServiceList`) the API server leaves `kind` and `apiVersion` of items out.
fn take_items(value: &mut Value) -> Option<Vec<Value>> {
    let kind = value.get("kind")?.as_str()?.strip_suffix("List")?.to_owned();
    let api_version = value.get("apiVersion").cloned();
    let items = value.get_mut("items")?;
    let mut items = match items.take() {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        _ => return None,
    };
    for item in items.iter_mut().filter_map(Value::as_object_mut).filter(|_| !kind.is_empty()) {
        item.entry("kind").or_insert_with(|| Value::from(kind.clone()));
        if let Some(api_version) = &api_version {
            item.entry("apiVersion").or_insert_with(|| api_version.clone());
        }
    }
    Some(items)
}

fn json(text: &str, found: &mut Found) {
    let mut at = 0;
    while let Some(gap) = text[at..].find(|letter: char| !letter.is_ascii_whitespace()) {
        at += gap;
        let line = 1 + text[..at].matches('\n').count();
        let budget = Cell::new(budget(text.len() - at));
        let mut stream = serde_json::Deserializer::from_str(&text[at..]);
        let value = Tree(&budget).deserialize(&mut stream);
        match value {
            Ok(value) => found.document(line, value),
            Err(error) => {
                let line = line + error.line().saturating_sub(1);
                return found.broken(line, format!("is no JSON: {}", without_places(&error.to_string())));
            }
        }
        at += stream.into_iter::<de::IgnoredAny>().byte_offset();
    }
}

fn yaml(text: &str, found: &mut Found) {
    for (line, document) in documents(text) {
        if document.len() > MAX_YAML_DOCUMENT {
            let limit = MAX_YAML_DOCUMENT >> 20;
            found.broken(line, format!("is larger than {limit} MiB: split it with `---`, or write JSON"));
            continue;
        }
        let budget = Cell::new(budget(document.len()));
        match Tree(&budget).deserialize(yaml_serde::Deserializer::from_str(document)) {
            Ok(value) => found.document(first_content(line, document), value),
            Err(error) => {
                let within = error.location().map_or(0, |location| location.line().saturating_sub(1));
                found.broken(line + within, format!("is no YAML: {}", without_places(&error.to_string())));
            }
        }
    }
}

/// The parsers count lines from where the document begins; the problem itself says the line in the file.
fn without_places(message: &str) -> String {
    let mut parts = message.split(" at line ");
    let first = parts.next().unwrap_or_default().to_owned();
    let number = |letter: char| letter.is_ascii_digit();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(number);
        text + rest.strip_prefix(" column ").map_or(rest, |rest| rest.trim_start_matches(number))
    })
}

/// Splits a YAML stream into documents with their first lines. A line that begins with `---` or `...` is a marker
/// wherever it stands (YAML 1.2 section 9.1.2 forbids it inside a document), so that a document that cannot be
/// parsed does not hide the next.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = at + line.len();
        if is_marker(line, "---") {
            documents.push((start_line, &text[start..at]));
            (start, start_line) = (at, number + 1);
        } else if is_marker(line, "...") {
            documents.push((start_line, &text[start..at]));
            (start, start_line) = (end, number + 2);
        }
        at = end;
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| content_lines(document).any(|(_, line)| !line.starts_with('%')));
    documents
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Lines that are neither empty, nor comments, nor a bare marker, counted from 0.
fn content_lines(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = document.lines().enumerate();
    lines.filter(|(_, line)| {
        let text = line.strip_prefix("---").unwrap_or(line).trim_start_matches('\u{feff}').trim();
        !text.is_empty() && !text.starts_with('#')
    })
}

fn first_content(line: usize, document: &str) -> usize {
    line + content_lines(document).next().map_or(0, |(number, _)| number)
}

/// What a text may turn into. Every key and value costs [`VALUE_COST`] and its length: without aliases no text exceeds
/// five times its length (`{a,b,c}` has two bytes for each key and the null behind it, which cost nine).
fn budget(length: usize) -> usize {
    5 * length + ALIAS_ROOM
}

const VALUE_COST: usize = 4;

/// Builds a JSON value out of any format and gives up when the budget is spent: nine lines of aliases can stand for
/// gigabytes, and the parser's own limit counts aliases, not what they stand for.
#[derive(Clone, Copy)]
struct Tree<'a>(&'a Cell<usize>);

impl Tree<'_> {
    fn spend<E: de::Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost);
        self.0.set(left.ok_or_else(|| E::custom("aliases repeat too much"))?);
        Ok(())
    }

    fn scalar<E: de::Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        self.spend(VALUE_COST)?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        self.scalar(value)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.scalar(())
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.scalar(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(VALUE_COST)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(VALUE_COST)?;
        let mut map = Map::new();
        let mut merged = None;
        while let Some(key) = access.next_key_seed(self)? {
            let key = match key {
                Value::String(key) => key,
                other => other.to_string(),
            };
            let value = access.next_value_seed(self)?;
            if key == "<<" {
                merged = Some(value);
            } else if map.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
        }
        merge(&mut map, merged);
        Ok(Value::Object(map))
    }

    /// A tag of an application (`!name value`) is dropped.
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (_, value) = access.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}

/// The merge key `<<` (YAML 1.1 type repository), which kubectl understands too.
fn merge(map: &mut Map<String, Value>, merged: Option<Value>) {
    let sources = match merged {
        Some(Value::Array(sources)) => sources,
        Some(source) => vec![source],
        None => return,
    };
    for source in sources {
        let Value::Object(source) = source else { continue };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
}
