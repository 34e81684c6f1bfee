//! The status page: its shape, and its text.

use std::fmt::{self, Write as _};

use edgemesh_admin::{Figure, Page};
use edgemesh_tunnel::TunnelStatus;
use serde::Serialize;

/// What the agent knows and does, at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) version: &'static str,
    pub(crate) uptime_seconds: u64,
    pub(crate) metadata: MetadataStatus,
    /// The generation that each control loop has applied.
    pub(crate) applied: Vec<Applied>,
    /// What carries the kernel's rules out; absent where the kernel is left alone.
    pub(crate) kernel: Option<KernelStatus>,
    pub(crate) connections: ConnectionStatus,
    pub(crate) dns: Option<DnsStatus>,
    pub(crate) tunnel: Option<TunnelStatus>,
    /// What an operator should look at, worst first.
    pub(crate) alarms: Vec<String>,
}

/// Where the objects come from and how old they are.
#[derive(Debug, Default, Serialize)]
pub(crate) struct MetadataStatus {
    /// `manifests DIR`, `kubernetes URL`, `metaServer URL`, or `none` on a node that only relays.
    pub(crate) source: String,
    /// True while the journal's copy is served because no source has answered yet.
    pub(crate) stale: bool,
    /// Seconds since the source last delivered a listing or a change; with the journal's copy, since it was saved.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) generation: u64,
    pub(crate) services: usize,
    pub(crate) frontends: usize,
    pub(crate) backends_here: usize,
    /// Objects that cannot be acted on, with the reason.
    pub(crate) findings: Vec<String>,
    /// State of the durable copy.
    pub(crate) journal: String,
    /// How each kind of an API server is followed; empty with a directory of manifests.
    pub(crate) kinds: Vec<KindLine>,
}

/// How one kind of an API server is followed.
#[derive(Debug, Serialize)]
pub(crate) struct KindLine {
    pub(crate) kind: &'static str,
    /// `starting`, `listing`, `watching`, `failing`, `absent`, `forbidden` or `unused`.
    pub(crate) state: &'static str,
    /// Why, when it fails.
    pub(crate) reason: Option<String>,
    /// Objects of the last complete list.
    pub(crate) objects: usize,
    /// Complete lists.
    pub(crate) lists: u64,
    /// Changes that came by watch.
    pub(crate) events: u64,
    /// Events that said nothing.
    pub(crate) odd_events: u64,
    /// Changes that only a list showed.
    pub(crate) missed: u64,
}

/// What carries the kernel's rules out.
#[derive(Debug, Serialize)]
pub(crate) struct KernelStatus {
    /// `nftables` or `iptables`.
    pub(crate) backend: &'static str,
    /// Why it is this one, and what does not work with it.
    pub(crate) reason: String,
    /// Whether sockets of the host connect to endpoints at once, or why not; absent until the rules are in place.
    pub(crate) connect_rewrite: Option<String>,
}

/// The generation one control loop has applied.
#[derive(Debug, Serialize)]
pub(crate) struct Applied {
    pub(crate) reader: &'static str,
    pub(crate) generation: u64,
    pub(crate) error: Option<String>,
}

/// Connections and UDP sessions of both directions.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ConnectionStatus {
    pub(crate) open_tcp: i64,
    pub(crate) open_udp: i64,
    pub(crate) ended: u64,
    /// Ended without a backend: no target, or every target failed.
    pub(crate) unserved: u64,
}

/// The DNS server's counts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct DnsStatus {
    pub(crate) listen: Vec<String>,
    pub(crate) counters: Vec<(&'static str, u64)>,
}

/// The text for people: one screen, what is wrong first.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for alarm in &self.alarms {
            writeln!(f, "!! {alarm}")?;
        }
        writeln!(f, "node       {}, edgemesh {}, up {}", self.node, self.version, span(self.uptime_seconds))?;
        let metadata = &self.metadata;
        write!(f, "{metadata}")?;
        for applied in &self.applied {
            write!(f, "applied    {} at generation {}", applied.reader, applied.generation)?;
            match &applied.error {
                Some(error) => writeln!(f, ", FAILED: {error}")?,
                None => writeln!(f)?,
            }
        }
        if let Some(KernelStatus { backend, reason, connect_rewrite }) = &self.kernel {
            writeln!(f, "kernel     by {backend}: {reason}")?;
            if let Some(words) = connect_rewrite {
                writeln!(f, "connect    {words}")?;
            }
        }
        let connections = &self.connections;
        writeln!(
            f,
            "traffic    {} TCP connections and {} UDP sessions open, {} ended, {} unserved",
            connections.open_tcp, connections.open_udp, connections.ended, connections.unserved
        )?;
        if let Some(dns) = &self.dns {
            let mut counters = String::new();
            for (name, count) in dns.counters.iter().filter(|(_, count)| *count > 0) {
                write!(counters, ", {name} {count}")?;
            }
            writeln!(f, "dns        {}{counters}", dns.listen.join(" "))?;
        }
        for finding in &metadata.findings {
            writeln!(f, "object     {finding}")?;
        }
        if let Some(tunnel) = &self.tunnel {
            write_tunnel(f, tunnel)?;
        }
        Ok(())
    }
}

