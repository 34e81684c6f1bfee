//! Which path two nodes come to, and when, for every pair of NATs.

use std::fmt::Write as _;
use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use edgemesh_lab::site::keys_of;
use edgemesh_tunnel_proto::{NatKind, expected};
use serde_json::{Value, json};

use crate::alone::{LOOK, PATIENCE};
use crate::frame::Report;
use crate::inside::Samples;
use crate::kernel_path_stage::service_on;
use crate::lab::Lab;
use crate::tunnel::path;

/// How long a pair may take to come to the path that theory allows. The first attempt to punch is the circuit's own, the
/// second follows after 10 s, and each may take some seconds.
const FINAL: Duration = Duration::from_secs(20);

/// The relays: one at the tunnel's port, one at the port that firewalls let out.
const RELAYS: [(&str, &str, u16); 2] = [("r1", "203.0.113.10", 20006), ("r2", "203.0.113.11", 443)];

const BANNER: u16 = 8081;
/// The only pod of a node.
const POD: std::net::Ipv4Addr = std::net::Ipv4Addr::new(172, 17, 0, 2);
const VIPS: [std::net::Ipv4Addr; 2] =
    [std::net::Ipv4Addr::new(10, 96, 0, 21), std::net::Ipv4Addr::new(10, 96, 0, 22)];

/// Every kind is there twice, so that it can meet itself.
const SIDES: [&str; 2] = ["x", "y"];

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::without_agents(&site())?;
    let mut cells = Vec::new();
    // In each round every node has one partner, so that pairs hardly disturb each other.
    for shift in 0..NatKind::ALL.len() {
        let pairs = (0..NatKind::ALL.len()).map(|first| [first, (first + shift) % NatKind::ALL.len()]);
        cells.extend(round(&lab, pairs.map(Pair::new).collect())?);
    }
    cells.sort_by_key(|cell| cell.pair.kinds);
    summary(report, &cells)?;
    report.document(table(&cells));
    report.note(
        "cells",
        "rows and columns are what stands before the two nodes, by real rules of nftables in routers of their own. Path, time from \
         the agents' start until both have any path to the other, and until both have the last one",
    );
    report.note(
        "expected",
        "what `core/tunnel-proto/src/nat.rs` says; a cell that differs names it. A pair is connected when a client on the first \
         node reaches a pod on the second, and the other way round",
    );
    report.note(
        "wait",
        &format!("{} s for the expected path; two relays, the second at port 443", FINAL.as_secs()),
    );
    Ok(())
}

fn node(kind: usize, side: usize) -> String {
    format!("n{kind}{}", SIDES[side])
}

fn site() -> String {
    let mut text = "cloud:\n  nodes:\n".to_owned();
    for (name, _, _) in RELAYS {
        text += &format!("    - {{ name: {name} }}\n");
    }
    text += "lans:\n";
    for (number, kind) in NatKind::ALL.into_iter().enumerate() {
        for side in [0, 1] {
            let node = node(number, side);
            text += &format!(
                "  - {{ name: lan-{node}, {}, nodes: [{{ name: {node}, pods: [{{ name: pod-{node}, run: [edgemesh-workload, \
                 serve, --banner={BANNER}] }}] }}] }}\n",
                keys_of(kind)
            );
        }
    }
    text
}

/// Two nodes that want to reach each other.
struct Pair {
    kinds: [usize; 2],
    nodes: [String; 2],
    expected: &'static str,
}

impl Pair {
    fn new(kinds: [usize; 2]) -> Self {
        let [first, second] = kinds;
        let expected = expected(NatKind::ALL[first], NatKind::ALL[second]).as_str();
        Self { kinds, nodes: [node(first, 0), node(second, 1)], expected }
    }

    /// What both nodes' agents read: a Service in front of the pod of either.
    fn manifests(&self) -> String {
        let services = self.nodes.iter().zip(VIPS);
        let objects = services.flat_map(|(node, vip)| service_on(node, vip, &[BANNER], &[POD], node));
        objects.map(|object| format!("---\n{object}\n")).collect()
    }
}

/// What became of a pair.
struct Cell {
    pair: Pair,
    /// The path each end sees, and since when it is what it is.
    seen: [Option<(String, Duration)>; 2],
    /// When both had any path.
    first: Option<Duration>,
    /// Whether clients of both ends reached the other.
    connected: bool,
}

impl Cell {
    fn new(pair: Pair) -> Self {
        Self { pair, seen: [None, None], first: None, connected: false }
    }

    fn look(&mut self, lab: &Lab, began: Instant) {
        for (end, other) in [(0, 1), (1, 0)] {
            let status = lab.status_of(&self.pair.nodes[end]).unwrap_or(Value::Null);
            let path = path(&status, &self.pair.nodes[other]).filter(|path| *path != "unreachable");
            let seen = &mut self.seen[end];
            if path != seen.as_ref().map(|(path, _)| &**path) {
                *seen = path.map(|path| (path.to_owned(), began.elapsed()));
            }
        }
        if self.first.is_none() && self.seen.iter().all(Option::is_some) {
            self.first = Some(began.elapsed());
        }
    }

    fn is_expected(&self) -> bool {
        self.seen.iter().all(|seen| seen.as_ref().is_some_and(|(path, _)| path == self.pair.expected))
    }

    /// When the later end came to its path.
    fn last(&self) -> Option<Duration> {
        self.seen.iter().map(|seen| seen.as_ref().map(|(_, since)| *since)).max().flatten()
    }

