//! Several tunnels joined by a network in virtual time.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that uses it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::{
    Action, Address, ConnId, DialId, DialTo, Failure, Frame, IdentitySpec, Input, LinkKind, PeerId,
    PeerRecord, RelayTarget, Report, Sign, SignedRecord, TunnelSpec, TunnelState,
};

/// One way; a decent line between two LANs.
const DELAY: Duration = Duration::from_millis(20);
/// A SYN into nothing is given up after this, as the edge does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

struct NoKey;

impl Sign for NoKey {
    fn sign(&self, body: Bytes) -> SignedRecord {
        SignedRecord { body, key: Bytes::new(), signature: Bytes::new() }
    }
}

pub(crate) struct Host {
    pub(crate) state: TunnelState,
    pub(crate) name: &'static str,
    peer: PeerId,
    address: Address,
    nat: bool,
    reserved: BTreeSet<usize>,
    /// Connections with the remote host and its name of it.
    conns: BTreeMap<ConnId, (usize, ConnId, Option<usize>)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) gave_up: Vec<String>,
}

#[derive(Clone, Debug)]
enum Event {
    Tell(usize, Input),
    Frame { to: usize, conn: ConnId, frame: Frame },
    Gone { at: usize, conn: ConnId },
    Establish { from: usize, to: usize, dial: Option<DialId>, kind: LinkKind, relay: Option<usize> },
}

pub(crate) struct Sim {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) hosts: Vec<Host>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    cut: BTreeSet<usize>,
    /// Whether holes can be punched through the NATs.
    pub(crate) punchable: bool,
}

