use std::fmt;
use std::str::FromStr;

/// What the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1` services.
    Services,
    /// `v1` endpoints.
    Endpoints,
    /// `v1` pods.
    Pods,
    /// `v1` nodes.
    Nodes,
    /// `v1` namespaces.
    Namespaces,
    /// `v1` secrets.
    Secrets,
    /// `v1` config maps.
    ConfigMaps,
    /// `discovery.k8s.io` endpoint slices.
    EndpointSlices,
    /// Istio's destination rules.
    DestinationRules,
    /// Istio's virtual services.
    VirtualServices,
    /// Istio's gateways.
    IstioGateways,
    /// Gateway classes of the Gateway API.
    GatewayClasses,
    /// Gateways of the Gateway API.
    Gateways,
    /// HTTP routes of the Gateway API.
    HttpRoutes,
    /// TCP routes of the Gateway API.
    TcpRoutes,
    /// TLS routes of the Gateway API.
    TlsRoutes,
}

/// How a resource is spelt and served.
pub(crate) struct Row {
    pub(crate) resource: Resource,
    pub(crate) group: &'static str,
    /// The preferred one first. All of them serve the same objects, as the versions of one CRD do.
    pub(crate) versions: &'static [&'static str],
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    /// Fields that the encoder of a built-in type writes even for an empty object, which is what a bookmark carries;
    /// `None` for custom resources.
    pub(crate) empty: Option<&'static str>,
}

const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];

const fn core(
    resource: Resource,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    empty: &'static str,
) -> Row {
    Row { resource, group: "", versions: &["v1"], plural, kind, namespaced, empty: Some(empty) }
}

const fn custom(
    resource: Resource,
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    kind: &'static str,
) -> Row {
    let namespaced = !matches!(resource, Resource::GatewayClasses);
    Row { resource, group, versions, plural, kind, namespaced, empty: None }
}

