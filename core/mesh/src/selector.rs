use std::collections::{BTreeMap, HashMap};

use edgemesh_api::{Name, Pod};

/// Whether labels carry every pair of a selector. An empty selector selects nothing: such a Service has its
/// endpoints given (core/v1 ServiceSpec.selector).
pub(crate) fn matches(selector: &BTreeMap<Name, Name>, labels: &BTreeMap<Name, Name>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Pods by namespace and label pair, so that a selector looks at the Pods of its rarest pair only.
pub(crate) struct PodIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>,
}

impl<'a> PodIndex<'a> {
    pub(crate) fn new(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for pod in pods {
            for (key, value) in &pod.metadata.labels {
                by_label.entry((&*pod.metadata.namespace, &**key, &**value)).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    /// The Pods of a namespace that a selector selects, in the order in which the index was given them.
    pub(crate) fn select(&self, namespace: &str, selector: &BTreeMap<Name, Name>) -> Vec<&'a Pod> {
        let pairs = selector.iter().map(|(key, value)| self.by_label.get(&(namespace, &**key, &**value)));
        let rarest = pairs.min_by_key(|pods| pods.map_or(0, Vec::len)).flatten();
        let pods = rarest.into_iter().flatten().copied();
        pods.filter(|pod| matches(selector, &pod.metadata.labels)).collect()
    }
}
