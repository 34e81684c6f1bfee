use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::talk::SILENCE;

/// Between two rounds: often enough that an interruption of a tenth of a second meets some.
const PACE: Duration = Duration::from_millis(20);

/// Failures that are told; more say nothing new.
const TOLD: usize = 5;

/// Keeps one connection to an echo busy, and looks its name up for another connection in every round, until standard
/// input ends.
pub(crate) fn run(target: &str) -> Result<Value> {
    let mut held = connect(target)?;
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    std::thread::spawn(move || {
        // An error of reading is an end too.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
    });
    crate::say("ready")?;
    let (mut rounds, mut failures) = (0, Vec::new());
    while !ended.load(Ordering::Relaxed) {
        let round = echo(&mut held).context("the connection held").and_then(|()| connect(target).map(drop));
        if let Err(error) = round
            && failures.len() < TOLD
        {
            failures.push(format!("{error:#}"));
        }
        rounds += 1;
        std::thread::sleep(PACE);
    }
    Ok(json!({ "rounds": rounds, "failures": failures }))
}

/// A connection by name that has been proved by an echo.
fn connect(target: &str) -> Result<TcpStream> {
    let address = target
        .to_socket_addrs()
        .with_context(|| format!("{target} does not resolve"))?
        .next()
        .with_context(|| format!("{target} has no address"))?;
    let mut stream =
        TcpStream::connect_timeout(&address, SILENCE).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(SILENCE))?;
    echo(&mut stream).with_context(|| format!("echo of {address}"))?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [7];
    stream.write_all(&byte)?;
    Ok(stream.read_exact(&mut byte)?)
}
