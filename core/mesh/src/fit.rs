use std::sync::Arc;

use edgemesh_api::{Endpoints, Object};

/// Gives back what the lists of an object have in reserve. Decoding lets them grow by doubling from four on; most have one
/// entry, and with 5,000 Services of ten endpoints 8 of 57 MiB were reserve. An object that others hold too stays as it is.
pub(crate) fn fit(object: &mut Arc<Object>) {
    match Arc::get_mut(object) {
        Some(Object::Service(service)) => {
            service.spec.cluster_ips.shrink_to_fit();
            service.spec.external_ips.shrink_to_fit();
            service.spec.ports.shrink_to_fit();
            service.spec.load_balancer_source_ranges.shrink_to_fit();
        }
        Some(Object::EndpointSlice(slice)) => {
            slice.endpoints.shrink_to_fit();
            slice.ports.shrink_to_fit();
            for endpoint in &mut slice.endpoints {
                endpoint.addresses.shrink_to_fit();
            }
        }
        Some(Object::Endpoints(endpoints)) => fit_endpoints(endpoints),
        Some(Object::Pod(pod)) => {
            pod.spec.containers.shrink_to_fit();
            pod.spec.containers.iter_mut().for_each(|container| container.ports.shrink_to_fit());
            pod.status.pod_ips.shrink_to_fit();
            pod.status.conditions.shrink_to_fit();
        }
        // Few of these are there, and what varies in them is text.
        Some(
            Object::Node(_)
            | Object::Namespace(_)
            | Object::DestinationRule(_)
            | Object::TunnelPolicy(_)
            | Object::VirtualService(_)
            | Object::IstioGateway(_)
            | Object::GatewayClass(_)
            | Object::Gateway(_)
            | Object::HttpRoute(_)
            | Object::TcpRoute(_)
            | Object::TlsRoute(_)
            | Object::Secret(_),
        )
        | None => {}
    }
}

fn fit_endpoints(endpoints: &mut Endpoints) {
    endpoints.subsets.shrink_to_fit();
    for subset in &mut endpoints.subsets {
        subset.addresses.shrink_to_fit();
        subset.not_ready_addresses.shrink_to_fit();
        subset.ports.shrink_to_fit();
    }
}
