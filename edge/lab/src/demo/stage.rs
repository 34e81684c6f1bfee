use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Row, STAGES};
use crate::assertions::POLL;
use crate::cli::{Args, print};
use crate::control::Request;
use crate::lab::{Blueprint, Lab, LabError, output_until};
use crate::manifests::Manifest;

const SITE: &str = include_str!("../../../../examples/two-lans.yaml");
const SERVICES: &str = include_str!("../../../../examples/two-lans/services.yaml");

/// How long agents may take from nothing to their first answer, and to a path between two LANs. Generous, because the
/// demo also runs on machines that compile at the same time.
const READY: Duration = Duration::from_secs(20);
/// How long hole punching may take: libp2p tries three times, and a failed try ends after 5 seconds at most.
const PUNCHED: Duration = Duration::from_secs(20);
/// What is promised: a restarted agent serves, a healed link is used again.
const RESTARTED: Duration = Duration::from_secs(1);
const HEALED: Duration = Duration::from_secs(5);
/// Longest run of one client.
const CLIENT: Duration = Duration::from_secs(30);

/// Where a client is and where it asks.
#[derive(Clone, Copy)]
struct Scope {
    case: &'static str,
    client: &'static str,
    from: &'static str,
    server: &'static str,
    to: &'static str,
}

const SAME_NODE: Scope =
    Scope { case: "same node", client: "client-a1", from: "a1", server: "server-a1", to: "a1" };
const SAME_LAN: Scope =
    Scope { case: "same LAN", client: "client-a1", from: "a1", server: "server-a2", to: "a2" };
const A_TO_B: Scope =
    Scope { case: "cross-LAN a→b", client: "client-a1", from: "a1", server: "server-b1", to: "b1" };
const B_TO_A: Scope =
    Scope { case: "cross-LAN b→a", client: "client-b1", from: "b1", server: "server-a1", to: "a1" };

/// Runs one stage and prints its rows as JSON lines.
pub(crate) fn run(args: &Args, stage: &str) -> Result<ExitCode, LabError> {
    if !STAGES.contains(&stage) {
        return Err(LabError::Usage(format!("{stage:?} is no stage: {}", STAGES.join(", "))));
    }
    let blueprint = Blueprint {
        text: SITE.replace("mapping: endpoint-independent", &format!("mapping: {stage}")),
        place: "the demo's site".into(),
        manifests: vec![Manifest { name: "services.yaml".into(), text: SERVICES.into() }],
        agents: None,
        edgemesh: args.edgemesh.clone(),
        workload: args.workload.clone(),
    };
    let mut lab = Lab::up(&format!("demo-{}", std::process::id()), &blueprint, true)?;
    lab.step_inside()?;
    let punches = stage == STAGES[0];
    let mut demo = Demo { lab: &lab, only: args.case.clone(), failed: 0 };
    demo.start()?;
    // Without agents every other row would only wait for nothing.
    if demo.failed == 0 {
        if punches {
            demo.stage_punched()?;
        } else {
            demo.stage_relayed()?;
        }
        demo.row("logs", "no ERROR", Demo::quiet)?;
    }
    let failed = demo.failed;
    let logs = lab.folder().join("logs");
    lab.down(failed > 0)?;
    if failed > 0 {
        return Err(LabError::Failed(format!("{failed} rows failed; logs: {}", logs.display())));
    }
    Ok(ExitCode::SUCCESS)
}

struct Demo<'a> {
    lab: &'a Lab,
    /// Rows whose case or name hold this text; all when absent.
    only: Option<String>,
    failed: usize,
}

/// What a client saw, or why it saw nothing.
type Seen = Result<Row, String>;

