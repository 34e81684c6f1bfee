//! Whose claims of node names are believed, and keys that change while traffic runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgemesh_route::DialError;
use edgemesh_tunnel::identity::{Authority, IdentityFiles};
use edgemesh_tunnel::{TunnelSettings, TunnelStatus};
use edgemesh_tunnel_proto::{ClaimRefused, IdentityPolicy, RelayReason, RelayState, RelayView, SignedToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{self, ECHO, Node, SPEAKS_FIRST, start, start_in};

/// An authority and its public key as a file.
struct Mesh {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Mesh {
    fn new() -> Self {
        common::logging();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("authority.key")).unwrap();
        fs::write(dir.path().join("authority.pub"), authority.public()).unwrap();
        Self { dir, authority }
    }

    fn public(&self) -> PathBuf {
        self.dir.path().join("authority.pub")
    }

    fn token(&self, node: &str) -> String {
        self.authority.token(node, Some(Duration::from_secs(3600)), None).unwrap().to_string()
    }

    /// A node that asks for proofs, with a token or without one.
    fn start(&self, name: &str, relay: Option<&str>, token: Option<&str>) -> Node {
        let dir = tempfile::tempdir().unwrap();
        if let Some(token) = token {
            files(dir.path()).join(token).unwrap();
        }
        self.start_in(dir, name, relay)
    }

    fn start_in(&self, dir: tempfile::TempDir, name: &str, relay: Option<&str>) -> Node {
        start_in(dir, name, |settings| {
            settings.identity.authority_file = Some(self.public());
            match relay {
                Some(address) => settings.relays = vec![address.parse().unwrap()],
                None => settings.relay = true,
            }
        })
    }
}

fn files(dir: &Path) -> IdentityFiles {
    IdentityFiles::beside(dir.join("keys/node.key"))
}

async fn refused(node: &Node, reason: ClaimRefused) -> TunnelStatus {
    let told = |status: &TunnelStatus| status.conflicts.iter().any(|it| it.reason == reason);
    node.until(reason.as_str(), told).await
}

/// Ends a node and waits until its peers see it, so that its directory may be used again.
async fn stop(node: Node, seen_by: &Node) -> tempfile::TempDir {
    let peer = node.handle.status().peer_id;
    node.shutdown.cancel();
    seen_by.until("it is gone", |status| status.peers.iter().all(|it| it.peer != peer)).await;
    let kept = tempfile::tempdir().unwrap();
    copy(node.dir.path(), kept.path());
    kept
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_token_proves_a_name_and_its_replay_does_not() {
    let mesh = Mesh::new();
    let relay = mesh.start("relay", None, Some(&mesh.token("relay")));
    let address = relay.address().await;
    let token = mesh.token("b");
    let a = mesh.start("a", Some(&address), Some(&mesh.token("a")));
    let b = mesh.start("b", Some(&address), Some(&token));
    a.relay_up().await;
    b.relay_up().await;
    assert_eq!(a.handle.status().identity, "require", "closed where an authority is known");
    assert_eq!(a.exchange("b", ECHO, b"proven").await, b"proven");
    assert!(a.exchange("b", SPEAKS_FIRST, b"").await.starts_with(b"a "), "b knows who asks");

    let thief = mesh.start("b", Some(&address), Some(&token));
    thief.relay_up().await;
    let status = refused(&a, ClaimRefused::ReplayedToken).await;
    assert_eq!(*status.conflicts[0].refused, *thief.handle.status().peer_id);
    assert_eq!(status.conflicts[0].holder.as_deref(), Some(&*b.handle.status().peer_id));
    assert_eq!(status.refused_claims["replayed_token"], 1);
    refused(&relay, ClaimRefused::ReplayedToken).await;
    assert_eq!(a.exchange("b", ECHO, b"still").await, b"still");
    // And the thief reaches nothing.
    let error = thief.connect("a", ECHO, b"").await.err();
    assert_eq!(error, Some(DialError::NotAdmitted));
    assert!(a.handle.status().refused.unproven >= 1);

    // Who has seen the first one remembers it over a restart.
    drop(b);
    let enrolled = a.dir.path().join("keys/node.enrolled");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !fs::read_to_string(&enrolled).is_ok_and(|text| text.contains("b 12D3")) {
        assert!(tokio::time::Instant::now() < deadline, "the names that were proven are kept");
        tokio::task::yield_now().await;
    }
    let again = mesh.start_in(stop(a, &relay).await, "a", Some(&address));
    again.relay_up().await;
    refused(&again, ClaimRefused::ReplayedToken).await;
}

#[tokio::test]
async fn unknown_keys_and_forged_tokens_are_refused() {
    let mesh = Mesh::new();
    let other = Mesh::new();
    let relay = mesh.start("relay", None, Some(&mesh.token("relay")));
    let address = relay.address().await;
    for (token, reason) in [
        (None, ClaimRefused::Unproven),
        (Some(other.token("b")), ClaimRefused::ForgedToken),
        (Some(mesh.token("c")), ClaimRefused::ForeignToken),
    ] {
        let b = mesh.start("b", Some(&address), token.as_deref());
        let status = refused(&relay, reason).await;
        let conflict = status.conflicts.iter().find(|it| it.reason == reason).unwrap();
        assert_eq!((&*conflict.node, conflict.holder.as_deref()), ("b", None));
        assert_eq!(conflict.words, reason.words());
        let error = b.connect("relay", ECHO, b"").await.err();
        assert_eq!(error, Some(DialError::NotAdmitted), "{reason}");
    }
}

#[tokio::test]
async fn a_token_that_comes_late_opens_the_door() {
    let mesh = Mesh::new();
    let relay = mesh.start("relay", None, Some(&mesh.token("relay")));
    let address = relay.address().await;
    let b = mesh.start("b", Some(&address), None);
    refused(&relay, ClaimRefused::Unproven).await;
    files(b.dir.path()).join(&mesh.token("b")).unwrap();
    relay.until("b is believed", |status| status.conflicts.is_empty()).await;
    assert_eq!(b.exchange("relay", ECHO, b"in").await, b"in");
}

#[tokio::test]
async fn a_node_with_the_authoritys_key_pins_tokens() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    files(dir.path()).join(&mesh.token("relay")).unwrap();
    let relay = start_in(dir, "relay", |settings| {
        settings.relay = true;
        settings.identity.authority_file = Some(mesh.public());
        settings.identity.authority_key_file = Some(mesh.dir.path().join("authority.key"));
    });
    let address = relay.address().await;
    let token = mesh.token("b");
    let b = mesh.start("b", Some(&address), Some(&token));
    let path = files(b.dir.path()).token();
    let own = b.handle.status().peer_id;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let pinned = loop {
        let text = fs::read_to_string(&path).unwrap();
        let told = SignedToken::parse(&text).unwrap().token().unwrap();
        if told.pinned.is_some() {
            break told;
        }
        assert!(tokio::time::Instant::now() < deadline, "it is pinned");
        tokio::task::yield_now().await;
    };
    assert_eq!((pinned.pinned.as_ref().map(|peer| peer.as_str()), pinned.expires), (Some(&*own), None));
    // Who never saw b takes the pinned token, and not the one that it replaced.
    let late = mesh.start("late", None, Some(&mesh.token("late")));
    let late_address = late.address().await;
    let thief = mesh.start("b", Some(&late_address), Some(&token));
    let kept = stop(b, &relay).await;
    let b = mesh.start_in(kept, "b", Some(&late_address));
    let holds = |status: &TunnelStatus| status.conflicts.iter().any(|it| it.holder.as_deref() == Some(&*own));
    late.until("b holds its name", holds).await;
    drop((b, thief));
}

#[tokio::test]
async fn a_rotated_key_is_followed_at_once() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let with = |settings: &mut TunnelSettings| settings.relays = vec![address.parse().unwrap()];
    let a = start("a", with);
    let b = start("b", with);
    a.relay_up().await;
    b.relay_up().await;
    assert_eq!(a.exchange("b", ECHO, b"before").await, b"before");
    let old = stop(b, &relay).await;
    let dir = tempfile::tempdir().unwrap();
    copy(old.path(), dir.path());
    files(dir.path()).rotate().unwrap();
    let b = start_in(dir, "b", with);
    b.relay_up().await;
    // Within the time for which the name of an absent peer is held.
    assert_eq!(a.exchange("b", ECHO, b"after").await, b"after");
    // What still runs with the former key is refused.
    let copy = start_in(old, "b", with);
    copy.relay_up().await;
    refused(&a, ClaimRefused::FormerKey).await;
    assert_eq!(a.exchange("b", ECHO, b"still").await, b"still");
}

