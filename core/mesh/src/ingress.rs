use std::collections::BTreeMap;
use std::sync::Arc;

use edgemesh_api::{
    Gateway, GatewayClass, HttpRoute, IstioGateway, Kind, Name, Object, ObjectKey, Secret, TcpRoute,
    TlsRoute, VirtualService,
};

use crate::Finding;
use crate::objects::Objects;

/// The objects of every kind that only a gateway acts on, by namespace and name. They are those of the state: an object is
/// shared, not copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressObjects {
    by_kind: BTreeMap<Kind, BTreeMap<ObjectKey, Arc<Object>>>,
}

/// Objects of one kind in the order of their keys.
macro_rules! of_kind {
    ($objects:expr, $kind:ident) => {
        $objects.of(Kind::$kind).filter_map(|(key, object)| match &**object {
            Object::$kind(object) => Some((key, object)),
            _ => None,
        })
    };
}

impl IngressObjects {
    /// What the state knows of them.
    pub(crate) fn of_state(objects: &Objects) -> Self {
        let by_kind = Kind::INGRESS.into_iter().filter(|kind| objects.count(*kind) > 0);
        Self { by_kind: by_kind.map(|kind| (kind, objects.of(kind).clone())).collect() }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Arc<Object>)> {
        self.by_kind.get(&kind).into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_kind.is_empty()
    }

    /// VirtualServices.
    pub fn virtual_services(&self) -> impl Iterator<Item = (&ObjectKey, &VirtualService)> {
        of_kind!(self, VirtualService)
    }

    /// Istio's Gateways.
    pub fn istio_gateways(&self) -> impl Iterator<Item = (&ObjectKey, &IstioGateway)> {
        of_kind!(self, IstioGateway)
    }

    /// GatewayClasses.
    pub fn gateway_classes(&self) -> impl Iterator<Item = (&ObjectKey, &GatewayClass)> {
        of_kind!(self, GatewayClass)
    }

    /// Gateways of the Gateway API.
    pub fn gateways(&self) -> impl Iterator<Item = (&ObjectKey, &Gateway)> {
        of_kind!(self, Gateway)
    }

    /// HTTPRoutes.
    pub fn http_routes(&self) -> impl Iterator<Item = (&ObjectKey, &HttpRoute)> {
        of_kind!(self, HttpRoute)
    }

    /// TCPRoutes.
    pub fn tcp_routes(&self) -> impl Iterator<Item = (&ObjectKey, &TcpRoute)> {
        of_kind!(self, TcpRoute)
    }

    /// TLSRoutes.
    pub fn tls_routes(&self) -> impl Iterator<Item = (&ObjectKey, &TlsRoute)> {
        of_kind!(self, TlsRoute)
    }

    /// The certificate of this name, where the Secret is one.
    pub fn certificate(&self, key: &ObjectKey) -> Option<&Secret> {
        match &**self.by_kind.get(&Kind::Secret)?.get(key)? {
            Object::Secret(secret) if secret.is_tls() => Some(secret),
            _ => None,
        }
    }

    /// What in the objects is not understood.
    pub(crate) fn findings(&self) -> impl Iterator<Item = Finding> {
        let objects = self.by_kind.values().flatten();
        objects.flat_map(|(key, object)| {
            not_understood(object).iter().map(move |message| Finding {
                object: format!("{} {key}", object.kind()),
                message: message.to_string(),
            })
        })
    }
}

fn not_understood(object: &Object) -> &[Name] {
    match object {
        Object::VirtualService(object) => &object.not_understood,
        Object::IstioGateway(object) => &object.not_understood,
        Object::GatewayClass(object) => &object.not_understood,
        Object::Gateway(object) => &object.not_understood,
        Object::HttpRoute(object) => &object.not_understood,
        Object::TcpRoute(object) | Object::TlsRoute(object) => &object.not_understood,
        Object::Secret(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Endpoints(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::Namespace(_)
        | Object::DestinationRule(_)
        | Object::TunnelPolicy(_) => &[],
    }
}