const ISTIO_GROUP: &str = "networking.istio.io";
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// In the order of the enum.
static TABLE: [Row; 16] = [
    core(Resource::Services, "services", "Service", true, r#","spec":{},"status":{"loadBalancer":{}}"#),
    core(Resource::Endpoints, "endpoints", "Endpoints", true, ""),
    core(Resource::Pods, "pods", "Pod", true, r#","spec":{"containers":null},"status":{}"#),
    core(
        Resource::Nodes,
        "nodes",
        "Node",
        false,
        r#","spec":{},"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}}}"#,
    ),
    core(Resource::Namespaces, "namespaces", "Namespace", false, r#","spec":{},"status":{}"#),
    core(Resource::Secrets, "secrets", "Secret", true, ""),
    core(Resource::ConfigMaps, "configmaps", "ConfigMap", true, ""),
    Row {
        resource: Resource::EndpointSlices,
        group: "discovery.k8s.io",
        versions: &["v1"],
        plural: "endpointslices",
        kind: "EndpointSlice",
        namespaced: true,
        empty: Some(r#","addressType":"","endpoints":null,"ports":null"#),
    },
    custom(Resource::DestinationRules, ISTIO_GROUP, ISTIO, "destinationrules", "DestinationRule"),
    custom(Resource::VirtualServices, ISTIO_GROUP, ISTIO, "virtualservices", "VirtualService"),
    custom(Resource::IstioGateways, ISTIO_GROUP, ISTIO, "gateways", "Gateway"),
    custom(Resource::GatewayClasses, GATEWAY_GROUP, &["v1", "v1beta1"], "gatewayclasses", "GatewayClass"),
    custom(Resource::Gateways, GATEWAY_GROUP, &["v1", "v1beta1"], "gateways", "Gateway"),
    custom(Resource::HttpRoutes, GATEWAY_GROUP, &["v1", "v1beta1"], "httproutes", "HTTPRoute"),
    custom(Resource::TcpRoutes, GATEWAY_GROUP, &["v1alpha2"], "tcproutes", "TCPRoute"),
    custom(Resource::TlsRoutes, GATEWAY_GROUP, &["v1alpha2"], "tlsroutes", "TLSRoute"),
];

impl Resource {
    /// How many there are.
    pub const COUNT: usize = TABLE.len();

    /// All of them, in a fixed order.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.resource)
    }

    pub(crate) fn row(self) -> &'static Row {
        &TABLE[self.index()]
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The resource that is served under this group, version and plural.
    pub fn served(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::find(|row| row.group == group && row.plural == plural && row.versions.contains(&version))
    }

    /// The resource of an object's `apiVersion` and `kind`.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::find(|row| row.group == group && row.kind == kind && row.versions.contains(&version))
    }

    /// Whether a group has resources that are no custom ones.
    pub(crate) fn has_built_in(group: &str) -> bool {
        Self::find(|row| row.group == group && row.empty.is_some()).is_some()
    }

    fn find(holds: impl Fn(&Row) -> bool) -> Option<Self> {
        TABLE.iter().find(|row| holds(row)).map(|row| row.resource)
    }

    /// The path of its collection in all namespaces, in the preferred version.
    pub fn path(self) -> String {
        let row = self.row();
        match row.group {
            "" => format!("/api/v1/{}", row.plural),
            group => format!("/apis/{group}/{}/{}", row.versions[0], row.plural),
        }
    }

    /// The `apiVersion` of its objects, in the preferred version.
    pub fn api_version(self) -> String {
        api_version(self.row().group, self.row().versions[0])
    }

    /// The kind that the metaServer of KubeEdge guesses from the plural for its lists: right for a few that it knows,
    /// and `EndpointslicList` (kubeedge/kubeedge#4086), `DestinationrulList` (kubeedge/edgemesh#241) and the like
    /// otherwise.
    pub(crate) fn guessed_kind(self) -> String {
        let plural = self.row().plural;
        if matches!(self, Self::Endpoints | Self::Nodes | Self::Services) {
            return self.row().kind.to_owned();
        }
        let stem = match plural.strip_suffix("ies") {
            Some(stem) => format!("{stem}y"),
            None => plural.strip_suffix("es").or(plural.strip_suffix('s')).unwrap_or(plural).to_owned(),
        };
        let (first, rest) = stem.split_at(1);
        first.to_uppercase() + rest
    }
}

impl Resource {
    /// The same since 1.14: more kinds are known, and of others only the plural is cut (`DestinationruleList`).
    pub(crate) fn node_kind(self) -> String {
        let row = self.row();
        if row.empty.is_some() && !matches!(self, Self::Secrets | Self::ConfigMaps) {
            return row.kind.to_owned();
        }
        let plural = row.plural;
        let stem = plural.strip_suffix("es").filter(|stem| stem.ends_with("ss"));
        let stem = stem.or(plural.strip_suffix('s')).unwrap_or(plural);
        let (first, rest) = stem.split_at(1);
        first.to_uppercase() + rest
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row();
        f.write_str(row.plural)?;
        if !row.group.is_empty() { write!(f, ".{}", row.group) } else { Ok(()) }
    }
}

pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A resource in all its versions, or in one: `services`, `destinationrules.networking.istio.io`,
/// `destinationrules.v1.networking.istio.io`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// What it is about.
    pub resource: Resource,
    /// The version, when it is about one only.
    pub version: Option<String>,
}

impl From<Resource> for Scope {
    fn from(resource: Resource) -> Self {
        Self { resource, version: None }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(version) = &self.version else { return self.resource.fmt(f) };
        let row = self.resource.row();
        write!(f, "{}.{version}", row.plural)?;
        if !row.group.is_empty() { write!(f, ".{}", row.group) } else { Ok(()) }
    }
}

/// Why a text names no resource.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// Nothing is called so.
    #[error("no resource is called {0} (say for instance services, or destinationrules.networking.istio.io)")]
    Unknown(String),
    /// Several are.
    #[error("several resources are called {0} (say {1})")]
    Ambiguous(String, String),
}

impl ScopeError {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Ambiguous(..) => "ambiguous",
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let whole = Resource::all().map(Self::from);
        let single = Resource::all().flat_map(|resource| {
            let versions = resource.row().versions.iter();
            versions.map(move |version| Self { resource, version: Some((*version).to_owned()) })
        });
        if let Some(scope) = whole.chain(single).find(|scope| scope.to_string() == text) {
            return Ok(scope);
        }
        let named: Vec<_> = Resource::all().filter(|resource| resource.row().plural == text).collect();
        match named[..] {
            [] => Err(ScopeError::Unknown(text.to_owned())),
            [resource] => Ok(resource.into()),
            _ => {
                let names: Vec<_> = named.iter().map(ToString::to_string).collect();
                Err(ScopeError::Ambiguous(text.to_owned(), names.join(" or ")))
            }
        }
    }
}
