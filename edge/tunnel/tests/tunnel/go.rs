//! Peers that speak what Go agents speak, of themselves or as far as identify and ping.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use edgemesh_api::Protocol;
use edgemesh_route::DialError;
use edgemesh_tunnel::PeerStatus;
use edgemesh_tunnel_proto::{
    DISCOVERY_PROTOCOL, Discovery, MessageType, PROXY_PROTOCOL, Proxy, datagram_prefix, identity_seed,
    private_network_key,
};
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, OneShotHandler, Stream,
    SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, identify, noise, ping, tcp, yamux};
use tokio::sync::mpsc;

use crate::common::{ECHO, NOT_ADMITTED, Node, PSK, REFUSED, SPEAKS_FIRST, logging, start};

/// The node of the peer.
const NODE: &str = "ke-edge1";

/// Its identity.
const PEER: &str = "12D3KooWF3RB8SoMRZht7MDqF6GoipSPdFxVb9ESRLU7NuPX6ifH";

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    go: Toggle<Go>,
}

/// The two protocols of a Go agent: names, and connections to an echo.
#[derive(Default)]
struct Go {
    /// What is asked of the peer next: a port of its node, and what is sent there.
    asked: VecDeque<(PeerId, Ask)>,
    answers: VecDeque<Answered>,
}

type GoHandler = OneShotHandler<Answer, Ask, Answered>;

impl NetworkBehaviour for Go {
    type ConnectionHandler = GoHandler;
    type ToSwarm = Answered;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(OneShotHandler::new(SubstreamProtocol::new(Answer, ()), Default::default()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(OneShotHandler::new(SubstreamProtocol::new(Answer, ()), Default::default()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        self.answers.extend(event);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Answered, THandlerInEvent<Self>>> {
        if let Some((peer_id, event)) = self.asked.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event });
        }
        match self.answers.pop_front() {
            Some(answer) => Poll::Ready(ToSwarm::GenerateEvent(answer)),
            None => Poll::Pending,
        }
    }
}

/// What came back of an [`Ask`]; `None` for what the peer asked.
#[derive(Debug)]
struct Answered(Option<Result<Vec<u8>, MessageType>>);

/// Answers the peer.
#[derive(Clone, Debug)]
struct Answer;

impl UpgradeInfo for Answer {
    type Info = &'static str;
    type InfoIter = std::array::IntoIter<&'static str, 2>;

    fn protocol_info(&self) -> Self::InfoIter {
        [DISCOVERY_PROTOCOL, PROXY_PROTOCOL].into_iter()
    }
}

impl InboundUpgrade<Stream> for Answer {
    type Output = Answered;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Answered, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        // An error is the peer's end of the stream; the test sees it at the other one.
        tokio::spawn(async move {
            match protocol {
                DISCOVERY_PROTOCOL => tell(stream).await,
                _ => echo(stream).await,
            }
        });
        std::future::ready(Ok(Answered(None)))
    }
}

/// Reads one message and not a byte more.
async fn message<T, E>(
    stream: &mut Stream,
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> io::Result<T> {
    let mut bytes = Vec::new();
    loop {
        if let Some((message, _)) = decode(&bytes).map_err(|_| io::ErrorKind::InvalidData)? {
            return Ok(message);
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        bytes.extend_from_slice(&byte);
    }
}

async fn tell(mut stream: Stream) -> io::Result<()> {
    let question = message(&mut stream, Discovery::decode).await?;
    assert_eq!((question.kind, &*question.node), (MessageType::Connect, "n1"));
    let answer = Discovery { kind: MessageType::Success, node: NODE.to_owned(), ..question };
    stream.write_all(&answer.encode().unwrap()).await?;
    stream.close().await
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut request = message(&mut stream, Proxy::decode).await?;
    assert_eq!((request.kind, &*request.node, &*request.ip), (MessageType::Connect, NODE, "10.0.0.1"));
    if i32::from(REFUSED) == request.port {
        stream.write_all(&Proxy::FAILED).await?;
        return stream.close().await;
    }
    request.kind = MessageType::Success;
    stream.write_all(&request.encode().unwrap()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 8192];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.close().await,
            count => stream.write_all(&buffer[..count]).await?,
        }
        stream.flush().await?;
    }
}

/// Asks the peer for a port of its node, sends something there and reads to the end.
#[derive(Clone, Debug)]
struct Ask(u16, &'static [u8]);

impl UpgradeInfo for Ask {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROXY_PROTOCOL)
    }
}

impl OutboundUpgrade<Stream> for Ask {
    type Output = Answered;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Answered>>;

    fn upgrade_outbound(self, mut stream: Stream, _: &'static str) -> Self::Future {
        async move {
            let request = Proxy {
                kind: MessageType::Connect,
                protocol: "tcp".to_owned(),
                node: "n1".to_owned(),
                ip: "10.0.0.1".to_owned(),
                port: self.0.into(),
            };
            stream.write_all(&request.encode().unwrap()).await?;
            stream.flush().await?;
            let answer = message(&mut stream, Proxy::decode).await?;
            if answer.kind != MessageType::Success {
                return Ok(Answered(Some(Err(answer.kind))));
            }
            stream.write_all(self.1).await?;
            stream.close().await?;
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await?;
            Ok(Answered(Some(Ok(back))))
        }
        .boxed()
    }
}

/// Listens under the identity of a node's name.
async fn listen(node: &str, speaks: bool) -> (Swarm<Behaviour>, Multiaddr) {
    let key = Keypair::ed25519_from_bytes(identity_seed(node)).unwrap();
    let psk = PreSharedKey::new(private_network_key(PSK.as_bytes()));
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .and_then(move |stream, _| PnetConfig::new(psk).handshake(stream))
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".into(), key.public())),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(100))),
        go: speaks.then(Go::default).into(),
    };
    let config =
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(transport, behaviour, key.public().to_peer_id(), config);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return (swarm, address);
        }
    }
}

