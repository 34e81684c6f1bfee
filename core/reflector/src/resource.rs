use edgemesh_api::Kind;

/// Where an API server serves a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// Its name in paths.
    pub plural: &'static str,
    /// Paths of the API versions that have the fields the mesh reads, newest first: what one server lacks, an older
    /// one has. EndpointSlice v1beta1 names the node of an endpoint differently and is gone since Kubernetes 1.25.
    pub versions: &'static [&'static str],
    /// A cluster may do without it: when it is absent for good, so are its objects.
    pub optional: bool,
    /// The only objects that are asked for, as a field selector of the API.
    pub fields: Option<&'static str>,
}

const CORE: &[&str] = &["/api/v1"];

/// Go EdgeMesh reads v1alpha3, and its charts install no other version (pkg/loadbalancer).
const ISTIO: &[&str] = &[
    "/apis/networking.istio.io/v1alpha3",
    "/apis/networking.istio.io/v1beta1",
    "/apis/networking.istio.io/v1",
];

/// Servers of before Gateway API 1.0 have v1beta1 only.
const GATEWAY_API: &[&str] =
    &["/apis/gateway.networking.k8s.io/v1", "/apis/gateway.networking.k8s.io/v1beta1"];

const fn needed(kind: Kind, plural: &'static str, versions: &'static [&'static str]) -> Resource {
    Resource { kind, plural, versions, optional: false, fields: None }
}

const fn optional(kind: Kind, plural: &'static str, versions: &'static [&'static str]) -> Resource {
    Resource { kind, plural, versions, optional: true, fields: None }
}

/// In the order of [`Kind::ALL`].
const RESOURCES: [Resource; Kind::ALL.len()] = [
    needed(Kind::Namespace, "namespaces", CORE),
    needed(Kind::Node, "nodes", CORE),
    needed(Kind::Service, "services", CORE),
    needed(Kind::EndpointSlice, "endpointslices", &["/apis/discovery.k8s.io/v1"]),
    needed(Kind::Endpoints, "endpoints", CORE),
    needed(Kind::Pod, "pods", CORE),
    optional(Kind::DestinationRule, "destinationrules", ISTIO),
    optional(Kind::TunnelPolicy, "tunnelpolicies", &["/apis/edgemesh.kubeedge.io/v1alpha1"]),
    optional(Kind::VirtualService, "virtualservices", ISTIO),
    optional(Kind::IstioGateway, "gateways", ISTIO),
    optional(Kind::GatewayClass, "gatewayclasses", GATEWAY_API),
    optional(Kind::Gateway, "gateways", GATEWAY_API),
    optional(Kind::HttpRoute, "httproutes", GATEWAY_API),
    optional(Kind::TcpRoute, "tcproutes", &["/apis/gateway.networking.k8s.io/v1alpha2"]),
    optional(
        Kind::TlsRoute,
        "tlsroutes",
        &[
            "/apis/gateway.networking.k8s.io/v1",
            "/apis/gateway.networking.k8s.io/v1alpha3",
            "/apis/gateway.networking.k8s.io/v1alpha2",
        ],
    ),
    Resource {
        kind: Kind::Secret,
        plural: "secrets",
        versions: CORE,
        optional: true,
        fields: Some("type%3Dkubernetes.io%2Ftls"),
    },
];

impl Resource {
    /// Where a kind is served.
    pub fn of(kind: Kind) -> Self {
        let found = RESOURCES.into_iter().find(|resource| resource.kind == kind);
        found.unwrap_or(RESOURCES[0])
    }

    /// What of it a server that is a cache can be asked: KubeEdge's metaServer takes fields other than name and namespace
    /// for empty, and would select nothing (kubeedge edge/pkg/metamanager/metaserver).
    pub(crate) fn of_cache(self, cached: bool) -> Self {
        Self { fields: self.fields.filter(|_| !cached), ..self }
    }

    /// A server may lack the kind: one of a group that a resource definition or a later release brings.
    pub(crate) fn may_be_absent(&self) -> bool {
        self.versions.iter().all(|version| version.starts_with("/apis/"))
    }

    /// The path of all objects, in all namespaces, with a query that begins with `?` or is empty.
    pub(crate) fn target(&self, version: usize, query: &str) -> String {
        let path = format!("{}/{}{query}", self.versions[version % self.versions.len()], self.plural);
        match self.fields {
            Some(fields) if query.is_empty() => format!("{path}?fieldSelector={fields}"),
            Some(fields) => format!("{path}&fieldSelector={fields}"),
            None => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_place() {
        for kind in Kind::ALL {
            assert_eq!(Resource::of(kind).kind, kind);
        }
    }
}
