//! Programs and their ends, bounded in time.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for: an unoptimised build on two busy cores needs a tenth of it.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until there is something to see.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
}

/// A program of this workspace, beside the test's own (`target/PROFILE/deps/TEST` and `target/PROFILE/NAME`).
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its program");
    let folder =
        own.parent().and_then(|deps| deps.parent()).expect("cargo puts tests into target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built; first: cargo build --package edgemesh --package edgemesh-workload --package edgemesh-apiserver",
        path.display()
    );
    path
}

/// Whether a program of the system can be run; a test that needs it says [`skipped`] otherwise.
pub fn installed(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).exists())
}

/// Says on the terminal that a test did not run; the test runner would swallow `eprintln!`.
pub fn skipped(what: &str, missing: &str) {
    drop(writeln!(
        std::io::stderr(),
        "SKIPPED {what}: {missing} is not installed (`cargo xtask test` installs it)"
    ));
}

/// Runs a command to its end, or kills it after [`PATIENCE`] and fails.
pub fn output(command: &mut Command) -> Output {
    // Files take any amount; a pipe that nobody reads would stop the command.
    let file = || tempfile::tempfile().expect("a temporary file");
    let (out, err) = (file(), file());
    let clone = |file: &File| Stdio::from(file.try_clone().expect("a second descriptor"));
    let started = command.stdin(Stdio::null()).stdout(clone(&out)).stderr(clone(&err)).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status;
        }
        if Instant::now() > deadline {
            drop(child.kill());
            drop(child.wait());
            panic!("{command:?} does not end:\n{}{}", content(out), content(err));
        }
        std::thread::sleep(LOOK);
    };
    Output { status, stdout: content(out).into_bytes(), stderr: content(err).into_bytes() }
}

/// Runs a command that must succeed; returns what it said.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = output(command);
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn content(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a temporary file is readable");
    String::from_utf8_lossy(&bytes).into_owned()
}
