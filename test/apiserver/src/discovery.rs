//! What the server says about itself.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::faults::{Availability, FaultSet};
use crate::resource::{Resource, api_version};
use crate::server::Shared;
use crate::status::Refusal;

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// The version that it claims: one that serves everything in the table.
pub(crate) fn version() -> Bytes {
    let version = json!({
        "major": "1", "minor": "34", "gitVersion": "v1.34.0+test", "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux",
    });
    Bytes::from(version.to_string())
}

pub(crate) fn answer(shared: &Shared, parts: &[String], faults: &FaultSet) -> Result<Value, Refusal> {
    if let Some(status) = faults.serving.discovery {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
        return Err(Refusal::new(status, format!("request[/{}::get] isn't supported", parts.join("/"))));
    }
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    let found = match parts[..] {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", version] => resources(shared, "", version),
        ["apis"] => {
            let names: BTreeSet<_> = Resource::all()
                .map(|resource| resource.row().group)
                .filter(|name| !name.is_empty())
                .collect();
            let groups: Vec<_> = names.into_iter().filter_map(|name| group(shared, name)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => group(shared, name).map(|mut group| {
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }),
        ["apis", group, version] => resources(shared, group, version),
        _ => None,
    };
    let custom = matches!(parts[..], ["apis", name, ..] if !Resource::has_built_in(name));
    found.ok_or_else(if custom { Refusal::no_such_group } else { Refusal::no_such_path })
}

fn present(shared: &Shared, resource: Resource, version: &str) -> bool {
    resource.row().versions.contains(&version)
        && shared.faults.of(resource, version).serving.availability != Availability::Absent
}

fn group(shared: &Shared, name: &str) -> Option<Value> {
    let mut versions = Vec::new();
    for row in Resource::all().map(Resource::row).filter(|row| !name.is_empty() && row.group == name) {
        for version in row.versions {
            let entry = json!({"groupVersion": api_version(name, version), "version": version});
            if present(shared, row.resource, version) && !versions.contains(&entry) {
                versions.push(entry);
            }
        }
    }
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

fn resources(shared: &Shared, group: &str, version: &str) -> Option<Value> {
    let served = Resource::all().map(Resource::row).filter(|row| row.group == group);
    let entries: Vec<_> = served
        .filter(|row| present(shared, row.resource, version))
        .map(|row| {
            json!({
                "name": row.plural, "singularName": row.kind.to_lowercase(), "namespaced": row.namespaced,
                "kind": row.kind, "verbs": VERBS,
            })
        })
        .collect();
    (!entries.is_empty()).then(|| {
        let version = api_version(group, version);
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries})
    })
}
