use crate::emit::{Entry, yaml};
use crate::field::{Effect, Field, Reload, Shape};
use crate::settings::{Role, Settings};
use crate::table;
use crate::value::{RelayNode, Value};

/// The settings that count, every key with its value, as a file.
pub fn show(settings: &Settings) -> String {
    let entries: Vec<_> = table::fields_of(settings.role)
        .filter(|field| field.shape != Shape::Anything)
        .filter_map(|field| {
            let value = settings.effective.0.get(field.path)?.clone();
            Some(Entry { note: why_unused(field), ..Entry::new(field.path, value) })
        })
        .collect();
    yaml(&entries)
}

/// The file of defaults: every key, what it is for where that decides something, and which do nothing.
pub fn default_config(role: Role) -> String {
    let entries: Vec<_> = table::fields_of(role)
        .filter(|field| field.shape != Shape::Anything)
        .map(|field| match field.default(role) {
            Some(value) => Entry { note: why_unused(field), ..Entry::new(field.path, value) },
            None => Entry {
                note: Some("by default true in EdgeMode and false where KUBERNETES_PORT is set".to_owned()),
                off: true,
                ..Entry::new(field.path, Value::Flag(true))
            },
        })
        .collect();
    yaml(&entries)
}

/// The file with what a user has to look at.
pub fn min_config(role: Role) -> String {
    let (own, note) = match role {
        Role::Agent => ("modules.edgeProxy.enable", "intercept connections to Services"),
        Role::Gateway => ("modules.edgeGateway.enable", "serve Gateways and VirtualServices"),
    };
    let relay = RelayNode {
        node_name: "name-of-the-relay-node".to_owned(),
        advertise: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
    };
    let noted = |path, value, note: &str| Entry { note: Some(note.to_owned()), ..Entry::new(path, value) };
    let mut entries = vec![
        Entry::new("apiVersion", Value::Text(role.api_version().to_owned())),
        Entry::new("kind", Value::Text(role.kind().to_owned())),
    ];
    entries.extend([
        noted(own, Value::Flag(true), note),
        noted("modules.edgeTunnel.enable", Value::Flag(true), "reach nodes of other networks"),
        noted(
            "modules.edgeTunnel.relayNodes",
            Value::Relays(vec![relay]),
            "put in your own; none is needed where all nodes reach each other",
        ),
    ]);
    yaml(&entries)
}

fn why_unused(field: &Field) -> Option<String> {
    match field.effect {
        Effect::Unused(why) => Some(format!("without effect: {why}")),
        Effect::Used => None,
    }
}

/// Keys whose values differ between two settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that can be taken over by a running program.
    pub running: Vec<&'static str>,
    /// Those that count at the next start only.
    pub restart: Vec<&'static str>,
}

/// What changed from one file to the next. Keys of a module that is off before and after do not count.
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changes = Changes::default();
    for field in table::fields_of(new.role).filter(|field| field.is_used()) {
        let same = old.effective.0.get(field.path) == new.effective.0.get(field.path);
        if same || (is_off(old, field.path) && is_off(new, field.path)) {
            continue;
        }
        match field.reload {
            Reload::Running => changes.running.push(field.path),
            Reload::Restart => changes.restart.push(field.path),
        }
    }
    changes
}

fn is_off(settings: &Settings, path: &str) -> bool {
    table::module(path).is_some_and(|module| !settings.effective.flag(&format!("{module}.enable")))
}
