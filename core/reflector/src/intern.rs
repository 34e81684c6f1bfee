use std::collections::HashSet;
use std::sync::Arc;

use edgemesh_api::Name;

/// Strings held before those that nobody else holds are dropped.
const MAX_UNSWEPT: usize = 4096;

/// One copy of each string that many objects repeat: node names, namespaces, zones, port names.
#[derive(Debug, Default)]
pub struct Interner {
    names: HashSet<Name>,
    sweep_at: usize,
}

impl Interner {
    /// The copy of a name that is shared.
    pub fn name(&mut self, text: &str) -> Name {
        self.names.get(text).cloned().unwrap_or_else(|| {
            let mut name = Name::from(text);
            self.share(&mut name);
            name
        })
    }

    /// Replaces a name by the copy that is shared.
    pub(crate) fn share(&mut self, name: &mut Name) {
        match self.names.get(name) {
            Some(known) => *name = known.clone(),
            None => {
                self.names.insert(name.clone());
                if self.names.len() > self.sweep_at.max(MAX_UNSWEPT) {
                    self.names.retain(|name| Arc::strong_count(name) > 1);
                    self.sweep_at = self.names.len() * 2;
                }
            }
        }
    }

    pub(crate) fn share_option(&mut self, name: &mut Option<Name>) {
        if let Some(name) = name {
            self.share(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_become_one_and_the_unused_are_dropped() {
        let mut interner = Interner::default();
        let (mut first, mut second) = (Name::from("node-1"), Name::from("node-1"));
        interner.share(&mut first);
        interner.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..3 * MAX_UNSWEPT {
            interner.share(&mut Name::from(format!("gone-{number}")));
        }
        assert!(interner.names.len() <= MAX_UNSWEPT + 1 && interner.names.contains("node-1"));
    }
}
