use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use super::{Kind, Namespace, check};

/// What a child process gets of its own and enters, between fork and exec.
#[derive(Clone, Default)]
pub struct Isolation {
    fresh: libc::c_int,
    user_if_needed: bool,
    enter: Vec<Arc<Namespace>>,
    die_with_parent: bool,
    new_session: bool,
}

impl Isolation {
    /// Nothing of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fresh namespaces of these kinds. A fresh PID namespace holds the children of the child, not the child.
    pub fn fresh(mut self, kinds: &[Kind]) -> Self {
        self.fresh = kinds.iter().fold(self.fresh, |flags, kind| flags | kind.flag());
        self
    }

    /// A user namespace in which the caller is root, if the fresh namespaces cannot be had without.
    pub fn fresh_user_if_needed(mut self) -> Self {
        self.user_if_needed = true;
        self
    }

    /// Enters a namespace before the fresh ones are made; the order of the calls is the order of entering.
    pub fn enter(mut self, namespace: Arc<Namespace>) -> Self {
        self.enter.push(namespace);
        self
    }

    /// Killed by the kernel when the thread that starts it ends.
    pub fn die_with_parent(mut self) -> Self {
        self.die_with_parent = true;
        self
    }

    /// Leads a session of its own, away from the terminal's signals.
    pub fn new_session(mut self) -> Self {
        self.new_session = true;
        self
    }

    /// Has `command` do all this when it is spawned.
    pub fn apply(self, command: &mut Command) -> &mut Command {
        // SAFETY: getuid and getgid have no preconditions.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        let maps = Maps::new(uid, gid);
        let parent = std::process::id();
        // SAFETY: between fork and exec the closure makes system calls on memory allocated before the fork; it takes
        // no lock and allocates nothing (an io::Error of an OS code holds no heap memory).
        unsafe { command.pre_exec(move || self.in_child(&maps, parent)) }
    }

    fn in_child(&self, maps: &Maps, parent: u32) -> io::Result<()> {
        // SAFETY: signal with SIG_DFL installs no handler; setsid and prctl take no memory.
        unsafe {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            if self.new_session {
                check(libc::setsid())?;
            }
        }
        for namespace in &self.enter {
            namespace.enter()?;
        }
        if self.fresh != 0 {
            self.unshare(maps)?;
        }
        if self.die_with_parent {
            // SAFETY: PR_SET_PDEATHSIG takes one number.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
            // SAFETY: getppid has no preconditions.
            let now = unsafe { libc::getppid() }.unsigned_abs();
            // A parent that ended before sends nothing. One in an outer PID namespace is seen as 0, alive or not.
            if now != parent && now != 0 {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    }

    fn unshare(&self, maps: &Maps) -> io::Result<()> {
        // SAFETY: unshare takes flags only.
        let plain = check(unsafe { libc::unshare(self.fresh) });
        if !(self.user_if_needed && plain.as_ref().is_err_and(is_permission)) {
            return plain;
        }
        // SAFETY: as above.
        check(unsafe { libc::unshare(self.fresh | libc::CLONE_NEWUSER) })?;
        maps.write()
    }

    pub(super) fn probe(self) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        // SAFETY: the closure only ends the child before it executes anything.
        unsafe { command.pre_exec(|| libc::_exit(0)) };
        // The child ends without exec, which spawn reports as success: its pipe closes.
        let mut child = command.spawn()?;
        child.wait().map(drop)
    }
}

fn is_permission(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// The identity maps of a user namespace with one user, who is root inside (user_namespaces(7)).
#[derive(Clone)]
struct Maps {
    files: [(CString, CString); 3],
}

impl Maps {
    fn new(uid: u32, gid: u32) -> Self {
        let text = |text: String| CString::new(text).expect("formatted numbers hold no NUL");
        // setgroups must be denied before an unprivileged user may map a group.
        let file = |name: &str, content: String| (text(format!("/proc/self/{name}")), text(content));
        Self {
            files: [
                file("setgroups", "deny".into()),
                file("uid_map", format!("0 {uid} 1")),
                file("gid_map", format!("0 {gid} 1")),
            ],
        }
    }

    fn write(&self) -> io::Result<()> {
        for (path, content) in &self.files {
            let bytes = content.as_bytes();
            // SAFETY: path is NUL-terminated, bytes is valid for its length, and the descriptor is closed once.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                check(fd)?;
                let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
                let error = io::Error::last_os_error();
                libc::close(fd);
                if written < 0 {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// A child that ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Its identifier.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
}

/// Collects one child that ended, whoever started it: the duty of the first process of a PID namespace.
pub fn reap() -> Option<Exit> {
    use std::os::unix::process::ExitStatusExt;
    let mut status = 0;
    // SAFETY: status is a valid place for one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| Exit { pid: pid.unsigned_abs(), status: ExitStatus::from_raw(status) })
}

/// Sends a signal to a process that the caller started and has not collected yet.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if pid <= 1 {
        // 0 and below name whole process groups.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes numbers only.
    check(unsafe { libc::kill(pid, signal) })
}

/// Whether a process exists; one that ended and is not collected counts as existing.
pub fn alive(pid: u32) -> bool {
    kill(pid, 0).map_or_else(|error| error.raw_os_error() == Some(libc::EPERM), |()| true)
}

/// Leaves an interrupt from the terminal to the child in the foreground; an `Isolation`'s child hears it again.
pub fn ignore_interrupts() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

/// Marks a process that `in_fresh_namespaces` started.
const INSIDE: &str = "EDGEMESH_IN_FRESH_NAMESPACES";

/// For tests: runs the test `name` of this very test binary once more, alone, in a fresh user, mount and network
/// namespace, and fails when it fails. Returns `true` inside, where the body of the test belongs, and `false` outside.
///
/// Joining a fresh user namespace needs a process with one thread, which a test runner is not: hence the new process.
pub fn in_fresh_namespaces(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1").stdin(Stdio::null());
    let isolation =
        Isolation::new().fresh(&[Kind::Net, Kind::Mount]).fresh_user_if_needed().die_with_parent();
    let status = isolation.apply(&mut command).status().unwrap_or_else(|error| {
        panic!("cannot make namespaces: {}", super::Forbidden::diagnose(error));
    });
    assert!(status.success(), "the test failed in its namespaces: {status}");
    false
}
