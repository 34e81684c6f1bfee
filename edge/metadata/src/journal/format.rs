use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgemesh_api::{Kind, Object, ObjectKey, decode_stored};
use edgemesh_reflector::{Interner, share};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::{JournalError, MAX_SIZE, slice};

/// Begins every journal; the version stands behind it and so is readable by every later version.
const MAGIC: [u8; 8] = *b"EMJOURN\n";

/// One whole copy and nothing behind it: magic, version (u32), time of writing (u64), length of the body (u64),
/// checksum (u64) of version, time, length and body. The body is one JSON object per line.
const WHOLE_COPY: u32 = 1;
const WHOLE_COPY_HEADER: usize = 8 + 4 + 8 + 8 + 8;

/// A header and records behind it: magic, version (u32), time of the beginning (u64), length of the source (u16), the
/// source, checksum (u64) of all between the magic and itself. A record is: length of the payload (u32), kind (u8),
/// payload, checksum (u64) of all of it.
///
/// Every checksum is seeded with the one before it: a record is valid only behind everything that was written before
/// it, and one that is left over from another generation is not valid at all. Numbers are little-endian, times are
/// seconds since 1970. The records up to the first commit are the base, the whole state of then.
const RECORDS: u32 = 3;
const RECORDS_HEADER: usize = 8 + 4 + 8 + 2;

/// As [`RECORDS`], and slices are in JSON like every other object. It is read and not appended to: the program of then
/// would not know the new records.
const JSON_RECORDS: u32 = 2;

/// Length and kind, before the payload of a record.
const RECORD_HEAD: usize = 4 + 1;

/// Length of a checksum.
pub(super) const SUM: usize = 8;

/// The payload is the object in JSON.
const UPSERT: u8 = 1;
/// The payload is kind and key in JSON.
const DELETE: u8 = 2;
/// The payload is the time at which the source was last heard. What stands before a commit counts from here on.
const COMMIT: u8 = 3;
/// The payload is an EndpointSlice, see [`slice`].
const UPSERT_SLICE: u8 = 4;

/// Where the next batch goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Length of header and base.
    pub(super) base: usize,
    /// End of the last commit.
    pub(super) end: usize,
    /// Checksum of the last commit; it stands right before the end.
    pub(super) sum: u64,
    /// When the source was last heard.
    pub(super) heard: SystemTime,
}

/// What a file has, up to its last commit.
#[derive(Debug)]
pub(super) struct Replay {
    /// In the order of their keys.
    pub(super) objects: Vec<Arc<Object>>,
    pub(super) source: String,
    pub(super) begun_at: SystemTime,
    pub(super) saved_at: SystemTime,
    /// `None` where nothing can be appended, because the file is of an older version.
    pub(super) tail: Option<Tail>,
    /// Why something behind the last commit does not count.
    pub(super) ignored: Option<JournalError>,
}

/// Writes records.
#[derive(Debug)]
pub(super) struct Encoder {
    text: Vec<u8>,
    sum: u64,
    limit: usize,
}

impl Encoder {
    /// Begins a generation.
    pub(super) fn generation(source: &str, begun: SystemTime) -> Result<Self, JournalError> {
        let length = u16::try_from(source.len()).map_err(|_| JournalError::TooLarge)?;
        let mut text = MAGIC.to_vec();
        text.extend(RECORDS.to_le_bytes());
        text.extend(seconds(begun).to_le_bytes());
        text.extend(length.to_le_bytes());
        text.extend(source.as_bytes());
        let sum = xxh3_64(&text[MAGIC.len()..]);
        text.extend(sum.to_le_bytes());
        Ok(Self { text, sum, limit: MAX_SIZE })
    }

    /// Goes on behind a commit, for at most so many bytes.
    pub(super) fn batch(tail: &Tail, limit: usize) -> Self {
        Self { text: Vec::new(), sum: tail.sum, limit }
    }

    pub(super) fn upsert(&mut self, object: &Object) -> Result<(), JournalError> {
        match object {
            Object::EndpointSlice(slice) => self.record(UPSERT_SLICE, |text| slice::encode(slice, text)),
            other => self.record(UPSERT, |text| serde_json::to_writer(text, other)),
        }
    }

    pub(super) fn delete(&mut self, object: &Object) -> Result<(), JournalError> {
        self.record(DELETE, |text| serde_json::to_writer(text, &(object.kind(), object.key())))
    }

    /// Ends a base or a batch; what was written, and its last checksum.
    pub(super) fn commit(mut self, heard: SystemTime) -> Result<(Vec<u8>, u64), JournalError> {
        self.record(COMMIT, |text| {
            text.extend(seconds(heard).to_le_bytes());
            Ok(())
        })?;
        Ok((self.text, self.sum))
    }

