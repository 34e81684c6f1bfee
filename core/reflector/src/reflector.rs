use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{DecodeError, Kind, Object, ObjectKey, SourceEvent, Uid};
use edgemesh_mesh::HOLD;

use crate::intern::Interner;
use crate::item::{self, Event, Status, fingerprint, percent_encode, status_of};
use crate::schedule::{
    BOOKMARK_SILENCE, CONFIRM_MARGIN, Draws, FIRST_PERIOD, MAX_PERIOD, MAX_PERIOD_SILENT, MAX_PERIOD_STORE,
    MAX_REFUSED_NEEDED, MIN_PERIOD, WATCH, WATCH_GRACE, backoff, jitter, odd_pause, poll_pause,
};
use crate::{Failure, FailureReason, KindState, KindStatus, Members, Resource};

/// Objects asked for in one answer, as `kubectl` and client-go do; servers without paging send all. A server that does
/// not answer in time is asked for less.
const PAGE: usize = 500;
const MIN_PAGE: usize = 32;

/// A page that fails is asked for again this often before the list begins anew.
const MAX_PAGE_ATTEMPTS: u32 = 3;

/// Watches in a row that do not open or do not last before the kind is listed instead, however consistent its server is.
const MAX_WATCH_FAILURES: u32 = 2;

/// A watch that ends sooner was refused rather than served.
const LIVED: Duration = Duration::from_secs(5);

/// What a server's answers are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// A Kubernetes API server: lists are consistent, a watch tells everything after its resource version or fails.
    Consistent,
    /// KubeEdge's metaServer: lists come from a cache on the node, a watch begins with everything, may tell nothing at
    /// all, and never tells what was deleted before it began (kubeedge edge/pkg/metamanager/metaserver). Every watch
    /// follows a list, and a watchdog lists again while the watch stands.
    Cached,
}

/// What a reflector is made with.
#[derive(Clone, Copy, Debug)]
pub struct ReflectorSpec {
    /// The kind.
    pub kind: Kind,
    /// What answers are worth.
    pub consistency: Consistency,
    /// Seed of the jitter.
    pub seed: u64,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub target: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the request; its answer is a list.
    List(Request),
    /// Send the request; its answer is a stream of events. Given up at [`Reflector::watch_deadline`].
    Watch(Request),
    /// Wait until then.
    Wait(Instant),
}

/// What the end of an answer to a list means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEnd {
    /// Another page follows.
    More,
    /// The list is complete.
    Complete,
    /// The answer was worth nothing; [`Reflector::next`] says how it goes on.
    Failed,
}

/// Whether a watch goes on.
pub type WatchFlow = ControlFlow<()>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A list from its beginning.
    List,
    /// The next page of a list.
    Page,
    /// One object, to see whether the server behind the resource version is still the same.
    Verify,
    Watch,
}

/// Follows one kind.
///
/// Order of calls: [`Reflector::next`]; after [`Step::List`] any number of [`Reflector::list_item`], then
/// [`Reflector::list_end`]; after [`Step::Watch`] any number of [`Reflector::watch_event`], then
/// [`Reflector::watch_end`]. [`Reflector::failed`] may take the place of any of these after `next`.
#[derive(Debug)]
pub struct Reflector {
    spec: ReflectorSpec,
    resource: Resource,
    /// Index of the API version that is asked for, and how many in a row were absent.
    version: usize,
    absent: usize,
    phase: Phase,
    not_before: Option<Instant>,
    failures: u32,
    page_attempts: u32,
    page: usize,
    /// The list is asked for in one answer, because its pages expire before the last one.
    unpaged: bool,
    /// Watches in a row that did not open or did not last; lists that succeed in between do not count.
    watch_failures: u32,
    draws: Draws,
    resource_version: Option<String>,
    continue_: Option<String>,
    listing: Listing,
    /// The first object of the last list: while it is the same, the server is the same.
    anchor: Option<(ObjectKey, Uid)>,
    /// Fingerprints of what the server said last, to notice what a watch did not tell; of cached servers only.
    known: BTreeMap<ObjectKey, u64>,
    /// The version of the last list that came from the cloud: of whatever is of that version or an older one, the list knew
    /// better. A node's store keeps objects that were deleted while it was cut off, and every watch
    /// repeats them.
    authority: Option<u64>,
    /// Objects that the last list had in a form that cannot be true; events are all there is of them.
    corrupt: BTreeSet<ObjectKey>,
    /// The last list came from the node's store.
    from_store: bool,
    watch: Watch,
    period: Duration,
    relist_at: Option<Instant>,
    /// When a list is due that `MeshState` needs to believe the one before it; no other reason to list moves it.
    confirm_at: Option<Instant>,
    /// Lists in a row that were due to odd events only and showed nothing new; `odd_pending` while the next one is due.
    odd_lists: u32,
    /// Lists in a row that said nothing.
    unknown_lists: u32,
    odd_pending: bool,
    /// The object that `status.undecodable` tells of.
    undecodable: Option<ObjectKey>,
    status: KindStatus,
}

