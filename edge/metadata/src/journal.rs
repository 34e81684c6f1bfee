use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgemesh_api::{Object, SourceEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Least time between two writes. Every write is a whole copy, and the flash of an edge node wears; what is lost in
/// a crash within this time the source tells again.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Time until a failed write is tried again: a full disk is not freed within seconds.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Largest journal: 100,000 objects of 640 bytes, the bound of a manifest directory.
const MAX_SIZE: usize = 64 << 20;

/// Begins every journal; the version stands behind it and so is readable by every later version.
const MAGIC: [u8; 8] = *b"EMJOURN\n";
const VERSION: u32 = 1;

/// Magic, version (u32), time of writing in seconds since 1970 (u64), length of the body (u64), checksum (u64) of
/// version, time, length and body; numbers are little-endian. The body is one JSON object per line.
const HEADER: usize = 8 + 4 + 8 + 8 + 8;

const CURRENT: &str = "journal";
const PREVIOUS: &str = "journal.previous";
const SCRATCH: &str = "journal.new";

/// The durable copy of the last complete state: two generations in one directory.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
}

/// Which of the two files was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalGeneration {
    /// The last one written.
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
    /// When it was written, by the clock of then.
    pub saved_at: SystemTime,
    /// Which file it is.
    pub generation: JournalGeneration,
    /// Why the current one is not used, when it is the previous one.
    pub refused: Option<JournalError>,
}

/// Why a journal cannot be loaded or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// There is none.
    #[error("there is no journal")]
    Missing,
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
        if error.kind() == io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error.kind()) }
    }
}

/// How writing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// The last time a journal was written by this process.
    pub saved_at: Option<SystemTime>,
    /// Why the last attempt failed; `None` once one succeeded again.
    pub error: Option<JournalError>,
}

/// The state's end of a journal that is being written. Dropping it writes what was offered last and ends the task.
#[derive(Debug)]
pub struct JournalWriter {
    offers: watch::Sender<Offer>,
    status: watch::Receiver<JournalStatus>,
}

/// One copy of the objects; offering another replaces one that is not written yet.
type Offer = Arc<[Arc<Object>]>;

impl JournalWriter {
    /// Offers the objects of a state that is complete (`MeshState::is_stale` is false). Never waits.
    pub fn offer(&self, objects: impl Iterator<Item = Arc<Object>>) {
        self.offers.send_replace(objects.collect());
    }

    /// How writing goes.
    pub fn status(&self) -> JournalStatus {
        *self.status.borrow()
    }

    /// Follows how writing goes.
    pub fn watch_status(&self) -> watch::Receiver<JournalStatus> {
        self.status.clone()
    }
}

impl Journal {
    /// The journal in a directory, which is made when it is first written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Loads the current generation, or the previous one where the current is refused. The error is the current
    /// one's, unless there is no current one.
    pub fn load(&self) -> Result<Loaded, JournalError> {
        let load = |name, generation, refused| {
            let (saved_at, objects) = decode(&read(&self.directory.join(name))?)?;
            let upserts = objects.into_iter().map(|object| SourceEvent::Upsert(Arc::new(object)));
            let events =
                [SourceEvent::Reset].into_iter().chain(upserts).chain([SourceEvent::Synced]).collect();
            Ok(Loaded { events, saved_at, generation, refused })
        };
        load(CURRENT, JournalGeneration::Current, None).or_else(|refused| {
            let previous = load(PREVIOUS, JournalGeneration::Previous, Some(refused));
            previous.map_err(|error| if refused == JournalError::Missing { error } else { refused })
        })
    }

    /// Writes the objects as the current generation; what was current becomes the previous one.
    pub fn save(&self, objects: &[Arc<Object>], now: SystemTime) -> Result<(), JournalError> {
        let text = encode(objects, now)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = |name| self.directory.join(name);
        write(&path(SCRATCH), &text)?;
        // A damaged file must not push out the good one behind it.
        if read(&path(CURRENT)).and_then(|text| check(&text).map(|_| ())).is_ok() {
            fs::rename(path(CURRENT), path(PREVIOUS))?;
        }
        fs::rename(path(SCRATCH), path(CURRENT))?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }

    /// A writer, and the task that writes what it is offered.
    pub fn start(self) -> (JournalWriter, impl Future<Output = ()> + Send + 'static) {
        let (offers, offered) = watch::channel(Offer::default());
        let (tell, status) = watch::channel(JournalStatus::default());
        (JournalWriter { offers, status }, keep(Arc::new(self), offered, tell))
    }
}

