//! The charts and manifests of `deploy/`: rendered, validated against Kubernetes' schemas, and their configuration files
//! read by the agent itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{root, setup};

/// What the checks import, from the Python package index. The renderer has Helm in it; the schemas are those of many
/// Kubernetes versions.
const PACKAGES: [&str; 2] = ["helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0"];

/// Runs `test/deploy/check.py`, then validates every configuration file it rendered.
pub fn check() -> Result<()> {
    let python = environment()?;
    let configs = setup::target_dir().join("deploy-configs");
    if configs.exists() {
        std::fs::remove_dir_all(&configs).with_context(|| configs.display().to_string())?;
    }
    setup::run(
        Command::new(&python).arg(root().join("test/deploy/check.py")).arg("--write-configs").arg(&configs),
    )?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&configs)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    if files.is_empty() {
        bail!("the charts rendered no configuration file");
    }
    for file in &files {
        let mut validate = Command::new(setup::target_dir().join("debug/edgemesh"));
        validate.args(["config", "validate"]).arg(file);
        validate.env("NODE_NAME", "edge-1").env("NAMESPACE", "kubeedge");
        let output = validate.output().context("edgemesh is not built")?;
        if !output.status.success() {
            bail!("{} is refused: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
    eprintln!("{} rendered configuration files are valid for the agent", files.len());
    Ok(())
}

/// A Python with the packages, in the build folder; made once.
fn environment() -> Result<PathBuf> {
    let folder = setup::target_dir().join("deploy-venv");
    let python = folder.join("bin/python");
    let imports = "import helm_python, kubernetes_validate";
    let works = |python: &Path| {
        Command::new(python).args(["-c", imports]).output().is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    setup::packages(&[("python3", "python3")])?;
    let fix = "install python3-venv (`sudo apt-get install python3-venv`) and see that the package index is reached";
    eprintln!("making {} with {}", folder.display(), PACKAGES.join(" and "));
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).status();
    if !made.is_ok_and(|status| status.success()) {
        setup::install(&["python3-venv"])?;
        setup::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).context(fix)?;
    }
    setup::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES),
    )
    .context(fix)?;
    if !works(&python) {
        bail!("{} cannot `{imports}`; {fix}", python.display());
    }
    Ok(python)
}
