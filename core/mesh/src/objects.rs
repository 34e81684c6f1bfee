use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edgemesh_api::{
    DestinationRule, EndpointSlice, Endpoints, Kind, Name, Node, Object, ObjectKey, Pod, Service,
    TunnelPolicy, label,
};

use crate::ServiceId;
use crate::fit::fit;

/// Every object that is known, and which Services must be compiled again since the last compile.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    by_kind: [BTreeMap<ObjectKey, Arc<Object>>; Kind::ALL.len()],
    slices_of: BTreeSet<(ServiceId, ObjectKey)>,
    orphan_slices: BTreeSet<ObjectKey>,
    /// How many objects are in each namespace, or are the namespace itself.
    namespaces: BTreeMap<Name, usize>,
    /// Pods by label, so that a selector looks at the Pods of its rarest pair only.
    pods_with: BTreeMap<Label, BTreeSet<Name>>,
    /// Services by the pairs of their selectors, so that a Pod finds the Services it may concern.
    services_selecting: BTreeSet<(Label, Name)>,
    /// Which of a Service's Endpoints and slices changed last; kept for cached sources only.
    recency: Option<Recency>,
    dirty: Dirty,
}

/// Counts changes, and which of them touched the Endpoints and the slices of each Service.
#[derive(Debug, Default)]
struct Recency {
    changes: u64,
    endpoints: BTreeMap<ServiceId, u64>,
    slices: BTreeMap<ServiceId, u64>,
    /// Before its slices were listed once, a source says nothing of which are newer: those that it serves for ever come
    /// in the same way.
    slices_listed: bool,
}

/// Services whose last changes are remembered: ten times the 10,000 the mesh is measured with. Beyond it all are
/// forgotten, and slices win.
const MAX_RECENCY: usize = 100_000;

/// Namespace, key and value.
type Label = (Name, Name, Name);

/// What changed since the last compile.
#[derive(Debug, Default)]
struct Dirty {
    /// Every Service is concerned.
    all: bool,
    /// A Node changed: zones and addresses of nodes appear in every Service.
    nodes: bool,
    pods: bool,
    /// A namespace came or went.
    namespaces: bool,
    /// An object changed that only a gateway acts on.
    ingress: bool,
    tunnel_policies: bool,
    /// Services whose own objects changed.
    services: BTreeSet<ServiceId>,
    /// Labels of Pods that changed: a Service computed from Pods is compiled again when its selector has one.
    labels: BTreeSet<Label>,
}

/// What must be compiled again.
#[derive(Debug)]
pub(crate) struct Touched {
    /// `None` when every Service is concerned.
    pub(crate) services: Option<BTreeSet<ServiceId>>,
    pub(crate) nodes: bool,
    pub(crate) pods: bool,
    pub(crate) namespaces: bool,
    pub(crate) ingress: bool,
    pub(crate) tunnel_policies: bool,
}

impl Objects {
    /// Nothing; `recency` says whether to remember what changed last.
    pub(crate) fn new(recency: bool) -> Self {
        Self { recency: recency.then(Recency::default), ..Self::default() }
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_kind.iter().all(BTreeMap::is_empty)
    }

    /// One object.
    pub(crate) fn get(&self, kind: Kind, key: &ObjectKey) -> Option<&Object> {
        self.of(kind).get(key).map(|object| &**object)
    }

    /// Keys of one kind.
    pub(crate) fn keys_of(&self, kind: Kind) -> impl Iterator<Item = &ObjectKey> {
        self.of(kind).keys()
    }

    /// Every Service is compiled again.
    pub(crate) fn touch_all(&mut self) {
        self.dirty.all = true;
    }

    /// The source has told every slice it has: those that come from now on are changes.
    pub(crate) fn slices_are_listed(&mut self) {
        if let Some(recency) = &mut self.recency {
            recency.slices_listed = true;
        }
    }

    /// Whether the Endpoints of a Service changed after its slices did. A metaServer whose cloud does not follow slices
    /// serves those of its first day for ever (kubeedge/kubeedge#6088).
    pub(crate) fn endpoints_are_newer(&self, service: &ServiceId) -> bool {
        self.recency.as_ref().is_some_and(|recency| {
            recency
                .endpoints
                .get(service)
                .is_some_and(|at| recency.slices.get(service).is_none_or(|then| at > then))
        })
    }

