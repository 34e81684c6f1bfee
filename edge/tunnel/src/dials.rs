//! Attempts to connect: which libp2p connection belongs to which attempt, and names looked up for them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use edgemesh_tunnel_proto::DialId;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;

/// Lookups on their way back; one for every relay is more than there are.
const LOOKUPS: usize = 16;

/// Attempts of libp2p's own behaviours that are remembered; they end within 10 s each.
const MAX_FOREIGN: usize = 4096;

/// A name was looked up.
#[derive(Debug)]
pub(crate) struct LookedUp {
    pub(crate) host: String,
    pub(crate) addresses: Vec<SocketAddr>,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Rotates over the addresses.
    next: usize,
    looking: bool,
    waiting: Vec<DialId>,
}

/// See the module.
pub(crate) struct Dials {
    ours: HashMap<ConnectionId, DialId>,
    foreign: HashSet<ConnectionId>,
    names: HashMap<String, Known>,
    results: mpsc::Sender<LookedUp>,
}

impl Dials {
    pub(crate) fn new() -> (Self, mpsc::Receiver<LookedUp>) {
        let (results, receiver) = mpsc::channel(LOOKUPS);
        let dials = Self { ours: HashMap::new(), foreign: HashSet::new(), names: HashMap::new(), results };
        (dials, receiver)
    }

    pub(crate) fn started(&mut self, connection: ConnectionId, dial: DialId) {
        self.ours.insert(connection, dial);
    }

    /// A behaviour of libp2p dials on its own: the relay client its relay, DCUtR a peer behind a NAT.
    pub(crate) fn foreign(&mut self, connection: ConnectionId) {
        if self.foreign.len() < MAX_FOREIGN {
            self.foreign.insert(connection);
        }
    }

    /// The attempt a connection came from, and whether it was a behaviour's.
    pub(crate) fn ended(&mut self, connection: ConnectionId) -> (Option<DialId>, bool) {
        (self.ours.remove(&connection), self.foreign.remove(&connection))
    }

    /// An address for `host:port`. A name whose last answer is known is dialled there and looked up anew meanwhile,
    /// so that a dead DNS server delays no attempt; otherwise the attempt waits for [`Dials::looked_up`].
    pub(crate) fn resolve(&mut self, host: &str, dial: DialId) -> Option<SocketAddr> {
        let known = self.names.entry(host.to_owned()).or_default();
        if !known.looking {
            known.looking = true;
            let (host, results) = (host.to_owned(), self.results.clone());
            tokio::spawn(async move {
                let addresses = match tokio::net::lookup_host(host.as_str()).await {
                    Ok(addresses) => addresses.collect(),
                    Err(_) => Vec::new(),
                };
                // The driver may be gone.
                let _ = results.send(LookedUp { host, addresses }).await;
            });
        }
        let address = known.pick();
        if address.is_none() {
            known.waiting.push(dial);
        }
        address
    }

    /// Attempts that waited for the name, each with the address to dial.
    pub(crate) fn looked_up(&mut self, result: LookedUp) -> Vec<(DialId, Option<SocketAddr>)> {
        let Some(known) = self.names.get_mut(&result.host) else { return Vec::new() };
        known.looking = false;
        if !result.addresses.is_empty() {
            known.addresses = result.addresses;
        }
        std::mem::take(&mut known.waiting).into_iter().map(|dial| (dial, known.pick())).collect()
    }
}

impl Known {
    fn pick(&mut self) -> Option<SocketAddr> {
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        self.addresses.get(index.checked_rem(self.addresses.len())?).copied()
    }
}
