//! What the tunnel starts from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::common;
use arc_swap::ArcSwap;
use edgemesh_mesh::MeshSnapshot;
use edgemesh_tunnel::{KeyError, RelayAddress, RelayAddressError, Tunnel, TunnelError, TunnelSettings};
use tokio_util::sync::CancellationToken;

fn start(settings: TunnelSettings) -> Result<edgemesh_tunnel::TunnelHandle, TunnelError> {
    let snapshots = Arc::new(ArcSwap::from_pointee(MeshSnapshot::empty("a".into())));
    Tunnel::start(settings, Arc::new(common::Backends), snapshots, CancellationToken::new())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_key_is_made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(common::settings(dir.path(), "a")).unwrap().status().peer_id;
    let second = start(common::settings(dir.path(), "a")).unwrap().status().peer_id;
    assert_eq!(first, second);
    assert_eq!(mode(&dir.path().join("keys/node.key")), 0o600);
    assert_eq!(mode(&dir.path().join("keys")), 0o700);
}

#[tokio::test]
async fn keys_that_others_read_are_refused_with_the_fix() {
    for file in ["psk", "keys/node.key"] {
        let dir = tempfile::tempdir().unwrap();
        drop(start(common::settings(dir.path(), "a")).unwrap());
        let settings = common::settings(dir.path(), "a");
        let path = dir.path().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = start(settings).err().expect("refused");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
}

#[tokio::test]
async fn the_published_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = common::settings(dir.path(), "a");
    fs::write(&settings.psk_file, "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=\n").unwrap();
    let error = start(settings.clone()).err().expect("refused");
    assert!(matches!(error, TunnelError::Key(KeyError::PublishedPsk { .. })), "{error}");
    fs::remove_file(&settings.psk_file).unwrap();
    let error = start(settings).err().expect("refused");
    assert!(matches!(error, TunnelError::Key(KeyError::PskMissing { .. })), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut settings = common::settings(dir.path(), "a");
    settings.listen = vec![taken.local_addr().unwrap()];
    let error = start(settings).err().expect("refused");
    assert!(matches!(error, TunnelError::Listen { .. }), "{error}");
}

#[test]
fn relay_addresses() {
    let id = "12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW";
    for (text, host, port, peer) in [
        ("192.0.2.1", "192.0.2.1", 20006, false),
        ("192.0.2.1:7", "192.0.2.1", 7, false),
        ("[2001:db8::1]:7", "2001:db8::1", 7, false),
        ("2001:db8::1", "2001:db8::1", 20006, false),
        ("relay.example.org", "relay.example.org", 20006, false),
        ("relay.example.org:7", "relay.example.org", 7, false),
        (&format!("192.0.2.1:7/p2p/{id}"), "192.0.2.1", 7, true),
        ("/ip4/192.0.2.1/tcp/7", "192.0.2.1", 7, false),
        (&format!("/ip6/2001:db8::1/tcp/7/p2p/{id}"), "2001:db8::1", 7, true),
        ("/dns4/relay.example.org/tcp/7", "relay.example.org", 7, false),
    ] {
        let peer = peer.then(|| id.parse().unwrap());
        assert_eq!(text.parse(), Ok(RelayAddress { host: host.to_owned(), port, peer }), "{text}");
    }
    for (text, expected) in [
        ("", RelayAddressError::Malformed as fn(String) -> _),
        ("relay:port", RelayAddressError::Malformed),
        ("two words:7", RelayAddressError::Malformed),
        ("/ip4/192.0.2.1", RelayAddressError::NotTcp),
        ("/ip4/192.0.2.1/udp/7/quic-v1", RelayAddressError::NotTcp),
        ("192.0.2.1:7/p2p/nobody", RelayAddressError::Identity),
    ] {
        assert_eq!(text.parse::<RelayAddress>(), Err(expected(text.to_owned())), "{text}");
    }
}