/// Answered pings until the connection ends, three at most.
async fn pings(mut swarm: Swarm<Behaviour>) -> usize {
    let mut answered = 0;
    while answered < 3 {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) if ping.result.is_ok() => answered += 1,
            SwarmEvent::ConnectionClosed { .. } => return answered,
            _ => {}
        }
    }
    // Goes on answering while the other side is looked at.
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_a_control_stream_stays_and_is_told_apart() {
    logging();
    let (swarm, address) = listen(NODE, false).await;
    let node = start("n1", |settings| {
        settings.go_peers = true;
        settings.relays = vec![address.to_string().parse().unwrap()];
    });
    assert_eq!(pings(swarm).await, 3);
    let status = node.until("a Go agent is told apart", |status| status.legacy_peers == 1).await;
    assert_eq!(status.peers[0].peer, PEER);
    assert!(status.peers[0].legacy);
    assert_eq!(status.peers[0].node, None, "it has told no name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_this_kind_are_none_where_go_agents_are_spoken_with() {
    logging();
    let relay = start("relay", |settings| {
        settings.relay = true;
        settings.go_peers = true;
    });
    let address = relay.address().await;
    let node = start("n1", |settings| {
        settings.go_peers = true;
        settings.relays = vec![address.parse().unwrap()];
    });
    node.relay_up().await;
    node.sees("relay").await;
    assert_eq!(node.handle.status().legacy_peers, 0);
    assert_eq!(relay.sees("n1").await.legacy_peers, 0);
    assert_eq!(node.exchange("relay", ECHO, b"hello").await, b"hello");
}

/// A Go agent that is connected to node `n1` and knows its name; what it is asked to do, and what it got.
struct Agent {
    node: Node,
    asks: mpsc::Sender<Ask>,
    answers: mpsc::Receiver<Result<Vec<u8>, MessageType>>,
    /// Its drop ends the agent's connections.
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// Waits for counts of the agent as a peer, whose changes nobody tells.
    async fn counts(&self, what: &str, holds: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let reached = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let peer = self.node.handle.status().peers.remove(0);
                if holds(&peer) {
                    return peer;
                }
                tokio::task::yield_now().await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("not reached: {what}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn agent() -> Agent {
    logging();
    let (mut swarm, address) = listen(NODE, true).await;
    let node = start("n1", |settings| {
        settings.go_peers = true;
        settings.relays = vec![address.to_string().parse().unwrap()];
    });
    let (asks, mut asked) = mpsc::channel::<Ask>(8);
    let (answered, answers) = mpsc::channel(8);
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(ask) = asked.recv() => {
                    let peer = *swarm.connected_peers().next().unwrap();
                    swarm.behaviour_mut().go.as_mut().unwrap().asked.push_back((peer, ask));
                }
                event = swarm.select_next_some() => {
                    if let SwarmEvent::Behaviour(BehaviourEvent::Go(Answered(Some(answer)))) = event {
                        answered.send(answer).await.unwrap();
                    }
                }
            }
        }
    });
    node.sees(NODE).await;
    Agent { node, asks, answers, task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_to_a_go_agent_are_counted_and_ride_no_carrier() {
    let agent = agent().await;
    assert_eq!(agent.node.exchange(NODE, ECHO, b"hello").await, b"hello");
    let refused = agent.node.connect(NODE, REFUSED, b"").await.err();
    assert_eq!(refused, Some(DialError::Refused));

    let datagram = [&datagram_prefix(3).unwrap()[..], b"abc"].concat();
    let mut udp = agent.node.connect_as(NODE, Protocol::Udp, ECHO, &datagram).await.unwrap();
    let mut back = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut udp.stream, &mut back).await.unwrap();
    assert_eq!(back, *datagram);

    let peer = agent.counts("one stream is open", |peer| peer.streams_out == 1).await;
    assert_eq!((&*peer.peer, peer.node.as_deref(), peer.legacy), (PEER, Some(NODE), true));
    assert_eq!((peer.streams_in, peer.carriers.len()), (0, 0));
    assert!(peer.bytes_in >= 8 && peer.bytes_out >= 8, "{peer:?}");
    drop(udp);
    agent.counts("no stream is open", |peer| peer.streams_out == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_go_agent_end_with_its_connection() {
    let agent = agent().await;
    let mut open = agent.node.connect(NODE, ECHO, b"hello").await.unwrap();
    let mut back = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut open.stream, &mut back).await.unwrap();
    agent.task.abort();
    agent.node.until("the connection is gone", |status| status.peers.is_empty()).await;
    let mut unread = Vec::new();
    let rest = tokio::io::AsyncReadExt::read_to_end(&mut open.stream, &mut unread);
    let rest = tokio::time::timeout(Duration::from_secs(30), rest).await.expect("bounded in time");
    assert!(rest.is_err(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_agent_is_served_as_others_are() {
    let mut agent = agent().await;
    for (port, sent, expected) in [
        (ECHO, &b"hello"[..], Ok(&b"hello"[..])),
        (SPEAKS_FIRST, b"", Ok(b"ke-edge1 direct\n")),
        (NOT_ADMITTED, b"", Err(MessageType::Failed)),
        (REFUSED, b"", Err(MessageType::Failed)),
    ] {
        agent.asks.send(Ask(port, sent)).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), agent.answers.recv());
        let answer = answer.await.expect("bounded in time").unwrap();
        assert_eq!(answer, expected.map(<[u8]>::to_vec), "{port}");
    }
    let peer = agent.counts("its streams are over", |peer| peer.streams_in == 0).await;
    assert_eq!(peer.carriers.len(), 0);
}
