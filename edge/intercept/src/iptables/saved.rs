use std::collections::BTreeMap;

use edgemesh_ruleset::iptables::{PREFIX, Present, Rules, TABLES, Table};

/// What `iptables-save` printed, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    /// In the order of [`TABLES`].
    tables: [SavedTable; TABLES.len()],
    /// Rules of others.
    pub(crate) foreign: usize,
    /// Chains by which kubelet and kube-proxy show the flavour they use.
    pub(crate) hinted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SavedTable {
    /// Chains of ours.
    chains: BTreeMap<String, Vec<String>>,
    /// How many rules were written to chains that were not read since.
    unread: BTreeMap<String, usize>,
    /// Rules of built-in chains that call one of ours, with how many rules come before each.
    jumps: Vec<(String, String, usize)>,
}

impl Saved {
    /// Reads the output of `iptables-save`.
    pub(super) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        let mut before = BTreeMap::<&str, usize>::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = TABLES.iter().position(|table| *table == name);
                before.clear();
                continue;
            }
            if let Some(chain) = line.strip_prefix(':') {
                let (name, _) = chain.split_once(' ').unwrap_or((chain, ""));
                saved.hinted |=
                    ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"].contains(&name);
                if let Some(at) = table.filter(|_| name.starts_with(PREFIX)) {
                    saved.tables[at].chains.entry(name.to_owned()).or_default();
                }
                continue;
            }
            let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let count = before.entry(chain).or_default();
            let target = rule.strip_prefix("-j ").filter(|target| target.starts_with(PREFIX));
            match (table, target) {
                (Some(at), _) if chain.starts_with(PREFIX) => {
                    saved.tables[at].chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
                }
                (Some(at), Some(target)) => {
                    saved.tables[at].jumps.push((chain.to_owned(), target.to_owned(), *count));
                }
                _ => saved.foreign += 1,
            }
            *count += 1;
        }
        saved
    }

    /// What is there, with the rules that are known to be in the chains.
    pub(super) fn present<'a>(&'a self, known: Option<&'a Rules>) -> [Present<'a>; TABLES.len()] {
        let mut all: [Present<'a>; TABLES.len()] = Default::default();
        for (at, present) in all.iter_mut().enumerate() {
            let Some(table) = self.tables.get(at) else { continue };
            let rules = known.and_then(|known| known.tables.get(at));
            for name in table.chains.keys() {
                let known = rules.and_then(|table| table.chains.get(name)).map(Vec::as_slice);
                present.chains.insert(name, known);
            }
            for (from, to, before) in &table.jumps {
                let jump = (from.clone(), to.clone());
                if *before == 0 {
                    present.first.push(jump.clone());
                }
                *present.jumps.entry(jump).or_default() += 1;
            }
        }
        all
    }

    /// Goes on to what is there once rules were changed to others. False where that cannot be told.
    pub(super) fn follow(&mut self, before: &Rules, after: &Rules) -> bool {
        for ((saved, before), after) in self.tables.iter_mut().zip(&before.tables).zip(&after.tables) {
            if before.jumps != after.jumps {
                return false;
            }
            for name in before.chains.keys().filter(|name| !after.chains.contains_key(*name)) {
                saved.chains.remove(name);
                saved.unread.remove(name);
            }
            for (name, rules) in
                after.chains.iter().filter(|(name, it)| before.chains.get(*name) != Some(*it))
            {
                saved.chains.insert(name.clone(), Vec::new());
                saved.unread.insert(name.clone(), rules.len());
            }
        }
        true
    }

    /// How this differs from what was there before.
    pub(super) fn differences(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, now), before) in TABLES.iter().zip(&self.tables).zip(&before.tables) {
            for (chain, rules) in &before.chains {
                let unread = before.unread.get(chain);
                match now.chains.get(chain) {
                    // The kernel's words for a rule are not ours, so rules are counted.
                    Some(now) if unread == Some(&now.len()) => {}
                    None => found.push(format!("chain {chain} of {name} is not there")),
                    Some(now) if now != rules => found.push(format!("chain {chain} of {name} was changed")),
                    Some(_) => {}
                }
            }
            let foreign = now.chains.keys().filter(|chain| !before.chains.contains_key(*chain));
            found.extend(foreign.map(|chain| format!("chain {chain} of {name} is not ours")));
            if now.jumps != before.jumps {
                found.push(format!("calls of our chains in {name} were moved or deleted"));
            }
        }
        found
    }

    /// What of the rules is not there. The kernel's words for a rule are not ours, so rules are counted.
    pub(super) fn lacks(&self, rules: &Rules) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, table), there) in TABLES.iter().zip(&rules.tables).zip(&self.tables) {
            found.extend(there.lacks(table).into_iter().map(|what| format!("{what} of {name}")));
        }
        found
    }
}

