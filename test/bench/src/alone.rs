//! Parts of this program that run in namespaces of their own, where nobody else's rules are.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use edgemesh_net::netlink::rt::Handle;
use edgemesh_net::netns::{Isolation, Kind};
use serde_json::{Value, json};

use crate::inside::Samples;
use crate::{churn, kernel_path, scale, tunnel};

/// The word by which this program knows that it runs so.
pub(crate) const ALONE: &str = "alone";

/// Everything that is waited for takes seconds on an idle machine: an agent parses 10,000 Services in two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that is coming about.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Runs a part in a fresh network namespace, as root of a user namespace where that is needed; what it measured.
pub(crate) fn start(part: &str) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ALONE, part]).stdin(Stdio::null()).stderr(Stdio::inherit()).stdout(Stdio::piped());
    let isolation =
        Isolation::new().fresh(&[Kind::Net, Kind::Mount]).fresh_user_if_needed().die_with_parent();
    let said = isolation.apply(&mut command).spawn().context("namespaces")?.wait_with_output()?;
    if !said.status.success() {
        bail!("{part} in its own namespaces: {}", said.status);
    }
    Ok(serde_json::from_slice(&said.stdout)?)
}

/// The part itself.
pub(crate) fn run(part: &str) -> Result<Value> {
    let mut samples = Samples::default();
    loopback_up()?;
    match part {
        scale::PART => scale::inside(&mut samples)?,
        kernel_path::PART => kernel_path::inside(&mut samples)?,
        tunnel::PART => tunnel::inside(&mut samples)?,
        tunnel::failover::PART => tunnel::failover::inside(&mut samples)?,
        tunnel::relay_scale::PART => tunnel::relay_scale::inside(&mut samples)?,
        churn::PART => churn::inside(&mut samples)?,
        other => bail!("there is no part {other:?}"),
    }
    Ok(json!(samples))
}

/// Brings the loopback up, as it is on any host.
pub(crate) fn loopback_up() -> Result<()> {
    let mut rt = Handle::open()?;
    let lo = rt.link("lo")?.context("no lo")?.index;
    Ok(rt.set_up(lo, true)?)
}
