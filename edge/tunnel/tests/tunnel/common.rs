//! Real tunnels on loopback.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_mesh::{MeshSnapshot, ServiceId};
use edgemesh_net::meet::{Connect, Connected, Inbound, Refusal, Serve};
use edgemesh_route::{DialError, Hop, RejectReason, Target};
use edgemesh_tunnel::{Tunnel, TunnelHandle, TunnelSettings, TunnelStatus};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Ports of [`Backends`].
pub(crate) const ECHO: u16 = 1;
pub(crate) const AFTER_END: u16 = 2;
pub(crate) const NOT_ADMITTED: u16 = 3;
pub(crate) const REFUSED: u16 = 4;
pub(crate) const SPEAKS_FIRST: u16 = 5;

pub(crate) const PSK: &str = "9+3Yd5mC5pW3sJm0t9rY1q5o2V0pN7o4v8m1u6x3Zyk=";

/// Backends by port.
pub(crate) struct Backends;

impl Serve for Backends {
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        async move {
            match inbound.backend.port() {
                NOT_ADMITTED => {
                    let refusal = Refusal::NotAdmitted(RejectReason::NotAnEndpoint);
                    return inbound.answer.refuse(refusal).await;
                }
                REFUSED => return inbound.answer.refuse(Refusal::Dial(DialError::Refused)).await,
                _ => {}
            }
            let mut stream = inbound.answer.accept().await.unwrap();
            match inbound.backend.port() {
                AFTER_END => {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    all.reverse();
                    stream.write_all(&all).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
                SPEAKS_FIRST => {
                    let node = inbound.node.as_deref().unwrap_or("?").to_owned();
                    stream.write_all(format!("{node} {}\n", inbound.path).as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
                _ => {
                    let mut buffer = vec![0; 16 * 1024];
                    while let Ok(count) = stream.read(&mut buffer).await {
                        if count == 0 || stream.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                        stream.flush().await.unwrap();
                    }
                    let _ = stream.shutdown().await;
                }
            }
        }
        .boxed()
    }
}

/// A running tunnel; ends with the value.
pub(crate) struct Node {
    pub(crate) handle: TunnelHandle,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn logging() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
}

pub(crate) fn settings(dir: &Path, name: &str) -> TunnelSettings {
    let psk = dir.join("psk");
    fs::write(&psk, PSK).unwrap();
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).unwrap();
    let mut settings = TunnelSettings::new(Some(name.into()), dir.join("keys/node.key"), psk);
    settings.listen = vec!["127.0.0.1:0".parse().unwrap()];
    settings.mdns = false;
    settings
}

pub(crate) fn start(name: &str, change: impl FnOnce(&mut TunnelSettings)) -> Node {
    start_in(tempfile::tempdir().unwrap(), name, change)
}

pub(crate) fn start_in(dir: tempfile::TempDir, name: &str, change: impl FnOnce(&mut TunnelSettings)) -> Node {
    let mut settings = settings(dir.path(), name);
    change(&mut settings);
    let shutdown = CancellationToken::new();
    let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty(name.into())));
    let handle = Tunnel::start(settings, Arc::new(Backends), snapshots, shutdown.clone()).unwrap();
    Node { handle, dir, shutdown }
}

impl Node {
    /// The first listen address, as a relay's address in the settings.
    pub(crate) async fn address(&self) -> String {
        let status = self.until("it listens", |status| !status.listen.is_empty()).await;
        status.listen[0].clone()
    }

    /// Waits for a status.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&TunnelStatus) -> bool) -> TunnelStatus {
        let mut changes = self.handle.changes();
        let reached = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                changes.borrow_and_update();
                let status = self.handle.status();
                if holds(&status) {
                    return status;
                }
                changes.changed().await.unwrap();
            }
        });
        match reached.await {
            Ok(status) => status,
            Err(_) => panic!("not reached: {what}; {:#?}", self.handle.status()),
        }
    }

    pub(crate) async fn relay_up(&self) {
        let up = |status: &TunnelStatus| {
            !status.relays.is_empty()
                && status.relays.iter().all(|relay| relay.state == edgemesh_tunnel_proto::RelayState::Up)
        };
        self.until("the relay is up", up).await;
    }

    /// Waits until a peer that speaks for a node is connected.
    pub(crate) async fn sees(&self, node: &str) -> TunnelStatus {
        self.until(&format!("{node} is connected"), |status| path(status, node).is_some()).await
    }

    pub(crate) async fn connect(&self, node: &str, port: u16, first: &[u8]) -> Result<Connected, DialError> {
        self.connect_as(node, Protocol::Tcp, port, first).await
    }

    pub(crate) async fn connect_as(
        &self,
        node: &str,
        protocol: Protocol,
        port: u16,
        first: &[u8],
    ) -> Result<Connected, DialError> {
        let target = Target {
            service: ServiceId::new("default", "web"),
            backend: SocketAddr::from(([10, 0, 0, 1], port)),
            protocol,
            hop: Hop::Node(node.into()),
            namespace: None,
        };
        let connect = self.handle.connect(target, Bytes::copy_from_slice(first));
        tokio::time::timeout(Duration::from_secs(30), connect).await.expect("bounded in time")
    }

    /// Sends everything, ends its direction, and returns what came back.
    pub(crate) async fn exchange(&self, node: &str, port: u16, bytes: &[u8]) -> Vec<u8> {
        let mut connected = self.connect(node, port, bytes).await.unwrap();
        connected.stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        let read = connected.stream.read_to_end(&mut back);
        tokio::time::timeout(Duration::from_secs(30), read).await.expect("bounded in time").unwrap();
        back
    }
}

pub(crate) fn path(status: &TunnelStatus, node: &str) -> Option<&'static str> {
    status.peers.iter().find(|peer| peer.node.as_deref() == Some(node)).map(|peer| peer.path)
}
