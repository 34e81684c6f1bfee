mod common;
mod modules;
mod old;
mod tunnel;

pub(crate) use old::old_name;

use crate::field::{Field, Preset, Roles, Shape};
use crate::settings::Role;

const HEADER: &[Field] = &[
    Field::go(
        "apiVersion",
        Roles::Both,
        Shape::Text,
        Preset::ByRole(
            "agent.edgemesh.config.kubeedge.io/v1alpha1",
            "gateway.edgemesh.config.kubeedge.io/v1alpha1",
        ),
        "which form of the file this is",
    ),
    Field::go(
        "kind",
        Roles::Both,
        Shape::Text,
        Preset::ByRole("EdgeMeshAgent", "EdgeMeshGateway"),
        "which program it is for",
    ),
];

/// Every key, block by block.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    [
        HEADER,
        common::KUBE,
        common::COMMON,
        common::PPROF,
        modules::DNS,
        modules::PROXY,
        tunnel::TUNNEL,
        modules::CNI,
        modules::GATEWAY,
    ]
    .into_iter()
    .flatten()
}

/// The keys a program has a value for.
pub(crate) fn fields_of(role: Role) -> impl Iterator<Item = &'static Field> {
    fields().filter(move |field| field.is_whole() && field.roles.include(role))
}

/// What a path leads to.
pub(crate) enum Place {
    Key(&'static Field),
    Block,
}

/// What a path leads to in the file of a program.
pub(crate) fn place(path: &str, role: Role) -> Option<Place> {
    let inside = |field: &Field| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    fields().filter(|field| field.roles.include(role)).find_map(|field| {
        if field.path == path { Some(Place::Key(field)) } else { inside(field).then_some(Place::Block) }
    })
}

/// The keys and blocks directly in a block, in the order of the table.
pub(crate) fn children(block: &str, role: Role) -> Vec<&'static str> {
    let mut found = Vec::new();
    for field in fields().filter(|field| field.roles.include(role)) {
        let rest = if block.is_empty() {
            Some(field.path)
        } else {
            field.path.strip_prefix(block).and_then(|rest| rest.strip_prefix('.'))
        };
        let Some(child) = rest.and_then(|rest| rest.split(['.', '[']).next()) else { continue };
        if !found.contains(&child) {
            found.push(child);
        }
    }
    found
}

/// The module of a path, such as `modules.edgeDNS`.
pub(crate) fn module(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("modules.")?;
    let end = rest.find('.').unwrap_or(rest.len());
    Some(&path[.."modules.".len() + end])
}
