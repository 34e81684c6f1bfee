//! The journal: what it keeps, through power cuts, damage, full disks and restarts.

mod crashes;
mod disk;
mod files;
mod growth;
mod slices;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgemesh_api::{Kind, Object, SourceEvent};
use edgemesh_metadata::{JournalError, JournalGeneration, Loaded, parse_manifests};

use JournalGeneration::{Current, Previous};

const EVERY_KIND: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: NAME, labels: {a: b}}, spec: {clusterIP: 10.96.0.1, selector: {a: b}, ports: [{port: 80, targetPort: http}, {name: x, port: 81, targetPort: 8081, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: NAME}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}, hints: {forZones: [{name: z}]}, targetRef: {kind: Pod, name: p}}], ports: [{port: 1}]}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: NAME}, subsets: [{addresses: [{ip: 10.0.0.1}], notReadyAddresses: [{ip: "fd00::1", nodeName: n}], ports: [{port: 1}]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: NAME, deletionTimestamp: now}, spec: {hostNetwork: true, initContainers: [{restartPolicy: Always}], containers: [{ports: [{name: http, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: NAME, annotations: {edgemesh.kubeedge.io/peer-id: p}}, spec: {podCIDRs: [10.0.0.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: NAME}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: NAME}, spec: {host: h, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}}
---
{apiVersion: edgemesh.kubeedge.io/v1alpha1, kind: TunnelPolicy, metadata: {name: NAME}, spec: {services: [a], allow: [{nodes: [n1], namespaces: [x]}]}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: NAME}, spec: {colour: blue, servers: [{port: {number: 80, protocol: HTTP}, hosts: [a]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME}, spec: {hosts: [a], http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: h}}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: NAME}, spec: {controllerName: x/y}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: NAME}, spec: {listeners: [{name: a, port: 80, protocol: QUIC}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: NAME}, spec: {rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: NAME}, spec: {parentRefs: [{name: a}]}}
---
{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TLSRoute, metadata: {name: NAME}, spec: {hostnames: [a]}}
"#;

/// Objects of every kind that is kept, for each name.
fn every_kind(names: &[&str]) -> Vec<Arc<Object>> {
    let parse = |name: &&str| {
        let objects = parse(&EVERY_KIND.replace("NAME", name));
        assert_eq!(objects.len(), Kind::ALL.len() - 1, "all but Secrets");
        objects
    };
    names.iter().flat_map(parse).collect()
}

/// Namespaces, the smallest objects, from `NAME` or `NAME=NOTE` each.
fn namespaces(text: &str) -> Vec<Arc<Object>> {
    let manifest = |word: &str| {
        let (name, note) = word.split_once('=').unwrap_or((word, ""));
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{n: '{note}'}}}}}}\n")
    };
    parse(&text.split_whitespace().map(manifest).collect::<Vec<_>>().join("---\n"))
}

fn parse(text: &str) -> Vec<Arc<Object>> {
    let (objects, problems) = parse_manifests("a.yaml", text.as_bytes());
    assert!(problems.is_empty(), "{problems:?}");
    objects.into_iter().map(Arc::new).collect()
}

/// The events that restore these objects: the order is that of their keys.
fn events(objects: &[Arc<Object>]) -> Vec<SourceEvent> {
    let mut objects = objects.to_vec();
    objects.sort_by_key(|object| (object.kind(), object.key()));
    let upserts = objects.into_iter().map(SourceEvent::Upsert);
    [SourceEvent::Reset].into_iter().chain(upserts).chain([SourceEvent::Synced]).collect()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// One state that was saved.
#[derive(Clone, Debug, PartialEq)]
struct Commit {
    objects: Vec<Arc<Object>>,
    at: u64,
}

impl Commit {
    /// Namespaces as [`namespaces`] reads them.
    fn new(text: &str, at: u64) -> Self {
        Self { objects: namespaces(text), at }
    }

    fn is_in(&self, loaded: &Result<Loaded, JournalError>) -> bool {
        loaded
            .as_ref()
            .is_ok_and(|loaded| loaded.events == events(&self.objects) && loaded.saved_at == at(self.at))
    }
}

#[track_caller]
fn check(
    loaded: &Result<Loaded, JournalError>,
    commit: &Commit,
    generation: JournalGeneration,
    ignored: Option<JournalError>,
) {
    let loaded = loaded.as_ref().expect("a journal");
    assert_eq!(loaded.events, events(&commit.objects));
    assert_eq!((loaded.saved_at, loaded.generation), (at(commit.at), generation));
    assert_eq!(loaded.ignored, ignored);
}
