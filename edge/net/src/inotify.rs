//! Changes of directories, inotify(7).

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for one read: 64 events with the longest name (NAME_MAX 255 and its terminator); more come with the next.
const BUFFER: usize = 64 * (HEADER + 256);

/// `struct inotify_event` without its name.
const HEADER: usize = 16;

const MASK: u32 = libc::IN_CREATE
    | libc::IN_MOVED_TO
    | libc::IN_MOVED_FROM
    | libc::IN_DELETE
    | libc::IN_MODIFY
    | libc::IN_CLOSE_WRITE
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// One inotify instance.
#[derive(Debug)]
pub struct Inotify {
    file: AsyncFd<File>,
}

/// One watched directory of an [`Inotify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(i32);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The directory it happened in; `None` when the kernel dropped changes because the queue was full.
    pub watch: Option<Watch>,
    /// The entry of the directory, or `None` when it is about the directory itself.
    pub name: Option<OsString>,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to an entry or to the directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Content is being written; `Written` follows when the writer closes the file.
    Writing,
    /// A writer closed the file.
    Written,
    /// Mode, owner or times; a writer may be at work still.
    Attributes,
    /// Anything else: created, renamed, deleted, dropped changes.
    Other,
}

impl Inotify {
    /// A new instance; needs a tokio runtime with I/O.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed; the result is checked before it is used.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let file = File::from(fd);
        // SAFETY: a `File` keeps one descriptor open until it is dropped, and the `AsyncFd` owns it.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        Ok(Self { file: file.map_err(io::Error::from)? })
    }

    /// Watches a directory (symbolic links are followed); watching the same directory again gives the same `Watch`.
    pub fn watch(&self, directory: &Path) -> io::Result<Watch> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: the path is a terminated string that outlives the call.
        let watch = unsafe { libc::inotify_add_watch(self.file.as_raw_fd(), path.as_ptr(), MASK) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(Watch(watch)) }
    }

    /// Ends a watch. The kernel ended it already when the directory is gone; that is no error.
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: no pointers are passed; an unknown number is refused by the kernel.
        unsafe { libc::inotify_rm_watch(self.file.as_raw_fd(), watch.0) };
    }

    /// Waits for changes. Dropping the future loses none.
    pub async fn changes(&self) -> io::Result<Vec<Change>> {
        loop {
            let mut guard = self.file.readable().await?;
            if let Ok(changes) = guard.try_io(|file| read(file.get_ref())) {
                return changes;
            }
        }
    }

    /// Changes that are there already, without waiting.
    pub fn pending(&self) -> io::Result<Vec<Change>> {
        let mut all = Vec::new();
        loop {
            match read(self.file.get_ref()) {
                Ok(changes) => all.extend(changes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }
}

fn read(mut file: &File) -> io::Result<Vec<Change>> {
    let mut buffer = [0; BUFFER];
    let length = file.read(&mut buffer)?;
    let mut rest = &buffer[..length];
    let mut changes = Vec::new();
    while let Some((header, tail)) = rest.split_first_chunk::<HEADER>() {
        let field = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let watch = i32::from_ne_bytes(field(0));
        let mask = u32::from_ne_bytes(field(4));
        let name_length = u32::from_ne_bytes(field(12)) as usize;
        let Some((name, tail)) = tail.split_at_checked(name_length) else { break };
        let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
        changes.push(Change {
            watch: (mask & libc::IN_Q_OVERFLOW == 0).then_some(Watch(watch)),
            name: name.map(|name| OsStr::from_bytes(name).to_owned()),
            kind: kind(mask),
        });
        rest = tail;
    }
    Ok(changes)
}

fn kind(mask: u32) -> ChangeKind {
    if mask & libc::IN_CLOSE_WRITE != 0 {
        ChangeKind::Written
    } else if mask & libc::IN_MODIFY != 0 {
        ChangeKind::Writing
    } else if mask & libc::IN_ATTRIB != 0 {
        ChangeKind::Attributes
    } else {
        ChangeKind::Other
    }
}
