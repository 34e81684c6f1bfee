//! Licences that go with Apache-2.0 distribution, and crates that may not come in, in the graph that is shipped.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

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
    ("kube-runtime", "its watcher keeps deleted objects of a KubeEdge metaServer; the agent lists and watches itself"),
    ("clap", "the binary parses its few flags with lexopt"),
];

pub(super) fn check(metadata: &Value, findings: &mut Vec<String>) -> Result<()> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .context("cargo metadata without packages")?
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    for id in linked(metadata, &packages)? {
        let Some(package) = packages.get(id) else { continue };
        let name = package["name"].as_str().unwrap_or_default();
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            findings.push(format!("Cargo.lock: {name} is banned: {reason}"));
        }
        let expression = package["license"].as_str().unwrap_or_default();
        if !acceptable(expression) {
            findings.push(format!("Cargo.lock: the licence of {name} ({expression:?}) is not on the list"));
        }
    }
    Ok(())
}

/// Every package in the graph of the members, tests included; unused targets of the lock file are not in it.
fn linked<'m>(metadata: &'m Value, packages: &BTreeMap<&'m str, &'m Value>) -> Result<BTreeSet<&'m str>> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo metadata without a resolve graph")?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> =
        packages.iter().filter(|(_, package)| package["source"].is_null()).map(|(id, _)| *id).collect();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten() {
            let on_linux = dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| {
                let target = kind["target"].as_str().unwrap_or_default();
                !["windows", "wasm", "macos", "target_os = \"wasi\"", "hermit", "apple", "redox", "android"]
                    .iter()
                    .any(|other| target.contains(other) && !target.contains("not("))
            });
            if let (true, Some(next)) = (on_linux, dependency["pkg"].as_str()) {
                open.push(next);
            }
        }
    }
    Ok(seen)
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
        for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 AND ISC"] {
            assert!(acceptable(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR AGPL-3.0) AND MIT", "MPL-2.0"] {
            assert!(!acceptable(bad), "{bad}");
        }
    }
}
