use serde_json::{Map, Value};

use crate::vocabulary::{INGRESS_FIELDS, INGRESS_WORDS};
use crate::{Kind, Name};

/// Fields of the objects as their APIs define them (core/v1 and discovery.k8s.io/v1 of Kubernetes 1.36, Istio 1.28), where
/// a misspelt name changes what the mesh does. A path ends in `[]` for each item of a list.
const FIELDS: [(&str, &str, &[&str]); 13] = [
    ("Service", "", &["apiVersion", "kind", "metadata", "spec", "status"]),
    (
        "Service",
        "spec",
        &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
            "type",
        ],
    ),
    ("Service", "spec.ports[]", &["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"]),
    ("EndpointSlice", "", &["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"]),
    (
        "EndpointSlice",
        "endpoints[]",
        &[
            "addresses",
            "conditions",
            "deprecatedTopology",
            "hints",
            "hostname",
            "nodeName",
            "targetRef",
            "zone",
        ],
    ),
    ("EndpointSlice", "endpoints[].conditions", &["ready", "serving", "terminating"]),
    ("EndpointSlice", "ports[]", &["appProtocol", "name", "port", "protocol"]),
    ("Endpoints", "", &["apiVersion", "kind", "metadata", "subsets"]),
    ("Endpoints", "subsets[]", &["addresses", "notReadyAddresses", "ports"]),
    ("Pod", "", &["apiVersion", "kind", "metadata", "spec", "status"]),
    ("Node", "", &["apiVersion", "kind", "metadata", "spec", "status"]),
    ("Namespace", "", &["apiVersion", "kind", "metadata", "spec", "status"]),
    ("DestinationRule", "", &["apiVersion", "kind", "metadata", "spec", "status"]),
];

/// A misspelt field repeats in every item of a list; the first few tell as much as all.
const MAX_TOLD: usize = 8;

/// Fields of an object that its API does not define, as paths with the known field that was probably meant. Objects that
/// only a gateway acts on carry theirs with them.
pub fn unknown_fields(value: &Value) -> Vec<String> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut told = Vec::new();
    for (_, path, known) in FIELDS.iter().filter(|(of, _, _)| *of == kind) {
        fields(value, path, known, &mut told);
    }
    told
}

/// Fields and words of an object that only a gateway acts on which its API does not define.
pub(crate) fn not_understood(kind: Kind, value: &Value) -> Vec<Name> {
    let (mut unknown, mut told) = (Vec::new(), Vec::new());
    for (_, path, known) in INGRESS_FIELDS.iter().filter(|(of, _, _)| of.contains(&kind)) {
        fields(value, path, known, &mut unknown);
    }
    if !unknown.is_empty() {
        told.push(format!("fields that the API does not define: {}", unknown.join(", ")));
    }
    for (_, path, field, known) in INGRESS_WORDS.iter().filter(|(of, _, _, _)| of.contains(&kind)) {
        visit(value, path, &mut |object| {
            let word = object.get(*field).and_then(Value::as_str).unwrap_or_default();
            // Implementations define words of their own as domain/word (Gateway API).
            if word.is_empty() || word.contains('/') || known.contains(&word) {
                return;
            }
            let message = format!("{path}.{field}: {word:?} is none of {}", known.join(", "));
            if told.len() < MAX_TOLD && !told.contains(&message) {
                told.push(message);
            }
        });
    }
    told.into_iter().map(Name::from).collect()
}

fn fields(value: &Value, path: &str, known: &[&str], told: &mut Vec<String>) {
    visit(value, path, &mut |object| {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let meant = known.iter().find(|other| near(name, other));
            let hint = meant.map(|other| format!(" (is {other} meant?)")).unwrap_or_default();
            let message = format!("{at}{hint}");
            if told.len() < MAX_TOLD && !told.contains(&message) {
                told.push(message);
            }
        }
    });
}

fn visit(value: &Value, path: &str, see: &mut impl FnMut(&Map<String, Value>)) {
    if path.is_empty() {
        if let Some(object) = value.as_object() {
            see(object);
        }
        return;
    }
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    match head.strip_suffix("[]") {
        Some(list) => {
            for item in value.get(list).and_then(Value::as_array).into_iter().flatten() {
                visit(item, rest, see);
            }
        }
        None => {
            if let Some(inner) = value.get(head) {
                visit(inner, rest, see);
            }
        }
    }
}

/// Whether two names differ in letter case, a hyphen or underscore, a final `s`, or one letter.
fn near(name: &str, known: &str) -> bool {
    let plain = |text: &str| {
        let text: String = text.chars().filter(|c| !"-_".contains(*c)).collect();
        text.to_ascii_lowercase().trim_end_matches('s').to_owned()
    };
    let (name, known) = (plain(name), plain(known));
    if name == known {
        return true;
    }
    let (short, long) = if name.len() <= known.len() { (&name, &known) } else { (&known, &name) };
    let same = short.bytes().zip(long.bytes()).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short.as_bytes()[same..], &long.as_bytes()[same..]);
    match long.len() - short.len() {
        0 => short.get(1..) == long.get(1..),
        1 => short == &long[1..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::unknown_fields;

    #[test]
    fn misspelt_fields_are_told_with_what_was_meant() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"anything": 1},
            "spec": {
                "clusterIp": "10.96.0.1", "selectr": {}, "type": "ClusterIP", "colour": "blue",
                "ports": [{"port": 80, "target_port": 8080}, {"port": 81, "target_port": 8081}],
            },
        });
        assert_eq!(
            unknown_fields(&service),
            [
                "spec.clusterIp (is clusterIP meant?)",
                "spec.colour",
                "spec.selectr (is selector meant?)",
                "spec.ports[].target_port (is targetPort meant?)",
            ]
        );
        let slice = json!({
            "kind": "EndpointSlice", "addressType": "IPv4", "endpoint": [],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"redy": true}, "nodename": "n"}],
        });
        assert_eq!(
            unknown_fields(&slice),
            [
                "endpoint (is endpoints meant?)",
                "endpoints[].nodename (is nodeName meant?)",
                "endpoints[].conditions.redy (is ready meant?)",
            ]
        );
    }

    #[test]
    fn what_the_api_defines_and_other_kinds_are_left_alone() {
        for value in [
            json!({"kind": "Service", "spec": {"ipFamilyPolicy": "SingleStack", "ports": null}, "status": {}}),
            json!({"kind": "Deployment", "spec": {"whatever": 1}}),
            json!({"kind": "Pod", "spec": {"tolerations": []}}),
            json!("no object"),
        ] {
            assert!(unknown_fields(&value).is_empty(), "{value}");
        }
    }
}
