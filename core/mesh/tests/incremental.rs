//! A snapshot that followed many changes is the one that is compiled from their result at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use edgemesh_api::{Kind, Object, ObjectKey, SourceEvent, decode_value};
use edgemesh_mesh::{MeshSnapshot, MeshState};
use serde_json::{Value, json};

/// Few names and addresses, so that Services often claim the same.
const NAMES: u64 = 6;
const ADDRESSES: u64 = 5;
const STEPS: u64 = 600;

/// A number below `below`, the same in every run (splitmix64's finalizer).
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % below
}

fn service(state: &mut u64, name: u64) -> Value {
    let vip = match draw(state, 6) {
        0 => "None".to_owned(),
        _ => format!("10.96.0.{}", draw(state, ADDRESSES)),
    };
    let type_ = ["ClusterIP", "NodePort", "LoadBalancer"][draw(state, 3) as usize];
    let ports: Vec<Value> = (0..=draw(state, 2))
        .map(|number| {
            let protocol = ["TCP", "TCP", "UDP", "SCTP"][draw(state, 4) as usize];
            let node_port = [0, 30000 + draw(state, 4)][draw(state, 2) as usize];
            json!({
                "name": format!("p{number}"), "port": 80 + draw(state, 3), "protocol": protocol,
                "nodePort": node_port,
            })
        })
        .collect();
    let mut outer = || -> Vec<String> {
        (0..draw(state, 3)).map(|_| format!("10.96.0.{}", draw(state, ADDRESSES * 2))).collect()
    };
    let (external, balanced) = (outer(), outer());
    let modes = ["VIP", "Proxy"];
    let ingress: Vec<Value> =
        balanced.iter().map(|ip| json!({"ip": ip, "ipMode": modes[draw(state, 2) as usize]})).collect();
    let policies = ["Cluster", "Local"];
    let ranges = [json!([]), json!(["10.0.0.0/8"]), json!(["10.0.0.0/8", "bad"])];
    let labels = match draw(state, 5) {
        0 => json!({"service.edgemesh.kubeedge.io/service-proxy-name": "other"}),
        _ => json!({}),
    };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{name}"), "namespace": format!("n{}", name % 2), "labels": labels},
        "spec": {
            "type": type_, "clusterIP": vip, "ports": ports, "externalIPs": external,
            "internalTrafficPolicy": policies[draw(state, 2) as usize],
            "externalTrafficPolicy": policies[draw(state, 2) as usize],
            "loadBalancerSourceRanges": ranges[draw(state, 3) as usize],
            "healthCheckNodePort": 31000 + draw(state, 2),
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// Fields of a Service, each of which may be all that changes.
const FIELDS: [&str; 10] = [
    "/metadata/labels",
    "/spec/type",
    "/spec/clusterIP",
    "/spec/ports",
    "/spec/ports/0/nodePort",
    "/spec/externalIPs",
    "/spec/externalTrafficPolicy",
    "/spec/loadBalancerSourceRanges",
    "/spec/healthCheckNodePort",
    "/status/loadBalancer/ingress",
];

/// A new Service, or the one before with one field of a new one.
fn changed_service(state: &mut u64, name: u64, before: &mut BTreeMap<u64, Value>) -> Value {
    let new = service(state, name);
    let field = FIELDS[draw(state, FIELDS.len() as u64) as usize];
    match before.get_mut(&name).filter(|_| draw(state, 3) > 0) {
        Some(known) => {
            *known.pointer_mut(field).expect("a field") = new.pointer(field).expect("a field").clone()
        }
        None => drop(before.insert(name, new)),
    }
    before[&name].clone()
}

fn slice(state: &mut u64, name: u64) -> Value {
    let endpoints: Vec<Value> = (0..draw(state, 4))
        .map(|_| {
            json!({
                "addresses": [format!("10.1.0.{}", draw(state, ADDRESSES))],
                "conditions": {"ready": draw(state, 3) > 0},
                "nodeName": (["here", "there"])[draw(state, 2) as usize],
            })
        })
        .collect();
    let labels = match draw(state, 8) {
        0 => json!({}),
        _ => json!({"kubernetes.io/service-name": format!("s{name}")}),
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{name}-1"), "namespace": format!("n{}", name % 2), "labels": labels},
        "endpoints": endpoints,
        "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 8081}],
    })
}

fn rule(state: &mut u64, name: u64) -> Value {
    let policy = ["RANDOM", "ROUND_ROBIN"][draw(state, 2) as usize];
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": format!("s{name}"), "namespace": format!("n{}", name % 2)},
        "spec": {"host": format!("s{name}"), "trafficPolicy": {"loadBalancer": {"simple": policy}}},
    })
}

