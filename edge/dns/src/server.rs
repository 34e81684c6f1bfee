use std::future::{pending, poll_fn};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edgemesh_mesh::MeshSnapshot;
use edgemesh_resolver::{AskFailure, AskId, Notice, Origin, Output, Resolver, Step, Transport};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ask::ask;
use crate::counters::{DnsCounters, add, set};
use crate::listen::{DnsError, Listener, bind};
use crate::settings::DnsSettings;
use crate::tcp::{self, LONGEST_QUERY, MAX_CONNECTIONS, QUERY_QUEUE, Shared, TcpQuery};
use crate::upstreams::UpstreamList;

/// Datagrams taken from one socket before the other sockets, timers and upstreams get their turn.
const BURST: usize = 64;
/// Time for the tasks of connections and questions to notice the shutdown; they only have to be polled once.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The DNS server: bound, not yet running.
pub struct DnsServer {
    listeners: Vec<Listener>,
    resolver: Resolver<Client>,
    upstreams: UpstreamList,
    max_asks: usize,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    counters: Arc<DnsCounters>,
}

/// Who waits for an answer.
enum Client {
    Udp { socket: usize, peer: SocketAddr },
    Tcp { reply: mpsc::Sender<Vec<u8>> },
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp { socket, peer }, Self::Udp { socket: other, peer: sender }) => {
                socket == other && peer == sender
            }
            // A query repeated on one connection is a query of its own: each has to get an answer.
            (Self::Tcp { .. } | Self::Udp { .. }, _) => false,
        }
    }
}

impl DnsServer {
    /// Binds every address, within a tokio runtime.
    pub fn bind(settings: DnsSettings, snapshots: Arc<ArcSwap<MeshSnapshot>>) -> Result<Self, DnsError> {
        if settings.listen.is_empty() {
            return Err(DnsError::NoAddress);
        }
        let listeners = settings.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let mut resolver_settings = settings.resolver;
        resolver_settings.own = listeners.iter().map(|listener| listener.addr).collect();
        Ok(Self {
            listeners,
            resolver: Resolver::new(&resolver_settings)?,
            upstreams: UpstreamList::new(settings.upstreams),
            max_asks: resolver_settings.max_flights,
            snapshots,
            counters: Arc::default(),
        })
    }

    /// The addresses that are listened on, in the order of the settings.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.addr).collect()
    }

    /// What the server has done so far.
    pub fn counters(&self) -> Arc<DnsCounters> {
        self.counters.clone()
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let (queries, mut tcp_queries) = mpsc::channel(QUERY_QUEUE);
        let (asked, mut replies) = mpsc::channel(self.max_asks.max(1));
        let stop = shutdown.child_token();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut udp = Vec::new();
        for Listener { addr, udp: socket, tcp } in self.listeners {
            tracing::info!(%addr, "dns listens");
            udp.push(socket);
            let shared = Shared {
                queries: queries.clone(),
                permits: permits.clone(),
                counters: self.counters.clone(),
                tasks: tasks.clone(),
                shutdown: stop.clone(),
            };
            tasks.spawn(tcp::accept(tcp, shared));
        }
        let mut turn = Turn {
            udp,
            resolver: self.resolver,
            upstreams: self.upstreams,
            snapshots: self.snapshots,
            counters: self.counters,
            draws: Draws { keys: RandomState::new(), count: 0 },
            asked,
            tasks: tasks.clone(),
            stop: stop.clone(),
            input: vec![0; LONGEST_QUERY],
            output: Vec::new(),
        };
        let mut first = 0;
        turn.follow_upstreams();
        loop {
            let timer = turn.resolver.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                socket = readable(&turn.udp, first) => {
                    first = socket + 1;
                    turn.datagrams(socket);
                }
                Some(query) = tcp_queries.recv() => turn.tcp_query(query),
                Some((id, result)) = replies.recv() => turn.reply(id, result),
                () = until(timer) => turn.resolver.handle_timeout(Instant::now()),
            }
            turn.carry_out();
        }
        stop.cancel();
        tasks.close();
        if timeout(SHUTDOWN, tasks.wait()).await.is_err() {
            tracing::info!(tasks = tasks.len(), "dns tasks outlive the shutdown");
        }
    }
}

