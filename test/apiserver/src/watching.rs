//! Watches: a stream of events that lasts until its time is over.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::faults::{Delivery, EventObjects, FaultSet, Reply, Switches};
use crate::http::{Answer, Ask, streamed};
use crate::list;
use crate::resource::{Resource, api_version};
use crate::selector::Selector;
use crate::server::Shared;
use crate::status::Refusal;
use crate::store::{Change, ChangeKind, Signal, Start, Stored, Through, TooOld};

/// How long a watch lasts that names no `timeoutSeconds`: the least that Kubernetes draws.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;

struct Watch {
    shared: Arc<Shared>,
    resource: Resource,
    version: String,
    selector: Selector,
    head: String,
    /// What is sent before anything of the queue.
    first: VecDeque<(ChangeKind, Arc<Stored>)>,
    queue: mpsc::Receiver<Signal>,
    /// Changes up to this version are known to the client.
    delivered: u64,
    bookmarks: Bookmarks,
    switches: watch::Receiver<Switches>,
    started: Instant,
    deadline: Instant,
    ended: bool,
}

struct Bookmarks {
    ticks: Option<Interval>,
    /// The initial events are still to be ended by one.
    ends_initial: bool,
    /// All changes up to this version are in the queue: once it is empty, this is what the next one says.
    due: Option<u64>,
    /// The next one is the last event.
    last: bool,
}

