//! Names in the cluster domain, as the Kubernetes DNS specification has them.

use crate::fixture::{With, World, text};
use edgemesh_mesh::MeshSnapshot;

const SOA: &str = "--\ncluster.local 5 SOA ns.dns.cluster.local hostmaster.cluster.local 1 7200 1800 86400 5";

/// Compares the answer with lines; `SOA` stands for the denial's authority section.
#[track_caller]
fn check(question: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let expected = expected.join("\n").replace("SOA.", SOA);
    assert_eq!(World::new().ask(question), expected, "{question}");
}

#[test]
fn cluster_ip() {
    check("web.default.svc.cluster.local A", "NOERROR aa\nweb.default.svc.cluster.local 30 A 10.96.0.1");
    check(
        "web.default.svc.cluster.local AAAA",
        "NOERROR aa\nweb.default.svc.cluster.local 30 AAAA fd00:96::1",
    );
    check("web.default.svc.cluster.local MX", "NOERROR aa\nSOA.");
    check("single.default.svc.cluster.local AAAA", "NOERROR aa\nSOA.");
    check("WEB.Default.svc.CLUSTER.local A", "NOERROR aa\nWEB.Default.svc.CLUSTER.local 30 A 10.96.0.1");
}

#[test]
fn endpoints_of_a_cluster_ip_have_names_too() {
    let name = "10-0-9-9.single.default.svc.cluster.local";
    check(&format!("{name} A"), &format!("NOERROR aa\n{name} 30 A 10.0.9.9"));
}

#[test]
fn headless() {
    check(
        "db.data.svc.cluster.local A",
        "NOERROR aa
         db.data.svc.cluster.local 30 A 10.0.0.1
         db.data.svc.cluster.local 30 A 10.0.0.2
         db.data.svc.cluster.local 30 A 10.0.0.3",
    );
    check(
        "db.data.svc.cluster.local AAAA",
        "NOERROR aa
         db.data.svc.cluster.local 30 AAAA fd00::1
         db.data.svc.cluster.local 30 AAAA fd00::3",
    );
    check("db-0.db.data.svc.cluster.local A", "NOERROR aa\ndb-0.db.data.svc.cluster.local 30 A 10.0.0.1");
    check(
        "db-0.db.data.svc.cluster.local AAAA",
        "NOERROR aa\ndb-0.db.data.svc.cluster.local 30 AAAA fd00::1",
    );
    check("db-1.db.data.svc.cluster.local AAAA", "NOERROR aa\nSOA.");
    check(
        "10-0-0-3.db.data.svc.cluster.local A",
        "NOERROR aa\n10-0-0-3.db.data.svc.cluster.local 30 A 10.0.0.3",
    );
    check(
        "fd00--3.db.data.svc.cluster.local AAAA",
        "NOERROR aa\nfd00--3.db.data.svc.cluster.local 30 AAAA fd00::3",
    );
    check("10-0-0-1.db.data.svc.cluster.local A", &format!("NXDOMAIN aa\n{SOA}"));
    check("db-3.db.data.svc.cluster.local A", &format!("NXDOMAIN aa\n{SOA}"));
    check("early.data.svc.cluster.local A", "NOERROR aa\nearly.data.svc.cluster.local 30 A 10.0.1.1");
    check("e-0.early.data.svc.cluster.local A", "NOERROR aa\ne-0.early.data.svc.cluster.local 30 A 10.0.1.1");
    check("portless.data.svc.cluster.local A", "NOERROR aa\nportless.data.svc.cluster.local 30 A 10.0.2.1");
    check("portless.data.svc.cluster.local SRV", "NOERROR aa\nSOA.");
    check("nobody.data.svc.cluster.local A", "NXDOMAIN aa\nSOA.");
}

#[test]
fn order_follows_the_draw() {
    let mut first = Vec::new();
    for draw in 0..3 {
        let mut world = World::new();
        world.draw = draw;
        first.push(world.ask("db.data.svc.cluster.local A").lines().nth(1).unwrap().to_owned());
    }
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 3);
}

