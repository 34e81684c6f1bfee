#![expect(unsafe_code, reason = "pipe2, fcntl and splice, which no dependency has words for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;

/// A pipe through which bytes go from one socket to another without a copy in user space (splice(2)).
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// A pipe for about `capacity` bytes; a smaller one where the kernel allows no such size (pipe(7)).
    pub fn new(capacity: usize) -> io::Result<Self> {
        let mut ends: [c_int; 2] = [-1; 2];
        // SAFETY: the kernel writes two descriptors to the array, which outlives the call.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are fresh, and nothing else owns them.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let wanted = c_int::try_from(capacity).unwrap_or(c_int::MAX);
        // SAFETY: both commands take numbers only.
        let got = unsafe {
            let set = libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, wanted);
            if set > 0 { set } else { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) }
        };
        let capacity = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(Self { read, write, capacity, held: 0 })
    }

    /// Bytes it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that were put in and not taken out yet.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Puts in what `socket` has, without waiting. 0 is the end of the stream.
    ///
    /// To be called on an empty pipe only: `WouldBlock` then means that the socket has nothing, never that the pipe
    /// is full.
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a full pipe cannot be told from an empty socket");
        let moved = splice(socket.as_fd(), self.write.as_fd(), self.capacity)?;
        self.held += moved;
        Ok(moved)
    }

    /// Takes out what `socket` has room for, without waiting.
    pub fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = splice(self.read.as_fd(), socket.as_fd(), self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    loop {
        // SAFETY: the offsets are null, as they must be for pipes and sockets; the call touches no other memory.
        let moved = unsafe {
            libc::splice(
                from.as_raw_fd(),
                std::ptr::null_mut(),
                to.as_raw_fd(),
                std::ptr::null_mut(),
                length,
                libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
            )
        };
        match usize::try_from(moved) {
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
