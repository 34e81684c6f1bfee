//! Programs that people use, unchanged.

use edgemesh_e2e::{Lab, TWO_NODES, installed, output, service, services, site, skipped};
use serde_json::Value;

/// Services that only DNS knows.
const MORE: &str = "
---
apiVersion: v1
kind: Service
metadata: { name: outside }
spec: { type: ExternalName, externalName: www.example.org }
---
apiVersion: v1
kind: Service
metadata: { name: headless }
spec:
  clusterIP: None
  selector: { app: near }
  ports: [{ name: http, port: 8080 }]
";

fn lab(test: &str, needed: &str) -> Option<Lab> {
    if !installed(needed) {
        skipped(test, needed);
        return None;
    }
    let manifests = services() + MORE;
    let lab = Lab::up(test, &site(TWO_NODES), &[("services.yaml", &manifests)]);
    for server in ["s1", "s2"] {
        lab.until_listening(server, &[8080, 8443]);
    }
    Some(lab)
}

#[test]
fn curl() {
    let Some(lab) = lab("curl", "curl") else { return };
    let agent = lab.agent("n1", &[]);
    let _other = lab.agent("n2", &[]);
    agent.until_path("n2");
    let curl = |words: &[&str]| {
        lab.exec("c1", &[&["curl", "--silent", "--show-error", "--max-time", "10"], words].concat())
    };
    for (service, pod) in [("near", "s1\n"), ("far", "s2\n")] {
        let url = format!("http://{service}/");
        assert_eq!(curl(&[&url]), pod);
        assert_eq!(curl(&["-4", &url]), pod);
        assert_eq!(curl(&["-6", &url]), pod);
        assert_eq!(curl(&[&format!("http://{service}.default.svc.cluster.local/")]), pod);
        assert_eq!(curl(&["--insecure", &format!("https://{service}/")]), pod);
        // One connection for all three: curl counts those it opens.
        let kept = curl(&["--write-out", "%{num_connects} ", &url, &url, &url]);
        assert_eq!(kept, format!("{pod}1 {pod}0 {pod}0 "));
    }
}

/// `dig` in a pod; its answer section by type, and the status.
fn dig(lab: &Lab, words: &[&str]) -> (String, Vec<String>, String) {
    let text = lab.exec("c1", &[&["dig", "+tries=1", "+time=5", "+nosearch"], words].concat());
    let status =
        text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
    let answers = text.lines().skip_while(|line| !line.contains("ANSWER SECTION")).skip(1);
    let mut answers: Vec<String> = answers
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    answers.sort();
    (status, answers, text)
}

fn check_dig(lab: &Lab, words: &[&str], status: &str, expected: &[&str]) {
    let (found, answers, text) = dig(lab, words);
    assert_eq!(
        (found.as_str(), answers.iter().map(String::as_str).collect::<Vec<_>>()),
        (status, expected.to_vec()),
        "{words:?}: {text}"
    );
}

#[test]
fn dig_sees_the_kubernetes_dns_specification() {
    let Some(lab) = lab("dig", "dig") else { return };
    let _agent = lab.agent("n1", &[]);
    for transport in ["+notcp", "+tcp"] {
        let check = |words: &[&str], status: &str, expected: &[&str]| {
            check_dig(&lab, &[&[transport], words].concat(), status, expected);
        };
        check(&["near.default.svc.cluster.local", "A"], "NOERROR", &["A 10.96.0.11"]);
        check(&["NEAR.Default.svc.cluster.LOCAL", "A"], "NOERROR", &["A 10.96.0.11"]);
        check(&["near.default.svc.cluster.local", "AAAA"], "NOERROR", &["AAAA fd96::11"]);
        check(
            &["_tcp-80._tcp.near.default.svc.cluster.local", "SRV"],
            "NOERROR",
            &["SRV 0 100 80 near.default.svc.cluster.local."],
        );
        check(&["-x", "10.96.0.11"], "NOERROR", &["PTR near.default.svc.cluster.local."]);
        check(&["-x", "fd96::11"], "NOERROR", &["PTR near.default.svc.cluster.local."]);
        check(&["dns-version.cluster.local", "TXT"], "NOERROR", &["TXT \"1.1.0\""]);
        check(&["headless.default.svc.cluster.local", "A"], "NOERROR", &["A 172.17.0.3"]);
        check(&["headless.default.svc.cluster.local", "AAAA"], "NOERROR", &["AAAA fd00:17::3"]);
        // NODATA: the name is there, the type is not.
        check(&["near.default.svc.cluster.local", "MX"], "NOERROR", &[]);
        check(&["nothing.default.svc.cluster.local", "A"], "NXDOMAIN", &[]);
        // Nobody can be asked: a failure, and not a wait.
        check(&["www.example.org", "A"], "SERVFAIL", &[]);
        // The target is outside, and there is no name server to ask for it.
        let (_, answers, text) = dig(&lab, &[transport, "outside.default.svc.cluster.local", "CNAME"]);
        assert_eq!(answers, ["CNAME www.example.org."], "{text}");
    }
    for name in ["nothing.default.svc.cluster.local", "near.default.svc.cluster.local"] {
        let (_, _, text) = dig(&lab, &[name, "MX"]);
        assert!(text.contains("AUTHORITY SECTION") && text.contains("SOA"), "{text}");
    }
    // EDNS: the answer has its own OPT record.
    let (_, _, text) = dig(&lab, &["+bufsize=1232", "near.default.svc.cluster.local", "A"]);
    assert!(text.contains("EDNS: version: 0"), "{text}");
    // From the node itself, and at the IPv6 address.
    let text = lab.exec("n1", &["dig", "+short", "@169.254.96.16", "near.default.svc.cluster.local"]);
    assert_eq!(text, "10.96.0.11\n");
    let text =
        lab.exec("n1", &["dig", "+short", "@fe80::a9fe:6010%edgemesh0", "near.default.svc.cluster.local"]);
    assert_eq!(text, "10.96.0.11\n");
}

