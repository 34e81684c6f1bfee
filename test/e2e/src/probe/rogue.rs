//! A member of the private network that asks for what is not its to have.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::{MeshSnapshot, ServiceId};
use edgemesh_net::meet::{Connect as _, Inbound, Refusal, Serve};
use edgemesh_route::{DialError, Hop, Target};
use edgemesh_tunnel::{Tunnel, TunnelHandle, TunnelSettings};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long the other agent may take to be found in the LAN.
const FOUND: Duration = Duration::from_secs(15);

/// Serves nobody.
struct Closed;

impl Serve for Closed {
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        inbound.answer.refuse(Refusal::Dial(DialError::Refused))
    }
}

/// Asks the agent of `node` for each backend `times` times; the answers by backend.
pub(crate) fn run(node: &str, psk: &Path, state: &Path, times: usize, backends: &[&str]) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let own = Name::from("rogue");
        let settings = TunnelSettings::new(Some(own.clone()), state.join("rogue.key"), psk);
        let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty(own)));
        let shutdown = CancellationToken::new();
        let tunnel = Tunnel::start(settings, Arc::new(Closed), snapshots, shutdown.clone())?;
        found(&tunnel, node).await.with_context(|| format!("{node} is not found"))?;
        let mut answers = serde_json::Map::new();
        for backend in backends {
            let mut said = Vec::new();
            for _ in 0..times {
                said.push(ask(&tunnel, node, backend).await?);
            }
            said.dedup();
            answers.insert((*backend).to_owned(), json!(said));
        }
        shutdown.cancel();
        Ok(Value::Object(answers))
    })
}

async fn found(tunnel: &TunnelHandle, node: &str) -> Result<()> {
    let mut changes = tunnel.changes();
    let known = async {
        while !tunnel.status().peers.iter().any(|peer| peer.node.as_deref() == Some(node)) {
            changes.changed().await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FOUND, known).await?
}

async fn ask(tunnel: &TunnelHandle, node: &str, backend: &str) -> Result<&'static str> {
    let (protocol, address) = match backend.strip_prefix("udp:") {
        Some(address) => (Protocol::Udp, address),
        None => (Protocol::Tcp, backend),
    };
    let target = Target {
        service: ServiceId { namespace: "default".into(), name: "near".into() },
        backend: address.parse::<SocketAddr>()?,
        protocol,
        hop: Hop::Node(node.into()),
        namespace: None,
    };
    Ok(match tunnel.connect(target, Bytes::new()).await {
        Ok(_) => "connected",
        Err(error) => error.as_str(),
    })
}