    fn text(&self) -> String {
        let expected = self.pair.expected;
        let [Some((one, _)), Some((other, _))] = &self.seen else {
            return format!("**no path** ({expected})");
        };
        let path = if one == other { one.clone() } else { format!("{one}/{other}") };
        let wanted = if self.is_expected() { path } else { format!("**{path}** ({expected})") };
        let seconds = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
        let failed = if self.connected { "" } else { ", **no answer**" };
        format!("{wanted} {:.1} {:.1}{failed}", seconds(self.first), seconds(self.last()))
    }
}

fn round(lab: &Lab, pairs: Vec<Pair>) -> Result<Vec<Cell>> {
    let began = Instant::now();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut agents = Vec::new();
    for (name, _, port) in RELAYS {
        let listen = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let flags = words(&[
            "--role",
            "relay",
            "--dns-listen",
            "off",
            "--listen",
            &listen[0],
            "--listen",
            &listen[1],
        ]);
        agents.push(Running::start(lab, name, &flags)?);
    }
    for pair in &pairs {
        let folder = lab.files().join(pair.nodes.concat());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("pair.yaml"), pair.manifests())?;
        let mut flags = words(&["--dns-listen", "off", "--manifests", &folder.display().to_string()]);
        for (_, address, port) in RELAYS {
            flags.extend(words(&["--relay", &format!("{address}:{port}")]));
        }
        for node in &pair.nodes {
            agents.push(Running::start(lab, node, &flags)?);
        }
    }
    let mut cells: Vec<Cell> = pairs.into_iter().map(Cell::new).collect();
    while !cells.iter().all(Cell::is_expected) && began.elapsed() < FINAL {
        thread::sleep(LOOK);
        cells.iter_mut().for_each(|cell| cell.look(lab, began));
        agents.iter_mut().try_for_each(Running::must_run)?;
    }
    for cell in &mut cells {
        let reaches = |from: usize, to: usize| {
            let target = format!("{}:{BANNER}", VIPS[to]);
            lab.client(&cell.pair.nodes[from], &["banner", &target]).is_ok()
        };
        cell.connected = reaches(0, 1) && reaches(1, 0);
    }
    Ok(cells)
}

/// An agent of this round.
struct Running<'l> {
    lab: &'l Lab,
    node: String,
    /// `edgemesh lab exec`, whose agent ends with it.
    exec: Child,
}

impl<'l> Running<'l> {
    fn start(lab: &'l Lab, node: &str, flags: &[String]) -> Result<Self> {
        Ok(Self { lab, node: node.to_owned(), exec: lab.start_agent(node, flags)? })
    }

    /// An agent that ended says nothing about NATs.
    fn must_run(&mut self) -> Result<()> {
        if let Some(ended) = self.exec.try_wait()? {
            bail!("the agent of {} ended: {ended}\n{}", self.node, self.lab.agent_log(&self.node));
        }
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.exec.kill();
        let _ = self.exec.wait();
        // The kernel ends the agent a little later, and the next one wants its ports.
        let deadline = Instant::now() + PATIENCE;
        while self.lab.status_of(&self.node).is_ok() && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
    }
}

fn summary(report: &mut Report, cells: &[Cell]) -> Result<()> {
    let count = |holds: fn(&Cell) -> bool| cells.iter().filter(|cell| holds(cell)).count() as f64;
    report.add("cells", cells.len() as f64);
    report.add("cells_connected", count(|cell| cell.connected));
    report.add("cells_as_expected", count(Cell::is_expected));
    let mut samples = Samples::default();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    samples.percentiles("first_path_ms", "", cells.iter().filter_map(|cell| cell.first).map(ms).collect());
    let settled = cells.iter().filter(|cell| cell.is_expected());
    samples.percentiles("expected_path_ms", "", settled.filter_map(Cell::last).map(ms).collect());
    report.add_all(&json!(samples))
}

fn table(cells: &[Cell]) -> String {
    let words = NatKind::ALL.map(|kind| kind.as_str().replace('_', "-"));
    let mut text = format!("| | {} |\n|---|{}\n", words.join(" | "), "---|".repeat(words.len()));
    for (row, word) in words.iter().enumerate() {
        let cells = cells.iter().filter(|cell| cell.pair.kinds[0] == row).map(Cell::text);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {word} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cell, Pair, table};

    #[test]
    fn cells_say_what_is_and_what_should_be() {
        let cell = |kinds, paths: [&str; 2], connected| {
            let seen =
                paths.map(|path| (!path.is_empty()).then(|| (path.to_owned(), Duration::from_millis(1200))));
            let first = seen.iter().all(Option::is_some).then_some(Duration::from_millis(400));
            Cell { pair: Pair::new(kinds), seen, first, connected }
        };
        for (cell, text) in [
            (cell([0, 1], ["direct"; 2], true), "direct 0.4 1.2"),
            (cell([1, 1], ["relayed"; 2], true), "**relayed** (punched) 0.4 1.2"),
            (cell([1, 1], ["punched", "relayed"], true), "**punched/relayed** (punched) 0.4 1.2"),
            (cell([0, 0], ["direct"; 2], false), "direct 0.4 1.2, **no answer**"),
            (cell([0, 7], ["relayed", ""], false), "**no path** (relayed)"),
        ] {
            assert_eq!(cell.text(), text);
        }
        let line = table(&[cell([0, 0], ["direct"; 2], true)]);
        assert!(line.contains("| open | direct 0.4 1.2 |\n"), "{line}");
    }
}