#[test]
fn srv() {
    check(
        "_http._tcp.web.default.svc.cluster.local SRV",
        "NOERROR aa
         _http._tcp.web.default.svc.cluster.local 30 SRV 0 100 80 web.default.svc.cluster.local
         --
         web.default.svc.cluster.local 30 A 10.96.0.1
         web.default.svc.cluster.local 30 AAAA fd00:96::1",
    );
    check(
        "_sql._tcp.db.data.svc.cluster.local SRV",
        "NOERROR aa
         _sql._tcp.db.data.svc.cluster.local 30 SRV 0 25 15432 10-0-0-3.db.data.svc.cluster.local
         _sql._tcp.db.data.svc.cluster.local 30 SRV 0 25 15432 db-0.db.data.svc.cluster.local
         _sql._tcp.db.data.svc.cluster.local 30 SRV 0 25 15432 db-1.db.data.svc.cluster.local
         _sql._tcp.db.data.svc.cluster.local 30 SRV 0 25 15432 fd00--3.db.data.svc.cluster.local
         --
         10-0-0-3.db.data.svc.cluster.local 30 A 10.0.0.3
         db-0.db.data.svc.cluster.local 30 A 10.0.0.1
         db-0.db.data.svc.cluster.local 30 AAAA fd00::1
         db-1.db.data.svc.cluster.local 30 A 10.0.0.2
         fd00--3.db.data.svc.cluster.local 30 AAAA fd00::3",
    );
    check("_dns._udp.web.default.svc.cluster.local A", "NOERROR aa\nSOA.");
    check("_udp.web.default.svc.cluster.local SRV", "NOERROR aa\nSOA.");
    check("_sctp.web.default.svc.cluster.local SRV", "NXDOMAIN aa\nSOA.");
    check("_http._udp.web.default.svc.cluster.local SRV", "NXDOMAIN aa\nSOA.");
    check("_tcp.single.default.svc.cluster.local SRV", "NXDOMAIN aa\nSOA.");
}

#[test]
fn reverse() {
    check(
        "1.0.96.10.in-addr.arpa PTR",
        "NOERROR aa\n1.0.96.10.in-addr.arpa 30 PTR web.default.svc.cluster.local",
    );
    check(
        "2.0.0.10.in-addr.arpa PTR",
        "NOERROR aa\n2.0.0.10.in-addr.arpa 30 PTR db-1.db.data.svc.cluster.local",
    );
    check(
        "3.0.0.10.in-addr.arpa PTR",
        "NOERROR aa\n3.0.0.10.in-addr.arpa 30 PTR 10-0-0-3.db.data.svc.cluster.local",
    );
    let digits: Vec<String> =
        "fd000096000000000000000000000001".chars().rev().map(|digit| digit.to_string()).collect();
    let name = format!("{}.ip6.arpa", digits.join("."));
    check(&format!("{name} PTR"), &format!("NOERROR aa\n{name} 30 PTR web.default.svc.cluster.local"));
    check(
        "1.0.96.10.in-addr.arpa A",
        "NOERROR aa
         --
         1.0.96.10.in-addr.arpa 5 SOA ns.dns.1.0.96.10.in-addr.arpa hostmaster.1.0.96.10.in-addr.arpa 1 7200 1800 86400 5",
    );
}

#[test]
fn external_names() {
    check(
        "in.default.svc.cluster.local A",
        "NOERROR aa
         in.default.svc.cluster.local 30 CNAME web.default.svc.cluster.local
         web.default.svc.cluster.local 30 A 10.96.0.1",
    );
    check(
        "in.default.svc.cluster.local CNAME",
        "NOERROR aa\nin.default.svc.cluster.local 30 CNAME web.default.svc.cluster.local",
    );
    check(
        "in.default.svc.cluster.local MX",
        "NOERROR aa\nin.default.svc.cluster.local 30 CNAME web.default.svc.cluster.local\nSOA.",
    );
    check(
        "gone.default.svc.cluster.local A",
        "NXDOMAIN aa\ngone.default.svc.cluster.local 30 CNAME nothing.default.svc.cluster.local\nSOA.",
    );
    check("addr.default.svc.cluster.local A", "NOERROR aa\nSOA.");
    check("x.out.default.svc.cluster.local A", "NXDOMAIN aa\nSOA.");
    let chain = World::new().ask("loop.default.svc.cluster.local A");
    assert_eq!(chain.matches("CNAME").count(), 8);
}

