//! The command line `edgemesh lab …`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::*;

use crate::control::{ProcessState, Request, Status};
use crate::lab::{Blueprint, DEFAULT_NAME, Lab, LabError, Trying, leave_interrupts_to_child};
use crate::site::Site;
use crate::state::StateFolder;
use crate::{assertions, daemon, demo, manifests};

const USAGE: &str = "\
A laboratory of network namespaces; needs no root.

  edgemesh lab up FILE             start the site of a file
  edgemesh lab down                end it
  edgemesh lab status [--json]     nodes, pods, links
  edgemesh lab exec HOST -- CMD…   run a command in a node or pod
  edgemesh lab cut LINK            LINK: lan:NAME (its uplink), NODE, or cloud (every uplink)
  edgemesh lab heal LINK
  edgemesh lab kill HOST           kill -9 the agent of a node or the process of a pod
  edgemesh lab start HOST          start it again
  edgemesh lab test FILE           start a site, check its `tests`, end it
  edgemesh lab demo [--case TEXT] [--json]

  --name NAME        one of several laboratories
  --no-agents        pods and links only
  --edgemesh PATH    the agents' binary (default: this one)
  --workload PATH    edgemesh-workload (default: beside this one)
";

/// What the command line says.
#[derive(Default)]
pub(crate) struct Args {
    verb: String,
    words: Vec<String>,
    name: Option<String>,
    pub(crate) json: bool,
    pub(crate) case: Option<String>,
    no_agents: bool,
    pub(crate) edgemesh: Option<PathBuf>,
    pub(crate) workload: Option<PathBuf>,
}

impl Args {
    fn parse(args: Vec<OsString>) -> Result<Self, LabError> {
        let mut parsed = Self::default();
        let mut parser = lexopt::Parser::from_args(args);
        let wrong = |error: lexopt::Error| LabError::Usage(format!("{error}\n\n{USAGE}"));
        while let Some(arg) = parser.next().map_err(wrong)? {
            match arg {
                Long("name") => parsed.name = Some(parser.value().and_then(ValueExt::string).map_err(wrong)?),
                Long("case") => parsed.case = Some(parser.value().and_then(ValueExt::string).map_err(wrong)?),
                Long("json") => parsed.json = true,
                Long("no-agents") => parsed.no_agents = true,
                Long("edgemesh") => parsed.edgemesh = Some(absolute(&parser.value().map_err(wrong)?)?),
                Long("workload") => parsed.workload = Some(absolute(&parser.value().map_err(wrong)?)?),
                Long("help") | Short('h') => parsed.verb = "help".into(),
                Value(word) if parsed.verb.is_empty() => parsed.verb = word.string().map_err(wrong)?,
                Value(word) => {
                    parsed.words.push(word.string().map_err(wrong)?);
                    // A word after the host begins the command, whose own flags are not ours.
                    let raw = if parsed.verb == "exec" { parser.try_raw_args() } else { None };
                    if let Some(rest) = raw.filter(|rest| {
                        rest.as_slice().first().is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"))
                    }) {
                        for word in rest {
                            parsed.words.push(word.string().map_err(wrong)?);
                        }
                    }
                }
                other => return Err(wrong(other.unexpected())),
            }
        }
        Ok(parsed)
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }

    fn word(&self, what: &str) -> Result<&str, LabError> {
        self.words.first().map(String::as_str).ok_or_else(|| LabError::Usage(format!("{what} is missing")))
    }

    /// What the site file named first on the line says.
    fn blueprint(&self) -> Result<(Site, Blueprint), LabError> {
        let path = Path::new(self.word("a site file")?);
        let site = Site::read(path)?;
        let text = std::fs::read_to_string(path).trying(|| path.display().to_string())?;
        let manifests = match &site.manifests {
            Some(folder) => manifests::read(folder).trying(|| format!("manifests {}", folder.display()))?,
            None => Vec::new(),
        };
        let blueprint = Blueprint {
            text,
            place: path.display().to_string(),
            manifests,
            agents: self.no_agents.then_some(false),
            edgemesh: self.edgemesh.clone(),
            workload: self.workload.clone(),
        };
        Ok((site, blueprint))
    }
}

fn absolute(path: &OsString) -> Result<PathBuf, LabError> {
    std::path::absolute(path).trying(|| path.display().to_string())
}

