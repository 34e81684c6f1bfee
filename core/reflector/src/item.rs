//! From the text of one object to the part of it the mesh keeps.

use std::net::IpAddr;

use edgemesh_api::{
    DecodeError, Endpoint, EndpointPort, EndpointSlice, Endpoints, Kind, Object, ObjectKey, ObjectMeta,
    decode_item, label,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::Members;
use crate::intern::Interner;

/// Labels that decide something; a Pod's own labels are what selectors look at.
const LABELS: [&str; 6] = [
    label::SERVICE_NAME,
    label::MANAGED_BY,
    label::ZONE,
    label::SERVICE_PROXY_NAME,
    label::EDGEMESH_PROXY_NAME,
    label::HEADLESS,
];

/// Decodes an object, cuts it to what an API server's objects are read for, and shares its strings.
pub(crate) fn decode(kind: Kind, json: &[u8], names: &mut Interner) -> Result<Object, DecodeError> {
    let mut object = decode_item(kind, json)?;
    object.default_namespace("default");
    if kind != Kind::Pod {
        object.metadata_mut().labels.retain(|name, _| LABELS.contains(&&**name));
    }
    if let Object::Service(service) = &mut object {
        // Endpoints come with the server's slices; only a directory of manifests has them computed from Pods.
        service.spec.selector.clear();
        service.spec.ports.iter_mut().for_each(|port| port.target_port = None);
    }
    share(&mut object, names);
    Ok(object)
}

/// Replaces the strings of an object that many objects repeat by the copies that are shared.
pub fn share(object: &mut Object, names: &mut Interner) {
    metadata(object.metadata_mut(), names);
    match object {
        Object::Service(service) => {
            for port in &mut service.spec.ports {
                names.share_option(&mut port.name);
                names.share_option(&mut port.app_protocol);
            }
        }
        Object::EndpointSlice(slice) => share_slice(slice, names),
        Object::Endpoints(endpoints) => share_endpoints(endpoints, names),
        Object::Pod(_)
        | Object::Node(_)
        | Object::Namespace(_)
        | Object::DestinationRule(_)
        | Object::TunnelPolicy(_)
        | Object::VirtualService(_)
        | Object::IstioGateway(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::HttpRoute(_)
        | Object::TcpRoute(_)
        | Object::TlsRoute(_)
        | Object::Secret(_) => {}
    }
}

fn metadata(metadata: &mut ObjectMeta, names: &mut Interner) {
    names.share(&mut metadata.namespace);
    let labels = std::mem::take(&mut metadata.labels);
    metadata.labels = labels
        .into_iter()
        .map(|(mut name, mut value)| {
            names.share(&mut name);
            names.share(&mut value);
            (name, value)
        })
        .collect();
}

fn share_slice(slice: &mut EndpointSlice, names: &mut Interner) {
    names.share(&mut slice.address_type);
    ports(&mut slice.ports, names);
    for endpoint in &mut slice.endpoints {
        let Endpoint { node_name, zone, target_ref, .. } = endpoint;
        names.share_option(node_name);
        names.share_option(zone);
        if let Some(target) = target_ref {
            names.share(&mut target.kind);
            names.share(&mut target.namespace);
        }
    }
}

fn share_endpoints(endpoints: &mut Endpoints, names: &mut Interner) {
    for subset in &mut endpoints.subsets {
        ports(&mut subset.ports, names);
        for address in subset.addresses.iter_mut().chain(&mut subset.not_ready_addresses) {
            names.share_option(&mut address.node_name);
            if let Some(target) = &mut address.target_ref {
                names.share(&mut target.kind);
                names.share(&mut target.namespace);
            }
        }
    }
}

fn ports(ports: &mut [EndpointPort], names: &mut Interner) {
    for port in ports {
        names.share_option(&mut port.name);
        names.share_option(&mut port.app_protocol);
    }
}

/// Whether a slice is one that a connected metaServer has cut to its first endpoint, at 127.0.0.1, in a list
/// (kubeedge/kubeedge#7194). No API server takes a slice with a loopback address.
pub(crate) fn is_corrupt(object: &Object) -> bool {
    let Object::EndpointSlice(slice) = object else { return false };
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    addresses.filter_map(|address| address.parse::<IpAddr>().ok()).any(|address| address.is_loopback())
}

/// What every object and every list has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    #[serde(deserialize_with = "version")]
    pub(crate) resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub(crate) continue_: Option<String>,
    pub(crate) self_link: Option<String>,
}

/// A resource version is a string; that it is a number is nothing to lose an object's name over.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    metadata: Option<Meta>,
}

/// The metadata of an object that may be of no use otherwise.
pub(crate) fn meta(json: &[u8]) -> Meta {
    let envelope: Envelope = serde_json::from_slice(json).unwrap_or_default();
    envelope.metadata.unwrap_or_default()
}

/// The version of an object, as far as it is a number.
pub(crate) fn version_of(json: &[u8]) -> Option<u64> {
    meta(json).resource_version?.parse().ok()
}

/// The `metadata` of a list, which may be absent or null; `None` when it is neither that nor an object.
pub(crate) fn list_meta(json: &[u8]) -> Option<Meta> {
    if json.is_empty() {
        return Some(Meta::default());
    }
    serde_json::from_slice::<Option<Meta>>(json).ok().map(Option::unwrap_or_default)
}

/// The key of an object that cannot be decoded, if it says it.
pub(crate) fn key(kind: Kind, json: &[u8]) -> Option<ObjectKey> {
    let Meta { namespace, name, .. } = meta(json);
    let namespace = match (kind.cluster_scoped(), namespace.unwrap_or_default()) {
        (true, _) => String::new(),
        (false, empty) if empty.is_empty() => "default".to_owned(),
        (false, namespace) => namespace,
    };
    name.filter(|name| !name.is_empty()).map(|name| ObjectKey::new(namespace, name))
}

/// One event of a watch.
#[derive(Debug, Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type", default)]
    pub(crate) type_: String,
    #[serde(borrow, default)]
    pub(crate) object: Option<&'a RawValue>,
}

/// The parts of a Status that decide what follows (meta/v1 Status).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    pub(crate) causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cause {
    pub(crate) reason: String,
}

impl Status {
    /// The resource version is older than the server's history, or newer than anything it has: only a list helps.
    pub(crate) fn is_gone(&self) -> bool {
        let causes = self.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
        self.code == 410
            || matches!(self.reason.as_str(), "Expired" | "Gone")
            || causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
            || self.message.contains("Too large resource version")
    }
}

/// The Status that an answer is.
pub(crate) fn status_of(members: &Members) -> Status {
    let text = |json: &[u8]| serde_json::from_slice::<String>(json).unwrap_or_default();
    Status {
        code: serde_json::from_slice(&members.code).unwrap_or_default(),
        reason: text(&members.reason),
        message: text(&members.message),
        details: serde_json::from_slice(&members.details).unwrap_or_default(),
    }
}

/// Equal for objects that the mesh cannot tell apart.
pub(crate) fn fingerprint(object: &Object) -> u64 {
    // Names and numbers only: nothing in an object fails to serialise.
    serde_json::to_vec(object).map_or(0, |text| xxh3_64(&text))
}

/// Encodes what may not stand in a query (RFC 3986 section 2.1).
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
