//! The site and the Services that most tests use.

use std::net::SocketAddr;

use crate::process::program;

/// Number of the Service in front of the pod on node `n1`.
pub const NEAR: u8 = 11;
/// Number of the Service in front of the pod on node `n2`.
pub const FAR: u8 = 12;
/// Number of the Service in front of the odd servers on node `n1`.
pub const ODD_NEAR: u8 = 13;
/// Number of the Service in front of the odd servers on node `n2`.
pub const ODD_FAR: u8 = 14;
/// Number of the Service that has no endpoint.
pub const NOBODY: u8 = 15;

/// One LAN with two nodes; clients `c1` and `c2`, ordinary servers `s1` and `s2`, odd servers `o1` and `o2`. The pods of
/// `n2` have a range of their own, so that an address tells the node.
pub const TWO_NODES: &str = "
lans:
  - name: home
    nodes:
      - name: n1
        pods:
          - { name: c1 }
          - name: s1
            labels: { app: near }
            run: &server [edgemesh-workload, serve, --http=8080, --echo=8081, --https=8443, --udp-echo=8085]
          - { name: o1, labels: { app: odd-near }, run: &odd [PROBE, serve, '9001', '9002'] }
      - name: n2
        pods4: 172.18.0.0/24
        pods6: fd00:18::/64
        pods:
          - { name: c2 }
          - { name: s2, labels: { app: far }, run: *server }
          - { name: o2, labels: { app: odd-far }, run: *odd }
";

/// A site with the path of the probe filled in.
pub fn site(text: &str) -> String {
    text.replace("PROBE", &program("edgemesh-e2e-probe").display().to_string())
}

/// The Services of [`TWO_NODES`].
pub fn services() -> String {
    let ordinary = [("TCP", 80, 8080), ("TCP", 81, 8081), ("TCP", 443, 8443), ("UDP", 85, 8085)];
    let odd = [("TCP", 91, 9001), ("UDP", 92, 9002)];
    [
        service("near", NEAR, &ordinary),
        service("far", FAR, &ordinary),
        service("odd-near", ODD_NEAR, &odd),
        service("odd-far", ODD_FAR, &odd),
        service("nobody", NOBODY, &ordinary),
    ]
    .concat()
}

/// A Service that selects the pods labelled with its name; `ports` are protocol, port and target port.
pub fn service(name: &str, number: u8, ports: &[(&str, u16, u16)]) -> String {
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  clusterIP: 10.96.0.{number}
  clusterIPs: [10.96.0.{number}, 'fd96::{number}']
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {{ app: {name} }}
  ports:
"
    );
    for (protocol, port, target) in ports {
        let lower = protocol.to_lowercase();
        text += &format!(
            "    - {{ name: {lower}-{port}, port: {port}, targetPort: {target}, protocol: {protocol} }}\n"
        );
    }
    text
}

/// The IPv4 address of a Service, with a port.
pub fn v4(number: u8, port: u16) -> String {
    SocketAddr::from(([10, 96, 0, number], port)).to_string()
}

/// The IPv6 address of a Service, with a port.
pub fn v6(number: u8, port: u16) -> String {
    format!("[fd96::{number}]:{port}")
}
