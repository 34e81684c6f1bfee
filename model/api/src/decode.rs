use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{Kind, Object, label};

/// Kubernetes writes absent lists and maps as `null` now and then; both mean empty.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a document is no object of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The document has no `kind`.
    NoKind,
    /// A kind the mesh does not read; carries `apiVersion/kind`.
    UnknownKind(String),
    /// The kind is known and a field is not as the API defines it; carries the path and the reason.
    Invalid {
        /// The kind.
        kind: Kind,
        /// `namespace/name`, as far as it could be read.
        object: String,
        /// What is wrong and where.
        reason: String,
    },
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoKind => f.write_str("the document has no `kind`"),
            Self::UnknownKind(kind) => write!(f, "kind {kind} is not read by the mesh"),
            Self::Invalid { kind, object, reason } if object.is_empty() => write!(f, "{kind}: {reason}"),
            Self::Invalid { kind, object, reason } => write!(f, "{kind} {object}: {reason}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Decodes one object from its JSON form. Lists (`kind: List`, `ServiceList`, …) are the caller's to unfold.
///
/// The group of `apiVersion` is checked, its version is not: the fields read here have the same shape in every
/// version that was ever served.
/// Annotations without a meaning to the mesh are dropped: `kubectl apply` stores a copy of the whole object in one.
pub fn decode_value(value: Value) -> Result<Object, DecodeError> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    if kind.is_empty() {
        return Err(DecodeError::NoKind);
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let known = match (group, kind.as_str()) {
        ("", "Service") => Kind::Service,
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("", "Endpoints") => Kind::Endpoints,
        ("", "Pod") => Kind::Pod,
        ("", "Node") => Kind::Node,
        ("", "Namespace") => Kind::Namespace,
        ("networking.istio.io", "DestinationRule") => Kind::DestinationRule,
        _ => return Err(DecodeError::UnknownKind(format!("{api_version}/{kind}"))),
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let object = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
    if name.is_empty() {
        return Err(DecodeError::Invalid {
            kind: known,
            object,
            reason: "metadata.name is missing".to_owned(),
        });
    }
    let decoded = match known {
        Kind::Service => typed(value).map(Object::Service),
        Kind::EndpointSlice => typed(value).map(Object::EndpointSlice),
        Kind::Endpoints => typed(value).map(Object::Endpoints),
        Kind::Pod => typed(value).map(Object::Pod),
        Kind::Node => typed(value).map(Object::Node),
        Kind::Namespace => typed(value).map(Object::Namespace),
        Kind::DestinationRule => typed(value).map(Object::DestinationRule),
    };
    decoded.map(without_foreign_annotations).map_err(|reason| DecodeError::Invalid {
        kind: known,
        object,
        reason,
    })
}

/// Decodes one object of a known kind from JSON, as a typed list or a watch sends it: `kind` and `apiVersion` may be
/// absent or wrong, since the request said which kind is meant (kubeedge/kubeedge#4086).
pub fn decode_item(kind: Kind, json: &[u8]) -> Result<Object, DecodeError> {
    let invalid = |object: String, reason: String| DecodeError::Invalid { kind, object, reason };
    let object = decode_stored(kind, json).map_err(|error| invalid(String::new(), error.to_string()))?;
    if object.metadata().name.is_empty() {
        return Err(invalid(String::new(), "metadata.name is missing".to_owned()));
    }
    Ok(without_foreign_annotations(object))
}

/// Decodes one object of a known kind from the JSON that [`Object`] serialises to, and from nothing else.
pub fn decode_stored(kind: Kind, json: &[u8]) -> Result<Object, serde_json::Error> {
    match kind {
        Kind::Service => serde_json::from_slice(json).map(Object::Service),
        Kind::EndpointSlice => serde_json::from_slice(json).map(Object::EndpointSlice),
        Kind::Endpoints => serde_json::from_slice(json).map(Object::Endpoints),
        Kind::Pod => serde_json::from_slice(json).map(Object::Pod),
        Kind::Node => serde_json::from_slice(json).map(Object::Node),
        Kind::Namespace => serde_json::from_slice(json).map(Object::Namespace),
        Kind::DestinationRule => serde_json::from_slice(json).map(Object::DestinationRule),
    }
}

/// `kubectl apply` stores a copy of the whole object in an annotation; only those with a meaning stay.
fn without_foreign_annotations(mut object: Object) -> Object {
    let kept = [label::PEER_ID, label::OVER_CAPACITY];
    object.metadata_mut().annotations.retain(|name, _| kept.contains(&&**name));
    object
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}