impl SavedTable {
    fn lacks(&self, table: &Table) -> Vec<String> {
        let mut found = Vec::new();
        for (name, rules) in &table.chains {
            let there = self.chains.get(name).map_or(0, Vec::len);
            if there != rules.len() || !self.chains.contains_key(name) {
                found.push(format!("chain {name} has {there} rules for {} written", rules.len()));
            }
        }
        let foreign = self.chains.keys().filter(|name| !table.chains.contains_key(*name));
        found.extend(foreign.map(|name| format!("chain {name} is not ours")));
        for (from, to) in &table.jumps {
            let places: Vec<usize> = self
                .jumps
                .iter()
                .filter(|(chain, target, _)| chain == from && target == to)
                .map(|(_, _, before)| *before)
                .collect();
            if places != [0] {
                found.push(format!("the call of {to} is not the first rule of {from}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n*filter\n\
        :FORWARD DROP [0:0]\n:EDGEMESH-INPUT - [0:0]\n-A INPUT -j KUBE-FIREWALL\n-A INPUT -j EDGEMESH-INPUT\n\
        -A EDGEMESH-INPUT -j EDGEMESH-REFUSE\nCOMMIT\n";

    #[test]
    fn others_and_ours_are_told_apart() {
        let saved = Saved::parse(SAVED);
        assert_eq!((saved.hinted, saved.foreign), (true, 1));
        let present = saved.present(None);
        let jump = ("INPUT".to_owned(), "EDGEMESH-INPUT".to_owned());
        assert_eq!(present[3].jumps.get(&jump), Some(&1));
        assert_eq!((present[3].first.len(), present[3].chains.len()), (0, 1));
    }

    #[test]
    fn removal_takes_calls_and_chains_and_nothing_else() {
        let saved = Saved::parse(SAVED);
        let text = Rules::none(edgemesh_ruleset::Family::V4).restore(&saved.present(None));
        assert_eq!(
            text,
            "*filter\n:EDGEMESH-INPUT - [0:0]\n-D INPUT -j EDGEMESH-INPUT\n-X EDGEMESH-INPUT\nCOMMIT\n"
        );
    }

    #[test]
    fn chains_that_were_not_read_are_counted() {
        let rules = |chains: &[(&str, &[&str])]| {
            let mut rules = Rules::none(edgemesh_ruleset::Family::V4);
            let chains = chains.iter().map(|(name, rules)| {
                ((*name).to_owned(), rules.iter().map(|rule| (*rule).to_owned()).collect())
            });
            rules.tables[2].chains = chains.collect();
            rules
        };
        let text = |chains: &[(&str, usize)]| {
            let mut text = "*nat\n".to_owned();
            for (name, count) in chains {
                text += &format!(":{name} - [0:0]\n");
                text += &format!("-A {name} -j RETURN\n").repeat(*count);
            }
            Saved::parse(&(text + "COMMIT\n"))
        };
        let before = rules(&[("EDGEMESH-SVC-A", &["a"]), ("EDGEMESH-SVC-B", &["b"])]);
        let after = rules(&[("EDGEMESH-SVC-A", &["a"]), ("EDGEMESH-SVC-C", &["c", "d"])]);
        let mut saved = text(&[("EDGEMESH-SVC-A", 1), ("EDGEMESH-SVC-B", 1)]);
        assert!(saved.follow(&before, &after));
        for (now, expected) in [
            (vec![("EDGEMESH-SVC-A", 1), ("EDGEMESH-SVC-C", 2)], None),
            (
                vec![("EDGEMESH-SVC-A", 1), ("EDGEMESH-SVC-C", 1)],
                Some("chain EDGEMESH-SVC-C of nat was changed"),
            ),
            (
                vec![("EDGEMESH-SVC-A", 2), ("EDGEMESH-SVC-C", 2)],
                Some("chain EDGEMESH-SVC-A of nat was changed"),
            ),
            (vec![("EDGEMESH-SVC-A", 1)], Some("chain EDGEMESH-SVC-C of nat is not there")),
            (
                vec![("EDGEMESH-SVC-A", 1), ("EDGEMESH-SVC-B", 1), ("EDGEMESH-SVC-C", 2)],
                Some("chain EDGEMESH-SVC-B of nat is not ours"),
            ),
        ] {
            let found = text(&now).differences(&saved);
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
        let mut other = after.clone();
        other.tables[2].jumps.push(("OUTPUT", "EDGEMESH-OUTPUT"));
        assert!(!saved.follow(&after, &other), "a call moves all that come after it");
    }
}
