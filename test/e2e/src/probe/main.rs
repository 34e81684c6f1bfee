//! Small clients and servers that tests run in pods and nodes. Each answers with one line of JSON.

mod ask;
mod flow;
mod rogue;
mod serve;
mod storm;
mod talk;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

const USAGE: &str = "\
edgemesh-e2e-probe serve PORT-OF-COUNTER PORT-OF-LATE-UDP   servers that behave as few do
edgemesh-e2e-probe hold ADDR                                bind TCP and UDP there, and say ready
edgemesh-e2e-probe tcp ADDR [TIMEOUT_MS]                    connect: connected, refused, reset or silent
edgemesh-e2e-probe udp ADDR [TIMEOUT_MS]                    one datagram: answered, refused or silent
edgemesh-e2e-probe half-close ADDR BYTES                    send, close one direction, read what comes
edgemesh-e2e-probe noise ADDR                               send what is no handshake, and end
edgemesh-e2e-probe tcp-held ADDR                            say ready over an echo, wait for the other side's end
edgemesh-e2e-probe udp-held ADDR                            say ready, send on until echoes have stopped and come again
edgemesh-e2e-probe tcp-storm ADDR COUNT                     connections to an echo, opened and closed
edgemesh-e2e-probe udp-storm ADDR COUNT                     UDP sessions with an echo, a socket each
edgemesh-e2e-probe flow NAME:PORT                           say ready, look up, connect and echo until standard input ends
edgemesh-e2e-probe http                                     say ready, send the HTTP requests of standard input
edgemesh-e2e-probe rogue NODE PSK STATE TIMES ADDR...       ask a node's agent for backends (udp:ADDR for UDP)
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words).and_then(|answer| say(&answer.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{words:?}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<Value> {
    match *words {
        ["serve", counter, late] => serve::run(counter.parse()?, late.parse()?),
        ["hold", address] => serve::hold(parse(address)?),
        ["tcp", address] => talk::tcp(parse(address)?, talk::SILENCE),
        ["tcp", address, timeout] => {
            talk::tcp(parse(address)?, std::time::Duration::from_millis(timeout.parse()?))
        }
        ["udp", address] => talk::udp(parse(address)?, talk::SILENCE),
        ["udp", address, timeout] => {
            talk::udp(parse(address)?, std::time::Duration::from_millis(timeout.parse()?))
        }
        ["half-close", address, bytes] => talk::half_close(parse(address)?, bytes.parse()?),
        ["noise", address] => talk::noise(parse(address)?),
        ["tcp-held", address] => talk::tcp_held(parse(address)?),
        ["udp-held", address] => talk::udp_held(parse(address)?),
        ["tcp-storm", address, count] => storm::tcp(parse(address)?, count.parse()?),
        ["udp-storm", address, count] => storm::udp(parse(address)?, count.parse()?),
        ["flow", target] => flow::run(target),
        ["http"] => ask::http(),
        ["rogue", node, psk, state, times, ref backends @ ..] => {
            rogue::run(node, psk.as_ref(), state.as_ref(), times.parse()?, backends)
        }
        _ => bail!("{USAGE}"),
    }
}

fn parse(address: &str) -> Result<SocketAddr> {
    address.parse().with_context(|| format!("{address} is no IP:PORT"))
}

/// Writes one line to whoever waits for it.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
