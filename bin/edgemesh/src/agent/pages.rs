//! What the agent shows of itself.

use std::sync::{Arc, OnceLock};

use edgemesh_admin::{Figure, Figures, Health, HealthPortFaults, Metrics, Page, PageResult, Pages};
use edgemesh_dns::DnsCounters;
use edgemesh_mesh::Path;
use edgemesh_resolver::Origin;
use edgemesh_tunnel::{TunnelHandle, TunnelStatus};
use edgemesh_tunnel_proto::RelayReason;
use futures::future::BoxFuture;

use super::Shared;
use crate::explain;
use crate::metadata::first_of;
use crate::settings::percent_decode;
use crate::status::{
    Applied, ConnectionStatus, DnsStatus, KernelStatus, MetadataStatus, Status, counter, gauge, json,
};

/// The parts that have something to show.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) tunnel: Option<TunnelHandle>,
    pub(super) dns: Option<Arc<DnsCounters>>,
    pub(super) proxy: Option<Arc<edgemesh_proxy::Counters>>,
    pub(super) remote: Option<Arc<edgemesh_proxy::Counters>>,
    pub(super) health_ports: Option<Arc<HealthPortFaults>>,
}

/// The pages of one agent.
pub(super) struct AgentPages {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    parts: Parts,
}

impl AgentPages {
    pub(super) fn new(shared: Arc<Shared>, metrics: Arc<Metrics>, parts: Parts) -> Self {
        Self { shared, metrics, parts }
    }

    fn metadata(&self) -> MetadataStatus {
        let snapshot = self.shared.snapshots.load();
        self.shared.metadata.status(&snapshot, self.shared.rules.refused())
    }

    fn applied(&self) -> Vec<Applied> {
        let generation = self.shared.snapshots.load().generation.0;
        let mut applied = Vec::new();
        if self.shared.settings.proxy.is_some() {
            let rules = &self.shared.rules;
            applied.push(Applied { reader: "rules", generation: rules.applied(), error: rules.error() });
            // The proxy and the resolver load the snapshot for every decision.
            applied.push(Applied { reader: "proxy", generation, error: None });
        }
        if self.shared.settings.dns.is_some() {
            applied.push(Applied { reader: "dns", generation, error: None });
        }
        applied
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let totals = self.metrics.totals();
        let metadata = self.metadata();
        let tunnel = self.parts.tunnel.as_ref().map(TunnelHandle::status);
        let mut alarms: Vec<String> =
            shared.rules.error().map(|error| format!("kernel rules: {error}")).into_iter().collect();
        alarms.extend(shared.metadata.alarms(metadata.stale, shared.settings.source.is_some()));
        alarms.extend(shared.reload.pending().map(|pending| format!("configuration: {pending}")));
        alarms.extend(shared.settings.unserved.iter().map(|words| format!("configuration: {words}")));
        alarms.extend(self.parts.health_ports.iter().flat_map(|faults| first_of(faults.list())));
        if let Some(tunnel) = &tunnel {
            alarms.extend(tunnel_alarms(tunnel));
        }
        Status {
            node: shared.settings.node_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: shared.started.elapsed().as_secs(),
            metadata,
            applied: self.applied(),
            kernel: shared.rules.backend().map(|(backend, reason)| KernelStatus {
                backend,
                reason: reason.to_owned(),
                connect_rewrite: shared.rules.connect_rewrite().map(|it| match it {
                    Ok(count) => {
                        format!("sockets of this host go to an endpoint at once for {count} frontends")
                    }
                    Err(reason) => format!("each packet is translated: {reason}"),
                }),
            }),
            connections: ConnectionStatus {
                open_tcp: totals.open_tcp,
                open_udp: totals.open_udp,
                ended: totals.ended,
                unserved: totals.unserved,
            },
            dns: shared.settings.dns.as_ref().zip(self.parts.dns.as_ref()).map(|(flags, counters)| {
                DnsStatus {
                    listen: flags.listen.iter().map(ToString::to_string).collect(),
                    counters: dns_counters(counters),
                }
            }),
            tunnel,
            alarms,
        }
    }
}

