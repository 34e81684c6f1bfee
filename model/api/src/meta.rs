use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name that is copied often and changed never.
pub type Name = Arc<str>;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The namespace, empty for Nodes and Namespaces.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        // Objects of one namespace share its name, and most comparisons are among them.
        let shared = Arc::ptr_eq(&self.namespace, &other.namespace);
        let namespaces = if shared { Ordering::Equal } else { self.namespace.cmp(&other.namespace) };
        namespaces.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The fingerprint of a `metadata.uid`: it is only ever compared, and 8 bytes of each object are enough for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u64);

impl Uid {
    /// The fingerprint of a uid's text (FNV-1a of 64 bits); an empty one is none.
    pub fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash.max(1))
    }

    /// Whether the object has none: it comes from a file.
    pub fn is_none(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("#{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Uid {
    /// From a uid's text, or from the form that `serialize` gives (no uid begins with `#`).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.unwrap_or_default();
        let stored = text.strip_prefix('#').and_then(|hex| u64::from_str_radix(hex, 16).ok());
        Ok(stored.map_or_else(|| Self::of(&text), Self))
    }
}

/// The part of `metadata` the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Empty for cluster-scoped kinds; sources fill in `default` for namespaced kinds that leave it out.
    pub namespace: Name,
    /// The object's name.
    pub name: Name,
    /// Which life of the name it is; an object that is deleted and made again has another one.
    #[serde(skip_serializing_if = "Uid::is_none")]
    pub uid: Uid,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::decode::null_is_default")]
    pub labels: BTreeMap<Name, Name>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::decode::null_is_default")]
    pub annotations: BTreeMap<Name, Name>,
    /// Set while the object is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
}

impl ObjectMeta {
    /// The key this metadata names.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(|value| &**value)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(|value| &**value)
    }
}
