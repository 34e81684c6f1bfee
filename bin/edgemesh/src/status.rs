//! The status page: its shape, and its text.

use std::fmt::Write as _;

use edgemesh_tunnel::TunnelStatus;
use serde::{Deserialize, Serialize};

/// What the agent knows and does, at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) uptime_seconds: u64,
    pub(crate) metadata: MetadataStatus,
    pub(crate) applied: Vec<Applied>,
    pub(crate) connections: ConnectionStatus,
    pub(crate) dns: Option<DnsStatus>,
    pub(crate) tunnel: Option<TunnelStatus>,
    pub(crate) alarms: Vec<String>,
}

/// Where the objects come from and how old they are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct MetadataStatus {
    /// `manifests DIR`, or `none` on a node that only relays.
    pub(crate) source: String,
    /// True while the journal's copy is served because no source has answered yet.
    pub(crate) stale: bool,
    /// Seconds since the source last delivered a listing or a change; with a journal, since it was saved.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) generation: u64,
    pub(crate) services: usize,
    pub(crate) frontends: usize,
    pub(crate) backends_here: usize,
    /// Objects that cannot be acted on, with the reason.
    pub(crate) findings: Vec<String>,
    /// State of the durable copy.
    pub(crate) journal: String,
}

/// The generation one control loop has applied.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) reader: String,
    pub(crate) generation: u64,
    pub(crate) error: Option<String>,
}

/// Connections and UDP sessions of both directions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConnectionStatus {
    pub(crate) open_tcp: i64,
    pub(crate) open_udp: i64,
    pub(crate) ended: u64,
    pub(crate) unserved: u64,
}

/// The DNS server's counts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct DnsStatus {
    pub(crate) listen: Vec<String>,
    pub(crate) counters: Vec<(String, u64)>,
}

/// The text for people: one screen, what is wrong first.
pub(crate) fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_status(&mut text, status);
    text
}

fn write_status(out: &mut String, status: &Status) -> std::fmt::Result {
    for alarm in &status.alarms {
        writeln!(out, "!! {alarm}")?;
    }
    writeln!(out, "node {}  edgemesh {}  up {}", status.node, status.version, span(status.uptime_seconds))?;
    let metadata = &status.metadata;
    let age = metadata.age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)));
    writeln!(
        out,
        "metadata   {}{}, last heard {age}, generation {}: {} services, {} frontends, {} backends here",
        metadata.source,
        if metadata.stale { " (served from the journal)" } else { "" },
        metadata.generation,
        metadata.services,
        metadata.frontends,
        metadata.backends_here,
    )?;
    writeln!(out, "journal    {}", metadata.journal)?;
    for applied in &status.applied {
        let error = applied.error.as_ref().map(|error| format!("  FAILED: {error}")).unwrap_or_default();
        writeln!(out, "applied    {} at generation {}{error}", applied.reader, applied.generation)?;
    }
    let connections = &status.connections;
    writeln!(
        out,
        "traffic    {} TCP connections and {} UDP sessions open, {} ended, {} unserved",
        connections.open_tcp, connections.open_udp, connections.ended, connections.unserved
    )?;
    if let Some(dns) = &status.dns {
        let counters: Vec<String> =
            dns.counters.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(out, "dns        on {}: {}", dns.listen.join(", "), counters.join(", "))?;
    }
    for finding in &metadata.findings {
        writeln!(out, "object     {finding}")?;
    }
    if let Some(tunnel) = &status.tunnel {
        write_tunnel(out, tunnel)?;
    }
    Ok(())
}

fn write_tunnel(_out: &mut String, _tunnel: &TunnelStatus) -> std::fmt::Result {
    Ok(())
}

/// Seconds as the two largest units: `42s`, `3m12s`, `5h02m`, `8d3h`.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
