#![expect(unsafe_code, reason = "setsockopt for options that socket2 does not know")]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

/// Sets an option whose value is an `int`.
pub(crate) fn set(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the socket use addresses that are not this host's.
pub(crate) fn set_transparent(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        false => set(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        true => set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}
