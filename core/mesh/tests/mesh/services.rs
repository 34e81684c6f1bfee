use crate::fixture::check;

#[test]
fn virtual_addresses_of_both_families_and_every_port() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00::1"]
  externalIPs: [192.0.2.7, 192.0.2.6]
  ports:
  - {name: http, port: 80}
  - {name: dns, port: 53, protocol: UDP}
  - {name: sig, port: 9, protocol: SCTP}
status: {loadBalancer: {ingress: [{ip: 192.0.2.8}, {ip: 192.0.2.9, ipMode: Proxy}, {hostname: lb.example}, {ip: 192.0.2.7, ipMode: VIP}, {ip: 192.0.2.10, ipMode: Tunnel}]}}
"#,
        r#"
service default/web 10.96.0.1 fd00::1 external=192.0.2.6 load-balancer=192.0.2.8 load-balancer=192.0.2.7
  port http 80/tcp
  port dns 53/udp
  port sig 9/sctp
frontend 10.96.0.1:9/sctp default/web 2
frontend 10.96.0.1:53/udp default/web 1
frontend 10.96.0.1:80/tcp default/web 0
frontend 192.0.2.6:9/sctp default/web 2 external
frontend 192.0.2.6:53/udp default/web 1 external
frontend 192.0.2.6:80/tcp default/web 0 external
frontend 192.0.2.7:9/sctp default/web 2 load-balancer
frontend 192.0.2.7:53/udp default/web 1 load-balancer
frontend 192.0.2.7:80/tcp default/web 0 load-balancer
frontend 192.0.2.8:9/sctp default/web 2 load-balancer
frontend 192.0.2.8:53/udp default/web 1 load-balancer
frontend 192.0.2.8:80/tcp default/web 0 load-balancer
frontend [fd00::1]:9/sctp default/web 2
frontend [fd00::1]:53/udp default/web 1
frontend [fd00::1]:80/tcp default/web 0
finding Service default/web: ipMode "Tunnel" of load-balancer address 192.0.2.10 is unknown: it is not intercepted
finding Service default/web: port 9/sctp reaches endpoints that the kernel reaches by itself: the tunnel carries TCP and UDP
"#,
    );
}

#[test]
fn headless_and_alias_have_no_frontend() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: db.example.com, ports: [{port: 1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bad-alias}, spec: {type: ExternalName}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: portless}, spec: {clusterIP: None}}
"#,
        r#"
service default/alias alias=db.example.com
service default/bad-alias alias=
service default/db headless publish-not-ready
  port - 5432/tcp
service default/portless headless
  port - 0/tcp
finding Service default/bad-alias: type ExternalName without externalName
"#,
    );
}

#[test]
fn settings_and_their_defaults() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, trafficDistribution: PreferClose, internalTrafficPolicy: Local}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec:
  clusterIP: 10.96.0.2
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  trafficDistribution: PreferSameNode
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec:
  clusterIP: 10.96.0.3
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}
  trafficDistribution: Nearest
  internalTrafficPolicy: Mine
---
apiVersion: v1
kind: Service
metadata: {name: d}
spec: {clusterIP: 10.96.0.4, sessionAffinity: Cookie, trafficDistribution: PreferSameZone}
"#,
        r#"
service default/a 10.96.0.1 affinity=10800 same-zone internal-local
service default/b 10.96.0.2 affinity=60 same-node
service default/c 10.96.0.3 affinity=10800
service default/d 10.96.0.4 same-zone
finding Service default/c: internalTrafficPolicy "Mine" is unknown: Cluster is used
finding Service default/c: timeoutSeconds 0 is not in 1..=86400: the default is used
finding Service default/c: trafficDistribution "Nearest" is unknown: all endpoints are alike
finding Service default/d: sessionAffinity "Cookie" is unknown: connections do not stick
"#,
    );
}

