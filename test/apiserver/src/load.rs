use serde_json::{Value, json};

use crate::store::{Store, WriteError};

/// Nodes that the loaded pods and endpoints run on.
const NODES: usize = 10;

/// A cluster to be made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Services `load-N`, dual stack, each with one EndpointSlice `load-N-4` or, for odd ones, `load-N-6`.
    pub services: usize,
    /// Endpoints per slice.
    pub endpoints: usize,
    /// Pods `load-N`, dual stack.
    pub pods: usize,
}

impl Store {
    /// Writes a made-up cluster into the namespace `load`.
    pub fn load(&self, load: Load) -> Result<(), WriteError> {
        for number in 0..load.services {
            self.apply(service(number))?;
            self.apply(slice(number, load.endpoints))?;
        }
        for number in 0..load.pods {
            self.apply(pod(number))?;
        }
        Ok(())
    }
}

fn node(number: usize) -> String {
    format!("node-{}", number % NODES)
}

/// Addresses of a /8 and a /48 that are counted through.
fn addresses(net: u8, number: usize) -> [String; 2] {
    let host = number + 1;
    let v4 = format!("{net}.{}.{}.{}", host >> 16 & 0xff, host >> 8 & 0xff, host & 0xff);
    [v4, format!("fd00:0:{net:x}::{:x}:{:x}", host >> 16 & 0xffff, host & 0xffff)]
}

fn service(number: usize) -> Value {
    let addresses = addresses(11, number);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "load", "name": format!("load-{number}"), "labels": {"app": "load"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": format!("load-{number}")},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let family = number % 2;
    let (suffix, address_type) = [("4", "IPv4"), ("6", "IPv6")][family];
    let endpoint = |position: usize| {
        let pod = number * endpoints + position;
        json!({
            "addresses": [addresses(12, pod)[family]],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node(pod),
            "targetRef": {"kind": "Pod", "namespace": "load", "name": format!("load-{pod}")},
        })
    };
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "load", "name": format!("load-{number}-{suffix}"),
            "labels": {"kubernetes.io/service-name": format!("load-{number}")},
        },
        "addressType": address_type,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    // The macro would copy them all.
    slice["endpoints"] = (0..endpoints).map(endpoint).collect();
    slice
}

fn pod(number: usize) -> Value {
    let addresses = addresses(12, number);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "load", "name": format!("load-{number}"), "labels": {"app": "load"}},
        "spec": {
            "nodeName": node(number),
            "containers": [{"name": "main", "image": "load", "ports": [{"containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running", "podIP": addresses[0],
            "podIPs": [{"ip": addresses[0]}, {"ip": addresses[1]}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}
