//! Repository tasks: `cargo xtask demo | test | tidy | docs | bench`.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on standard output")]

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use xtask::{TASKS, deploy, root, setup, tidy};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match task.as_str() {
        "demo" => demo(&rest),
        "test" => test(&rest),
        "tidy" => run_tidy(),
        "docs" => docs(),
        "bench" => bench(&rest),
        "" | "help" | "--help" | "-h" => {
            for (name, line) in TASKS {
                println!("cargo xtask {name:<6} {line}");
            }
            Ok(())
        }
        other => Err(anyhow::anyhow!("there is no task {other:?}; `cargo xtask help` lists them")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    setup::run(Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())).args(arguments))
}

fn demo(rest: &[String]) -> Result<()> {
    setup::compiler()?;
    cargo(&["build", "--release", "--package", "edgemesh", "--package", "edgemesh-workload"])?;
    setup::run(Command::new(setup::target_dir().join("release/edgemesh")).args(["lab", "demo"]).args(rest))
}

fn test(rest: &[String]) -> Result<()> {
    setup::compiler()?;
    setup::packages(setup::TEST_PACKAGES)?;
    if rest.iter().all(|argument| argument != "--no-lints") {
        setup::component("rustfmt")?;
        setup::component("clippy")?;
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    }
    cargo(&[
        "build",
        "--locked",
        "--package",
        "edgemesh",
        "--package",
        "edgemesh-workload",
        "--package",
        "edgemesh-apiserver",
    ])?;
    deploy::check()?;
    cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])?;
    setup::as_ordinary_user(&setup::target_dir())
}

fn run_tidy() -> Result<()> {
    let findings = tidy::check(&root())?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: nothing to mend");
        return Ok(());
    }
    bail!("{} finding(s)", findings.len())
}

fn docs() -> Result<()> {
    let path = root().join("docs/config.md");
    std::fs::write(&path, edgemesh_config::document()).with_context(|| path.display().to_string())?;
    println!("{} is written", path.display());
    Ok(())
}

fn bench(rest: &[String]) -> Result<()> {
    setup::compiler()?;
    cargo(&[
        "build",
        "--release",
        "--package",
        "edgemesh",
        "--package",
        "edgemesh-workload",
        "--package",
        "edgemesh-apiserver",
        "--package",
        "edgemesh-bench",
    ])?;
    setup::run(Command::new(setup::target_dir().join("release/edgemesh-bench")).args(rest))
}