/// What in the tunnel keeps nodes apart, in words.
fn tunnel_alarms(tunnel: &TunnelStatus) -> Vec<String> {
    let mut alarms: Vec<String> = tunnel
        .conflicts
        .iter()
        .map(|conflict| {
            let holder = match &conflict.holder {
                Some(holder) => format!("{holder} is"),
                None => "nobody is".to_owned(),
            };
            format!(
                "node {}: {} is not believed to speak for it ({}), {holder}: {}",
                conflict.node,
                conflict.refused,
                conflict.reason.as_str(),
                conflict.words
            )
        })
        .collect();
    alarms.extend(tunnel.problems.iter().map(|problem| format!("tunnel: {problem}")));
    alarms.extend(tunnel.relays.iter().filter_map(|relay| {
        // A relay that is being tried for the first time, or is this node, is nothing to look at.
        let reason =
            relay.reason.filter(|reason| !matches!(reason, RelayReason::Connecting | RelayReason::Myself))?;
        Some(format!("relay {}: {reason}", relay.address))
    }));
    alarms
}

impl Pages for AgentPages {
    fn health(&self) -> Health {
        let error = self.shared.rules.error();
        let detail = match &error {
            None => "ok\n".to_owned(),
            Some(error) => format!("kernel rules: {error}\n"),
        };
        Health { ok: error.is_none(), detail }
    }

    fn ready(&self) -> Health {
        let generation = self.shared.snapshots.load().generation.0;
        let applied = self.shared.settings.proxy.is_none() || self.shared.rules.applied() > 0;
        // A node that only relays has nothing to wait for; the journal's copy is as good as a source's.
        let known = generation > 0 || !self.shared.settings.source.is_some();
        let detail = match (known, applied) {
            (true, true) => "ok\n",
            (false, _) => "no source has answered yet, and there is no journal\n",
            (true, false) => "the kernel's rules are not in place yet\n",
        };
        Health { ok: known && applied, detail: detail.to_owned() }
    }

    fn page(&self, path: &str, query: &str) -> BoxFuture<'static, PageResult> {
        let page = match path {
            "/status" if query == "text" => Some(Ok(Page::Text(self.status().to_string()))),
            "/status" => Some(json(&self.status())),
            "/rules" => Some(Ok(Page::Text(self.shared.rules.text()))),
            "/explain" => {
                let (form, question) = query.split_once('=').unwrap_or(("json", query));
                let domain =
                    self.shared.settings.dns.as_ref().map_or("cluster.local", |dns| &dns.cluster_domain);
                let trace = explain::trace(
                    &percent_decode(question),
                    domain,
                    &self.shared.snapshots.load(),
                    &self.shared.paths.load(),
                    &self.shared.router,
                    self.shared.rules.ruleset().as_deref(),
                    self.shared.rules.connect_rewrite(),
                );
                Some(match trace {
                    Err(message) => Err(message),
                    Ok(trace) if form == "text" => Ok(Page::Text(trace.to_string())),
                    Ok(trace) => json(&trace),
                })
            }
            _ => None,
        };
        Box::pin(std::future::ready(page))
    }
}

fn dns_counters(counters: &DnsCounters) -> Vec<(&'static str, u64)> {
    let counts = counters.read();
    let mut all = vec![
        ("udp", counts.udp_queries),
        ("tcp", counts.tcp_queries),
        ("dropped", counts.dropped),
        ("asked upstream", counts.asks),
        ("upstream failures", counts.ask_failures),
        ("loops", counts.loops),
        ("cached", counts.cached),
    ];
    all.extend(counts.rcodes);
    all.extend(counts.origins);
    all
}

/// Figures for the metrics; the pages that know them come after the metrics they are shown by.
#[derive(Default)]
pub(super) struct FigureBoard(OnceLock<Arc<AgentPages>>);

impl FigureBoard {
    pub(super) fn show(&self, pages: Arc<AgentPages>) {
        // Set once at the start; a second call would only repeat it.
        let _ = self.0.set(pages);
    }
}

