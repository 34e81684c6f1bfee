//! Services as they are in the store, and as the mesh should show them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use edgemesh_apiserver::{Resource, Store};
use edgemesh_mesh::{MeshSnapshot, ServiceEntry};
use serde_json::{Value, json};

const NAMESPACE: &str = "world";

/// Name and endpoints of each Service, in the order of addresses; one that is there twice is counted twice.
pub(crate) type Shown = BTreeMap<String, Vec<SocketAddr>>;

/// What a snapshot shows.
pub(crate) fn shown(snapshot: &MeshSnapshot) -> Shown {
    let backends = |entry: &ServiceEntry| {
        let ready = entry.ports.iter().flat_map(|port| port.backends.iter()).filter(|backend| backend.ready);
        ready.map(|backend| backend.addr).collect()
    };
    let named = snapshot.services.values().filter(|entry| &*entry.id.namespace == NAMESPACE);
    named.map(|entry| (entry.id.name.to_string(), backends(entry))).collect()
}

/// Which endpoints the mesh can know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Of slices: both.
    Both,
    /// Of Endpoints, which have the first one only.
    First,
}

/// Services with their slices and Endpoints, written to a store and remembered.
#[derive(Clone, Default)]
pub(crate) struct World {
    services: BTreeMap<u8, Vec<u8>>,
}

pub(crate) fn name(number: u8) -> String {
    format!("s-{number:02}")
}

impl World {
    /// Services 0 to `count`, each with two endpoints.
    pub(crate) fn of(store: &Store, count: u8) -> Self {
        let mut world = Self::default();
        (0..count).for_each(|number| world.put(store, number, &[1, 2]));
        world
    }

    /// Writes everything again, as into a store that lost it.
    pub(crate) fn write(&self, store: &Store) {
        for (number, pods) in &self.services {
            write(store, *number, pods);
        }
    }

    /// A Service with endpoints on these hosts.
    pub(crate) fn put(&mut self, store: &Store, number: u8, pods: &[u8]) {
        write(store, number, pods);
        self.services.insert(number, pods.to_vec());
    }

    pub(crate) fn delete(&mut self, store: &Store, number: u8) {
        self.services.remove(&number).expect("there was one");
        let name = name(number);
        store.delete(Resource::Services, NAMESPACE, &name).expect("deleted");
        store.delete(Resource::Endpoints, NAMESPACE, &name).expect("deleted");
        for family in ["4", "6"] {
            let slice = format!("{name}-{family}");
            store.delete(Resource::EndpointSlices, NAMESPACE, &slice).expect("deleted");
        }
    }

    /// Something of each sort: a Service more, one less, and one whose endpoints move.
    pub(crate) fn change(&mut self, store: &Store) {
        let numbers: Vec<u8> = self.services.keys().copied().collect();
        let [first, second, ..] = numbers[..] else { panic!("two Services at least") };
        let new = numbers.last().expect("not empty") + 1;
        self.put(store, new, &[7]);
        self.delete(store, first);
        self.put(store, second, &[new, new + 1, new + 2]);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.services.keys().map(|number| name(*number))
    }

    /// What a snapshot should show.
    pub(crate) fn expected(&self, family: Family) -> Shown {
        let addresses = |number: u8, pods: &[u8]| {
            let v4 = pods.iter().map(|pod| SocketAddr::from((v4(number, *pod), 8080)));
            let v6 = pods.iter().filter(|_| family == Family::Both);
            let v6 = v6.map(|pod| SocketAddr::from((v6_of(number, *pod), 8080)));
            let mut all: Vec<_> = v4.chain(v6).collect();
            all.sort_unstable();
            all
        };
        self.services.iter().map(|(number, pods)| (name(*number), addresses(*number, pods))).collect()
    }
}

fn v4(number: u8, pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, number, pod)
}

fn v6_of(number: u8, pod: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, u16::from(number), u16::from(pod))
}

fn write(store: &Store, number: u8, pods: &[u8]) {
    for object in objects(number, pods) {
        store.apply(object).expect("written");
    }
}

fn objects(number: u8, pods: &[u8]) -> [Value; 4] {
    let name = name(number);
    let ips = [format!("10.96.0.{number}"), format!("fd00:96::{number:x}")];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    let slice = |family: &str, address_type: &str, addresses: Vec<String>| {
        let endpoint = |address: String| json!({"addresses": [address], "conditions": {"ready": true}});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
            "metadata": {
                "namespace": NAMESPACE, "name": format!("{name}-{family}"),
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "endpoints": addresses.into_iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        })
    };
    let v4: Vec<String> = pods.iter().map(|pod| v4(number, *pod).to_string()).collect();
    let v6: Vec<String> = pods.iter().map(|pod| v6_of(number, *pod).to_string()).collect();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": NAMESPACE, "name": name},
        "subsets": [{
            "addresses": v4.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        }],
    });
    [service, slice("4", "IPv4", v4), slice("6", "IPv6", v6), endpoints]
}