    fn record(
        &mut self,
        kind: u8,
        payload: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
    ) -> Result<(), JournalError> {
        let start = self.text.len();
        self.text.extend([0, 0, 0, 0, kind]);
        payload(&mut self.text).map_err(|_| JournalError::Malformed)?;
        let length = self.text.len() - start - RECORD_HEAD;
        let length = u32::try_from(length).map_err(|_| JournalError::TooLarge)?;
        self.text[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.sum = xxh3_64_with_seed(&self.text[start..], self.sum);
        self.text.extend(self.sum.to_le_bytes());
        if self.text.len() > self.limit { Err(JournalError::TooLarge) } else { Ok(()) }
    }
}

/// Reads a file up to its last commit. An error says that not even the base is usable.
pub(super) fn replay(text: &[u8]) -> Result<Replay, JournalError> {
    match version(text)? {
        WHOLE_COPY => replay_whole_copy(text),
        JSON_RECORDS => replay_records(text).map(|replay| Replay { tail: None, ..replay }),
        RECORDS => replay_records(text),
        _ => Err(JournalError::Version),
    }
}

/// Whether the base is whole, without decoding its objects.
pub(super) fn check_base(text: &[u8]) -> Result<(), JournalError> {
    match version(text)? {
        WHOLE_COPY => check_whole_copy(text).map(|_| ()),
        JSON_RECORDS | RECORDS => {
            let (_, mut records) = Records::open(text)?;
            while let Some((kind, _)) = records.next()? {
                if kind == COMMIT {
                    return Ok(());
                }
            }
            Err(JournalError::Truncated)
        }
        _ => Err(JournalError::Version),
    }
}

fn version(text: &[u8]) -> Result<u32, JournalError> {
    if !text.starts_with(&MAGIC[..text.len().min(MAGIC.len())]) {
        return Err(JournalError::Foreign);
    }
    let version = text.get(MAGIC.len()..).and_then(|text| text.first_chunk());
    version.map(|version| u32::from_le_bytes(*version)).ok_or(JournalError::Truncated)
}

#[derive(Debug)]
struct Header<'a> {
    source: &'a str,
    begun_at: SystemTime,
}

/// Goes through the records of a file as long as they are valid.
#[derive(Debug)]
struct Records<'a> {
    text: &'a [u8],
    at: usize,
    sum: u64,
}

impl<'a> Records<'a> {
    fn open(text: &'a [u8]) -> Result<(Header<'a>, Self), JournalError> {
        let (header, rest) = text.split_at_checked(RECORDS_HEADER).ok_or(JournalError::Truncated)?;
        let length = number(&header[20..]);
        let end = usize::try_from(length).map_err(|_| JournalError::Truncated)?;
        let (source, rest) = rest.split_at_checked(end).ok_or(JournalError::Truncated)?;
        let sum = u64::from_le_bytes(*rest.first_chunk().ok_or(JournalError::Truncated)?);
        let end = RECORDS_HEADER + end;
        if sum != xxh3_64(&text[MAGIC.len()..end]) {
            return Err(JournalError::Checksum);
        }
        let source = str::from_utf8(source).map_err(|_| JournalError::Malformed)?;
        let begun_at = time(number(&header[12..20]))?;
        Ok((Header { source, begun_at }, Self { text, at: end + SUM, sum }))
    }

    /// Kind and payload of the next record; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, JournalError> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let head = rest.first_chunk::<RECORD_HEAD>().ok_or(JournalError::Truncated)?;
        let length = usize::try_from(number(&head[..4])).map_err(|_| JournalError::Truncated)?;
        let end = length.checked_add(RECORD_HEAD).ok_or(JournalError::Truncated)?;
        let (record, rest) = rest.split_at_checked(end).ok_or(JournalError::Truncated)?;
        let sum = u64::from_le_bytes(*rest.first_chunk().ok_or(JournalError::Truncated)?);
        if sum != xxh3_64_with_seed(record, self.sum) {
            return Err(JournalError::Checksum);
        }
        self.at += end + SUM;
        self.sum = sum;
        Ok(Some((head[4], &record[RECORD_HEAD..])))
    }
}

/// What is known, by kind and key.
type Known = BTreeMap<(Kind, ObjectKey), Arc<Object>>;

#[derive(Debug)]
enum Change {
    Upsert(Arc<Object>),
    Delete(Kind, ObjectKey),
}

impl Change {
    fn apply(self, known: &mut Known) {
        match self {
            Self::Upsert(object) => {
                known.insert((object.kind(), object.key()), object);
            }
            Self::Delete(kind, key) => {
                known.remove(&(kind, key));
            }
        }
    }
}

