//! Objects as an API server has them.

use serde_json::{Value, json};

/// Where a pod of the laboratory is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [String; 2],
}

/// A Service of two families in namespace `default`; `ports` are name, protocol, port and target port.
pub fn service_object(name: &str, number: u8, ports: &[(&str, &str, u16, u16)]) -> Value {
    let port = |(name, protocol, port, target): &(&str, &str, u16, u16)| json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "default", "name": name },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": format!("10.96.0.{number}"),
            "clusterIPs": [format!("10.96.0.{number}"), format!("fd96::{number}")],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack",
            "selector": { "app": name },
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        },
    })
}

/// The EndpointSlices of a Service, one for each family, as the controller makes them.
pub fn slices(service: &Value, places: &[&Place]) -> [Value; 2] {
    let name = service["metadata"]["name"].as_str().expect("a Service has a name");
    let ports = service["spec"]["ports"].as_array().expect("a Service has ports");
    let port = |port: &Value| json!({ "name": port["name"], "protocol": port["protocol"], "port": port["targetPort"] });
    [(0, "IPv4"), (1, "IPv6")].map(|(family, address_type)| {
        let endpoint = |place: &&Place| {
            json!({
                "addresses": [place.addresses[family]],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": place.node,
                "targetRef": { "kind": "Pod", "namespace": "default", "name": place.pod },
            })
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": format!("{name}-{}", address_type.to_lowercase()),
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": address_type,
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
            "endpoints": places.iter().map(endpoint).collect::<Vec<_>>(),
        })
    })
}

/// The Endpoints of a Service: IPv4 only, as the controller makes them for a Service of both families.
pub fn endpoints(service: &Value, places: &[&Place]) -> Value {
    let ports = service["spec"]["ports"].as_array().expect("a Service has ports");
    let port = |port: &Value| json!({ "name": port["name"], "protocol": port["protocol"], "port": port["targetPort"] });
    let address = |place: &&Place| json!({ "ip": place.addresses[0], "nodeName": place.node });
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": service["metadata"],
        "subsets": [{
            "addresses": places.iter().map(address).collect::<Vec<_>>(),
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        }],
    })
}

/// A DestinationRule as Go EdgeMesh reads them: its name is the Service's.
pub fn destination_rule(name: &str, load_balancer: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "DestinationRule",
        "metadata": { "namespace": "default", "name": name },
        "spec": { "host": name, "trafficPolicy": { "loadBalancer": load_balancer } },
    })
}

/// An object with labels.
pub fn labelled(mut object: Value, labels: &Value) -> Value {
    object["metadata"]["labels"] = labels.clone();
    object
}
