/// Which Services the mesh leaves to others, by the label `service.edgemesh.kubeedge.io/service-proxy-name` (Go
/// EdgeMesh's `modules.edgeProxy.serviceFilterMode`). Only its presence counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceFilter {
    /// `FilterIfLabelExists`: Services with the label are left alone.
    #[default]
    IfLabelExists,
    /// `FilterIfLabelDoesNotExists`: only Services with the label are intercepted.
    IfLabelDoesNotExist,
}

/// What the operator decides about all Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshOptions {
    /// Which Services are intercepted.
    pub filter: ServiceFilter,
    /// Intercept `default/kubernetes` too. Off by default: the agent itself may reach its API server through it.
    pub kubernetes_service: bool,
    /// The source is a cache that may fill object by object and may serve slices that nobody keeps up to date
    /// (KubeEdge's metaServer).
    pub cached_source: bool,
}