fn node(state: &mut u64, name: u64) -> Value {
    let labels = json!({"topology.kubernetes.io/zone": format!("z{}", draw(state, 2))});
    let annotations = json!({"edgemesh.kubeedge.io/peer-id": format!("12D3{}", draw(state, 2))});
    let name = ["here", "there"][name as usize % 2];
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"podCIDRs": [format!("10.1.{}.0/24", draw(state, 2))]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", draw(state, 2))}]},
    })
}

/// Everything a reader can see.
fn render(snapshot: &MeshSnapshot) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("text");
    line(format!("{:?}", snapshot.node));
    line(format!("{:?} {:?} {:?}", snapshot.namespaces, snapshot.zones, snapshot.peer_ids));
    snapshot.services.iter().for_each(|(id, entry)| line(format!("{id} {entry:?}")));
    for (frontend, entry) in &snapshot.frontends {
        line(format!("{frontend} {} {} {:?} {:?}", entry.service.id, entry.port, entry.scope, entry.service));
    }
    for (node_port, entry) in &snapshot.node_ports {
        line(format!("{node_port:?} {} {} {:?}", entry.service.id, entry.port, entry.service));
    }
    snapshot.service_by_ip.iter().for_each(|(ip, id)| line(format!("{ip} {id}")));
    snapshot.local_backends.iter().for_each(|(backend, id)| line(format!("{backend:?} {id}")));
    for last in 0..ADDRESSES as u8 {
        let ip = IpAddr::from([10, 1, 0, last]);
        line(format!("{ip} {:?}", snapshot.endpoints_by_ip.get(&ip)));
    }
    snapshot.findings.iter().for_each(|finding| line(format!("{finding:?}")));
    out
}

#[test]
fn following_changes_is_compiling_their_result() {
    for seed in 0..4 {
        let mut draws = seed;
        let mut services = BTreeMap::new();
        let mut followed = MeshState::new("here".into());
        let mut objects: BTreeMap<(Kind, ObjectKey), Arc<Object>> = BTreeMap::new();
        for step in 0..STEPS {
            for _ in 0..=draw(&mut draws, 2) {
                let name = draw(&mut draws, NAMES);
                let value = match draw(&mut draws, 12) {
                    0 => node(&mut draws, name),
                    1 => rule(&mut draws, name),
                    2..=6 => slice(&mut draws, name),
                    _ => changed_service(&mut draws, name, &mut services),
                };
                let object = Arc::new(decode_value(value).expect("an object of the mesh"));
                let id = (object.kind(), object.key());
                if draw(&mut draws, 4) == 0 {
                    followed.apply(SourceEvent::Delete(id.0, id.1.clone()));
                    objects.remove(&id);
                } else {
                    followed.apply(SourceEvent::Upsert(object.clone()));
                    objects.insert(id, object);
                }
            }
            let mut anew = MeshState::new("here".into());
            for object in objects.values() {
                anew.apply(SourceEvent::Upsert(object.clone()));
            }
            assert_eq!(
                render(&followed.compile()),
                render(&anew.compile()),
                "seed {seed}, step {step}: followed, and compiled anew"
            );
        }
    }
}

#[test]
fn what_did_not_change_is_shared() {
    let mut draws = 0;
    let mut state = MeshState::new("here".into());
    let upsert = |value: Value| SourceEvent::Upsert(Arc::new(decode_value(value).expect("an object")));
    for number in 0..1_000_u32 {
        let [.., high, low] = number.to_be_bytes();
        state.apply(upsert(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{number}"), "namespace": "n1"},
            "spec": {"clusterIP": format!("10.97.{high}.{low}"), "ports": [{"name": "p0", "port": 80}]},
        })));
    }
    let before = state.compile();
    state.apply(upsert(slice(&mut draws, 1)));
    let after = state.compile();
    assert_ne!(render(&before), render(&after), "the slice belongs to a Service");
    for unshared in
        [before.services.unshared(&after.services).len(), before.frontends.unshared(&after.frontends).len()]
    {
        assert!((1..=64).contains(&unshared), "one chunk differs, not {unshared} entries");
    }
    assert!(before.service_by_ip.unshared(&after.service_by_ip).is_empty());
    assert!(Arc::ptr_eq(&before.namespaces, &after.namespaces));
}
