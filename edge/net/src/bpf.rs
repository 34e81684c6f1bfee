//! Maps and programs of BPF, by bpf(2).
#![expect(unsafe_code, reason = "bpf(2) and an option of sockets that socket2 does not know")]

use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use socket2::{Domain, Socket, Type};
use thiserror::Error;

/// Commands (`enum bpf_cmd`).
const MAP_CREATE: c_long = 0;
const PROG_LOAD: c_long = 5;
const MAP_UPDATE_BATCH: c_long = 26;
const MAP_DELETE_BATCH: c_long = 27;
const LINK_CREATE: c_long = 28;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCK_ADDR: u32 = 18;
/// `BPF_F_NO_PREALLOC`: elements take memory when they are there.
const NO_PREALLOC: u32 = 1;
/// `SO_NETNS_COOKIE` (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Bytes of what the verifier says of a program that it refuses: the end of it names the instruction.
const LOG_LEN: usize = 16 << 10;
/// Longest name of a map or program, with its end (`BPF_OBJ_NAME_LEN`).
const NAME_LEN: usize = 16;

/// What the kernel refused.
#[derive(Debug, Error)]
#[error("{what}: {error}{said}")]
pub struct BpfError {
    what: String,
    #[source]
    error: io::Error,
    /// What the verifier said.
    said: String,
}

impl BpfError {
    fn new(what: impl Into<String>, error: io::Error) -> Self {
        Self { what: what.into(), error, said: String::new() }
    }

    /// Whether this process may not, whatever the kernel can: no `CAP_BPF` in the first user namespace.
    pub fn is_permission(&self) -> bool {
        matches!(self.error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) && self.said.is_empty()
    }
}

/// Calls the kernel with the part of `union bpf_attr` that a command has.
fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is as long as is said, and every address in it is that of memory which outlives the call and is as
    // long as the numbers beside it say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address_of(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

