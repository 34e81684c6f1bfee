//! What clients outside the cluster know a Service by: node ports, external and load-balancer addresses.

use edgemesh_api::SourceEvent;
use edgemesh_mesh::{Frontend, MeshSnapshot, Scope};

use crate::fixture::{check, objects, render, state};

#[test]
fn node_ports_of_every_port_and_their_policy() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  externalTrafficPolicy: Local
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30053}
  - {name: dns-tcp, port: 53, nodePort: 30053}
  - {name: inner, port: 81, nodePort: 0}
"#,
        r#"
service default/web 10.96.0.1 external-local
  port http 80/tcp node-port=30080
  port dns 53/udp node-port=30053
  port dns-tcp 53/tcp node-port=30053
  port inner 81/tcp
frontend 10.96.0.1:53/tcp default/web 2
frontend 10.96.0.1:53/udp default/web 1
frontend 10.96.0.1:80/tcp default/web 0
frontend 10.96.0.1:81/tcp default/web 3
node-port 30053/tcp default/web 2
node-port 30080/tcp default/web 0
node-port 30053/udp default/web 1
"#,
    );
}

#[test]
fn a_load_balancer_with_ranges_and_a_health_check() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  loadBalancerIP: 192.0.2.200
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [" 198.51.100.7/24 ", 198.51.100.0/25, "2001:db8::/32", ten]
  ports: [{port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.8}]}}
---
apiVersion: v1
kind: Service
metadata: {name: closed}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.2
  loadBalancerSourceRanges: [198.51.100.7, ""]
  ports: [{port: 80}]
"#,
        r#"
service default/closed 10.96.0.2 sources=
  port - 80/tcp
service default/web 10.96.0.1 load-balancer=192.0.2.8 sources=198.51.100.0/24,2001:db8::/32 health=31000 external-local
  port - 80/tcp node-port=30080
frontend 10.96.0.1:80/tcp default/web 0
frontend 10.96.0.2:80/tcp default/closed 0
frontend 192.0.2.8:80/tcp default/web 0 load-balancer
node-port 30080/tcp default/web 0
finding Service default/closed: loadBalancerSourceRanges "" is no CIDR (write ADDRESS/LENGTH): it allows nobody
finding Service default/closed: loadBalancerSourceRanges "198.51.100.7" is no CIDR (write ADDRESS/LENGTH): it allows nobody
finding Service default/web: loadBalancerSourceRanges "ten" is no CIDR (write ADDRESS/LENGTH): it allows nobody
"#,
    );
}

