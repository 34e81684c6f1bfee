//! Tables of `iptables` in its legacy flavour, which nftables does not show. They are only read.
#![expect(unsafe_code, reason = "getsockopt for options that socket2 does not know")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, OwnedFd};

use libc::{c_int, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

/// An address family, whose tables are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

/// Longest name of a table, with its end (`XT_TABLE_MAXNAMELEN`).
const NAME_LEN: usize = 32;
/// The forward hook's place (`NF_INET_FORWARD`).
const FORWARD: usize = 2;
/// `-NF_DROP - 1`: a verdict in a standard target is negated less one, because others are offsets.
const DROP: i32 = -1;
/// Bytes of `struct xt_entry_target`, after which a standard target has its verdict.
const TARGET_HEADER: usize = 32;
/// Most bytes read of a table: 100,000 rules of 200 bytes.
const MAX_TABLE: usize = 20 << 20;
/// How often a table is read that changes between the two questions.
const ATTEMPTS: usize = 3;

/// What differs between the families (`linux/netfilter_ipv4/ip_tables.h`, `…ipv6/ip6_tables.h`).
struct Layout {
    names: &'static str,
    domain: Domain,
    level: c_int,
    /// `…_SO_GET_INFO`; `…_SO_GET_ENTRIES` is one more.
    get_info: c_int,
    /// Where an entry says how far its target is.
    target_offset: usize,
}

impl Family {
    fn layout(self) -> Layout {
        match self {
            Self::V4 => Layout {
                names: "/proc/net/ip_tables_names",
                domain: Domain::IPV4,
                level: libc::IPPROTO_IP,
                get_info: 64,
                target_offset: 88,
            },
            Self::V6 => Layout {
                names: "/proc/net/ip6_tables_names",
                domain: Domain::IPV6,
                level: libc::IPPROTO_IPV6,
                get_info: 64,
                target_offset: 140,
            },
        }
    }
}

/// Names of the tables there are; none where nobody used the legacy flavour, or the kernel has none.
pub fn tables(family: Family) -> Vec<String> {
    let names = std::fs::read_to_string(family.layout().names).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Whether `FORWARD` of table `filter` has policy `DROP`; a table that is not there is not made.
pub fn forward_drops(family: Family) -> io::Result<bool> {
    if !tables(family).iter().any(|table| table == "filter") {
        return Ok(false);
    }
    let layout = family.layout();
    let socket =
        OwnedFd::from(Socket::new(layout.domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?);
    let mut last = io::Error::from(io::ErrorKind::Interrupted);
    for _ in 0..ATTEMPTS {
        match policy(&socket, &layout) {
            Ok(verdict) => return Ok(verdict == DROP),
            // The table is of another size than a moment ago.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The verdict of the rule that is the policy of `FORWARD`.
fn policy(socket: &OwnedFd, layout: &Layout) -> io::Result<i32> {
    // `struct ipt_getinfo`: name, valid hooks, five entries, five underflows, number of entries, their size.
    let mut info = [0_u8; NAME_LEN + 13 * size_of::<u32>()];
    info[..6].copy_from_slice(b"filter");
    ask(socket, layout, layout.get_info, &mut info)?;
    let field = |number: usize| word(&info, NAME_LEN + number * size_of::<u32>());
    let underflow = field(6 + FORWARD)? as usize;
    let size = field(12)? as usize;
    if size > MAX_TABLE {
        return Err(io::Error::other("table filter is larger than anybody's"));
    }
    // `struct ipt_get_entries`: name, size, and, at the next multiple of eight, the entries.
    let head = (NAME_LEN + size_of::<u32>()).next_multiple_of(8);
    let mut entries = vec![0_u8; head + size];
    entries[..6].copy_from_slice(b"filter");
    entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&(size as u32).to_ne_bytes());
    ask(socket, layout, layout.get_info + 1, &mut entries)?;
    let at = head + underflow;
    let offset = entries.get(at + layout.target_offset..at + layout.target_offset + 2);
    let offset = offset.and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?)));
    let target = at + usize::from(offset.ok_or_else(short)?);
    Ok(word(&entries, target + TARGET_HEADER)?.cast_signed())
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..at + size_of::<u32>()).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or_else(short)
}

fn short() -> io::Error {
    io::Error::other("table filter ends before its policies")
}

fn ask(socket: &OwnedFd, layout: &Layout, option: c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to the buffer, which is as long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            layout.level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
