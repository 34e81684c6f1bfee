//! The manifests the agents read: the user's own, and a Node and a Pod object for everything the laboratory runs.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::plan::{NodePlan, Plan, PodPlan};

/// A file of the user's.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) name: OsString,
    pub(crate) text: Vec<u8>,
}

/// Reads the manifests in the top level of a folder.
pub(crate) fn read(folder: &Path) -> io::Result<Vec<Manifest>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if let (true, Some(name)) = (manifest, path.file_name()) {
            found.push(Manifest { name: name.into(), text: std::fs::read(&path)? });
        }
    }
    Ok(found)
}

/// Fills `folder` with the user's own files and the generated objects.
pub(crate) fn write(plan: &Plan, own: &[Manifest], folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for manifest in own {
        std::fs::write(folder.join(&manifest.name), &manifest.text)?;
    }
    let nodes = plan.nodes.iter().map(|node| node_object(plan, node));
    let pods = plan.pods().map(|(node, pod)| pod_object(node, pod));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes.chain(pods).collect::<Vec<_>>() });
    // YAML 1.2 holds JSON, but a reader that goes by the file's end is told the truth.
    std::fs::write(folder.join("edgemesh-lab.json"), serde_json::to_vec_pretty(&list)?)
}

fn node_object(plan: &Plan, node: &NodePlan) -> Value {
    let mut labels = node.spec.labels.clone();
    labels.entry("kubernetes.io/hostname".into()).or_insert_with(|| node.name.clone());
    labels.entry("topology.kubernetes.io/zone".into()).or_insert_with(|| plan.zone(node).into());
    let addresses = node.addresses.hosts().map(|ip| json!({ "type": "InternalIP", "address": ip }));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name, "labels": labels },
        "spec": { "podCIDRs": [node.spec.pods4, node.spec.pods6] },
        "status": { "addresses": addresses },
    })
}

fn pod_object(node: &NodePlan, pod: &PodPlan) -> Value {
    let [v4, v6] = pod.addresses.hosts();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.spec.name,
            "namespace": pod.spec.namespace,
            "labels": pod.spec.labels,
        },
        "spec": { "nodeName": node.name },
        "status": {
            "phase": "Running",
            "podIP": v4,
            "podIPs": [{ "ip": v4 }, { "ip": v6 }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}