fn replay_records(text: &[u8]) -> Result<Replay, JournalError> {
    let (header, mut records) = Records::open(text)?;
    let mut known = Known::new();
    let mut tail = None;
    let ignored = replay_batches(&mut records, &mut known, &mut tail).err();
    let Some(tail) = tail else { return Err(ignored.unwrap_or(JournalError::Truncated)) };
    Ok(Replay {
        objects: known.into_values().collect(),
        source: header.source.to_owned(),
        begun_at: header.begun_at,
        saved_at: tail.heard,
        tail: Some(tail),
        ignored,
    })
}

/// Applies whole batches only: with an error, state and tail are those of the last commit before it.
fn replay_batches(
    records: &mut Records<'_>,
    known: &mut Known,
    tail: &mut Option<Tail>,
) -> Result<(), JournalError> {
    let mut batch = Vec::new();
    let mut names = Interner::default();
    while let Some((kind, payload)) = records.next()? {
        if kind != COMMIT {
            batch.push(change(kind, payload, &mut names)?);
            continue;
        }
        let heard = time(u64::from_le_bytes(payload.try_into().map_err(|_| JournalError::Malformed)?))?;
        apply(std::mem::take(&mut batch), known);
        let base = tail.map_or(records.at, |tail| tail.base);
        *tail = Some(Tail { base, end: records.at, sum: records.sum, heard });
    }
    if batch.is_empty() { Ok(()) } else { Err(JournalError::Truncated) }
}

fn change(kind: u8, payload: &[u8], names: &mut Interner) -> Result<Change, JournalError> {
    let upsert = |object| Change::Upsert(Arc::new(object));
    match kind {
        UPSERT => object(payload, names).map(upsert),
        UPSERT_SLICE => slice::decode(payload, names).map(upsert),
        DELETE => json(payload).map(|(kind, key)| Change::Delete(kind, key)),
        _ => Err(JournalError::Malformed),
    }
}

fn apply(changes: Vec<Change>, known: &mut Known) {
    // A base is in order, and a tree of what is in order is made without looking for places.
    if known.is_empty() && changes.iter().all(|change| matches!(change, Change::Upsert(_))) {
        let upserts = changes.into_iter().filter_map(|change| match change {
            Change::Upsert(object) => Some(((object.kind(), object.key()), object)),
            Change::Delete(..) => None,
        });
        *known = upserts.collect();
        return;
    }
    changes.into_iter().for_each(|change| change.apply(known));
}

fn replay_whole_copy(text: &[u8]) -> Result<Replay, JournalError> {
    let (saved_at, body) = check_whole_copy(text)?;
    let mut known = Known::new();
    let mut names = Interner::default();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        Change::Upsert(Arc::new(object(line, &mut names)?)).apply(&mut known);
    }
    Ok(Replay {
        objects: known.into_values().collect(),
        source: String::new(),
        begun_at: saved_at,
        saved_at,
        tail: None,
        ignored: None,
    })
}

/// Time and body of a file of the first version.
fn check_whole_copy(text: &[u8]) -> Result<(SystemTime, &[u8]), JournalError> {
    let (header, body) = text.split_at_checked(WHOLE_COPY_HEADER).ok_or(JournalError::Truncated)?;
    if number(&header[20..28]) != body.len() as u64 {
        return Err(JournalError::Truncated);
    }
    let mut sum = Xxh3::with_seed(xxh3_64(&header[8..28]));
    sum.update(body);
    if number(&header[28..]) != sum.digest() {
        return Err(JournalError::Checksum);
    }
    Ok((time(number(&header[12..20]))?, body))
}

/// An object as it was written: `kind` first, so that it is read as one of that kind. Whatever begins otherwise is read by
/// serde's own way, which keeps the whole object until it has found the tag.
fn object(text: &[u8], names: &mut Interner) -> Result<Object, JournalError> {
    let begins = |kind: &Kind| {
        let rest =
            text.strip_prefix(b"{\"kind\":\"").and_then(|rest| rest.strip_prefix(kind.as_str().as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b"\","))
    };
    let known = Kind::ALL.into_iter().find(begins);
    let typed = known.and_then(|kind| decode_stored(kind, text).ok());
    let mut object = typed.map_or_else(|| json(text), Ok)?;
    share(&mut object, names);
    Ok(object)
}

fn json<'a, T: serde::Deserialize<'a>>(text: &'a [u8]) -> Result<T, JournalError> {
    serde_json::from_slice(text).map_err(|_| JournalError::Malformed)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> Result<SystemTime, JournalError> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(JournalError::Malformed)
}
