use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_balance::Recent;
use edgemesh_mesh::MeshSnapshot;
use edgemesh_net::meet::{Answer, Inbound, Refusal, Serve};
use edgemesh_net::socket;
use edgemesh_net::splice::pump;
use edgemesh_route::{Asker, Direction, Observe, Outcome, RejectReason, admit};
use futures::future::BoxFuture;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dial::{connect_tcp, failure};
use crate::record::Record;
use crate::{Counters, ProxySettings, udp};

/// Refused pairs of peer and backend that are remembered, so that each is logged once. A peer that scans ports
/// makes the log repeat itself at this pace, not at its own.
const MAX_REFUSED: usize = 256;

/// A refused pair is logged again after this long.
const LOG_REFUSED_EVERY: Duration = Duration::from_secs(600);

/// Backends that are refused to one peer may fill the memory of refusals; past this many lines in
/// [`LOG_REFUSED_EVERY`] nothing is logged, only counted.
const MAX_REFUSED_LINES: u32 = 256;

/// Serves streams that peers opened: to ready endpoints on this node, and nothing else.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProxySettings,
    snapshots: Arc<ArcSwap<MeshSnapshot>>,
    observe: Arc<dyn Observe>,
    counters: Arc<Counters>,
    refused: Mutex<Refused>,
    stop: CancellationToken,
}

/// The refusals that were logged.
struct Refused {
    pairs: Recent<(String, SocketAddr), Instant>,
    since: Instant,
    lines: u32,
}

impl Remote {
    /// `stop` ends every stream at once.
    pub fn new(
        settings: ProxySettings,
        snapshots: Arc<ArcSwap<MeshSnapshot>>,
        observe: Arc<dyn Observe>,
        stop: CancellationToken,
    ) -> Self {
        let refused = Refused { pairs: Recent::new(MAX_REFUSED), since: Instant::now(), lines: 0 };
        let counters = Arc::default();
        let refused = Mutex::new(refused);
        Self { inner: Arc::new(Inner { settings, snapshots, observe, counters, refused, stop }) }
    }

    /// What happens outside of any one stream.
    pub fn counters(&self) -> Arc<Counters> {
        self.inner.counters.clone()
    }
}

impl Serve for Remote {
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        Box::pin(self.inner.clone().stream(inbound))
    }
}

impl Inner {
    async fn stream(self: Arc<Self>, inbound: Inbound) {
        let Inbound { node, peer, path, protocol, backend, namespace, answer } = inbound;
        let client = match &node {
            Some(node) => format!("{node} ({peer})"),
            None => peer.clone(),
        };
        let mut record = Record::begin(self.observe.clone(), Direction::Inbound, protocol, client, backend);
        let asker = Asker { node: node.as_deref(), namespace: namespace.as_deref() };
        let admitted = admit(&self.snapshots.load(), protocol, backend, asker);
        let service = match admitted {
            Ok(service) => service,
            Err(reason) => {
                self.counters.count_inbound_refused();
                self.log_refused(peer, node.as_deref(), protocol, backend, reason);
                answer.refuse(Refusal::NotAdmitted(reason)).await;
                record.end(Outcome::Rejected(reason));
                return;
            }
        };
        record.service(Some(service));
        record.connected(backend, path);
        let outcome = tokio::select! {
            outcome = async {
                match protocol {
                    Protocol::Tcp => self.tcp(backend, answer, &mut record).await,
                    Protocol::Udp => self.udp(backend, answer, &mut record).await,
                    Protocol::Sctp => Outcome::Rejected(RejectReason::UnsupportedProtocol),
                }
            } => outcome,
            () = self.stop.cancelled() => Outcome::Drained,
        };
        record.end(outcome);
    }

    async fn tcp(&self, backend: SocketAddr, answer: Box<dyn Answer>, record: &mut Record) -> Outcome {
        let mut socket = match connect_tcp(backend, self.settings.connect_timeout).await {
            Ok(socket) => socket,
            Err(failure) => {
                answer.refuse(Refusal::Dial(failure.error)).await;
                return Outcome::Failed(failure.error);
            }
        };
        let Ok(mut stream) = answer.accept().await else {
            socket::reset(socket);
            return Outcome::Reset;
        };
        let pumped =
            pump(&mut stream, &mut socket, Bytes::new(), self.settings.tcp_idle, &self.stop, |_, _| {}).await;
        record.moved(pumped.sent, pumped.received);
        if pumped.second_cut {
            socket::reset(socket);
        }
        pumped.outcome
    }

    async fn udp(&self, backend: SocketAddr, answer: Box<dyn Answer>, record: &mut Record) -> Outcome {
        let socket: UdpSocket = match socket::backend_udp(backend) {
            Ok(socket) => socket,
            Err(error) => {
                let error = failure(&error).error;
                answer.refuse(Refusal::Dial(error)).await;
                return Outcome::Failed(error);
            }
        };
        let Ok(stream) = answer.accept().await else { return Outcome::Reset };
        udp::carry(stream, &socket, self.settings.udp_idle, &self.counters, record).await
    }

    fn log_refused(
        &self,
        peer: String,
        node: Option<&str>,
        protocol: Protocol,
        backend: SocketAddr,
        reason: RejectReason,
    ) {
        let now = Instant::now();
        {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (peer.clone(), backend);
            if refused.pairs.get(&key).is_some_and(|logged| now < *logged + LOG_REFUSED_EVERY) {
                return;
            }
            refused.pairs.insert(key, now);
            if refused.since + LOG_REFUSED_EVERY <= now {
                (refused.since, refused.lines) = (now, 0);
            }
            refused.lines += 1;
            if refused.lines > MAX_REFUSED_LINES {
                return;
            }
        }
        tracing::warn!(peer, node, %protocol, %backend, %reason, "refused a peer");
    }
}
