use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use edgemesh_api::{Kind, Object, ObjectKey, SourceEvent};
use edgemesh_net::meet::Trouble;

use crate::parse::{MAX_OBJECTS, Problem, parse};

/// Largest manifest that is read: ten times what an API server accepts for one object in a request (1.5 MiB), so
/// that a listing of thousands of Services still fits into one file.
const MAX_FILE: u64 = 16 << 20;

/// Reports of one directory: what a person reads, and a megabyte at most.
const MAX_REPORTS: usize = 2000;

type Key = (Kind, ObjectKey);

/// What a directory of manifests has given so far.
///
/// Objects vanish only on proof: a file must be seen missing twice while others remain; a file that is broken, or that
/// has no object any more, keeps the objects it gave before; and a directory without any object keeps everything.
/// As long as a file could never be read, nobody knows what it stands for: objects are told one by one, and there is
/// no complete listing that would delete what the journal has of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    /// Objects that only a gateway acts on count too.
    ingress: bool,
    files: BTreeMap<String, Kept>,
    sent: BTreeMap<Key, Arc<Object>>,
    listed: bool,
}

/// The last good content of a file.
#[derive(Clone, Debug, Default)]
struct Kept {
    stamp: Option<Stamp>,
    objects: Arc<BTreeMap<Key, (usize, Arc<Object>)>>,
    problems: Arc<[Problem]>,
    missing: bool,
    /// Broken, and never seen whole.
    unproven: bool,
}

/// Tells a file from its successor of the same name without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a scan shall do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// Files that a writer has open: their content is not read.
    pub(crate) writing: BTreeSet<String>,
    /// Files that are read even if they look unchanged.
    pub(crate) touched: BTreeSet<String>,
    /// Believe in what is missing.
    pub(crate) confirm_missing: bool,
    /// Tell everything again.
    pub(crate) relist: bool,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) events: Vec<SourceEvent>,
    /// Messages by place: everything that is wrong now.
    pub(crate) reports: BTreeMap<String, Trouble>,
    /// Files that were read.
    pub(crate) read: Vec<String>,
    /// Files that were never read are being written.
    pub(crate) unread: bool,
    /// Files are missing and must be seen missing again.
    pub(crate) settling: bool,
}

impl Scan {
    /// Several problems of one place are one report.
    fn report(&mut self, place: String, message: &str, broken: bool) {
        if self.reports.len() >= MAX_REPORTS && !self.reports.contains_key(&place) {
            let message = format!("more than {MAX_REPORTS} problems: the rest is left out");
            self.reports.insert("more".to_owned(), Trouble { message, broken: false });
            return;
        }
        let report = self.reports.entry(place).or_default();
        if !report.message.is_empty() {
            report.message.push_str("; ");
        }
        report.message.push_str(message);
        report.broken |= broken;
    }
}

/// Whether a directory entry is read: a manifest by its extension, and not hidden (editors' and ConfigMap volumes'
/// own files are).
pub(crate) fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|extension| name.ends_with(extension))
}

impl Tree {
    /// Nothing was read yet; `ingress` says whether objects that only a gateway acts on count too.
    pub(crate) fn new(ingress: bool) -> Self {
        Self { ingress, ..Self::default() }
    }

