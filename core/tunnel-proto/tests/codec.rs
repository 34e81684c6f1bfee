//! What goes over the wire.

use std::net::SocketAddr;

use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_mesh::ServiceId;
use edgemesh_route::{DialError, RejectReason};
use edgemesh_tunnel_proto::{
    Address, Answer, Frame, FrameError, HeaderError, MAX_DATAGRAM, MAX_FRAME, MAX_HEADER, MAX_RECORD, PeerId,
    PeerRecord, Proof, RecordError, SignedRecord, StreamHeader, datagram_prefix, split_datagram,
};
use proptest::prelude::*;

fn header(protocol: Protocol, backend: &str, namespace: &str, name: &str) -> StreamHeader {
    StreamHeader {
        protocol,
        backend: backend.parse().expect("an address"),
        service: ServiceId::new(namespace, name),
        namespace: None,
    }
}

fn record() -> PeerRecord {
    PeerRecord {
        node: Some("edge-1".into()),
        peer: PeerId::new("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"),
        addresses: vec![Address::new("/ip4/192.168.1.7/tcp/20006"), Address::new("/ip6/fd00::7/tcp/20006")],
        relays: vec![Address::new(
            "/ip4/198.51.100.1/tcp/20006/p2p/12D3KooWErZ4m27CEinjcnXNvem2KFUJUFRBcd9NdcWnYRqyr1Sn",
        )],
        zone: Some("lan-1".into()),
        sequence: 1_700_000_000_000,
        version: "0.1.0".into(),
        proof: Proof::default(),
    }
}

#[test]
fn headers() {
    let longest = "a".repeat(63);
    for (header, len) in [
        (header(Protocol::Tcp, "10.0.0.1:80", "default", "web"), 22),
        (header(Protocol::Udp, "[fd00::1]:53", "kube-system", "kube-dns"), 43),
        (header(Protocol::Tcp, "[::]:0", &longest, &longest), 150),
        (header(Protocol::Tcp, "0.0.0.0:65535", "", ""), 12),
        (
            StreamHeader {
                namespace: Some("shop".into()),
                ..header(Protocol::Tcp, "10.0.0.1:80", "default", "web")
            },
            27,
        ),
    ] {
        let mut bytes = header.encode().unwrap();
        assert_eq!(bytes.len(), len, "{header:?}");
        assert!(bytes.len() <= MAX_HEADER);
        for end in 0..bytes.len() {
            assert_eq!(StreamHeader::decode(&bytes[..end]), Ok(None), "{header:?} cut at {end}");
        }
        bytes.extend_from_slice(b"payload");
        assert_eq!(StreamHeader::decode(&bytes), Ok(Some((header, len))));
    }
}

#[test]
fn what_is_no_header() {
    let good = header(Protocol::Tcp, "10.0.0.1:80", "default", "web").encode().unwrap();
    let with = |index: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[index] = byte;
        bytes
    };
    for (bytes, expected) in [
        (b"GET / HTTP/1.1".to_vec(), HeaderError::Magic),
        (with(1, 3), HeaderError::Version),
        (with(2, 2), HeaderError::Protocol),
        (with(3, 5), HeaderError::Family),
        (with(10, 64), HeaderError::Name),
        (with(11, b'/'), HeaderError::Name),
        (with(11, 0xff), HeaderError::Name),
    ] {
        assert_eq!(StreamHeader::decode(&bytes), Err(expected), "{bytes:?}");
    }
    for header in [
        header(Protocol::Sctp, "10.0.0.1:80", "default", "web"),
        header(Protocol::Tcp, "10.0.0.1:80", "default", &"a".repeat(64)),
        header(Protocol::Tcp, "10.0.0.1:80", "de fault", "web"),
    ] {
        assert!(header.encode().is_err(), "{header:?}");
    }
}

