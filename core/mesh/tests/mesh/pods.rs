use crate::fixture::check;

#[test]
fn pods_give_the_endpoints_as_the_endpoint_slice_controller_would() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
{apiVersion: v1, kind: Node, metadata: {name: here, labels: {topology.kubernetes.io/zone: lan}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: by-hand, labels: {app: web}}, spec: {nodeName: here}, status: {podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: running, labels: {app: web, x: y}}, status: {podIP: 10.1.0.2, phase: Running}}
---
apiVersion: v1
kind: Pod
metadata: {name: unready, labels: {app: web}}
status: {podIP: 10.1.0.3, phase: Running, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ready, labels: {app: web}}
status: {podIP: 10.1.0.4, phase: Running, conditions: [{type: Initialized, status: "False"}, {type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, labels: {app: web}, deletionTimestamp: 2026-01-01T00:00:00Z}
spec: {nodeName: here}
status: {podIP: 10.1.0.5, conditions: [{type: Ready, status: "True"}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, labels: {app: web}}, status: {podIP: 10.1.0.6, phase: Succeeded}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pending, labels: {app: web}}, status: {podIP: 10.1.0.7, phase: Pending}}
---
{apiVersion: v1, kind: Pod, metadata: {name: no-address, labels: {app: web}}, status: {podIP: ""}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other, labels: {app: other}}, status: {podIP: 10.1.0.8}}
---
{apiVersion: v1, kind: Pod, metadata: {name: elsewhere, namespace: x, labels: {app: web}}, status: {podIP: 10.1.0.9}}
---
{apiVersion: v1, kind: Pod, metadata: {name: v6, labels: {app: web}}, status: {podIP: "fd00::1"}}
"#,
        r#"
service default/web 10.96.0.1
  port http 80/tcp
    10.1.0.1:8080 node=here zone=lan pod=default/by-hand
    10.1.0.2:8080 pod=default/running
    10.1.0.3:8080 pod=default/unready not-ready
    10.1.0.4:8080 pod=default/ready
    10.1.0.5:8080 node=here zone=lan pod=default/leaving not-ready serving terminating
    10.1.0.7:8080 pod=default/pending not-ready
frontend 10.96.0.1:80/tcp default/web 0
local 10.1.0.1:8080/tcp default/web
local 10.1.0.5:8080/tcp default/web
"#,
    );
}

#[test]
fn named_ports_are_looked_up_per_pod() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}, {name: same, port: 81}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 7, protocol: UDP}]}, {ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec:
  containers: [{ports: null}]
  initContainers:
  - {ports: [{name: http, containerPort: 9}]}
  - {restartPolicy: Always, ports: [{name: http, containerPort: 8081}]}
status: {podIP: 10.1.0.2}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: web}}, status: {podIP: 10.1.0.3}}
"#,
        r#"
service default/web 10.96.0.1
  port - 80/tcp
    10.1.0.1:8080 pod=default/a
    10.1.0.2:8081 pod=default/b
  port same 81/tcp
    10.1.0.1:81 pod=default/a
    10.1.0.2:81 pod=default/b
    10.1.0.3:81 pod=default/c
frontend 10.96.0.1:80/tcp default/web 0
frontend 10.96.0.1:81/tcp default/web 1
finding Pod default/c: no container has a tcp port named "http"
"#,
    );
}

#[test]
fn headless_services_name_their_pods_in_both_families() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None, selector: {app: db}, publishNotReadyAddresses: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec: {hostname: db-0, subdomain: db, nodeName: here}
status: {phase: Pending, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, labels: {app: db}}
spec: {hostname: db-1, subdomain: other}
status: {podIP: 10.1.0.2}
"#,
        r#"
service default/db headless publish-not-ready
  port - 0/tcp
    10.1.0.1:0 node=here host=db-0 pod=default/db-0
    10.1.0.2:0 pod=default/db-1
    [fd00::1]:0 node=here host=db-0 pod=default/db-0
"#,
    );
}

#[test]
fn pods_of_the_host_network_have_the_addresses_of_their_node() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIPs: [10.96.0.1, "fd00::a"], selector: {app: web}, ports: [{port: 80}]}}
---
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: Hostname, address: here}, {type: InternalIP, address: 192.168.1.5}, {type: InternalIP, address: "fd00:2::5"}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: web}}, spec: {hostNetwork: true, nodeName: here}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: web}}, spec: {hostNetwork: true, nodeName: unknown}}
"#,
        r#"
service default/web 10.96.0.1 fd00::a
  port - 80/tcp
    192.168.1.5:80 node=here pod=default/a
    [fd00:2::5]:80 node=here pod=default/a
frontend 10.96.0.1:80/tcp default/web 0
frontend [fd00::a]:80/tcp default/web 0
local 192.168.1.5:80/tcp default/web
local [fd00:2::5]:80/tcp default/web
"#,
    );
}

#[test]
fn an_empty_selector_selects_nothing_and_a_slice_beats_the_pods() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, status: {podIP: 10.1.0.1}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b-1, labels: {kubernetes.io/service-name: b}}
endpoints: []
"#,
        r#"
service default/a 10.96.0.1
  port - 80/tcp
service default/b 10.96.0.2
  port - 80/tcp
frontend 10.96.0.1:80/tcp default/a 0
frontend 10.96.0.2:80/tcp default/b 0
"#,
    );
}
