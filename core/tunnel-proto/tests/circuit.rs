//! Circuits: what travels before their bytes, and what a relay grants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_tunnel_proto::circuit::{
    ACCEPT_WAIT, CircuitAnswer, CircuitLimits, CircuitTable, Greeting, GreetingError, Kind, MAX_ANSWER,
    MAX_REQUEST, Op, PeerUse, Request, RequestError, Sniff, Status, Token, sniff,
};
use edgemesh_tunnel_proto::{Frame, FrameError, PeerId};
use proptest::prelude::*;

fn peer(name: &str) -> PeerId {
    PeerId::new(name)
}

fn token(number: u8) -> Token {
    Token([number; 16])
}

fn request(op: Op) -> Request {
    Request {
        op,
        peer: peer("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"),
        key: Bytes::from_static(&[1; 36]),
        signature: Bytes::from_static(&[2; 64]),
        mac: [3; 32],
    }
}

#[test]
fn first_bytes_tell_whose_a_connection_is() {
    for kind in [Kind::Carrier, Kind::Relay] {
        let preface = kind.preface();
        for end in 0..preface.len() {
            assert_eq!(sniff(&preface[..end]), Sniff::Undecided, "{end}");
            let mut other = preface;
            other[end] ^= 0x80;
            let expected = if end == 8 { Sniff::Unknown } else { Sniff::Foreign };
            assert_eq!(sniff(&other), expected, "{end}");
            assert_eq!(sniff(&other[..=end]), expected, "by the first byte that differs");
        }
        assert_eq!(sniff(&preface), Sniff::Ours(kind));
        assert_eq!(sniff(&[&preface[..], b"more"].concat()), Sniff::Ours(kind));
    }
}

#[test]
fn requests() {
    let longest = "a".repeat(64);
    let largest = Request {
        peer: peer(&longest),
        key: vec![1; 255].into(),
        signature: vec![2; 255].into(),
        ..request(Op::Connect(peer(&longest)))
    };
    for (request, len) in [
        (request(Op::Observe), 3 + 1 + 53 + 37 + 65 + 32),
        (request(Op::Accept(token(7))), 3 + 1 + 16 + 53 + 37 + 65 + 32),
        (request(Op::Connect(peer("b"))), 3 + 1 + 2 + 53 + 37 + 65 + 32),
        (largest, MAX_REQUEST),
    ] {
        let mut bytes = request.encode().unwrap();
        assert_eq!(bytes.len(), len, "{request:?}");
        for end in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..end]), Ok(None), "{request:?} cut at {end}");
        }
        bytes.extend_from_slice(b"what follows is the other end's");
        assert_eq!(Request::decode(&bytes), Ok(Some((request, len))));
    }
}

#[test]
fn what_is_no_request() {
    let good = request(Op::Connect(peer("b"))).encode().unwrap();
    let with = |index: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[index] = byte;
        bytes
    };
    for (bytes, expected, status) in [
        (with(0, 2), RequestError::Version, Status::Version),
        (with(1, 0xff), RequestError::TooLong, Status::Malformed),
        (with(2, good[2] - 1), RequestError::Length, Status::Malformed),
        ([with(2, good[2] + 1), vec![0]].concat(), RequestError::Length, Status::Malformed),
        (with(3, 0), RequestError::Operation, Status::Malformed),
        (with(3, 4), RequestError::Operation, Status::Malformed),
        (with(4, 0), RequestError::Field, Status::Malformed),
        (with(5, b'/'), RequestError::Field, Status::Malformed),
        (with(5, 0xff), RequestError::Field, Status::Malformed),
        (vec![1, 0, 0], RequestError::Length, Status::Malformed),
    ] {
        assert_eq!(Request::decode(&bytes), Err(expected), "{bytes:?}");
        assert_eq!(expected.status(), status);
    }
    for bad in [
        request(Op::Connect(peer(""))),
        request(Op::Connect(peer("with space"))),
        Request { peer: peer(&"a".repeat(65)), ..request(Op::Observe) },
        Request { key: vec![0; 256].into(), ..request(Op::Observe) },
        Request { signature: vec![0; 256].into(), ..request(Op::Observe) },
    ] {
        assert_eq!(bad.encode(), Err(RequestError::Field), "{bad:?}");
    }
}

