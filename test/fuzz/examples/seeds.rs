//! Writes the seeds of the corpus, made by the real encoders: `cargo run -p edgemesh-fuzz --example seeds`.

use std::fs;
use std::path::Path;

use edgemesh_api::{ObjectKey, Protocol};
use edgemesh_tunnel_proto::{
    Address, Frame, PeerId, PeerRecord, SignedRecord, StreamHeader, datagram_prefix,
};

fn main() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for backend in ["172.17.0.2:8080", "[fd00:17::2]:443"] {
            let header = StreamHeader {
                protocol,
                backend: backend.parse().expect("an address"),
                service: ObjectKey::new("default", "shop"),
            };
            let mut bytes = header.encode().expect("within the bounds");
            bytes.extend(datagram_prefix(5).expect("short"));
            bytes.extend(b"hello");
            save("header", &format!("{protocol}-{}", if header.backend.is_ipv4() { 4 } else { 6 }), &bytes);
        }
    }
    save("header", "datagrams", &[0, 0, 0, 3, 1, 2, 3, 255, 255]);

    let record = PeerRecord {
        node: Some("shop-7".into()),
        peer: PeerId::new("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"),
        addresses: vec![Address::new("/ip4/192.168.1.7/tcp/20006"), Address::new("/ip6/fd00::7/tcp/20006")],
        relays: vec![Address::new(
            "/ip4/203.0.113.10/tcp/20006/p2p/12D3KooWErZ4m27CEinjcnXNvem2KFUJUFRBcd9NdcWnYRqyr1Sn",
        )],
        zone: Some("lan-a".into()),
        sequence: 7,
        version: "0.1.0".into(),
    };
    let encoded = record.encode().expect("within the bounds");
    save("record", "full", &encoded);
    let relay = PeerRecord { node: None, zone: None, relays: Vec::new(), ..record };
    save("record", "relay", &relay.encode().expect("within the bounds"));

    let mut frames = Vec::new();
    Frame::Ping(1).encode(&mut frames);
    Frame::Pong(1).encode(&mut frames);
    save("control", "ping-pong", &frames);
    Frame::Record(SignedRecord { body: encoded, signature: vec![7; 64].into(), key: vec![8; 36].into() })
        .encode(&mut frames);
    save("control", "record", &frames);
    Frame::RecordGone(PeerId::new("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"))
        .encode(&mut frames);
    save("control", "all", &frames);

    save("dns", "a", &question(b"\x04shop\x07default\x03svc\x07cluster\x05local\0", 1, false));
    save(
        "dns",
        "srv-edns",
        &question(b"\x05_http\x04_tcp\x04shop\x07default\x03svc\x07cluster\x05local\0", 33, true),
    );
    save("dns", "ptr", &question(b"\x0210\x010\x0296\x0210\x07in-addr\x04arpa\0", 12, true));
    let mut reply = question(b"\x07example\x03com\0", 1, false);
    reply[2] |= 0x80;
    reply[7] = 1;
    reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x5d\xb8\xd8\x22");
    save("upstream", "a", &reply);
    save(
        "upstream",
        "resolv-conf",
        b"# a comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch example.com\n",
    );
    save("mdns", "query", &question(b"\x09_edgemesh\x04_udp\x05local\0", 12, false));
    save("mdns", "reply", &reply);

    save(
        "manifests",
        "service",
        b"apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec:\n  clusterIP: 10.96.0.1\n  ports: [{port: 80, targetPort: http}]\n---\nkind: List\nitems: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]\n",
    );
    save(
        "manifests",
        "slice",
        br#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"s","labels":{"kubernetes.io/service-name":"shop"}},"addressType":"IPv4","endpoints":[{"addresses":["10.1.0.1"],"conditions":{"ready":null}}],"ports":[{"port":80}]}"#,
    );
    save(
        "manifests",
        "aliases",
        b"a: &a [1, 2]\nb: [*a, *a]\nkind: Service\nmetadata: {name: x, labels: &l {a: b}}\n",
    );
    let folder = std::env::temp_dir().join(format!("edgemesh-seeds-{}", std::process::id()));
    let (objects, _) = edgemesh_metadata::parse_manifests(
        "a.yaml",
        b"apiVersion: v1\nkind: Service\nmetadata: {name: shop, namespace: default}\nspec: {clusterIP: 10.96.0.1}\n",
    );
    let objects: Vec<_> = objects.into_iter().map(std::sync::Arc::new).collect();
    let journal = edgemesh_metadata::Journal::new(&folder);
    journal.save(&objects, std::time::UNIX_EPOCH).expect("the journal is written");
    for entry in fs::read_dir(&folder).expect("the folder is there").flatten() {
        save("journal", &entry.file_name().to_string_lossy(), &fs::read(entry.path()).expect("readable"));
    }
    fs::remove_dir_all(&folder).expect("removable");
}

fn question(name: &[u8], qtype: u8, edns: bool) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    bytes.extend(name);
    bytes.extend([0, qtype, 0, 1]);
    if edns {
        bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

fn save(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus can be made");
    fs::write(folder.join(name), bytes).expect("the corpus can be written");
}
