use std::net::SocketAddr;

use edgemesh_api::{Name, Protocol};
use edgemesh_mesh::{MeshSnapshot, TunnelRule};

use crate::fixture::state;

/// Two Services over one Pod, and one over another Pod.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], nodeName: n1, conditions: {ready: true}}]
ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-1, namespace: shop, labels: {kubernetes.io/service-name: web-headless}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], nodeName: n1, conditions: {ready: true}}]
ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.2], nodeName: n1, conditions: {ready: true}}]
ports: [{port: 80}]
";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: edgemesh.kubeedge.io/v1alpha1\nkind: TunnelPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn rules<'a>(snapshot: &'a MeshSnapshot, backend: &str) -> Option<&'a [TunnelRule]> {
    let backend: SocketAddr = backend.parse().expect("an address");
    snapshot.tunnel_rules.of(backend, Protocol::Tcp)
}

fn rule(nodes: &[&str], namespaces: &[&str]) -> TunnelRule {
    let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect();
    TunnelRule { nodes: names(nodes), namespaces: names(namespaces) }
}

#[track_caller]
fn check(policies: &[String], web: Option<&[TunnelRule]>, db: Option<&[TunnelRule]>) -> MeshSnapshot {
    let snapshot = state(&format!("{SERVICES}{}", policies.concat())).compile();
    assert_eq!(rules(&snapshot, "10.0.0.1:80"), web, "{policies:?}");
    assert_eq!(rules(&snapshot, "10.0.0.2:80"), db, "{policies:?}");
    snapshot
}

#[test]
fn policies_select_services_of_their_namespace() {
    check(&[], None, None);
    check(&[policy("p", "other", "{allow: []}")], None, None);
    // Whatever else is over the same Pod is no way around.
    let a = [rule(&["a"], &[])];
    check(&[policy("p", "shop", "{services: [web], allow: [{nodes: [a]}]}")], Some(&a), None);
    check(&[policy("p", "shop", "{services: [web-headless], allow: [{nodes: [a]}]}")], Some(&a), None);
    check(&[policy("p", "shop", "{allow: [{nodes: [a]}]}")], Some(&a), Some(&a));
    check(&[policy("p", "shop", "{services: [db]}")], None, Some(&[]));
    check(&[policy("p", "shop", "{services: null, allow: null}")], Some(&[]), Some(&[]));
    // Policies add up.
    let both = [rule(&["a"], &[]), rule(&["b"], &["x", "y"])];
    let second = policy("q", "shop", "{services: [web], allow: [{nodes: [b], namespaces: [x, y]}]}");
    check(&[policy("p", "shop", "{services: [web], allow: [{nodes: [a]}]}"), second], Some(&both), None);
}

#[test]
fn a_policy_for_no_service_is_told() {
    let snapshot = check(&[policy("p", "shop", "{services: [wbe], allow: [{nodes: [a]}]}")], None, None);
    let told = snapshot.findings.iter().find(|finding| finding.object == "TunnelPolicy shop/p");
    let message = told.map(|finding| finding.message.as_str());
    assert_eq!(message, Some("there is no Service shop/wbe: nothing is closed by that name"));
}