/// Answers a watch request; the stream begins at once.
pub(crate) fn answer(ask: &Ask<'_>, namespace: Option<String>) -> Answer {
    let selector = list::selector(ask, namespace)?;
    let (start, initial) = start(ask)?;
    let wanted = ask.query.flag("allowWatchBookmarks");
    let timeout = ask.query.number("timeoutSeconds").map_err(Refusal::bad_request)?;
    let timeout = timeout.filter(|seconds| *seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let through = match ask.faults.serving.by_node {
        true => Through::Node { loses: ask.faults.watch.first_loses },
        false => Through::Server,
    };
    let subscription = match ask.shared.store.subscribe(ask.resource, start, through) {
        Ok(subscription) => subscription,
        Err(TooOld(oldest)) => return gone(ask, start, oldest),
    };
    let picked = subscription.objects.into_iter().filter(|object| selector.picks(object));
    let mut first: VecDeque<_> = picked.map(|object| (ChangeKind::Added, object)).collect();
    let lost = ask.faults.watch.missed_deletions_lost;
    let missed = subscription.missed.iter().filter_map(|change| {
        let kind = change.seen_by(&selector).filter(|kind| !(lost && *kind == ChangeKind::Deleted))?;
        Some((kind, change.object.clone()))
    });
    first.extend(missed);
    let delivered = match start {
        Start::After(version) => version.max(subscription.version),
        Start::State | Start::Now => subscription.version,
    };
    ask.shared.requests.count(ask.resource, |counts| {
        counts.watches += 1;
        counts.open_watches += 1;
    });
    let started = Instant::now();
    // A watch from a version that has not come yet is deaf until it has: it gets no bookmarks either.
    let deaf = matches!(start, Start::After(since) if since > subscription.version);
    let ticks = (wanted && !deaf).then(|| {
        let every = ask.shared.bookmark_every;
        let mut ticks = tokio::time::interval_at(started + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let bookmarks = Bookmarks { ticks, ends_initial: wanted && initial, due: None, last: false };
    let watch = Watch {
        shared: ask.shared.clone(),
        resource: ask.resource,
        version: ask.version.to_owned(),
        selector,
        head: ask.head(),
        first,
        queue: subscription.queue,
        delivered,
        bookmarks,
        switches: ask.shared.faults.changes(),
        started,
        deadline: started + timeout,
        ended: false,
    };
    Ok(streamed(stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        watch.shared.requests.count(watch.resource, |counts| counts.bytes += line.len() as u64);
        Some((Ok::<_, io::Error>(line), watch))
    })))
}

/// Where the watch begins, and whether the end of the initial events is to be marked.
fn start(ask: &Ask<'_>) -> Result<(Start, bool), Refusal> {
    let since = ask.query.number("resourceVersion").map_err(Refusal::bad_request)?.unwrap_or(0);
    let matching = ask.query.text("resourceVersionMatch");
    if ask.faults.serving.by_node {
        return Ok((Start::State, false));
    }
    let initial = ask.query.has("sendInitialEvents").then(|| ask.query.flag("sendInitialEvents"));
    let refusal = match (initial, matching) {
        (Some(_), _) if ask.faults.serving.no_initial_events => "sendInitialEvents is forbidden for watch",
        (None, matching) if !matching.is_empty() => {
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        }
        (Some(_), matching) if matching != "NotOlderThan" => {
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        }
        _ => "",
    };
    if !refusal.is_empty() {
        return Err(Refusal::invalid(refusal));
    }
    let start = match (initial, since) {
        _ if ask.faults.watch.replay => Start::State,
        (Some(true), _) | (None, 0) => Start::State,
        (Some(false), 0) => Start::Now,
        (Some(false) | None, since) => Start::After(since),
    };
    Ok((start, initial == Some(true)))
}

fn gone(ask: &Ask<'_>, start: Start, oldest: u64) -> Answer {
    ask.shared.requests.count(ask.resource, |counts| counts.gone += 1);
    let asked = match start {
        Start::After(version) => version,
        Start::State | Start::Now => 0,
    };
    let refusal = too_old(asked, oldest);
    if ask.faults.watch.gone_as_status {
        return Err(refusal);
    }
    Ok(streamed(stream::iter([Ok(error_line(&refusal))])))
}

fn too_old(asked: u64, oldest: u64) -> Refusal {
    Refusal::expired(format!("too old resource version: {asked} ({oldest})"))
}

fn error_line(refusal: &Refusal) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": refusal.object()})))
}

impl Watch {
    /// The next line, when it is time for it.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            self.switches.mark_unchanged();
            let faults = self.shared.faults.of(self.resource, &self.version);
            let delivery = match faults.reply {
                Reply::Silence => Delivery::Stalled,
                _ => faults.watch.delivery,
            };
            if delivery == Delivery::Stalled {
                self.switches.changed().await.ok()?;
                continue;
            }
            if delivery == Delivery::Never {
                self.first.clear();
                self.bookmarks.ends_initial = false;
                self.bookmarks.due = None;
            }
            if let Some((kind, object)) = self.first.pop_front() {
                return Some(self.line(kind, &object, &faults));
            }
            if std::mem::take(&mut self.bookmarks.ends_initial) && !faults.watch.no_bookmarks {
                return Some(self.bookmark(self.delivered, INITIAL_EVENTS_END));
            }
            let line = match self.bookmarks.due {
                Some(version) => self.drain(version, &faults),
                None => self.wait(&faults, delivery == Delivery::Never).await,
            };
            if line.is_some() {
                return line;
            }
        }
        None
    }

    /// Waits for whatever comes first. It may be nothing to send.
    async fn wait(&mut self, faults: &FaultSet, never: bool) -> Option<Bytes> {
        let closes = faults.watch.close_after_ms.map(|after| self.started + Duration::from_millis(after));
        let end = closes.map_or(self.deadline, |closes| closes.min(self.deadline));
        tokio::select! {
            biased;
            changed = self.switches.changed() => {
                self.ended |= changed.is_err();
                None
            }
            () = tokio::time::sleep_until(end) => {
                let marks = self.bookmarks.ticks.is_some() && !faults.watch.no_bookmarks && !never;
                if marks && end == self.deadline {
                    self.bookmarks.due = Some(self.shared.store.version());
                    self.bookmarks.last = true;
                } else {
                    self.ended = true;
                }
                None
            }
            signal = self.queue.recv() => match signal {
                Some(_) if never => None,
                Some(signal) => self.signal(signal, faults),
                None => {
                    self.ended = true;
                    None
                }
            },
            () = tick(&mut self.bookmarks.ticks) => {
                if !faults.watch.no_bookmarks && !never {
                    self.bookmarks.due = Some(self.shared.store.version());
                }
                None
            }
        }
    }

    /// The next of the queue, and a bookmark when there is none.
    fn drain(&mut self, version: u64, faults: &FaultSet) -> Option<Bytes> {
        match self.queue.try_recv() {
            Ok(signal) => self.signal(signal, faults),
            Err(mpsc::error::TryRecvError::Disconnected) => {
                self.ended = true;
                None
            }
            Err(mpsc::error::TryRecvError::Empty) => {
                self.bookmarks.due = None;
                self.ended = self.bookmarks.last;
                (!faults.watch.no_bookmarks).then(|| self.bookmark(version.max(self.delivered), ""))
            }
        }
    }

    fn signal(&mut self, signal: Signal, faults: &FaultSet) -> Option<Bytes> {
        match signal {
            Signal::Change(change) => self.change(&change, faults),
            Signal::Expired => {
                self.ended = true;
                self.shared.requests.count(self.resource, |counts| counts.gone += 1);
                Some(error_line(&too_old(self.delivered, self.shared.store.version())))
            }
        }
    }

    fn change(&mut self, change: &Change, faults: &FaultSet) -> Option<Bytes> {
        if change.object.version <= self.delivered {
            return None;
        }
        self.delivered = change.object.version;
        let kind = change.seen_by(&self.selector)?;
        Some(self.line(kind, &change.object, faults))
    }

    fn line(&self, kind: ChangeKind, object: &Stored, faults: &FaultSet) -> Bytes {
        self.shared.requests.count(self.resource, |counts| counts.events += 1);
        let kind = match kind {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        };
        let start = format!(r#"{{"type":"{kind}","object":"#);
        Bytes::from(match faults.watch.objects {
            EventObjects::Whole => [start.as_bytes(), self.head.as_bytes(), &object.tail, b"}\n"].concat(),
            EventObjects::Empty => [start.as_bytes(), b"{}}\n"].concat(),
            EventObjects::Null => [start.as_bytes(), b"null}\n"].concat(),
        })
    }

    fn bookmark(&self, version: u64, annotations: &str) -> Bytes {
        self.shared.requests.count(self.resource, |counts| counts.bookmarks += 1);
        let row = self.resource.row();
        let (created, fields) = match row.empty {
            Some(fields) => (r#","creationTimestamp":null"#, fields),
            None => ("", ""),
        };
        let api_version = api_version(row.group, &self.version);
        let kind = row.kind;
        Bytes::from(format!(
            r#"{{"type":"BOOKMARK","object":{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{version}"{created}{annotations}}}{fields}}}}}
"#
        ))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.requests.count(self.resource, |counts| counts.open_watches -= 1);
    }
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}