    pub(crate) fn of(&self, kind: Kind) -> &BTreeMap<ObjectKey, Arc<Object>> {
        &self.by_kind[kind as usize]
    }

    /// Stores an object; whether it is new or different.
    pub(crate) fn upsert(&mut self, mut object: Arc<Object>) -> bool {
        let key = object.key();
        match self.of(object.kind()).get(&key) {
            Some(known) if *known == object => return false,
            Some(_) => drop(self.remove(object.kind(), &key)),
            None => {}
        }
        fit(&mut object);
        self.touch(&object);
        self.index(&object, true);
        self.by_kind[object.kind() as usize].insert(key, object);
        true
    }

    /// Forgets an object; whether it was known.
    pub(crate) fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let Some(object) = self.by_kind[kind as usize].remove(key) else { return false };
        self.touch(&object);
        self.index(&object, false);
        true
    }

    fn index(&mut self, object: &Object, known: bool) {
        self.count_namespace(object, known);
        match object {
            Object::EndpointSlice(slice) => {
                let key = slice.metadata.key();
                match service_of_slice(object) {
                    Some(service) => put(&mut self.slices_of, (service, key), known),
                    None => put(&mut self.orphan_slices, key, known),
                }
            }
            Object::Pod(pod) => {
                for label in labels(&pod.metadata.namespace, &pod.metadata.labels) {
                    mark(&mut self.pods_with, label, pod.metadata.name.clone(), known);
                }
            }
            Object::Service(service) => {
                for label in labels(&service.metadata.namespace, &service.spec.selector) {
                    put(&mut self.services_selecting, (label, service.metadata.name.clone()), known);
                }
            }
            Object::Endpoints(_)
            | Object::Node(_)
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
            | Object::Secret(_) => {}
        }
    }

    fn count_namespace(&mut self, object: &Object, known: bool) {
        let name = match object {
            Object::Namespace(namespace) => &namespace.metadata.name,
            other => &other.metadata().namespace,
        };
        if name.is_empty() {
            return;
        }
        let count = self.namespaces.entry(name.clone()).or_default();
        *count = if known { *count + 1 } else { count.saturating_sub(1) };
        self.dirty.namespaces |= *count <= 1;
        if *count == 0 {
            self.namespaces.remove(name);
        }
    }

    fn touch(&mut self, object: &Object) {
        if let Some(recency) = &mut self.recency {
            recency.note(object);
        }
        match object {
            Object::Service(_) | Object::Endpoints(_) | Object::EndpointSlice(_) if self.dirty.all => {}
            Object::Service(_) | Object::Endpoints(_) => {
                self.dirty.services.insert(object.key());
            }
            Object::EndpointSlice(_) => self.dirty.services.extend(service_of_slice(object)),
            Object::Pod(pod) => {
                self.dirty.pods = true;
                self.dirty.labels.extend(labels(&pod.metadata.namespace, &pod.metadata.labels));
            }
            Object::Node(_) => {
                self.dirty.nodes = true;
                self.dirty.all = true;
            }
            Object::Namespace(_) | Object::DestinationRule(_) => {}
            Object::TunnelPolicy(_) => self.dirty.tunnel_policies = true,
            Object::VirtualService(_)
            | Object::IstioGateway(_)
            | Object::GatewayClass(_)
            | Object::Gateway(_)
            | Object::HttpRoute(_)
            | Object::TcpRoute(_)
            | Object::TlsRoute(_)
            | Object::Secret(_) => self.dirty.ingress = true,
        }
    }

    /// What changed since it was asked last.
    pub(crate) fn take_touched(&mut self) -> Touched {
        let Dirty { all, nodes, pods, namespaces, ingress, tunnel_policies, mut services, labels } =
            std::mem::take(&mut self.dirty);
        for label in labels {
            let from = (label, Name::default());
            let selecting = self.services_selecting.range(&from..).take_while(|(known, _)| *known == from.0);
            services.extend(selecting.map(|(label, name)| ObjectKey::new(label.0.clone(), name.clone())));
        }
        Touched { services: (!all).then_some(services), nodes, pods, namespaces, ingress, tunnel_policies }
    }

    /// Namespaces that exist, by object or by use.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.namespaces.keys()
    }

    /// The Pods that a selector selects, by name. An empty selector selects nothing: such a Service has its endpoints
    /// given (core/v1 ServiceSpec.selector).
    pub(crate) fn select(&self, namespace: &Name, selector: &BTreeMap<Name, Name>) -> Vec<&Pod> {
        let sets = labels(namespace, selector).map(|label| self.pods_with.get(&label));
        let rarest = sets.min_by_key(|pods| pods.map_or(0, BTreeSet::len)).flatten();
        let pods = rarest.into_iter().flatten().filter_map(|name| self.pod(namespace, name));
        pods.filter(|pod| selector.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value)))
            .collect()
    }

    fn pod(&self, namespace: &Name, name: &Name) -> Option<&Pod> {
        match self.of(Kind::Pod).get(&ObjectKey::new(namespace.clone(), name.clone())).map(|object| &**object)
        {
            Some(Object::Pod(pod)) => Some(pod),
            _ => None,
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

    pub(crate) fn service_ids(&self) -> impl Iterator<Item = &ServiceId> {
        self.of(Kind::Service).keys()
    }

    pub(crate) fn service(&self, id: &ServiceId) -> Option<&Service> {
        match self.of(Kind::Service).get(id).map(|object| &**object) {
            Some(Object::Service(service)) => Some(service),
            _ => None,
        }
    }

    pub(crate) fn has_service(&self, id: &ServiceId) -> bool {
        self.of(Kind::Service).contains_key(id)
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices<'a>(&'a self, service: &'a ServiceId) -> impl Iterator<Item = &'a EndpointSlice> {
        let first = ObjectKey { namespace: Name::default(), name: Name::default() };
        let from = (service.clone(), first);
        let keys = self.slices_of.range(from..).take_while(move |(of, _)| of == service);
        keys.filter_map(|(_, key)| match self.of(Kind::EndpointSlice).get(key).map(|object| &**object) {
            Some(Object::EndpointSlice(slice)) => Some(slice),
            _ => None,
        })
    }

    /// Slices whose label names no Service.
    pub(crate) fn orphan_slices(&self) -> impl Iterator<Item = &ObjectKey> {
        self.orphan_slices.iter()
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
        match self
            .of(Kind::Node)
            .get(&ObjectKey { namespace: Name::default(), name: name.clone() })
            .map(|object| &**object)
        {
            Some(Object::Node(node)) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn tunnel_policies(&self) -> impl Iterator<Item = (&ObjectKey, &TunnelPolicy)> {
        self.of(Kind::TunnelPolicy).iter().filter_map(|(key, object)| match &**object {
            Object::TunnelPolicy(policy) => Some((key, policy)),
            _ => None,
        })
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = (&ObjectKey, &DestinationRule)> {
        self.of(Kind::DestinationRule).iter().filter_map(|(key, object)| match &**object {
            Object::DestinationRule(rule) => Some((key, rule)),
            _ => None,
        })
    }
}

impl Recency {
    fn note(&mut self, object: &Object) {
        self.changes += 1;
        match object {
            Object::Endpoints(_) => {
                self.endpoints.insert(object.key(), self.changes);
            }
            Object::EndpointSlice(_) => {
                if let Some(service) = service_of_slice(object).filter(|_| self.slices_listed) {
                    self.slices.insert(service, self.changes);
                }
            }
            Object::Service(_) => {
                // Entries of Services that are gone would add up.
                let known = [&mut self.endpoints, &mut self.slices];
                for sets in known.into_iter().filter(|sets| sets.len() > MAX_RECENCY) {
                    sets.clear();
                }
            }
            Object::Pod(_)
            | Object::Node(_)
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
            | Object::Secret(_) => {}
        }
    }
}

fn service_of_slice(object: &Object) -> Option<ServiceId> {
    let Object::EndpointSlice(slice) = object else { return None };
    let name = slice.metadata.labels.get(label::SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ServiceId { namespace: slice.metadata.namespace.clone(), name: name.clone() })
}

fn labels(namespace: &Name, pairs: &BTreeMap<Name, Name>) -> impl Iterator<Item = Label> {
    pairs.iter().map(|(key, value)| (namespace.clone(), key.clone(), value.clone()))
}

/// Adds to or removes from a set.
fn put<V: Ord>(set: &mut BTreeSet<V>, value: V, known: bool) {
    if known {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

/// Adds to or removes from a set of sets; empty sets are dropped.
fn mark<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V, known: bool) {
    if known {
        sets.entry(key).or_default().insert(value);
    } else if let Entry::Occupied(mut set) = sets.entry(key) {
        set.get_mut().remove(&value);
        if set.get().is_empty() {
            set.remove();
        }
    }
}
