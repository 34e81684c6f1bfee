//! The behaviour that opens substreams on the connection the state chose, and takes those of peers.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::{CARRIER_PROTOCOL, CONTROL_PROTOCOL, DISCOVERY_PROTOCOL, PROXY_PROTOCOL};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use crate::control::{Outbox, Received, carry};
use crate::go::{self, GoPeers, GoStream};
use crate::inbound::Gate;
use crate::stream::{LinkCounts, PeerCounts, Side};
use crate::text::is_relayed;

/// yamux opens a stream without a round trip; what takes longer waits for 256 unacknowledged streams before it.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Events of one connection that the behaviour has not taken yet.
const MAX_EVENTS: usize = 64;

/// Opens waiting for one connection's handler to be polled.
const OPEN_QUEUE: usize = 256;

/// Asks a connection for a stream.
pub(crate) struct OpenRequest {
    pub(crate) kind: Kind,
    pub(crate) reply: oneshot::Sender<Stream>,
}

/// Why a stream was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    Timeout,
    Broken,
    /// As many streams to the peer are open as there may be.
    Full,
}

/// Which protocol a substream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Control,
    Carrier,
    /// Go EdgeMesh's exchange of names.
    Discovery,
    /// Go EdgeMesh's streams.
    Proxy,
}

/// What is spoken with Go agents and without.
const OURS: &[&str] = &[CARRIER_PROTOCOL, CONTROL_PROTOCOL];
const ALL: &[&str] = &[CARRIER_PROTOCOL, CONTROL_PROTOCOL, DISCOVERY_PROTOCOL, PROXY_PROTOCOL];

impl Kind {
    fn of(protocol: &str) -> Self {
        match protocol {
            CONTROL_PROTOCOL => Self::Control,
            DISCOVERY_PROTOCOL => Self::Discovery,
            PROXY_PROTOCOL => Self::Proxy,
            _ => Self::Carrier,
        }
    }

    fn protocol(self) -> &'static [&'static str] {
        match self {
            Self::Control => &[CONTROL_PROTOCOL],
            Self::Carrier => &[CARRIER_PROTOCOL],
            Self::Discovery => &[DISCOVERY_PROTOCOL],
            Self::Proxy => &[PROXY_PROTOCOL],
        }
    }
}

/// Negotiates the protocols a substream may speak.
#[derive(Clone, Debug)]
pub(crate) struct Speak(&'static [&'static str]);

impl UpgradeInfo for Speak {
    type Info = &'static str;
    type InfoIter = std::iter::Copied<std::slice::Iter<'static, &'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().copied()
    }
}

impl InboundUpgrade<Stream> for Speak {
    type Output = (Kind, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        ready(Ok((Kind::of(protocol), stream)))
    }
}

impl OutboundUpgrade<Stream> for Speak {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: &'static str) -> Self::Future {
        ready(Ok(stream))
    }
}

/// One connection as the driver holds it.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) open: mpsc::Sender<OpenRequest>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) counts: Arc<LinkCounts>,
}

/// What the behaviour tells the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// The peer opened a carrier.
    Carrier(ConnectionId, PeerId, Box<Stream>),
    /// A Go agent's connection carries its first stream after a pause.
    Woken(ConnectionId),
    /// The control stream could not be opened.
    Mute(ConnectionId),
}

/// The counts of the peers.
#[derive(Default)]
pub(crate) struct PeerTable(Mutex<HashMap<PeerId, Weak<PeerCounts>>>);

impl PeerTable {
    /// The counts of a peer; they live as long as somebody holds them.
    pub(crate) fn counts(&self, peer: PeerId) -> Arc<PeerCounts> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = peers.get(&peer).and_then(Weak::upgrade) {
            return counts;
        }
        peers.retain(|_, counts| counts.strong_count() > 0);
        let counts = Arc::new(PeerCounts::default());
        peers.insert(peer, Arc::downgrade(&counts));
        counts
    }
}

/// See the module.
pub(crate) struct Behaviour {
    gate: Arc<Gate>,
    go: Option<Arc<GoPeers>>,
    frames: mpsc::Sender<Received>,
    links: HashMap<ConnectionId, Link>,
    peers: Arc<PeerTable>,
    events: VecDeque<Event>,
    candidates: VecDeque<Multiaddr>,
}

impl Behaviour {
    pub(crate) fn new(gate: Arc<Gate>, frames: mpsc::Sender<Received>, go: Option<Arc<GoPeers>>) -> Self {
        Self {
            gate,
            go,
            frames,
            links: HashMap::new(),
            peers: Arc::default(),
            events: VecDeque::new(),
            candidates: VecDeque::new(),
        }
    }

    /// Offers an address for hole punching.
    pub(crate) fn offer(&mut self, address: Multiaddr) {
        self.candidates.push_back(address);
    }

    pub(crate) fn link(&self, connection: ConnectionId) -> Option<&Link> {
        self.links.get(&connection)
    }

    /// The counts of a peer.
    pub(crate) fn counts(&self, peer: PeerId) -> Arc<PeerCounts> {
        self.peers.counts(peer)
    }

    /// The counts of every peer.
    pub(crate) fn peers(&self) -> Arc<PeerTable> {
        self.peers.clone()
    }

