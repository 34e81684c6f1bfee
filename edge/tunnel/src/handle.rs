//! Connecting through the tunnel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use edgemesh_api::Name;
use edgemesh_mesh::PathSnapshot;
use edgemesh_net::meet::{Connect, Connected};
use edgemesh_route::{DialError, Hop, Target};
use edgemesh_tunnel_proto::Answer;
use edgemesh_tunnel_proto::session::OpenRefused;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::carrier::session::{MuxStream, PeerSession};
use crate::circuit::server::Relay;
use crate::circuit::{AcceptedCarrier, CircuitOffer, Taps};
use crate::go::{self, GoLink, GoPeers, GoStream};
use crate::inbound::{Gate, header};
use crate::secrets::Secrets;
use crate::settings::{MAX_STREAMS_PER_PEER, RelayAddress};
use crate::status::{Published, TunnelStatus};
use crate::streams::{Kind, OpenError};

/// The remote side dials the backend before it answers; with the proxy's connect timeout there this leaves a
/// round trip over a bad link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection to the peer is waited for.
pub(crate) const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Demands on their way to the driver; it takes them within one turn of its loop.
pub(crate) const DEMAND_QUEUE: usize = 1024;

/// Where new streams to a node go now.
#[derive(Clone)]
pub(crate) enum Route {
    /// Into the session with the node's agent.
    Session(Arc<PeerSession>),
    /// Onto a connection to the node's Go agent.
    Go(GoLink),
}

/// A stream to another node's agent.
enum Opened {
    Session(MuxStream),
    Go(GoStream),
}

impl Route {
    async fn open(&self) -> Result<Opened, OpenError> {
        match self {
            Self::Session(session) => open(session).map(Opened::Session),
            Self::Go(link) => link.open(Kind::Proxy).await.map(Opened::Go),
        }
    }

    /// Streams would wait for a carrier.
    fn bare(&self) -> bool {
        matches!(self, Self::Session(session) if !session.has_carrier())
    }
}

/// Asks the driver for a route there is none for.
pub(crate) struct Demand {
    pub(crate) node: Name,
    pub(crate) reply: oneshot::Sender<Result<Route, DialError>>,
}

/// What the driver publishes for every holder of a handle.
pub(crate) struct Shared {
    pub(crate) peer_id: String,
    pub(crate) routes: ArcSwap<BTreeMap<Name, Route>>,
    pub(crate) paths: Arc<ArcSwap<PathSnapshot>>,
    pub(crate) status: ArcSwap<Published>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) go: Option<Arc<GoPeers>>,
    /// The circuits of others, when this node relays.
    pub(crate) relay: Option<Relay>,
    pub(crate) taps: Taps,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) changes: watch::Sender<u64>,
}

/// Connects to backends on other nodes, and tells how the tunnel is.
#[derive(Clone)]
pub struct TunnelHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) demands: mpsc::Sender<Demand>,
    pub(crate) relays: watch::Sender<Vec<RelayAddress>>,
}

impl TunnelHandle {
    /// The best path to every known node.
    pub fn paths(&self) -> Arc<ArcSwap<PathSnapshot>> {
        self.shared.paths.clone()
    }

    /// The tunnel as an operator sees it.
    pub fn status(&self) -> TunnelStatus {
        let shared = &self.shared;
        let circuits = shared.relay.as_ref().map(Relay::status);
        let (status, go) = (shared.status.load(), shared.go.as_deref());
        status.status(shared.peer_id.clone(), &shared.gate, go, &shared.secrets, circuits)
    }

    /// Ticks whenever the status changed, but for its counters.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Replaces the relays to use; those that stay keep their reservations.
    pub fn set_relays(&self, relays: Vec<RelayAddress>) {
        self.relays.send_replace(relays);
    }

    /// The connections to the tunnel's port that begin carriers, from now on, instead of the tunnel itself, which takes
    /// them again when the receiver is dropped. Whoever asked before gets no more.
    pub fn take_carriers(&self) -> mpsc::Receiver<AcceptedCarrier> {
        self.shared.taps.take_carriers()
    }

