use std::collections::BTreeSet;
use std::env;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use edgemesh_ruleset::Family;
use edgemesh_ruleset::iptables::{PREFIX, Set, SetType, Sets};

use super::saved::Saved;
use crate::InterceptError;

/// Where programs of the system administrator are that a service's `PATH` may lack.
const MORE_PATHS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Seconds to wait for another program that changes the rules, as kube-proxy does.
const LOCK_SECONDS: &str = "5";

/// How long one program may take. The largest restore measured (10,000 Services, nft flavour) took 7 s on a busy machine of
/// two CPUs; a small board may take several times as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which tables of the kernel a program of the name iptables writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// ip_tables.
    Legacy,
    /// nf_tables, by its compatible expressions.
    Nft,
}

impl Flavour {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nf_tables",
        }
    }

    /// What the program says of itself: `iptables v1.8.9 (nf_tables)`. Versions before 1.8 say nothing and are legacy.
    fn of_version(text: &str) -> Self {
        if text.contains("nf_tables") { Self::Nft } else { Self::Legacy }
    }
}

/// The programs of one flavour.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    flavour: Flavour,
    /// In the order of [`Family::ALL`]; the second may be missing on a host without IPv6.
    restore: [PathBuf; 2],
    save: [PathBuf; 2],
    ipset: PathBuf,
}

/// Whether the kernel has tables of legacy iptables. To ask its program would make them.
pub(super) fn legacy_tables() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|names| std::fs::read_to_string(names).is_ok_and(|text| !text.trim().is_empty()))
}

impl Programs {
    /// The programs of the flavour that others on this host use: the one that shows kubelet's or kube-proxy's hint, else the
    /// one with more rules, else what the host's `iptables` is.
    pub(super) fn detect() -> Result<Self, InterceptError> {
        let preferred = Flavour::of_version(&version(&find("iptables-restore")?)?);
        let other = if preferred == Flavour::Nft { Flavour::Legacy } else { Flavour::Nft };
        let (Ok(own), Ok(other)) = (Self::of(preferred), Self::of(other)) else { return Self::of(preferred) };
        let weight = |programs: &Self| {
            if programs.flavour == Flavour::Legacy && !legacy_tables() {
                return (false, 0);
            }
            let saved = programs.save(Family::V4).unwrap_or_default();
            (saved.hinted, saved.foreign)
        };
        Ok(if weight(&other) > weight(&own) { other } else { own })
    }

    /// The programs of a flavour.
    pub(super) fn of(flavour: Flavour) -> Result<Self, InterceptError> {
        let word = if flavour == Flavour::Nft { "nft" } else { "legacy" };
        let program = |family: &str, what: &str| -> Result<PathBuf, InterceptError> {
            if let Ok(path) = find(&format!("{family}-{word}-{what}")) {
                return Ok(path);
            }
            let path = find(&format!("{family}-{what}"))?;
            match Flavour::of_version(&version(&path)?) == flavour {
                true => Ok(path),
                false => Err(InterceptError::NoIptables(format!("{family}-{word}-{what}"))),
            }
        };
        let both = |what: &str| -> Result<[PathBuf; 2], InterceptError> {
            let v4 = program("iptables", what)?;
            let v6 =
                program("ip6tables", what).unwrap_or_else(|_| PathBuf::from(format!("ip6tables-{what}")));
            Ok([v4, v6])
        };
        Ok(Self { flavour, restore: both("restore")?, save: both("save")?, ipset: find("ipset")? })
    }

    pub(super) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// What there is of one family.
    pub(super) fn save(&self, family: Family) -> Result<Saved, InterceptError> {
        Ok(Saved::parse(&run(&self.save[family as usize], &[], "")?))
    }

    /// Every transaction of a text.
    pub(super) fn restore(&self, family: Family, text: &str) -> Result<(), InterceptError> {
        run(&self.restore[family as usize], &["-w", LOCK_SECONDS, "--noflush"], text).map(drop)
    }

    /// Every line of a text; what is there already, or is gone already, is as wanted.
    pub(super) fn ipset(&self, text: &str) -> Result<(), InterceptError> {
        run(&self.ipset, &["-exist", "restore"], text).map(drop)
    }

