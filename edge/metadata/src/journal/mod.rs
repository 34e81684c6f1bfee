mod file;
mod format;
mod slice;
mod writer;

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgemesh_api::{Kind, Name, Object, SourceEvent};

use file::Directory;
use format::{Encoder, SUM, Tail};

pub use file::JournalStorage;
pub use writer::{JournalStatus, JournalWriter};

/// Largest journal: 100,000 objects of 640 bytes, the bound of a manifest directory.
const MAX_SIZE: usize = 64 << 20;

/// What may be appended, however small the base is, before a new generation begins. A mesh of a few objects would be
/// written anew at every other change otherwise; and it is the erase block of small flash memories, below which a
/// file that is longer costs nothing.
const APPEND_FLOOR: usize = 64 << 10;

/// How old the time in a journal may become before it is written though nothing else changed. Each write wears the
/// flash, and an age that is wrong by this little misleads nobody after an outage.
const TOUCH_INTERVAL: Duration = Duration::from_secs(600);

/// Longest identity of a source: a path on Linux has at most 4096 bytes (PATH_MAX). Longer ones are cut.
const MAX_SOURCE: usize = 4096;

const CURRENT: &str = "journal";
const PREVIOUS: &str = "journal.previous";
const SCRATCH: &str = "journal.new";

/// The durable copy of the last complete state: two generations in one directory.
///
/// A generation is the whole state of when it began, and behind it batches of what changed since. A batch counts when
/// its end is there and nothing before it is damaged. When the batches outgrow the base a new generation begins, and
/// the one before it is kept.
#[derive(Debug)]
pub struct Journal {
    storage: Box<dyn JournalStorage>,
    source: String,
    kept: Option<Kept>,
    pace: writer::Pace,
}

/// What the current generation has, where this process loaded or wrote it.
#[derive(Debug)]
struct Kept {
    /// In the order of their keys. The copies are shared with the state.
    objects: Vec<Arc<Object>>,
    tail: Tail,
    /// Nothing stands behind the tail, neither a torn batch nor a whole one that the disk did not confirm.
    clean: bool,
}

/// Which of the two files was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalGeneration {
    /// The last one.
    Current,
    /// The one before it.
    Previous,
}

impl JournalGeneration {
    /// The word for status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// What a journal had.
#[derive(Debug)]
pub struct Loaded {
    /// `Reset`, an `Upsert` for each object, `Synced`.
    pub events: Vec<SourceEvent>,
    /// When the source was last heard, by the clock of then.
    pub saved_at: SystemTime,
    /// When the generation began, by the clock of then.
    pub begun_at: SystemTime,
    /// Which file it is.
    pub generation: JournalGeneration,
    /// The source that told it; empty where the file does not say.
    pub source: String,
    /// With the current generation: why something behind its last commit does not count. With the previous one: why
    /// the current one is not used.
    pub ignored: Option<JournalError>,
}

/// What came of a state that was to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The journal had it, and nothing was written.
    Unchanged,
    /// The difference was appended.
    Appended,
    /// A new generation begins with it.
    NewGeneration,
}

/// Why a journal cannot be loaded or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// There is none.
    #[error("there is no journal")]
    Missing,
    /// No room on the file system.
    #[error("the journal's disk is full, or its quota used up: free some room there")]
    Full,
    /// The file system takes no changes.
    #[error("the journal's file system is read-only: remount it, or move the state directory")]
    ReadOnly,
    /// The file system refuses.
    #[error("the journal cannot be read or written: {0}")]
    Io(io::ErrorKind),
    /// Larger than the bound.
    #[error("the journal is larger than {} MiB", MAX_SIZE >> 20)]
    TooLarge,
    /// It is no journal.
    #[error("the file is no journal")]
    Foreign,
    /// Of a version that this program does not know.
    #[error("the journal is of another version")]
    Version,
    /// Cut off, or longer than it says.
    #[error("the journal is cut off")]
    Truncated,
    /// The checksum does not match.
    #[error("the journal is damaged")]
    Checksum,
    /// An object cannot be decoded.
    #[error("the journal has an object that cannot be decoded")]
    Malformed,
}

