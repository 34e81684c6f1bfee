use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::de::SliceRead;

use crate::unknown::not_understood;
use crate::{Kind, Object, Secret, label};

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
    let unknown = |what: String| Err(DecodeError::UnknownKind(what));
    let Some(known) = Kind::of(&api_version, &kind) else { return unknown(format!("{api_version}/{kind}")) };
    let type_ = text("/type");
    if known == Kind::Secret && type_ != Secret::TLS {
        return unknown(format!("{api_version}/{kind} of type {type_:?}"));
    }
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let object = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
    if name.is_empty() {
        return Err(DecodeError::Invalid {
            kind: known,
            object,
            reason: "metadata.name is missing".to_owned(),
        });
    }
    let decoded = of_value(known, &value);
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
    // Only what few objects are of is worth to be looked at twice.
    let decoded = match kind.is_ingress() {
        true => serde_json::from_slice(json)
            .map_err(|error| error.to_string())
            .and_then(|value| of_value(kind, &value)),
        false => decode_stored(kind, json).map_err(|error| error.to_string()),
    };
    let object = decoded.map_err(|reason| invalid(String::new(), reason))?;
    if object.metadata().name.is_empty() {
        return Err(invalid(String::new(), "metadata.name is missing".to_owned()));
    }
    Ok(without_foreign_annotations(object))
}

/// Decodes one object of a known kind from the JSON that [`Object`] serialises to, and from nothing else.
pub fn decode_stored(kind: Kind, json: &[u8]) -> Result<Object, serde_json::Error> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let object = typed(kind, &mut from)?;
    from.end().map(|()| object)
}

impl<'de> Deserialize<'de> for Object {
    /// Keeps the whole object until its kind is known: [`decode_stored`] is for where there are many.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
        let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
        let known = known.ok_or_else(|| D::Error::custom(format!("no object is of kind {kind:?}")))?;
        let json = serde_json::to_vec(&value).map_err(D::Error::custom)?;
        decode_stored(known, &json).map_err(|error| D::Error::custom(without_place(&error)))
    }
}

/// Decodes an object, with what in it is not understood.
///
/// By way of its JSON: code that decodes every kind from values as well would be a second copy of all of it, for documents
/// that come few at a time.
fn of_value(kind: Kind, value: &Value) -> Result<Object, String> {
    let told = if kind.is_ingress() { not_understood(kind, value) } else { Vec::new() };
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let mut object = decode_stored(kind, &json).map_err(|error| without_place(&error))?;
    match &mut object {
        Object::VirtualService(object) => object.not_understood = told,
        Object::IstioGateway(object) => object.not_understood = told,
        Object::GatewayClass(object) => object.not_understood = told,
        Object::Gateway(object) => object.not_understood = told,
        Object::HttpRoute(object) => object.not_understood = told,
        Object::TcpRoute(object) | Object::TlsRoute(object) => object.not_understood = told,
        Object::Secret(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Endpoints(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::Namespace(_)
        | Object::DestinationRule(_)
        | Object::TunnelPolicy(_) => {}
    }
    Ok(object)
}

/// The reason without its line and column, which are those of a text that nobody has seen.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map(str::to_owned).unwrap_or(text)
}

fn typed(
    kind: Kind,
    from: &mut serde_json::Deserializer<SliceRead<'_>>,
) -> Result<Object, serde_json::Error> {
    Ok(match kind {
        Kind::Service => Object::Service(Deserialize::deserialize(from)?),
        Kind::EndpointSlice => Object::EndpointSlice(Deserialize::deserialize(from)?),
        Kind::Endpoints => Object::Endpoints(Deserialize::deserialize(from)?),
        Kind::Pod => Object::Pod(Deserialize::deserialize(from)?),
        Kind::Node => Object::Node(Deserialize::deserialize(from)?),
        Kind::Namespace => Object::Namespace(Deserialize::deserialize(from)?),
        Kind::DestinationRule => Object::DestinationRule(Deserialize::deserialize(from)?),
        Kind::VirtualService => Object::VirtualService(Deserialize::deserialize(from)?),
        Kind::IstioGateway => Object::IstioGateway(Deserialize::deserialize(from)?),
        Kind::GatewayClass => Object::GatewayClass(Deserialize::deserialize(from)?),
        Kind::Gateway => Object::Gateway(Deserialize::deserialize(from)?),
        Kind::HttpRoute => Object::HttpRoute(Deserialize::deserialize(from)?),
        Kind::TcpRoute => Object::TcpRoute(Deserialize::deserialize(from)?),
        Kind::TlsRoute => Object::TlsRoute(Deserialize::deserialize(from)?),
        Kind::TunnelPolicy => Object::TunnelPolicy(Deserialize::deserialize(from)?),
        Kind::Secret => Object::Secret(Secret::deserialize(from)?.cut()),
    })
}

/// `kubectl apply` stores a copy of the whole object in an annotation; only those with a meaning stay.
fn without_foreign_annotations(mut object: Object) -> Object {
    let kept = [label::PEER_ID, label::OVER_CAPACITY];
    object.metadata_mut().annotations.retain(|name, _| kept.contains(&&**name));
    object
}
