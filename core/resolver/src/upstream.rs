use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Most upstreams used. The C library uses 3 of resolv.conf; more than 8 would not be reached within the time a
/// question has.
pub const MAX_UPSTREAMS: usize = 8;
/// Consecutive failures after which an upstream is taken to be down: one lost datagram is not enough.
const FAILURES_TO_DOWN: u32 = 2;
/// First pause before an upstream that is down is preferred again.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause: after an outage names resolve again within this time.
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Why a question to an upstream brought no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskFailure {
    /// No matching reply until the deadline.
    TimedOut,
    /// The socket refused: no route, port closed, connection reset.
    Socket,
}

impl AskFailure {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Socket => "socket",
        }
    }
}

/// A `nameserver` line of resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address.
    pub ip: IpAddr,
    /// Name or number of the interface of a link-local address, as behind `%`.
    pub scope: Option<String>,
}

/// Reads the servers of a resolv.conf. Everything else in it concerns the C library, and a line that cannot be read
/// is passed over as the C library does.
pub fn parse_resolv_conf(text: &str) -> Vec<Nameserver> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        let (address, scope) = match address.split_once('%') {
            Some((address, scope)) => (address, Some(scope.to_owned())),
            None => (address, None),
        };
        let Ok(ip) = address.parse() else { continue };
        let server = Nameserver { ip, scope };
        if !servers.contains(&server) && servers.len() < MAX_UPSTREAMS {
            servers.push(server);
        }
    }
    servers
}

/// How long an upstream that led back to us is not asked: whoever sits between may be set right at any time.
const LOOP_PAUSE: Duration = Duration::from_secs(60);

struct Upstream {
    addr: SocketAddr,
    failures: u32,
    down_until: Option<Instant>,
    /// It sends our own questions back to us, so it is not asked until then.
    looping_until: Option<Instant>,
    /// The loop has been told of.
    told: bool,
}

/// The upstreams with their health; the order in which they are asked.
#[derive(Default)]
pub(crate) struct Upstreams {
    servers: Vec<Upstream>,
    /// Index of the one that is asked first: it stays while it answers.
    preferred: usize,
}

/// A change of an upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Same,
    Down,
    Up,
}

impl Upstreams {
    /// Replaces the list; servers that stay keep their health, except that a loop may have been cured.
    pub(crate) fn set(&mut self, addrs: &[SocketAddr], own: &[SocketAddr]) {
        let mut servers: Vec<Upstream> = Vec::new();
        for addr in addrs {
            let ours = own.iter().any(|own| own.port() == addr.port() && own.ip() == addr.ip());
            if ours || servers.iter().any(|server| server.addr == *addr) || servers.len() == MAX_UPSTREAMS {
                continue;
            }
            let known = self.servers.iter().find(|server| server.addr == *addr);
            servers.push(Upstream {
                addr: *addr,
                failures: known.map_or(0, |server| server.failures),
                down_until: known.and_then(|server| server.down_until),
                looping_until: None,
                told: false,
            });
        }
        self.servers = servers;
        self.preferred = 0;
    }

    fn straight(&self, now: Instant) -> impl Iterator<Item = &Upstream> {
        self.servers.iter().filter(move |server| !server.loops(now))
    }

    /// How many may be asked.
    pub(crate) fn usable(&self, now: Instant) -> usize {
        self.straight(now).count()
    }

    /// The server to ask after those that were `asked` before, and how often it was: the least asked one, and among
    /// equals first those that are up, from the preferred one on.
    pub(crate) fn pick(&self, asked: &[SocketAddr], now: Instant) -> Option<(SocketAddr, usize)> {
        let count = self.servers.len();
        let times = |server: &Upstream| asked.iter().filter(|addr| **addr == server.addr).count();
        let down = |server: &Upstream| server.down_until.is_some_and(|until| until > now);
        let in_order = (0..count).map(|step| &self.servers[(self.preferred + step) % count]);
        let server = in_order
            .filter(|server| !server.loops(now))
            .min_by_key(|server| (times(server), down(server)))?;
        Some((server.addr, times(server)))
    }

    /// Whether every server has failed and none has answered since: stale answers need not wait for them.
    pub(crate) fn all_suspect(&self, now: Instant) -> bool {
        self.straight(now).all(|server| server.failures >= FAILURES_TO_DOWN)
    }

    /// Whether every server is in its pause.
    pub(crate) fn all_pausing(&self, now: Instant) -> bool {
        let pausing = |server: &Upstream| server.down_until.is_some_and(|until| until > now);
        self.straight(now).all(pausing)
    }

    pub(crate) fn answered(&mut self, addr: SocketAddr) -> Health {
        let Some(server) = self.servers.iter_mut().find(|server| server.addr == addr) else {
            return Health::Same;
        };
        let was_down = server.failures >= FAILURES_TO_DOWN;
        server.failures = 0;
        server.down_until = None;
        if was_down { Health::Up } else { Health::Same }
    }

    pub(crate) fn failed(&mut self, addr: SocketAddr, now: Instant) -> Health {
        let Some(index) = self.servers.iter().position(|server| server.addr == addr) else {
            return Health::Same;
        };
        let count = self.servers.len();
        let server = &mut self.servers[index];
        server.failures = server.failures.saturating_add(1);
        let mut health = Health::Same;
        if server.failures >= FAILURES_TO_DOWN {
            if server.failures == FAILURES_TO_DOWN {
                health = Health::Down;
            }
            let doublings = (server.failures - FAILURES_TO_DOWN).min(8);
            server.down_until = Some(now + (BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_LAST));
        }
        if index == self.preferred {
            self.preferred = (index + 1) % count;
        }
        health
    }

    /// Marks a server that led back to us; false when that was told before.
    pub(crate) fn looped(&mut self, addr: SocketAddr, now: Instant) -> bool {
        let Some(server) = self.servers.iter_mut().find(|server| server.addr == addr) else { return false };
        server.looping_until = Some(now + LOOP_PAUSE);
        !std::mem::replace(&mut server.told, true)
    }
}

impl Upstream {
    fn loops(&self, now: Instant) -> bool {
        self.looping_until.is_some_and(|until| until > now)
    }
}
