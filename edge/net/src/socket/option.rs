#![expect(unsafe_code, reason = "options that socket2 does not know")]

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

/// For how long the other end's TCP has acknowledged nothing, in milliseconds (tcp_info, linux/tcp.h).
pub(crate) fn last_ack(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: tcp_info is plain integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers describe `info` and its length, which outlive the call; the kernel writes at most `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info.tcpi_last_ack_recv) } else { Err(io::Error::last_os_error()) }
}

/// Lets the socket use addresses that are not this host's.
pub(crate) fn set_transparent(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        false => set(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        true => set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}
