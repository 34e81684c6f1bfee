use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edgemesh_api::{
    DestinationRule, EndpointSlice, Endpoints, Kind, Name, Node, Object, ObjectKey, Pod, Service, label,
};

use crate::ServiceId;

/// Every object that is known, and which Services must be compiled again since the last compile.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    by_kind: [BTreeMap<ObjectKey, Arc<Object>>; Kind::ALL.len()],
    slices_of: BTreeMap<ServiceId, BTreeSet<ObjectKey>>,
    pub(crate) dirty: Dirty,
}

/// What changed since the last compile, as far as it decides which Services are compiled again.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// A Node changed: zones and addresses of nodes appear in every Service.
    pub(crate) all: bool,
    /// Services whose own objects changed.
    pub(crate) services: BTreeSet<ServiceId>,
    /// Namespace, key and value of the labels of Pods that changed: a Service computed from Pods is compiled
    /// again when its selector has one of them.
    pub(crate) labels: BTreeSet<(Name, Name, Name)>,
}

impl Objects {
    fn of(&self, kind: Kind) -> &BTreeMap<ObjectKey, Arc<Object>> {
        &self.by_kind[kind as usize]
    }

    /// Stores an object; whether it is new or different.
    pub(crate) fn upsert(&mut self, object: Arc<Object>) -> bool {
        let key = object.key();
        if self.of(object.kind()).get(&key) == Some(&object) {
            return false;
        }
        self.remove(object.kind(), &key);
        self.touch(&object);
        if let Some(service) = service_of_slice(&object) {
            self.slices_of.entry(service).or_default().insert(key.clone());
        }
        self.by_kind[object.kind() as usize].insert(key, object);
        true
    }

    /// Forgets an object; whether it was known.
    pub(crate) fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let Some(object) = self.by_kind[kind as usize].remove(key) else { return false };
        self.touch(&object);
        if let Some(service) = service_of_slice(&object)
            && let Some(slices) = self.slices_of.get_mut(&service)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        true
    }

    fn touch(&mut self, object: &Object) {
        match object {
            Object::Service(_) | Object::Endpoints(_) => {
                self.dirty.services.insert(object.key());
            }
            Object::EndpointSlice(_) => self.dirty.services.extend(service_of_slice(object)),
            Object::Pod(pod) => {
                let metadata = &pod.metadata;
                let labels = metadata.labels.iter();
                self.dirty.labels.extend(
                    labels.map(|(key, value)| (metadata.namespace.clone(), key.clone(), value.clone())),
                );
            }
            Object::Node(_) => self.dirty.all = true,
            Object::Namespace(_) | Object::DestinationRule(_) => {}
        }
    }

    /// How many objects of a kind are known.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.of(kind).len()
    }

    /// Kinds and keys of every object.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Kind, &ObjectKey)> {
        Kind::ALL.into_iter().flat_map(|kind| self.of(kind).keys().map(move |key| (kind, key)))
    }

    /// Every object, in the order of [`Kind::ALL`] and of keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        Kind::ALL.into_iter().flat_map(|kind| self.of(kind).values())
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (&ServiceId, &Service)> {
        self.of(Kind::Service).iter().filter_map(|(key, object)| match &**object {
            Object::Service(service) => Some((key, service)),
            _ => None,
        })
    }

    pub(crate) fn has_service(&self, id: &ServiceId) -> bool {
        self.of(Kind::Service).contains_key(id)
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices(&self, service: &ServiceId) -> impl Iterator<Item = &EndpointSlice> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| match self.of(Kind::EndpointSlice).get(key).map(|object| &**object) {
            Some(Object::EndpointSlice(slice)) => Some(slice),
            _ => None,
        })
    }

    /// Slices whose label names no Service.
    pub(crate) fn orphan_slices(&self) -> impl Iterator<Item = &ObjectKey> {
        let slices = self.of(Kind::EndpointSlice).iter();
        slices.filter(|(_, object)| service_of_slice(object).is_none()).map(|(key, _)| key)
    }

    pub(crate) fn endpoints(&self, service: &ServiceId) -> Option<&Endpoints> {
        match self.of(Kind::Endpoints).get(service).map(|object| &**object) {
            Some(Object::Endpoints(endpoints)) => Some(endpoints),
            _ => None,
        }
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.of(Kind::Pod).values().filter_map(|object| match &**object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.of(Kind::Node).iter().filter_map(|(key, object)| match &**object {
            Object::Node(node) => Some((&key.name, node)),
            _ => None,
        })
    }

    pub(crate) fn node(&self, name: &Name) -> Option<&Node> {
        match self.of(Kind::Node).get(&ObjectKey::new("", name.clone())).map(|object| &**object) {
            Some(Object::Node(node)) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = (&ObjectKey, &DestinationRule)> {
        self.of(Kind::DestinationRule).iter().filter_map(|(key, object)| match &**object {
            Object::DestinationRule(rule) => Some((key, rule)),
            _ => None,
        })
    }
}

fn service_of_slice(object: &Object) -> Option<ServiceId> {
    let Object::EndpointSlice(slice) = object else { return None };
    let name = slice.metadata.labels.get(label::SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ServiceId { namespace: slice.metadata.namespace.clone(), name: name.clone() })
}
