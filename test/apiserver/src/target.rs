//! What a request is about: its path and query taken apart.

use std::collections::BTreeMap;

use hyper::Uri;

use crate::resource::Resource;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Collection {
        resource: Resource,
        version: String,
        namespace: Option<String>,
    },
    Object {
        resource: Resource,
        version: String,
        namespace: String,
        name: String,
        subresource: Option<String>,
    },
    /// Discovery, as the path's parts.
    Discovery(Vec<String>),
    Version,
    Health,
    /// A switch of the tests: the part after `/_test/`.
    Control(String),
    Unknown,
}

/// The query's parameters. The last of one name wins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        };
        Self(pairs.map(pair).collect())
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// As Kubernetes reads it: everything but `false` and `0` is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !matches!(value.as_str(), "false" | "0"))
    }

    /// A number; nothing when there is none.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("{key}: {text:?} is no number")),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Target {
    pub(crate) fn of(path: &str) -> Self {
        let parts: Vec<_> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let owned = || Self::Discovery(parts.iter().map(|part| (*part).to_owned()).collect());
        match parts[..] {
            ["_test", control] => Self::Control(control.to_owned()),
            ["version"] => Self::Version,
            ["healthz" | "readyz" | "livez"] => Self::Health,
            ["api"] | ["api", _] | ["apis"] | ["apis", _] | ["apis", _, _] => owned(),
            ["api", version, ref rest @ ..] => Self::resource("", version, rest),
            ["apis", group, version, ref rest @ ..] => Self::resource(group, version, rest),
            _ => Self::Unknown,
        }
    }

    fn resource(group: &str, version: &str, rest: &[&str]) -> Self {
        let (namespace, rest) = match *rest {
            ["namespaces", namespace, ref rest @ ..] if !rest.is_empty() && *rest != ["status"] => {
                (Some(namespace), rest)
            }
            ref rest => (None, rest),
        };
        let Some((plural, rest)) = rest.split_first() else { return Self::Unknown };
        let Some(resource) = Resource::served(group, version, plural) else { return Self::Unknown };
        let (name, subresource) = match *rest {
            [] => (None, None),
            [name] => (Some(name), None),
            [name, subresource] => (Some(name), Some(subresource.to_owned())),
            _ => return Self::Unknown,
        };
        let version = version.to_owned();
        if namespace.is_some() && !resource.row().namespaced {
            return Self::Unknown;
        }
        match (name, namespace) {
            (None, namespace) => {
                Self::Collection { resource, version, namespace: namespace.map(str::to_owned) }
            }
            (Some(_), None) if resource.row().namespaced => Self::Unknown,
            (Some(name), namespace) => Self::Object {
                resource,
                version,
                namespace: namespace.unwrap_or_default().to_owned(),
                name: name.to_owned(),
                subresource,
            },
        }
    }

    /// The resource and version it is about, if it is about one.
    pub(crate) fn scope(&self) -> Option<(Resource, &str)> {
        match self {
            Self::Collection { resource, version, .. } | Self::Object { resource, version, .. } => {
                Some((*resource, version))
            }
            Self::Discovery(_) | Self::Version | Self::Health | Self::Control(_) | Self::Unknown => None,
        }
    }
}

/// Undoes percent encoding, and `+` for a space where that is the custom. What is no encoding stays as it is.
fn decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let hex = |range: &[u8]| u8::from_str_radix(std::str::from_utf8(range).ok()?, 16).ok();
        match byte {
            b'%' => match after.get(..2).and_then(hex) {
                Some(decoded) => {
                    bytes.push(decoded);
                    rest = &after[2..];
                }
                None => bytes.push(b'%'),
            },
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let collection = |resource, version: &str, namespace: Option<&str>| Target::Collection {
            resource,
            version: version.to_owned(),
            namespace: namespace.map(str::to_owned),
        };
        let object = |resource, namespace: &str, name: &str, subresource: Option<&str>| Target::Object {
            resource,
            version: "v1".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.map(str::to_owned),
        };
        for (path, expected) in [
            ("/api/v1/services", collection(Resource::Services, "v1", None)),
            ("/api/v1/namespaces/a%2Db/services", collection(Resource::Services, "v1", Some("a-b"))),
            ("/api/v1/namespaces/a/services/b", object(Resource::Services, "a", "b", None)),
            ("/api/v1/namespaces/a/pods/b/status", object(Resource::Pods, "a", "b", Some("status"))),
            ("/api/v1/namespaces", collection(Resource::Namespaces, "v1", None)),
            ("/api/v1/namespaces/a", object(Resource::Namespaces, "", "a", None)),
            ("/api/v1/nodes/a", object(Resource::Nodes, "", "a", None)),
            ("/api/v1/namespaces/a/nodes", Target::Unknown),
            ("/api/v1/services/a", Target::Unknown),
            ("/api/v1/gadgets", Target::Unknown),
            (
                "/apis/networking.istio.io/v1alpha3/gateways",
                collection(Resource::IstioGateways, "v1alpha3", None),
            ),
            ("/apis/gateway.networking.k8s.io/v1/gateways", collection(Resource::Gateways, "v1", None)),
            ("/apis/gateway.networking.k8s.io/v1/tcproutes", Target::Unknown),
            ("/api/v1", Target::Discovery(vec!["api".to_owned(), "v1".to_owned()])),
            ("/healthz", Target::Health),
            ("/_test/faults", Target::Control("faults".to_owned())),
            ("/", Target::Unknown),
        ] {
            assert_eq!(Target::of(path), expected, "{path}");
        }
        for resource in Resource::all() {
            let version = resource.row().versions[0];
            assert_eq!(Target::of(&resource.path()), collection(resource, version, None));
        }
    }

    #[test]
    fn queries_are_decoded() {
        let uri: Uri = "/x?labelSelector=a%20in+(b%2Cc)&watch=1&limit=&allowWatchBookmarks=false&a=100%"
            .parse()
            .expect("a URI");
        let query = Query::of(&uri);
        assert_eq!(query.text("labelSelector"), "a in (b,c)");
        assert_eq!(
            (query.flag("watch"), query.flag("allowWatchBookmarks"), query.flag("none")),
            (true, false, false)
        );
        assert_eq!((query.number("limit"), query.text("a")), (Ok(None), "100%"));
        assert!(query.number("a").is_err());
    }
}
