//! Circuits between real tunnels, and what the tunnel's port does with bytes from anybody.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{self, Node, start};
use edgemesh_tunnel::{
    CircuitError, CircuitOffer, CircuitStatus, Member, RelayAddress, TunnelSettings, accept_circuit,
    connect_circuit, observe,
};
use edgemesh_tunnel_proto::PeerId;
use edgemesh_tunnel_proto::circuit::{Kind, NONCE_LEN, Status, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(30);

struct Mesh {
    relay: Node,
    at: SocketAddr,
    id: PeerId,
    a: Node,
    b: Node,
    offers: mpsc::Receiver<CircuitOffer>,
}

fn member(node: &Node) -> Member {
    Member::load(&node.dir.path().join("keys/node.key"), &node.dir.path().join("psk"), false).unwrap()
}

fn identity(node: &Node) -> PeerId {
    PeerId::new(node.handle.status().peer_id)
}

async fn listens_at(node: &Node) -> SocketAddr {
    let address: RelayAddress = node.address().await.parse().unwrap();
    SocketAddr::new(address.host.parse().unwrap(), address.port)
}

async fn mesh(listen: &str, change: impl FnOnce(&mut TunnelSettings)) -> Mesh {
    common::logging();
    let relay = start("relay", |settings| {
        settings.relay = true;
        settings.listen = vec![listen.parse().unwrap()];
        change(settings);
    });
    let address = relay.address().await;
    let behind = |settings: &mut TunnelSettings| {
        settings.relays = vec![address.parse().unwrap()];
        settings.listen = Vec::new();
        settings.punch = false;
    };
    let (a, b) = (start("a", behind), start("b", behind));
    a.relay_up().await;
    b.relay_up().await;
    relay.sees("a").await;
    relay.sees("b").await;
    let (at, id, offers) = (listens_at(&relay).await, identity(&relay), b.handle.take_circuit_offers());
    Mesh { relay, at, id, a, b, offers }
}

impl Mesh {
    async fn connect(&self) -> Result<TcpStream, CircuitError> {
        connect_circuit(self.at, &self.id, &identity(&self.b), &member(&self.a)).await
    }

    async fn accept(
        offers: &mut mpsc::Receiver<CircuitOffer>,
        b: &Member,
    ) -> Result<TcpStream, CircuitError> {
        let offer = tokio::time::timeout(LONG, offers.recv()).await.expect("offered").unwrap();
        accept_circuit(offer.addresses[0], &offer.relay, offer.token, b).await
    }

    async fn pair(&mut self) -> (TcpStream, TcpStream) {
        let (target, from, b) = (identity(&self.b), member(&self.a), member(&self.b));
        let (near, far) = tokio::join!(
            connect_circuit(self.at, &self.id, &target, &from),
            Self::accept(&mut self.offers, &b)
        );
        (near.unwrap(), far.unwrap())
    }

    fn circuits(&self) -> CircuitStatus {
        self.relay.handle.status().circuits.unwrap()
    }

    /// Counters have no event of their own.
    async fn until(&self, what: &str, holds: impl Fn(&CircuitStatus) -> bool) -> CircuitStatus {
        let reached = tokio::time::timeout(LONG, async {
            loop {
                let status = self.circuits();
                if holds(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("not reached: {what}; {:#?}", self.circuits()))
    }
}

fn refusal(result: Result<TcpStream, CircuitError>) -> Status {
    match result {
        Err(CircuitError::Refused(status)) => status,
        other => panic!("not refused: {other:?}"),
    }
}

async fn ended(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.expect("it ends").map(|_| rest)
}

fn is_reset(result: &std::io::Result<Vec<u8>>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn bytes_and_each_half_of_the_end_go_through() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut mesh = mesh(listen, |_| {}).await;
        let (mut near, mut far) = mesh.pair().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| (number / 7) as u8).collect();
        let ask = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            ended(&mut near).await.unwrap()
        };
        let answer = async {
            let got = ended(&mut far).await.unwrap();
            far.write_all(&got[..1_000_000]).await.unwrap();
            far.shutdown().await.unwrap();
            got
        };
        let (back, got) = tokio::join!(ask, answer);
        assert!(got == sent && back == sent[..1_000_000], "{listen}");
        let status = mesh.until("the circuit is over", |status| status.open == 0).await;
        assert_eq!((status.opened, status.bytes, status.pending), (1, 4_000_000, 0));
        assert!(status.refused.is_empty() && status.peers.is_empty(), "{status:?}");
    }
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    let mut mesh = mesh("127.0.0.1:0", |_| {}).await;
    for reverse in [false, true] {
        let (near, far) = mesh.pair().await;
        let (cut, mut left) = if reverse { (far, near) } else { (near, far) };
        edgemesh_net::socket::reset(cut);
        assert!(is_reset(&ended(&mut left).await), "{reverse}");
    }
    mesh.until("the circuits are over", |status| status.open == 0).await;
}

#[tokio::test]
async fn circuits_end_with_their_relay() {
    let mut mesh = mesh("127.0.0.1:0", |_| {}).await;
    let (mut near, mut far) = mesh.pair().await;
    mesh.relay.shutdown.cancel();
    assert!(is_reset(&ended(&mut near).await) && is_reset(&ended(&mut far).await));
}

#[tokio::test]
async fn a_drain_refuses_waits_and_ends() {
    let mut mesh = mesh("127.0.0.1:0", |_| {}).await;
    let (mut near, mut far) = mesh.pair().await;
    let handle = mesh.relay.handle.clone();
    let drained = tokio::spawn(async move { handle.drain_circuits(LONG).await });
    // The drain begins when its task first runs.
    tokio::task::yield_now().await;
    assert_eq!(refusal(mesh.connect().await), Status::Draining);
    near.write_all(b"goes on").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(ended(&mut far).await.unwrap(), b"goes on");
    assert!(!drained.is_finished());
    far.shutdown().await.unwrap();
    drained.await.unwrap();
    assert!(ended(&mut near).await.unwrap().is_empty());

    let mut hasty = self::mesh("127.0.0.1:0", |_| {}).await;
    let (mut near, mut far) = hasty.pair().await;
    hasty.relay.handle.drain_circuits(Duration::ZERO).await;
    assert!(is_reset(&ended(&mut near).await) && is_reset(&ended(&mut far).await));
}

#[tokio::test]
async fn a_peer_at_its_bound_is_refused_alone() {
    let mut mesh = mesh("127.0.0.1:0", |settings| settings.limits.relay_circuits_per_peer = 1).await;
    let held = mesh.pair().await;
    assert_eq!(refusal(mesh.connect().await), Status::PeerFull);
    let mut offers = mesh.a.handle.take_circuit_offers();
    let (a, b, target) = (member(&mesh.a), member(&mesh.b), identity(&mesh.a));
    let (other, met) =
        tokio::join!(connect_circuit(mesh.at, &mesh.id, &target, &b), Mesh::accept(&mut offers, &a));
    assert!(other.is_ok() && met.is_ok(), "{other:?} {met:?}");
    assert_eq!(mesh.circuits().refused.get("peer_full"), Some(&1));
    drop(held);
    mesh.until("the place is free", |status| status.open == 1).await;
    mesh.pair().await;
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let mut mesh = mesh("127.0.0.1:0", |_| {}).await;
    let (a, b) = (member(&mesh.a), member(&mesh.b));
    let nobody =
        Member::load(&mesh.a.dir.path().join("other.key"), &mesh.a.dir.path().join("psk"), false).unwrap();
    let to_nobody = connect_circuit(mesh.at, &mesh.id, nobody.peer(), &a).await;
    assert_eq!(refusal(to_nobody), Status::NoReservation);
    let to_itself = connect_circuit(mesh.at, &mesh.id, a.peer(), &a).await;
    assert_eq!(refusal(to_itself), Status::NoReservation);
    assert_eq!(refusal(connect_circuit(mesh.at, b.peer(), b.peer(), &a).await), Status::NotMember);
    assert_eq!(refusal(accept_circuit(mesh.at, &mesh.id, Token([0; 16]), &b).await), Status::Stale);

    let psk = mesh.a.dir.path().join("foreign");
    std::fs::write(&psk, "e".repeat(64)).unwrap();
    std::fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let stranger = Member::load(&mesh.a.dir.path().join("keys/node.key"), &psk, false).unwrap();
    assert_eq!(refusal(connect_circuit(mesh.at, &mesh.id, b.peer(), &stranger).await), Status::NotMember);

    // A third member that got hold of a token has nothing by it; afterwards the right one still does.
    // Offers of refused circuits were not made: the first is this one's.
    let (at, id) = (mesh.at, mesh.id.clone());
    let (near, far) = tokio::join!(connect_circuit(at, &id, b.peer(), &a), async {
        let offer = tokio::time::timeout(LONG, mesh.offers.recv()).await.expect("offered").unwrap();
        assert_eq!((&offer.relay, &offer.from), (&id, a.peer()));
        assert_eq!(refusal(accept_circuit(at, &id, offer.token, &nobody).await), Status::Stale);
        let far = accept_circuit(at, &id, offer.token, &b).await.unwrap();
        assert_eq!(refusal(accept_circuit(at, &id, offer.token, &b).await), Status::Stale);
        far
    });
    drop((near.unwrap(), far));

    assert_eq!(refusal(mesh.connect().await), Status::TargetTimeout);
    let late = mesh.offers.recv().await.unwrap();
    assert_eq!(refusal(accept_circuit(mesh.at, &mesh.id, late.token, &b).await), Status::Stale);

    let plain = start("plain", |_| {});
    let at = listens_at(&plain).await;
    assert_eq!(refusal(connect_circuit(at, &identity(&plain), b.peer(), &a).await), Status::NotARelay);
    assert!(plain.handle.status().circuits.is_none());
    let refused = mesh.circuits().refused;
    let expected =
        [("no_reservation", 2), ("not_member", 2), ("stale", 4), ("target_timeout", 1)].into_iter().collect();
    assert_eq!(refused, expected);
    assert_eq!(mesh.relay.handle.status().refused.psk_mismatch, 0, "none of it is a failed handshake");
}

#[tokio::test]
async fn the_relay_tells_what_it_sees() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mesh = mesh(listen, |_| {}).await;
        let a = member(&mesh.a);
        let seen = observe(mesh.at, &mesh.id, 0, &a).await.unwrap();
        assert_eq!(seen.ip(), mesh.at.ip());
        // A port that is listened on, as the one is that holes are punched from.
        let socket = if mesh.at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(SocketAddr::new(mesh.at.ip(), 0)).unwrap();
        let listener = socket.listen(1).unwrap();
        let own = listener.local_addr().unwrap();
        // Twice from one port: the first leaves nothing that keeps the port.
        for _ in 0..2 {
            assert_eq!(observe(mesh.at, &mesh.id, own.port(), &a).await.unwrap(), own);
        }
    }
}