    /// The sets of ours.
    pub(super) fn sets(&self) -> Result<Sets, InterceptError> {
        Ok(sets(&run(&self.ipset, &["save"], "")?))
    }
}

fn sets(saved: &str) -> Sets {
    let mut sets = Sets::new();
    for line in saved.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["create", name, kind, ..] if name.starts_with(PREFIX) => {
                let types = [SetType::Ip, SetType::IpPort, SetType::IpPortIp, SetType::IpPortNet];
                let Some(kind) = types.into_iter().find(|it| it.as_str() == kind) else { continue };
                sets.insert(name.to_owned(), Set { kind, order: 0, elements: BTreeSet::new() });
            }
            ["add", name, element, ..] => {
                if let Some(set) = sets.get_mut(name) {
                    set.elements.insert(element.to_owned());
                }
            }
            _ => {}
        }
    }
    sets
}

fn find(program: &str) -> Result<PathBuf, InterceptError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(MORE_PATHS.iter().map(PathBuf::from));
    let mut candidates = places.map(|place| place.join(program));
    candidates.find(|path| path.is_file()).ok_or_else(|| InterceptError::NoIptables(program.to_owned()))
}

fn version(program: &Path) -> Result<String, InterceptError> {
    run(program, &["-V"], "")
}

/// What a program prints.
fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, InterceptError> {
    run_for(program, arguments, input, PATIENCE)
}

/// What a program prints that has so long; one that hangs is killed.
fn run_for(
    program: &Path,
    arguments: &[&str],
    input: &str,
    patience: Duration,
) -> Result<String, InterceptError> {
    let failed = |reason: String| InterceptError::Program {
        program: program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned(),
        reason,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes())));
        let errors = scope.spawn(|| read_all(stderr));
        // One word: that it is over.
        let (done, ended) = mpsc::sync_channel(1);
        let output = scope.spawn(move || {
            let output = read_all(stdout);
            // Nobody waits for it any more after the patience is over.
            let _ = done.send(());
            output
        });
        if ended.recv_timeout(patience).is_err() {
            // Its pipes close with it, and so do the threads end.
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!(
                "it did not end within {patience:?} and was killed; look for another program that holds /run/xtables.lock"
            )));
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let said = errors.join().unwrap_or_default();
        if !status.success() {
            return Err(failed(format!("{status}: {}", String::from_utf8_lossy(&said).trim())));
        }
        match writer.join() {
            Ok(Err(error)) => Err(failed(error.to_string())),
            _ => Ok(String::from_utf8_lossy(&output.join().unwrap_or_default()).into_owned()),
        }
    })
}

fn read_all(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A stream that breaks off is one of a program that failed, which its status tells.
    let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_anywhere(program: &str) -> PathBuf {
        find(program).expect("a program of every system")
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_named() {
        let cat = find_anywhere("cat");
        let error = run_for(&find_anywhere("tail"), &["-f", "/dev/null"], "", Duration::from_millis(50));
        let error = error.expect_err("it never ends").to_string();
        assert!(error.contains("tail") && error.contains("was killed"), "{error}");
        let printed = run_for(&cat, &[], "what goes in", PATIENCE).expect("cat ends");
        assert_eq!(printed, "what goes in");
        assert!(run_for(&cat, &["/nowhere/at/all"], "", PATIENCE).is_err());
    }

    #[test]
    fn a_program_says_its_flavour() {
        for (text, expected) in [
            ("iptables v1.8.9 (nf_tables)", Flavour::Nft),
            ("iptables v1.8.9 (legacy)", Flavour::Legacy),
            ("iptables v1.6.1", Flavour::Legacy),
        ] {
            assert_eq!(Flavour::of_version(text), expected, "{text}");
        }
    }

    #[test]
    fn sets_of_others_are_not_ours() {
        let saved = "create KUBE-X hash:ip family inet\nadd KUBE-X 10.0.0.1\n\
                     create EDGEMESH-VIPS-4 hash:ip family inet hashsize 1024\nadd EDGEMESH-VIPS-4 10.96.0.1\n";
        let sets = sets(saved);
        assert_eq!(sets.keys().collect::<Vec<_>>(), ["EDGEMESH-VIPS-4"]);
        assert_eq!(sets["EDGEMESH-VIPS-4"].elements, ["10.96.0.1".to_owned()].into());
    }
}
