//! Benchmarks: each runs its baseline and ours in turns in one run, so that a noisy machine disturbs both alike.
//!
//! Figures are ratios and CPU time per unit of work, summed over every process on the path; rates are printed, and
//! hold only for the machine they were measured on.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on standard output")]

mod alone;
mod api;
mod bare;
mod churn;
mod coldstart;
mod cpu;
mod dns;
mod frame;
mod inside;
mod kernel_path;
mod kernel_path_plot;
mod kernel_path_stage;
mod l4;
mod lab;
mod lightness;
mod metadata;
mod nat_matrix;
mod scale;
mod tunnel;
mod user_path;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Name, what is compared, and the function that measures.
type Bench = (&'static str, &'static str, fn(&mut frame::Report) -> Result<()>);

const BENCHES: [Bench; 12] = [
    (
        "churn",
        "100,000 connections while endpoints change 10 times a second; clients while the agent is killed and started",
        churn::run,
    ),
    (
        "coldstart",
        "an agent's restart with no API server, no relay and no default route: time to DNS and to a connection",
        coldstart::run,
    ),
    (
        "failover",
        "sessions while the relay in use is killed, the direct path cut, a node's address changed: silence, breaks",
        tunnel::failover::run,
    ),
    (
        "l4",
        "raw veth, the proxy on one node, the tunnel between two: CPU per GB, per connection, per request",
        l4::run,
    ),
    (
        "kernel-path",
        "a plain route, our rules in the kernel, our proxy, rules of kube-proxy's shapes; 10, 1,000, 10,000 Services",
        kernel_path::run,
    ),
    ("lightness", "an idle agent with 20 Services: resident memory and stripped binary", lightness::run),
    (
        "metadata",
        "API server to working connection and DNS answer; memory and CPU with 5,000 Services of 10 endpoints",
        metadata::run,
    ),
    (
        "nat-matrix",
        "every pair of eight kinds of NATs: the path two nodes come to, and when; a table in Markdown",
        nat_matrix::run,
    ),
    (
        "user-path",
        "the agent's proxy and bare proxies: CPU of that process per GB, per connection, per request; memory; overload",
        user_path::run,
    ),
    (
        "relay-scale",
        "500 nodes behind one address on one relay: reservations, circuits, memory and CPU of the relay, its restart",
        tunnel::relay_scale::run,
    ),
    (
        "scale",
        "10,000 Services with 50,000 endpoints: time and CPU to bring the kernel to them, and to change one endpoint",
        scale::run,
    ),
    (
        "tunnel",
        "direct and relayed, raw TCP, two plain proxies: CPU per GB, connections, requests; one stream over long links",
        tunnel::run,
    ),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [lab::INSIDE, part, psk] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return ended(inside::run(part, psk.as_ref()).map(|samples| println!("{samples}")));
    }
    if let [tunnel::PROGRAM, program @ ..] = &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return ended(tunnel::program(program).map(drop));
    }
    if let [alone::ALONE, part] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return ended(alone::run(part).map(|samples| println!("{samples}")));
    }
    let json = words.iter().any(|word| word == "--json");
    let plot = words.iter().find_map(|word| word.strip_prefix("--plot="));
    let name = words.iter().find(|word| !word.starts_with("--")).map_or("list", String::as_str);
    ended(run(name, json, plot))
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `plot` is a file for the picture of `kernel-path`.
fn run(name: &str, json: bool, plot: Option<&str>) -> Result<()> {
    if name == "list" {
        for (name, line, _) in BENCHES {
            println!("{name:<11} {line}");
        }
        return Ok(());
    }
    let Some((name, _, measure)) = BENCHES.iter().find(|(known, _, _)| *known == name) else {
        bail!("there is no bench {name:?}; `cargo xtask bench list` lists them");
    };
    let mut report = frame::Report::new(name);
    measure(&mut report)?;
    if let Some(file) = plot {
        std::fs::write(file, kernel_path_plot::svg(&report)?)?;
    }
    if json {
        println!("{}", report.json()?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
