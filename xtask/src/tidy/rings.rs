//! Dependency law: model ← core ← edge ← bin. An edge crate depends on no other edge crate but `net`.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Outside crates a pure crate has no use for: each brings I/O, a clock, or a runtime.
const IMPURE: [&str; 9] = [
    "tokio",
    "libc",
    "socket2",
    "rustix",
    "libp2p",
    "hyper",
    "tracing-subscriber",
    "fastrand",
    "netlink-bindings",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ring {
    Model,
    Core,
    Edge,
    Bin,
    /// `test/` and `xtask/` see everything, and nothing but themselves sees them.
    Outside,
}

fn ring(path: &Path) -> Option<Ring> {
    match path.components().next()?.as_os_str().to_str()? {
        "model" => Some(Ring::Model),
        "core" => Some(Ring::Core),
        "edge" => Some(Ring::Edge),
        "bin" => Some(Ring::Bin),
        "test" | "xtask" => Some(Ring::Outside),
        _ => None,
    }
}

pub(super) fn check(root: &Path, metadata: &Value, findings: &mut Vec<String>) -> Result<()> {
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let home = |package: &Value| -> Option<std::path::PathBuf> {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        Some(manifest.strip_prefix(root).ok()?.parent()?.to_owned())
    };
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(place) = home(package) else { continue };
        let Some(own) = ring(&place) else {
            findings
                .push(format!("{}: is in no ring (model, core, edge, bin, test, xtask)", place.display()));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let needs = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            let Some(path) = dependency["path"].as_str() else {
                if own <= Ring::Core && !dev && IMPURE.contains(&needs) {
                    findings
                        .push(format!("{}: {name} is pure and may not depend on {needs}", place.display()));
                }
                continue;
            };
            let Some(other) = Path::new(path).strip_prefix(root).ok().and_then(ring) else { continue };
            let lawful = match (own, other) {
                (Ring::Outside, _) => true,
                (_, Ring::Outside) => false,
                (Ring::Edge, Ring::Edge) => needs == "edgemesh-net",
                (own, other) => other <= own,
            };
            if !lawful {
                findings.push(format!(
                    "{}: {name} ({own:?}) may not depend on {needs} ({other:?}): model <- core <- edge <- bin, and \
                     edge crates meet in edgemesh-net",
                    place.display()
                ));
            }
        }
    }
    Ok(())
}
