//! Peers that only know a relay.

mod common;

use common::{ECHO, SPEAKS_FIRST, start, start_in};
use edgemesh_tunnel::TunnelSettings;

/// On loopback every address can be reached: what a NAT would forbid is left out of the records by advertising an
/// address nobody answers at.
fn hidden(settings: &mut TunnelSettings, relay: &str) {
    settings.relays = vec![relay.parse().unwrap()];
    settings.listen = Vec::new();
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
