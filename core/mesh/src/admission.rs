use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use edgemesh_api::{Name, Protocol, TunnelPolicy};

use crate::objects::Objects;
use crate::{Finding, ServiceEntry, ServiceId, SortedMap};

/// One item of a TunnelPolicy's `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelRule {
    /// Nodes whose peers it admits; none means every node.
    pub nodes: Box<[Name]>,
    /// Namespaces of clients it admits; none means every client.
    pub namespaces: Box<[Name]>,
}

impl TunnelRule {
    /// Whether it admits a client on a node.
    pub fn admits(&self, node: Option<&str>, namespace: Option<&str>) -> bool {
        self.names_node(node)
            && (self.namespaces.is_empty()
                || namespace.is_some_and(|asked| self.namespaces.iter().any(|known| **known == *asked)))
    }

    /// Whether it admits any client on a node.
    pub fn names_node(&self, node: Option<&str>) -> bool {
        self.nodes.is_empty() || node.is_some_and(|asked| self.nodes.iter().any(|known| **known == *asked))
    }
}

/// What TunnelPolicies say of who may reach what through the tunnel.
///
/// Policies select Services, and the tunnel admits backends: a backend of several Services is closed as soon as a policy
/// selects one of them, and open to whom any of those policies names. Otherwise a Service without a policy over the
/// same Pods, such as the headless one beside it, would be a way around.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelRules(BTreeMap<(SocketAddr, Protocol), Vec<TunnelRule>>);

impl TunnelRules {
    /// The rules of a backend; `None` when no policy selects it.
    pub fn of(&self, backend: SocketAddr, protocol: Protocol) -> Option<&[TunnelRule]> {
        self.0.get(&(backend, protocol)).map(Vec::as_slice)
    }

    /// Adds a rule to a backend, or closes it when there is none.
    pub fn add(&mut self, backend: SocketAddr, protocol: Protocol, rule: Option<TunnelRule>) {
        let rules = self.0.entry((backend, protocol)).or_default();
        if let Some(rule) = rule.filter(|rule| !rules.contains(rule)) {
            rules.push(rule);
        }
    }

    /// Compiles the policies, with what was found on the way.
    pub(crate) fn compile(
        objects: &Objects,
        services: &SortedMap<ServiceId, Arc<ServiceEntry>>,
    ) -> (Self, Vec<Finding>) {
        let (mut rules, mut findings) = (Self::default(), Vec::new());
        for (key, policy) in objects.tunnel_policies() {
            for name in &policy.spec.services {
                let id = ServiceId::new(key.namespace.clone(), name.clone());
                if services.get(&id).is_none() {
                    findings.push(Finding {
                        object: format!("TunnelPolicy {key}"),
                        message: format!("there is no Service {id}: nothing is closed by that name"),
                    });
                }
            }
            let in_namespace = services.iter().filter(|(id, _)| id.namespace == key.namespace);
            let named: BTreeSet<&Name> = policy.spec.services.iter().collect();
            for (_, entry) in in_namespace.filter(|(id, _)| named.is_empty() || named.contains(&id.name)) {
                rules.select(entry, policy);
            }
        }
        (rules, findings)
    }

    fn select(&mut self, entry: &ServiceEntry, policy: &TunnelPolicy) {
        for port in &entry.ports {
            for backend in port.backends.iter() {
                self.add(backend.addr, port.protocol, None);
                for allow in &policy.spec.allow {
                    let rule = TunnelRule {
                        nodes: allow.nodes.as_slice().into(),
                        namespaces: allow.namespaces.as_slice().into(),
                    };
                    self.add(backend.addr, port.protocol, Some(rule));
                }
            }
        }
    }
}
