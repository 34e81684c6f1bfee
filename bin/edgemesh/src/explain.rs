//! `edgemesh explain`: from a name to the last hop, by the code of the data path.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use edgemesh_api::Protocol;
use edgemesh_balance::PickCtx;
use edgemesh_mesh::{Frontend, MeshSnapshot, PathSnapshot};
use edgemesh_route::{Admission, Conn, Explanation, Router};
use edgemesh_ruleset::{Ruleset, Steer};
use serde::Serialize;

/// One question, answered.
#[derive(Debug, Serialize)]
pub(crate) struct Trace {
    question: String,
    /// The name that was resolved, and what to; empty when an address was asked for.
    names: Vec<NameStep>,
    /// One explanation per address and protocol that has a frontend or none.
    frontends: Vec<Explanation>,
    /// For each of them, who carries its connections; absent while the kernel is not followed.
    carriers: Vec<Option<String>>,
    /// Age marker: the journal's copy is served.
    stale: bool,
    generation: u64,
}

/// One name that DNS answers.
#[derive(Debug, Serialize)]
struct NameStep {
    name: String,
    answer: String,
}

/// What becomes of connections of the host's own sockets where the kernel is the carrier.
fn at_connect(
    ruleset: &Ruleset,
    steer: &Steer,
    frontend: &Frontend,
    rewrite: Option<&Result<usize, String>>,
) -> String {
    match (steer, rewrite, ruleset.at_connect(frontend)) {
        (Steer::Kernel(_), Some(Ok(_)), Ok(_)) => {
            "; sockets of this host connect to an endpoint at once".to_owned()
        }
        (Steer::Kernel(_), Some(Ok(_)), Err(left)) => {
            format!("; translated also for sockets of this host: {}", left.as_str())
        }
        _ => String::new(),
    }
}

/// Walks the question through name, frontend, endpoints and path.
pub(crate) fn trace(
    question: &str,
    cluster_domain: &str,
    snapshot: &MeshSnapshot,
    paths: &PathSnapshot,
    router: &Router,
    ruleset: Option<&Ruleset>,
    connect_rewrite: Option<Result<usize, String>>,
) -> Result<Trace, String> {
    let (text, protocol) = match question.rsplit_once('/') {
        Some((text, word)) => {
            let protocol = word.parse().map_err(|()| format!("{word:?} is none of tcp, udp, sctp"))?;
            (text, protocol)
        }
        None => (question, Protocol::Tcp),
    };
    let (host, port) = match text.parse::<SocketAddr>() {
        Ok(addr) => (addr.ip().to_string(), addr.port()),
        Err(_) => {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| {
                format!("{question:?} is no HOST:PORT (write [IPv6]:PORT for IPv6 addresses)")
            })?;
            (host.to_owned(), port.parse().map_err(|_| format!("{port:?} is no port"))?)
        }
    };
    let mut names = Vec::new();
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(ip) => vec![ip],
        Err(_) => resolve(&host, cluster_domain, snapshot, &mut names),
    };
    // The client is the node itself, as for a process on it; persistence is shown, never made, by a dry run.
    let client = SocketAddr::new(IpAddr::from([169, 254, 96, 16]), 0);
    let ctx = PickCtx { now: Instant::now(), client: client.ip(), draw: 0 };
    let carrier = |ip: &IpAddr| {
        let frontend = Frontend { ip: *ip, port, protocol };
        let (ruleset, steer) = (ruleset?, ruleset?.frontends.get(&frontend)?);
        Some(format!("{steer}{}", at_connect(ruleset, steer, &frontend, connect_rewrite.as_ref())))
    };
    let carriers = addresses.iter().map(carrier).collect();
    let frontends = addresses
        .into_iter()
        .map(|ip| {
            let conn = Conn { frontend: Frontend { ip, port, protocol }, client };
            router.explain(snapshot, paths, &conn, &ctx)
        })
        .collect();
    Ok(Trace {
        question: question.to_owned(),
        names,
        frontends,
        carriers,
        stale: snapshot.stale,
        generation: snapshot.generation.0,
    })
}

/// The names a pod's search list would try, in order, until one exists.
fn resolve(host: &str, domain: &str, snapshot: &MeshSnapshot, steps: &mut Vec<NameStep>) -> Vec<IpAddr> {
    let bare = host.trim_end_matches('.');
    let candidates = if bare.ends_with(domain) {
        vec![bare.to_owned()]
    } else {
        vec![
            format!("{bare}.default.svc.{domain}"),
            format!("{bare}.svc.{domain}"),
            format!("{bare}.{domain}"),
        ]
    };
    for name in candidates {
        let answer = edgemesh_resolver::lookup(snapshot, domain, &name);
        let addresses = answer.addresses();
        steps.push(NameStep { name, answer: answer.to_string() });
        if !addresses.is_empty() {
            return addresses;
        }
    }
    Vec::new()
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.names {
            writeln!(f, "name      {} -> {}", step.name, step.answer)?;
        }
        if self.frontends.is_empty() {
            writeln!(
                f,
                "no address, so nothing is intercepted; the name is asked of the upstream DNS servers"
            )?;
        }
        for (explanation, carrier) in self.frontends.iter().zip(&self.carriers) {
            write_explanation(f, explanation)?;
            if let Some(carrier) = carrier {
                writeln!(f, "carrier   {carrier}")?;
            }
        }
        let stale = if self.stale { ", the journal's copy: no source has answered yet" } else { "" };
        writeln!(f, "generation {}{stale}", self.generation)
    }
}

fn write_explanation(f: &mut fmt::Formatter<'_>, explanation: &Explanation) -> fmt::Result {
    write!(f, "frontend  {}", explanation.frontend)?;
    match &explanation.service {
        Some(service) => write!(f, " of Service {service}")?,
        None => write!(f, " belongs to no Service")?,
    }
    match explanation.scope {
        Some("external") => write!(f, " (external address)")?,
        Some("load_balancer") => write!(f, " (load-balancer address)")?,
        Some("node_port") => write!(f, " (node port)")?,
        Some(_) | None => {}
    }
    if let Some(policy) = explanation.policy {
        write!(f, ", {policy}")?;
    }
    if let Some(distribution) = explanation.distribution {
        write!(f, ", {distribution}")?;
    }
    if let Some(seconds) = explanation.affinity_seconds {
        write!(f, ", ClientIP persistence for {seconds} s")?;
    }
    writeln!(f)?;
    for candidate in &explanation.candidates {
        let order = candidate.order.map_or_else(|| "-".to_owned(), |order| order.to_string());
        let node = candidate.node.as_deref().unwrap_or("outside the cluster");
        let pod = candidate.pod.as_deref().map(|pod| format!(" pod {pod}")).unwrap_or_default();
        let session = if candidate.session { ", the client's session leads here" } else { "" };
        writeln!(
            f,
            "endpoint  {order} {}{pod} on {node}, path {}: {} ({}){session}{}{}",
            candidate.backend,
            candidate.path,
            candidate.verdict.as_str(),
            candidate.reason,
            match candidate.kernel_reason {
                Some(reason) => format!("; not by the kernel: {reason}"),
                None => format!("; the kernel reaches it: {}", candidate.kernel),
            },
            match candidate.admission {
                Admission::Open => String::new(),
                told => format!("; {}", told.reason()),
            }
        )?;
    }
    match explanation.reject {
        Some(reason) => writeln!(f, "result    refused: {reason}"),
        None => Ok(()),
    }
}
