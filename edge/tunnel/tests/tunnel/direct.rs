//! Two peers that reach each other.

use std::time::Duration;

use crate::common::{self, AFTER_END, ECHO, NOT_ADMITTED, REFUSED, SPEAKS_FIRST, path, start};
use edgemesh_api::Protocol;
use edgemesh_route::DialError;
use edgemesh_tunnel_proto::{datagram_prefix, split_datagram};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `hub` serves as a relay, which is how `a` knows of it.
async fn pair() -> (common::Node, common::Node) {
    common::logging();
    let hub = start("hub", |settings| settings.relay = true);
    let address = hub.address().await;
    let a = start("a", |settings| settings.relays = vec![address.parse().unwrap()]);
    a.sees("hub").await;
    hub.sees("a").await;
    (hub, a)
}

#[tokio::test]
async fn half_close_is_kept() {
    let (hub, a) = pair().await;
    let sent: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    let mut expected = sent.clone();
    expected.reverse();
    assert!(a.exchange("hub", AFTER_END, &sent).await == expected);
    assert!(hub.exchange("a", AFTER_END, &sent).await == expected, "over the same connection, the other way");
    assert_eq!(path(&a.handle.status(), "hub"), Some("direct"));
    let counted = |status: &edgemesh_tunnel::TunnelStatus| {
        let peer = status.peers.iter().find(|peer| peer.node.as_deref() == Some("hub")).unwrap();
        peer.bytes_in >= 600_000 && peer.bytes_out >= 600_000 && (peer.streams_in, peer.streams_out) == (0, 0)
    };
    tokio::time::timeout(Duration::from_secs(5), async {
        while !counted(&a.handle.status()) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("bytes are counted and streams are closed");
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let (_hub, a) = pair().await;
    assert_eq!(a.exchange("hub", SPEAKS_FIRST, b"").await, b"a direct\n");
}

#[tokio::test]
async fn reasons_of_refusals_arrive() {
    let (_hub, a) = pair().await;
    for (node, port, expected) in [
        ("hub", NOT_ADMITTED, DialError::NotAdmitted),
        ("hub", REFUSED, DialError::Refused),
        ("nobody", ECHO, DialError::PeerUnknown),
    ] {
        assert_eq!(a.connect(node, port, b"hello").await.err(), Some(expected), "{node} {port}");
    }
}

#[tokio::test]
async fn many_streams_at_once() {
    let (_hub, a) = pair().await;
    let streams = (0..64u32).map(|number| {
        let a = &a;
        async move {
            let sent = number.to_be_bytes().repeat(100);
            assert_eq!(a.exchange("hub", ECHO, &sent).await, sent);
        }
    });
    futures::future::join_all(streams).await;
}

#[tokio::test]
async fn datagrams_keep_their_bounds() {
    let (_hub, a) = pair().await;
    let mut connected = a.connect_as("hub", Protocol::Udp, ECHO, b"").await.unwrap();
    for len in [0, 100, 20 * 1024, 65_507] {
        let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
        connected.stream.write_all(&datagram_prefix(len).unwrap()).await.unwrap();
        connected.stream.write_all(&payload).await.unwrap();
        connected.stream.flush().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            match split_datagram(&bytes).unwrap() {
                Some((back, taken)) => {
                    assert!(back == payload && taken == bytes.len(), "{len}");
                    break;
                }
                None => assert!(connected.stream.read_buf(&mut bytes).await.unwrap() > 0),
            }
        }
    }
}

#[tokio::test]
async fn another_key_keeps_out() {
    common::logging();
    let hub = start("hub", |settings| settings.relay = true);
    let address = hub.address().await;
    let dir = tempfile::tempdir().unwrap();
    let psk = dir.path().join("other");
    std::fs::write(&psk, "f".repeat(64)).unwrap();
    std::fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let stranger = start("stranger", |settings| {
        settings.relays = vec![address.parse().unwrap()];
        settings.psk_file = psk.clone();
    });
    hub.until("the stranger is counted", |status| status.refused.psk_mismatch > 0).await;
    stranger
        .until("the reason is told", |status| {
            status.relays[0].reason == Some(edgemesh_tunnel_proto::RelayReason::PskMismatchSuspected)
        })
        .await;
    assert_eq!(hub.handle.status().peers.len(), 0);
    assert_eq!(stranger.connect("hub", ECHO, b"").await.err(), Some(DialError::NoPath));
}

#[tokio::test]
async fn a_stream_ends_with_its_peer() {
    let (hub, a) = pair().await;
    let mut connected = a.connect("hub", ECHO, b"hello").await.unwrap();
    let mut back = [0; 5];
    connected.stream.read_exact(&mut back).await.unwrap();
    hub.shutdown.cancel();
    let mut rest = Vec::new();
    let read = connected.stream.read_to_end(&mut rest);
    // Whether by an end or by a reset: it must not hang.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("the stream ends");
    a.until("the peer is gone", |status| status.peers.is_empty()).await;
}

#[tokio::test]
async fn too_many_streams_of_one_peer_are_refused() {
    common::logging();
    let hub = start("hub", |settings| {
        settings.relay = true;
        settings.limits.inbound_streams_per_peer = 4;
    });
    let address = hub.address().await;
    let a = start("a", |settings| settings.relays = vec![address.parse().unwrap()]);
    a.sees("hub").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(a.connect("hub", ECHO, b"").await.unwrap());
    }
    assert_eq!(a.connect("hub", ECHO, b"").await.err(), Some(DialError::Overloaded));
    assert_eq!(hub.handle.status().refused.overloaded, 1);
    for mut connected in held {
        connected.stream.shutdown().await.unwrap();
        connected.stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert_eq!(a.exchange("hub", ECHO, b"again").await, b"again");
}

#[tokio::test]
async fn over_ipv6() {
    common::logging();
    let hub = start("hub", |settings| {
        settings.relay = true;
        settings.listen = vec!["[::1]:0".parse().unwrap()];
    });
    let address = hub.address().await;
    assert!(address.starts_with("/ip6/::1/tcp/"), "{address}");
    let a = start("a", |settings| {
        settings.listen = vec!["[::1]:0".parse().unwrap()];
        settings.relays = vec![address.parse().unwrap()];
    });
    a.sees("hub").await;
    assert_eq!(a.exchange("hub", ECHO, b"six").await, b"six");
}

#[tokio::test]
async fn streams_leave_nothing_behind() {
    let (hub, a) = pair().await;
    for _ in 0..20 {
        let streams = (0..50).map(|_| a.exchange("hub", ECHO, b"short"));
        for back in futures::future::join_all(streams).await {
            assert_eq!(back, b"short");
        }
    }
    for (node, other) in [(&a, "hub"), (&hub, "a")] {
        let open = || {
            let status = node.handle.status();
            let peer = status.peers.iter().find(|peer| peer.node.as_deref() == Some(other)).unwrap();
            peer.streams_in + peer.streams_out
        };
        let closed = async {
            while open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed).await.expect("every stream is closed");
    }
}
