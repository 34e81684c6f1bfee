//! Rules on source files that no lint knows.

use std::path::Path;

/// A file that is longer holds two subjects.
const MAX_LINES: usize = 800;

/// What a pure crate may not name: clocks, environment, files, sockets, threads.
const IMPURE: [&str; 10] = [
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "thread_rng",
    "fastrand::",
];

pub(super) fn check(file: &Path, text: &str, findings: &mut Vec<String>) {
    let place = file.display();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("{place}: {lines} lines, the limit is {MAX_LINES}; split it by subject"));
    }
    let in_tests = file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "test");
    let pure = (file.starts_with("core") || file.starts_with("model")) && !in_tests;
    if !text.trim_start().starts_with("//!")
        && file.file_name().is_some_and(|name| name == "lib.rs" || name == "main.rs")
    {
        findings.push(format!("{place}: says nothing of what the crate is for (`//!`)"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let here = format!("{place}:{}", number + 1);
        if pure && let Some(word) = IMPURE.iter().find(|word| code.contains(**word)) {
            findings.push(format!("{here}: {word} in a pure crate; make it an argument"));
        }
        if code.contains(UNSAFE) && !file.starts_with("edge/net") && !file.starts_with("xtask") {
            findings.push(format!("{here}: unsafe code lives in edge/net only"));
        }
        for mark in MARKS {
            if code.contains(mark) && !file.starts_with("xtask/src/tidy") {
                findings.push(format!("{here}: {mark} is left in the code"));
            }
        }
    }
}

const UNSAFE: &str = "unsafe {";
const MARKS: [&str; 4] = ["todo!(", "unimplemented!(", "FIXME", "#[ignore"];
