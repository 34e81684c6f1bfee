//! Which carriers are made, by which side, and what follows when they fail or end.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that uses it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::{
    Action, Address, AttemptId, CarryId, ConnId, DialId, Failure, Frame, IdentitySpec, Input, LinkKind,
    PeerId, PeerRecord, Proof, Sign, SignedRecord, TunnelSpec, TunnelState, Way,
};

struct NoKey;

impl Sign for NoKey {
    fn sign(&self, body: Bytes) -> SignedRecord {
        SignedRecord { body, key: Bytes::new(), signature: Bytes::new() }
    }
}

const RELAY: &str = "/ip4/192.0.2.9/tcp/20006/p2p/RelayOne";
const OTHER: &str = "/ip4/192.0.2.8/tcp/20006/p2p/RelayTwo";

/// A node `a`, connected to a node `b` in some way.
struct Node {
    state: TunnelState,
    now: Instant,
}

impl Node {
    fn new(relays: &[&str], kind: LinkKind, ours: bool) -> Self {
        let now = Instant::now();
        let spec = TunnelSpec {
            node: Some("a".into()),
            peer: PeerId::new("PeerA"),
            zone: None,
            version: "test".into(),
            relay: false,
            relays: Vec::new(),
            sequence: 1,
            seed: 1,
            identity: IdentitySpec::default(),
        };
        let mut node = Self { state: TunnelState::new(spec, Box::new(NoKey), now), now };
        node.tell(Input::Listening { addresses: Vec::new() });
        node.pass(Duration::from_secs(1));
        node.tell(Input::Connected {
            conn: ConnId(1),
            peer: PeerId::new("PeerB"),
            kind,
            address: Address::new("/ip4/192.0.2.2/tcp/20006"),
            dial: ours.then_some(DialId(7)),
        });
        let record = PeerRecord {
            node: Some("b".into()),
            peer: PeerId::new("PeerB"),
            addresses: Vec::new(),
            relays: relays.iter().map(|relay| Address::new(*relay)).collect(),
            zone: None,
            sequence: 1,
            version: "test".into(),
            proof: Proof::default(),
        };
        let signed = NoKey.sign(record.encode().unwrap());
        node.tell(Input::Record { conn: ConnId(1), record: Box::new(record), signed, claim: Box::default() });
        node.actions();
        node
    }

    fn tell(&mut self, input: Input) {
        self.state.handle(input, self.now);
    }