impl Sim {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            hosts: Vec::new(),
            events: BTreeMap::new(),
            next: 0,
            cut: BTreeSet::new(),
            punchable: false,
        }
    }

    /// Adds a host; behind a NAT it cannot be dialled. `relays` are hosts added before.
    pub(crate) fn host(&mut self, name: &'static str, nat: bool, relay: bool, relays: &[usize]) -> usize {
        self.host_as(name, &format!("peer{}", self.hosts.len()), nat, relay, relays)
    }

    pub(crate) fn host_as(
        &mut self,
        name: &'static str,
        peer: &str,
        nat: bool,
        relay: bool,
        relays: &[usize],
    ) -> usize {
        let index = self.hosts.len();
        let peer = PeerId::new(peer);
        let address = Address::new(format!("/ip4/10.0.0.{index}/tcp/20006"));
        let targets = relays
            .iter()
            .map(|relay| RelayTarget { address: self.hosts[*relay].address.clone(), peer: None });
        let spec = TunnelSpec {
            node: Some(name.into()),
            peer: peer.clone(),
            zone: None,
            version: "test".into(),
            relay,
            relays: targets.collect(),
            sequence: 1,
            seed: index as u64,
            identity: IdentitySpec::default(),
        };
        let mut state = TunnelState::new(spec, Box::new(NoKey), self.now);
        state.handle(Input::Listening { addresses: vec![address.clone()] }, self.now);
        self.hosts.push(Host {
            state,
            name,
            peer,
            address,
            nat,
            reserved: BTreeSet::new(),
            conns: BTreeMap::new(),
            reports: Vec::new(),
            gave_up: Vec::new(),
        });
        index
    }

    pub(crate) fn at(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn tell(&mut self, index: usize, input: Input) {
        self.hosts[index].state.handle(input, self.now);
    }

    pub(crate) fn demand(&mut self, from: usize, node: &str) {
        self.tell(from, Input::Demand { node: node.into() });
    }

    pub(crate) fn path(&self, from: usize, node: &str) -> Option<Path> {
        self.hosts[from].state.best(node).map(|(_, path)| path)
    }

    pub(crate) fn cut(&mut self, index: usize) {
        self.cut.insert(index);
    }

    pub(crate) fn heal(&mut self, index: usize) {
        self.cut.remove(&index);
    }

    /// The agent dies: all its connections end for the others at once.
    pub(crate) fn kill(&mut self, index: usize) {
        let conns: Vec<ConnId> = self.hosts[index].conns.keys().copied().collect();
        for conn in conns {
            self.close(index, conn);
        }
        self.cut.insert(index);
    }

    pub(crate) fn streams(&mut self, index: usize, conn: ConnId, streams: u32) {
        self.tell(index, Input::Activity { conn, streams, received: 0 });
    }

    fn is_cut(&self, hosts: &[usize]) -> bool {
        hosts.iter().any(|host| self.cut.contains(host))
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + after, self.next), event);
    }

    /// Runs until the condition holds or the time is over; says which.
    pub(crate) fn run(&mut self, most: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        loop {
            self.settle();
            if until(self) {
                return true;
            }
            let timer = self.hosts.iter().filter_map(|host| host.state.poll_timeout()).min();
            let event = self.events.keys().next().map(|(at, _)| *at);
            let Some(next) = timer.into_iter().chain(event).min().filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let event = entry.remove();
                self.happen(event);
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn settle(&mut self) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            let mut turns = 0;
            while host.state.poll_timeout().is_some_and(|at| at <= self.now) {
                host.state.handle_timeout(self.now);
                turns += 1;
                assert!(turns < 100, "{} spins", host.name);
            }
            while let Some(action) = self.hosts[index].state.poll_action() {
                self.act(index, action);
            }
        }
    }

    fn act(&mut self, from: usize, action: Action) {
        match action {
            Action::Dial { dial, to } => self.dial(from, dial, to),
            Action::Reserve { relay, .. } => {
                let to = self.by_peer(&relay);
                self.hosts[from].reserved.insert(to);
                self.schedule(DELAY * 2, Event::Tell(from, Input::Reserved { relay }));
            }
            Action::Send { conn, frame } => {
                if let Some((to, remote, _)) = self.hosts[from].conns.get(&conn).copied() {
                    self.schedule(DELAY, Event::Frame { to, conn: remote, frame });
                }
            }
            Action::Close { conn } => self.close(from, conn),
            // Paths are those of connections here; carriers have tests of their own.
            Action::Carry { attempt, peer, .. } => {
                let failed = Input::CarryFailed { attempt, peer, failure: Failure::Denied };
                self.schedule(DELAY * 2, Event::Tell(from, failed));
            }
            Action::EndCarrier { .. } => {}
            Action::GaveUp { node, .. } => self.hosts[from].gave_up.push(node.to_string()),
            Action::Report(report) => self.hosts[from].reports.push(report),
        }
    }

    fn by_peer(&self, peer: &PeerId) -> usize {
        self.hosts.iter().position(|host| host.peer == *peer).unwrap()
    }

    fn dial(&mut self, from: usize, dial: DialId, to: DialTo) {
        let unreachable = Event::Tell(from, Input::DialFailed { dial, failure: Failure::Unreachable });
        match to {
            DialTo::Relay { address, .. } => self.dial_direct(from, dial, &[address], unreachable),
            DialTo::Peer { addresses, .. } => self.dial_direct(from, dial, &addresses, unreachable),
            DialTo::Circuit { peer, addresses } => {
                let to = self.by_peer(&peer);
                let relay = addresses.iter().find_map(|address| {
                    let relay = self.hosts.iter().position(|host| {
                        address.as_str().contains(&format!("/p2p/{}/p2p-circuit", host.peer))
                    })?;
                    (self.joined(from, relay)
                        && self.joined(to, relay)
                        && self.hosts[to].reserved.contains(&relay))
                    .then_some(relay)
                });
                match relay {
                    _ if self.is_cut(&[from]) => self.schedule(CONNECT_TIMEOUT, unreachable),
                    Some(relay) => {
                        let kind = LinkKind::Relayed(Some(self.hosts[relay].peer.clone()));
                        let dial = Some(dial);
                        self.schedule(
                            DELAY * 8,
                            Event::Establish { from, to, dial, kind, relay: Some(relay) },
                        );
                    }
                    None => {
                        let failure = Failure::NoReservation;
                        self.schedule(DELAY * 2, Event::Tell(from, Input::DialFailed { dial, failure }));
                    }
                }
            }
        }
    }

    fn joined(&self, a: usize, b: usize) -> bool {
        self.hosts[a].conns.values().any(|(remote, _, relay)| *remote == b && relay.is_none())
    }

    fn dial_direct(&mut self, from: usize, dial: DialId, addresses: &[Address], unreachable: Event) {
        let to = addresses
            .iter()
            .filter_map(|address| self.hosts.iter().position(|host| host.address == *address))
            .find(|to| !self.hosts[*to].nat && !self.is_cut(&[from, *to]));
        match to {
            Some(to) => {
                let dial = Some(dial);
                self.schedule(
                    DELAY * 6,
                    Event::Establish { from, to, dial, kind: LinkKind::Direct, relay: None },
                );
            }
            None => self.schedule(CONNECT_TIMEOUT, unreachable),
        }
    }

    fn happen(&mut self, event: Event) {
        let retry = Duration::from_millis(200);
        match event {
            Event::Tell(host, input) => self.tell(host, input),
            Event::Frame { to, conn, ref frame } => {
                let Some((from, _, relay)) = self.hosts[to].conns.get(&conn).copied() else { return };
                if self.is_cut(&[from, to]) || relay.is_some_and(|relay| self.is_cut(&[relay])) {
                    return self.schedule(retry, event);
                }
                let input = match frame.clone() {
                    Frame::Record(signed) => {
                        let record = Box::new(PeerRecord::decode(&signed.body).unwrap());
                        Input::Record { conn, record, signed, claim: Box::default() }
                    }
                    frame => Input::Frame { conn, frame },
                };
                self.tell(to, input);
            }
            Event::Gone { at, conn } => {
                let Some((from, _, _)) = self.hosts[at].conns.get(&conn).copied() else { return };
                if self.is_cut(&[from, at]) {
                    return self.schedule(retry, event);
                }
                self.drop_conn(at, conn);
            }
            Event::Establish { from, to, dial, kind, relay } => {
                if self.is_cut(&[from, to]) {
                    if let Some(dial) = dial {
                        self.tell(from, Input::DialFailed { dial, failure: Failure::Unreachable });
                    }
                    return;
                }
                self.establish(from, to, dial, kind, relay);
            }
        }
    }

    fn establish(
        &mut self,
        from: usize,
        to: usize,
        dial: Option<DialId>,
        kind: LinkKind,
        relay: Option<usize>,
    ) {
        self.next += 2;
        let (here, there) = (ConnId(self.next), ConnId(self.next + 1));
        self.next += 2;
        self.hosts[from].conns.insert(here, (to, there, relay));
        self.hosts[to].conns.insert(there, (from, here, relay));
        for (at, conn, remote, dial) in [(from, here, to, dial), (to, there, from, None)] {
            let (peer, address) = (self.hosts[remote].peer.clone(), self.hosts[remote].address.clone());
            self.tell(at, Input::Connected { conn, peer, kind: kind.clone(), address, dial });
            self.schedule(DELAY * 2, Event::Tell(at, Input::Identified { conn }));
        }
        if relay.is_some() && self.punchable {
            let kind = LinkKind::Punched;
            self.schedule(DELAY * 10, Event::Establish { from, to, dial: None, kind, relay: None });
        }
    }

    fn close(&mut self, from: usize, conn: ConnId) {
        if let Some((to, remote, _)) = self.hosts[from].conns.get(&conn).copied() {
            self.schedule(DELAY, Event::Gone { at: to, conn: remote });
            self.drop_conn(from, conn);
        }
    }

    /// One side's end of a connection, and of the circuits through it.
    fn drop_conn(&mut self, at: usize, conn: ConnId) {
        let Some((remote, _, relay)) = self.hosts[at].conns.remove(&conn) else { return };
        self.tell(at, Input::Disconnected { conn });
        if relay.is_none() {
            if !self.joined(at, remote) {
                self.hosts[at].reserved.remove(&remote);
            }
            for (host, over) in [(at, remote), (remote, at)] {
                let circuits: Vec<ConnId> = self.hosts[host]
                    .conns
                    .iter()
                    .filter(|(_, (_, _, relay))| *relay == Some(over))
                    .map(|(conn, _)| *conn)
                    .collect();
                for circuit in circuits {
                    self.close(host, circuit);
                }
            }
        }
    }
}
