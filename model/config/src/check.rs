use std::collections::BTreeMap;

use crate::decode::Decoder;
use crate::field::{Effect, Field, Preset};
use crate::lines::Lines;
use crate::nearest::{join, nearest};
use crate::node::{self, Node, excerpt};
use crate::problem::{Cause, Problem, Severity};
use crate::raw::Raw;
use crate::settings::Role;
use crate::table::{self, Place, old_name};
use crate::value::Value;

/// A file that can be used, and what to say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What it says.
    pub raw: Raw,
    /// Warnings and notices, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Checks the text of a file for a program. An empty file is one of defaults.
///
/// Keys that are unknown, misspelt, old or of the other program are warnings, because Go EdgeMesh passes over them;
/// so are values in a module that is off. Everything that is wrong is told, not only what comes first.
pub fn parse(role: Role, text: &str) -> Result<Parsed, Vec<Problem>> {
    let (document, more) = node::first_document(text).map_err(|problem| vec![problem])?;
    let entries = match document {
        Node::Block(entries) => entries,
        Node::Null => Vec::new(),
        other => {
            let text = format!("{} was found, a block of keys is expected, such as modules:", other.found());
            return Err(vec![Problem::error(Cause::Syntax, "", text)]);
        }
    };
    let lines = Lines::of(text);
    let mut check = Check {
        role,
        given: BTreeMap::new(),
        unused: Vec::new(),
        decoder: Decoder { lines: &lines, problems: Vec::new() },
    };
    if more {
        let text = "only the first document of the file is read";
        check.decoder.tell(Problem::warning(Cause::Syntax, "", text));
    }
    check.block(&entries, "", "");
    check.header(entries.is_empty());
    check.tunnel_rules();
    check.notices();
    let Check { given, decoder: Decoder { mut problems, .. }, .. } = check;
    let raw = Raw { role, given };
    forgive_what_is_off(&raw, &mut problems);
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    if problems.iter().any(Problem::is_error) { Err(problems) } else { Ok(Parsed { raw, problems }) }
}

/// Checks one value as a file's.
pub(crate) fn one(field: &'static Field, node: &Node, role: Role) -> (Option<Value>, Vec<Problem>) {
    let lines = Lines::default();
    let mut check = Check {
        role,
        given: BTreeMap::new(),
        unused: Vec::new(),
        decoder: Decoder { lines: &lines, problems: Vec::new() },
    };
    check.key(field, node, field.path);
    check.tunnel_rules();
    (check.given.remove(field.path), check.decoder.problems)
}

/// What to say of a key that nobody knows.
pub(crate) fn unknown(path: &str, role: Role) -> String {
    let (block, name) = path.rsplit_once('.').unwrap_or(("", path));
    match nearest(block, name, role) {
        Some(known) => format!("there is no such key; is {known} meant?"),
        None => "there is no such key".to_owned(),
    }
}

struct Check<'a> {
    role: Role,
    given: BTreeMap<&'static str, Value>,
    /// Keys of the file that do nothing, as it spells them, and why.
    unused: Vec<(String, &'static str)>,
    decoder: Decoder<'a>,
}

/// How a key of the file was recognised. What comes later counts over what comes earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spelling {
    Old,
    OtherCase,
    Exact,
}

