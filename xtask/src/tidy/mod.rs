//! The house checks itself. Every finding names the place and the rule.

mod documents;
mod licences;
mod rings;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Every finding in the repository at `root`; empty when the house is tidy.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let metadata = metadata(root)?;
    let files = tracked(root)?;
    let mut findings = Vec::new();
    rings::check(root, &metadata, &mut findings)?;
    licences::check(root, &mut findings)?;
    documents::check_metrics(root, &mut findings)?;
    for file in &files {
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => sources::check(file, &text, &mut findings),
            Some("md") => documents::check(root, file, &text, &mut findings)?,
            _ => {}
        }
    }
    findings.sort();
    Ok(findings)
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("cargo metadata cannot be started")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Files of the repository: what git tracks or would track, so that build output is left alone.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git cannot be started")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut files: Vec<PathBuf> = String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect();
    files.retain(|file| root.join(file).is_file());
    Ok(files)
}
