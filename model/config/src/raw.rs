use std::collections::BTreeMap;

use crate::check;
use crate::node;
use crate::problem::{Cause, Problem};
use crate::settings::Role;
use crate::table;
use crate::value::Value;

/// What a file says, checked key by key and not yet joined with the environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub(crate) role: Role,
    pub(crate) given: BTreeMap<&'static str, Value>,
}

impl Raw {
    /// A file that says nothing.
    pub fn empty(role: Role) -> Self {
        Self { role, given: BTreeMap::new() }
    }

    /// The program that the file is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the file says something at a key.
    pub fn says(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// Puts a value over what the file says, as a command line does. The value is YAML, checked as in a file.
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), Vec<Problem>> {
        let field = match table::place(path, self.role) {
            Some(table::Place::Key(field)) if field.is_whole() && !field.block().is_empty() => field,
            _ => {
                let text = check::unknown(path, self.role);
                return Err(vec![Problem::error(Cause::UnknownKey, path, text)]);
            }
        };
        let (node, _) = node::first_document(value).map_err(|problem| vec![problem])?;
        let (value, problems) = check::one(field, &node, self.role);
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        match value {
            Some(value) => self.given.insert(field.path, value),
            None => self.given.remove(field.path),
        };
        Ok(())
    }
}