#[test]
fn pods() {
    check(
        "10-1-2-3.default.pod.cluster.local A",
        "NOERROR aa\n10-1-2-3.default.pod.cluster.local 30 A 10.1.2.3",
    );
    check("10-1-2-3.default.pod.cluster.local AAAA", "NOERROR aa\nSOA.");
    check(
        "fd00--9.empty.pod.cluster.local AAAA",
        "NOERROR aa\nfd00--9.empty.pod.cluster.local 30 AAAA fd00::9",
    );
    check("10-1-2-3.nowhere.pod.cluster.local A", "NXDOMAIN aa\nSOA.");
    check("10-1-2-333.default.pod.cluster.local A", "NXDOMAIN aa\nSOA.");
}

#[test]
fn zone_names() {
    check("dns-version.cluster.local TXT", "NOERROR aa\ndns-version.cluster.local 30 TXT \"1.1.0\"");
    check("dns-version.cluster.local A", "NOERROR aa\nSOA.");
    for empty in ["cluster.local", "svc.cluster.local", "pod.cluster.local", "empty.svc.cluster.local"] {
        check(&format!("{empty} A"), "NOERROR aa\nSOA.");
    }
    for missing in [
        "nowhere.svc.cluster.local",
        "x.cluster.local",
        "nope.default.svc.cluster.local",
        "a.b.c.d.e.svc.cluster.local",
    ] {
        check(&format!("{missing} A"), "NXDOMAIN aa\nSOA.");
    }
    check(
        "cluster.local NS",
        "NOERROR aa
         cluster.local 30 NS ns.dns.cluster.local
         --
         ns.dns.cluster.local 30 A 169.254.96.16
         ns.dns.cluster.local 30 AAAA fe80::a9fe:6010",
    );
    check("ns.dns.cluster.local A", "NOERROR aa\nns.dns.cluster.local 30 A 169.254.96.16");
    check(
        "cluster.local SOA",
        "NOERROR aa\ncluster.local 30 SOA ns.dns.cluster.local hostmaster.cluster.local 1 7200 1800 86400 5",
    );
    check(
        "web.default.svc.cluster.local ANY",
        "NOERROR aa\nweb.default.svc.cluster.local 30 HINFO \"RFC8482\" \"\"",
    );
}

#[test]
fn before_the_first_snapshot_nothing_is_denied() {
    let mut world = World::new();
    world.snapshot = MeshSnapshot::empty("edge-1".into());
    assert_eq!(world.ask("web.default.svc.cluster.local A"), "SERVFAIL");
    world.query("www.example.com A", With::default());
    world.asked();
}

#[test]
fn another_cluster_domain() {
    let settings = edgemesh_resolver::ResolverSettings {
        cluster_domain: "Edge.Test.".into(),
        ..crate::fixture::settings()
    };
    let mut world = World::with(&settings, &[]);
    assert_eq!(
        world.ask("web.default.svc.edge.test A"),
        "NOERROR aa\nweb.default.svc.edge.test 30 A 10.96.0.1"
    );
}

#[test]
fn a_long_answer_is_cut_at_a_record_and_says_so() {
    let mut endpoints = String::new();
    for index in 0..100 {
        endpoints.push_str(&format!("- {{addresses: [10.2.0.{index}], conditions: {{ready: true}}}}\n"));
    }
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: big, namespace: default}}\n\
         spec: {{clusterIP: None, ports: [{{name: x, port: 1}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: big-1, namespace: default, labels: {{kubernetes.io/service-name: big}}}}\n\
         addressType: IPv4\nports: [{{name: x, port: 1}}]\nendpoints:\n{endpoints}"
    );
    let mut world = World::new();
    world.snapshot = crate::fixture::snapshot(&yaml);
    let lengths = [
        (With::default(), 512, "NOERROR aa tc"),
        (With { edns: Some(4096), ..With::default() }, 1232, "NOERROR aa tc"),
        (With { tcp: true, ..With::default() }, 65_535, "NOERROR aa"),
    ];
    for (with, limit, flags) in lengths {
        let (_, reply) = world.query("big.default.svc.cluster.local A", with);
        assert!(reply.len() <= limit && reply.len() > limit.min(1600) - 40, "{}", reply.len());
        assert_eq!(text(&reply).lines().next(), Some(flags));
    }
}
