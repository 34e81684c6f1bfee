use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::{Name, SourceEvent};
use edgemesh_net::meet::{Report, Source, Trouble};
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::tree::{Ask, Scan, Tree};
use crate::watch::Watcher;

/// Safety net under inotify, which tells nothing of network file systems nor of what links point to. The cost is one
/// `readdir` and one `stat` per file.
const RESCAN: Duration = Duration::from_secs(30);

/// As `RESCAN`, while the directory cannot be watched.
const POLL: Duration = Duration::from_secs(2);

/// How long nothing may move before missing files are believed to be gone; `rm -r` of a thousand files takes less.
const SETTLE: Duration = Duration::from_millis(500);

/// Scans in a row that are thrown away because a writer opened a file that was being read.
const MAX_ATTEMPTS: usize = 3;

/// A directory of Kubernetes manifests as a source.
///
/// It lists once and tells single changes afterwards. Neither a half-written file nor a deleted, unreadable or emptied
/// directory deletes anything; only a file that is gone while others remain, or a readable file without the object.
#[derive(Debug)]
pub struct ManifestDir {
    directory: PathBuf,
    namespace: Name,
    rescan: Duration,
    ingress: bool,
}

impl ManifestDir {
    /// The directory, and the namespace of namespaced objects that name none.
    pub fn new(directory: impl Into<PathBuf>, default_namespace: impl Into<Name>) -> Self {
        Self {
            directory: directory.into(),
            namespace: default_namespace.into(),
            rescan: RESCAN,
            ingress: false,
        }
    }

    /// Sets how often the directory is read again though nothing was told, 30 s by default. Network file systems,
    /// whose changes inotify does not tell, may want less.
    pub fn rescan_every(self, rescan: Duration) -> Self {
        Self { rescan, ..self }
    }

    /// Reads the kinds that only a gateway acts on as well.
    pub fn with_ingress(self) -> Self {
        Self { ingress: true, ..self }
    }

    async fn follow(self, events: mpsc::Sender<SourceEvent>, report: Arc<dyn Report>) {
        let mut watcher = Watcher::new(self.directory.clone());
        let mut tree = Tree::new(self.ingress);
        let mut reports = Reports { report, shown: BTreeMap::new() };
        let mut ask = Ask::default();
        let mut listed_twice = false;
        loop {
            let watched = watcher.arm();
            let scan;
            (tree, scan) = self.scan(tree, &mut watcher, ask).await;
            match scan.events.first() {
                Some(SourceEvent::Reset) => {
                    tracing::info!(directory = %self.directory.display(), objects = scan.events.len() - 2, "manifests listed");
                }
                Some(_) => tracing::debug!(changes = scan.events.len(), "manifests changed"),
                None => {}
            }
            for event in scan.events {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            reports.show(scan.reports);
            let wait = match (scan.settling, watched) {
                (true, _) => SETTLE,
                (false, true) => self.rescan,
                (false, false) => POLL.min(self.rescan),
            };
            ask = Ask::default();
            tokio::select! {
                () = events.closed() => return,
                () = watcher.changed() => {}
                () = tokio::time::sleep(wait) => {
                    ask.confirm_missing = scan.settling;
                    if !scan.settling {
                        // Who keeps a file open for so long may be dead; and what a first listing left out of the
                        // journal's state needs a second one to be believed (`MeshState`).
                        watcher.writing.clear();
                        ask.relist = tree.is_listed() && !listed_twice;
                        listed_twice |= ask.relist;
                    }
                }
            }
        }
    }

    /// Scans away from the event loop. A scan that read a file while somebody wrote it is thrown away.
    async fn scan(&self, tree: Tree, watcher: &mut Watcher, mut ask: Ask) -> (Tree, Scan) {
        let mut attempt = 1;
        loop {
            ask.writing = watcher.writing.clone();
            ask.touched.append(&mut watcher.touched);
            let (mut next, asked) = (tree.clone(), ask.clone());
            let (directory, namespace) = (self.directory.clone(), self.namespace.clone());
            let done = tokio::task::spawn_blocking(move || {
                let scan = next.scan(&directory, &namespace, &asked);
                (next, scan)
            });
            let Ok((next, scan)) = done.await else { return (tree, Scan::default()) };
            watcher.drain();
            let torn = scan.read.iter().any(|name| watcher.writing.contains(name));
            if !torn || attempt == MAX_ATTEMPTS {
                return (next, scan);
            }
            attempt += 1;
        }
    }
}

impl Source for ManifestDir {
    fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        report: Arc<dyn Report>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(self.follow(events, report))
    }
}

/// Passes on only what is new, and withdraws what is no more.
struct Reports {
    report: Arc<dyn Report>,
    shown: BTreeMap<String, Trouble>,
}

impl Reports {
    fn show(&mut self, now: BTreeMap<String, Trouble>) {
        for place in self.shown.keys().filter(|place| !now.contains_key(*place)) {
            self.report.report(place, None);
        }
        for (place, trouble) in &now {
            if self.shown.get(place) != Some(trouble) {
                self.report.report(place, Some(trouble));
            }
        }
        self.shown = now;
    }
}
