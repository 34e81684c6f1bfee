//! A server's side of the conversation as text, one line per answer; out comes the reflector's side, one line per step.
//!
//! Answers to a list: `list rv=5 continue=t kind=K a b=1 c@uid !bad {}`, `cut a b` (it breaks off behind its objects),
//! `raw TEXT`, `status 403 words`, `status 429 retry=7 words`, `fail reason`. A watch may be refused by the last two,
//! or it goes `open`, then `+a rv=6` `~a` `-a` `bookmark 7` `event JSON`, `after 10` (seconds), and ends by `end`,
//! `fail reason` or `idle` (nothing comes any more until it is given up). `state` tells the status, anywhere.
//! Objects are Services: `a=1` differs from `a`, `a@uid` has another uid, `!a` cannot be decoded.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use edgemesh_api::{Kind, Object, SourceEvent};
use edgemesh_reflector::{
    Consistency, Failure, FailureReason, Interner, ListEnd, Reflector, ReflectorSpec, Splitter, Step,
};

/// Pieces in which answers arrive: short enough to cut every object.
const PIECE: usize = 7;

pub(crate) struct Bench {
    pub(crate) reflector: Reflector,
    pub(crate) now: Instant,
    pub(crate) told: Vec<SourceEvent>,
    names: Interner,
    out: Vec<SourceEvent>,
    text: String,
}

impl Bench {
    pub(crate) fn new(kind: Kind, consistency: Consistency) -> Self {
        Self {
            reflector: Reflector::new(ReflectorSpec { kind, consistency, seed: 7 }),
            now: Instant::now(),
            told: Vec::new(),
            names: Interner::default(),
            out: Vec::new(),
            text: String::new(),
        }
    }

    /// Plays a script; what the reflector did, up to and with the request that finds no answer in it.
    pub(crate) fn play(&mut self, script: &str) -> String {
        let mut lines: VecDeque<&str> =
            script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        loop {
            while lines.front() == Some(&"state") {
                lines.pop_front();
                self.state();
            }
            match self.reflector.next(self.now) {
                Step::Wait(until) => {
                    self.line(&format!("wait {}", (until - self.now).as_millis()));
                    self.now = until;
                }
                Step::List(request) => {
                    self.line(&request.target);
                    let Some(answer) = lines.pop_front() else { break };
                    self.list(answer);
                }
                Step::Watch(request) => {
                    let version =
                        request.target.split(['?', '&']).find(|pair| pair.starts_with("resourceVersion="));
                    self.line(&format!("watch {}", version.expect("a watch names its beginning")));
                    let Some(answer) = lines.pop_front() else { break };
                    self.watch(answer, &mut lines);
                }
            }
            self.flush();
        }
        std::mem::take(&mut self.text)
    }

    fn line(&mut self, text: &str) {
        writeln!(self.text, "{text}").expect("text");
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let events: Vec<_> = self.out.iter().map(render).collect();
        self.told.append(&mut self.out);
        self.line(&format!("> {}", events.join(" ")));
    }

