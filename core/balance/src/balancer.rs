use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::{Policy, ServiceId};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Recent;

/// How many endpoints one connection tries: the first choice, and two more so that one dead node with two
/// endpoints does not fail it.
pub const MAX_CANDIDATES: usize = 3;

/// Ports with a place in their rotation: a large cluster has about 10,000 service ports. One that is forgotten
/// starts its rotation anew.
const MAX_CURSORS: usize = 16_384;

/// Clients with a session: about 100 bytes each, so 6 MiB when full. One that is forgotten is picked anew.
const MAX_PINS: usize = 65_536;

/// Endpoints whose last dial failed. More than this many at once means that a network is down, not an endpoint.
const MAX_EJECTED: usize = 1_024;

/// How long an endpoint is tried last after its first failed dial: long enough that a client in a loop meets a
/// dead endpoint once, short enough that a restarted Pod takes its share again soon.
const EJECTION: Duration = Duration::from_secs(10);

/// The bound of the time that doubles with every further failure.
const MAX_EJECTION: Duration = Duration::from_secs(60);

/// How long an endpoint to whose node no path was found is tried last: until the tunnel has told the router of it,
/// which then ranks by paths and prefers the endpoint again as soon as there is one.
const NO_PATH: Duration = Duration::from_secs(2);

/// While one connection tries an endpoint whose ejection has run out, the others still avoid it: as long as a
/// dial takes (the proxy gives one to another node 4 s).
const PROBE: Duration = Duration::from_secs(4);

/// What a pick depends on besides the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PickCtx {
    /// The present.
    pub now: Instant,
    /// The client; its port plays no part.
    pub client: IpAddr,
    /// A uniformly random number.
    pub draw: u64,
}

/// What endpoints are picked for. Each address family has its own rotation and sessions, because it has its own
/// endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The Service.
    pub service: ServiceId,
    /// The Service port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Whether clients come by IPv6.
    pub ipv6: bool,
}

/// One endpoint that may be picked. Address and node together are its identity: Pod ranges may repeat between
/// nodes.
#[derive(Clone, Copy, Debug)]
pub struct Eligible<'a> {
    /// Its address.
    pub addr: SocketAddr,
    /// The other node it runs on; `None` when it is dialled from here.
    pub node: Option<&'a Name>,
    /// Lower ranks are tried before higher ones.
    pub rank: u8,
}

impl Eligible<'_> {
    /// `seed` separates the uses of the hash from each other.
    fn hash(&self, seed: u64) -> u64 {
        let node = self.node.map_or(0, |node| xxh3_64_with_seed(node.as_bytes(), seed));
        hash_socket(self.addr, seed ^ node)
    }
}

/// The question: which of these endpoints?
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// For which port.
    pub port: &'a PortKey,
    /// How the first is chosen.
    pub policy: Policy,
    /// `ClientIP` persistence with its timeout; overlays the policy.
    pub affinity: Option<Duration>,
    /// The endpoints.
    pub eligible: &'a [Eligible<'a>],
}

/// One picked endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index into [`Ask::eligible`].
    pub index: usize,
    /// A dial to it just failed.
    pub ejected: bool,
    /// The client's session leads to it.
    pub pinned: bool,
}

/// Picked endpoints in the order to try them.
pub type Picks = SmallVec<[Pick; MAX_CANDIDATES]>;

/// How a try went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The endpoint took the connection.
    Connected,
    /// It did not.
    Failed,
    /// It was not asked: no path led to its node.
    NoPath,
}

/// Picks endpoints for every Service port of the node. Shared by all connections; every table in it is bounded.
#[derive(Debug)]
pub struct Balancer {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The endpoint that was last in turn. The next in turn is the next greater one, so that endpoints which come
    /// and go disturb nobody else's turn.
    cursors: Recent<PortKey, (SocketAddr, Option<Name>)>,
    /// By the hash of port and client.
    pins: Recent<u64, Pin>,
    /// By the hash of endpoint and protocol.
    ejected: Recent<u64, Ejection>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    /// Hash of the endpoint: sessions are many, and a collision only costs one of them its persistence.
    endpoint: u64,
    used: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    failures: u32,
}

impl Default for Balancer {
    fn default() -> Self {
        Self::new()
    }
}