impl Check<'_> {
    /// Walks a block: the entries, the block as the table names it, the block as the file names it.
    fn block(&mut self, entries: &[(String, Node)], block: &str, spelt: &str) {
        let mut known = Vec::new();
        for (key, node) in self.last_of_each(entries, spelt) {
            let at = join(spelt, key);
            match self.recognise(block, key, &at) {
                Some((spelling, path)) => known.push((spelling, path, at, node)),
                None => continue,
            }
        }
        known.sort_by_key(|(spelling, ..)| *spelling);
        for (_, path, at, node) in known {
            match (table::place(&path, self.role), node) {
                (Some(Place::Key(field)), node) => self.key(field, node, &at),
                (Some(Place::Block), Node::Block(entries)) => self.block(entries, &path, &at),
                (Some(Place::Block), Node::Null) | (None, _) => {}
                (Some(Place::Block), node) => {
                    let keys = table::children(&path, self.role).join(", ");
                    let text = format!("{} was found, a block is expected, with {keys}", node.found());
                    self.decoder.tell(Problem::error(Cause::WrongType, at, text));
                }
            }
        }
    }

    /// The entries without those that another of the same name replaces, and with what `<<` merges in.
    fn last_of_each<'n>(&mut self, entries: &'n [(String, Node)], spelt: &str) -> Vec<(&'n str, &'n Node)> {
        let mut last: Vec<(&str, &Node)> = Vec::new();
        for (key, node) in entries.iter().filter(|(key, _)| key != "<<") {
            match last.iter_mut().find(|(other, _)| other == key) {
                Some(entry) => {
                    entry.1 = node;
                    let at = join(spelt, key);
                    let lines: Vec<_> = self.decoder.lines.all(&at).iter().map(usize::to_string).collect();
                    let place = if lines.len() > 1 {
                        format!(" (lines {})", lines.join(", "))
                    } else {
                        String::new()
                    };
                    let text = format!("given more than once{place}; the last one counts");
                    self.decoder.tell(Problem::warning(Cause::DuplicateKey, at, text));
                }
                None => last.push((key, node)),
            }
        }
        for (_, merged) in entries.iter().filter(|(key, _)| key == "<<") {
            let blocks = match merged {
                Node::List(blocks) => blocks.as_slice(),
                other => std::slice::from_ref(other),
            };
            for block in blocks {
                let Node::Block(entries) = block else { continue };
                for (key, node) in entries {
                    if last.iter().all(|(other, _)| other != key) {
                        last.push((key, node));
                    }
                }
            }
        }
        last
    }

    /// The path in the table that a key of the file means, if it means one.
    fn recognise(&mut self, block: &str, key: &str, at: &str) -> Option<(Spelling, String)> {
        let path = join(block, key);
        if table::place(&path, self.role).is_some() && !key.contains(['.', '[']) {
            return Some((Spelling::Exact, path));
        }
        if let Some(old) = old_name(&path, self.role) {
            let text = match old.now {
                Some(now) => format!("the name until EdgeMesh 1.11, read as {now}; write {now}"),
                None => format!("a key until EdgeMesh 1.11 that is not read any more: {}", old.why),
            };
            self.decoder.tell(Problem::warning(Cause::OldName, at, text));
            return old.now.map(|now| (Spelling::Old, now.to_owned()));
        }
        let children = table::children(block, self.role);
        if let Some(known) = children.iter().find(|known| known.eq_ignore_ascii_case(key)) {
            let known = join(block, known);
            let text = format!("read as {known}, as Go EdgeMesh does; write {known}");
            self.decoder.tell(Problem::warning(Cause::LetterCase, at, text));
            return Some((Spelling::OtherCase, known));
        }
        let problem = if table::place(&path, self.role.other()).is_some() {
            let text = format!("only the {} reads this key", self.role.other());
            Problem::warning(Cause::WrongRole, at, text)
        } else {
            Problem::warning(Cause::UnknownKey, at, unknown(&path, self.role))
        };
        self.decoder.tell(problem);
        None
    }

    fn key(&mut self, field: &'static Field, node: &Node, at: &str) {
        let Some(value) = self.decoder.value(field, node, at) else { return };
        if let Effect::Unused(why) = field.effect {
            self.unused.push((at.to_owned(), why));
        }
        self.given.insert(field.path, value);
    }

    fn header(&mut self, is_empty: bool) {
        if is_empty {
            return;
        }
        let text = |given: &BTreeMap<_, _>, key| match given.get(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let (version, kind) = (text(&self.given, "apiVersion"), text(&self.given, "kind"));
        let missing: Vec<_> = [("apiVersion", &version), ("kind", &kind)]
            .into_iter()
            .filter_map(|(key, value)| value.is_none().then_some(key))
            .collect();
        if !missing.is_empty() {
            let (version, kind) = (self.role.api_version(), self.role.kind());
            let text = format!("not given; the file is read as apiVersion: {version}, kind: {kind}");
            self.decoder.tell(Problem::warning(Cause::Header, missing.join(" and "), text));
        }
        for (key, value, own, others) in [
            ("apiVersion", version, self.role.api_version(), self.role.other().api_version()),
            ("kind", kind, self.role.kind(), self.role.other().kind()),
        ] {
            let Some(value) = value.filter(|value| value != own) else { continue };
            let problem = match value.as_str() {
                value if value == others => {
                    let (other, role) = (self.role.other(), self.role);
                    let text = format!("this is a file of edgemesh {other}, and this is edgemesh {role}");
                    Problem::error(Cause::WrongRole, key, text)
                }
                "EdgeMeshServer" => {
                    let text =
                        "there is no server since EdgeMesh 1.12: the agent of each node in relayNodes relays";
                    Problem::error(Cause::WrongRole, key, text)
                }
                "ConfigMap" => {
                    let text = "this is a ConfigMap; the file is what stands under its data";
                    Problem::error(Cause::WrongRole, key, text)
                }
                value => {
                    let text = format!("{} is unknown; the file is read as {own}", excerpt(value));
                    Problem::warning(Cause::Header, key, text)
                }
            };
            self.decoder.tell(problem);
        }
        self.given.retain(|path, _| *path != "apiVersion" && *path != "kind");
    }

    fn tunnel_rules(&mut self) {
        if self.given.get("modules.edgeTunnel.psk.enable") == Some(&Value::Flag(false)) {
            let text = "a tunnel without a private-network key is not offered: anybody could join the mesh; \
                        set psk.path to a file with the key and psk.enable to true";
            self.decoder.tell(Problem::error(Cause::InvalidValue, "modules.edgeTunnel.psk.enable", text));
            self.given.remove("modules.edgeTunnel.psk.enable");
        }
        if let Some(Value::Text(transport)) = self.given.get("modules.edgeTunnel.transport")
            && transport != "tcp"
        {
            let text =
                format!("{transport} is not offered yet, tcp is used; agents of Go EdgeMesh are not reached");
            self.decoder.tell(Problem::notice(Cause::WithoutEffect, "modules.edgeTunnel.transport", text));
        }
    }

    /// One notice for each reason in a block.
    fn notices(&mut self) {
        let mut groups: Vec<(String, &str, Vec<String>)> = Vec::new();
        for (path, why) in std::mem::take(&mut self.unused) {
            let (block, key) = path.rsplit_once('.').unwrap_or(("", &path));
            match groups.iter_mut().find(|(of, reason, _)| of == block && *reason == why) {
                Some((_, _, keys)) => keys.push(key.to_owned()),
                None => groups.push((block.to_owned(), why, vec![key.to_owned()])),
            }
        }
        for (block, why, keys) in groups {
            let line = self.decoder.lines.of_key(&join(&block, &keys[0]));
            let path = match keys.as_slice() {
                [key] => join(&block, key),
                keys => join(&block, &format!("{{{}}}", keys.join(", "))),
            };
            let text = format!("without effect: {why}");
            self.decoder.problems.push(Problem::notice(Cause::WithoutEffect, path, text).at(line));
        }
    }
}

