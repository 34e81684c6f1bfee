//! `edgemesh config`, and the flags of Go EdgeMesh's programs that print something and end.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use edgemesh_config::{Problem, Role, Settings, convert, default_config, min_config, show};
use lexopt::{Arg, ValueExt as _};

use crate::settings::file;

const HELP: &str = "\
edgemesh config: configuration files in Go EdgeMesh's form (docs/config.md)

  edgemesh config validate [--role agent|gateway] FILE   say what is wrong, and what is not as its writer may think
  edgemesh config show     [--role agent|gateway] FILE   every key with the value that counts
  edgemesh config convert  [--role agent|gateway] FILE   the shortest file that says the same

Without --role the file's own `kind` decides. NODE_NAME, NAMESPACE and KUBERNETES_PORT are read as the agent reads them; a file
can be checked without them, for a node of some name.
";

/// Prints what `--version`, `--minconfig` and `--defaultconfig` ask for; whether one of them was there.
pub(crate) fn printed(arguments: &[OsString], role: Role) -> bool {
    for word in arguments.iter().filter_map(|word| word.to_str()) {
        match word {
            "--minconfig" => print!("{}", min_config(role)),
            "--defaultconfig" => print!("{}", default_config(role)),
            "--version" | "--version=true" | "--version=raw" => {
                println!("edgemesh {}", env!("CARGO_PKG_VERSION"));
            }
            _ => continue,
        }
        return true;
    }
    false
}

/// `edgemesh config`.
pub(crate) fn run(rest: Vec<OsString>) -> Result<()> {
    let (mut words, mut role) = (Vec::new(), None);
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("role") => {
                role = Some(match parser.value()?.string()?.as_str() {
                    "agent" => Role::Agent,
                    "gateway" => Role::Gateway,
                    other => bail!("--role {other:?} is none of agent, gateway"),
                });
            }
            Arg::Long("help") | Arg::Short('h') => {
                print!("{HELP}");
                return Ok(());
            }
            Arg::Value(word) => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let [verb, path] = words.as_slice() else {
        print!("{HELP}");
        bail!("config wants a verb and a file");
    };
    let path = Path::new(path);
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let role = role.unwrap_or(if text.contains("EdgeMeshGateway") { Role::Gateway } else { Role::Agent });
    match verb.to_str() {
        Some("validate") => validate(path, &text, role),
        Some("show") => {
            let (settings, problems) = check(&text, role);
            tell(path, &problems);
            print!("{}", show(&settings.context("the errors above have to be mended")?));
            Ok(())
        }
        Some("convert") => match convert(role, &text) {
            Ok(text) => {
                print!("{text}");
                Ok(())
            }
            Err(problems) => {
                tell(path, &problems);
                bail!("the errors above have to be mended");
            }
        },
        _ => bail!("there is no verb {verb:?}; it is one of validate, show, convert"),
    }
}

/// As on a node: where the environment names none, the file is checked for a node of some name.
fn check(text: &str, role: Role) -> (Option<Settings>, Vec<Problem>) {
    let mut environment = file::environment();
    environment.node_name.get_or_insert_with(|| "node".to_owned());
    environment.namespace.get_or_insert_with(|| "kubeedge".to_owned());
    file::check_in(text, role, &environment)
}

fn validate(path: &Path, text: &str, role: Role) -> Result<()> {
    let (settings, problems) = check(text, role);
    tell(path, &problems);
    let settings = settings.context("the errors above have to be mended")?;
    println!(
        "{} is valid for {role} on node {}: {}, objects from {}",
        path.display(),
        settings.node_name,
        settings.source.mode(),
        match file::of_config(&settings) {
            Ok(agent) => agent.source.describe(),
            Err(error) => format!("a source that is not there yet ({error:#})"),
        }
    );
    Ok(())
}

fn tell(path: &Path, problems: &[Problem]) {
    for problem in problems {
        eprintln!("{}: {}: {problem}", path.display(), problem.severity.as_str());
    }
}
