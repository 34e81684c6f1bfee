use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use edgemesh_tunnel_proto::{Proxy, datagram_prefix, split_datagram};
use futures::future::Either;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxer;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::swarm::ConnectionId;
use tokio::io::DuplexStream;

use super::datagrams::{Datagrams, Frames};
use super::*;
use crate::muxer::{self, Substream};

#[test]
fn identities_follow_from_names() {
    let (peers, _claims) = GoPeers::new(None);
    for (node, peer) in [
        ("k8s-master", "12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"),
        ("k8s-node1", "12D3KooWErZ4m27CEinjcnXNvem2KFUJUFRBcd9NdcWnYRqyr1Sn"),
        ("ke-edge1", "12D3KooWF3RB8SoMRZht7MDqF6GoipSPdFxVb9ESRLU7NuPX6ifH"),
        ("ke-edge2", "12D3KooWSD4f5fZb5c9PQ6FPVd8Em4eKX3mRezcyqXSHUyomoy8S"),
        ("k8s-Master", "12D3KooWA9AvBpYt17yctznPFxDvR6NFXfyu8kY72jnVLC9SKUG4"),
        ("mａsteｒ", "12D3KooWAZ7jrUXyHuTZ7rT1uUnqXZPY88HjdhvDaQjivD5M35nw"),
        ("ke-node1\n", "12D3KooWFP7gZfX1n1HLQAZt7rCZpffRvqXf7QYASxbz9mrEkAVi"),
        ("k8s-master-gateway", "12D3KooWK7jA1pdgBVvNicvVEE1Dp24YNcFTyUzwCBLyH7fVgKZ8"),
        // As agents built from Go EdgeMesh's main branch, after 1.17.0, made them.
        ("gonode", "12D3KooWH7ofJijeBxkk3Mh4AFSdW14FJfFmtD7kipXbbsEkCaFP"),
        ("gorelay", "12D3KooWDXPNF5AXDW12uHBTVgR9Rew6mdHtqDZooChiKjR1wfLk"),
        ("rsrelay", "12D3KooWFspFis2CeH794j32ATAiAHQ8zCYfKWsvA9t8CW3SHrAC"),
    ] {
        assert_eq!(peers.identity(&node.into()).unwrap().to_base58(), peer, "{node}");
    }
}

#[tokio::test]
async fn a_name_is_exchanged() {
    let (near, mut near_claims) = GoPeers::new(Some("ke-edge1".into()));
    let (far, mut far_claims) = GoPeers::new(Some("ke-edge2".into()));
    let near_id = near.identity(&"ke-edge1".into()).unwrap();
    let far_id = far.identity(&"ke-edge2".into()).unwrap();
    let (left, right) = tokio::io::duplex(64);
    let one = ConnectionId::new_unchecked(1);
    tokio::join!(
        ask_discovery(Arc::new(near), one, far_id, left),
        answer_discovery(Arc::new(far), one, near_id, right),
    );
    assert_eq!(&*near_claims.recv().await.unwrap().node, "ke-edge2");
    assert_eq!(&*far_claims.recv().await.unwrap().node, "ke-edge1");
}

