//! Every path and command that a document names exists.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::TASKS;

/// Folders of the repository: a word in backticks that begins with one of them is a path.
const TOP: [&str; 10] =
    ["model/", "core/", "edge/", "bin/", "test/", "xtask/", "docs/", "examples/", "deploy/", ".ci/"];

pub(super) fn check(root: &Path, file: &Path, text: &str, findings: &mut Vec<String>) -> Result<()> {
    let commands = fs::read_to_string(root.join("bin/edgemesh/src/commands.rs"))?;
    for (number, line) in text.lines().enumerate() {
        let here = format!("{}:{}", file.display(), number + 1);
        for word in quoted(line) {
            check_path(root, file, word, &here, findings);
            check_command(word, &commands, &here, findings);
        }
        for target in links(line) {
            let target = target.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !outside && !root.join(file).parent().is_some_and(|folder| folder.join(target).exists()) {
                findings.push(format!("{here}: the link to {target} leads nowhere"));
            }
        }
    }
    Ok(())
}

/// Every metric that the sources name has a line in `docs/metrics.md`.
pub(super) fn check_metrics(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let document = fs::read_to_string(root.join("docs/metrics.md"))?;
    for file in ["bin/edgemesh/src/agent/pages.rs", "edge/admin/src/metrics.rs"] {
        let text = fs::read_to_string(root.join(file))?;
        for call in ["gauge(\"", "counter(\"", "registry.register(\"", "=> \"peers"] {
            for rest in text.split(call).skip(1) {
                let head = if call.starts_with("=>") { "peers" } else { "" };
                let name = format!("{head}{}", rest.split('"').next().unwrap_or_default());
                if !document.contains(&format!("`{name}`")) {
                    findings.push(format!("docs/metrics.md: the metric {name} of {file} has no line"));
                }
            }
        }
    }
    Ok(())
}

fn check_path(root: &Path, file: &Path, word: &str, here: &str, findings: &mut Vec<String>) {
    let word = word.split("::").next().unwrap_or(word);
    if !TOP.iter().any(|top| word.starts_with(top)) || word.contains(['*', '<', '{', ' ', '…']) {
        return;
    }
    let path = word.split(':').next().unwrap_or(word);
    let exists = root.join(path).exists()
        || root.join(format!("{path}.rs")).exists()
        || short_module(root, path)
        || root.join(file).parent().is_some_and(|folder| folder.join(path).exists());
    if !exists {
        findings.push(format!("{here}: `{path}` does not exist"));
    }
}

/// Documents write `core/route/admit` for the module `core/route/src/admit.rs`.
fn short_module(root: &Path, path: &str) -> bool {
    let mut parts = path.splitn(3, '/');
    let (Some(ring), Some(name), Some(module)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let source = root.join(ring).join(name).join("src").join(module);
    source.exists() || source.with_extension("rs").exists()
}

fn check_command(word: &str, commands: &str, here: &str, findings: &mut Vec<String>) {
    if let Some(rest) = word.strip_prefix("cargo xtask ") {
        let task = rest.split_whitespace().next().unwrap_or_default();
        if task != "help" && !TASKS.iter().any(|(name, _)| *name == task) {
            findings.push(format!("{here}: there is no task `cargo xtask {task}`"));
        }
    }
    if let Some(rest) = word.strip_prefix("edgemesh ") {
        let command = rest.split_whitespace().next().unwrap_or_default();
        if !command.starts_with('-') && !commands.contains(&format!("\"{command}\"")) {
            findings.push(format!("{here}: there is no command `edgemesh {command}`"));
        }
    }
}

/// The words in backticks on a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The targets of `[text](target)` on a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}
