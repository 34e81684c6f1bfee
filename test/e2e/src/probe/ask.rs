use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::talk::SILENCE;

/// Sends HTTP requests that come as lines of JSON on standard input, and says each answer as a line of JSON.
pub(crate) fn http() -> Result<Value> {
    crate::say("ready")?;
    let mut asked = 0;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = ask(&request).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        crate::say(&answer.to_string())?;
        asked += 1;
    }
    Ok(json!({ "asked": asked }))
}

fn ask(request: &Value) -> Result<Value> {
    let word = |key: &str| request[key].as_str().with_context(|| format!("a request without {key}"));
    let address: SocketAddr = word("address")?.parse()?;
    let body = if request["body"].is_null() { String::new() } else { request["body"].to_string() };
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    write!(
        stream,
        "{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        word("method")?,
        word("path")?,
        body.len(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    let status: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    if head.to_ascii_lowercase().contains("transfer-encoding") {
        bail!("an answer in pieces; ask for one object");
    }
    Ok(json!({ "status": status, "body": body }))
}
