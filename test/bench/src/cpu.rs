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
    pids.iter().map(|pid| stat(&pid.to_string(), [14, 15])).sum()
}

/// CPU seconds that children of this process have run, their own children included, once they were waited for
/// (fields 16 and 17).
pub(crate) fn children_seconds() -> Result<f64> {
    stat("self", [16, 17])
}

/// The sum of two fields of `/proc/PID/stat`, numbered as in proc(5).
fn stat(pid: &str, fields: [usize; 2]) -> Result<f64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The command in field 2 may hold spaces; everything after its closing parenthesis is regular.
    let (_, rest) = text.rsplit_once(") ").context("no command in /proc/PID/stat")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let mut ticks = 0.0;
    for field in fields {
        ticks += words.get(field - 3).context("a short /proc/PID/stat")?.parse::<f64>()?;
    }
    Ok(ticks * TICK_SECONDS)
}

/// CPU seconds of the threads that live, to the nanosecond (`/proc/PID/task/TID/schedstat`): for what takes less than
/// a tick. Without the kernel's scheduler statistics it falls back to whole ticks.
pub(crate) fn precise_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?
    {
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { return seconds(&[pid]) };
        nanoseconds += text.split_whitespace().next().context("an empty schedstat")?.parse::<f64>()?;
    }
    Ok(nanoseconds * 1e-9)
}

/// Resident memory in MiB, and what it is made of.
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) anonymous: f64,
    /// Pages of the binary and its libraries, which the page cache holds anyway.
    pub(crate) file: f64,
}

/// Reads `/proc/PID/status`.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let kib = line.split_whitespace().nth(1).context("no value")?.parse::<f64>()?;
        Ok(kib / 1024.0)
    };
    Ok(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")?, file: field("RssFile:")? })
}