/// Whatever a request says is covered, and the two ways of covering it are not each other's.
#[test]
fn everything_is_covered() {
    let (nonce, relay) = ([9; 32], peer("relay"));
    let base = request(Op::Connect(peer("b")));
    let signed = base.signed(&nonce, &relay).unwrap();
    assert_ne!(signed, base.authenticated(&nonce, &relay).unwrap());
    for (what, other) in [
        ("nonce", base.signed(&[8; 32], &relay)),
        ("relay", base.signed(&nonce, &peer("other"))),
        ("target", request(Op::Connect(peer("c"))).signed(&nonce, &relay)),
        ("operation", request(Op::Observe).signed(&nonce, &relay)),
        ("peer", Request { peer: peer("a"), ..base.clone() }.signed(&nonce, &relay)),
        ("key", Request { key: Bytes::new(), ..base.clone() }.signed(&nonce, &relay)),
    ] {
        assert_ne!(other.unwrap(), signed, "{what}");
    }
    let unsigned = Request { signature: Bytes::new(), mac: [0; 32], ..base };
    assert_eq!(unsigned.signed(&nonce, &relay).unwrap(), signed);
}

#[test]
fn words_of_a_relay() {
    for (code, status) in Status::ALL.into_iter().enumerate() {
        assert_eq!((usize::from(status.encode()), Status::decode(status.encode())), (code, Some(status)));
    }
    assert_eq!(Status::decode(11), None);
    let greetings = [Greeting::Nonce([5; 32])].into_iter();
    for greeting in greetings.chain(Status::ALL[1..].iter().copied().map(Greeting::Refused)) {
        let bytes = greeting.encode();
        for end in 0..bytes.len() {
            assert_eq!(Greeting::decode(&bytes[..end]), Ok(None), "{greeting:?}");
        }
        assert_eq!(Greeting::decode(&bytes), Ok(Some(greeting)));
        assert_eq!(Greeting::decode(&[&bytes[..], b"x"].concat()), Err(GreetingError));
    }
    assert_eq!(Greeting::decode(b"H"), Err(GreetingError));
    for address in ["192.0.2.1:7", "[2001:db8::1]:65535"] {
        let answer = CircuitAnswer::Observed(address.parse().unwrap());
        let bytes = answer.encode();
        assert!(bytes.len() <= MAX_ANSWER);
        for end in 0..bytes.len() {
            assert_eq!(CircuitAnswer::decode_observed(&bytes[..end]), Ok(None));
        }
        assert_eq!(CircuitAnswer::decode_observed(&bytes), Ok(Some(answer)));
    }
    let refused = CircuitAnswer::Status(Status::NotMember);
    assert_eq!(CircuitAnswer::decode_observed(&refused.encode()), Ok(Some(refused)));
    for bad in [&[0, 5][..], &[99]] {
        assert_eq!(CircuitAnswer::decode_observed(bad), Err(GreetingError));
    }
}

#[test]
fn the_frame_of_an_offer() {
    let frame = Frame::Circuit { token: token(7), from: peer("a") };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    assert_eq!(Frame::decode(&bytes), Ok(Some((Some(frame), 3 + 16 + 1))));
    for body in [0, 15, 16] {
        let bytes = [&[5, 0, body][..], &vec![7; usize::from(body)]].concat();
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed), "{body}");
    }
}

fn limits() -> CircuitLimits {
    CircuitLimits {
        circuits: 4,
        per_peer: 3,
        per_target: 3,
        per_pair: 2,
        pending: 3,
        pending_per_peer: 2,
        handshakes: 2,
    }
}

/// Runs a history against a table: `a>b` asks, `+b` comes for the oldest that waits for b, `-` ends the oldest open
/// circuit, `x` gives up the oldest that waits, `!` drains; each with the expected word.
fn check(history: &str) {
    let now = Instant::now();
    let mut table = CircuitTable::new(limits());
    let (mut waiting, mut open) = (Vec::new(), Vec::new());
    for (number, step) in history.split_whitespace().enumerate() {
        let (step, expected) = step.split_once('=').unwrap_or((step, "ok"));
        let word = |result: Result<(), Status>| result.err().unwrap_or(Status::Ok).as_str();
        let got = if let Some((from, to)) = step.split_once('>') {
            let token = token(number as u8);
            let asked = table.connect(peer(from), peer(to), token, now);
            word(asked.map(|id| waiting.push((id, token, to.to_owned()))))
        } else if let Some(to) = step.strip_prefix('+') {
            let place = waiting.iter().position(|(_, _, other)| other == to).expect("one waits");
            let (id, token, _) = waiting.remove(place);
            let accepted = table.accept(&token, &peer(to), now);
            assert!(accepted.is_err() || accepted == Ok(id), "{history}");
            word(accepted.map(|id| open.push(id)))
        } else {
            match step {
                "-" => table.end(open.remove(0), 10),
                "x" => assert!(table.give_up(waiting.remove(0).0, Status::TargetTimeout), "{history}"),
                "!" => table.drain(),
                _ => unreachable!("{step}"),
            }
            "ok"
        };
        assert_eq!(got, expected, "step {number} ({step}) of {history}");
        assert_eq!((table.totals().open, table.totals().pending), (open.len(), waiting.len()), "{history}");
        assert_eq!(table.circuits().count(), open.len() + waiting.len());
    }
    for (id, ..) in waiting.drain(..) {
        table.give_up(id, Status::TargetTimeout);
    }
    for id in open.drain(..) {
        table.end(id, 0);
    }
    assert!(table.is_empty(), "{history}");
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(table.usage(&peer(name)), PeerUse::default(), "{history}: nothing of {name} is left");
    }
}

