//! `edgemesh check`: what on this host gets in the way of the mesh, why, and what to do about it.

mod host;
mod ports;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use edgemesh_net::netlink::nft::{BaseChain, Family, Hook};
use edgemesh_ruleset::TABLE;
use lexopt::Arg;

use crate::settings::DEFAULT_ADMIN_SOCKET;

/// How many of a long list a line names.
const NAMED: usize = 5;
/// Where our chains for destination NAT stand (`edgemesh-ruleset`); what stands before them translates first.
const OUR_DNAT: i32 = -105;

/// Prints what was found; the exit code is 1 when something is in conflict.
pub(crate) fn run(rest: Vec<OsString>) -> Result<ExitCode> {
    let mut socket = PathBuf::from(DEFAULT_ADMIN_SOCKET);
    let mut parser = lexopt::Parser::from_args(rest);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("admin-socket") => socket = PathBuf::from(parser.value()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let lines = lines(&host::read(&socket));
    lines.iter().for_each(|line| println!("{line}"));
    let conflicts = lines.iter().filter(|line| line.grade == Grade::Conflict).count();
    println!("{conflicts} conflict{}", if conflicts == 1 { "" } else { "s" });
    Ok(if conflicts == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the host is, as far as it may be in the mesh's way.
#[derive(Debug, Default)]
struct Facts {
    /// What could not be looked at, and why.
    unseen: Vec<String>,
    /// IPv4 and IPv6 are forwarded; absent where the host has no such family.
    forwarding: [Option<bool>; 2],
    /// Base chains of others.
    chains: Vec<BaseChain>,
    /// Tables of the legacy flavour of iptables, by family.
    legacy: [Vec<String>; 2],
    /// Whether `FORWARD` there has policy `DROP`.
    legacy_drops: [bool; 2],
    /// Where kube-proxy's rules are.
    kube_proxy: Vec<String>,
    /// What both kube-proxy and the agent translate.
    both_claim: Vec<String>,
    /// Sockets of others at the agent's ports; empty while the agent runs, which has them then.
    taken: Vec<Taken>,
    /// Ports of bridges of Pods that do not send a packet back: bridge, port.
    hairpin_off: Vec<(String, String)>,
    /// Bridges of Pods.
    bridges: Vec<String>,
    /// `net.bridge.bridge-nf-call-iptables` and `-ip6tables`; absent without br_netfilter.
    bridged: [Option<bool>; 2],
    /// Devices with `rp_filter` 1.
    strict: Vec<String>,
    /// `net.ipv4.conf.all.route_localnet`.
    route_localnet: bool,
    /// What the kernel cannot do: in words, and the module that would.
    missing: Vec<(&'static str, &'static str)>,
    agent: Agent,
    table: Table,
}

/// A socket at a port that the agent wants.
#[derive(Debug)]
struct Taken {
    /// `tcp 127.0.0.1:15001`.
    socket: String,
    /// What the agent wants it for.
    purpose: &'static str,
    /// The process, where it can be seen.
    owner: Option<String>,
}

#[derive(Debug, Default)]
enum Agent {
    #[default]
    Silent,
    /// It answers; what it cannot bring the kernel to.
    Runs { error: Option<String> },
}

/// Our table in the kernel.
#[derive(Debug, Default)]
enum Table {
    #[default]
    Absent,
    Present,
    /// Not as the agent wrote it.
    Changed(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Fine,
    Note,
    Conflict,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Line {
    grade: Grade,
    what: String,
    why: &'static str,
    fix: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Fine => "ok",
            Grade::Note => "note",
            Grade::Conflict => "CONFLICT",
        };
        write!(f, "{grade:<9} {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n          why: {}", self.why)?;
        }
        if !self.fix.is_empty() {
            write!(f, "\n          fix: {}", self.fix)?;
        }
        Ok(())
    }
}

fn fine(what: impl Into<String>) -> Line {
    Line { grade: Grade::Fine, what: what.into(), why: "", fix: String::new() }
}

fn note(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Line {
    Line { grade: Grade::Note, what: what.into(), why, fix: fix.into() }
}

fn conflict(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Line {
    Line { grade: Grade::Conflict, what: what.into(), why, fix: fix.into() }
}

/// What is to be said of these facts, in the order of a packet's way.
fn lines(facts: &Facts) -> Vec<Line> {
    let mut lines: Vec<Line> = facts.unseen.iter().map(|what| unseen(what)).collect();
    lines.extend(of_agent(facts));
    lines.extend(facts.missing.iter().map(|(what, module)| missing(what, module)));
    lines.extend(facts.taken.iter().map(taken));
    lines.extend(of_forwarding(facts));
    lines.extend(of_chains(facts));
    lines.extend(of_kube_proxy(facts));
    lines.extend(of_iptables(facts));
    lines.extend(of_bridges(facts));
    lines.extend(of_sysctls(facts));
    lines
}

fn unseen(what: &str) -> Line {
    conflict(what, "what is not seen may be in the way", "run the command as root, or with CAP_NET_ADMIN")
}

fn of_agent(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let again = "`edgemesh status` tells more; the agent repairs its table at once, or within 30 s";
    match (&facts.agent, &facts.table) {
        (Agent::Runs { error: Some(error) }, _) => lines.push(conflict(
            format!("the agent cannot bring the kernel to its rules: {error}"),
            "new Services do not work, and vanished endpoints are still tried",
            "mend what the error names; the agent tries again every second",
        )),
        (Agent::Runs { error: None }, Table::Present) => {
            lines.push(fine(format!("the agent runs, and table inet {TABLE} is as it wrote it")));
        }
        (Agent::Runs { error: None }, Table::Absent) => lines.push(conflict(
            format!("the agent runs, and table inet {TABLE} is not there"),
            "no Service is intercepted; unless interception is switched off, somebody flushed the ruleset",
            again,
        )),
        (Agent::Runs { error: None }, Table::Changed(how)) => lines.push(conflict(
            format!("table inet {TABLE} was changed by somebody else: {}", listed(how)),
            "Services may go astray until it is repaired",
            again,
        )),
        (Agent::Silent, Table::Absent) => {
            lines.push(note("no agent answers at the admin socket", "only the host is looked at", ""));
        }
        (Agent::Silent, _) => lines.push(conflict(
            format!("no agent answers at the admin socket, and table inet {TABLE} is there"),
            "what only the tunnel reaches is led to a listener that is not there",
            "start the agent; or remove what it left with `edgemesh cleanup`",
        )),
    }
    lines
}

fn missing(what: &str, module: &str) -> Line {
    conflict(
        format!("the kernel cannot {what}"),
        "the agent's table does not load without it",
        format!("`modprobe {module}`, or a kernel with CONFIG_{}", module.to_uppercase()),
    )
}

fn taken(taken: &Taken) -> Line {
    let Taken { socket, purpose, owner } = taken;
    let owner = owner.as_deref().unwrap_or("a process that cannot be seen");
    conflict(
        format!("{owner} has {socket}, which the agent wants for {purpose}"),
        "the agent does not start without its ports",
        "end the other process, or give the agent another port (docs/config.md)",
    )
}

fn of_forwarding(facts: &Facts) -> Vec<Line> {
    let names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let lines = names.iter().zip(facts.forwarding).filter_map(|(name, on)| match on? {
        true => Some(fine(format!("{name} is on"))),
        false => Some(conflict(
            format!("{name} is off"),
            "the kernel does not carry Pods' connections: all of them go through the proxy",
            format!("`sysctl -w {name}=1`, and the same line in /etc/sysctl.d"),
        )),
    });
    lines.collect()
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
        Family::Other(_) => "other",
    }
}

fn named(chain: &BaseChain) -> String {
    format!("chain {} of table {} {}", chain.name, family(chain.family), chain.table)
}

fn of_chains(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    // Of other families a hook's number means another place.
    let of_ip = |chain: &&BaseChain| !matches!(chain.family, Family::Other(_));
    let at = |hook: Hook| facts.chains.iter().filter(of_ip).filter(move |chain| chain.hook == hook.code());
    let legacy = ["iptables-legacy", "ip6tables-legacy"].iter().zip(facts.legacy_drops);
    let legacy = legacy.filter(|(_, drops)| *drops).map(|(name, _)| format!("chain FORWARD of {name}"));
    for what in at(Hook::Forward).filter(|chain| chain.drop).map(named).chain(legacy) {
        lines.push(conflict(
            format!("{what} drops what none of its rules accepts"),
            "nobody else can know what it accepts, so Pods' connections go through the proxy, not the kernel",
            "have it accept the Pods' ranges and set kernelPath: always; or leave it, at the proxy's cost",
        ));
    }
    for chain in at(Hook::Input).filter(|chain| chain.drop) {
        lines.push(note(
            format!("{} drops what none of its rules accepts", named(chain)),
            "Pods' connections to the proxy, and other nodes' to the tunnel, are input of this host",
            "have it accept what comes from the Pods' bridges, and the tunnel's port (20006)",
        ));
    }
    if facts.chains.iter().any(|chain| chain.family == Family::Inet && chain.table == "firewalld") {
        lines.push(note(
            "firewalld filters what comes to this host",
            "Pods' connections to the proxy are refused unless their bridge is in a zone that accepts them",
            format!(
                "`firewall-cmd --permanent --zone=trusted --add-interface={}`, open port 20006, and reload",
                facts.bridges.first().map_or("BRIDGE", String::as_str)
            ),
        ));
    }
    let translates = |chain: &&BaseChain| chain.kind == "nat" && chain.priority <= OUR_DNAT;
    for chain in at(Hook::Prerouting).chain(at(Hook::Output)).filter(translates) {
        lines.push(conflict(
            format!("{} translates at priority {}, before ours ({OUR_DNAT})", named(chain), chain.priority),
            "what it translates never comes to the mesh: of all chains at a hook the first decides",
            "have it leave the Services' addresses alone, or give it priority -100 (dstnat)",
        ));
    }
    lines
}

fn of_kube_proxy(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    if facts.kube_proxy.is_empty() {
        return lines;
    }
    lines.push(note(
        format!("kube-proxy has rules here: {}", listed(&facts.kube_proxy)),
        "Services that both serve are the agent's: its rules come first. Those of kube-proxy alone are not touched",
        "",
    ));
    if facts.kube_proxy.iter().any(|at| at.starts_with("table")) {
        lines.push(note(
            "kube-proxy in mode nftables refuses what goes to a Service's address untranslated",
            "Services with endpoints that only the tunnel reaches go through the proxy as a whole",
            "",
        ));
    }
    if !facts.both_claim.is_empty() {
        lines.push(note(
            format!(
                "{} addresses are served by kube-proxy and by the agent: {}",
                facts.both_claim.len(),
                listed(&facts.both_claim)
            ),
            "they work, by the agent's rules; kube-proxy's cost memory and time for nothing, and take over when the agent is gone",
            "give those that kube-proxy is to serve the label service.edgemesh.kubeedge.io/service-proxy-name; the \
             agent serves the others also without kube-proxy, which this node then does not need",
        ));
    }
    lines
}

fn of_iptables(facts: &Facts) -> Vec<Line> {
    let by_nft = |chain: &&BaseChain| {
        matches!(chain.family, Family::Ip | Family::Ip6)
            && matches!(chain.table.as_str(), "filter" | "nat" | "mangle" | "raw")
    };
    let legacy: Vec<String> = facts.legacy.concat();
    let nft: Vec<String> = facts.chains.iter().filter(by_nft).map(named).collect();
    if legacy.is_empty() || nft.is_empty() {
        return Vec::new();
    }
    vec![conflict(
        format!("iptables is used in both flavours: legacy ({}) and nft ({})", listed(&legacy), listed(&nft)),
        "each flavour shows and flushes only its own rules, and both take effect",
        "choose one for all programs (`update-alternatives --config iptables`), and flush the other",
    )]
}

fn of_bridges(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    if !facts.hairpin_off.is_empty() {
        let ports: Vec<String> =
            facts.hairpin_off.iter().map(|(bridge, port)| format!("{port} of {bridge}")).collect();
        lines.push(note(
            format!("bridge ports without hairpin mode: {}", listed(&ports)),
            "a Pod that is an endpoint of a Service it asks is served by the proxy, not by the kernel",
            "set hairpinMode: true in the bridge's CNI configuration; for now `bridge link set dev PORT hairpin on`",
        ));
    }
    let names = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];
    for (name, on) in names.iter().zip(facts.bridged) {
        if facts.bridges.is_empty() || on == Some(true) {
            continue;
        }
        let state = if on.is_none() { "is not there (br_netfilter is not loaded)" } else { "is off" };
        lines.push(note(
            format!("{name} {state}"),
            "answers between Pods of one bridge pass the host by; the agent masquerades those connections, so a \
             Pod sees the host's address instead of its neighbour's",
            format!("`modprobe br_netfilter; sysctl -w {name}=1`, to have Pods see each other"),
        ));
    }
    lines
}

fn of_sysctls(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    if !facts.strict.is_empty() {
        lines.push(note(
            format!("rp_filter is strict on {}", listed(&facts.strict)),
            "the kernel drops what comes by another device than the one its answer would take",
            "where a node has several ways to another, set it to 2 (loose)",
        ));
    }
    if facts.route_localnet {
        lines.push(note(
            "net.ipv4.conf.all.route_localnet is on",
            "the mesh does not need it: no packet is led to 127.0.0.0/8. kube-proxy sets it for node ports",
            "",
        ));
    }
    lines
}

/// The first few of a list, and how many more there are.
fn listed(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        text += &format!(" and {} more", all.len() - NAMED);
    }
    text
}