    fn state(&mut self) {
        let status = self.reflector.status().clone();
        let mut words = vec![format!("state {} listed={}", status.state.as_str(), status.listed)];
        let counts = [
            ("lists", status.lists),
            ("events", status.events),
            ("odd", status.odd_events),
            ("missed", status.missed),
        ];
        words.extend(
            counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}={count}")),
        );
        words.extend(status.failure.map(|failure| format!("failure: {failure}")));
        words.extend(status.undecodable.map(|object| format!("undecodable: {object}")));
        self.line(&words.join(" "));
    }

    fn failed(&mut self, failure: Failure) {
        self.reflector.failed(failure, self.now, &mut self.out);
    }

    /// A refusal or a break; whether the line is one.
    fn failure(&mut self, answer: &str) -> bool {
        let words: Vec<&str> = answer.split(' ').collect();
        match words[0] {
            "status" => {
                let code = words[1].parse().expect("a status");
                let retry = words.get(2).and_then(|word| word.strip_prefix("retry="));
                let retry = retry.map(|seconds| Duration::from_secs(seconds.parse().expect("seconds")));
                let text = words[if retry.is_some() { 3 } else { 2 }..].join(" ");
                self.failed(Failure::of_status(code, text, retry));
            }
            "fail" => self.failed(Failure::new(reason(words[1]), "")),
            _ => return false,
        }
        true
    }

    fn list(&mut self, answer: &str) {
        if self.failure(answer) {
            return;
        }
        let (word, rest) = answer.split_once(' ').unwrap_or((answer, ""));
        let text = match word {
            "list" => list_text(rest),
            "cut" => {
                let text = list_text(rest);
                text.split("],\"metadata").next().unwrap_or_default().to_owned()
            }
            "raw" => rest.to_owned(),
            other => panic!("a list is not answered by {other:?}"),
        };
        let mut splitter = Splitter::list();
        for piece in text.as_bytes().chunks(PIECE) {
            let Self { reflector, names, out, .. } = self;
            if let Err(error) = splitter.push(piece, &mut |json| reflector.list_item(json, names, out)) {
                return self.failed(error.into());
            }
        }
        match splitter.finish() {
            Ok(members) => {
                let end = self.reflector.list_end(&members, self.now, &mut self.out);
                if end == ListEnd::Failed {
                    let failure = self.reflector.status().failure.clone().expect("why it failed");
                    self.line(&format!("! {failure}"));
                }
            }
            Err(error) => self.failed(error.into()),
        }
    }

    fn watch(&mut self, answer: &str, lines: &mut VecDeque<&str>) {
        if self.failure(answer) {
            return;
        }
        assert_eq!(answer, "open", "an answer to a watch");
        self.reflector.watch_open();
        let asked = self.now;
        let mut splitter = Splitter::stream();
        while let Some(line) = lines.pop_front() {
            let deadline = self.reflector.watch_deadline().expect("a watch has an end");
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "state" => {
                    self.flush();
                    self.state();
                    continue;
                }
                "after" => {
                    self.now += Duration::from_secs(rest.parse().expect("seconds"));
                    assert!(self.now < deadline, "the watch is given up after {:?}", deadline - asked);
                    continue;
                }
                "idle" => {
                    self.now = deadline;
                    self.flush();
                    self.line(&format!("given up {}", (deadline - asked).as_millis()));
                    return self.reflector.watch_end(self.now);
                }
                "end" => return self.reflector.watch_end(self.now),
                _ if self.failure(line) => return,
                _ => {}
            }
            let text = event_text(line);
            for piece in text.as_bytes().chunks(PIECE) {
                let Self { reflector, names, out, now, .. } = self;
                let mut over = false;
                let mut take = |json: &[u8]| over |= reflector.watch_event(json, names, *now, out).is_break();
                splitter.push(piece, &mut take).expect("well-formed");
                if over {
                    return;
                }
            }
        }
        self.flush();
        let deadline = self.reflector.watch_deadline().expect("a watch has an end") - self.now;
        self.line(&format!("watching for {}", deadline.as_millis()));
        self.reflector.watch_end(self.now);
    }
}

fn render(event: &SourceEvent) -> String {
    match event {
        SourceEvent::ResetKind(_) => "reset".to_owned(),
        SourceEvent::SyncedKind(_) => "synced".to_owned(),
        SourceEvent::Upsert(object) => match &**object {
            Object::Service(service) => {
                let version = service.spec.cluster_ip.as_deref().filter(|ip| *ip != "0");
                let version = version.map(|version| format!("={version}")).unwrap_or_default();
                format!("{}{version}", service.metadata.name)
            }
            other => other.metadata().name.to_string(),
        },
        SourceEvent::Delete(_, key) => format!("-{}", key.name),
        SourceEvent::Keep(_, key) => format!("keep:{}", key.name),
        SourceEvent::Reset | SourceEvent::Synced => "whole".to_owned(),
    }
}

