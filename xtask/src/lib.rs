//! Repository tasks, as a library so that `tidy` is an ordinary test.

pub mod deploy;
pub mod setup;
pub mod tidy;

use std::path::{Path, PathBuf};

/// The root of the repository this crate was built from.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository").to_owned()
}

/// The tasks, with one line each; the documents may name no other.
pub const TASKS: [(&str, &str); 5] = [
    ("demo", "build the release binary and run `edgemesh lab demo`"),
    ("test", "install what the tests want, then run every check and every test"),
    ("tidy", "check the rings, file sizes, documents, licences and bans"),
    ("docs", "write docs/config.md again, from the table of configuration keys"),
    ("bench", "`bench list`, or `bench NAME [--json]`"),
];
