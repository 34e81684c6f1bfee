//! What the two commands of the README need on a fresh machine: looked for, installed where that is possible, and
//! named with the fix where it is not.

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::root;

/// Debian packages whose programs the tests use as real clients and for reading the kernel's state back: program, package.
pub const TEST_PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("ipset", "ipset"),
    ("prlimit", "util-linux"),
];

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command in the root of the repository, and says which; its failure is an error.
pub fn run(command: &mut Command) -> Result<()> {
    command.current_dir(root());
    eprintln!("+ {command:?}");
    let status =
        command.status().with_context(|| format!("{:?} cannot be started", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// A C compiler and linker: Rust links with it, and `ring` compiles C with it.
pub fn compiler() -> Result<()> {
    if find("cc").is_some() {
        return Ok(());
    }
    packages(&[("cc", "build-essential")])
}

/// A rustup component; where cargo came without rustup the program has to be there already.
pub fn component(name: &str) -> Result<()> {
    let program = if name == "clippy" { "cargo-clippy" } else { "cargo-fmt" };
    if find(program).is_some() && quiet(Command::new(program).arg("--version")) {
        return Ok(());
    }
    eprintln!("installing the rustup component {name}");
    let added = Command::new("rustup").args(["component", "add", name]).status();
    if added.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!("{program} is missing; install it with `rustup component add {name}`, or pass --no-lints")
}

/// Programs from Debian packages. Installs what is missing as root or through a password-less sudo, and says so.
pub fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs Debian packages as root or through a password-less sudo, and says so.
pub fn install(missing: &[&str]) -> Result<()> {
    let list = missing.join(" ");
    let fix = format!("install with `sudo apt-get install {list}` and run the command again");
    if find("apt-get").is_none() {
        bail!(
            "missing: {list}, and there is no apt-get here; install the packages of your system that hold them"
        );
    }
    let mut prefix: Vec<&str> = Vec::new();
    if !is_root()? {
        if !quiet(Command::new("sudo").args(["-n", "true"])) {
            bail!("missing: {list}; {fix}");
        }
        prefix.extend(["sudo", "-n"]);
    }
    eprintln!("installing Debian packages: {list}");
    for arguments in [vec!["apt-get", "update", "-qq"], {
        let mut install = vec!["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
        install.extend(missing);
        install
    }] {
        let mut words = prefix.clone();
        words.extend(arguments);
        let status = Command::new(words[0])
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("{} cannot be started; {fix}", words[0]))?;
        if !status.success() {
            bail!("{words:?} ended with {status}; {fix}");
        }
    }
    Ok(())
}

/// Root proves the root case by running the tests; the ordinary user's case is proved by running the namespace
/// tests once more without privileges. An ordinary user has proved its own case already.
pub fn as_ordinary_user(target: &Path) -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let program = target.join("debug/edgemesh");
    // The user `nobody` may not be able to look into the build folder; the program itself is all that is needed.
    let folder = env::temp_dir().join(format!("edgemesh-as-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run_as_nobody(&program, &target.join("debug/edgemesh-workload"), &folder);
    std::fs::remove_dir_all(&folder).ok();
    done
}

fn run_as_nobody(program: &Path, workload: &Path, folder: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let nobody = 65_534;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    for file in [program, workload] {
        std::fs::copy(file, folder.join(file.file_name().context("a program has a name")?))
            .with_context(|| format!("{} is not built", file.display()))?;
    }
    let home = folder.join("home");
    std::fs::create_dir_all(&home)?;
    chown(&home, Some(nobody), Some(nobody))?;
    eprintln!("running `edgemesh lab demo` once more as an ordinary user (uid {nobody})");
    let status = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--"])
        .arg(folder.join("edgemesh"))
        .args(["lab", "demo"])
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .current_dir(&home)
        .status()
        .context("setpriv cannot be started")?;
    if !status.success() {
        bail!("`edgemesh lab demo` as an ordinary user ended with {status}");
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    Ok(std::fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0)
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // An ordinary user's PATH often lacks the sbin folders, where nft and ip live.
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
