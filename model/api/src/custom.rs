use serde::{Deserialize, Serialize};

use crate::{Name, ObjectMeta};

/// An object of a kind that a CustomResourceDefinition brings.
///
/// Its definition may be older or newer than this program, and some keep whatever is written into an object: what is
/// not understood is remembered beside the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CustomObject<Spec> {
    /// Its namespace resolves short names in it.
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(deserialize_with = "crate::decode::null_is_default")]
    #[serde(bound(deserialize = "Spec: Default + Deserialize<'de>"))]
    pub spec: Spec,
    /// Fields and words in it that its API does not define, one in a line; told when the object is decoded.
    #[serde(rename = "notUnderstood", skip_serializing_if = "Vec::is_empty")]
    pub not_understood: Vec<Name>,
}