#[derive(Debug, Default)]
struct Listing {
    begun: bool,
    count: usize,
    /// Objects of the pages that are complete.
    paged: usize,
    first: Option<(ObjectKey, Uid)>,
    seen: BTreeMap<ObjectKey, u64>,
    corrupt: BTreeSet<ObjectKey>,
    /// Objects of a version that the cloud's last list had already: news from the cloud, or leftovers of a store.
    outdated: Vec<Arc<Object>>,
    undecodable: usize,
    /// Objects that do not even tell which they are: what the list leaves out proves nothing.
    nameless: usize,
}

#[derive(Debug, Default)]
struct Watch {
    asked: Option<Instant>,
    open: bool,
    ends_at: Option<Instant>,
    heard: Option<Instant>,
    bookmarks: bool,
    /// It told a change, beyond repeating what was known.
    told: bool,
    /// A listing showed what a standing watch had not told.
    silent: bool,
}

impl Reflector {
    /// Follows a kind from nothing.
    pub fn new(spec: ReflectorSpec) -> Self {
        Self {
            spec,
            resource: Resource::of(spec.kind).of_cache(spec.consistency == Consistency::Cached),
            version: 0,
            absent: 0,
            phase: Phase::List,
            not_before: None,
            failures: 0,
            page_attempts: 0,
            page: PAGE,
            unpaged: false,
            watch_failures: 0,
            draws: Draws::new(spec.seed),
            resource_version: None,
            continue_: None,
            listing: Listing::default(),
            anchor: None,
            known: BTreeMap::new(),
            authority: None,
            corrupt: BTreeSet::new(),
            from_store: false,
            watch: Watch::default(),
            period: FIRST_PERIOD,
            relist_at: None,
            confirm_at: None,
            odd_lists: 0,
            unknown_lists: 0,
            odd_pending: false,
            undecodable: None,
            status: KindStatus::new(spec.kind),
        }
    }

    /// How it goes.
    pub fn status(&self) -> &KindStatus {
        &self.status
    }

