//! Sessions that must not break, and what they see: an echo every 10 ms, as somebody types over SSH; an upload without
//! end; a download. Both ends know which word stands at which place, so that no byte can be lost, doubled or moved unseen.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use edgemesh_net::netns::Namespace;

/// Between two bytes of the echo.
const TICK: Duration = Duration::from_millis(10);

/// A session without any progress for this long is broken: whoever sits before it has given up.
const HUNG: Duration = Duration::from_secs(10);

/// Between two looks of a waiting session at whether it should end, and between two tries to connect.
const GLANCE: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_millis(20);

/// How many bytes are written at a time, a multiple of [`WORD`].
const CHUNK: usize = 64 << 10;

/// A word is its own number.
const WORD: usize = 8;

/// A gigabyte to download.
const DOWNLOAD: u64 = 1_000_000_000;

/// What a client says first.
const ECHO: u8 = b'e';
const UPLOAD: u8 = b'u';
const DOWN: u8 = b'd';

/// Stack of a connection's thread in the server; it holds one chunk on the heap.
const STACK: usize = 64 << 10;

/// Runs the server until it is killed.
pub(super) fn server(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    loop {
        let (client, _) = listener.accept().context("accept")?;
        // What becomes of one connection is seen by its client.
        thread::Builder::new().stack_size(STACK).spawn(move || drop(serve(client)))?;
    }
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut kind = [0];
    client.read_exact(&mut kind)?;
    match kind[0] {
        ECHO => io::copy(&mut client.try_clone()?, &mut client).map(drop),
        UPLOAD => {
            client.write_all(&kind)?;
            let mut words = Words::default();
            let mut buffer = vec![0; CHUNK];
            loop {
                match client.read(&mut buffer)? {
                    0 => return Ok(()),
                    // The client sees that its session ends.
                    length if !words.expects(&buffer[..length]) => {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    _ => {}
                }
            }
        }
        DOWN => {
            let mut words = Words::default();
            let mut left = DOWNLOAD as usize;
            let mut buffer = vec![0; CHUNK];
            while left > 0 {
                let length = left.min(CHUNK);
                words.fill(&mut buffer[..length]);
                client.write_all(&buffer[..length])?;
                left -= length;
            }
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The content of a transfer, at a place.
#[derive(Default)]
struct Words {
    at: u64,
}

impl Words {
    fn byte(at: u64) -> u8 {
        let word = (at / WORD as u64).to_be_bytes();
        word[(at % WORD as u64) as usize]
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            if self.at.is_multiple_of(WORD as u64) && rest.len() >= WORD {
                let (words, tail) = rest.split_at_mut(rest.len() / WORD * WORD);
                for word in words.chunks_exact_mut(WORD) {
                    word.copy_from_slice(&(self.at / WORD as u64).to_be_bytes());
                    self.at += WORD as u64;
                }
                rest = tail;
            } else {
                rest[0] = Self::byte(self.at);
                self.at += 1;
                rest = &mut rest[1..];
            }
        }
    }

    /// Whether this is what comes next.
    fn expects(&mut self, bytes: &[u8]) -> bool {
        let mut wanted = vec![0; bytes.len()];
        self.fill(&mut wanted);
        wanted == bytes
    }
}

/// What became of the sessions of a kind.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: &'static str,
    seen: Mutex<Seen>,
    /// Sessions that ended before their time.
    broken: AtomicU64,
    /// Sessions whose content was not what was sent.
    pub(super) wrong: AtomicU64,
    /// Downloads that came to their end.
    pub(super) whole: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
}

impl Account {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            seen: Mutex::new(Seen { last: Instant::now(), longest: Duration::ZERO }),
            broken: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            whole: AtomicU64::new(0),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) {
        let (mut seen, now) = (self.seen(), Instant::now());
        seen.longest = seen.longest.max(now - seen.last);
        seen.last = now;
    }

    /// Counts silence anew.
    pub(super) fn reset(&self) {
        self.seen().longest = Duration::ZERO;
    }

    /// The longest silence since [`Account::reset`], what goes on included.
    pub(super) fn silence(&self) -> Duration {
        let seen = *self.seen();
        seen.longest.max(seen.last.elapsed())
    }

    /// When there was progress last.
    pub(super) fn last(&self) -> Instant {
        self.seen().last
    }

    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Sessions that go on, and come again when they broke, until the value is dropped.
pub(super) struct Load {
    pub(super) echo: Arc<Account>,
    pub(super) upload: Arc<Account>,
    pub(super) download: Arc<Account>,
    done: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

type Session = fn(TcpStream, &Account, &Arc<AtomicBool>) -> io::Result<()>;

impl Load {
    /// Starts them in the client's pod.
    pub(super) fn start(client: &Arc<Namespace>, target: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut start = |name, session: Session| {
            let account = Account::new(name);
            let (client, done, its) = (Arc::clone(client), Arc::clone(&done), Arc::clone(&account));
            threads.push(thread::spawn(move || again_and_again(&client, target, session, &its, &done)));
            account
        };
        let echo = start("echo", type_and_read);
        let (upload, download) = (start("upload", upload), start("download", download));
        Self { echo, upload, download, done, threads }
    }

    pub(super) fn accounts(&self) -> [&Account; 3] {
        [&self.echo, &self.upload, &self.download]
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What a session has to say, its account says.
            let _ = thread.join();
        }
    }
}

fn again_and_again(
    client: &Namespace,
    target: SocketAddr,
    session: Session,
    account: &Account,
    done: &Arc<AtomicBool>,
) {
    if client.enter().is_err() {
        return;
    }
    while !done.load(Ordering::Relaxed) {
        let Ok(stream) = connect(target) else {
            thread::sleep(AGAIN);
            continue;
        };
        match session(stream, account, done) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                account.wrong.fetch_add(1, Ordering::Relaxed);
                account.broken.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => thread::sleep(AGAIN),
            Err(_) => {
                account.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, HUNG)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GLANCE))?;
    stream.set_write_timeout(Some(GLANCE))?;
    Ok(stream)
}

/// Does a call again while it has nothing to say, until the session is broken or over.
fn patiently(
    account: &Account,
    done: &AtomicBool,
    carried: &mut bool,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let began = Instant::now();
    loop {
        match call() {
            Ok(length) => {
                if length > 0 {
                    account.progress();
                    *carried = true;
                }
                return Ok(length);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if done.load(Ordering::Relaxed) {
                    return Ok(0);
                }
                if began.elapsed() > HUNG {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            // A session that never carried anything was not there to be broken.
            Err(_) if !*carried => return Err(io::ErrorKind::NotConnected.into()),
            Err(error) => return Err(error),
        }
    }
}

/// The end of a stream that should go on: broken, but for one that never carried anything.
fn ended(done: &AtomicBool, carried: bool) -> io::Result<()> {
    match (done.load(Ordering::Relaxed), carried) {
        (true, _) => Ok(()),
        (false, true) => Err(io::ErrorKind::UnexpectedEof.into()),
        (false, false) => Err(io::ErrorKind::NotConnected.into()),
    }
}

fn type_and_read(mut stream: TcpStream, account: &Account, done: &Arc<AtomicBool>) -> io::Result<()> {
    let mut keyboard = stream.try_clone()?;
    keyboard.write_all(&[ECHO])?;
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let typing = thread::spawn(move || {
        let mut words = Words::default();
        let mut key = [0];
        while !stop.load(Ordering::Relaxed) {
            words.fill(&mut key);
            // What becomes of the session is seen by its reader; a full socket only drops a key that nobody waits for.
            match keyboard.write(&key) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    words.at -= 1;
                }
                Err(_) => return,
            }
            thread::sleep(TICK);
        }
    });
    let mut carried = false;
    let mut words = Words::default();
    let mut buffer = [0; 4096];
    let outcome = loop {
        match patiently(account, done, &mut carried, || stream.read(&mut buffer)) {
            Ok(0) => break ended(done, carried),
            Ok(length) if !words.expects(&buffer[..length]) => break Err(io::ErrorKind::InvalidData.into()),
            Ok(_) if done.load(Ordering::Relaxed) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    over.store(true, Ordering::Relaxed);
    // The stream may be gone already.
    let _ = stream.shutdown(Shutdown::Both);
    let _ = typing.join();
    outcome
}

fn upload(mut stream: TcpStream, account: &Account, done: &Arc<AtomicBool>) -> io::Result<()> {
    stream.write_all(&[UPLOAD])?;
    let mut carried = false;
    // The node's agent takes anything: only the server's word tells that there is a session.
    if patiently(account, done, &mut carried, || stream.read(&mut [0]))? == 0 {
        return ended(done, carried);
    }
    let mut words = Words::default();
    let mut buffer = vec![0; CHUNK];
    let mut waiting = 0..0;
    while !done.load(Ordering::Relaxed) {
        if waiting.is_empty() {
            words.fill(&mut buffer);
            waiting = 0..CHUNK;
        }
        let rest = &buffer[waiting.clone()];
        waiting.start += patiently(account, done, &mut carried, || stream.write(rest))?;
    }
    Ok(())
}

fn download(mut stream: TcpStream, account: &Account, done: &Arc<AtomicBool>) -> io::Result<()> {
    stream.write_all(&[DOWN])?;
    let mut carried = false;
    let mut words = Words::default();
    let mut buffer = vec![0; CHUNK];
    while words.at < DOWNLOAD && !done.load(Ordering::Relaxed) {
        match patiently(account, done, &mut carried, || stream.read(&mut buffer))? {
            0 => return ended(done, carried),
            length if !words.expects(&buffer[..length]) => return Err(io::ErrorKind::InvalidData.into()),
            _ => {}
        }
    }
    if words.at == DOWNLOAD {
        account.whole.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Words;

    #[test]
    fn no_byte_can_be_lost_doubled_or_moved() {
        let mut sent = vec![0; 5000];
        Words::default().fill(&mut sent);
        for cuts in [vec![5000], vec![1, 4999], vec![7, 9, 100, 4884]] {
            let (mut words, mut rest) = (Words::default(), &sent[..]);
            for cut in cuts {
                let (part, tail) = rest.split_at(cut);
                assert!(words.expects(part));
                rest = tail;
            }
        }
        let spoil: [fn(&mut Vec<u8>); 3] = [
            |bytes| {
                bytes.remove(2049);
            },
            |bytes| bytes.insert(2049, bytes[2049]),
            |bytes| bytes.swap(2055, 2063),
        ];
        for spoil in spoil {
            let mut bytes = sent.clone();
            spoil(&mut bytes);
            assert!(!Words::default().expects(&bytes));
        }
    }
}
