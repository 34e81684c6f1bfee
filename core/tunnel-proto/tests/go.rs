//! What Go agents do, as they do it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_api::Name;
use edgemesh_tunnel_proto::{
    Action, Address, ConnId, DialTo, Discovery, Enrolment, Failure, Frame, GoMessageError, IdentityPolicy,
    IdentitySpec, Input, LinkKind, MAX_GO_MESSAGE, MessageType, PeerId, PeerRecord, Proof, Proxy,
    RelayTarget, Report, Sign, SignedRecord, TokenId, TunnelSpec, TunnelState, Way, identity_seed,
    private_network_key,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn seeds_of_identities() {
    for (node, seed) in [
        ("k8s-master", "a58a62add392dcc52ed5fb5d2a0a9f13249500dfb994ee1b31499254d5204176"),
        ("k8s-node1", "68e922d61a87c70f5e944c3a9670fa5f39baafdf9d33e79a80d722700d791bef"),
        ("ke-edge1", "9b799f5e98f58c7502979e0b371a45111e4bef55ac03b0aa91a1d169278d01d3"),
        ("ke-edge2", "2af926ba2db3d2db3d6d2790f4be48e1ca92146e64a05d10e76637ca40d326ac"),
        ("k8s-master-gateway", "1561afc6d3c25a55ca05905105f3b0b6b91a4bf36fbec52d580c818a674ca0c0"),
    ] {
        assert_eq!(hex(&identity_seed(node)), seed, "{node}");
    }
}

#[test]
fn keys_of_private_networks() {
    let file = b"JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=";
    let key = "ef4d5fdb6d1b75ad1b7bc79a7b7f5e69ed77ddfdf8ddee3579de5bf35d1b7bdd";
    assert_eq!(hex(&private_network_key(file)), key);
    assert_ne!(hex(&private_network_key(&[&file[..], b"\n"].concat())), key, "a newline counts");
}

#[test]
fn messages_on_the_wire() {
    let discovery =
        Discovery { kind: MessageType::Connect, protocol: "MDNS".into(), node: "ke-edge1".into() };
    let bytes = b"\x12\x08\x00\x12\x04MDNS\x1a\x08ke-edge1";
    assert_eq!(discovery.encode().unwrap(), bytes);
    assert_eq!(Discovery::decode(bytes), Ok(Some((discovery, bytes.len()))));

    let proxy = Proxy {
        kind: MessageType::Success,
        protocol: "tcp".into(),
        node: "ke-edge1".into(),
        ip: "10.0.0.1".into(),
        port: 8080,
    };
    let bytes = b"\x1e\x08\x01\x12\x03tcp\x1a\x08ke-edge1\x22\x0810.0.0.1\x28\x90\x3f";
    assert_eq!(proxy.encode().unwrap(), bytes);
    assert_eq!(Proxy::decode(bytes), Ok(Some((proxy, bytes.len()))));

    let refused = Proxy { kind: MessageType::Failed, ..Proxy::default() };
    assert_eq!(Proxy::decode(&Proxy::FAILED), Ok(Some((refused, 3))));
}

#[test]
fn messages_in_pieces_and_with_more_behind() {
    let message = Proxy { node: "n".repeat(300), port: -1, ..Proxy::default() };
    let mut bytes = message.encode().unwrap();
    let length = bytes.len();
    bytes.extend_from_slice(b"payload");
    for end in 0..length {
        assert_eq!(Proxy::decode(&bytes[..end]), Ok(None), "{end}");
    }
    assert_eq!(Proxy::decode(&bytes), Ok(Some((message, length))));
}

#[test]
fn what_is_no_message() {
    let too_long = Discovery { node: "n".repeat(MAX_GO_MESSAGE), ..Discovery::default() };
    assert_eq!(too_long.encode(), None);
    for (bytes, error) in [
        (&b"\x81\x20"[..], GoMessageError::TooLong),
        (b"\xff\xff\x03", GoMessageError::TooLong),
        (b"\x02\x08\x03", GoMessageError::Malformed),
        (b"\x02\x0a\x00", GoMessageError::Malformed),
        (b"\x02\x12\x05", GoMessageError::Malformed),
        (b"\x03\x1a\x01\xff", GoMessageError::Malformed),
        (b"\x01\x33", GoMessageError::Malformed),
        (b"\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", GoMessageError::Malformed),
    ] {
        assert_eq!(Discovery::decode(bytes), Err(error), "{bytes:?}");
        assert_eq!(Proxy::decode(bytes), Err(error), "{bytes:?}");
    }
    let unknown = b"\x0c\x32\x01x\x39\0\0\0\0\0\0\0\0";
    assert_eq!(
        Discovery::decode(unknown),
        Ok(Some((Discovery::default(), 13))),
        "unknown fields are skipped"
    );
}

struct NoKey;

impl Sign for NoKey {
    fn sign(&self, body: Bytes) -> SignedRecord {
        SignedRecord { body, key: Bytes::new(), signature: Bytes::new() }
    }
}

/// A tunnel on node `here`, connected to a Go agent by connection 1 and to one of its own kind by connection 2.
fn tunnel(now: Instant) -> TunnelState {
    tunnel_with(IdentitySpec::default(), now)
}

fn tunnel_with(identity: IdentitySpec, now: Instant) -> TunnelState {
    let spec = TunnelSpec {
        node: Some("here".into()),
        peer: PeerId::new("own"),
        zone: None,
        version: "test".into(),
        relay: false,
        relays: Vec::new(),
        sequence: 1,
        seed: 1,
        identity,
    };
    let mut state = TunnelState::new(spec, Box::new(NoKey), now);
    for (conn, peer) in [(1, "derived"), (2, "real")] {
        let address = Address::new(format!("/ip4/192.0.2.{conn}/tcp/20006"));
        let (conn, peer) = (ConnId(conn), PeerId::new(peer));
        state.handle(Input::Connected { conn, peer, kind: LinkKind::Direct, address, dial: None }, now);
    }
    state.handle(Input::Legacy { conn: ConnId(1) }, now);
    state
}

fn record(node: &str) -> Input {
    let record = PeerRecord {
        node: Some(node.into()),
        peer: PeerId::new("real"),
        addresses: Vec::new(),
        relays: Vec::new(),
        zone: None,
        sequence: 1,
        version: "test".into(),
        proof: Proof::default(),
    };
    let signed = NoKey.sign(record.encode().expect("the record is short"));
    Input::Record { conn: ConnId(2), record: record.into(), signed, claim: Box::default() }
}

fn reports(state: &mut TunnelState) -> Vec<Report> {
    std::iter::from_fn(|| state.poll_action())
        .filter_map(|action| if let Action::Report(report) = action { Some(report) } else { None })
        .filter(|report| matches!(report, Report::NameConflict { .. }))
        .collect()
}

#[test]
fn a_derived_identity_never_replaces_a_real_one() {
    let now = Instant::now();
    let claim = || Input::Claimed { conn: ConnId(1), node: "node".into() };
    let vouched = || Input::Mesh {
        nodes: BTreeSet::new(),
        vouched: BTreeMap::from([("node".into(), PeerId::new("real"))]),
    };
    for (inputs, speaks, conflicts) in [
        (vec![claim()], Some("derived"), 0),
        (vec![record("node"), claim()], Some("real"), 1),
        (vec![claim(), record("node")], Some("real"), 0),
        (vec![record("node"), claim(), claim()], Some("real"), 1),
        (vec![vouched(), claim()], Some("real"), 1),
        (vec![claim(), vouched()], Some("real"), 0),
        (vec![record("other"), claim()], Some("derived"), 0),
        (vec![Input::Claimed { conn: ConnId(2), node: "node".into() }], None, 0),
        (vec![Input::Suspected { node: "node".into(), peer: PeerId::new("derived") }], None, 0),
        (vec![Input::Claimed { conn: ConnId(1), node: "here".into() }], None, 1),
    ] {
        let what = format!("{inputs:?}");
        let mut state = tunnel(now);
        for input in inputs {
            state.handle(input, now);
        }
        assert_eq!(state.peer_of("node").map(PeerId::as_str), speaks, "{what}");
        assert_eq!(state.peer_of("here").map(PeerId::as_str), Some("own"), "{what}");
        let derived = state.node_of(&PeerId::new("derived")).map(|name| &**name);
        assert_eq!(derived, (speaks == Some("derived")).then_some("node"), "{what}");
        assert_eq!(reports(&mut state).len(), conflicts, "{what}");
    }
}

#[test]
fn a_derived_identity_is_no_proof() {
    let enrolled = |node: &str| {
        let token = TokenId([1; 16]);
        vec![Enrolment { node: node.into(), owner: PeerId::new("real"), token, issued: 1 }]
    };
    let vouched = BTreeMap::from([(Name::from("node"), PeerId::new("derived"))]);
    for (policy, enrolled, vouched, believed) in [
        (IdentityPolicy::Off, vec![], BTreeMap::new(), true),
        (IdentityPolicy::Prefer, vec![], BTreeMap::new(), true),
        (IdentityPolicy::Prefer, enrolled("other"), BTreeMap::new(), true),
        // Its owner may be away for now.
        (IdentityPolicy::Prefer, enrolled("node"), BTreeMap::new(), false),
        (IdentityPolicy::Require, vec![], BTreeMap::new(), false),
        (IdentityPolicy::Require, vec![], vouched, true),
    ] {
        let what = format!("{policy:?} {enrolled:?} {vouched:?}");
        let now = Instant::now();
        let mut state = tunnel_with(IdentitySpec { policy, enrolled, ..IdentitySpec::default() }, now);
        state.handle(Input::Mesh { nodes: BTreeSet::new(), vouched }, now);
        state.handle(Input::Claimed { conn: ConnId(1), node: "node".into() }, now);
        let derived = PeerId::new("derived");
        assert_eq!(state.peer_of("node") == Some(&derived), believed, "{what}");
        assert_eq!(state.node_of(&derived).is_some(), believed, "{what}");
        assert_eq!(reports(&mut state).len(), usize::from(!believed), "{what}");
    }
}

#[test]
fn a_go_agent_is_sent_no_frames_and_not_taken_for_dead() {
    let mut now = Instant::now();
    let mut state = tunnel(now);
    state.handle(Input::Claimed { conn: ConnId(1), node: "node".into() }, now);
    while state.poll_action().is_some() {}
    let mut asked = BTreeSet::new();
    for _ in 0..30 {
        now += Duration::from_secs(1);
        state.handle_timeout(now);
        while let Some(action) = state.poll_action() {
            match action {
                Action::Send { conn, .. } => drop(asked.insert(conn)),
                Action::Close { conn } => assert_eq!(conn, ConnId(2), "the other's silence is death"),
                _ => {}
            }
        }
    }
    assert_eq!(asked, BTreeSet::from([ConnId(2)]));
    assert_eq!(state.best("node").map(|(conn, _)| conn), Some(ConnId(1)));
}

#[test]
fn a_suspected_agent_is_looked_for_behind_relays() {
    let now = Instant::now();
    let mut state = tunnel(now);
    let address = Address::new("/ip4/192.0.2.9/tcp/20006");
    let relays = vec![RelayTarget { address: address.clone(), peer: Some(PeerId::new("relay")) }];
    state.handle(Input::Relays { relays }, now);
    let later = now + Duration::from_secs(1);
    state.handle_timeout(later);
    let dial = std::iter::from_fn(|| state.poll_action()).find_map(|action| match action {
        Action::Dial { dial, to: DialTo::Relay { .. } } => Some(dial),
        _ => None,
    });
    let (conn, peer) = (ConnId(3), PeerId::new("relay"));
    state.handle(Input::Connected { conn, peer, kind: LinkKind::Direct, address, dial }, later);
    state.handle(Input::Identified { conn }, later);
    state.handle(Input::Suspected { node: "node".into(), peer: PeerId::new("derived2") }, later);
    state.handle(Input::Demand { node: "node".into() }, later);
    let mut circuits = Vec::new();
    for _ in 0..3 {
        state.handle_timeout(later);
        circuits.extend(std::iter::from_fn(|| state.poll_action()).filter_map(|action| match action {
            Action::Dial { to: DialTo::Circuit { addresses, .. }, .. } => Some(addresses),
            _ => None,
        }));
    }
    let circuit = Address::new("/ip4/192.0.2.9/tcp/20006/p2p/relay/p2p-circuit/p2p/derived2");
    assert_eq!(circuits, [[circuit]]);
}

/// The carriers that are tried in ten seconds in which the node is asked for, each in vain.
fn carrying(state: &mut TunnelState, mut now: Instant) -> Vec<Way> {
    let mut ways = Vec::new();
    for _ in 0..10 {
        now += Duration::from_secs(1);
        state.handle(Input::Demand { node: "node".into() }, now);
        state.handle_timeout(now);
        while let Some(action) = state.poll_action() {
            if let Action::Carry { way, attempt, peer } = action {
                ways.push(way);
                let failed = Input::CarryFailed { attempt, peer, failure: Failure::Denied };
                state.handle(failed, now);
            }
        }
    }
    ways
}

#[test]
fn carriers_are_for_agents_of_this_kind_only() {
    let forged = || {
        let Input::Record { mut record, .. } = record("node") else { unreachable!("it is a record") };
        record.peer = PeerId::new("derived");
        let signed = NoKey.sign(record.encode().expect("the record is short"));
        Input::Record { conn: ConnId(1), record, signed, claim: Box::default() }
    };
    let call = |conn| Input::Frame { conn: ConnId(conn), frame: Frame::CallMe };
    for (inputs, expected) in [
        (vec![Input::Claimed { conn: ConnId(1), node: "node".into() }, call(1)], vec![]),
        // Whoever has the name can make the key, and sign with it.
        (vec![forged(), call(1)], vec![]),
        (vec![record("node"), call(2)], vec![Way::Substream(ConnId(2))]),
    ] {
        let what = format!("{inputs:?}");
        let now = Instant::now();
        let mut state = tunnel(now);
        for input in inputs {
            state.handle(input, now);
        }
        assert_eq!(carrying(&mut state, now), expected, "{what}");
    }
}

#[test]
fn a_go_relay_makes_no_circuits_of_ours() {
    for legacy in [false, true] {
        let now = Instant::now();
        let mut state = tunnel(now);
        let address = Address::new("/ip4/192.0.2.9/tcp/20006");
        let relays = vec![RelayTarget { address: address.clone(), peer: Some(PeerId::new("relay")) }];
        state.handle(Input::Relays { relays }, now);
        let later = now + Duration::from_secs(1);
        state.handle_timeout(later);
        let dial = std::iter::from_fn(|| state.poll_action()).find_map(|action| match action {
            Action::Dial { dial, to: DialTo::Relay { .. } } => Some(dial),
            _ => None,
        });
        let (conn, peer) = (ConnId(3), PeerId::new("relay"));
        state.handle(Input::Connected { conn, peer, kind: LinkKind::Direct, address, dial }, later);
        state.handle(Input::Identified { conn }, later);
        if legacy {
            state.handle(Input::Legacy { conn }, later);
        }
        let Input::Record { mut record, .. } = record("node") else { unreachable!("it is a record") };
        record.relays = vec![Address::new("/ip4/192.0.2.9/tcp/20006/p2p/relay")];
        let signed = NoKey.sign(record.encode().expect("the record is short"));
        let claim = Box::default();
        state.handle(Input::Record { conn: ConnId(2), record, signed, claim }, later);
        // The peer calls, so that this side makes carriers.
        state.handle(Input::Frame { conn: ConnId(2), frame: Frame::CallMe }, later);
        let circuits = carrying(&mut state, later).into_iter();
        let circuits = circuits.filter(|way| matches!(way, Way::Circuit { .. })).count();
        assert_eq!(circuits > 0, !legacy, "legacy: {legacy}");
    }
}
