use crate::check::parse;
use crate::emit::{Entry, comment, yaml};
use crate::problem::{Cause, Problem};
use crate::settings::Role;
use crate::table;
use crate::value::Value;

/// The shortest file that says the same as an older one: only what differs from the defaults, under the names of
/// today. What is left out is named in comments at the end.
pub fn convert(role: Role, text: &str) -> Result<String, Vec<Problem>> {
    let parsed = parse(role, text)?;
    let mut entries = vec![
        Entry::new("apiVersion", Value::Text(role.api_version().to_owned())),
        Entry::new("kind", Value::Text(role.kind().to_owned())),
    ];
    for field in table::fields_of(role).filter(|field| field.is_used()) {
        if let Some(value) = parsed.raw.given.get(field.path)
            && field.default(role).as_ref() != Some(value)
        {
            entries.push(Entry::new(field.path, value.clone()));
        }
    }
    let mut converted = yaml(&entries);
    for problem in parsed.problems.iter().filter(|problem| is_left_out(problem)) {
        converted.push_str(&format!("# left out: {}\n", comment(&problem.without_line())));
    }
    Ok(converted)
}

fn is_left_out(problem: &Problem) -> bool {
    match problem.cause {
        Cause::UnknownKey | Cause::WrongRole | Cause::InvalidValue => true,
        Cause::WithoutEffect => problem.path != "modules.edgeTunnel.transport",
        Cause::OldName => !problem.text.contains("read as "),
        Cause::Syntax
        | Cause::TooLarge
        | Cause::LetterCase
        | Cause::DuplicateKey
        | Cause::Coerced
        | Cause::WrongType
        | Cause::Incomplete
        | Cause::Header
        | Cause::Conflict
        | Cause::Environment => false,
    }
}
