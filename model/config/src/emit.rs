use std::net::IpAddr;

use crate::value::{RelayNode, Value};

/// One key to write.
pub(crate) struct Entry {
    pub(crate) path: &'static str,
    pub(crate) value: Value,
    /// A comment behind it.
    pub(crate) note: Option<String>,
    /// Whether the whole line is a comment.
    pub(crate) off: bool,
}

impl Entry {
    pub(crate) fn new(path: &'static str, value: Value) -> Self {
        Self { path, value, note: None, off: false }
    }
}

/// Writes keys as YAML. Keys of the same block must follow each other, as in the table.
pub(crate) fn yaml(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for entry in entries {
        let parts: Vec<_> = entry.path.split('.').collect();
        let (key, blocks) = parts.split_last().unwrap_or((&"", &[]));
        let same = open.iter().zip(blocks).take_while(|(a, b)| a == b).count();
        for (depth, block) in blocks.iter().enumerate().skip(same) {
            text.push_str(&format!("{}{block}:\n", "  ".repeat(depth)));
        }
        open = blocks.to_vec();
        let indent = "  ".repeat(blocks.len());
        let mark = if entry.off { "# " } else { "" };
        let note = entry.note.as_ref().map(|note| format!("  # {}", comment(note))).unwrap_or_default();
        let value = rendered(&entry.value, &indent);
        let (first, rest) =
            value.split_once('\n').map_or((value.as_str(), ""), |(first, rest)| (first, rest));
        let space = if first.is_empty() { "" } else { " " };
        text.push_str(&format!("{indent}{mark}{key}:{space}{first}{note}\n"));
        if !rest.is_empty() {
            text.push_str(rest);
            text.push('\n');
        }
    }
    text
}

/// Text that can stand in a comment.
pub(crate) fn comment(text: &str) -> String {
    text.chars().map(|c| if is_break(c) { ' ' } else { c }).collect()
}

fn rendered(value: &Value, indent: &str) -> String {
    match value {
        Value::Flag(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Fraction(number) => number.to_string(),
        Value::Text(text) => scalar(text),
        Value::List(list) if list.is_empty() => "[]".to_owned(),
        Value::List(list) => items(list, indent),
        Value::Relays(relays) if relays.is_empty() => "[]".to_owned(),
        Value::Relays(relays) => {
            relays.iter().map(|relay| format!("\n{indent}- {}", relay_text(relay, indent))).collect()
        }
        Value::Anything => "null".to_owned(),
    }
}

fn relay_text(relay: &RelayNode, indent: &str) -> String {
    let inner = format!("{indent}  ");
    let addresses =
        if relay.advertise.is_empty() { " []".to_owned() } else { items(&relay.advertise, &inner) };
    format!("nodeName: {}\n{inner}advertiseAddress:{addresses}", scalar(&relay.node_name))
}

fn items(list: &[String], indent: &str) -> String {
    list.iter().map(|item| format!("\n{indent}- {}", scalar(item))).collect()
}

/// Text without quotes where every YAML reader takes it for text, and in double quotes elsewhere.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if is_break(c) => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "inf", "nan"];
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let inside = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:=".contains(c));
    let word = WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || (starts && inside && !word && !text.ends_with(':'))
}

/// Characters that end a line or that YAML does not allow as they are.
fn is_break(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
