//! `edgemesh lab test`: starts a site, checks its `tests` in order, ends it.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::cli::print;
use crate::control::Request;
use crate::lab::{Blueprint, Lab, LabError};
use crate::site::{Assertion, Site};
use crate::state::StateFolder;

/// Pause between two looks at a condition that has no event to wait for.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Runs the assertions of a site.
pub(crate) fn run(site: &Site, blueprint: &Blueprint, json: bool) -> Result<ExitCode, LabError> {
    StateFolder::sweep();
    let mut lab = Lab::up(&format!("test-{}", std::process::id()), blueprint, true)?;
    lab.step_inside()?;
    let mut failed = 0;
    for assertion in &site.tests {
        let began = Instant::now();
        let outcome = check(&lab, assertion);
        let title = assertion.name.clone().unwrap_or_else(|| assertion.run.join(" "));
        let ms = began.elapsed().as_millis();
        failed += usize::from(outcome.is_err());
        if json {
            let why = outcome.as_ref().err().map(ToString::to_string);
            let row =
                serde_json::json!({ "name": title, "ok": outcome.is_ok(), "why": why, "milliseconds": ms });
            print(&row.to_string())?;
        } else {
            match outcome {
                Ok(()) => print(&format!("ok      {title} ({ms} ms)"))?,
                Err(why) => print(&format!("FAILED  {title} ({ms} ms): {why}"))?,
            }
        }
    }
    if failed > 0 {
        print(&format!("logs: {}", lab.folder().join("logs").display()))?;
    }
    lab.down(failed > 0)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Repeats the command until the outcome is the expected one or the time is over.
fn check(lab: &Lab, assertion: &Assertion) -> Result<(), LabError> {
    for target in &assertion.cut {
        lab.change(&Request::Cut(target.clone()))?;
    }
    for target in &assertion.heal {
        lab.change(&Request::Heal(target.clone()))?;
    }
    let deadline = Instant::now() + assertion.within;
    loop {
        let seen = attempt(lab, assertion, deadline);
        if seen.is_ok() || Instant::now() > deadline {
            return seen;
        }
        std::thread::sleep(POLL);
    }
}

fn attempt(lab: &Lab, assertion: &Assertion, deadline: Instant) -> Result<(), LabError> {
    let failed = |why: String| Err(LabError::Failed(why));
    let mut command = lab.command(&assertion.from, &lab.resolve(&assertion.run)?)?;
    let output = crate::lab::output_until(command.stdin(Stdio::null()), deadline)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() != assertion.succeeds {
        let errors = String::from_utf8_lossy(&output.stderr);
        return failed(format!("{}: {} {}", output.status, text.trim(), errors.trim()));
    }
    if let Some(wanted) = assertion.output.as_ref().filter(|wanted| !text.contains(&**wanted)) {
        return failed(format!("the output lacks {wanted:?}: {}", text.trim()));
    }
    if let Some(path) = &assertion.path {
        let seen = lab.path(&assertion.from, &path.to)?;
        if seen != path.is {
            return failed(format!("the path to {} is {seen}, not {}", path.to, path.is));
        }
    }
    Ok(())
}
