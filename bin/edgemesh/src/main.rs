//! The EdgeMesh binary: one screen of wiring per command.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on standard output")]

mod agent;
mod check;
mod commands;
mod config;
mod explain;
mod gateway;
mod identity;
mod logging;
mod metadata;
mod process;
mod reload;
mod settings;
mod status;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::run(std::env::args_os().collect())
}