#[test]
fn dig_gets_a_short_answer_and_the_rest_over_tcp() {
    if !installed("dig") {
        return skipped("dig", "dig");
    }
    // 60 addresses need 960 bytes; without EDNS an answer over UDP has 512.
    let mut slice = "
---
apiVersion: v1
kind: Service
metadata: { name: crowd }
spec: { clusterIP: None, ports: [{ name: http, port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: crowd-1, labels: { kubernetes.io/service-name: crowd } }
addressType: IPv4
ports: [{ name: http, port: 80 }]
endpoints:
"
    .to_owned();
    for number in 1..=60 {
        slice += &format!("  - {{ addresses: [192.0.2.{number}], conditions: {{ ready: true }} }}\n");
    }
    let lab = Lab::up("dig-big", &site(TWO_NODES), &[("crowd.yaml", &slice)]);
    let _agent = lab.agent("n1", &[]);
    let name = "crowd.default.svc.cluster.local";
    let (_, answers, text) = dig(&lab, &["+noedns", "+ignore", name, "A"]);
    assert!(text.contains("flags: qr aa tc"), "{text}");
    assert!(answers.len() < 60, "{text}");
    let (status, answers, text) = dig(&lab, &["+noedns", name, "A"]);
    assert_eq!((status.as_str(), answers.len()), ("NOERROR", 60), "dig asks again over TCP: {text}");
    let (_, answers, text) = dig(&lab, &["+bufsize=4096", "+ignore", name, "A"]);
    assert_eq!(answers.len(), 60, "{text}");
}

const IPERF: &str = "
lans:
  - name: home
    nodes:
      - name: n1
        pods:
          - { name: c1 }
          - { name: i1, labels: { app: iperf-near }, run: [iperf3, -s] }
      - name: n2
        pods:
          - { name: i2, labels: { app: iperf }, run: [iperf3, -s] }
";

#[test]
fn iperf3() {
    if !installed("iperf3") {
        return skipped("iperf3", "iperf3");
    }
    let ports = [("TCP", 5201, 5201), ("UDP", 5201, 5201)];
    let manifests = service("iperf", 31, &ports) + &service("iperf-near", 32, &ports);
    let lab = Lab::up("iperf", IPERF, &[("services.yaml", &manifests)]);
    for server in ["i1", "i2"] {
        lab.until_listening(server, &[5201]);
    }
    let agent = lab.agent("n1", &[]);
    let _other = lab.agent("n2", &[]);
    agent.until_path("n2");
    let iperf = |words: &[&str]| -> Value {
        let output = output(&mut lab.command(
            "c1",
            &[&["iperf3", "--json", "--time", "1", "--connect-timeout", "5000"], words].concat(),
        ));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
        assert!(value["error"].is_null(), "{words:?}: {}", value["error"]);
        value
    };
    for name in ["iperf-near", "iperf"] {
        for reverse in [&[][..], &["--reverse"]] {
            let tcp = iperf(&[&["--client", name], reverse].concat());
            assert!(tcp["end"]["sum_received"]["bytes"].as_u64() > Some(0), "{tcp:#}");
            let udp = iperf(
                &[&["--client", name, "--udp", "--bitrate", "5M", "--length", "1200"], reverse].concat(),
            );
            let sum = &udp["end"]["sum"];
            assert!(sum["packets"].as_u64() > Some(0), "{sum:#}");
            // 5 Mbit/s are 520 packets a second; a mesh that loses one in fifty of so few is not one to ship.
            assert!(sum["lost_percent"].as_f64() < Some(2.0), "{name} {reverse:?}: {sum:#}");
        }
    }
}