fn reason(word: &str) -> FailureReason {
    let all = [
        FailureReason::Resolve,
        FailureReason::Unreachable,
        FailureReason::Tls,
        FailureReason::Credentials,
        FailureReason::Timeout,
        FailureReason::Stalled,
        FailureReason::Closed,
    ];
    all.into_iter().find(|reason| reason.as_str() == word).expect("a reason")
}

fn list_text(words: &str) -> String {
    let (mut items, mut metadata, mut kind) = (Vec::new(), Vec::new(), "ServiceList");
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("rv", version)) => metadata.push(format!(r#""resourceVersion":"{version}""#)),
            Some(("continue", token)) => metadata.push(format!(r#""continue":"{token}""#)),
            Some(("kind", word)) => kind = word,
            _ => items.push(object_text(word, "")),
        }
    }
    format!(r#"{{"kind":"{kind}","items":[{}],"metadata":{{{}}}}}"#, items.join(","), metadata.join(","))
}

fn object_text(word: &str, version: &str) -> String {
    if word.starts_with(['{', 'n']) && ["{}", "null"].contains(&word) {
        return word.to_owned();
    }
    let (word, ports) = word.strip_prefix('!').map_or((word, "[]"), |word| (word, r#""x""#));
    let (word, ip) = word.split_once('=').unwrap_or((word, "0"));
    let (name, uid) = word.split_once('@').unwrap_or((word, word));
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"default","uid":"{uid}","resourceVersion":"{version}"}},"spec":{{"clusterIP":"{ip}","ports":{ports}}}}}"#
    )
}

fn event_text(line: &str) -> String {
    let mut words = line.split(' ');
    let word = words.next().unwrap_or_default();
    let version = words.next().and_then(|word| word.strip_prefix("rv=")).unwrap_or_default();
    let event =
        |type_: &str, name: &str| format!(r#"{{"type":"{type_}","object":{}}}"#, object_text(name, version));
    match (word, line.split_at(1)) {
        ("event", _) => line["event ".len()..].to_owned(),
        ("bookmark", _) => {
            let version = &line["bookmark ".len()..];
            format!(
                r#"{{"type":"BOOKMARK","object":{{"kind":"Service","metadata":{{"resourceVersion":"{version}","creationTimestamp":null}},"spec":{{}}}}}}"#
            )
        }
        (word, ("+", _)) => event("ADDED", &word[1..]),
        (word, ("~", _)) => event("MODIFIED", &word[1..]),
        (word, ("-", _)) => event("DELETED", &word[1..]),
        other => panic!("a watch does not tell {other:?}"),
    }
}

/// `wait 100` and `given up 2000` are within an expected `wait 50..100`: pauses have jitter.
fn fits(actual: &str, expected: &str) -> bool {
    let Some((low, high)) = expected.split_once("..") else { return actual == expected };
    let Some((word, low)) = low.rsplit_once(' ') else { return false };
    let Some(number) = actual.strip_prefix(word).and_then(|rest| rest.trim().parse::<u64>().ok()) else {
        return false;
    };
    (low.parse().expect("a number")..=high.parse().expect("a number")).contains(&number)
}

#[track_caller]
pub(crate) fn compare(actual: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines: Vec<&str> = actual.lines().collect();
    let same =
        lines.len() == expected.len() && lines.iter().zip(&expected).all(|(line, wanted)| fits(line, wanted));
    assert!(same, "\n--- actual ---\n{actual}\n--- expected ---\n{}", expected.join("\n"));
}

/// Services of a Kubernetes API server.
#[track_caller]
pub(crate) fn check(script: &str, expected: &str) {
    compare(&Bench::new(Kind::Service, Consistency::Consistent).play(script), expected);
}

/// Services of KubeEdge's metaServer.
#[track_caller]
pub(crate) fn check_cached(script: &str, expected: &str) {
    compare(&Bench::new(Kind::Service, Consistency::Cached).play(script), expected);
}
