//! `edgemesh-test-apiserver`: the API server for tests as a program of its own.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use edgemesh_apiserver::{FaultSet, Server, ServerOptions, TlsOptions};
use lexopt::prelude::*;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
edgemesh-test-apiserver: a Kubernetes API server for tests

  --listen ADDR          where it listens (127.0.0.1:0)
  --control ADDR         a second address for /_test/ only, which no fault spoils
  --tls-dir DIR          TLS; writes ca.crt, client.crt and client.key there
  --tls-name NAME        a name or address of the certificate; may be repeated
  --require-client-cert  a client must show a certificate
  --token TOKEN          the bearer token that requests must carry
  --history N            changes kept per resource (10000)
  --bookmark-every MS    how often a watch gets a bookmark (60000)
  --metaserver           behave as an older metaServer of KubeEdge
  --metaserver-connected behave as a metaServer that the cloud can be reached by

It prints \"ready ADDR\" when it listens, with the control address after it if there is one, and ends on SIGTERM or
SIGINT.
";

#[derive(Default)]
struct Arguments {
    options: ServerOptions,
    tls_dir: Option<PathBuf>,
    tls: TlsOptions,
    metaserver: bool,
    metaserver_connected: bool,
}

fn main() -> Result<()> {
    let Some(arguments) = arguments(std::env::args_os().skip(1))? else {
        return print(HELP);
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("tokio runtime")?
        .block_on(run(arguments))
}

/// The arguments; `None` asks for help.
fn arguments(given: impl Iterator<Item = OsString>) -> Result<Option<Arguments>> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_args(given);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => arguments.options.listen = parser.value()?.parse::<SocketAddr>()?,
            Long("control") => arguments.options.control = Some(parser.value()?.parse()?),
            Long("tls-dir") => arguments.tls_dir = Some(parser.value()?.into()),
            Long("tls-name") => arguments.tls.names.push(parser.value()?.string()?),
            Long("require-client-cert") => arguments.tls.require_client = true,
            Long("token") => arguments.options.token = Some(parser.value()?.string()?),
            Long("history") => arguments.options.history = parser.value()?.parse()?,
            Long("bookmark-every") => {
                let every: u64 = parser.value()?.parse()?;
                anyhow::ensure!(every > 0, "--bookmark-every is in milliseconds and above zero");
                arguments.options.bookmark_every = Duration::from_millis(every);
            }
            Long("metaserver") => arguments.metaserver = true,
            Long("metaserver-connected") => arguments.metaserver_connected = true,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut options = arguments.options;
    options.tls = arguments.tls_dir.is_some().then_some(arguments.tls);
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let server = Server::start(options).await?;
    if arguments.metaserver {
        server.faults().set(FaultSet::metaserver());
    }
    if arguments.metaserver_connected {
        server.faults().set(FaultSet::metaserver_connected());
    }
    if let Some(directory) = &arguments.tls_dir {
        write_identities(&server, directory)?;
    }
    let control = server.control_addr().map(|addr| format!(" {addr}")).unwrap_or_default();
    print(&format!("ready {}{control}\n", server.addr()))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop().await;
    Ok(())
}

fn write_identities(server: &Server, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let (Some(ca), Some(client)) = (server.ca_pem(), server.client_identity()) else { return Ok(()) };
    for (name, text) in [("ca.crt", ca), ("client.crt", &client.certificate), ("client.key", &client.key)] {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to stdout")
}
