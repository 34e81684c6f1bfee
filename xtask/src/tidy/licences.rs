//! Licences that go with Apache-2.0 distribution, and crates that may not come in, in the graph that is shipped.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Licences the project accepts for what it links.
const ALLOWED: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates with a reason to stay out.
const BANNED: [(&str, &str); 7] = [
    ("aws-lc-sys", "one crypto provider: ring"),
    ("openssl-sys", "one crypto provider: ring"),
    ("native-tls", "one crypto provider: ring"),
    ("rustables", "GPL"),
    ("serde_yaml", "unmaintained; yaml_serde is its successor"),
    (
        "kube-runtime",
        "its watcher keeps deleted objects of a KubeEdge metaServer; the agent lists and watches itself",
    ),
    ("clap", "the binary parses its few flags with lexopt"),
];

/// Where the binary runs; a crate that only other systems use is not in the graph.
const TARGETS: [&str; 3] =
    ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf"];

pub(super) fn check(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    for (name, expression) in linked(root)? {
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            findings.push(format!("Cargo.lock: {name} is banned: {reason}"));
        }
        if !acceptable(&expression) {
            findings.push(format!("Cargo.lock: the licence of {name} ({expression:?}) is not on the list"));
        }
    }
    Ok(())
}

/// Name and licence of every package in the graph of the members, tests included, with the features that are on.
fn linked(root: &Path) -> Result<BTreeSet<(String, String)>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut tree = Command::new(cargo);
    tree.current_dir(root).args([
        "tree",
        "--workspace",
        "--locked",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]);
    for target in TARGETS {
        tree.args(["--target", target]);
    }
    let output = tree.output().context("cargo tree cannot be started")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").split_once('|'))
        .filter_map(|(package, licence)| Some((package.split(' ').next()?.to_owned(), licence.to_owned())))
        .collect())
}

/// An SPDX expression is acceptable when one side of each `OR` is, and both of each `AND`. Older crates write `/`
/// for `OR`.
fn acceptable(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let text = expression.trim();
    if text.is_empty() {
        return false;
    }
    if ALLOWED.contains(&text) {
        return true;
    }
    for (operator, all) in [(" AND ", true), (" OR ", false)] {
        let parts = split(text, operator);
        if parts.len() > 1 {
            return if all { parts.into_iter().all(acceptable) } else { parts.into_iter().any(acceptable) };
        }
    }
    text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).is_some_and(acceptable)
}

/// Splits at an operator outside parentheses.
fn split<'t>(text: &'t str, operator: &str) -> Vec<&'t str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 && index >= start && text[index..].starts_with(operator) => {
                parts.push(text[start..index].trim());
                start = index + operator.len();
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn spdx_expressions() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 AND ISC",
        ] {
            assert!(acceptable(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR AGPL-3.0) AND MIT", "MPL-2.0"] {
            assert!(!acceptable(bad), "{bad}");
        }
    }
}