#[tokio::test]
async fn a_name_that_is_not_the_peers_is_refused_and_counted() {
    let (near, mut near_claims) = GoPeers::new(Some("ke-edge1".into()));
    let (far, mut far_claims) = GoPeers::new(Some("ke-edge2".into()));
    let (near, far) = (Arc::new(near), Arc::new(far));
    let stranger = near.identity(&"k8s-master".into()).unwrap();
    let (left, right) = tokio::io::duplex(64);
    let one = ConnectionId::new_unchecked(1);
    tokio::join!(
        ask_discovery(near.clone(), one, stranger, left),
        answer_discovery(far.clone(), one, stranger, right),
    );
    assert_eq!(far.refused.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(!far.knows(&stranger));
    drop((near, far));
    assert!(near_claims.recv().await.is_none(), "a refusal tells no name");
    assert!(far_claims.recv().await.is_none(), "a refused name goes no further");
}

/// Both ends of one stream of a connection over memory, driven in the background.
async fn streams() -> (Substream, Substream) {
    let (left, right) = futures_pipe();
    let config = muxer::Config::new(16);
    let mut dialler = config.clone().upgrade_outbound(left, "/yamux/1.0.0").await.unwrap();
    let mut listener = config.upgrade_inbound(right, "/yamux/1.0.0").await.unwrap();
    let mut near = poll_fn(|cx| Pin::new(&mut dialler).poll_outbound(cx)).await.unwrap();
    // A stream is there for the other side once something came by it.
    near.write_all(b"!").await.unwrap();
    near.flush().await.unwrap();
    let mut far = poll_fn(|cx| {
        let _ = Pin::new(&mut dialler).poll(cx);
        Pin::new(&mut listener).poll_inbound(cx)
    })
    .await
    .unwrap();
    tokio::spawn(async move {
        poll_fn(|cx| -> Poll<()> {
            let _ = Pin::new(&mut dialler).poll(cx);
            let _ = Pin::new(&mut listener).poll(cx);
            Poll::Pending
        })
        .await;
    });
    let mut mark = [0];
    far.read_exact(&mut mark).await.unwrap();
    (near, far)
}

fn futures_pipe() -> (Compat<DuplexStream>, Compat<DuplexStream>) {
    let (left, right) = tokio::io::duplex(1 << 20);
    (Compat(left), Compat(right))
}

/// tokio's stream as libp2p sees one.
struct Compat<S>(S);

impl<S: tokio::io::AsyncRead + Unpin> AsyncRead for Compat<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = tokio::io::ReadBuf::new(buf);
        std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> AsyncWrite for Compat<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A substream as the datagrams see a counted one.
struct Bare(Substream);

impl Frames for Bare {
    fn poll_frame(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read_vectored(cx, &mut [io::IoSliceMut::new(buf)])
    }
}

impl tokio::io::AsyncWrite for Bare {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[tokio::test]
async fn datagrams_stay_apart_though_they_come_together() {
    let (near, far) = streams().await;
    let (mut near, mut far) = (Datagrams::new(Bare(near)), Datagrams::new(Bare(far)));
    let sent: Vec<Vec<u8>> =
        [1, 100, 1472, 4096, 5000, 2, 4095].iter().map(|len| vec![*len as u8; *len]).collect();
    // As the proxy may write them: all at once, and cut anywhere.
    let mut bytes = Vec::new();
    for datagram in &sent {
        bytes.extend_from_slice(&datagram_prefix(datagram.len()).unwrap());
        bytes.extend_from_slice(datagram);
    }
    for piece in bytes.chunks(777) {
        tokio::io::AsyncWriteExt::write_all(&mut near, piece).await.unwrap();
    }
    tokio::io::AsyncWriteExt::flush(&mut near).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut near).await.unwrap();
    let mut received = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut far, &mut received).await.unwrap();
    let mut rest = &received[..];
    let mut got = Vec::new();
    while let Some((datagram, taken)) = split_datagram(rest).unwrap() {
        got.push(datagram.to_vec());
        rest = &rest[taken..];
    }
    // A Go agent would take 5000 bytes for two datagrams.
    let expected: Vec<_> = sent.into_iter().filter(|datagram| datagram.len() <= 4096).collect();
    assert!(got == expected, "{:?}", got.iter().map(Vec::len).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_ordinary_read_goes_on_where_a_frame_was_cut() {
    let (mut near, mut far) = streams().await;
    for frame in [&b"first"[..], b"second"] {
        near.write_all(frame).await.unwrap();
    }
    near.close().await.unwrap();
    let mut three = [0; 3];
    let count =
        poll_fn(|cx| Pin::new(&mut far).poll_read_vectored(cx, &mut [io::IoSliceMut::new(&mut three)]));
    assert_eq!((count.await.unwrap(), &three), (3, b"fir"));
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"stsecond");
}

#[tokio::test]
async fn circuits_have_the_layer_where_the_other_end_has_it() {
    let psks = Arc::new(vec![[7; 32]]);
    let peer = PeerId::random();
    let address: libp2p::Multiaddr = format!("/p2p/{peer}/p2p-circuit/p2p/{peer}").parse().unwrap();
    let dialler = ConnectedPoint::Dialer {
        address: address.clone(),
        role_override: libp2p::core::Endpoint::Dialer,
        port_use: libp2p::core::transport::PortUse::Reuse,
    };
    let listener = ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address };
    for (knows, private) in [(false, false), (true, true)] {
        let (peers, _claims) = GoPeers::new(None);
        if knows {
            peers.learn(peer);
        }
        let (near, far) = futures_pipe();
        let hello = b"\x13/multistream/1.0.0\n and more";
        let dial = async {
            let mut near = veil(Some(&peers), psks.clone(), near, &dialler).await.unwrap();
            near.write_all(hello).await.unwrap();
            near.close().await.unwrap();
        };
        let listen = async {
            let mut far = veil(Some(&peers), psks.clone(), far, &listener).await.unwrap();
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, hello);
            matches!(far, Either::Right(_))
        };
        let ((), layered) = tokio::join!(dial, listen);
        assert_eq!(layered, private);
    }
}

#[test]
fn what_a_request_asks_for() {
    let request = |ip: &str, port| Proxy { ip: ip.into(), port, ..Proxy::default() };
    for (ip, port, expected) in [
        ("10.0.0.1", 80, Some("10.0.0.1:80")),
        ("::ffff:10.0.0.1", 80, Some("10.0.0.1:80")),
        ("fd00::1", 65535, Some("[fd00::1]:65535")),
        ("10.0.0.1", 0, None),
        ("10.0.0.1", -1, None),
        ("10.0.0.1", 65536, None),
        ("localhost", 80, None),
        ("", 80, None),
    ] {
        let backend = proxy::backend(&request(ip, port)).map(|backend| backend.to_string());
        assert_eq!(backend.as_deref(), expected, "{ip} {port}");
    }
    for word in ["tcp", "udp"] {
        assert_eq!(proxy::transport(word).and_then(proxy::word), Some(word));
    }
    assert_eq!(proxy::transport("sctp"), None);
}
