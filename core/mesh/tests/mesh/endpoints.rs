use crate::fixture::{check, state};

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: admin, port: 81}]}}
---";

#[track_caller]
fn check_web(endpoints: &str, expected: &str) {
    let frontends = "frontend 10.96.0.1:80/tcp default/web 0\nfrontend 10.96.0.1:81/tcp default/web 1\n";
    let (services, rest) = expected.split_once("==\n").unwrap_or((expected, ""));
    let expected =
        format!("service default/web 10.96.0.1\n{}{frontends}{rest}", services.trim_start_matches('\n'));
    check(&format!("{WEB}{endpoints}"), &expected);
}

#[test]
fn slices_merge_and_match_ports_by_name() {
    check_web(
        r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.3], nodeName: here, hostname: h3, targetRef: {kind: Pod, name: web-3}}
- {addresses: [10.1.0.1], nodeName: there, conditions: {ready: true}}
ports: [{name: admin, port: 9090}, {name: http, port: 8080}, {name: http, port: 8081, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.1], nodeName: there, conditions: {ready: false}}
- {addresses: [10.1.0.1], nodeName: far}
- {addresses: [10.1.0.2]}
ports: [{name: http, port: 8080}]
"#,
        r#"
  port http 80/tcp
    10.1.0.1:8080 node=far
    10.1.0.1:8080 node=there
    10.1.0.2:8080
    10.1.0.3:8080 node=here host=h3 pod=default/web-3
  port admin 81/tcp
    10.1.0.1:9090 node=there
    10.1.0.3:9090 node=here host=h3 pod=default/web-3
==
local 10.1.0.3:8080/tcp default/web
local 10.1.0.3:9090/tcp default/web
"#,
    );
}

#[test]
fn conditions_hints_and_zones() {
    check_web(
        r#"
{apiVersion: v1, kind: Node, metadata: {name: here, labels: {topology.kubernetes.io/zone: lan-1}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.1], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.2], nodeName: here, conditions: {ready: false}}
- {addresses: [10.1.0.3], nodeName: here, conditions: {ready: null}, zone: lan-2}
- {addresses: [10.1.0.4], zone: lan-3, hints: {forZones: [{name: lan-1}, {name: lan-3}], forNodes: [{name: here}]}}
ports: [{name: http, port: 8080}]
"#,
        r#"
  port http 80/tcp
    10.1.0.1:8080 node=here zone=lan-1 not-ready serving terminating
    10.1.0.2:8080 node=here zone=lan-1 not-ready
    10.1.0.3:8080 node=here zone=lan-2
    10.1.0.4:8080 zone=lan-3 for-zones=lan-1,lan-3 for-nodes=here
  port admin 81/tcp
==
local 10.1.0.1:8080/tcp default/web
local 10.1.0.3:8080/tcp default/web
"#,
    );
}

#[test]
fn endpoints_stand_in_where_there_is_no_slice() {
    check_web(
        r#"
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 10.1.0.1, nodeName: here}, {ip: "fd00:1::1"}]
  notReadyAddresses: [{ip: 10.1.0.2, nodeName: here, hostname: h}]
  ports: [{name: http, port: 8080}]
- addresses: [{ip: 10.1.0.1, nodeName: here}]
  ports: [{name: admin, port: 9090}]
"#,
        r#"
  port http 80/tcp
    10.1.0.1:8080 node=here
    10.1.0.2:8080 node=here host=h not-ready
    [fd00:1::1]:8080
  port admin 81/tcp
    10.1.0.1:9090 node=here
==
local 10.1.0.1:8080/tcp default/web
local 10.1.0.1:9090/tcp default/web
"#,
    );
}

#[test]
fn what_cannot_be_an_endpoint_is_reported() {
    check_web(
        r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: web}}
addressType: FQDN
endpoints: [{addresses: [db.example.com]}]
ports: [{name: http, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [169.254.169.254], nodeName: here}
- {addresses: [127.0.0.1], nodeName: here}
- {addresses: ["fd00::1"]}
- {addresses: [x]}
- {addresses: [10.96.0.1]}
- {addresses: []}
- {addresses: null}
ports: [{name: http, port: 8080}, {name: admin}]
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c}, addressType: IPv4, endpoints: []}
"#,
        r#"
  port http 80/tcp
  port admin 81/tcp
==
finding EndpointSlice default/a: address type FQDN is not supported
finding EndpointSlice default/b: a port without a number is not supported
finding EndpointSlice default/b: endpoint address "10.96.0.1" is the Service's own clusterIP
finding EndpointSlice default/b: endpoint address "127.0.0.1" is a loopback address
finding EndpointSlice default/b: endpoint address "169.254.169.254" is a link-local address
finding EndpointSlice default/b: endpoint address "x" is no IP address
finding EndpointSlice default/b: endpoint address fd00::1 is not of the slice's type IPv4
finding EndpointSlice default/c: has no label kubernetes.io/service-name: it belongs to no Service
"#,
    );
}

#[test]
fn addresses_lead_back_to_services() {
    let snapshot = state(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: x}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 81, name: b}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, namespace: x, labels: {kubernetes.io/service-name: a}}
endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2], conditions: {ready: false}}]
ports: [{port: 80}, {port: 81, name: b}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b-1, labels: {kubernetes.io/service-name: b}}
endpoints: [{addresses: [10.1.0.1]}]
ports: [{port: 80}]
---
{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1}, status: {podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: y}, spec: {nodeName: n2}, status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: gone}, status: {podIP: 10.1.0.1, phase: Failed}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: empty}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}, annotations: {edgemesh.kubeedge.io/peer-id: 12D3, other: dropped}}
---
{apiVersion: v1, kind: Node, metadata: {name: here, labels: {topology.kubernetes.io/zone: mine}}}
"#,
    )
    .compile();
    let ids = |ids: &[edgemesh_mesh::ServiceId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ip = |text: &str| text.parse().expect("an address");
    assert_eq!(snapshot.service_by_ip[&ip("10.96.0.1")].to_string(), "x/a");
    assert_eq!(ids(&snapshot.endpoints_by_ip[&ip("10.1.0.1")]), ["default/b", "x/a"]);
    assert!(!snapshot.endpoints_by_ip.contains_key(&ip("10.1.0.2")), "DNS does not publish it");
    let pods: Vec<_> = snapshot.pods_by_ip[&ip("10.1.0.1")].iter().map(|pod| pod.pod.to_string()).collect();
    assert_eq!(pods, ["default/p", "y/q"]);
    let namespaces: Vec<_> = snapshot.namespaces.iter().map(|name| &**name).collect();
    assert_eq!(namespaces, ["default", "empty", "x", "y"]);
    assert_eq!(snapshot.zones["n1"].as_deref(), Some("z"));
    assert_eq!(snapshot.node.zone.as_deref(), Some("mine"));
    assert_eq!(&*snapshot.peer_ids["n1"], "12D3");
}

#[test]
fn two_nodes_with_one_key_are_found() {
    check(
        r#"
{apiVersion: v1, kind: Node, metadata: {name: a, annotations: {edgemesh.kubeedge.io/peer-id: 12D3}}}
---
{apiVersion: v1, kind: Node, metadata: {name: b, annotations: {edgemesh.kubeedge.io/peer-id: 12D3}}}
"#,
        "finding Node b: peer 12D3 is Node a too: one of them runs with a copied key",
    );
}
