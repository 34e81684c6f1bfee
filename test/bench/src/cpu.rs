//! CPU time of processes, from the kernel's own account.

use std::fs;

use anyhow::{Context as _, Result};

/// The kernel reports CPU time in ticks of this length to user space, whatever its own tick is (`USER_HZ`, 100 on every
/// architecture Linux has had since 2.6).
const TICK_SECONDS: f64 = 0.01;

/// CPU seconds that the processes have run, user and system together, ended threads included (`/proc/PID/stat`,
/// fields 14 and 15). The kernel scales them to the scheduler's exact sum, so only the reading is rounded to a tick:
/// work that is compared should take a second or more.
pub(crate) fn seconds(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        // The command in field 2 may hold spaces; everything after its closing parenthesis is regular.
        let (_, rest) = text.rsplit_once(") ").context("no command in /proc/PID/stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        for index in [11, 12] {
            ticks += fields.get(index).context("a short /proc/PID/stat")?.parse::<f64>()?;
        }
    }
    Ok(ticks * TICK_SECONDS)
}

/// Resident and anonymous resident memory in MiB (`/proc/PID/status`).
pub(crate) fn memory_mib(pid: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let kib = line.split_whitespace().nth(1).context("no value")?.parse::<f64>()?;
        Ok(kib / 1024.0)
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}
