//! Servers and clients that run as pods in the laboratory.

mod client;
mod dns;
mod serve;
mod transfer;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use lexopt::prelude::*;
use serde_json::json;

const USAGE: &str = "\
edgemesh-workload serve [--name NAME] [--http P] [--https P] [--ws P] [--banner P] [--echo P] [--transfer P]
                        [--udp-echo P] [--udp-hostname P]
edgemesh-workload http|https|ws|banner HOST:PORT [--count N] [--keep-alive]
edgemesh-workload udp HOST:PORT [--size BYTES] [--count N]
edgemesh-workload dns NAME [--type A|AAAA] [--server IP]
edgemesh-workload up|down HOST:PORT [--mb N]
clients: [--timeout MS] [--family 4|6]; one JSON line; exit code 0 when all went well
";

/// What a client is asked to do.
pub(crate) struct Ask {
    pub(crate) target: String,
    pub(crate) count: usize,
    pub(crate) size: usize,
    pub(crate) keep_alive: bool,
    pub(crate) family: Option<u8>,
    pub(crate) kind: String,
    pub(crate) server: Option<std::net::IpAddr>,
    pub(crate) timeout: Duration,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        // Name look-ups run on threads that cannot be stopped; the process does not wait for them.
        let outcome = runtime.block_on(run());
        runtime.shutdown_background();
        outcome
    });
    let (line, code) = match outcome {
        Ok(mut value) => {
            let ok = value.get("ok").and_then(serde_json::Value::as_bool).unwrap_or(true);
            value["ok"] = ok.into();
            (value, if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => (json!({ "ok": false, "error": format!("{error:#}") }), ExitCode::FAILURE),
    };
    let written = writeln!(std::io::stdout(), "{line}");
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

async fn run() -> anyhow::Result<serde_json::Value> {
    let mut parser = lexopt::Parser::from_env();
    let Some(Value(verb)) = parser.next()? else { bail!("{USAGE}") };
    let verb = verb.string()?;
    if verb == "serve" {
        return serve(parser).await;
    }
    let ask = parse(parser)?;
    // The clients bound each step; this bounds the whole.
    let steps = u32::try_from(ask.count.max(1)).unwrap_or(u32::MAX);
    let whole = ask.timeout.saturating_mul(steps.saturating_add(1));
    tokio::time::timeout(whole, client::run(&verb, &ask)).await.context("time is over")?
}

async fn serve(mut parser: lexopt::Parser) -> anyhow::Result<serde_json::Value> {
    let mut name = std::env::var("POD_NAME").unwrap_or_else(|_| "pod".into());
    let mut ports = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("name") => name = parser.value()?.string()?,
            Long(kind) => {
                let kind = serve::Kind::from_word(kind).with_context(|| format!("--{kind}\n{USAGE}"))?;
                ports.push((kind, parser.value()?.parse()?));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    serve::run(name, ports).await?;
    Ok(json!({}))
}

fn parse(mut parser: lexopt::Parser) -> anyhow::Result<Ask> {
    let mut ask = Ask {
        target: String::new(),
        count: 1,
        size: 100,
        keep_alive: false,
        family: None,
        kind: "A".into(),
        server: None,
        timeout: Duration::from_secs(5),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(target) if ask.target.is_empty() => ask.target = target.string()?,
            Long("count") => ask.count = parser.value()?.parse()?,
            Long("size") => ask.size = parser.value()?.parse()?,
            Long("mb") => ask.size = parser.value()?.parse::<usize>()? * 1_000_000,
            Long("keep-alive") => ask.keep_alive = true,
            Long("family") => ask.family = Some(parser.value()?.parse()?),
            Long("type") => ask.kind = parser.value()?.string()?,
            Long("server") => ask.server = Some(parser.value()?.parse()?),
            Long("timeout") => ask.timeout = Duration::from_millis(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if ask.target.is_empty() {
        bail!("{USAGE}");
    }
    Ok(ask)
}
