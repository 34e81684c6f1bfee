//! The commands: which word does what.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lexopt::{Arg, ValueExt as _};

use crate::settings::{self, AGENT_HELP, DEFAULT_ADMIN_SOCKET, DEFAULT_DEVICE, parse_agent};
use crate::{agent, check, config, gateway, identity};

const HELP: &str = "\
edgemesh: service mesh for nodes behind NATs

  edgemesh agent --node-name NAME --manifests DIR   run the agent of a node (edgemesh agent --help)
  edgemesh agent --config-file FILE                 the same by a file in Go EdgeMesh's form (docs/config.md)
  edgemesh gateway --config-file FILE               follow the objects of a gateway; it has no listeners yet
  edgemesh config validate|show|convert FILE        check a file, show what it means, or shorten it
  edgemesh status [--json]                          what the running agent knows and does
  edgemesh explain HOST:PORT[/udp] [--json]         where a connection to HOST:PORT would go, and why
  edgemesh rules                                    the kernel rules of the running agent, as nft text
  edgemesh check                                    what on this host is in the mesh's way, and what to do about it
  edgemesh cleanup                                  remove what an agent that was killed left in the kernel
  edgemesh psk [FILE]                               make a new private-network key
  edgemesh key show|rotate                          this node's identity, and a new key for it
  edgemesh token authority|create|show              tokens by which nodes prove their names (edgemesh token --help)
  edgemesh join TOKEN                               put a token beside this node's key
  edgemesh lab COMMAND                              emulate sites, NATs and outages on this machine (edgemesh lab --help)
  edgemesh version

status, explain, rules and check ask the agent at --admin-socket PATH (default /run/edgemesh/agent.sock); status asks a gateway
as well, at /run/edgemesh/gateway.sock.
";

/// Runs the command that the arguments name; `arguments[0]` is the program's own name, which names a command when
/// the binary is called through a link (`edgemesh-agent`, `edgemesh-server`).
pub(crate) fn run(mut arguments: Vec<OsString>) -> ExitCode {
    let program = if arguments.is_empty() { OsString::new() } else { arguments.remove(0) };
    let linked = match Path::new(&program).file_name().and_then(|name| name.to_str()) {
        Some("edgemesh-agent") => Some(vec!["agent"]),
        Some("edgemesh-server") => Some(vec!["agent", "--role", "relay"]),
        Some("edgemesh-gateway") => Some(vec!["gateway"]),
        _ => None,
    };
    if let Some(words) = &linked {
        arguments.splice(0..0, words.iter().map(OsString::from));
    }
    let command = arguments.first().and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    let rest: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let mut exit = ExitCode::SUCCESS;
    let done = match command.as_str() {
        "agent" => run_agent(rest, &linked),
        "gateway" => gateway::command(rest),
        "config" => config::run(rest),
        "status" => run_status(rest),
        "explain" => run_explain(rest),
        "rules" => run_rules(rest),
        "cleanup" => run_cleanup(rest),
        "check" => check::run(rest).map(|code| exit = code),
        "psk" => run_psk(rest),
        "key" => identity::run_key(rest),
        "token" => identity::run_token(rest),
        "join" => identity::run_join(rest),
        "lab" => return edgemesh_lab::run(rest),
        "version" | "--version" | "-V" => {
            println!("edgemesh {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        "" | "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("there is no command {other:?}; `edgemesh help` lists them")),
    };
    match done {
        Ok(()) => exit,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes; a cause that is part of the words before it is not said twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The file that Go EdgeMesh's agent reads when it is not told another one.
const AGENT_FILE: &str = "/etc/edgemesh/config/edgemesh-agent.yaml";

/// Called as `edgemesh-agent` without a word about objects, it is Go EdgeMesh's program and reads its file.
fn run_agent(mut rest: Vec<OsString>, linked: &Option<Vec<&str>>) -> Result<()> {
    if config::printed(&rest, edgemesh_config::Role::Agent) {
        return Ok(());
    }
    let told = ["--config-file", "--manifests", "--kubeconfig", "--master", "--metaserver", "--help", "-h"];
    let silent = !rest.iter().filter_map(|word| word.to_str()).any(|word| {
        told.iter()
            .any(|flag| word == *flag || word.strip_prefix(flag).is_some_and(|end| end.starts_with('=')))
    });
    if silent && linked.as_deref() == Some(&["agent"]) {
        rest.push(format!("--config-file={AGENT_FILE}").into());
    }
    match parse_agent(rest)? {
        Some(settings) => agent::run(settings),
        None => {
            print!("{AGENT_HELP}");
            Ok(())
        }
    }
}

/// Flags that the asking commands share.
struct Ask {
    socket: PathBuf,
    json: bool,
    words: Vec<String>,
}

impl Ask {
    fn parse(rest: Vec<OsString>) -> Result<Self> {
        let mut ask = Self { socket: PathBuf::from(DEFAULT_ADMIN_SOCKET), json: false, words: Vec::new() };
        let mut parser = lexopt::Parser::from_args(rest);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("admin-socket") => ask.socket = PathBuf::from(parser.value()?),
                Arg::Long("json") => ask.json = true,
                Arg::Value(word) => ask.words.push(word.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(ask)
    }

    fn fetch(&self, target: &str) -> Result<String> {
        Ok(edgemesh_admin::fetch(&self.socket, target)?)
    }
}

fn run_status(rest: Vec<OsString>) -> Result<()> {
    let ask = Ask::parse(rest)?;
    print!("{}", ask.fetch(if ask.json { "/status" } else { "/status?text" })?);
    Ok(())
}

fn run_explain(rest: Vec<OsString>) -> Result<()> {
    let ask = Ask::parse(rest)?;
    let [question] = ask.words.as_slice() else { bail!("explain wants one HOST:PORT, with /udp for UDP") };
    let form = if ask.json { "json" } else { "text" };
    print!("{}", ask.fetch(&format!("/explain?{form}={}", settings::percent_encode(question)))?);
    Ok(())
}

fn run_rules(rest: Vec<OsString>) -> Result<()> {
    let ask = Ask::parse(rest)?;
    print!("{}", ask.fetch("/rules")?);
    Ok(())
}

fn run_cleanup(rest: Vec<OsString>) -> Result<()> {
    let mut device = DEFAULT_DEVICE.to_owned();
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("bridge-device") => device = parser.value()?.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let report = edgemesh_intercept::cleanup(&device)?;
    println!("{report}");
    Ok(())
}

fn run_psk(rest: Vec<OsString>) -> Result<()> {
    let mut file = None;
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(word) if file.is_none() => file = Some(PathBuf::from(word)),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut key = [0_u8; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n");
    match file {
        None => print!("{text}"),
        Some(file) => {
            let mut out = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)
                .with_context(|| format!("{} cannot be made (a key is never overwritten)", file.display()))?;
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}