/// Runs `edgemesh lab ARGS`. Call it before the process has a second thread: entering a laboratory needs that.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match Args::parse(args).and_then(|args| dispatch(&args)) {
        Ok(code) => code,
        Err(LabError::Usage(text)) => {
            drop(writeln!(io::stderr(), "{text}"));
            ExitCode::from(2)
        }
        Err(error) => {
            drop(writeln!(io::stderr(), "edgemesh lab: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &Args) -> Result<ExitCode, LabError> {
    let done = |names: Vec<String>| print(&names.join("\n")).map(|()| ExitCode::SUCCESS);
    let change = |request: fn(String) -> Request, what: &str| {
        done(Lab::attach(args.name())?.change(&request(args.word(what)?.to_owned()))?)
    };
    match args.verb.as_str() {
        "up" => up(args),
        "down" => down(args),
        "status" => status(args),
        "exec" => exec(args),
        "cut" => change(Request::Cut, "a link"),
        "heal" => change(Request::Heal, "a link"),
        "kill" => change(Request::Kill, "a node or pod"),
        "start" => change(Request::Start, "a node or pod"),
        "test" => {
            let (site, blueprint) = args.blueprint()?;
            assertions::run(&site, &blueprint, args.json)
        }
        "demo" => demo::run(args),
        "demo-stage" => demo::run_stage(args, args.word("a stage")?),
        // The two processes behind a laboratory; not for users.
        "keeper" => {
            let code = daemon::keep(&StateFolder::at(args.word("a folder")?.into()));
            let code = code.trying(|| "keeper".into())?;
            Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        "daemon" => {
            daemon::run(&StateFolder::at(args.word("a folder")?.into())).trying(|| "daemon".into())?;
            Ok(ExitCode::SUCCESS)
        }
        "help" => print(USAGE.trim_end()).map(|()| ExitCode::SUCCESS),
        "" => Err(LabError::Usage(USAGE.into())),
        other => Err(LabError::Usage(format!("{other:?} is no command\n\n{USAGE}"))),
    }
}

/// Prints a line.
pub(crate) fn print(line: &str) -> Result<(), LabError> {
    writeln!(io::stdout(), "{line}").trying(|| "standard output".into())
}

fn up(args: &Args) -> Result<ExitCode, LabError> {
    let (_, blueprint) = args.blueprint()?;
    let lab = Lab::up(args.name(), &blueprint, false)?;
    print(&table(&lab.status()?))?;
    Ok(ExitCode::SUCCESS)
}

fn down(args: &Args) -> Result<ExitCode, LabError> {
    match Lab::attach(args.name()) {
        Ok(lab) => lab.down(false)?,
        // One that was killed left its files.
        Err(LabError::NotRunning(_)) => Lab::clear(args.name())?,
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

fn status(args: &Args) -> Result<ExitCode, LabError> {
    let status = Lab::attach(args.name())?.status()?;
    if args.json {
        let text = serde_json::to_string(&status).map_err(io::Error::from).trying(|| "status".into())?;
        print(&text)?;
    } else {
        print(&table(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(status: &Status) -> String {
    let word = |process: &ProcessState| match process {
        ProcessState::Absent => "-".to_owned(),
        ProcessState::Running => "running".to_owned(),
        ProcessState::Ended(how) => format!("ended: {how}"),
    };
    let join = |addresses: &[std::net::IpAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![format!("folder  {}", status.folder.display())];
    for node in &status.nodes {
        lines.push(format!(
            "node    {:<16} {:<8} {:<36} agent {}",
            node.name,
            node.lan,
            join(&node.addresses),
            word(&node.agent)
        ));
        for pod in &node.pods {
            let addresses = join(&pod.addresses);
            lines.push(format!(
                "  pod   {:<16} {:<8} {addresses:<36} {}",
                pod.name,
                node.name,
                word(&pod.process)
            ));
        }
    }
    for link in &status.links {
        let passed = link.forwarded.map(|frames| format!("{frames} frames passed")).unwrap_or_default();
        lines.push(format!("link    {:<16} {:<8} {passed}", link.name, if link.cut { "CUT" } else { "up" }));
    }
    lines.join("\n")
}

fn exec(args: &Args) -> Result<ExitCode, LabError> {
    let mut lab = Lab::attach(args.name())?;
    let host = args.word("a node or pod")?;
    lab.step_inside()?;
    let shell = ["sh".to_owned()];
    let argv = if args.words.len() > 1 { &args.words[1..] } else { &shell[..] };
    let mut command = lab.command(host, argv)?;
    let mut child = command.spawn().trying(|| argv[0].clone())?;
    leave_interrupts_to_child();
    let status = child.wait().trying(|| argv[0].clone())?;
    // As shells tell it: 128 and the signal's number.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
