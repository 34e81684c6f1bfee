//! Sources of objects (an API server, a manifest directory) and the durable copy on disk.
//!
//! A source tells what it knows as [`SourceEvent`](edgemesh_api::SourceEvent)s; `MeshState` folds them. The journal
//! keeps what `MeshState` holds, so that a restart serves before any source answers:
//! `Journal::load` → `MeshState::restore`, later `MeshState::objects` → `JournalWriter::offer`.

mod journal;
mod kube;
mod manifests;
mod parse;
mod tree;
mod watch;

pub use journal::{
    Journal, JournalError, JournalGeneration, JournalStatus, JournalStorage, JournalWriter, Loaded, Saved,
    check_journal,
};
pub use kube::{AccessError, ApiAccess, KubeBoard, KubeSource, KubeSourceSpec, Pem, Token, parse_kubeconfig};
pub use manifests::ManifestDir;
pub use parse::{Problem, parse_manifests};
