use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::{Name, ObjectMeta, Uid};

/// core/v1 Secret, as far as it has a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Listeners name it by name.
    pub metadata: ObjectMeta,
    /// [`Secret::TLS`]; of others nothing else is kept.
    #[serde(rename = "type", deserialize_with = "crate::decode::null_is_default")]
    pub type_: Name,
    /// The certificate.
    #[serde(deserialize_with = "crate::decode::null_is_default")]
    pub data: TlsData,
}

impl Secret {
    /// The type of a Secret with a certificate.
    pub const TLS: &str = "kubernetes.io/tls";

    /// Whether it is of the type that has a certificate.
    pub fn is_tls(&self) -> bool {
        &*self.type_ == Self::TLS
    }

    /// Drops what is no certificate.
    pub(crate) fn cut(mut self) -> Self {
        if !self.is_tls() {
            self.data = TlsData::default();
        }
        self
    }
}

/// The entries of a TLS Secret, in base64 as the API has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsData {
    /// The certificates, the server's own first.
    #[serde(rename = "tls.crt", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Sensitive>,
    /// The key of the first.
    #[serde(rename = "tls.key", skip_serializing_if = "Option::is_none")]
    pub key: Option<Sensitive>,
    /// Who signs the certificates of clients.
    #[serde(rename = "ca.crt", skip_serializing_if = "Option::is_none")]
    pub ca: Option<Sensitive>,
}

/// A text that is shown nowhere: it is written as a fingerprint, so that neither a journal, a page nor a log line can have
/// it, and equal ones can still be told from others.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(Box<str>);

impl Sensitive {
    /// The text, for whoever needs it to work.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Uid::of(&self.0).serialize(serializer)
    }
}
