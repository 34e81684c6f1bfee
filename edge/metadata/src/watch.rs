use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgemesh_net::inotify::{Change, ChangeKind, Inotify, Watch};
use tokio::time::{Instant, timeout_at};

use crate::tree::is_manifest;

/// Quiet time after a change before the directory is read: a copy of many files comes as one change.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// A directory that never becomes quiet is read nevertheless.
const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// Follows a directory and its parent; the parent tells when the directory itself is replaced.
pub(crate) struct Watcher {
    directory: PathBuf,
    inotify: Option<Inotify>,
    own: Option<Watch>,
    parent: Option<Watch>,
    /// Manifests that a writer has changed and not closed yet.
    pub(crate) writing: BTreeSet<String>,
    /// Manifests that changed since they were last read.
    pub(crate) touched: BTreeSet<String>,
    due: bool,
}

impl Watcher {
    pub(crate) fn new(directory: PathBuf) -> Self {
        let inotify = Inotify::new()
            .inspect_err(|error| tracing::warn!(%error, "no inotify: manifests are polled"))
            .ok();
        let (writing, touched) = (BTreeSet::new(), BTreeSet::new());
        Self { directory, inotify, own: None, parent: None, writing, touched, due: false }
    }

    /// Watches what has the directory's name now; whether changes in it will be told.
    pub(crate) fn arm(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let parent = match self.directory.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
            parent => parent,
        };
        for (watch, path) in [(&mut self.parent, parent), (&mut self.own, Some(&*self.directory))] {
            let new = path.and_then(|path| inotify.watch(path).ok());
            if let Some(old) = watch.filter(|old| Some(*old) != new) {
                inotify.unwatch(old);
            }
            *watch = new;
        }
        self.own.is_some()
    }

    /// Waits until something changed and is quiet again. May be dropped at any time: what was told stays noted.
    pub(crate) async fn changed(&mut self) {
        while !self.due {
            let changes = self.next().await;
            self.note(changes);
        }
        let latest = Instant::now() + DEBOUNCE_MAX;
        while let Ok(changes) = timeout_at(latest.min(Instant::now() + DEBOUNCE), self.next()).await {
            self.note(changes);
            if Instant::now() >= latest {
                break;
            }
        }
        self.due = false;
    }

    /// Notes what was told meanwhile, without waiting.
    pub(crate) fn drain(&mut self) {
        let changes = self.inotify.as_ref().map_or(Ok(Vec::new()), Inotify::pending);
        self.note(changes);
    }

    async fn next(&self) -> io::Result<Vec<Change>> {
        match &self.inotify {
            Some(inotify) => inotify.changes().await,
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, changes: io::Result<Vec<Change>>) {
        match changes {
            Ok(changes) => changes.into_iter().for_each(|change| self.note_one(change)),
            Err(error) => {
                tracing::warn!(%error, "inotify failed: manifests are polled");
                self.inotify = None;
                self.due = true;
            }
        }
    }

    fn note_one(&mut self, change: Change) {
        let Some(watch) = change.watch else {
            // The kernel dropped changes: writers that finished meanwhile will not be told of.
            self.writing.clear();
            self.due = true;
            return;
        };
        let name = change.name.as_deref().and_then(OsStr::to_str);
        if Some(watch) == self.own {
            match name {
                Some(name) if is_manifest(name) => self.note_manifest(name, change.kind),
                // A ConfigMap volume swaps the link `..data`.
                Some(name) => self.due |= name.starts_with(".."),
                None => self.due = true,
            }
        } else if Some(watch) == self.parent {
            self.due |= change.name.is_some() && change.name.as_deref() == self.directory.file_name();
        }
    }

    fn note_manifest(&mut self, name: &str, kind: ChangeKind) {
        match kind {
            ChangeKind::Writing => {
                self.writing.insert(name.to_owned());
                return;
            }
            ChangeKind::Written | ChangeKind::Other => {
                self.writing.remove(name);
            }
            ChangeKind::Attributes => {}
        }
        self.touched.insert(name.to_owned());
        self.due = true;
    }
}
