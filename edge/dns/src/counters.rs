use std::sync::atomic::{AtomicU64, Ordering};

use edgemesh_resolver::{Origin, Transport};

/// Response codes that are counted one by one, RFC 1035 section 4.1.1; the last place counts all others.
const RCODES: [&str; 7] = ["noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "other"];

/// What the DNS server has done, for metrics and status; shared and cheap to read.
#[derive(Debug, Default)]
pub struct DnsCounters {
    pub(crate) udp_queries: AtomicU64,
    pub(crate) tcp_queries: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) unsent: AtomicU64,
    pub(crate) asks: AtomicU64,
    pub(crate) ask_failures: AtomicU64,
    pub(crate) loops: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) cached: AtomicU64,
    rcodes: [AtomicU64; RCODES.len()],
    origins: [AtomicU64; Origin::ALL.len()],
}

/// The values of [`DnsCounters`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsCounts {
    /// Packets over UDP.
    pub udp_queries: u64,
    /// Messages over TCP.
    pub tcp_queries: u64,
    /// Packets that got no answer: fragments and responses.
    pub dropped: u64,
    /// Answers the kernel did not take.
    pub unsent: u64,
    /// Questions to upstreams.
    pub asks: u64,
    /// Questions to upstreams that got no reply.
    pub ask_failures: u64,
    /// Upstreams that were found to lead back to us.
    pub loops: u64,
    /// TCP connections closed at once because too many are open.
    pub connections_refused: u64,
    /// Questions in flight to upstreams now.
    pub in_flight: u64,
    /// Answers in the cache now.
    pub cached: u64,
    /// Answers by response code.
    pub rcodes: Vec<(&'static str, u64)>,
    /// Answers by where they came from.
    pub origins: Vec<(&'static str, u64)>,
}

impl DnsCounters {
    /// Reads every counter.
    pub fn read(&self) -> DnsCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsCounts {
            udp_queries: get(&self.udp_queries),
            tcp_queries: get(&self.tcp_queries),
            dropped: get(&self.dropped),
            unsent: get(&self.unsent),
            asks: get(&self.asks),
            ask_failures: get(&self.ask_failures),
            loops: get(&self.loops),
            connections_refused: get(&self.connections_refused),
            in_flight: get(&self.in_flight),
            cached: get(&self.cached),
            rcodes: RCODES.iter().copied().zip(self.rcodes.iter().map(get)).collect(),
            origins: Origin::ALL
                .iter()
                .map(|origin| origin.as_str())
                .zip(self.origins.iter().map(get))
                .collect(),
        }
    }

    pub(crate) fn query(&self, transport: Transport) {
        match transport {
            Transport::Udp => add(&self.udp_queries),
            Transport::Tcp => add(&self.tcp_queries),
        }
    }

    pub(crate) fn answer(&self, message: &[u8], origin: Origin) {
        let rcode = message.get(3).map_or(0, |octet| usize::from(octet & 0x0f));
        add(&self.rcodes[rcode.min(RCODES.len() - 1)]);
        if let Some(index) = Origin::ALL.iter().position(|other| *other == origin) {
            add(&self.origins[index]);
        }
    }
}

impl DnsCounts {
    /// Answers with this origin.
    pub fn origin(&self, origin: Origin) -> u64 {
        self.origins.iter().find(|(name, _)| *name == origin.as_str()).map_or(0, |(_, count)| *count)
    }

    /// Answers with this response code, by its word.
    pub fn rcode(&self, name: &str) -> u64 {
        self.rcodes.iter().find(|(word, _)| *word == name).map_or(0, |(_, count)| *count)
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn set(counter: &AtomicU64, value: usize) {
    counter.store(u64::try_from(value).unwrap_or(u64::MAX), Ordering::Relaxed);
}
