//! Where a laboratory keeps its files, and how its parts find each other.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The folder of one laboratory, readable by its user only.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// The folder of the laboratory of this name; it need not exist.
    pub(crate) fn named(name: &str) -> Self {
        Self { path: root().join(name) }
    }

    /// The folder at this path.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes it anew, empty.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.remove()?;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.path)?;
        for folder in ["nodes", "logs", "hosts"] {
            builder.create(self.path.join(folder))?;
        }
        // A folder in /tmp that somebody else made beforehand is a trap.
        let owner = std::fs::metadata(root_of(&self.path))?.uid();
        if owner != own_uid()? {
            let text = format!("{} belongs to user {owner}", root_of(&self.path).display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    }

    /// Removes it with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the folders that demos and tests left when they were killed, or kept for their logs.
    pub(crate) fn sweep() {
        let entries = std::fs::read_dir(root()).into_iter().flatten().flatten();
        for folder in entries.map(|entry| Self::at(entry.path())) {
            let name = folder.path.file_name().unwrap_or_default().to_string_lossy();
            let transient = name.starts_with("demo-") || name.starts_with("test-");
            // One that is coming up has no socket yet, but a keeper that holds its folder's lock.
            if transient && !folder.is_held() {
                drop(folder.remove());
            }
        }
    }

    /// Says that the folder is in use, for as long as the file is open.
    pub(crate) fn hold(&self) -> io::Result<std::fs::File> {
        let file = std::fs::File::create(self.path.join("lock"))?;
        file.lock_shared()?;
        Ok(file)
    }

    fn is_held(&self) -> bool {
        let lock = std::fs::File::open(self.path.join("lock"));
        // Without a lock file it may be one moment old.
        lock.map_or(true, |file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the daemon listens.
    pub(crate) fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// The daemon's process, as the user sees it.
    pub(crate) fn daemon_pid(&self) -> PathBuf {
        self.path.join("daemon.pid")
    }

    /// What the daemon needs to know.
    pub(crate) fn order(&self) -> PathBuf {
        self.path.join("order.json")
    }

    /// What the agents read.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    /// The key of the private network.
    pub(crate) fn psk(&self) -> PathBuf {
        self.path.join("psk")
    }

    /// Files that hosts see in place of their own.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.path.join("hosts")
    }

    /// Output of an agent, a pod or the daemon.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    /// What an agent keeps.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.path.join("nodes").join(name)
    }

    /// Where an agent's admin interface listens.
    pub(crate) fn admin(&self, node: &str) -> PathBuf {
        self.node(node).join("admin.sock")
    }
}

/// The folder of all of this user's laboratories.
fn root() -> PathBuf {
    let uid = own_uid().unwrap_or_default();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usable = runtime
        .filter(|path| std::fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid));
    usable.map_or_else(|| PathBuf::from(format!("/tmp/edgemesh-lab-{uid}")), |path| path.join("edgemesh-lab"))
}

fn root_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn own_uid() -> io::Result<u32> {
    Ok(std::fs::metadata("/proc/self")?.uid())
}