    fn is_cached(&self) -> bool {
        self.spec.consistency == Consistency::Cached
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Step {
        if let Some(not_before) = self.not_before.filter(|not_before| *not_before > now) {
            return Step::Wait(not_before);
        }
        self.not_before = None;
        if matches!(self.phase, Phase::Watch | Phase::Verify) && self.is_list_due(now) {
            self.phase = Phase::List;
        }
        let (version, page) = (self.version, self.page);
        match self.phase {
            Phase::List => {
                self.listing = Listing::default();
                self.continue_ = None;
                self.page_attempts = 0;
                if matches!(self.status.state, KindState::Starting) {
                    self.status.state = KindState::Listing;
                }
                let query = if self.unpaged { String::new() } else { format!("?limit={page}") };
                Step::List(Request { target: self.resource.target(version, &query) })
            }
            Phase::Page => {
                // What a page that broke off had brought comes again.
                self.listing.count = self.listing.paged;
                let token = percent_encode(self.continue_.as_deref().unwrap_or_default());
                let query = format!("?limit={page}&continue={token}");
                Step::List(Request { target: self.resource.target(version, &query) })
            }
            Phase::Verify => Step::List(Request { target: self.resource.target(version, "?limit=1") }),
            Phase::Watch => {
                let seconds = WATCH.as_secs() + self.draw() % WATCH.as_secs();
                self.watch = Watch {
                    asked: Some(now),
                    open: false,
                    ends_at: Some(now + Duration::from_secs(seconds) + WATCH_GRACE),
                    heard: Some(now),
                    bookmarks: self.watch.bookmarks,
                    told: false,
                    silent: self.watch.silent,
                };
                let since = percent_encode(self.resource_version.as_deref().unwrap_or_default());
                let query = format!(
                    "?watch=1&allowWatchBookmarks=true&resourceVersion={since}&timeoutSeconds={seconds}"
                );
                Step::Watch(Request { target: self.resource.target(version, &query) })
            }
        }
    }

    fn draw(&mut self) -> u64 {
        self.draws.next()
    }

    fn list_due(&self) -> Option<Instant> {
        [self.relist_at, self.confirm_at].into_iter().flatten().min()
    }

    fn is_list_due(&self, now: Instant) -> bool {
        self.list_due().is_some_and(|at| at <= now)
    }

    /// One object of a list, as JSON.
    pub fn list_item(&mut self, json: &[u8], names: &mut Interner, out: &mut Vec<SourceEvent>) {
        let index = self.listing.count;
        self.listing.count += 1;
        if self.phase == Phase::Verify {
            // Servers without paging send everything.
            if index == 0 {
                let found = item::decode(self.spec.kind, json, names).ok();
                self.listing.first = found.map(|object| (object.key(), object.metadata().uid));
            }
            return;
        }
        self.begin_listing(out);
        match item::decode(self.spec.kind, json, names) {
            Ok(object) => {
                let key = object.key();
                if index == 0 {
                    self.listing.first = Some((key.clone(), object.metadata().uid));
                }
                if self.is_cached() && item::is_corrupt(&object) {
                    self.status.corrupt += 1;
                    self.listing.corrupt.insert(key.clone());
                    return self.keep(key, out);
                }
                if self.is_cached() {
                    let print = fingerprint(&object);
                    let news = self.known.get(&key) != Some(&print);
                    self.listing.seen.insert(key, print);
                    // Who answers is said behind the items.
                    if news && self.is_outdated(item::version_of(json)) {
                        return self.listing.outdated.push(Arc::new(object));
                    }
                }
                out.push(SourceEvent::Upsert(Arc::new(object)));
            }
            Err(error) => {
                self.listing.undecodable += 1;
                match self.note_undecodable(json, &error) {
                    Some(key) => self.keep(key, out),
                    None => self.listing.nameless += 1,
                }
            }
        }
    }

    /// An object is there and cannot be used: it is neither changed nor missed.
    fn keep(&mut self, key: ObjectKey, out: &mut Vec<SourceEvent>) {
        if let Some(print) = self.known.get(&key) {
            self.listing.seen.insert(key.clone(), *print);
        }
        out.push(SourceEvent::Keep(self.spec.kind, key));
    }

    fn begin_listing(&mut self, out: &mut Vec<SourceEvent>) {
        if !self.listing.begun {
            self.listing.begun = true;
            out.push(SourceEvent::ResetKind(self.spec.kind));
        }
    }

    /// Tells of an object that cannot be decoded; its key, if it says it.
    fn note_undecodable(&mut self, json: &[u8], error: &DecodeError) -> Option<ObjectKey> {
        let key = item::key(self.spec.kind, json);
        self.status.undecodable = Some(match &key {
            Some(key) => format!("{key}: {error}"),
            None => format!("an object without a name: {error}"),
        });
        self.undecodable.clone_from(&key);
        key
    }

    /// An object can be decoded, or is gone.
    fn clear_undecodable(&mut self, key: &ObjectKey) {
        if self.undecodable.as_ref() == Some(key) {
            self.undecodable = None;
            self.status.undecodable = None;
        }
    }

    /// An answer to a list is complete. `members` are those beside its items.
    pub fn list_end(&mut self, members: &Members, now: Instant, out: &mut Vec<SourceEvent>) -> ListEnd {
        if !members.items {
            // Status objects come with HTTP 200 from some proxies; anything else is no list.
            let status = status_of(members);
            let failure = if status.code >= 400 {
                Failure::of_status(status.code, status.message, None)
            } else {
                let kind = String::from_utf8_lossy(&members.kind).into_owned();
                Failure::new(FailureReason::Answer, format!("the answer has no items (kind {kind:?})"))
            };
            self.failed(failure, now, out);
            return ListEnd::Failed;
        }
        let Some(meta) = item::list_meta(&members.metadata) else {
            // Without it nobody knows whether pages are left.
            let failure = Failure::new(FailureReason::Answer, "the list's metadata cannot be read");
            self.failed(failure, now, out);
            return ListEnd::Failed;
        };
        if self.phase == Phase::Verify {
            self.answered();
            self.verified(meta.resource_version.as_deref());
            return ListEnd::Complete;
        }
        if self.is_cached() && self.listing.count == 0 && meta.resource_version.is_none() {
            self.unanswered(now);
            return ListEnd::Complete;
        }
        self.begin_listing(out);
        if let Some(token) = meta.continue_.filter(|token| !token.is_empty()) {
            self.continue_ = Some(token);
            self.phase = Phase::Page;
            self.page_attempts = 0;
            self.listing.paged = self.listing.count;
            return ListEnd::More;
        }
        self.answered();
        self.from_store = self.is_cached() && meta.self_link.is_some();
        let outdated = std::mem::take(&mut self.listing.outdated);
        if self.from_store {
            // A store may lack what it was never told of, and have what was deleted while it was cut off: its lists add
            // what is new and take nothing away.
            for object in outdated {
                let key = object.key();
                match self.known.get(&key) {
                    Some(print) => self.listing.seen.insert(key, *print),
                    None => self.listing.seen.remove(&key),
                };
            }
            let unlisted = self.known.iter().filter(|(key, _)| !self.listing.seen.contains_key(*key));
            let unlisted: Vec<_> = unlisted.map(|(key, print)| (key.clone(), *print)).collect();
            self.listing.seen.extend(unlisted);
        } else {
            out.extend(outdated.into_iter().map(SourceEvent::Upsert));
            if self.listing.nameless == 0 {
                out.push(SourceEvent::SyncedKind(self.spec.kind));
            }
        }
        // To watch a kind that the cloud does not have ends KubeEdge's CloudCore (kubeedge/kubeedge#7303). Only a list that
        // comes from the cloud proves that it has it; what the node's store answers names itself in `selfLink`.
        let watchable = !self.is_cached()
            || !self.resource.optional
            || meta.resource_version.is_some() && !self.from_store;
        self.listed(meta.resource_version, now);
        if !watchable {
            self.status.state = KindState::Listing;
            self.poll();
        }
        ListEnd::Complete
    }

    /// A metaServer's list without objects and without a resource version: its store has no row of the kind, or the cloud
    /// did not answer in time (kubeedge/kubeedge#4459). That is no statement about objects.
    fn unanswered(&mut self, now: Instant) {
        self.listing = Listing::default();
        self.answered();
        if self.undecodable.is_none() {
            // What had no name was of an answer that has given way to this one.
            self.status.undecodable = None;
        }
        // Objects were there a moment ago: the node's store is being filled, or the cloud comes and goes.
        self.period = match self.known.is_empty() {
            true => (self.period * 2).min(MAX_PERIOD),
            false => odd_pause(self.unknown_lists),
        };
        self.unknown_lists = self.unknown_lists.saturating_add(1);
        self.relist_at = Some(now + self.period - jitter(self.period, self.draws.next()) / 2);
        self.status.state = KindState::Unknown;
        self.phase = Phase::Watch;
        if self.resource.optional {
            self.poll();
        }
    }

    /// Lists at the watchdog's times, without a watch between.
    fn poll(&mut self) {
        self.phase = Phase::List;
        self.not_before = self.relist_at;
    }

    /// The list is complete: what it shows of the server, and when to look again.
    fn listed(&mut self, resource_version: Option<String>, now: Instant) {
        let listing = std::mem::take(&mut self.listing);
        let first_time = self.status.lists == 0;
        let mut missed = 0;
        self.relist_at = match self.spec.consistency {
            Consistency::Consistent => {
                // A listing that `MeshState` may have doubted is confirmed by another one after the hold; after a start
                // this process does not know what the journal knew.
                let other = listing.first != self.anchor || listing.count == 0 || listing.nameless > 0;
                if first_time || other {
                    self.confirm_at = Some(now + HOLD + CONFIRM_MARGIN + jitter(HOLD, self.draws.next()));
                } else {
                    self.confirm_at = self.confirm_at.filter(|at| *at > now);
                }
                None
            }
            Consistency::Cached => {
                if !first_time {
                    let (known, seen) = (&self.known, &listing.seen);
                    let gone = known.keys().filter(|key| !seen.contains_key(*key)).count();
                    let changed = seen.iter().filter(|(key, print)| known.get(*key) != Some(*print)).count();
                    missed = gone + changed;
                    self.adapt(missed > 0);
                }
                self.status.missed += missed as u64;
                self.known = listing.seen;
                self.corrupt = listing.corrupt;
                let version = resource_version.as_deref().and_then(|version| version.parse().ok());
                if self.from_store {
                    self.period = self.period.min(MAX_PERIOD_STORE);
                } else {
                    self.authority = version;
                }
                Some(now + self.period - jitter(self.period, self.draws.next()) / 2)
            }
        };
        let only_odd = std::mem::take(&mut self.odd_pending) && missed == 0;
        self.odd_lists = if only_odd { self.odd_lists.saturating_add(1) } else { 0 };
        if listing.undecodable == 0 {
            self.undecodable = None;
            self.status.undecodable = None;
        }
        self.unknown_lists = 0;
        self.unpaged = false;
        self.page = (self.page * 2).min(PAGE);
        self.anchor = listing.first;
        self.resource_version = resource_version;
        self.status.listed = listing.count;
        self.status.lists += 1;
        if self.watch_failures == 0 {
            self.status.state = KindState::Watching;
        }
        self.phase = Phase::Watch;
    }

    /// The watchdog's period: shorter when the watch missed something, longer while it does not.
    fn adapt(&mut self, missed: bool) {
        if missed {
            self.watch.silent |= !self.watch.told;
            self.period = MIN_PERIOD;
            return;
        }
        let longest = if self.watch.silent { MAX_PERIOD_SILENT } else { MAX_PERIOD };
        self.period = (self.period * 2).min(longest);
    }

    /// Looks whether the server is still the one whose resource version is held: its version has not gone back, and
    /// its first object is the one of the last list. A server that was restored or replaced would resume the watch
    /// without a word about what is not there any more.
    fn verified(&mut self, resource_version: Option<&str>) {
        let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
        let (held, now) = (number(self.resource_version.as_deref()), number(resource_version));
        let same = held.is_some() && now >= held && self.listing.first == self.anchor;
        self.phase = if same { Phase::Watch } else { Phase::List };
    }

    /// Whether a watch that is open should be given up, and when.
    pub fn watch_deadline(&self) -> Option<Instant> {
        let silence = self.watch.heard.filter(|_| self.watch.bookmarks).map(|heard| heard + BOOKMARK_SILENCE);
        [self.watch.ends_at, silence, self.list_due()].into_iter().flatten().min()
    }

    /// The watch is open: its first bytes or its header came.
    pub fn watch_open(&mut self) {
        self.watch.open = true;
        self.absent = 0;
        self.status.failure = None;
        self.status.failures = 0;
        self.status.state = KindState::Watching;
    }

    /// A list succeeded. That says nothing of the watches: their failure is told until one opens.
    fn answered(&mut self) {
        self.failures = 0;
        self.absent = 0;
        if self.watch_failures == 0 {
            self.status.failure = None;
            self.status.failures = 0;
        }
    }

    /// One event of a watch, as JSON.
    pub fn watch_event(
        &mut self,
        json: &[u8],
        names: &mut Interner,
        now: Instant,
        out: &mut Vec<SourceEvent>,
    ) -> WatchFlow {
        self.watch.heard = Some(now);
        let Ok(event) = serde_json::from_slice::<Event>(json) else {
            return self.odd(now);
        };
        let object = event.object.map(|raw| raw.get().as_bytes());
        match (event.type_.as_str(), object) {
            ("ADDED" | "MODIFIED", Some(json)) => match item::decode(self.spec.kind, json, names) {
                Ok(object) => {
                    let version = self.advance(json);
                    if !self.is_outdated(version) || self.corrupt.contains(&object.key()) {
                        self.upsert(object, out);
                    }
                    WatchFlow::Continue(())
                }
                Err(error) if item::key(self.spec.kind, json).is_some() => {
                    // A list would show the same: what is known of the object stays.
                    self.note_undecodable(json, &error);
                    self.status.odd_events += 1;
                    self.advance(json);
                    WatchFlow::Continue(())
                }
                Err(_) => self.odd(now),
            },
            ("DELETED", Some(json)) => match item::key(self.spec.kind, json) {
                Some(key) => {
                    let version = self.advance(json);
                    if self.is_outdated(version) && self.known.contains_key(&key) {
                        return WatchFlow::Continue(());
                    }
                    self.known.remove(&key);
                    self.clear_undecodable(&key);
                    self.status.events += 1;
                    self.watch.told = true;
                    out.push(SourceEvent::Delete(self.spec.kind, key));
                    WatchFlow::Continue(())
                }
                None => self.odd(now),
            },
            ("BOOKMARK", Some(json)) => {
                self.watch.bookmarks = true;
                self.advance(json);
                WatchFlow::Continue(())
            }
            ("ERROR", Some(json)) => {
                let status: Status = serde_json::from_slice(json).unwrap_or_default();
                let gone = status.is_gone();
                let failure = Failure::of_status(if gone { 410 } else { status.code }, status.message, None);
                self.failed(failure, now, out);
                WatchFlow::Break(())
            }
            _ => self.odd(now),
        }
    }

    /// An event that says nothing: what it meant to say, a list will show (kubeedge/kubeedge#6641).
    fn odd(&mut self, now: Instant) -> WatchFlow {
        self.status.odd_events += 1;
        self.odd_pending = true;
        let soon = now + odd_pause(self.odd_lists);
        self.relist_at = Some(self.relist_at.map_or(soon, |at| at.min(soon)));
        WatchFlow::Continue(())
    }

    fn upsert(&mut self, object: Object, out: &mut Vec<SourceEvent>) {
        self.clear_undecodable(&object.key());
        if self.is_cached() {
            let print = fingerprint(&object);
            if self.known.insert(object.key(), print) == Some(print) {
                return;
            }
        }
        self.watch.told = true;
        self.watch.silent = false;
        self.status.events += 1;
        out.push(SourceEvent::Upsert(Arc::new(object)));
    }

    /// Takes the version of an event's object over; the version as a number.
    fn advance(&mut self, json: &[u8]) -> Option<u64> {
        let version = item::meta(json).resource_version?;
        let number = version.parse().ok();
        self.resource_version = Some(version);
        number
    }

    /// Whether the last list of the cloud knew better than an event of this version.
    fn is_outdated(&self, version: Option<u64>) -> bool {
        version.zip(self.authority).is_some_and(|(version, authority)| version <= authority)
    }

    /// The watch ended as watches do, or was given up at its deadline.
    pub fn watch_end(&mut self, now: Instant) {
        if self.is_list_due(now) {
            self.phase = Phase::List;
            return;
        }
        if !self.has_lived(now) {
            let count = self.count_watch(now);
            let pause = self.pause(FailureReason::Closed, None, count);
            self.not_before = Some(now + pause);
            self.phase = if self.may_resume() { self.verify() } else { Phase::List };
            return;
        }
        self.watch_failures = 0;
        // Only the server that ends a watch when it was asked to is certainly the one that began it.
        let as_asked =
            self.watch.ends_at.is_some_and(|ends_at| ends_at - WATCH_GRACE <= now && now < ends_at);
        self.phase = match (self.may_resume(), as_asked) {
            (true, true) => Phase::Watch,
            (true, false) => self.verify(),
            (false, _) => Phase::List,
        };
    }

    fn has_lived(&self, now: Instant) -> bool {
        self.watch.open && self.watch.asked.is_some_and(|asked| asked + LIVED <= now)
    }

    /// Counts a watch that failed or did not last; how many in a row there are.
    fn count_watch(&mut self, now: Instant) -> u32 {
        let before = if self.has_lived(now) { 0 } else { self.watch_failures };
        self.watch_failures = before.saturating_add(1);
        self.watch_failures
    }

    /// Whether a watch that broke may go on from its resource version.
    fn may_resume(&self) -> bool {
        !self.is_cached() && self.resource_version.is_some() && self.watch_failures <= MAX_WATCH_FAILURES
    }

    fn verify(&mut self) -> Phase {
        self.listing = Listing::default();
        Phase::Verify
    }

    /// How long to wait after the `count`th failure in a row.
    fn pause(&mut self, reason: FailureReason, asked: Option<Duration>, count: u32) -> Duration {
        let (reason, step) = match reason {
            // The first time a list helps at once; a server that says it again and again is not hurried.
            FailureReason::Gone if count > 1 => (FailureReason::Closed, count - 1),
            // No API server lacks these kinds: something else answers in its place, for as long as that takes.
            FailureReason::Absent if !self.resource.may_be_absent() => (FailureReason::Status, count),
            reason => (reason, count),
        };
        let draw = self.draw();
        let mut pause = backoff(reason, step, asked, draw);
        if reason == FailureReason::Forbidden && !self.resource.optional && pause > MAX_REFUSED_NEEDED {
            pause = MAX_REFUSED_NEEDED - MAX_REFUSED_NEEDED.mul_f64((draw % 512) as f64 / 1024.0);
        }
        if self.phase == Phase::Watch && count > MAX_WATCH_FAILURES {
            return pause.max(poll_pause(count - MAX_WATCH_FAILURES));
        }
        pause
    }

    /// What was asked for last did not succeed.
    pub fn failed(&mut self, failure: Failure, now: Instant, out: &mut Vec<SourceEvent>) {
        let watching = self.phase == Phase::Watch;
        let count = if watching {
            self.count_watch(now)
        } else {
            self.failures = self.failures.saturating_add(1);
            self.failures
        };
        let mut pause = self.pause(failure.reason, failure.retry_after, count);
        // One version that is absent says nothing while others are left to ask for.
        let told = failure.reason != FailureReason::Absent || self.absent + 1 >= self.resource.versions.len();
        let state = match failure.reason {
            FailureReason::Forbidden => KindState::Forbidden,
            FailureReason::Absent => KindState::Absent,
            FailureReason::Resolve
            | FailureReason::Unreachable
            | FailureReason::Tls
            | FailureReason::Credentials
            | FailureReason::Timeout
            | FailureReason::Stalled
            | FailureReason::Closed
            | FailureReason::Unauthorized
            | FailureReason::Gone
            | FailureReason::TooManyRequests
            | FailureReason::Status
            | FailureReason::Answer => KindState::Failing,
        };
        if !watching && matches!(failure.reason, FailureReason::Timeout | FailureReason::Stalled) {
            self.page = (self.page / 2).max(MIN_PAGE);
            self.unpaged = false;
        }
        self.phase = match failure.reason {
            FailureReason::Gone => {
                self.unpaged |= self.phase == Phase::Page;
                Phase::List
            }
            FailureReason::Absent => {
                self.absent += 1;
                self.version += 1;
                // The other versions are asked for at once; when none is there, the kind is not.
                if self.absent < self.resource.versions.len() {
                    pause = Duration::ZERO;
                } else {
                    self.absent = 0;
                    if self.resource.optional {
                        out.extend([
                            SourceEvent::ResetKind(self.spec.kind),
                            SourceEvent::SyncedKind(self.spec.kind),
                        ]);
                    }
                }
                Phase::List
            }
            _ if self.phase == Phase::Page && self.page_attempts < MAX_PAGE_ATTEMPTS => {
                self.page_attempts += 1;
                Phase::Page
            }
            _ if watching && self.may_resume() => self.verify(),
            _ if self.phase == Phase::Verify => self.verify(),
            _ => Phase::List,
        };
        self.not_before = Some(now + pause);
        self.status.failures = count;
        if told {
            self.status.state = state;
            self.status.failure = Some(failure);
        }
    }
}