fn name_of(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    let len = name.len().min(NAME_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// How a map keeps its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// A hash table that refuses what is too much.
    Hash,
    /// A hash table that forgets what was used least recently.
    LruHash,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    name: &'static str,
    key: usize,
    value: usize,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    capacity: u32,
    flags: u32,
    inner: u32,
    numa: u32,
    name: [u8; NAME_LEN],
}

#[repr(C)]
struct MapBatch {
    within: u64,
    out: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl Map {
    /// An empty map of keys and values of so many bytes.
    pub fn new(
        name: &'static str,
        kind: MapKind,
        key: usize,
        value: usize,
        capacity: u32,
    ) -> Result<Self, BpfError> {
        // `BPF_MAP_TYPE_HASH` and `BPF_MAP_TYPE_LRU_HASH`, which keeps memory for all it may have.
        let (number, flags) = match kind {
            MapKind::Hash => (1, NO_PREALLOC),
            MapKind::LruHash => (9, 0),
        };
        let mut attr = MapCreate {
            kind: number,
            key: key as u32,
            value: value as u32,
            capacity,
            flags,
            inner: 0,
            numa: 0,
            name: name_of(name),
        };
        let fd =
            bpf(MAP_CREATE, &mut attr).map_err(|error| BpfError::new(format!("BPF map {name}"), error))?;
        Ok(Self { fd: owned(fd), name, key, value })
    }

    /// The descriptor, for programs.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Adds or replaces elements, one after the other in this order; each is there as a whole or not at all.
    pub fn update<const K: usize, const V: usize>(
        &self,
        elements: &[([u8; K], [u8; V])],
    ) -> Result<(), BpfError> {
        let keys: Vec<u8> = elements.iter().flat_map(|(key, _)| *key).collect();
        let values: Vec<u8> = elements.iter().flat_map(|(_, value)| *value).collect();
        self.batch(MAP_UPDATE_BATCH, (K, V), elements.len(), &keys, &values)
    }

    /// Deletes elements. Those that are not there are no error, but end it.
    pub fn delete<const K: usize>(&self, keys: &[[u8; K]]) -> Result<(), BpfError> {
        let count = keys.len();
        let keys: Vec<u8> = keys.iter().flatten().copied().collect();
        match self.batch(MAP_DELETE_BATCH, (K, self.value), count, &keys, &[]) {
            Err(error) if error.error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn batch(
        &self,
        command: c_long,
        lengths: (usize, usize),
        count: usize,
        keys: &[u8],
        values: &[u8],
    ) -> Result<(), BpfError> {
        // The kernel reads as many bytes as the map's own lengths say.
        assert_eq!(lengths, (self.key, self.value), "map {} has other keys and values", self.name);
        if count == 0 {
            return Ok(());
        }
        let mut attr = MapBatch {
            within: 0,
            out: 0,
            keys: address_of(keys),
            values: if values.is_empty() { 0 } else { address_of(values) },
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map: self.fd.as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        bpf(command, &mut attr)
            .map(drop)
            .map_err(|error| BpfError::new(format!("elements of BPF map {}", self.name), error))
    }
}

/// Where a program is called (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// An IPv4 socket connects.
    Connect4,
    /// An IPv6 socket connects.
    Connect6,
    /// An IPv4 socket is asked for its peer.
    PeerName4,
    /// An IPv6 socket is asked for its peer.
    PeerName6,
}

impl Attach {
    fn number(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::PeerName4 => 29,
            Self::PeerName6 => 30,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "em_connect4",
            Self::Connect6 => "em_connect6",
            Self::PeerName4 => "em_peername4",
            Self::PeerName6 => "em_peername6",
        }
    }
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    count: u32,
    insns: u64,
    licence: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; NAME_LEN],
    device: u32,
    attach: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

/// A program that is called while this value lives, and not after the process, whatever ends it.
#[derive(Debug)]
pub struct Link {
    _link: OwnedFd,
}

impl Link {
    /// Has the kernel check the instructions and call them for sockets of processes below a cgroup.
    pub fn new(attach: Attach, insns: &[u8], cgroup: &File) -> Result<Self, BpfError> {
        let what = || format!("BPF program {}", attach.name());
        let program = match load(attach, insns, None) {
            Ok(program) => program,
            Err(error) => {
                let mut log = vec![0; LOG_LEN];
                // Again, for what the verifier says.
                let again = load(attach, insns, Some(&mut log));
                let text: Vec<u8> = log.into_iter().take_while(|byte| *byte != 0).collect();
                let text = String::from_utf8_lossy(&text);
                let last: Vec<&str> = text.lines().rev().take(3).collect();
                let said = last.iter().rev().map(|line| format!("; {line}")).collect();
                match again {
                    Ok(program) => program,
                    Err(_) => return Err(BpfError { what: what(), error, said }),
                }
            }
        };
        let mut attr = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
            attach: attach.number(),
            flags: 0,
        };
        let link = bpf(LINK_CREATE, &mut attr)
            .map_err(|error| BpfError::new(format!("{} at the cgroup", what()), error))?;
        Ok(Self { _link: owned(link) })
    }
}

fn load(attach: Attach, insns: &[u8], log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let (log_level, log_len, log) = match log {
        Some(log) => (1, log.len() as u32, log.as_mut_ptr() as u64),
        None => (0, 0, 0),
    };
    let mut attr = ProgLoad {
        kind: SOCK_ADDR,
        count: u32::try_from(insns.len() / 8).unwrap_or(u32::MAX),
        insns: address_of(insns),
        licence: address_of(c"Apache-2.0".to_bytes_with_nul()),
        log_level,
        log_len,
        log,
        kernel: 0,
        flags: 0,
        name: name_of(attach.name()),
        device: 0,
        attach: attach.number(),
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// What tells the calling thread's network namespace from every other since the machine started.
pub fn network_cookie() -> Result<u64, BpfError> {
    let failed = |error| BpfError::new("the network namespace's cookie", error);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(failed)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(failed(io::Error::last_os_error())) }
}

/// Where the second version of cgroups is mounted from its root, or from a folder above this process's, on.
pub fn cgroup_roots() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    // proc(5): number, parent, device, root, mount point, options, further fields, `-`, kind. In a cgroup namespace the
    // root is told from its own on: what is above that is so many `..`.
    let place = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let above = root == "/" || root.split('/').skip(1).all(|part| part == "..");
        (kind.starts_with("cgroup2 ") && above).then(|| PathBuf::from(point))
    };
    Ok(text.lines().filter_map(place).collect())
}
