//! CPU time of processes, from the kernel's own account.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// CPU seconds that the threads of the processes have run, user and system together, to the nanosecond
/// (`/proc/PID/task/TID/schedstat`, first field). Threads that ended between two readings would be missed: the
/// processes measured here keep theirs.
pub(crate) fn seconds(pids: &[u32]) -> Result<f64> {
    let mut nanoseconds = 0_u64;
    for pid in pids {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().unwrap_or_default();
            nanoseconds += first.parse::<u64>().with_context(|| format!("schedstat of {pid}: {text:?}"))?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
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