#[tokio::test]
async fn the_pre_shared_key_is_rotated_under_traffic() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    let with = |settings: &mut TunnelSettings| settings.relays = vec![address.parse().unwrap()];
    let a = start("a", with);
    let b = start("b", with);
    a.relay_up().await;
    b.relay_up().await;
    let mut traffic = a.connect("b", ECHO, b"").await.unwrap().stream;
    let (old, new) = (common::PSK, "ab".repeat(32));
    // Accepted everywhere, then dialled with everywhere, then alone.
    for (step, keys) in
        [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")].iter().enumerate()
    {
        for node in [&relay, &a, &b] {
            let path = node.dir.path().join("psk");
            fs::write(&path, keys).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        // A newcomer that knows only the key of this step, as soon as the others know it.
        let newcomer = start(&format!("new{step}"), |settings| {
            with(settings);
            let alone = if step == 0 { old } else { &new };
            fs::write(&settings.psk_file, alone).unwrap();
        });
        newcomer.relay_up().await;
        assert_eq!(newcomer.exchange("b", ECHO, b"hello").await, b"hello");
        let text = format!("step {step}");
        traffic.write_all(text.as_bytes()).await.unwrap();
        traffic.flush().await.unwrap();
        let mut back = vec![0; text.len()];
        traffic.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    // The former key is good for nothing any more, once the relay has looked.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        assert!(tokio::time::Instant::now() < deadline, "the former key is refused");
        let stranger = start("stranger", with);
        let refused = Some(RelayReason::PskMismatchSuspected);
        let told = |status: &TunnelStatus| {
            let decided = |relay: &RelayView| relay.state == RelayState::Up || relay.reason == refused;
            status.relays.first().is_some_and(decided)
        };
        if stranger.until("it is let in or refused", told).await.relays[0].reason == refused {
            break;
        }
    }
}

#[tokio::test]
async fn a_wrong_file_is_told_and_not_taken_over() {
    common::logging();
    let relay = start("relay", |settings| settings.relay = true);
    let address = relay.address().await;
    fs::write(relay.dir.path().join("psk"), "nonsense").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while relay.handle.status().problems.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the problem is told");
        tokio::task::yield_now().await;
    }
    assert!(relay.handle.status().problems[0].contains("holds no pre-shared key"));
    let a = start("a", |settings| {
        settings.relays = vec![address.parse().unwrap()];
        settings.identity.policy = Some(IdentityPolicy::Off);
    });
    a.relay_up().await;
}
