use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::Ask;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const RECURSION_DESIRED: u16 = 0x0100;
const HEADER: usize = 12;

/// One query over UDP (RFC 1035 section 4.1), to the server given or the first of /etc/resolv.conf.
pub(crate) async fn look_up(ask: &Ask) -> anyhow::Result<Value> {
    let kind = match ask.kind.as_str() {
        "A" => TYPE_A,
        "AAAA" => TYPE_AAAA,
        other => bail!("type {other}: A and AAAA are known"),
    };
    let server = match ask.server {
        Some(server) => server,
        None => first_server()?,
    };
    let local: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect((server, 53)).await?;
    let mut times = Vec::new();
    let mut addresses = Vec::new();
    let mut code = 0;
    for _ in 0..ask.count {
        let began = std::time::Instant::now();
        socket.send(&query(&ask.target, kind)?).await?;
        let mut buffer = [0; 4096];
        let length =
            tokio::time::timeout(ask.timeout, socket.recv(&mut buffer)).await.context("no answer")??;
        times.push(began.elapsed());
        (code, addresses) = answers(&buffer[..length], kind).context("malformed answer")?;
    }
    let ok = code == 0 && !addresses.is_empty();
    Ok(json!({
        "ok": ok,
        "rcode": code,
        "addresses": addresses,
        "latency_ms": crate::client::latency(&mut times),
    }))
}

fn first_server() -> anyhow::Result<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    Ok(servers.next().context("no nameserver in /etc/resolv.conf")?.trim().parse()?)
}

fn query(name: &str, kind: u16) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in [0x4d45, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend_from_slice(&u16::to_be_bytes(word));
    }
    for label in name.trim_end_matches('.').split('.') {
        bytes
            .push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length)).context("label")?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    for word in [kind, CLASS_IN] {
        bytes.extend_from_slice(&u16::to_be_bytes(word));
    }
    Ok(bytes)
}

fn answers(message: &[u8], kind: u16) -> Option<(u8, Vec<IpAddr>)> {
    let word = |at: usize| message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let code = message.get(3)? & 0xf;
    let (questions, count) = (word(4)?, word(6)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = skip_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..count {
        at = skip_name(message, at)?;
        let length = usize::from(word(at + 8)?);
        let bytes = message.get(at + 10..at + 10 + length)?;
        if word(at)? == kind {
            found.push(match kind {
                TYPE_A => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            });
        }
        at += 10 + length;
    }
    Some((code, found))
}

/// Where the name that starts at `at` ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends the name (RFC 1035 section 4.1.4).
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}
