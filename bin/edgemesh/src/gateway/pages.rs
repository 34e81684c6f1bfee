//! What the gateway shows of itself.

use std::fmt;
use std::sync::Arc;

use edgemesh_admin::{Figure, Figures, Health, Page, PageResult, Pages};
use futures::future::BoxFuture;
use serde::Serialize;

use super::{NOT_SERVED, Shared, listen, servers};
use crate::status::{MetadataStatus, gauge, json, span};

/// Servers shown: ten times what one gateway is likely to have.
const MAX_SERVERS: usize = 500;

/// What the gateway knows, at one moment.
#[derive(Debug, Serialize)]
struct GatewayStatus {
    node: String,
    version: &'static str,
    uptime_seconds: u64,
    metadata: MetadataStatus,
    /// Addresses of the node that the file selects.
    addresses: Vec<String>,
    /// What Gateways ask to be listened on.
    servers: Vec<servers::ServerLine>,
    /// Servers that are not among them.
    servers_left_out: usize,
    /// What an operator should look at, worst first.
    alarms: Vec<String>,
}

/// The pages of one gateway.
pub(super) struct GatewayPages(pub(super) Arc<Shared>);

impl GatewayPages {
    fn status(shared: &Shared) -> GatewayStatus {
        let snapshot = shared.snapshots.load();
        let metadata = shared.metadata.status(&snapshot, Vec::new());
        let mut alarms = shared.metadata.alarms(metadata.stale, shared.settings.source.is_some());
        let mut servers = servers::of(&snapshot.ingress);
        let addresses = shared.gateway.as_ref().map(listen::addresses).transpose();
        let addresses = addresses.unwrap_or_else(|error| {
            alarms.push(format!("the node's addresses cannot be read: {error}"));
            None
        });
        match &addresses {
            None if shared.gateway.is_none() => {
                alarms.push("configuration: modules.edgeGateway.enable is false".to_owned());
            }
            Some(none) if none.is_empty() => alarms.push(
                "configuration: nic, includeIP and excludeIP of modules.edgeGateway leave no address of this node"
                    .to_owned(),
            ),
            None | Some(_) => {}
        }
        if !servers.is_empty() {
            alarms.push(format!("{} servers of Gateways are {NOT_SERVED}", servers.len()));
        }
        alarms.extend(shared.reload.pending().map(|pending| format!("configuration: {pending}")));
        let servers_left_out = servers.len().saturating_sub(MAX_SERVERS);
        servers.truncate(MAX_SERVERS);
        GatewayStatus {
            node: shared.settings.node_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: shared.started.elapsed().as_secs(),
            metadata,
            addresses: addresses.unwrap_or_default().iter().map(ToString::to_string).collect(),
            servers,
            servers_left_out,
            alarms,
        }
    }
}

impl Pages for GatewayPages {
    fn health(&self) -> Health {
        Health { ok: true, detail: "ok\n".to_owned() }
    }

    /// Never: who waits for it, as a rollout does, keeps the gateway that works.
    fn ready(&self) -> Health {
        let detail = format!("Gateways are {NOT_SERVED}: it has no listeners\n");
        Health { ok: false, detail }
    }

    fn page(&self, path: &str, query: &str) -> BoxFuture<'static, PageResult> {
        if path != "/status" {
            return Box::pin(std::future::ready(None));
        }
        let (shared, text) = (self.0.clone(), query == "text");
        Box::pin(async move {
            // Addresses are asked of the kernel.
            let status = tokio::task::spawn_blocking(move || Self::status(&shared)).await;
            Some(match status {
                Err(error) => Err(error.to_string()),
                Ok(status) if text => Ok(Page::Text(status.to_string())),
                Ok(status) => json(&status),
            })
        })
    }
}

impl Figures for GatewayPages {
    fn figures(&self) -> Vec<Figure> {
        let snapshot = self.0.snapshots.load();
        let mut figures = self.0.metadata.figures(&snapshot);
        let servers = servers::of(&snapshot.ingress).len();
        figures.push(gauge(
            "gateway_servers_unserved",
            "Servers of Gateways that nobody listens for",
            servers,
        ));
        figures
    }
}

/// The text for people: what is wrong first.
impl fmt::Display for GatewayStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for alarm in &self.alarms {
            writeln!(f, "!! {alarm}")?;
        }
        let up = span(self.uptime_seconds);
        writeln!(f, "gateway    on node {}, edgemesh {}, up {up}", self.node, self.version)?;
        write!(f, "{}", self.metadata)?;
        writeln!(f, "addresses  {}", self.addresses.join(" "))?;
        for server in &self.servers {
            writeln!(f, "server     {server}")?;
        }
        if self.servers_left_out > 0 {
            writeln!(f, "server     and {} more", self.servers_left_out)?;
        }
        for finding in &self.metadata.findings {
            writeln!(f, "object     {finding}")?;
        }
        Ok(())
    }
}