#[tokio::test]
async fn five_hundred_circuits_at_once() {
    const MANY: usize = 500;
    let mut mesh = mesh("127.0.0.1:0", |settings| {
        settings.limits.relay_circuits_per_peer = 16 * MANY;
        settings.limits.relay_circuits = 16 * MANY;
    })
    .await;
    let (a, b, target) = (member(&mesh.a), member(&mesh.b), identity(&mesh.b));
    let (at, id) = (mesh.at, mesh.id.clone());
    let asking = futures::future::join_all((0..MANY).map(|_| connect_circuit(at, &id, &target, &a)));
    let accepting = async {
        let mut accepts = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            let offer = tokio::time::timeout(LONG, mesh.offers.recv()).await.expect("offered").unwrap();
            let b = b.clone();
            accepts.spawn(async move {
                let mut far =
                    accept_circuit(offer.addresses[0], &offer.relay, offer.token, &b).await.unwrap();
                let mut number = [0; 4];
                far.read_exact(&mut number).await.unwrap();
                far.write_all(&number).await.unwrap();
                assert!(ended(&mut far).await.unwrap().is_empty());
            });
        }
        accepts
    };
    let (near, mut accepts) = tokio::join!(asking, accepting);
    let mut near: Vec<TcpStream> = near.into_iter().map(Result::unwrap).collect();
    for (number, stream) in near.iter_mut().enumerate() {
        stream.write_all(&(number as u32).to_be_bytes()).await.unwrap();
    }
    for (number, stream) in near.iter_mut().enumerate() {
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, (number as u32).to_be_bytes(), "circuits are not mixed up");
    }
    assert_eq!(mesh.circuits().open, MANY);
    drop(near);
    while let Some(done) = accepts.join_next().await {
        done.unwrap();
    }
    let status = mesh.until("every circuit is over", |status| status.open == 0).await;
    assert_eq!((status.opened, status.bytes, status.pending), (MANY as u64, 8 * MANY as u64, 0));
}