async fn keep(
    journal: Arc<Journal>,
    mut offered: watch::Receiver<Offer>,
    status: watch::Sender<JournalStatus>,
) {
    let mut next_write = Instant::now();
    let mut written = None;
    while offered.changed().await.is_ok() {
        // Until it is time to write, only the end of the program is of interest: later offers replace earlier ones.
        let closed = async { while offered.changed().await.is_ok() {} };
        let _ = tokio::time::timeout_at(next_write, closed).await;
        let objects = offered.borrow_and_update().clone();
        if written.as_ref() == Some(&objects) {
            continue;
        }
        let (journal, copy) = (journal.clone(), objects.clone());
        let saving = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            journal.save(&copy, now).map(|()| now)
        });
        let Ok(result) = saving.await else { return };
        match result {
            Ok(now) => written = Some(objects).filter(|_| told(&status, Ok(now))),
            Err(error) => {
                told(&status, Err(error));
                // `has_changed` fails when the writer is gone: nobody waits for a second attempt then.
                if offered.has_changed().is_err() {
                    return;
                }
                offered.mark_changed();
            }
        }
        next_write = Instant::now() + if result.is_ok() { WRITE_INTERVAL } else { RETRY_INTERVAL };
    }
}

/// Publishes a result, and logs it when it differs in kind from the one before.
fn told(status: &watch::Sender<JournalStatus>, result: Result<SystemTime, JournalError>) -> bool {
    let before = *status.borrow();
    match result {
        Ok(now) => {
            if before.error.is_some() {
                tracing::info!("the journal is written again");
            }
            status.send_replace(JournalStatus { saved_at: Some(now), error: None });
        }
        Err(error) => {
            if before.error != Some(error) {
                tracing::warn!(%error, reason = error.as_str(), "a restart would not have the present state");
            }
            status.send_replace(JournalStatus { error: Some(error), ..before });
        }
    }
    result.is_ok()
}

fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_SIZE as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_SIZE { Err(JournalError::TooLarge) } else { Ok(text) }
}

/// Writes a new file with its content on disk; a left-over of a crash is removed first, and no link is followed.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn encode(objects: &[Arc<Object>], now: SystemTime) -> Result<Vec<u8>, JournalError> {
    let mut text = vec![0; HEADER];
    for object in objects {
        serde_json::to_writer(&mut text, object).map_err(|_| JournalError::Malformed)?;
        text.push(b'\n');
        if text.len() > MAX_SIZE {
            return Err(JournalError::TooLarge);
        }
    }
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let length = (text.len() - HEADER) as u64;
    text[..8].copy_from_slice(&MAGIC);
    text[8..12].copy_from_slice(&VERSION.to_le_bytes());
    text[12..20].copy_from_slice(&seconds.to_le_bytes());
    text[20..28].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&text[8..28], &text[HEADER..]);
    text[28..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(text)
}

/// Reads a journal from memory and counts its objects; any bytes are safe.
pub fn check_journal(text: &[u8]) -> Result<usize, JournalError> {
    decode(text).map(|(_, objects)| objects.len())
}

fn checksum(header: &[u8], body: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::with_seed(xxh3_64(header));
    hash.update(body);
    hash.digest()
}

/// Checks all but the objects: the time of writing and the body.
fn check(text: &[u8]) -> Result<(SystemTime, &[u8]), JournalError> {
    let Some((header, body)) = text.split_first_chunk::<HEADER>() else {
        let foreign = !MAGIC.starts_with(&text[..text.len().min(MAGIC.len())]);
        return Err(if foreign { JournalError::Foreign } else { JournalError::Truncated });
    };
    let [magic, version, seconds, length, sum] =
        [&header[..8], &header[8..12], &header[12..20], &header[20..28], &header[28..]];
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if magic != MAGIC {
        return Err(JournalError::Foreign);
    }
    if number(version) != u64::from(VERSION) {
        return Err(JournalError::Version);
    }
    if number(length) != body.len() as u64 {
        return Err(JournalError::Truncated);
    }
    if number(sum) != checksum(&header[8..28], body) {
        return Err(JournalError::Checksum);
    }
    let saved_at = UNIX_EPOCH.checked_add(Duration::from_secs(number(seconds)));
    Ok((saved_at.ok_or(JournalError::Malformed)?, body))
}

fn decode(text: &[u8]) -> Result<(SystemTime, Vec<Object>), JournalError> {
    let (saved_at, body) = check(text)?;
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let objects = lines.map(|line| serde_json::from_slice(line).map_err(|_| JournalError::Malformed));
    Ok((saved_at, objects.collect::<Result<_, _>>()?))
}
