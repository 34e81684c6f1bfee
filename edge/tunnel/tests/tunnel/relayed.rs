//! Peers that only know a relay.

use crate::common::{self, ECHO, SPEAKS_FIRST, path, start, start_in};
use edgemesh_tunnel::TunnelSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// On loopback every address can be reached; whoever does not listen cannot be dialled, as behind a NAT.
fn hidden(settings: &mut TunnelSettings, relay: &str) {
    settings.relays = vec![relay.parse().unwrap()];
    settings.listen = Vec::new();
    settings.punch = false;
}

#[tokio::test]
async fn a_stream_through_the_relay() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let a = start("a", |settings| hidden(settings, &address));
    let b = start("b", |settings| hidden(settings, &address));
    a.relay_up().await;
    b.relay_up().await;
    assert_eq!(a.exchange("b", SPEAKS_FIRST, b"").await, b"a relayed\n");
    let sent = vec![7; 100_000];
    assert!(a.exchange("b", ECHO, &sent).await == sent);
    assert!(b.exchange("a", ECHO, &sent).await == sent);
}

#[tokio::test]
async fn the_relay_comes_back() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let port: std::net::SocketAddr = {
        let address: edgemesh_tunnel::RelayAddress = address.parse().unwrap();
        format!("{}:{}", address.host, address.port).parse().unwrap()
    };
    let a = start("a", |settings| hidden(settings, &address));
    let b = start("b", |settings| hidden(settings, &address));
    a.relay_up().await;
    b.relay_up().await;
    assert_eq!(a.exchange("b", ECHO, b"one").await, b"one");

    relay.shutdown.cancel();
    a.until("the relay is lost", |status| status.peers.is_empty()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    std::fs::copy(relay.dir.path().join("keys/node.key"), dir.path().join("keys/node.key")).unwrap();
    let _relay = start_in(dir, "relay", |settings| {
        settings.relay = true;
        settings.listen = vec![port];
    });
    a.relay_up().await;
    b.relay_up().await;
    assert_eq!(a.exchange("b", ECHO, b"two").await, b"two");
}

#[tokio::test]
async fn a_full_relay_is_named() {
    common::logging();
    let relay = start("relay", |settings| {
        settings.relay = true;
        settings.limits.relay_circuits = 1;
    });
    let address = relay.address().await;
    let a = start("a", |settings| hidden(settings, &address));
    a.relay_up().await;
    let b = start("b", |settings| hidden(settings, &address));
    b.until("the reason is told", |status| {
        let full = Some(edgemesh_tunnel_proto::RelayReason::Full);
        status.relays.iter().any(|relay| relay.reason == full)
    })
    .await;
    assert_eq!(b.exchange("a", ECHO, b"out").await, b"out", "the other way needs no reservation of b");
}

#[tokio::test]
async fn two_peers_with_one_name() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let a = start("a", |settings| hidden(settings, &address));
    let first = start("b", |settings| hidden(settings, &address));
    first.relay_up().await;
    a.relay_up().await;
    assert_eq!(a.exchange("b", ECHO, b"first").await, b"first");
    let second = start("b", |settings| hidden(settings, &address));
    second.relay_up().await;
    let status = a.until("the conflict is told", |status| !status.conflicts.is_empty()).await;
    let conflict = &status.conflicts[0];
    assert_eq!(conflict.holder.as_deref(), Some(&*first.handle.status().peer_id));
    assert_eq!(*conflict.refused, *second.handle.status().peer_id);
    assert_eq!(a.exchange("b", ECHO, b"still").await, b"still");
}

#[tokio::test]
async fn hole_punching_moves_new_streams() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let behind = |settings: &mut TunnelSettings| {
        hidden(settings, &address);
        settings.punch = true;
    };
    let a = start("a", behind);
    let b = start("b", behind);
    a.relay_up().await;
    b.relay_up().await;
    let mut early = a.connect("b", ECHO, b"").await.unwrap();
    a.until("the hole is punched", |status| path(status, "b").is_some_and(|path| path != "relayed")).await;
    let late = a.connect("b", ECHO, b"").await.unwrap();
    assert_ne!(late.path, edgemesh_mesh::Path::Relayed);
    // The stream on the circuit goes on.
    early.stream.write_all(b"still here").await.unwrap();
    early.stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    early.stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"still here");
    let alone = |status: &edgemesh_tunnel::TunnelStatus| {
        status.peers.iter().any(|peer| peer.node.as_deref() == Some("b") && peer.connections == 1)
    };
    a.until("the circuit is closed", alone).await;
}