    fn want(&mut self) {
        let nodes = BTreeSet::from(["b".into()]);
        self.tell(Input::Mesh { nodes, vouched: BTreeMap::new() });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.state.handle_timeout(self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        self.state.handle_timeout(self.now);
        std::iter::from_fn(|| self.state.poll_action()).collect()
    }

    /// The carriers that are asked for, in words, each with its attempt.
    fn asked(&mut self) -> Vec<(String, AttemptId, Way)> {
        let carry = |action| match action {
            Action::Carry { attempt, way, .. } => Some((word(&way), attempt, way)),
            Action::Send { frame: Frame::CallMe, .. } => {
                Some(("call".to_owned(), AttemptId(0), Way::Substream(ConnId(0))))
            }
            Action::EndCarrier { carrier } => {
                Some((format!("end {}", carrier.0), AttemptId(0), Way::Substream(ConnId(0))))
            }
            _ => None,
        };
        self.actions().into_iter().filter_map(carry).collect()
    }

    fn words(&mut self) -> Vec<String> {
        self.asked().into_iter().map(|(word, _, _)| word).collect()
    }

    fn up(&mut self, carrier: u64, attempt: Option<AttemptId>, way: Way) {
        let peer = PeerId::new("PeerB");
        self.tell(Input::CarrierUp { carrier: CarryId(carrier), attempt, peer, way });
    }
}

fn word(way: &Way) -> String {
    match way {
        Way::Substream(conn) => format!("substream {}", conn.0),
        Way::Direct { path, .. } => format!("tls {path}"),
        Way::Circuit { relay, .. } => format!("circuit {relay}"),
    }
}

#[test]
fn the_carriers_of_a_peer() {
    let relayed = || LinkKind::Relayed(Some(PeerId::new("RelayOne")));
    for (name, relays, kind, ours, expected) in [
        ("a LAN peer we dialled", &[][..], LinkKind::Lan, true, &["substream 1", "tls lan"][..]),
        ("one that dialled us is asked", &[], LinkKind::Direct, false, &["call"]),
        ("a punched path carries as it is", &[], LinkKind::Punched, true, &["substream 1"]),
        (
            "two relays are kept where there is nothing else",
            &[RELAY, OTHER],
            relayed(),
            true,
            &["substream 1", "circuit RelayOne", "circuit RelayTwo"],
        ),
        ("whoever dialled the circuit makes the carriers", &[RELAY], relayed(), false, &["call"]),
    ] {
        let mut node = Node::new(relays, kind, ours);
        assert_eq!(node.words(), Vec::<String>::new(), "{name}: nobody wants the peer yet");
        node.want();
        assert_eq!(node.words(), expected, "{name}");
        assert_eq!(node.words(), Vec::<String>::new(), "{name}: once");
    }
}

#[test]
fn a_peer_that_calls_gets_carriers_though_nobody_here_wants_it() {
    let mut node = Node::new(&[], LinkKind::Lan, true);
    node.tell(Input::Frame { conn: ConnId(1), frame: Frame::CallMe });
    assert_eq!(node.words(), ["substream 1", "tls lan"]);
}

#[test]
fn a_direct_carrier_leaves_one_circuit_in_reserve() {
    let mut node = Node::new(&[RELAY, OTHER], LinkKind::Lan, true);
    node.want();
    let asked = node.asked();
    let words: Vec<&str> = asked.iter().map(|(word, _, _)| word.as_str()).collect();
    assert_eq!(words, ["substream 1", "tls lan", "circuit RelayOne", "circuit RelayTwo"]);
    for (number, (_, attempt, way)) in (1..).zip(asked) {
        node.up(number, Some(attempt), way);
    }
    assert_eq!(node.words(), Vec::<String>::new(), "not at once: the direct way may not last");
    node.pass(Duration::from_secs(31));
    let words = node.words();
    assert!(words.contains(&"end 4".to_owned()) && !words.contains(&"end 3".to_owned()), "{words:?}");
}

#[test]
fn a_way_that_fails_is_tried_again_ever_more_slowly() {
    let mut node = Node::new(&[], LinkKind::Lan, true);
    node.want();
    let mut tries = 0;
    for turn in 0..600 {
        for (word, attempt, way) in node.asked() {
            match way {
                Way::Substream(_) => node.up(1, Some(attempt), way),
                _ => {
                    assert_eq!(word, "tls lan");
                    tries += 1;
                    let peer = PeerId::new("PeerB");
                    node.tell(Input::CarryFailed { attempt, peer, failure: Failure::Unreachable });
                }
            }
        }
        node.tell(Input::Activity { conn: ConnId(1), streams: 0, received: turn });
        node.pass(Duration::from_millis(100));
    }
    // 0.25, 0.5, 1, 2, 4, 8, 16, 30 s apart within a minute.
    assert!((7..=10).contains(&tries), "{tries} tries in a minute");
}

#[test]
fn what_is_open_keeps_its_carriers_though_nobody_asks_any_more() {
    let mut node = Node::new(&[], LinkKind::Lan, false);
    let peer = PeerId::new("PeerB");
    node.up(1, None, Way::Substream(ConnId(1)));
    node.up(2, None, Way::Direct { address: None, path: Path::Lan });
    node.tell(Input::SessionLoad { peer: peer.clone(), streams: 1 });
    assert_eq!(node.words(), Vec::<String>::new());
    node.tell(Input::CarrierDown { carrier: CarryId(2), peer, dead: true });
    assert_eq!(node.words(), ["call"], "the peer dialled: it makes the next one");
}

#[test]
fn the_path_of_a_node_is_that_of_what_carries() {
    let mut node = Node::new(&[RELAY], LinkKind::Relayed(None), true);
    node.want();
    node.actions();
    assert_eq!(node.state.paths().path("b"), Path::Relayed);
    node.up(1, None, Way::Direct { address: None, path: Path::Direct });
    node.actions();
    assert_eq!(node.state.paths().path("b"), Path::Direct);
    node.tell(Input::CarrierDown { carrier: CarryId(1), peer: PeerId::new("PeerB"), dead: false });
    node.actions();
    assert_eq!(node.state.paths().path("b"), Path::Relayed);
}