#[test]
fn answers() {
    let rejects = [
        RejectReason::UnknownFrontend,
        RejectReason::NoEndpoints,
        RejectReason::NoLocalEndpoints,
        RejectReason::SourceNotAllowed,
        RejectReason::NotAnEndpoint,
        RejectReason::UnsupportedProtocol,
        RejectReason::Overloaded,
    ];
    let dials = [
        DialError::Refused,
        DialError::Timeout,
        DialError::Unreachable,
        DialError::PeerUnknown,
        DialError::NoPath,
        DialError::RelayFull,
        DialError::NotAdmitted,
        DialError::Overloaded,
        DialError::Broken,
    ];
    let all = rejects.map(Answer::NotAdmitted).into_iter().chain(dials.map(Answer::Dial));
    for answer in all.chain([Answer::Accepted]) {
        assert_eq!(Answer::decode(answer.encode()), answer);
    }
    assert_eq!(Answer::decode(200), Answer::Dial(DialError::Broken));
    assert_eq!(Answer::NotAdmitted(RejectReason::Overloaded).into_result(), Err(DialError::Overloaded));
    assert_eq!(Answer::NotAdmitted(RejectReason::NotAnEndpoint).into_result(), Err(DialError::NotAdmitted));
}

#[test]
fn datagrams() {
    assert_eq!(datagram_prefix(MAX_DATAGRAM + 1), None);
    for len in [0, 1, 100, MAX_DATAGRAM] {
        let mut bytes = datagram_prefix(len).unwrap().to_vec();
        bytes.resize(len + 2, 7);
        if len > 0 {
            assert_eq!(split_datagram(&bytes[..len + 1]), Ok(None));
        }
        bytes.push(9);
        let (payload, taken) = split_datagram(&bytes).unwrap().unwrap();
        assert_eq!((payload.len(), taken), (len, len + 2));
    }
    assert_eq!(split_datagram(&[0xff, 0xff, 0]), Err(HeaderError::Datagram));
}

#[test]
fn records() {
    let full = record();
    let bare = PeerRecord { node: None, zone: None, addresses: Vec::new(), relays: Vec::new(), ..record() };
    for record in [full, bare] {
        let bytes = record.encode().unwrap();
        assert_eq!(PeerRecord::decode(&bytes), Ok(record));
        for end in 0..bytes.len() {
            assert!(PeerRecord::decode(&bytes[..end]).is_err(), "{end}");
        }
        let more = [bytes.as_ref(), b"x"].concat();
        assert_eq!(PeerRecord::decode(&more), Err(RecordError::Length));
    }
    assert_eq!(PeerRecord::decode(&vec![1; MAX_RECORD + 1]), Err(RecordError::TooLong));
}

#[test]
fn too_many_addresses_are_left_out() {
    let many = PeerRecord {
        addresses: (0..40).map(|number| Address::new(format!("/ip4/10.0.0.{number}/tcp/20006"))).collect(),
        ..record()
    };
    let read = PeerRecord::decode(&many.encode().unwrap()).unwrap();
    assert_eq!(read.addresses, many.addresses[..16]);
}

#[test]
fn frames() {
    let signed = SignedRecord {
        body: record().encode().unwrap(),
        key: Bytes::from_static(&[1; 36]),
        signature: Bytes::from_static(&[2; 64]),
    };
    let frames =
        [Frame::Record(signed), Frame::RecordGone(record().peer), Frame::Ping(7), Frame::Pong(u64::MAX)];
    let mut bytes = Vec::new();
    for frame in &frames {
        frame.encode(&mut bytes);
    }
    let mut rest = bytes.as_slice();
    for frame in frames {
        let (read, taken) = Frame::decode(rest).unwrap().unwrap();
        assert_eq!(read, Some(frame));
        rest = &rest[taken..];
    }
    assert_eq!((rest.len(), Frame::decode(rest)), (0, Ok(None)));
    assert_eq!(Frame::decode(&[99, 0, 1, 0]), Ok(Some((None, 4))), "newer agents may send more kinds");
    assert_eq!(Frame::decode(&[1, 0xff, 0xff]), Err(FrameError::TooLong));
    assert_eq!(Frame::decode(&[3, 0, 1, 0]), Err(FrameError::Malformed));
    assert!(MAX_FRAME < usize::from(u16::MAX));
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = StreamHeader::decode(&bytes);
        let _ = split_datagram(&bytes);
        let _ = PeerRecord::decode(&bytes);
        let _ = Frame::decode(&bytes);
    }

    #[test]
    fn any_header_survives(ip in any::<std::net::IpAddr>(), port: u16, udp: bool, name in "[a-z0-9.-]{0,63}") {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let backend = SocketAddr::new(ip, port);
        let header = StreamHeader { protocol, backend, service: ServiceId::new("default", name), namespace: None };
        let bytes = header.encode().unwrap();
        let len = bytes.len();
        prop_assert_eq!(StreamHeader::decode(&bytes), Ok(Some((header, len))));
    }
}
