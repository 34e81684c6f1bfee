//! Many nodes in one process: the tunnel's own drivers, without rules, proxy or DNS.

use std::fs;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_mesh::{MeshSnapshot, ServiceId};
use edgemesh_net::meet::{Connect as _, Connected, Inbound, Serve};
use edgemesh_route::{Hop, Target};
use edgemesh_tunnel::{Tunnel, TunnelHandle, TunnelSettings};
use edgemesh_tunnel_proto::RelayState;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two looks at how many nodes have the relay: the resolution of what is told.
const LOOK: Duration = Duration::from_millis(20);

/// The words on standard input upon which so many more nodes start, and nodes open circuits to each other; what is said of
/// the latter.
pub(super) const START: &str = "start ";
pub(super) const OPEN: &str = "open";
pub(super) const OPENED: &str = "opened ";

/// Serves every stream by sending back what comes.
struct Echo;

impl Serve for Echo {
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        async move {
            // What becomes of a stream is seen by who opened it.
            let Ok(stream) = inbound.answer.accept().await else { return };
            let (mut from, mut to) = tokio::io::split(stream);
            drop(tokio::io::copy(&mut from, &mut to).await);
        }
        .boxed()
    }
}

/// Runs nodes that use one relay until it is killed. Says how many have it whenever that changes.
pub(super) fn run(relay: &str, psk: &Path, folder: &Path) -> Result<()> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    let (words_in, words) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if words_in.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(crowd(relay, psk, folder, words))
}

async fn crowd(relay: &str, psk: &Path, folder: &Path, mut words: mpsc::Receiver<String>) -> Result<()> {
    let ends = CancellationToken::new();
    let mut handles = Vec::new();
    let mut told = usize::MAX;
    let mut open = Vec::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {
                let up = handles.iter().filter(|handle| is_up(handle)).count();
                if up != told {
                    println!("{up}");
                    told = up;
                }
            }
            word = words.recv() => {
                let Some(word) = word else { return Ok(()) };
                if let Some(more) = word.strip_prefix(START) {
                    for number in handles.len()..handles.len() + more.parse::<usize>()? {
                        handles.push(node(number, relay, psk, folder, &ends)?);
                    }
                } else if word == OPEN {
                    open = circuits(&handles).await;
                    println!("{OPENED}{}", open.len());
                }
            }
        }
        // Held open until the end.
        let _ = &open;
    }
}

fn name(number: usize) -> String {
    format!("node{number}")
}

fn node(
    number: usize,
    relay: &str,
    psk: &Path,
    folder: &Path,
    ends: &CancellationToken,
) -> Result<TunnelHandle> {
    let name = name(number);
    let home = folder.join(&name);
    fs::create_dir_all(&home)?;
    let mut settings = TunnelSettings::new(Some(name.as_str().into()), home.join("node.key"), psk);
    // Nobody reaches it but by the relay.
    settings.listen = Vec::new();
    settings.punch = false;
    settings.mdns = false;
    settings.relays = vec![relay.parse().context("the relay's address")?];
    let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty(name.as_str().into())));
    Ok(Tunnel::start(settings, Arc::new(Echo), snapshots, ends.clone())?)
}

fn is_up(handle: &TunnelHandle) -> bool {
    // A node that has just started shows none yet.
    handle.status().relays.iter().any(|relay| relay.state == RelayState::Up)
}

/// Opens a stream from each even node to the next; those that carried a byte there and back.
async fn circuits(handles: &[TunnelHandle]) -> Vec<Connected> {
    let pairs = handles.iter().enumerate().step_by(2).map(|(number, handle)| async move {
        let target = Target {
            namespace: None,
            service: ServiceId::new("default", "echo"),
            backend: SocketAddr::from(([172, 17, 0, 2], 7)),
            protocol: Protocol::Tcp,
            hop: Hop::Node(name(number + 1).as_str().into()),
        };
        let mut connected = handle.connect(target, Bytes::from_static(b"x")).await.ok()?;
        connected.stream.flush().await.ok()?;
        connected.stream.read_u8().await.ok()?;
        Some(connected)
    });
    join_all(pairs).await.into_iter().flatten().collect()
}
