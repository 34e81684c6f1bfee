use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The files that a journal is made of. A crash may come within every call; what a call that returned did, but for
/// `rename` and `remove` before the next `sync`, is on disk.
pub trait JournalStorage: fmt::Debug + Send {
    /// Reads from a place on, until the end of the file or so many bytes.
    fn read(&self, name: &str, from: u64, limit: usize) -> io::Result<Vec<u8>>;

    /// Makes a new file in place of what has the name.
    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Cuts a file off at a place and writes on from there.
    fn append(&mut self, name: &str, at: u64, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name, also where another file has it.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Brings names on disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory, which is made when the first file is.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn make(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Opens a file that is there. No link is followed, and nothing is waited for at the end of a pipe.
    fn open(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.path.join(name))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

impl JournalStorage for Directory {
    fn read(&self, name: &str, from: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = self.open(name, OpenOptions::new().read(true))?;
        let length = file.metadata()?.len().saturating_sub(from);
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::with_capacity(usize::try_from(length).unwrap_or(limit).min(limit));
        file.take(limit as u64).read_to_end(&mut text)?;
        Ok(text)
    }

    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.make()?;
        match self.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let path = self.path.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn append(&mut self, name: &str, at: u64, content: &[u8]) -> io::Result<()> {
        let mut file = self.open(name, OpenOptions::new().write(true))?;
        // Left alone where it ends there already: on some file systems even that is a change of the inode.
        if file.seek(SeekFrom::End(0))? != at {
            file.set_len(at)?;
            file.seek(SeekFrom::Start(at))?;
        }
        file.write_all(content)?;
        file.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}