#[test]
fn what_is_granted() {
    for history in [
        "a>b +b -",
        "a>a=no_reservation",
        // Each bound refuses the one peer, and others go on.
        "a>b a>c a>d=peer_full c>d",
        "a>b +b a>b +b a>b=peer_full a>c +c a>d=peer_full c>b",
        "a>d +d b>d +d c>d +d e>d=peer_full d>a",
        // The relay's own bounds.
        "a>b b>c c>d d>e=full +b d>e a>c=full",
        "a>b +b b>c +c c>d +d d>a +a e>a=full - e>a",
        // What ends gives its place back.
        "a>b a>b x a>b x a>b",
        "a>b +b a>b +b - a>b +b - - a>b",
        // A drain lets what waits come.
        "a>b ! +b a>c=draining -",
    ] {
        check(history);
    }
}

#[test]
fn a_token_is_for_one_peer_once_and_for_a_time() {
    let now = Instant::now();
    let late = now + ACCEPT_WAIT;
    let mut table = CircuitTable::new(limits());
    let id = table.connect(peer("a"), peer("b"), token(1), now).unwrap();
    for (number, from, at) in [(2, "b", now), (1, "a", now), (1, "c", now), (1, "b", late)] {
        assert_eq!(table.accept(&token(number), &peer(from), at), Err(Status::Stale), "{number} {from}");
    }
    assert_eq!(table.connect(peer("c"), peer("b"), token(1), now), Err(Status::Full), "a token in use");
    let just = late - Duration::from_nanos(1);
    assert_eq!(table.accept(&token(1), &peer("b"), just), Ok(id));
    assert_eq!(table.accept(&token(1), &peer("b"), just), Err(Status::Stale));
    assert!(!table.give_up(id, Status::TargetTimeout), "it is open");
    table.end(id, 7);
    table.end(id, 7);
    let other = table.connect(peer("a"), peer("b"), token(1), now).unwrap();
    table.end(other, 7);
    assert!(table.give_up(other, Status::TargetTimeout) && !table.give_up(other, Status::TargetTimeout));
    let totals = table.totals();
    assert_eq!((totals.open, totals.pending, totals.opened, totals.carried), (0, 0, 1, 7));
    let expected = BTreeMap::from([(Status::Stale, 5), (Status::Full, 1), (Status::TargetTimeout, 1)]);
    assert_eq!(totals.refused, expected);
}

#[test]
fn handshakes_are_bounded() {
    let mut table = CircuitTable::new(limits());
    assert_eq!((table.greet(), table.greet(), table.greet()), (Ok(()), Ok(()), Err(Status::Full)));
    table.asked();
    assert_eq!(table.greet(), Ok(()));
    (0..5).for_each(|_| table.asked());
    assert_eq!(table.totals().handshakes, 0);
}

/// The bounds of a cluster of 1,000 nodes, of which one is asked by all the others.
#[test]
fn a_cluster_fits() {
    let now = Instant::now();
    let mut table = CircuitTable::new(CircuitLimits::default());
    for number in 0..1000u32 {
        let token = Token(u128::from(number).to_be_bytes());
        table.connect(peer(&format!("n{number}")), peer("gateway"), token, now).unwrap();
    }
    for number in 0..1000u32 {
        table.accept(&Token(u128::from(number).to_be_bytes()), &peer("gateway"), now).unwrap();
    }
    assert_eq!(table.usage(&peer("gateway")), PeerUse { asked: 0, pending: 0, target: 1000 });
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = (sniff(&bytes), Greeting::decode(&bytes), CircuitAnswer::decode_observed(&bytes));
        if let Ok(Some((request, taken))) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode().unwrap(), &bytes[..taken]);
        }
    }

    #[test]
    fn any_address_survives(ip in any::<std::net::IpAddr>(), port: u16) {
        let answer = CircuitAnswer::Observed(SocketAddr::new(ip, port));
        prop_assert_eq!(CircuitAnswer::decode_observed(&answer.encode()), Ok(Some(answer)));
    }
}
