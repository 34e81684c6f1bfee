//! Writes the seeds of the corpus, made by the real encoders: `cargo run -p edgemesh-fuzz --example seeds`.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use edgemesh_api::{ObjectKey, Protocol};
use edgemesh_tunnel_proto::circuit::{CircuitAnswer, Greeting, Kind, Op, Request, Token};
use edgemesh_tunnel_proto::session::{self, ResetReason, StreamId};
use edgemesh_tunnel_proto::{
    Address, Discovery, Frame, MessageType, PeerId, PeerRecord, Proof, Proxy, SignedRecord, StreamHeader,
    datagram_prefix,
};

fn main() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for backend in ["172.17.0.2:8080", "[fd00:17::2]:443"] {
            let header = StreamHeader {
                protocol,
                backend: backend.parse().expect("an address"),
                service: ObjectKey::new("default", "shop"),
                namespace: None,
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
        proof: Proof::default(),
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
    Frame::Circuit {
        token: Token([7; 16]),
        from: PeerId::new("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"),
    }
    .encode(&mut frames);
    save("control", "all", &frames);
    circuits();

    sessions();

    let discovery = Discovery { protocol: "MDNS".into(), node: "ke-edge1".into(), ..Discovery::default() };
    save("go", "discovery", &discovery.encode().expect("short"));
    let proxy = Proxy {
        kind: MessageType::Success,
        protocol: "udp".into(),
        node: "ke-edge1".into(),
        ip: "10.0.0.1".into(),
        port: 8080,
    };
    save("go", "proxy", &proxy.encode().expect("short"));
    save("go", "failed", &Proxy::FAILED);

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
    api_server();
    configuration();
    let folder = std::env::temp_dir().join(format!("edgemesh-seeds-{}", std::process::id()));
    let (objects, _) = edgemesh_metadata::parse_manifests(
        "a.yaml",
        b"apiVersion: v1\nkind: Service\nmetadata: {name: shop, namespace: default}\nspec: {clusterIP: 10.96.0.1}\n",
    );
    let objects: Vec<_> = objects.into_iter().map(std::sync::Arc::new).collect();
    let mut journal = edgemesh_metadata::Journal::new(&folder).of_source("manifests /etc/edgemesh");
    for objects in [&objects[..], &[], &objects] {
        journal.save(objects, std::time::UNIX_EPOCH).expect("the journal is written");
    }
    // `journal/journal` is one of the first version, which nothing writes any more.
    save("journal", "records", &fs::read(folder.join("journal")).expect("readable"));
    fs::remove_dir_all(&folder).expect("removable");
}

fn circuits() {
    let peer = PeerId::new("12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW");
    for (name, op) in [
        ("connect", Op::Connect(peer.clone())),
        ("accept", Op::Accept(Token([7; 16]))),
        ("observe", Op::Observe),
    ] {
        let request = Request {
            op,
            peer: peer.clone(),
            key: vec![8; 36].into(),
            signature: vec![7; 64].into(),
            mac: [6; 32],
        };
        save("circuit", name, &request.encode().expect("within the bounds"));
    }
    save("circuit", "preface", &Kind::Carrier.preface());
    save("circuit", "greeting", &Greeting::Nonce([5; 32]).encode());
    let seen = "[2001:db8::1]:20006".parse().expect("an address");
    save("circuit", "observed", &CircuitAnswer::Observed(seen).encode());
}

/// First byte: twice the kind's place in `Kind::ALL`, and 1 for KubeEdge's metaServer; second: the length of pieces.
fn api_server() {
    let answers =
        |how: u8, piece: u8, answers: &[&str]| [&[how, piece], answers.join("\x1e").as_bytes()].concat();
    let service = r#"{"metadata":{"name":"a","namespace":"default","uid":"u1","resourceVersion":"4"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    let page = format!(
        r#"{{"kind":"ServiceList","metadata":{{"resourceVersion":"5","continue":"t"}},"items":[{service}]}}"#
    );
    let rest = r#"{"kind":"ServiceList","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"b"}},{"metadata":{"name":"c"},"spec":{"ports":"x"}},{}]}"#;
    let events = format!(
        "{{\"type\":\"ADDED\",\"object\":{service}}}\n{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"9\"}}}}}}\n{{\"type\":\"DELETED\",\"object\":{service}}}\n"
    );
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
    save(
        "list_stream",
        "pages",
        &answers(
            4,
            7,
            &[
                &page,
                rest,
                &events,
                r#"{"items":[{"metadata":{"name":"a"}}],"metadata":{"resourceVersion":"9"}}"#,
                gone,
                rest,
            ],
        ),
    );
    save(
        "list_stream",
        "broken",
        &answers(
            4,
            1,
            &[
                "<html>",
                r#"{"items":[{"metadata":{"name":"a"}}"#,
                r#"{"kind":"Status","code":410}"#,
                r#"{"items":null}"#,
                "{}{\"type\":\"\"}",
                "[]",
            ],
        ),
    );
    let slices = r#"{"kind":"EndpointslicList","items":[{"metadata":{"name":"s","labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv4","endpoints":[{"addresses":["10.1.0.1"],"nodeName":"here"}],"ports":[{"port":80}]}]}"#;
    let empty = r#"{"type":"DELETED","object":null}"#;
    save(
        "list_stream",
        "metaserver",
        &answers(7, 64, &[slices, empty, slices, r#"{"items":[]}"#, "", slices]),
    );
    save(
        "list_stream",
        "absent",
        &answers(
            12,
            64,
            &[
                r#"{"kind":"Status","code":404}"#,
                r#"{"kind":"Status","code":404}"#,
                r#"{"kind":"Status","code":404}"#,
                rest,
            ],
        ),
    );
}

/// First byte: the side; then each byte before a frame: the carrier it comes by, the time that passes, and whether the
/// application reads.
fn sessions() {
    let (stream, payload) = (StreamId(0), Bytes::from_static(b"hello"));
    let data =
        |offset, open, fin| session::Frame::Data { stream, offset, open, fin, payload: payload.clone() };
    let ack = |stream, received| session::Frame::Ack { stream: StreamId(stream), received, limit: 1 << 18 };
    let reset = session::Frame::Reset { stream, reason: ResetReason::Cancelled };
    let pulse = [session::Frame::Ping { number: 1 }, session::Frame::Pong { number: 1 }];
    let datagram = session::Frame::Datagram { channel: 1, payload: payload.clone() };
    let moved = session::Frame::Moved { stream };
    let cases: [(&str, u8, &[session::Frame]); 4] = [
        ("stream", 1, &[data(0, true, false), data(5, false, true), ack(0, 3), ack(1, 6), ack(1, u64::MAX)]),
        (
            "move",
            1,
            &[data(0, true, false), moved, data(0, true, false), data(3, false, true), data(5, false, true)],
        ),
        ("reset", 1, &[data(0, true, false), reset.clone(), session::Frame::ResetAck { stream }, reset]),
        ("rest", 0, &[pulse[0].clone(), pulse[1].clone(), datagram, session::Frame::GoAway, ack(0, 6)]),
    ];
    for (name, side, frames) in cases {
        let mut bytes = vec![side];
        for (place, frame) in frames.iter().enumerate() {
            bytes.push([0, 0x41, 0x0a, 0xc1][place % 4]);
            frame.encode_header(&mut bytes);
            bytes.extend_from_slice(frame.payload());
        }
        save("session", name, &bytes);
    }
}

fn configuration() {
    save(
        "kubeconfig",
        "token",
        b"apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nclusters: [{name: k, cluster: {server: \"https://[fd00::1]:6443\", certificate-authority-data: AAAA}}]\nusers: [{name: u, user: {token: t}}]\n",
    );
    save(
        "kubeconfig",
        "files",
        b"contexts:\n- {name: c, context: {cluster: k, user: u}}\nclusters:\n- {name: k, cluster: {server: 127.0.0.1:10550, certificate-authority: ca.pem, insecure-skip-tls-verify: true}}\nusers:\n- {name: u, user: {client-certificate: c.pem, client-key: k.pem, exec: null}}\n",
    );
    save(
        "kubeconfig",
        "urls",
        b"http://127.0.0.1:10550\nhttps://[::1]/a/b/\napi.example.com\nhttps://\n:0\n",
    );
    save(
        "config",
        "agent",
        b"apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1\nkind: EdgeMeshAgent\nkubeAPIConfig: {metaServer: {server: http://127.0.0.1:10550}}\nmodules:\n  edgeDNS: {enable: true, cacheDNS: {enable: true, upstreamServers: [192.0.2.53]}}\n  edgeProxy: {enable: true, serviceFilterMode: FilterIfLabelDoesNotExists}\n  edgeTunnel:\n    enable: true\n    relayNodes: [{nodeName: r1, advertiseAddress: [203.0.113.10]}]\n    psk: {path: /etc/edgemesh/psk}\n",
    );
    save(
        "config",
        "gateway",
        b"apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1\nkind: EdgeMeshGateway\nmodules:\n  edgeGateway: {enable: true, nic: \"*\", includeIP: \"*\", excludeIP: \"*\"}\n  edgTunnel: {enable: yes, listenPort: 20006}\n",
    );
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