/// Go EdgeMesh looks at no value of a module that is off, so that such a value must not keep the program from
/// starting.
fn forgive_what_is_off(raw: &Raw, problems: &mut [Problem]) {
    for problem in
        problems.iter_mut().filter(|problem| problem.cause == Cause::InvalidValue && problem.is_error())
    {
        let Some(module) = table::module(&problem.path) else { continue };
        if is_off(raw, module) {
            problem.severity = Severity::Warning;
            problem.text.push_str("; the module is off and the default is taken");
        }
    }
}

/// Whether a module, as the file spells it, is off.
fn is_off(raw: &Raw, module: &str) -> bool {
    let known = match old_name(module, raw.role) {
        Some(old) => old.now.unwrap_or(module),
        None => module,
    };
    let (block, name) = known.rsplit_once('.').unwrap_or(("", known));
    let children = table::children(block, raw.role);
    let Some(name) = children.iter().find(|child| child.eq_ignore_ascii_case(name)) else { return false };
    let enable = format!("{}.enable", join(block, name));
    match table::place(&enable, raw.role) {
        Some(Place::Key(field)) => match raw.given.get(field.path) {
            Some(value) => *value == Value::Flag(false),
            None => field.default == Preset::Flag(false),
        },
        Some(Place::Block) | None => false,
    }
}
