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
}

/// In the order of [`Kind::ALL`].
const RESOURCES: [Resource; 7] = [
    Resource { kind: Kind::Namespace, plural: "namespaces", versions: &["/api/v1"], optional: false },
    Resource { kind: Kind::Node, plural: "nodes", versions: &["/api/v1"], optional: false },
    Resource { kind: Kind::Service, plural: "services", versions: &["/api/v1"], optional: false },
    Resource {
        kind: Kind::EndpointSlice,
        plural: "endpointslices",
        versions: &["/apis/discovery.k8s.io/v1"],
        optional: false,
    },
    Resource { kind: Kind::Endpoints, plural: "endpoints", versions: &["/api/v1"], optional: false },
    Resource { kind: Kind::Pod, plural: "pods", versions: &["/api/v1"], optional: false },
    Resource {
        kind: Kind::DestinationRule,
        plural: "destinationrules",
        // Go EdgeMesh reads v1alpha3, and its charts install no other version (pkg/loadbalancer).
        versions: &[
            "/apis/networking.istio.io/v1alpha3",
            "/apis/networking.istio.io/v1beta1",
            "/apis/networking.istio.io/v1",
        ],
        optional: true,
    },
];

impl Resource {
    /// Where a kind is served.
    pub fn of(kind: Kind) -> Self {
        let found = RESOURCES.into_iter().find(|resource| resource.kind == kind);
        found.unwrap_or(RESOURCES[0])
    }

    /// A server may lack the kind: one of a group that a resource definition or a later release brings.
    pub(crate) fn may_be_absent(&self) -> bool {
        self.versions.iter().all(|version| version.starts_with("/apis/"))
    }

    /// The path of all objects, in all namespaces.
    pub(crate) fn path(&self, version: usize) -> String {
        format!("{}/{}", self.versions[version % self.versions.len()], self.plural)
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