#[test]
fn services_of_other_proxies_and_the_api_server_are_left_alone() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}}
---
apiVersion: v1
kind: Service
metadata: {name: a, labels: {service.edgemesh.kubeedge.io/service-proxy-name: ""}}
spec: {clusterIP: 10.96.0.2, ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {clusterIP: 10.96.0.3, ports: [{port: 1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b-1, labels: {kubernetes.io/service-name: b}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1], nodeName: here}]
ports: [{port: 1}]
---
{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: other}, spec: {clusterIP: 10.96.0.4, ports: [{port: 443}]}}
"#,
        r#"
service default/a 10.96.0.2 not-intercepted
  port - 1/tcp
service default/b 10.96.0.3 not-intercepted
  port - 1/tcp
    10.1.0.1:1 node=here
service default/kubernetes 10.96.0.1 not-intercepted
  port - 443/tcp
service other/kubernetes 10.96.0.4
  port - 443/tcp
frontend 10.96.0.4:443/tcp other/kubernetes 0
"#,
    );
}

#[test]
fn a_clash_goes_to_the_first_and_no_one_takes_a_cluster_address() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, externalIPs: [192.0.2.1, 10.96.0.2], ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2, externalIPs: [192.0.2.1], ports: [{port: 80}, {port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
"#,
        r#"
service default/a 10.96.0.1 external=192.0.2.1 external=10.96.0.2
  port - 80/tcp
service default/b 10.96.0.2 external=192.0.2.1
  port - 80/tcp
  port - 81/tcp
service default/c 10.96.0.1
  port - 80/tcp
frontend 10.96.0.1:80/tcp default/a 0
frontend 10.96.0.2:80/tcp default/b 0
frontend 10.96.0.2:81/tcp default/b 1
frontend 192.0.2.1:80/tcp default/a 0 external
frontend 192.0.2.1:81/tcp default/b 1 external
finding Service default/a: external address 10.96.0.2 is the clusterIP of Service default/b
finding Service default/b: 192.0.2.1:80/tcp belongs to Service default/a
finding Service default/c: 10.96.0.1:80/tcp belongs to Service default/a
"#,
    );
}

#[test]
fn addresses_and_ports_that_cannot_be_are_reported() {
    check(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 127.0.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 169.254.96.16, externalIPs: [224.0.0.1, "::1", "fe80::1", 0.1.2.3]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {clusterIP: ten, externalIPs: ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "ff02::1"]}}
---
{apiVersion: v1, kind: Service, metadata: {name: d}, spec: {clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 0, name: x}, {port: 1}, {port: 1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: e}, spec: {ports: [{port: 80}]}}
"#,
        r#"
service default/a
  port - 80/tcp
service default/b
service default/c
service default/d 10.96.0.1
  port - 1/tcp
service default/e
  port - 80/tcp
frontend 10.96.0.1:1/tcp default/d 0
finding Service default/a: clusterIP "127.0.0.1" is a loopback address
finding Service default/a: has no usable clusterIP, and only an API server allocates one: set clusterIP
finding Service default/b: clusterIP "169.254.96.16" is a link-local address
finding Service default/b: external address "0.1.2.3" is unspecified (0.0.0.0/8, ::)
finding Service default/b: external address "224.0.0.1" is a multicast address
finding Service default/b: external address "::1" is a loopback address
finding Service default/b: external address "fe80::1" is a link-local address
finding Service default/b: has no usable clusterIP, and only an API server allocates one: set clusterIP
finding Service default/c: clusterIP "ten" is no IP address
finding Service default/c: external address "64:ff9b::7f00:1" embeds an IPv4 address
finding Service default/c: external address "::ffff:127.0.0.1" embeds an IPv4 address
finding Service default/c: external address "ff02::1" is a multicast address
finding Service default/c: has no usable clusterIP, and only an API server allocates one: set clusterIP
finding Service default/d: clusterIP 10.96.0.2 is a second one of its family
finding Service default/d: port "x" has no number
finding Service default/d: port 1/tcp is declared twice
finding Service default/e: has no usable clusterIP, and only an API server allocates one: set clusterIP
"#,
    );
}