/// The lines that begin with `metadata`, `journal` and `kind`.
impl fmt::Display for MetadataStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)));
        writeln!(
            f,
            "metadata   {}{}, last heard {age}, generation {}: {} services, {} frontends, {} backends here",
            self.source,
            if self.stale { " (served from the journal)" } else { "" },
            self.generation,
            self.services,
            self.frontends,
            self.backends_here,
        )?;
        writeln!(f, "journal    {}", self.journal)?;
        for kind in &self.kinds {
            write!(
                f,
                "kind       {} {}, {} listed, {} changes since",
                kind.kind, kind.state, kind.objects, kind.events
            )?;
            for (count, what) in [(kind.missed, "missed by the watch"), (kind.odd_events, "odd events")] {
                if count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
            match &kind.reason {
                Some(reason) => writeln!(f, ": {reason}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

fn write_tunnel(f: &mut fmt::Formatter<'_>, tunnel: &TunnelStatus) -> fmt::Result {
    writeln!(f, "tunnel     {} on {}", tunnel.peer_id, tunnel.listen.join(" "))?;
    for relay in &tunnel.relays {
        write!(f, "relay      {} {}", relay.address, format!("{:?}", relay.state).to_lowercase())?;
        match &relay.reason {
            Some(reason) => writeln!(f, ": {reason}")?,
            None => writeln!(f)?,
        }
    }
    for away in &tunnel.unreachable {
        writeln!(f, "no path    to node {}: {} ({})", away.node, away.words, away.reason)?;
    }
    let refused = &tunnel.refused;
    for (count, what) in [
        (refused.psk_mismatch, "handshakes failed as they do with another private-network key"),
        (refused.malformed_header, "streams had a malformed header"),
        (refused.overloaded, "streams were beyond the bounds"),
        (refused.bad_record, "peer records did not verify"),
        (refused.go_name, "node names of Go agents do not go with their identity"),
    ] {
        if count > 0 {
            writeln!(f, "refused    {count} {what}")?;
        }
    }
    if tunnel.peers.is_empty() {
        return writeln!(f, "no peers yet");
    }
    writeln!(
        f,
        "{:<20} {:<11} {:>9} {:>12} {:>12} {:>9} {:>9}  ADDRESS",
        "PEER", "PATH", "RTT", "RECEIVED", "SENT", "SESSIONS", "SINCE"
    )?;
    for peer in &tunnel.peers {
        let name = peer.node.as_deref().unwrap_or(&peer.peer);
        let name = if peer.legacy { format!("{name} (Go)") } else { name.to_owned() };
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        writeln!(
            f,
            "{name:<20} {:<11} {rtt:>9} {:>12} {:>12} {:>9} {:>9}  {}",
            peer.path,
            bytes(peer.bytes_in),
            bytes(peer.bytes_out),
            peer.streams_in + peer.streams_out,
            span(peer.since_s),
            peer.address,
        )?;
    }
    Ok(())
}

/// Octets in the largest binary unit below them.
fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// Seconds as the two largest units: `42s`, `3m12s`, `5h02m`, `8d3h`.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A page in JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<Page, String> {
    serde_json::to_string(value).map(|text| Page::Json(text + "\n")).map_err(|error| error.to_string())
}

/// A figure that goes up and down.
pub(crate) fn gauge(name: &'static str, help: &'static str, value: usize) -> Figure {
    Figure { name, help, counter: false, value: i64::try_from(value).unwrap_or(i64::MAX) }
}

/// A figure that only goes up.
pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Figure {
    Figure { name, help, counter: true, value: i64::try_from(value).unwrap_or(i64::MAX) }
}
