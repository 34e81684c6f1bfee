//! A disk in memory that fills up, refuses and remembers what a power cut would have left at every moment.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgemesh_metadata::{Journal, JournalStorage};

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A handle; all clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Files,
    /// Bytes until it is full. Like a file system that allocates late, it takes the last byte and fails then.
    room: Option<usize>,
    /// Operations until one is refused, and how.
    refusal: Option<(usize, io::ErrorKind)>,
    /// The files as they were after every byte and every change of a name.
    moments: Option<Vec<Files>>,
    /// Names of files that were read from their beginning.
    read: Vec<String>,
    written: usize,
}

impl Disk {
    pub(crate) fn of(files: &Files) -> Self {
        Self(Arc::new(Mutex::new(State { files: files.clone(), ..State::default() })))
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::on(Box::new(self.clone()))
    }

    pub(crate) fn files(&self) -> Files {
        self.lock().files.clone()
    }

    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        self.lock().files.get(name).expect("a file of this name").clone()
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        self.lock().files.insert(name.to_owned(), content.to_vec());
    }

    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.lock().room = room;
    }

    /// Refuses the one operation that follows these.
    pub(crate) fn refuse_after(&self, operations: usize, how: io::ErrorKind) {
        self.lock().refusal = Some((operations, how));
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.lock().refusal.is_none()
    }

    /// Every moment in which the power may have been cut while this ran.
    pub(crate) fn moments(&self, run: impl FnOnce()) -> Vec<Files> {
        self.lock().moments = Some(Vec::new());
        run();
        self.lock().moments.take().expect("set above")
    }

    pub(crate) fn read_names(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().read)
    }

    pub(crate) fn written(&self) -> usize {
        std::mem::take(&mut self.lock().written)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admit(&mut self) -> io::Result<()> {
        let Some((left, how)) = &mut self.refusal else { return Ok(()) };
        let how = *how;
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => {
                self.refusal = None;
                return Err(how.into());
            }
        }
        Ok(())
    }

    fn pass(&mut self) {
        if let Some(moments) = &mut self.moments {
            moments.push(self.files.clone());
        }
    }

    fn write(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        for (index, byte) in content.iter().enumerate() {
            if self.room.is_some_and(|room| index >= room) {
                break;
            }
            self.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?.push(*byte);
            self.written += 1;
            self.pass();
        }
        match self.room {
            Some(room) if room <= content.len() => Err(io::ErrorKind::StorageFull.into()),
            Some(_) | None => Ok(()),
        }
    }
}

impl JournalStorage for Disk {
    fn read(&self, name: &str, from: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        if from == 0 {
            state.read.push(name.to_owned());
        }
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(from).expect("it fits into memory");
        Ok(file.iter().skip(from).take(limit).copied().collect())
    }

    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.admit()?;
        state.files.insert(name.to_owned(), Vec::new());
        state.pass();
        state.write(name, content)
    }

    fn append(&mut self, name: &str, at: u64, content: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.admit()?;
        let file = state.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        file.resize(usize::try_from(at).expect("it fits into memory"), 0);
        state.pass();
        state.write(name, content)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.admit()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        state.pass();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pass();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.lock().admit()
    }
}
