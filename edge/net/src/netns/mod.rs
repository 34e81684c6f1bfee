//! Linux namespaces: made, entered, and given to child processes.
//!
//! A namespace made here has no name in the file system. It lives as long as a process or a descriptor in it, so that
//! nothing remains when its owner is killed.

#![expect(unsafe_code, reason = "setns, unshare and mount have no safe form in std")]

mod process;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use process::{Exit, Isolation, alive, ignore_interrupts, in_fresh_namespaces, kill, reap};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users and capabilities.
    User,
    /// Devices, addresses, routes, nftables.
    Net,
    /// Mounts.
    Mount,
    /// Process identifiers; entering or unsharing it counts for children only.
    Pid,
}

impl Kind {
    /// The file under `/proc/PID/ns`.
    pub fn file(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Net => "net",
            Self::Mount => "mnt",
            Self::Pid => "pid",
        }
    }

    fn flag(self) -> libc::c_int {
        match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Net => libc::CLONE_NEWNET,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
        }
    }
}

/// A namespace that is held by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    kind: Kind,
    fd: OwnedFd,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current(kind: Kind) -> io::Result<Self> {
        Self::open(kind, Path::new("/proc/thread-self/ns").join(kind.file()))
    }

    /// The namespace a path under `/proc` stands for.
    pub fn open(kind: Kind, path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { kind, fd: File::open(path)?.into() })
    }

    /// A fresh network namespace; the caller stays where it is.
    pub fn new_net() -> io::Result<Self> {
        let [net] = make([Kind::Net], || Ok(()))?;
        Ok(net)
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number under `/proc/PID/fd` at which another process finds it.
    pub fn fd_number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Moves the calling thread into it (for `Kind::Pid`: the children of the process).
    ///
    /// `Kind::User` needs a process with one thread, `Kind::Mount` a thread that shares its root with no other.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes a descriptor this value owns and no memory.
        check(unsafe { libc::setns(self.fd.as_raw_fd(), self.kind.flag()) })
    }

    /// Runs `work` inside the namespace on a thread of its own, so that the caller never leaves its own namespaces.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            self.enter()?;
            work()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes fresh namespaces, runs `setup` inside all of them, and returns them in the order asked for.
pub fn make<const N: usize>(
    kinds: [Kind; N],
    setup: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<[Namespace; N]> {
    on_thread(|| {
        unshare(&kinds)?;
        if kinds.contains(&Kind::Mount) {
            make_mounts_private()?;
        }
        setup()?;
        let mut made = Vec::with_capacity(N);
        for kind in kinds {
            made.push(Namespace::current(kind)?);
        }
        made.try_into().map_err(|_| io::Error::other("one namespace for each kind"))
    })
}

/// Moves the calling thread into fresh namespaces.
pub fn unshare(kinds: &[Kind]) -> io::Result<()> {
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(flags) })
}

/// Cuts the calling thread's mount namespace off from the one it was copied from: no mount travels either way.
pub fn make_mounts_private() -> io::Result<()> {
    mount_call(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)
}

/// Shows the file or directory `source` at `target` in the calling thread's mount namespace.
pub fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    mount_call(Some(source), target, None, libc::MS_BIND)
}

/// Mounts a `/proc` that shows the calling process's own PID namespace.
pub fn mount_proc() -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount_call(Some(Path::new("proc")), Path::new("/proc"), Some("proc"), flags)
}

fn mount_call(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = source.map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    let kind = kind.map(CString::new).transpose()?;
    let text = |value: &Option<CString>| value.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: every pointer is null or a NUL-terminated string that outlives the call; no data is passed.
    check(unsafe { libc::mount(text(&source), target.as_ptr(), text(&kind), flags, std::ptr::null()) })
}

/// What keeps this user from making namespaces, with the fix; `None` when it can.
pub fn forbidden() -> Option<Forbidden> {
    let probe = Isolation::new().fresh(&[Kind::Net]).fresh_user_if_needed();
    match probe.probe() {
        Ok(()) => None,
        Err(error) => Some(Forbidden::diagnose(error)),
    }
}

/// Why namespaces cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Forbidden {
    /// Debian's and Arch's switch.
    #[error(
        "kernel.unprivileged_userns_clone is 0: run `sudo sysctl -w kernel.unprivileged_userns_clone=1`, or run this with sudo"
    )]
    UnprivilegedClone,
    /// The limit of the user namespace one is in.
    #[error(
        "user.max_user_namespaces is 0: run `sudo sysctl -w user.max_user_namespaces=15000`, or run this with sudo"
    )]
    Limit,
    /// Ubuntu 24.04 and later.
    #[error(
        "kernel.apparmor_restrict_unprivileged_userns is 1: run `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run this with sudo"
    )]
    AppArmor,
    /// A seccomp filter or a kernel built without namespaces.
    #[error(
        "namespaces cannot be made here ({0}): run this with sudo; in a container, run it with --privileged"
    )]
    Other(io::Error),
}

impl Forbidden {
    /// The word for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::UnprivilegedClone => "unprivileged_userns_clone",
            Self::Limit => "max_user_namespaces",
            Self::AppArmor => "apparmor_restrict_unprivileged_userns",
            Self::Other(_) => "namespaces_forbidden",
        }
    }

    /// Names the switch that explains `error`.
    pub fn diagnose(error: io::Error) -> Self {
        let is = |file: &str, value: &str| {
            std::fs::read_to_string(Path::new("/proc/sys").join(file)).is_ok_and(|text| text.trim() == value)
        };
        if is("kernel/unprivileged_userns_clone", "0") {
            Self::UnprivilegedClone
        } else if is("user/max_user_namespaces", "0") {
            Self::Limit
        } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
            Self::AppArmor
        } else {
            Self::Other(error)
        }
    }
}

/// Waits until a descriptor is readable or the time is over; says whether it is readable.
pub fn wait_readable(source: impl AsFd, patience: std::time::Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: source.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let patience = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: entry is one valid pollfd whose descriptor the caller keeps open meanwhile.
    let ready = unsafe { libc::poll(&raw mut entry, 1, patience) };
    check(ready).map(|()| ready > 0)
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
