//! Everything that reads bytes from outside, callable on any bytes: one function per parser, shared by the fuzzer
//! (`test/fuzz/libfuzzer`) and by the ordinary test that replays the corpus.

use std::path::Path;

use edgemesh_config::{Environment, Role};
use edgemesh_tunnel_proto::circuit::{CircuitAnswer, Greeting, Request, sniff};
use edgemesh_tunnel_proto::{Answer, Discovery, Frame, PeerRecord, Proxy, StreamHeader, split_datagram};

mod list_stream;
mod session;

pub use list_stream::list_stream;
pub use session::session;

/// A parser on any bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 14] = [
    ("dns", dns),
    ("upstream", upstream),
    ("header", header),
    ("control", control),
    ("go", go),
    ("circuit", circuit),
    ("record", record),
    ("session", session),
    ("mdns", mdns),
    ("manifests", manifests),
    ("journal", journal),
    ("list_stream", list_stream),
    ("kubeconfig", kubeconfig),
    ("config", config),
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

/// The first bytes of a connection to the tunnel's port, and both sides' words before a circuit. A request that decodes
/// must encode to the bytes it was read from.
pub fn circuit(bytes: &[u8]) {
    let _ = (sniff(bytes), Greeting::decode(bytes), CircuitAnswer::decode_observed(bytes));
    if let Ok(Some((request, used))) = Request::decode(bytes) {
        assert_eq!(request.encode().as_deref(), Ok(&bytes[..used]));
        let _ = request.signed(&[0; 32], &request.peer);
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

/// A kubeconfig, and URLs of servers.
pub fn kubeconfig(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for master in [None, Some("https://[fd00::1]:6443/prefix")] {
        let _ = edgemesh_metadata::parse_kubeconfig(&text, Path::new("/etc/edgemesh"), master);
    }
    for line in text.lines() {
        if let Ok(access) = edgemesh_metadata::ApiAccess::of_url(line) {
            assert!(!access.host.is_empty() && !access.prefix.ends_with('/'), "{line:?}");
        }
    }
}

/// A configuration file of either program: what is converted must be a file that says the same.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let environments = [
        Environment::default(),
        Environment {
            node_name: Some("shop-7".to_owned()),
            namespace: Some("kubeedge".to_owned()),
            in_cluster: true,
            kubernetes_service: Some(("fd00::1".to_owned(), 443)),
        },
    ];
    for role in [Role::Agent, Role::Gateway] {
        let Ok(parsed) = edgemesh_config::parse(role, &text) else { continue };
        for environment in &environments {
            if let Ok(resolved) = edgemesh_config::resolve(&parsed.raw, environment) {
                let _ = edgemesh_config::show(&resolved.settings);
            }
        }
        let converted = edgemesh_config::convert(role, &text).expect("what can be parsed can be converted");
        let again = edgemesh_config::convert(role, &converted).expect("what is converted can be parsed");
        let values = |text: &str| {
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(values(&again), values(&converted), "converting again changes nothing");
    }
}

/// The messages of Go agents: what is read is written the same way and read again.
pub fn go(bytes: &[u8]) {
    if let Ok(Some((message, taken))) = Discovery::decode(bytes) {
        assert!(taken <= bytes.len());
        let again =
            message.encode().map(|bytes| Discovery::decode(&bytes).map(|read| read.map(|(read, _)| read)));
        assert!(again.is_none_or(|again| again == Ok(Some(message))));
    }
    if let Ok(Some((message, taken))) = Proxy::decode(bytes) {
        assert!(taken <= bytes.len());
        let again =
            message.encode().map(|bytes| Proxy::decode(&bytes).map(|read| read.map(|(read, _)| read)));
        assert!(again.is_none_or(|again| again == Ok(Some(message))));
    }
}
