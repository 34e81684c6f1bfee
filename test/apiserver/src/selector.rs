use std::collections::{BTreeMap, BTreeSet};

use crate::resource::Resource;
use crate::store::Stored;

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    pub(crate) namespace: Option<String>,
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: Field,
    equal: bool,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    NodeName,
    Type,
    /// One that the server believes to be empty in every object.
    Blank,
}

impl Selector {
    pub(crate) fn in_namespace(namespace: Option<String>) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// Adds the labels that `labelSelector` asks for.
    pub(crate) fn labels(mut self, text: &str) -> Result<Self, String> {
        self.labels = requirements(text)?;
        Ok(self)
    }

    /// Adds the fields that `fieldSelector` asks for. With `names_only` a field other than name and namespace counts
    /// as empty instead of being refused or looked at.
    pub(crate) fn fields(mut self, text: &str, resource: Resource, names_only: bool) -> Result<Self, String> {
        for term in text.split(',').filter(|term| !term.is_empty()) {
            let (field, value) = term
                .split_once('=')
                .ok_or_else(|| format!("invalid field selector {term:?}: there is no ="))?;
            let (field, equal) = match field.strip_suffix('!') {
                Some(field) => (field, false),
                None => (field, true),
            };
            let value = value.strip_prefix('=').unwrap_or(value).to_owned();
            let field = match field {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                _ if names_only => Field::Blank,
                "spec.nodeName" if resource == Resource::Pods => Field::NodeName,
                "type" if resource == Resource::Secrets => Field::Type,
                other => return Err(format!("field label not supported: {other}")),
            };
            self.fields.push(FieldTerm { field, equal, value });
        }
        Ok(self)
    }

    /// Whether it picks by labels or fields, which a count of remaining items does not know.
    pub(crate) fn is_picky(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(crate) fn picks(&self, object: &Stored) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.namespace)
            && self.labels.iter().all(|requirement| requirement.holds(&object.labels))
            && self.fields.iter().all(|term| term.holds(object))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Exists(key) => labels.contains_key(key),
            Self::Missing(key) => !labels.contains_key(key),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        }
    }
}

impl FieldTerm {
    fn holds(&self, object: &Stored) -> bool {
        let value = match self.field {
            Field::Name => &object.name,
            Field::Namespace => &object.namespace,
            Field::NodeName => &object.node,
            Field::Type => &object.type_,
            Field::Blank => "",
        };
        (value == self.value) == self.equal
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut depth = 0;
    let terms = text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    terms.map(str::trim).filter(|term| !term.is_empty()).map(requirement).collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let single = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let found = if let Some((key, values)) = term.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(|| refused(term))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = key.trim().rsplit_once(' ').ok_or_else(|| refused(term))?;
        match operator {
            "in" => Requirement::In(key.trim().to_owned(), values),
            "notin" => Requirement::NotIn(key.trim().to_owned(), values),
            _ => return Err(refused(term)),
        }
    } else if let Some((key, value)) = term.split_once("!=") {
        Requirement::NotIn(key.trim().to_owned(), single(value))
    } else if let Some((key, value)) = term.split_once('=') {
        Requirement::In(key.trim().to_owned(), single(value.strip_prefix('=').unwrap_or(value)))
    } else if let Some(key) = term.strip_prefix('!') {
        Requirement::Missing(key.trim().to_owned())
    } else {
        Requirement::Exists(term.to_owned())
    };
    let (Requirement::Exists(key)
    | Requirement::Missing(key)
    | Requirement::In(key, _)
    | Requirement::NotIn(key, _)) = &found;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || !key.chars().all(valid) { Err(refused(term)) } else { Ok(found) }
}

fn refused(term: &str) -> String {
    format!(
        "unable to parse requirement {term:?}: say key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_pick_what_kubernetes_picks() {
        let object = Stored {
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            node: "n1".to_owned(),
            labels: [("app", "web"), ("tier", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Stored::default()
        };
        for (labels, fields, expected) in [
            ("", "", Ok(true)),
            ("app=web", "", Ok(true)),
            ("app==web,tier=", "", Ok(true)),
            ("app=db", "", Ok(false)),
            ("app!=db", "", Ok(true)),
            ("other!=db", "", Ok(true)),
            ("app in (db, web),tier", "", Ok(true)),
            ("app notin (db,web)", "", Ok(false)),
            ("other notin (db,web)", "", Ok(true)),
            ("!other", "", Ok(true)),
            ("!app", "", Ok(false)),
            ("app in (web", "", Err(())),
            ("app of (web)", "", Err(())),
            ("=web", "", Err(())),
            ("", "metadata.name=a,metadata.namespace!=b", Ok(true)),
            ("", "metadata.name==b", Ok(false)),
            ("", "spec.nodeName=n1", Ok(true)),
            ("", "spec.nodeName!=n1", Ok(false)),
            ("", "spec.color=red", Err(())),
            ("", "metadata.name", Err(())),
        ] {
            let selector = Selector::default()
                .labels(labels)
                .and_then(|selector| selector.fields(fields, Resource::Pods, false));
            let picked = selector.map(|selector| selector.picks(&object)).map_err(drop);
            assert_eq!(picked, expected, "{labels:?} {fields:?}");
        }
        let node = |names_only| {
            Selector::default()
                .fields("spec.nodeName=n1", Resource::Pods, names_only)
                .map(|selector| selector.picks(&object))
        };
        assert_eq!((node(false), node(true)), (Ok(true), Ok(false)));
        let secret = Stored { type_: "kubernetes.io/tls".to_owned(), ..Stored::default() };
        for (fields, resource, expected) in [
            ("type=kubernetes.io/tls", Resource::Secrets, Ok(true)),
            ("type=Opaque", Resource::Secrets, Ok(false)),
            ("type=kubernetes.io/tls", Resource::ConfigMaps, Err(())),
        ] {
            let selector = Selector::default().fields(fields, resource, false);
            assert_eq!(selector.map(|selector| selector.picks(&secret)).map_err(drop), expected, "{fields}");
        }
    }
}