    /// The side that dialled opens the control stream; of two that dialled at once the one in the dialler's role.
    fn handler(&mut self, connection: ConnectionId, peer: PeerId, relayed: bool, opens: bool) -> Handler {
        let (open, requests) = mpsc::channel(OPEN_QUEUE);
        let path = if relayed { Path::Relayed } else { Path::Direct };
        let link =
            Link { open, outbox: Arc::new(Outbox::default()), counts: Arc::new(LinkCounts::new(path)) };
        self.links.insert(connection, link.clone());
        Handler {
            connection,
            peer_id: peer,
            peer: self.counts(peer),
            outbox: link.outbox,
            counts: link.counts,
            requests,
            gate: self.gate.clone(),
            go: self.go.clone(),
            frames: self.frames.clone(),
            open_control: opens,
            controlled: false,
            asked: Arc::new(()),
            events: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, is_relayed(local), false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, is_relayed(address), role == Endpoint::Dialer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => {
                self.links.remove(&closed.connection_id);
            }
            // A later behaviour may have denied a connection whose handler was made already.
            FromSwarm::ListenFailure(failed) => {
                self.links.remove(&failed.connection_id);
            }
            FromSwarm::DialFailure(failed) => {
                self.links.remove(&failed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        self.events.push_back(event);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(address) = self.candidates.pop_front() {
            return Poll::Ready(ToSwarm::NewExternalAddrCandidate(address));
        }
        match self.events.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => Poll::Pending,
        }
    }
}

/// What an outbound substream is for.
pub(crate) enum Opening {
    Control,
    Stream(OpenRequest),
}

/// One connection's part of the behaviour.
pub(crate) struct Handler {
    connection: ConnectionId,
    peer_id: PeerId,
    /// Lives as long as the connection.
    peer: Arc<PeerCounts>,
    outbox: Arc<Outbox>,
    counts: Arc<LinkCounts>,
    requests: mpsc::Receiver<OpenRequest>,
    gate: Arc<Gate>,
    go: Option<Arc<GoPeers>>,
    frames: mpsc::Sender<Received>,
    open_control: bool,
    controlled: bool,
    /// Held by the task that answers a Go agent's question.
    asked: Arc<()>,
    events: VecDeque<Event>,
}

impl Handler {
    /// A Go agent's stream, counted.
    fn take(&mut self, stream: Stream, side: Side) -> GoStream {
        self.woken();
        GoStream::new(stream, self.peer.clone(), self.counts.clone(), side)
    }

    /// A connection that is used for a moment only must not look idle to the state.
    fn woken(&mut self) {
        if self.counts.streams() == 0 && self.events.len() < MAX_EVENTS {
            self.events.push_back(Event::Woken(self.connection));
        }
    }

    /// One question at a time is enough for a name.
    fn go_asks(&mut self, stream: Stream) {
        let Some(go) = self.go.clone() else { return };
        if Arc::strong_count(&self.asked) > 1 {
            return;
        }
        let (stream, asking) = (self.take(stream, Side::Inbound), self.asked.clone());
        let (connection, peer) = (self.connection, self.peer_id);
        self.gate.spawn(async move {
            go::answer_discovery(go, connection, peer, stream).await;
            drop(asking);
        });
    }

    /// Carriers of a session are few; a peer that opens more than its share has them dropped unread.
    fn carrier(&mut self, stream: Stream) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(Event::Carrier(self.connection, self.peer_id, Box::new(stream)));
        }
    }

    fn control(&mut self, stream: Stream) {
        // One control stream is enough; a second would let a peer multiply its queue.
        if self.controlled {
            return;
        }
        self.controlled = true;
        let task = carry(stream, self.connection, self.outbox.clone(), self.frames.clone());
        let closed = self.counts.closed.clone();
        self.gate.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.counts.closed.cancel();
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Event;
    type InboundProtocol = Speak;
    type OutboundProtocol = Speak;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Speak> {
        SubstreamProtocol::new(Speak(if self.go.is_some() { ALL } else { OURS }), ())
    }

    /// The state closes connections; libp2p's idle timeout must not.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Speak, Opening, Event>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        let (protocols, opening): (&'static [&'static str], Opening) = if self.open_control {
            self.open_control = false;
            (Kind::Control.protocol(), Opening::Control)
        } else {
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => (request.kind.protocol(), Opening::Stream(request)),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        };
        let protocol = SubstreamProtocol::new(Speak(protocols), opening).with_timeout(OPEN_TIMEOUT);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Speak, Speak, (), Opening>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (Kind::Control, stream),
                ..
            }) => self.control(stream),
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (Kind::Carrier, stream),
                ..
            }) => self.carrier(stream),
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (Kind::Discovery, stream),
                ..
            }) => self.go_asks(stream),
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (Kind::Proxy, stream),
                ..
            }) => {
                let stream = self.take(stream, Side::Inbound);
                if let Some(go) = &self.go {
                    self.gate.admit_go(stream, self.peer_id, self.peer.clone(), go.clone());
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                match info {
                    Opening::Control => self.control(stream),
                    Opening::Stream(request) => {
                        if request.kind != Kind::Carrier {
                            self.woken();
                        }
                        // Whoever asked may have given up.
                        let _ = request.reply.send(stream);
                    }
                }
            }
            // Whoever asked for a stream sees its request dropped.
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: Opening::Control, .. }) => {
                self.events.push_back(Event::Mute(self.connection));
            }
            _ => {}
        }
    }
}
