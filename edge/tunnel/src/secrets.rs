//! The files that may change while the tunnel runs: pre-shared keys, authorities, the own join token.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use edgemesh_tunnel_proto::{Enrolment, IdentityPolicy, Proof};
use libp2p::PeerId;
use tokio::sync::watch;

use crate::identity::{Authorities, Authority, IdentityError, IdentityFiles};
use crate::key::pre_shared_keys;
use crate::pnet::Psk;
use crate::settings::{TunnelError, TunnelSettings};

/// How often the files are looked at: a `stat` each. A Secret reaches its volume within a minute (the kubelet's sync
/// period).
const LOOK: Duration = Duration::from_secs(2);

/// What the files say now.
pub(crate) struct Secrets {
    pub(crate) psks: Arc<ArcSwap<Vec<Psk>>>,
    pub(crate) authorities: ArcSwap<Authorities>,
    /// The authority's own key, where this node makes tokens out for those who join.
    pub(crate) registrar: Option<Authority>,
    pub(crate) files: IdentityFiles,
    pub(crate) policy: IdentityPolicy,
    proof: watch::Sender<Proof>,
    /// Files whose newest content is not taken over, and why.
    problems: Mutex<Vec<(PathBuf, String)>>,
    psk_file: PathBuf,
    /// The key is made from its file as Go agents make it.
    go_peers: bool,
    authority_file: Option<PathBuf>,
    own: PeerId,
}

impl Secrets {
    /// Reads the files; one that is wrong ends the start.
    pub(crate) fn load(settings: &TunnelSettings, own: PeerId) -> Result<Self, TunnelError> {
        let identity = &settings.identity;
        let files = IdentityFiles::beside(&settings.key_file);
        let authorities = match &identity.authority_file {
            Some(path) => Authorities::load(path)?,
            None => Authorities::default(),
        };
        // Closed where there is something to prove names with, and open where nothing could be proven.
        let by_default =
            if authorities.is_empty() { IdentityPolicy::Prefer } else { IdentityPolicy::Require };
        Ok(Self {
            psks: Arc::new(ArcSwap::from_pointee(pre_shared_keys(&settings.psk_file, settings.go_peers)?)),
            policy: identity.policy.unwrap_or(by_default),
            registrar: identity.authority_key_file.as_deref().map(Authority::load).transpose()?,
            proof: watch::channel(files.proof(&own)?).0,
            authorities: ArcSwap::from_pointee(authorities),
            files,
            problems: Mutex::default(),
            psk_file: settings.psk_file.clone(),
            go_peers: settings.go_peers,
            authority_file: identity.authority_file.clone(),
            own,
        })
    }

    /// The own proof, now and when it changes.
    pub(crate) fn proof(&self) -> watch::Receiver<Proof> {
        self.proof.subscribe()
    }

    /// Files whose newest content is not taken over, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(_, text)| format!("what was read before stays in use: {text}")).collect()
    }

    /// Follows the files for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        let token_file = self.files.token();
        let mut seen = [stamp(&self.psk_file), stamp(&token_file), self.authority_stamp()];
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let now = [stamp(&self.psk_file), stamp(&token_file), self.authority_stamp()];
            if now[0] != seen[0] {
                let read = pre_shared_keys(&self.psk_file, self.go_peers).map_err(IdentityError::from);
                if let Some(keys) = self.taken(&self.psk_file, read) {
                    tracing::info!(keys = keys.len(), "the pre-shared keys are taken over");
                    self.psks.store(Arc::new(keys));
                }
            }
            if now[1] != seen[1]
                && let Some(proof) = self.taken(&token_file, self.files.proof(&self.own))
            {
                self.proof.send_if_modified(|known| {
                    let changed = *known != proof;
                    *known = proof;
                    changed
                });
            }
            if now[2] != seen[2]
                && let Some(path) = &self.authority_file
                && let Some(authorities) = self.taken(path, Authorities::load(path))
            {
                tracing::info!("the authorities are taken over");
                self.authorities.store(Arc::new(authorities));
            }
            seen = now;
        }
    }

    /// Keeps the names that were proven for the next start, as often as the disk takes them.
    pub(crate) async fn keep(self: Arc<Self>, mut proven: watch::Receiver<Vec<Enrolment>>) {
        while proven.changed().await.is_ok() {
            let (enrolled, files) = (proven.borrow_and_update().clone(), self.files.clone());
            let saved = tokio::task::spawn_blocking(move || files.save_enrolments(&enrolled)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "names that were proven cannot be kept over a restart");
            }
        }
    }

    fn authority_stamp(&self) -> Option<Stamp> {
        self.authority_file.as_deref().and_then(stamp)
    }

    /// Notes what is wrong with a file, or that nothing is any more.
    fn taken<T, E: Display>(&self, path: &Path, read: Result<T, E>) -> Option<T> {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.retain(|(known, _)| known != path);
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::warn!(%error, "a file of the tunnel changed and is not taken over");
                problems.push((path.to_owned(), error.to_string()));
                None
            }
        }
    }
}

type Stamp = (u64, u64, i64, i64, u64, u32);

/// Which content the name leads to now, without reading it.
fn stamp(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.mtime(), it.mtime_nsec(), it.len(), it.mode()))
}
