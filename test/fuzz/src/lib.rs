//! Everything that reads bytes from outside, callable on any bytes: one function per parser, shared by the fuzzer
//! (`test/fuzz/libfuzzer`) and by the ordinary test that replays the corpus.

use edgemesh_tunnel_proto::{Answer, Frame, PeerRecord, StreamHeader, split_datagram};

/// A parser on any bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("dns", dns),
    ("upstream", upstream),
    ("header", header),
    ("control", control),
    ("record", record),
    ("mdns", mdns),
    ("manifests", manifests),
    ("journal", journal),
];

/// A DNS query from a client.
pub fn dns(bytes: &[u8]) {
    let _ = edgemesh_resolver::check_query(bytes);
}

/// A DNS reply from an upstream server, and its match with a question.
pub fn upstream(bytes: &[u8]) {
    let _ = edgemesh_resolver::check_upstream(bytes);
    let (asked, reply) = bytes.split_at(bytes.len() / 2);
    let _ = edgemesh_resolver::reply_matches(asked, reply);
    let _ = edgemesh_resolver::reply_matches(bytes, bytes);
    let _ = edgemesh_resolver::parse_resolv_conf(&String::from_utf8_lossy(bytes));
}

/// The header of a tunnel stream, its answer, and framed datagrams after it. What decodes must encode to itself.
pub fn header(bytes: &[u8]) {
    if let Ok(Some((header, used))) = StreamHeader::decode(bytes) {
        let again = header.encode().expect("what was decoded is within the bounds");
        assert_eq!(StreamHeader::decode(&again), Ok(Some((header, again.len()))));
        assert!(used <= bytes.len());
    }
    if let Some(byte) = bytes.first() {
        let _ = Answer::decode(*byte).into_result();
    }
    let mut rest = bytes;
    while let Ok(Some((datagram, used))) = split_datagram(rest) {
        assert!(used > datagram.len() && used <= rest.len());
        rest = &rest[used..];
    }
}

/// Frames of the control stream between two agents.
pub fn control(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((_, used))) = Frame::decode(rest) {
        assert!(used > 0 && used <= rest.len());
        rest = &rest[used..];
    }
}

/// What a peer says of itself.
pub fn record(bytes: &[u8]) {
    if let Ok(record) = PeerRecord::decode(bytes) {
        let _ = record.encode();
    }
}

/// A multicast DNS packet from the LAN.
pub fn mdns(bytes: &[u8]) {
    let _ = edgemesh_tunnel::check_mdns(bytes);
}

/// A file of the manifest directory.
pub fn manifests(bytes: &[u8]) {
    for name in ["a.yaml", "a.json"] {
        let _ = edgemesh_metadata::parse_manifests(name, bytes);
    }
}

/// The journal.
pub fn journal(bytes: &[u8]) {
    let _ = edgemesh_metadata::check_journal(bytes);
}