impl JournalError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Io(_) => "io",
            Self::TooLarge => "too_large",
            Self::Foreign => "foreign",
            Self::Version => "version",
            Self::Truncated => "truncated",
            Self::Checksum => "checksum",
            Self::Malformed => "malformed",
        }
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            other => Self::Io(other),
        }
    }
}

/// Reads a journal from memory and counts its objects; any bytes are safe.
pub fn check_journal(text: &[u8]) -> Result<usize, JournalError> {
    format::replay(text).map(|replay| replay.objects.len())
}

impl Journal {
    /// The journal in a directory, which is made when it is first written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self::on(Box::new(Directory::new(directory.into())))
    }

    /// The journal on some other storage.
    pub fn on(storage: Box<dyn JournalStorage>) -> Self {
        Self { storage, source: String::new(), kept: None, pace: writer::Pace::default() }
    }

    /// Names the source whose state is saved. A journal of another source is loaded, but not appended to.
    pub fn of_source(self, source: &str) -> Self {
        Self { source: source[..source.floor_char_boundary(MAX_SOURCE)].to_owned(), ..self }
    }

    /// Sets the least time between two writes, 5 s by default, and the time until a failed one is tried again, 30 s
    /// by default; the latter doubles with every failure, up to eight times.
    pub fn pace(self, write: Duration, retry: Duration) -> Self {
        Self { pace: writer::Pace { write, retry }, ..self }
    }

    /// When the source was last heard, as the current generation says. `None` before it was loaded or written.
    pub fn saved_at(&self) -> Option<SystemTime> {
        self.kept.as_ref().map(|kept| kept.tail.heard)
    }

    /// Loads the current generation up to its last valid commit, or the previous one where the current has none. The
    /// error is the current one's, unless there is no current one.
    pub fn load(&mut self) -> Result<Loaded, JournalError> {
        self.kept = None;
        self.load_file(CURRENT, JournalGeneration::Current).or_else(|refused| {
            match self.load_file(PREVIOUS, JournalGeneration::Previous) {
                Ok(loaded) => Ok(Loaded { ignored: Some(refused), ..loaded }),
                Err(error) if refused == JournalError::Missing => Err(error),
                Err(_) => Err(refused),
            }
        })
    }

    fn load_file(&mut self, name: &str, generation: JournalGeneration) -> Result<Loaded, JournalError> {
        let replay = format::replay(&self.read(name)?)?;
        let upserts = replay.objects.iter().cloned().map(SourceEvent::Upsert);
        let events = [SourceEvent::Reset].into_iter().chain(upserts).chain([SourceEvent::Synced]).collect();
        if generation == JournalGeneration::Current && replay.source == self.source {
            let clean = replay.ignored.is_none();
            self.kept = replay.tail.map(|tail| Kept { objects: replay.objects, tail, clean });
        }
        Ok(Loaded {
            events,
            saved_at: replay.saved_at,
            begun_at: replay.begun_at,
            generation,
            source: replay.source,
            ignored: replay.ignored,
        })
    }

    /// Saves the objects of a complete state, as the source told it when it was last heard: appends what differs from
    /// what was loaded or saved before, or begins a new generation. With an error, what was saved before still is.
    pub fn save(&mut self, objects: &[Arc<Object>], heard: SystemTime) -> Result<Saved, JournalError> {
        let objects = in_order(objects);
        match self.append(&objects, heard) {
            Ok(None) => {}
            // A whole copy would need still more room.
            Err(error @ (JournalError::Full | JournalError::ReadOnly)) => return Err(error),
            Err(error) => tracing::debug!(reason = error.as_str(), "a new generation instead of a batch"),
            Ok(Some((saved, tail))) => {
                self.kept = Some(Kept { objects, tail, clean: true });
                return Ok(saved);
            }
        }
        let tail = self.begin(&objects, heard)?;
        self.kept = Some(Kept { objects, tail, clean: true });
        Ok(Saved::NewGeneration)
    }

    /// A writer, and the task that writes what it is offered.
    pub fn start(self) -> (JournalWriter, impl Future<Output = ()> + Send + 'static) {
        writer::start(self)
    }

    /// Appends the difference; `None` where a new generation is due.
    fn append(
        &mut self,
        objects: &[Arc<Object>],
        heard: SystemTime,
    ) -> Result<Option<(Saved, Tail)>, JournalError> {
        let Some(Kept { objects: known, tail, clean }) = &mut self.kept else { return Ok(None) };
        // Somebody may have replaced or removed the file since.
        let place = (tail.end - SUM) as u64;
        if self.storage.read(CURRENT, place, SUM)? != tail.sum.to_le_bytes() {
            return Ok(None);
        }
        let room = tail.base.max(APPEND_FLOOR).min(MAX_SIZE - tail.base) - (tail.end - tail.base);
        let mut batch = Encoder::batch(tail, room);
        let changed = match encode_changes(known, objects, &mut batch) {
            Err(JournalError::TooLarge) => return Ok(None),
            changed => changed?,
        };
        if !changed && *clean && is_fresh(tail.heard, heard) {
            return Ok(Some((Saved::Unchanged, *tail)));
        }
        let (text, sum) = match batch.commit(heard) {
            Err(JournalError::TooLarge) => return Ok(None),
            written => written?,
        };
        *clean = false;
        self.storage.append(CURRENT, tail.end as u64, &text)?;
        let tail = Tail { base: tail.base, end: tail.end + text.len(), sum, heard };
        Ok(Some((Saved::Appended, tail)))
    }

    fn begin(&mut self, objects: &[Arc<Object>], heard: SystemTime) -> Result<Tail, JournalError> {
        let mut base = Encoder::generation(&self.source, heard)?;
        for object in objects {
            base.upsert(object)?;
        }
        let (text, sum) = base.commit(heard)?;
        let tail = Tail { base: text.len(), end: text.len(), sum, heard };
        if let Err(error) = self.storage.create(SCRATCH, &text) {
            // Half a copy helps nobody, and the room may be what the next batch needs.
            let _ = self.storage.remove(SCRATCH);
            return Err(error.into());
        }
        drop(text);
        // A damaged file must not push out the good one behind it.
        if self.is_current_usable() {
            self.storage.rename(CURRENT, PREVIOUS)?;
        }
        self.storage.rename(SCRATCH, CURRENT)?;
        self.storage.sync()?;
        Ok(tail)
    }

    fn is_current_usable(&self) -> bool {
        let Ok(text) = self.read(CURRENT) else { return false };
        // What this process decoded or encoded can be decoded.
        if self.kept.is_some() { format::check_base(&text).is_ok() } else { format::replay(&text).is_ok() }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, JournalError> {
        let text = self.storage.read(name, 0, MAX_SIZE + 1)?;
        if text.len() > MAX_SIZE { Err(JournalError::TooLarge) } else { Ok(text) }
    }
}

