//! `edgemesh lab demo`: two LANs behind NATs and a relay in the cloud, shown as a table.

mod stage;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use edgemesh_net::netns::Isolation;
use serde::{Deserialize, Serialize};

pub(crate) use stage::run as run_stage;

use crate::cli::{Args, print};
use crate::lab::{LabError, Trying};
use crate::state::StateFolder;

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What is shown, as `cross-LAN a→b, punched`.
    pub(crate) case: String,
    /// How, as `HTTP`.
    pub(crate) name: String,
    /// The path it took, as the agent says.
    pub(crate) path: String,
    /// Milliseconds: the median of the answers, or how long it took to come about.
    pub(crate) latency_ms: Option<f64>,
    /// Megabits per second.
    pub(crate) throughput_mbit: Option<f64>,
    /// Whether all was as it should be.
    pub(crate) ok: bool,
    /// Why not, or what else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Row {
    fn line(&self) -> String {
        let number = |number: Option<f64>, unit: &str| {
            number.map(|number| format!("{number:.1} {unit}")).unwrap_or_default()
        };
        format!(
            "{:<28} {:<22} {:<9} {:>11} {:>13}  {:<6} {}",
            self.case,
            self.name,
            self.path,
            number(self.latency_ms, "ms"),
            number(self.throughput_mbit, "Mbit/s"),
            if self.ok { "ok" } else { "FAILED" },
            self.note.as_deref().unwrap_or_default(),
        )
        .trim_end()
        .to_owned()
    }
}

/// What the two stages differ in.
pub(crate) const STAGES: [&str; 2] = ["endpoint-independent", "symmetric"];

/// Runs the stages one after the other, each in a process of its own: one process can enter one laboratory only.
pub(crate) fn run(args: &Args) -> Result<ExitCode, LabError> {
    if !args.json {
        print(&format!(
            "{:<28} {:<22} {:<9} {:>11} {:>13}  ok",
            "case", "name", "path", "latency", "throughput"
        ))?;
    }
    StateFolder::sweep();
    let mut rows = Vec::new();
    for stage in STAGES {
        let mut command = Command::new("/proc/self/exe");
        command.args(["lab", "demo-stage", stage]).stdin(Stdio::null()).stdout(Stdio::piped());
        for (flag, value) in [("--edgemesh", &args.edgemesh), ("--workload", &args.workload)] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if let Some(case) = &args.case {
            command.args(["--case", case]);
        }
        let started = Isolation::new().die_with_parent().apply(&mut command).spawn();
        let mut child = started.trying(|| "a stage of the demo".into())?;
        let out = child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines());
        for line in out.map_while(Result::ok) {
            let Ok(row) = serde_json::from_str::<Row>(&line) else { continue };
            if !args.json {
                print(&row.line())?;
            }
            rows.push(row);
        }
        let status = child.wait().trying(|| "a stage of the demo".into())?;
        if !status.success() && rows.iter().all(|row| row.ok) {
            let note = Some(format!("{status}; what went wrong is told above"));
            rows.push(Row { case: format!("NAT {stage}"), name: "stage".into(), note, ..Row::default() });
        }
    }
    let failed = rows.iter().filter(|row| !row.ok).count();
    if args.json {
        let text = serde_json::json!({ "ok": failed == 0, "rows": rows });
        print(&text.to_string())?;
    } else {
        print(&format!("{} rows, {failed} failed", rows.len()))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