/// Every length of a request's beginning, ended or left standing, is refused in time and leaves nothing.
#[tokio::test]
async fn hostile_bytes_are_bounded() {
    let mesh = mesh("127.0.0.1:0", |_| {}).await;
    let preface = Kind::Relay.preface();
    let garbage = [&[1, 0, 200][..], &[0x55; 200]].concat();
    let mut standing = Vec::new();
    for length in 0..preface.len() {
        let mut cut = TcpStream::connect(mesh.at).await.unwrap();
        cut.write_all(&preface[..length]).await.unwrap();
        cut.shutdown().await.unwrap();
        // libp2p's nonce may come where nothing says that it is none of its own; never a greeting.
        let got = ended(&mut cut).await.unwrap_or_default();
        assert!(got.len() != 1 + NONCE_LEN, "{length}: {got:?}");
    }
    for length in 0..garbage.len() {
        for end in [true, false] {
            let mut stream = TcpStream::connect(mesh.at).await.unwrap();
            stream.write_all(&preface).await.unwrap();
            stream.write_all(&garbage[..length]).await.unwrap();
            if end {
                stream.shutdown().await.unwrap();
            }
            standing.push(stream);
        }
    }
    for (bytes, answer) in [
        (&garbage[..], Status::Malformed),
        (&[2, 0, 1, 0], Status::Version),
        (&[1, 0xff, 0xff], Status::Malformed),
        (&[1, 0, 0], Status::Malformed),
    ] {
        let mut stream = TcpStream::connect(mesh.at).await.unwrap();
        stream.write_all(&preface).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let got = ended(&mut stream).await.unwrap();
        assert_eq!((got.len(), got.last()), (2 + NONCE_LEN, Some(&answer.encode())), "{bytes:?}");
    }
    for mut stream in standing {
        // A greeting, and the end within the request's time.
        let got = ended(&mut stream).await.unwrap_or_default();
        assert!(got.len() <= 2 + NONCE_LEN, "{got:?}");
    }
    let status = mesh.until("no handshake is left", |status| status.handshakes == 0).await;
    assert_eq!((status.open, status.pending, status.opened), (0, 0, 0));
    let refused: u64 = status.refused.values().sum();
    assert_eq!(refused, 2 * garbage.len() as u64 + 4, "{:?}", status.refused);
    assert!(observe(mesh.at, &mesh.id, 0, &member(&mesh.a)).await.is_ok(), "it serves on");
}

#[tokio::test]
async fn carriers_go_to_whoever_takes_them() {
    common::logging();
    let node = start("node", |_| {});
    let at = listens_at(&node).await;
    let dialled = async || {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // In two pieces: the look at the first must not decide.
        let preface = Kind::Carrier.preface();
        let (first, rest) = preface.split_at(4);
        stream.set_nodelay(true).unwrap();
        stream.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(rest).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream
    };
    let mut alone = dialled().await;
    assert!(ended(&mut alone).await.is_ok(), "what is no handshake ends");
    let mut carriers = node.handle.take_carriers();
    let near = dialled().await;
    let mut carrier = tokio::time::timeout(LONG, carriers.recv()).await.expect("taken").unwrap();
    assert_eq!(carrier.remote, near.local_addr().unwrap());
    let mut got = [0; 5];
    carrier.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello", "without the preface");
    assert_eq!(node.handle.status().refused.psk_mismatch, 0);
}