    /// Whether a complete listing was told.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(crate) fn scan(&mut self, directory: &Path, namespace: &str, ask: &Ask) -> Scan {
        let mut scan = Scan::default();
        match names(directory) {
            Ok(names) => {
                self.read_files(directory, namespace, &names, ask, &mut scan);
                self.settle_missing(&names, ask.confirm_missing, &mut scan);
                if names.is_empty() {
                    let message = format!("holds no manifest: {}", self.fallback());
                    scan.reports.insert(directory.display().to_string(), Trouble { message, broken: true });
                }
            }
            Err(error) => {
                let message = format!("cannot be read ({error}): {}", self.fallback());
                scan.reports.insert(directory.display().to_string(), Trouble { message, broken: true });
            }
        }
        let winners = self.winners(&mut scan);
        self.tell(directory, winners, ask.relist, &mut scan);
        scan
    }

    fn fallback(&self) -> &'static str {
        if !self.sent.is_empty() { "the last good state is kept" } else { "there is nothing to serve yet" }
    }

    fn read_files(
        &mut self,
        directory: &Path,
        namespace: &str,
        names: &BTreeSet<String>,
        ask: &Ask,
        scan: &mut Scan,
    ) {
        for name in names {
            let path = directory.join(name);
            let stamp = stamp(&path);
            let kept = self.files.get(name);
            let same = matches!((&stamp, kept), (Ok(stamp), Some(kept)) if kept.stamp == Some(*stamp));
            scan.unread |= ask.writing.contains(name) && kept.is_none();
            if ask.writing.contains(name) || (same && !ask.touched.contains(name)) {
                continue;
            }
            scan.read.push(name.clone());
            let mut next = match stamp.and_then(|stamp| Ok((stamp, read(&path)?))) {
                Ok((stamp, text)) => self.load(name, namespace, &text, stamp),
                Err(error) => broken(format!("cannot be read: {error}")),
            };
            next.unproven = next.is_broken() && kept.is_none_or(|kept| kept.unproven);
            if let Some(kept) = kept {
                next.keep_last_good(kept);
            }
            self.files.insert(name.clone(), next);
        }
    }

    fn load(&self, name: &str, namespace: &str, text: &[u8], stamp: Stamp) -> Kept {
        let (located, mut problems) = parse(name, text);
        let mut objects = BTreeMap::new();
        for found in located {
            let mut object = found.object;
            object.default_namespace(namespace);
            let key = (object.kind(), object.key());
            let described = format!("{} {}", key.0, key.1);
            if key.0.is_ingress() && !self.ingress {
                let message = "only a gateway acts on this kind".to_owned();
                problems.push(Problem { line: found.line, object: described, message, broken: false });
                continue;
            }
            if let Some((line, _)) = objects.insert(key, (found.line, Arc::new(object))) {
                let message = format!("is defined in line {line} too; the later one wins");
                problems.push(Problem { line: found.line, object: described, message, broken: false });
            }
        }
        Kept { stamp: Some(stamp), objects: Arc::new(objects), problems: problems.into(), ..Kept::default() }
    }

    /// Drops files that are gone. `rm -r` and non-atomic copies remove them one by one: what vanishes is believed
    /// only when nothing moves any more.
    fn settle_missing(&mut self, names: &BTreeSet<String>, confirm: bool, scan: &mut Scan) {
        if confirm && !names.is_empty() {
            self.files.retain(|name, kept| names.contains(name) || !kept.missing);
        }
        for (name, kept) in &mut self.files {
            kept.missing = !names.contains(name);
            scan.settling |= kept.missing && !names.is_empty();
        }
    }

    /// Every object with the file that defines it last by name; files that are missing count least.
    fn winners(&self, scan: &mut Scan) -> BTreeMap<Key, Arc<Object>> {
        let mut winners: BTreeMap<Key, (&str, bool, Arc<Object>)> = BTreeMap::new();
        let missing = self.files.iter().filter(|(_, kept)| kept.missing);
        let present = self.files.iter().filter(|(_, kept)| !kept.missing);
        for (name, kept) in missing.chain(present) {
            for problem in kept.problems.iter() {
                let place = place(name, problem.line, &problem.object);
                scan.report(place, &problem.message, problem.broken);
            }
            for (key, (line, object)) in kept.objects.iter() {
                let old = winners.insert(key.clone(), (name, kept.missing, object.clone()));
                if let Some((loser, false, _)) = old {
                    let message =
                        format!("is defined in {loser} too; this file wins because its name is later");
                    scan.report(place(name, *line, &format!("{} {}", key.0, key.1)), &message, true);
                }
            }
        }
        winners.into_iter().map(|(key, (_, _, object))| (key, object)).collect()
    }

    fn tell(&mut self, directory: &Path, winners: BTreeMap<Key, Arc<Object>>, relist: bool, scan: &mut Scan) {
        let mut refuse = |message: String| {
            scan.reports.entry(directory.display().to_string()).or_insert(Trouble { message, broken: true });
        };
        if winners.is_empty() {
            return refuse(format!("holds no object of the mesh: {}", self.fallback()));
        }
        if winners.len() > MAX_OBJECTS {
            return refuse(format!("holds more than {MAX_OBJECTS} objects: {}", self.fallback()));
        }
        let whole = !scan.unread && !self.files.values().any(|kept| kept.unproven);
        let listing = whole && (relist || !self.listed);
        self.listed |= listing;
        if listing {
            scan.events.push(SourceEvent::Reset);
        }
        for (key, object) in &winners {
            if listing || self.sent.get(key) != Some(object) {
                scan.events.push(SourceEvent::Upsert(object.clone()));
            }
        }
        if listing {
            scan.events.push(SourceEvent::Synced);
        } else {
            let gone = self.sent.keys().filter(|key| !winners.contains_key(key));
            scan.events.extend(gone.map(|(kind, key)| SourceEvent::Delete(*kind, key.clone())));
        }
        self.sent = winners;
    }
}

impl Kept {
    fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.broken)
    }

    fn keep_last_good(&mut self, old: &Self) {
        if old.objects.is_empty() {
            return;
        }
        if self.is_broken() {
            let mut objects = (*old.objects).clone();
            objects.extend(self.objects.iter().map(|(key, object)| (key.clone(), object.clone())));
            self.objects = Arc::new(objects);
        } else if self.objects.is_empty() {
            let message = "holds no object any more: those it gave are kept; delete the file to delete them";
            let problem =
                Problem { line: 0, object: String::new(), message: message.to_owned(), broken: false };
            self.problems = self.problems.iter().cloned().chain([problem]).collect();
            self.objects = old.objects.clone();
        }
    }
}

/// Where a report is about, for instance `shop.yaml:12 Service default/web`.
fn place(name: &str, line: usize, object: &str) -> String {
    match (line, object) {
        (0, "") => name.to_owned(),
        (0, object) => format!("{name} {object}"),
        (line, object) => format!("{name}:{line} {object}"),
    }
}

fn names(directory: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| is_manifest(name)) else { continue };
        // More files than objects cannot be of use; the bound keeps a runaway writer from filling the memory.
        if names.len() >= MAX_OBJECTS {
            return Err(io::Error::other(format!("more than {MAX_OBJECTS} manifests")));
        }
        names.insert(name.to_owned());
    }
    Ok(names)
}

/// Symbolic links are followed: the entries of a ConfigMap volume are links.
fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    Ok(Stamp {
        file: (metadata.dev(), metadata.ino()),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
}

fn broken(message: String) -> Kept {
    let problem = Problem { line: 0, object: String::new(), message, broken: true };
    Kept { problems: [problem].into(), ..Kept::default() }
}