/// Whether the time in the journal is good enough; also where the clock was set back a little.
fn is_fresh(written: SystemTime, heard: SystemTime) -> bool {
    let apart = heard.duration_since(written).unwrap_or_else(|error| error.duration());
    apart < TOUCH_INTERVAL
}

fn key(object: &Object) -> (Kind, &Name, &Name) {
    let metadata = object.metadata();
    (object.kind(), &metadata.namespace, &metadata.name)
}

/// Orders objects by their keys; of two with the same key the latter counts. Keys of certificates are left out: they do not
/// belong on a disk, and whoever needs them waits for the source.
fn in_order(objects: &[Arc<Object>]) -> Vec<Arc<Object>> {
    let mut ordered: Vec<_> =
        objects.iter().filter(|object| object.kind() != Kind::Secret).cloned().collect();
    ordered.sort_by(|a, b| key(a).cmp(&key(b)));
    ordered.dedup_by(|latter, former| {
        let same = key(latter) == key(former);
        if same {
            std::mem::swap(latter, former);
        }
        same
    });
    ordered
}

/// Writes what leads from one state to the other; whether anything does. Both are in order.
fn encode_changes(
    before: &[Arc<Object>],
    after: &[Arc<Object>],
    batch: &mut Encoder,
) -> Result<bool, JournalError> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut changed = false;
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return Ok(changed),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => key(old).cmp(&key(new)),
        };
        let old = before.next_if(|_| order.is_le());
        let new = after.next_if(|_| order.is_ge());
        match (old, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => continue,
            (_, Some(new)) => batch.upsert(new)?,
            (Some(old), None) => batch.delete(old)?,
            (None, None) => {}
        }
        changed = true;
    }
}