fn peers_by_path(path: Path) -> &'static str {
    match path {
        Path::Lan => "peers_lan",
        Path::Direct => "peers_direct",
        Path::Punched => "peers_punched",
        Path::Relayed => "peers_relayed",
        Path::Local | Path::Unreachable => "peers_other",
    }
}

impl Figures for FigureBoard {
    fn figures(&self) -> Vec<Figure> {
        let Some(pages) = self.0.get() else { return Vec::new() };
        let (shared, parts) = (&pages.shared, &pages.parts);
        let snapshot = shared.snapshots.load();
        let applied = usize::try_from(shared.rules.applied()).unwrap_or(usize::MAX);
        let mut figures = shared.metadata.figures(&snapshot);
        figures.push(gauge("rules_generation", "Snapshot that the kernel's rules follow", applied));
        for (proxy, prefix) in [(&parts.proxy, true), (&parts.remote, false)] {
            let Some(proxy) = proxy else { continue };
            if prefix {
                figures.extend([
                    counter("accept_failures", "Accepts that failed", proxy.accept_failed()),
                    counter(
                        "datagrams_dropped",
                        "Datagrams dropped at a full queue",
                        proxy.datagrams_dropped(),
                    ),
                    counter("datagrams_rejected", "Datagrams without a target", proxy.datagrams_rejected()),
                    counter(
                        "sessions_evicted",
                        "UDP sessions evicted for newer ones",
                        proxy.sessions_evicted(),
                    ),
                ]);
            } else {
                let refused = proxy.inbound_refused();
                figures.push(counter("inbound_refused", "Streams of peers that were refused", refused));
            }
        }
        if let Some(tunnel) = &parts.tunnel {
            let status = tunnel.status();
            figures.push(gauge("peers", "Connected peers", status.peers.len()));
            for path in [Path::Lan, Path::Direct, Path::Punched, Path::Relayed] {
                let count = status.peers.iter().filter(|peer| peer.path == path.as_str()).count();
                figures.push(gauge(
                    peers_by_path(path),
                    "Connected peers whose best path is of this kind",
                    count,
                ));
            }
            figures.extend([
                counter(
                    "refused_handshakes",
                    "Handshakes that failed as with another key",
                    status.refused.psk_mismatch,
                ),
                counter(
                    "refused_headers",
                    "Tunnel streams with a malformed header",
                    status.refused.malformed_header,
                ),
                counter("refused_overload", "Tunnel streams beyond the bounds", status.refused.overloaded),
                counter("refused_records", "Peer records that did not verify", status.refused.bad_record),
                counter(
                    "refused_go_names",
                    "Node names that do not go with a Go agent's identity",
                    status.refused.go_name,
                ),
                counter(
                    "refused_unproven",
                    "Tunnel streams of peers whose names are not proven",
                    status.refused.unproven,
                ),
                counter(
                    "refused_claims",
                    "Claims of node names that were not believed; the status has them by reason",
                    status.refused_claims.values().sum::<u64>(),
                ),
            ]);
        }
        if let Some(dns) = &parts.dns {
            let counts = dns.read();
            figures.extend([
                counter("dns_udp_queries", "DNS queries over UDP", counts.udp_queries),
                counter("dns_tcp_queries", "DNS queries over TCP", counts.tcp_queries),
                counter("dns_dropped", "DNS packets without an answer", counts.dropped),
                counter("dns_asks", "Questions to upstream servers", counts.asks),
                counter(
                    "dns_ask_failures",
                    "Questions that no upstream server answered",
                    counts.ask_failures,
                ),
                counter("dns_servfail", "Answers SERVFAIL", counts.rcode("servfail")),
                counter("dns_nxdomain", "Answers NXDOMAIN", counts.rcode("nxdomain")),
                counter("dns_stale", "Answers from the cache past their time", counts.origin(Origin::Stale)),
                counter("dns_cache_hits", "Answers from the cache", counts.origin(Origin::Cache)),
            ]);
        }
        figures
    }
}