/// What one pass of the loop works with.
struct Turn {
    udp: Vec<UdpSocket>,
    resolver: Resolver<Client>,
    upstreams: UpstreamList,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    counters: Arc<DnsCounters>,
    draws: Draws,
    asked: mpsc::Sender<(AskId, Result<Vec<u8>, AskFailure>)>,
    tasks: TaskTracker,
    stop: CancellationToken,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Turn {
    fn follow_upstreams(&mut self) {
        if let Some(servers) = self.upstreams.changed(Instant::now(), &self.snapshots.load()) {
            self.resolver.set_upstreams(&servers);
            let usable = self.resolver.upstreams(Instant::now());
            if usable == 0 {
                tracing::warn!(?servers, "no dns upstream: names outside the cluster do not resolve");
            } else {
                tracing::info!(?servers, usable, "dns upstreams");
            }
        }
    }

    fn datagrams(&mut self, socket: usize) {
        self.follow_upstreams();
        let snapshot = self.snapshots.load();
        for _ in 0..BURST {
            let (length, peer) = match self.udp[socket].try_recv_from(&mut self.input) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error for an answer that was sent earlier; the socket is as good as before.
                Err(_) => continue,
            };
            self.counters.query(Transport::Udp);
            let (client, draw) = (Client::Udp { socket, peer }, self.draws.next());
            let packet = &self.input[..length];
            let (now, out) = (Instant::now(), &mut self.output);
            match self.resolver.handle_query(client, packet, Transport::Udp, &snapshot, now, draw, out) {
                Step::Reply(origin) => {
                    self.counters.answer(&self.output, origin);
                    send(&self.udp[socket], &self.output, peer, &self.counters);
                    tracing::trace!(%peer, origin = origin.as_str(), "dns answer");
                }
                Step::Pending => {}
                Step::Drop(reason) => {
                    add(&self.counters.dropped);
                    tracing::trace!(%peer, reason = reason.as_str(), "dns drop");
                }
            }
        }
    }

    fn tcp_query(&mut self, query: TcpQuery) {
        self.follow_upstreams();
        self.counters.query(Transport::Tcp);
        let snapshot = self.snapshots.load();
        let (client, draw) = (Client::Tcp { reply: query.reply.clone() }, self.draws.next());
        let (now, out) = (Instant::now(), &mut self.output);
        match self.resolver.handle_query(client, &query.message, Transport::Tcp, &snapshot, now, draw, out) {
            Step::Reply(origin) => {
                self.counters.answer(&self.output, origin);
                hand_over(&query.reply, std::mem::take(&mut self.output), &self.counters);
            }
            Step::Pending => {}
            Step::Drop(_) => {
                add(&self.counters.dropped);
                hand_over(&query.reply, Vec::new(), &self.counters);
            }
        }
    }

    fn reply(&mut self, id: AskId, result: Result<Vec<u8>, AskFailure>) {
        if result.is_err() {
            add(&self.counters.ask_failures);
        }
        let (now, draw) = (Instant::now(), self.draws.next());
        self.resolver.handle_upstream(id, result.as_deref().map_err(|failure| *failure), now, draw);
    }

    fn carry_out(&mut self) {
        let mut changed = false;
        while let Some(output) = self.resolver.poll_output() {
            changed = true;
            match output {
                Output::Ask(question) => {
                    add(&self.counters.asks);
                    let (asked, stop) = (self.asked.clone(), self.stop.clone());
                    self.tasks.spawn(stop.run_until_cancelled_owned(async move {
                        let result = ask(&question).await;
                        // It fails only when the loop has ended.
                        let _ = asked.send((question.id, result)).await;
                    }));
                }
                Output::Answer { client, message, origin } => self.answer(client, message, origin),
                Output::Notice(notice) => self.tell(notice),
            }
        }
        if changed {
            set(&self.counters.in_flight, self.resolver.in_flight());
            set(&self.counters.cached, self.resolver.cached().0);
        }
    }

    fn answer(&self, client: Client, message: Vec<u8>, origin: Origin) {
        self.counters.answer(&message, origin);
        match client {
            Client::Udp { socket, peer } => send(&self.udp[socket], &message, peer, &self.counters),
            Client::Tcp { reply } => hand_over(&reply, message, &self.counters),
        }
    }

    fn tell(&self, notice: Notice) {
        match notice {
            Notice::Loop(server) => {
                add(&self.counters.loops);
                tracing::warn!(%server, "this upstream sends our questions back to us; it is passed over");
            }
            Notice::UpstreamDown(server, failure) => {
                tracing::info!(%server, failure = failure.as_str(), "dns upstream is down");
            }
            Notice::UpstreamUp(server) => tracing::info!(%server, "dns upstream is up"),
        }
    }
}

fn send(socket: &UdpSocket, message: &[u8], peer: SocketAddr, counters: &DnsCounters) {
    // A full send buffer drops the answer as the network may; the client asks again.
    if let Err(error) = socket.try_send_to(message, peer) {
        add(&counters.unsent);
        tracing::trace!(%peer, %error, "dns answer not sent");
    }
}

fn hand_over(reply: &mpsc::Sender<Vec<u8>>, message: Vec<u8>, counters: &DnsCounters) {
    if reply.try_send(message).is_err() {
        add(&counters.unsent);
    }
}

/// The next socket with something to read, beginning at `first` so that a busy one does not starve the others.
async fn readable(sockets: &[UdpSocket], first: usize) -> usize {
    poll_fn(|cx| {
        for index in (0..sockets.len()).map(|step| (first + step) % sockets.len()) {
            // An error is ready, too: reading takes it off the socket.
            if sockets[index].poll_recv_ready(cx).is_ready() {
                return Poll::Ready(index);
            }
        }
        Poll::Pending
    })
    .await
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// Random draws that an observer of some cannot continue: a keyed hash (SipHash) of a counter, keyed by the system.
struct Draws {
    keys: RandomState,
    count: u64,
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.keys.hash_one(self.count)
    }
}