impl Demo<'_> {
    /// Makes one row, unless it is not asked for.
    fn row(&mut self, case: &str, name: &str, show: impl FnOnce(&Self) -> Seen) -> Result<(), LabError> {
        if self.only.as_ref().is_some_and(|only| !case.contains(&**only) && !name.contains(&**only)) {
            return Ok(());
        }
        let seen = show(self);
        let mut row = seen.unwrap_or_else(|why| Row { note: Some(why), ..Row::default() });
        row.ok = row.note.is_none();
        (row.case, row.name) = (case.into(), name.into());
        self.print(&row)
    }

    fn print(&mut self, row: &Row) -> Result<(), LabError> {
        self.failed += usize::from(!row.ok);
        print(&serde_json::json!(row).to_string())
    }

    /// A row that is always made, because what follows needs it.
    fn needed(&mut self, case: &str, name: &str, show: impl FnOnce(&Self) -> Seen) -> Result<(), LabError> {
        let only = self.only.take();
        let made = self.row(case, name, show);
        self.only = only;
        made
    }

    fn stage_punched(&mut self) -> Result<(), LabError> {
        self.relayed_then_punched()?;
        for (scope, path) in
            [(SAME_NODE, "local"), (SAME_LAN, "lan"), (A_TO_B, "punched"), (B_TO_A, "punched")]
        {
            self.every_protocol(scope, path)?;
        }
        self.spread()?;
        self.outage()
    }

    /// An agent that logs an ERROR has met something it was not built for.
    fn quiet(&self) -> Seen {
        let logs = self.lab.folder().join("logs");
        for entry in std::fs::read_dir(&logs).map_err(|error| error.to_string())?.flatten() {
            let text = std::fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
            if let Some(line) =
                text.lines().find(|line| line.contains(" ERROR ") || line.contains("panicked at"))
            {
                return Err(format!("{}: {line}", entry.file_name().to_string_lossy()));
            }
        }
        Ok(Row::default())
    }

    /// Routers whose mapping depends on the destination cannot be punched: the circuit stays.
    fn stage_relayed(&mut self) -> Result<(), LabError> {
        self.path_comes("cross-LAN a→b", A_TO_B, "relayed", READY)?;
        self.path_comes("cross-LAN b→a", B_TO_A, "relayed", READY)?;
        for scope in [A_TO_B, B_TO_A] {
            self.every_protocol(scope, "relayed")?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), LabError> {
        self.needed("start", "agents answer", |demo| {
            let nodes = ["relay", "a1", "a2", "b1", "b2"];
            demo.comes_within(READY, || {
                for node in nodes {
                    demo.lab.agent_status(node).map_err(|error| error.to_string())?;
                }
                demo.dns(SAME_NODE)
            })
        })
    }

    /// The first path is the relay's circuit; it carries traffic at once, and hole punching follows.
    fn relayed_then_punched(&mut self) -> Result<(), LabError> {
        self.needed("cross-LAN a→b", "first path", |demo| {
            demo.comes_within(READY, || match demo.path(A_TO_B)?.as_str() {
                "relayed" => Ok(Row { path: "relayed".into(), ..Row::default() }),
                "punched" => Err("punched before it was seen relayed".into()),
                other => Err(format!("the path from a1 to b1 is {other}")),
            })
        })?;
        self.row("cross-LAN a→b", "HTTP meanwhile", |demo| {
            demo.comes_within(READY, || demo.client(A_TO_B, "http", 80, &[]))
        })?;
        self.path_comes("cross-LAN a→b", A_TO_B, "punched", PUNCHED)?;
        self.path_comes("cross-LAN b→a", B_TO_A, "punched", PUNCHED)?;
        self.path_comes("same LAN", SAME_LAN, "lan", READY)
    }

    fn path_comes(&mut self, case: &str, scope: Scope, path: &str, within: Duration) -> Result<(), LabError> {
        self.needed(case, &format!("{path} path"), |demo| {
            demo.comes_within(within, || {
                let seen = demo.path(scope)?;
                if seen == path {
                    return Ok(Row { path: seen, ..Row::default() });
                }
                Err(format!("the path from {} to {} is {seen}, not {path}", scope.from, scope.to))
            })
        })
    }

    fn every_protocol(&mut self, scope: Scope, path: &str) -> Result<(), LabError> {
        let case = match path {
            "local" | "lan" => scope.case.to_owned(),
            path => format!("{}, {path}", scope.case),
        };
        self.row(&case, "DNS", |demo| demo.dns(scope))?;
        // About a second each, also through two encrypting hops of an unoptimised build.
        let bulk: &[&str] = match path {
            "local" => &["--mb", "20", "--timeout", "20000"],
            _ => &["--mb", "2", "--timeout", "20000"],
        };
        let clients: [(&str, &str, u16, &[&str]); 9] = [
            ("HTTP", "http", 80, &["--count", "10"]),
            ("HTTP over IPv6", "http", 80, &["--count", "5", "--family", "6"]),
            ("TCP, server first", "banner", 81, &["--count", "5"]),
            ("WebSocket", "ws", 82, &["--count", "5"]),
            ("HTTPS", "https", 443, &["--count", "5"]),
            ("UDP 100 B", "udp", 85, &["--size", "100", "--count", "20"]),
            ("UDP 20 KiB", "udp", 85, &["--size", "20480", "--count", "10"]),
            ("TCP upload", "up", 84, bulk),
            ("TCP download", "down", 84, bulk),
        ];
        for (name, verb, port, flags) in clients {
            self.row(&case, name, |demo| {
                let mut row = demo.client(scope, verb, port, flags)?;
                row.path = demo.path(scope)?;
                if row.path != path {
                    row.note = Some(format!("the path is {}, not {path}", row.path));
                }
                Ok(row)
            })?;
        }
        Ok(())
    }

    /// Several endpoints behind one name: two in the own LAN (one on the own node) and one in the other LAN.
    fn spread(&mut self) -> Result<(), LabError> {
        let case = "3 endpoints";
        // The kernel draws by lot for either policy: 30 of 90 each, and 10 is four and a half standard deviations below.
        for (name, service, count, least) in
            [("round robin", "spread-round-robin", 90, 10), ("random", "spread-random", 90, 10)]
        {
            self.row(case, name, |demo| {
                let target = Scope { server: service, ..A_TO_B };
                let (mut row, said) = demo.ask(target, "http", 80, &["--count", &count.to_string()])?;
                let pods = said["pods"].as_object().cloned().unwrap_or_default();
                let even = pods.len() == 3 && pods.values().all(|n| n.as_u64().unwrap_or(0) >= least);
                row.path = "several".into();
                row.note = (!even).then(|| format!("not spread over 3 pods: {}", said["pods"]));
                Ok(row)
            })?;
        }
        self.row(case, "ClientIP persistence", |demo| {
            let target = Scope { server: "sticky", ..A_TO_B };
            let (mut row, said) = demo.ask(target, "http", 80, &["--count", "20"])?;
            let pods = said["pods"].as_object().map_or(0, serde_json::Map::len);
            row.note = (pods != 1).then(|| format!("one client reached {pods} pods: {}", said["pods"]));
            Ok(row)
        })?;
        self.row("no endpoint", "HTTP is refused", |demo| {
            let began = Instant::now();
            let target = Scope { server: "nobody", ..A_TO_B };
            let why = match demo.client(target, "http", 80, &["--timeout", "5000"]) {
                Ok(_) => return Err("somebody answered".into()),
                Err(why) => why,
            };
            let took = began.elapsed();
            let refused = why.to_ascii_lowercase().contains("refused");
            Ok(Row { latency_ms: Some(ms(took)), note: (!refused).then_some(why), ..Row::default() })
        })
    }

    /// The cloud is cut off, an agent is killed and started meanwhile, and the cloud comes back.
    fn outage(&mut self) -> Result<(), LabError> {
        self.lab.change(&Request::Cut("cloud".into()))?;
        for scope in [SAME_NODE, SAME_LAN] {
            let case = format!("cloud cut, {}", scope.case);
            self.row(&case, "DNS", |demo| demo.dns(scope))?;
            self.row(&case, "HTTP", |demo| demo.client_with_path(scope, "http", 80, &["--count", "10"]))?;
            self.row(&case, "UDP 100 B", |demo| demo.client_with_path(scope, "udp", 85, &["--count", "10"]))?;
        }
        self.lab.change(&Request::Kill("a1".into()))?;
        self.lab.change(&Request::Start("a1".into()))?;
        let began = Instant::now();
        for (name, scope) in
            [("DNS", None), ("HTTP same node", Some(SAME_NODE)), ("HTTP same LAN", Some(SAME_LAN))]
        {
            // All three count from the same start.
            self.needed("cloud cut, agent restarted", name, |demo| {
                demo.comes_by(began, RESTARTED, || match scope {
                    None => demo.dns(SAME_NODE),
                    Some(scope) => demo.client_with_path(scope, "http", 80, &["--timeout", "500"]),
                })
            })?;
        }
        self.lab.change(&Request::Heal("cloud".into()))?;
        let began = Instant::now();
        for scope in [A_TO_B, B_TO_A] {
            let case = format!("healed, {}", scope.case);
            self.needed(&case, "HTTP", |demo| {
                demo.comes_by(began, HEALED, || {
                    demo.client_with_path(scope, "http", 80, &["--timeout", "1000"])
                })
            })?;
        }
        Ok(())
    }

    fn comes_within(&self, within: Duration, look: impl FnMut() -> Seen) -> Seen {
        self.comes_by(Instant::now(), within, look)
    }

    /// Looks until it is so; the row's latency is how long that took since `began`.
    fn comes_by(&self, began: Instant, within: Duration, mut look: impl FnMut() -> Seen) -> Seen {
        // After the promised time it goes on for as long again, so that the row tells late from never.
        let give_up = began + within * 2;
        loop {
            let seen = look();
            let took = began.elapsed();
            match seen {
                Ok(row) => {
                    let late = (took > within).then(|| format!("later than {} ms", within.as_millis()));
                    return Ok(Row { latency_ms: Some(ms(took)), note: row.note.clone().or(late), ..row });
                }
                Err(why) if Instant::now() > give_up => {
                    return Err(format!("not within {} ms: {why}", within.as_millis()));
                }
                Err(_) => std::thread::sleep(POLL / 4),
            }
        }
    }

    fn path(&self, scope: Scope) -> Result<String, String> {
        if scope.from == scope.to {
            return Ok("local".into());
        }
        self.lab.path(scope.from, scope.to).map_err(|error| error.to_string())
    }

    fn dns(&self, scope: Scope) -> Seen {
        let name = format!("{}.default.svc.cluster.local", scope.server);
        let words = ["dns", &name, "--count", "5", "--timeout", "1000"].map(str::to_owned);
        let (row, said) = self.run(scope.client, &words)?;
        let addresses = said["addresses"].as_array().map_or(0, Vec::len);
        if addresses == 0 { Err(format!("no address: {said}")) } else { Ok(row) }
    }

    fn client(&self, scope: Scope, verb: &str, port: u16, flags: &[&str]) -> Seen {
        self.ask(scope, verb, port, flags).map(|(row, _)| row)
    }

    fn client_with_path(&self, scope: Scope, verb: &str, port: u16, flags: &[&str]) -> Seen {
        let row = self.client(scope, verb, port, flags)?;
        // An agent that just started may serve before it can be asked.
        Ok(Row { path: self.path(scope).unwrap_or_default(), ..row })
    }

    fn ask(&self, scope: Scope, verb: &str, port: u16, flags: &[&str]) -> Result<(Row, Value), String> {
        let mut words = vec![verb.to_owned(), format!("{}:{port}", scope.server)];
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.run(scope.client, &words)
    }

    /// Runs a client of the workload in a pod.
    fn run(&self, pod: &str, words: &[String]) -> Result<(Row, Value), String> {
        let run = || -> Result<std::process::Output, LabError> {
            let mut argv = vec!["edgemesh-workload".to_owned()];
            argv.extend_from_slice(words);
            let mut command = self.lab.command(pod, &self.lab.resolve(&argv)?)?;
            output_until(command.stdin(Stdio::null()), Instant::now() + CLIENT)
        };
        let output = run().map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let why = said["error"].as_str().map(str::to_owned).unwrap_or_else(|| said.to_string());
            return Err(format!("{} {}", why, errors.trim()).trim().to_owned());
        }
        let row = Row {
            latency_ms: said["latency_ms"]["median"].as_f64(),
            throughput_mbit: said["mbit_per_s"].as_f64(),
            ..Row::default()
        };
        Ok((row, said))
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