#[test]
fn what_cannot_be_is_reported() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, externalTrafficPolicy: Mine, ports: [{port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: NodePort, clusterIP: None, ports: [{port: 80, nodePort: 30081}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {type: NodePort, clusterIP: 10.96.0.3, healthCheckNodePort: 31000, externalTrafficPolicy: Local, ports: [{name: x, port: 80, nodePort: 30082}, {name: y, port: 81, nodePort: 30082}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: d}, spec: {type: LoadBalancer, clusterIP: 10.96.0.4, healthCheckNodePort: 31000}, status: {loadBalancer: {ingress: [{ip: 127.0.0.1}]}}}
---
{apiVersion: v1, kind: Service, metadata: {name: e}, spec: {type: ExternalName, externalName: x.example, externalTrafficPolicy: Mine, ports: [{port: 80, nodePort: 30083}]}}
"#,
        r#"
service default/a 10.96.0.1
  port - 80/tcp
service default/b headless
  port - 80/tcp
service default/c 10.96.0.3 external-local
  port x 80/tcp node-port=30082
  port y 81/tcp
service default/d 10.96.0.4
service default/e alias=x.example
frontend 10.96.0.1:80/tcp default/a 0
frontend 10.96.0.3:80/tcp default/c 0
frontend 10.96.0.3:81/tcp default/c 1
node-port 30082/tcp default/c 0
finding Service default/a: externalTrafficPolicy "Mine" is unknown: Cluster is used
finding Service default/a: nodePort 30080 is for types NodePort and LoadBalancer with a clusterIP: it is not opened
finding Service default/b: nodePort 30081 is for types NodePort and LoadBalancer with a clusterIP: it is not opened
finding Service default/c: healthCheckNodePort 31000 is for type LoadBalancer with externalTrafficPolicy Local only: it is not opened
finding Service default/c: nodePort 30082/tcp is declared twice
finding Service default/d: healthCheckNodePort 31000 is for type LoadBalancer with externalTrafficPolicy Local only: it is not opened
finding Service default/d: load-balancer address "127.0.0.1" is a loopback address
"#,
    );
}

const RIVALS: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: NodePort, clusterIP: 10.96.0.2, ports: [{name: x, port: 80, nodePort: 30080}, {name: y, port: 80, protocol: UDP, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c, labels: {service.kubernetes.io/service-proxy-name: x}}, spec: {type: NodePort, clusterIP: 10.96.0.3, ports: [{port: 80, nodePort: 30084}]}}
"#;

#[test]
fn a_node_port_goes_to_the_first_and_comes_back_when_that_is_gone() {
    let mut state = state(RIVALS);
    let node_ports = |snapshot: &MeshSnapshot| -> Vec<String> {
        render(snapshot)
            .lines()
            .filter(|line| line.contains("node port") || line.starts_with("node-"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        node_ports(&state.compile()),
        [
            "node-port 30080/tcp default/a 0",
            "node-port 30080/udp default/b 1",
            "finding Service default/b: node port 30080/tcp belongs to Service default/a",
        ]
    );
    let first = objects(RIVALS).remove(0);
    state.apply(SourceEvent::Delete(first.kind(), first.key()));
    assert_eq!(
        node_ports(&state.compile()),
        ["node-port 30080/tcp default/b 0", "node-port 30080/udp default/b 1"]
    );
    state.apply(SourceEvent::Upsert(first));
    assert_eq!(node_ports(&state.compile())[0], "node-port 30080/tcp default/a 0");
}

#[test]
fn an_address_that_is_no_frontend_may_be_the_nodes() {
    let snapshot = state(RIVALS).compile();
    let scope = |address: &str, is_host_address: bool| {
        let address: std::net::SocketAddr = address.parse().expect("an address");
        let protocol = edgemesh_api::Protocol::Tcp;
        let frontend = Frontend { ip: address.ip(), port: address.port(), protocol };
        snapshot.lookup(&frontend, is_host_address).map(|entry| entry.scope)
    };
    for (address, is_host_address, expected) in [
        ("10.96.0.1:80", true, Some(Scope::Cluster)),
        ("10.96.0.1:80", false, Some(Scope::Cluster)),
        ("192.0.2.1:30080", true, Some(Scope::NodePort)),
        ("[2001:db8::1]:30080", true, Some(Scope::NodePort)),
        ("192.0.2.1:30080", false, None),
        ("192.0.2.1:80", true, None),
    ] {
        assert_eq!(scope(address, is_host_address), expected, "{address} {is_host_address}");
    }
}

#[test]
fn clients_inside_are_the_node_and_its_pods() {
    let snapshot = state(
        r#"
apiVersion: v1
kind: Node
metadata: {name: here}
spec: {podCIDRs: [10.1.1.0/24, "fd01:1::/64", nonsense]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}, {type: Hostname, address: here}]}
---
{apiVersion: v1, kind: Node, metadata: {name: there}, spec: {podCIDRs: [10.1.2.0/24]}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: here}, status: {podIP: 10.7.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {nodeName: there}, status: {podIP: 10.7.0.2}}
"#,
    )
    .compile();
    for (client, inside) in [
        ("192.0.2.1", true),
        ("2001:db8::1", true),
        ("127.0.0.1", true),
        ("::1", true),
        ("169.254.96.16", true),
        ("fe80::1", true),
        ("10.1.1.9", true),
        ("fd01:1::9", true),
        ("10.7.0.1", true),
        ("10.1.2.9", false),
        ("10.7.0.2", false),
        ("192.0.2.2", false),
        ("198.51.100.1", false),
    ] {
        assert_eq!(snapshot.is_inside(client.parse().expect("an address")), inside, "{client}");
    }
}