impl Balancer {
    /// A balancer that remembers nothing yet.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                cursors: Recent::new(MAX_CURSORS),
                pins: Recent::new(MAX_PINS),
                ejected: Recent::new(MAX_EJECTED),
            }),
        }
    }

    /// At most [`MAX_CANDIDATES`] distinct endpoints in the order to try them. The rotation moves on, and a
    /// session is begun or refreshed.
    pub fn pick(&self, ask: &Ask<'_>, ctx: &PickCtx) -> Picks {
        let mut state = self.lock();
        let picks = state.order(ask, ctx);
        state.commit(ask, ctx, &picks);
        picks
    }

    /// What [`Balancer::pick`] would answer now, without a trace.
    pub fn preview(&self, ask: &Ask<'_>, ctx: &PickCtx) -> Picks {
        self.lock().order(ask, ctx)
    }

    /// Whether a dial to the endpoint just failed, so that it is tried last.
    pub fn is_ejected(&self, endpoint: &Eligible<'_>, protocol: Protocol, now: Instant) -> bool {
        self.lock().is_ejected(endpoint, protocol, now)
    }

    /// Tells how a try went. A session whose endpoint could not be connected moves to the one that could.
    pub fn feedback(
        &self,
        port: &PortKey,
        client: IpAddr,
        endpoint: &Eligible<'_>,
        feedback: Feedback,
        now: Instant,
    ) {
        let mut state = self.lock();
        match feedback {
            Feedback::Connected => {
                if !state.ejected.is_empty() {
                    state.ejected.remove(&ejection_key(endpoint, port.protocol));
                }
                if !state.pins.is_empty()
                    && let Some(pin) = state.pins.get(&pin_key(port, client))
                {
                    *pin = Pin { endpoint: endpoint.hash(PIN_SEED), used: now };
                }
            }
            Feedback::Failed => state.eject(ejection_key(endpoint, port.protocol), now),
            Feedback::NoPath => {
                let ejection = Ejection { until: now + NO_PATH, failures: 0 };
                state.ejected.insert(ejection_key(endpoint, port.protocol), ejection);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn order(&self, ask: &Ask<'_>, ctx: &PickCtx) -> Picks {
        let pin = ask.affinity.and_then(|timeout| {
            let pin = self.pins.peek(&pin_key(ask.port, ctx.client))?;
            (ctx.now.saturating_duration_since(pin.used) <= timeout).then_some(pin.endpoint)
        });
        let cursor = match ask.policy {
            Policy::RoundRobin => self.cursors.peek(ask.port),
            Policy::Random | Policy::SourceIpHash => None,
        };
        // Rendezvous hashing: an endpoint that goes moves only its own clients, one that comes takes its share.
        let seed = match ask.policy {
            Policy::SourceIpHash => hash_ip(ctx.client, CLIENT_SEED),
            Policy::RoundRobin | Policy::Random => ctx.draw,
        };
        let mut best = SmallVec::<[_; MAX_CANDIDATES + 1]>::new();
        for (index, endpoint) in ask.eligible.iter().enumerate() {
            let pinned = pin.is_some_and(|pin| pin == endpoint.hash(PIN_SEED));
            let ejected = self.is_ejected(endpoint, ask.port.protocol, ctx.now);
            let identity = (endpoint.addr, endpoint.node);
            let (wrapped, score) = match cursor {
                Some((addr, node)) => (identity <= (*addr, node.as_ref()), 0),
                None => (false, endpoint.hash(seed)),
            };
            let key = (!pinned, ejected, endpoint.rank, wrapped, score, identity);
            let place = best.partition_point(|(other, _)| *other <= key);
            if place < MAX_CANDIDATES {
                best.insert(place, (key, Pick { index, ejected, pinned }));
                best.truncate(MAX_CANDIDATES);
            }
        }
        best.into_iter().map(|(_, pick)| pick).collect()
    }

    fn commit(&mut self, ask: &Ask<'_>, ctx: &PickCtx, picks: &Picks) {
        let Some(first) = picks.first() else { return };
        let endpoint = &ask.eligible[first.index];
        if ask.policy == Policy::RoundRobin && !first.pinned {
            let identity = (endpoint.addr, endpoint.node.cloned());
            match self.cursors.get(ask.port) {
                Some(cursor) => *cursor = identity,
                None => drop(self.cursors.insert(ask.port.clone(), identity)),
            }
        }
        if ask.affinity.is_some() {
            let pin = Pin { endpoint: endpoint.hash(PIN_SEED), used: ctx.now };
            self.pins.insert(pin_key(ask.port, ctx.client), pin);
        }
        self.forget_ejections(ctx.now);
        if !self.ejected.is_empty()
            && let Some(ejection) = self.ejected.get(&ejection_key(endpoint, ask.port.protocol))
            && ejection.until <= ctx.now
        {
            ejection.until = ctx.now + PROBE;
        }
    }

    fn is_ejected(&self, endpoint: &Eligible<'_>, protocol: Protocol, now: Instant) -> bool {
        !self.ejected.is_empty()
            && self
                .ejected
                .peek(&ejection_key(endpoint, protocol))
                .is_some_and(|ejection| now < ejection.until)
    }

    /// Forgets the oldest ejection when nothing follows from it any more; every pick looks at one.
    fn forget_ejections(&mut self, now: Instant) {
        if self.ejected.oldest().is_some_and(|(_, oldest)| oldest.until + MAX_EJECTION <= now) {
            self.ejected.pop_oldest();
        }
    }

    fn eject(&mut self, key: u64, now: Instant) {
        let failures = match self.ejected.peek(&key) {
            Some(past) if now < past.until + MAX_EJECTION => past.failures.saturating_add(1),
            _ => 1,
        };
        // Seven doublings are past the bound already.
        let time = (EJECTION * (1 << (failures - 1).min(7))).min(MAX_EJECTION);
        self.ejected.insert(key, Ejection { until: now + time, failures });
    }
}

const PIN_SEED: u64 = 1;
const EJECTION_SEED: u64 = 2;
const CLIENT_SEED: u64 = 3;

fn ejection_key(endpoint: &Eligible<'_>, protocol: Protocol) -> u64 {
    endpoint.hash(EJECTION_SEED) ^ protocol as u64
}

fn pin_key(port: &PortKey, client: IpAddr) -> u64 {
    let mut hash = xxh3_64_with_seed(port.service.namespace.as_bytes(), PIN_SEED);
    hash = xxh3_64_with_seed(port.service.name.as_bytes(), hash);
    let [high, low] = port.port.to_be_bytes();
    hash = xxh3_64_with_seed(&[high, low, port.protocol as u8, u8::from(port.ipv6)], hash);
    hash_ip(client, hash)
}

fn hash_socket(addr: SocketAddr, seed: u64) -> u64 {
    xxh3_64_with_seed(&addr.port().to_be_bytes(), hash_ip(addr.ip(), seed))
}

fn hash_ip(ip: IpAddr, seed: u64) -> u64 {
    match ip {
        IpAddr::V4(ip) => xxh3_64_with_seed(&ip.octets(), seed),
        IpAddr::V6(ip) => xxh3_64_with_seed(&ip.octets(), seed),
    }
}