    /// The circuits that relays offer, from now on; as [`TunnelHandle::take_carriers`].
    pub fn take_circuit_offers(&self) -> mpsc::Receiver<CircuitOffer> {
        self.shared.taps.take_offers()
    }

    /// Before this node ends as a relay: grants no more circuits, waits for those that stand to end, at most for
    /// `wait`, and ends them. Returns at once where this node does not relay.
    pub async fn drain_circuits(&self, wait: Duration) {
        if let Some(relay) = &self.shared.relay {
            relay.drain(wait).await;
        }
    }

    async fn stream(&self, node: &Name) -> Result<Opened, DialError> {
        let known = self.shared.routes.load().get(node).cloned();
        let mut failure = DialError::Broken;
        if let Some(route) = known {
            if route.bare() {
                self.demand(node);
            }
            match route.open().await {
                Ok(stream) => return Ok(stream),
                Err(OpenError::Timeout) => return Err(DialError::Timeout),
                Err(OpenError::Full) => return Err(DialError::Overloaded),
                // The peer restarted or the connection ended a moment ago: the driver knows what came after.
                Err(OpenError::Broken) => {}
            }
        }
        for _ in 0..2 {
            match self.route(node).await?.open().await {
                Ok(stream) => return Ok(stream),
                Err(OpenError::Timeout) => failure = DialError::Timeout,
                Err(OpenError::Full) => return Err(DialError::Overloaded),
                Err(OpenError::Broken) => failure = DialError::Broken,
            }
        }
        Err(failure)
    }

    /// Has carriers made for streams that wait for one in the session.
    fn demand(&self, node: &Name) {
        let (reply, _) = oneshot::channel();
        // A full queue is full of demands; the stream waits with the others.
        let _ = self.demands.try_send(Demand { node: node.clone(), reply });
    }

    async fn route(&self, node: &Name) -> Result<Route, DialError> {
        let (reply, answer) = oneshot::channel();
        let demand = Demand { node: node.clone(), reply };
        self.demands.try_send(demand).map_err(|_| DialError::Overloaded)?;
        match tokio::time::timeout(ROUTE_TIMEOUT, answer).await {
            Ok(Ok(route)) => route,
            Ok(Err(_)) => Err(DialError::NoPath),
            Err(_) => Err(DialError::Timeout),
        }
    }

    async fn dial(self, target: Target, first: Bytes) -> Result<Connected, DialError> {
        let Hop::Node(node) = &target.hop else { return Err(DialError::Unreachable) };
        let header = header(target.protocol, target.backend, &target.service, target.namespace.as_ref())
            .ok_or(DialError::Unreachable)?;
        let mut stream = match self.stream(node).await? {
            Opened::Session(stream) => stream,
            Opened::Go(stream) => {
                let path = stream.path();
                let asked = go::connect(stream, node, target.protocol, target.backend, first);
                let stream =
                    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or(Err(DialError::Timeout))?;
                return Ok(Connected { stream, path });
            }
        };
        let path = stream.path();
        let exchange = async {
            // One write, so that header and first payload bytes leave in one frame of the multiplexer.
            let mut flight = header;
            flight.extend_from_slice(&first);
            stream.write_all(&flight).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok(byte)) => Answer::decode(byte),
            Ok(Err(_)) => return Err(DialError::Broken),
            Err(_) => return Err(DialError::Timeout),
        };
        tracing::debug!(%node, backend = %target.backend, %path, ?answer, "stream to a peer");
        answer.into_result()?;
        Ok(Connected { stream: Box::new(stream), path })
    }
}

fn open(session: &Arc<PeerSession>) -> Result<MuxStream, OpenError> {
    if session.counts().streams_out.load(Ordering::Relaxed) >= MAX_STREAMS_PER_PEER {
        return Err(OpenError::Full);
    }
    session.open().map_err(|refused| match refused {
        OpenRefused::Full => OpenError::Full,
        OpenRefused::GoingAway => OpenError::Broken,
    })
}

impl Connect for TunnelHandle {
    fn connect(&self, target: Target, first: Bytes) -> BoxFuture<'static, Result<Connected, DialError>> {
        self.clone().dial(target, first).boxed()
    }
}
