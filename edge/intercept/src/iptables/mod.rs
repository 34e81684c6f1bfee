//! iptables and ipset as backend: chains of ours in the tables of all, written by `iptables-restore`.
//!
//! Each of the four tables is a transaction of its own, as are the elements of the sets. The order keeps a packet from
//! meeting half of a frontend: sets come before the rules that ask for them and are filled after them.

mod programs;
mod saved;

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use edgemesh_net::netlink::nft::{self, Nft};
use edgemesh_ruleset::iptables::{PREFIX, Rules, Sets};
use edgemesh_ruleset::{Family, Patch, Ruleset};

use crate::nftables::{Behind, Brought, Warnings};
use crate::{Change, InterceptError};

pub(crate) use programs::Flavour;
use programs::Programs;
use saved::Saved;

/// The kernel lets go of a set in the background, some milliseconds after the last rule that asks for it.
const DESTROY_PAUSE: Duration = Duration::from_millis(20);
/// A second in all.
const DESTROY_ATTEMPTS: usize = 50;

/// Up to so many chains every change is followed by reading everything back. Above, a program that says that it did a
/// change is believed until the next check: its tables are transactions.
const READ_BACK_ALWAYS: usize = 1000;

/// Chains and sets of ours.
#[derive(Debug)]
pub(crate) struct Iptables {
    programs: Programs,
    /// What was installed; absent while that is unknown.
    installed: Option<Installed>,
    /// nftables' count of changes when the rules were last found as written; of the flavour that writes to nf_tables.
    generation: Option<u32>,
}

#[derive(Debug)]
struct Installed {
    ruleset: Ruleset,
    /// In the order of [`Family::ALL`].
    rules: [Rules; 2],
    /// What `iptables-save` printed right after they were written.
    saved: [Saved; 2],
}

impl Iptables {
    /// Finds the programs, of the flavour that others on this host use.
    pub(crate) fn detect() -> Result<Self, InterceptError> {
        let programs = Programs::detect()?;
        // The program may be there and the kernel's part not.
        programs.sets()?;
        Ok(Self { programs, installed: None, generation: None })
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.programs.flavour()
    }

    /// Brings chains and sets to the ruleset and reads them back.
    pub(crate) fn bring(
        &mut self,
        ruleset: &Ruleset,
        warnings: &mut Warnings,
    ) -> Result<Brought, InterceptError> {
        let wanted = wanted(ruleset);
        let installed = self.installed.take();
        let mut brought = Brought {
            change: Change::Replaced,
            transactions: 0,
            bytes: 0,
            behind: Behind::Strays,
            repaired: Vec::new(),
        };
        let mut before = None;
        if let Some(installed) = installed {
            if installed.rules == wanted {
                self.installed = Some(Installed { ruleset: ruleset.clone(), ..installed });
                return Ok(Brought { change: Change::Unchanged, behind: Behind::Nothing, ..brought });
            }
            let sets = installed.rules.each_ref().map(|rules| &rules.sets);
            let (rules, saved) = (Some(&installed.rules), &installed.saved);
            match self.write(&wanted, rules, saved, sets, &mut brought) {
                Ok(()) => {
                    brought.change = Change::Updated;
                    brought.behind = match ruleset.diff(&installed.ruleset) {
                        Patch::Update(update) => Behind::of(&update),
                        Patch::Replace => Behind::Strays,
                    };
                }
                // Somebody took away what the update builds on.
                Err(error) => {
                    warnings.warn(&[error.to_string()]);
                    self.write_anew(&wanted, &mut brought)?;
                }
            }
            before = Some((installed.rules, installed.saved));
        } else {
            self.write_anew(&wanted, &mut brought)?;
        }
        if let Some((rules, saved)) = before.filter(|_| brought.change == Change::Updated)
            && is_large(&wanted)
            && let Some(saved) = updated(&saved, &rules, &wanted)
        {
            self.installed = Some(Installed { ruleset: ruleset.clone(), rules: wanted, saved });
            return Ok(brought);
        }
        let mut saved = self.read(&wanted)?;
        let mut found = self.not_as_written(&wanted, &saved)?;
        if !found.is_empty() {
            warnings.warn(&found);
            self.write_anew(&wanted, &mut brought)?;
            saved = self.read(&wanted)?;
            let still = self.not_as_written(&wanted, &saved)?;
            if !still.is_empty() {
                return Err(InterceptError::NotAsWritten(still.join("; ")));
            }
            brought.repaired.append(&mut found);
        }
        self.installed = Some(Installed { ruleset: ruleset.clone(), rules: wanted, saved });
        Ok(brought)
    }

    /// How chains and sets differ from what they were brought to. Chains are not read while the kernel counts no change of
    /// nftables, where that has them.
    pub(crate) fn differences(&mut self, nft: Option<&mut Nft>) -> Result<Vec<String>, InterceptError> {
        let Some(mut installed) = self.installed.take() else { return Ok(Vec::new()) };
        let generation = match nft.filter(|_| self.flavour() == Flavour::Nft) {
            Some(nft) => Some(nft.generation()?),
            None => None,
        };
        let mut found = Vec::new();
        if generation.is_none() || generation != self.generation {
            let now = self.read(&installed.rules)?;
            for (before, now) in installed.saved.iter().zip(&now) {
                found.extend(now.differences(before));
            }
            installed.saved = now;
        }
        // Read before the chains: a change meanwhile is one more.
        self.generation = generation;
        found.extend(self.sets_differ(&installed.rules)?);
        if found.is_empty() {
            self.installed = Some(installed);
        }
        Ok(found)
    }

    /// Whether every chain is gone that was written. Only where they are in nf_tables, which tells without any program.
    pub(crate) fn is_flushed(&self, nft: Option<&mut Nft>) -> Result<bool, InterceptError> {
        let written = self.installed.as_ref().is_some_and(|it| it.rules.iter().any(Rules::has_chains));
        match nft.filter(|_| written && self.flavour() == Flavour::Nft) {
            Some(nft) => Ok(!chains_in_nft(nft)?),
            None => Ok(false),
        }
    }

    fn write_anew(&self, wanted: &[Rules; 2], brought: &mut Brought) -> Result<(), InterceptError> {
        brought.change = Change::Replaced;
        brought.behind = Behind::Strays;
        let saved = self.read(wanted)?;
        let sets = self.programs.sets()?;
        // A set of another type, as another version may have made it, is made anew.
        for (name, set) in wanted.iter().flat_map(|rules| &rules.sets) {
            if sets.get(name).is_some_and(|there| there.kind != set.kind) {
                remove(&self.programs)?;
                let none = Sets::new();
                return self.write(wanted, None, &self.read(wanted)?, [&none, &none], brought);
            }
        }
        let of = |family: Family| -> Sets {
            let ours =
                sets.iter().filter(|(name, _)| name.ends_with(if family == Family::V4 { "4" } else { "6" }));
            ours.map(|(name, set)| (name.clone(), set.clone())).collect()
        };
        let sets = Family::ALL.map(of);
        self.write(wanted, None, &saved, sets.each_ref(), brought)
    }

    /// From what is there to what is wanted.
    fn write(
        &self,
        wanted: &[Rules; 2],
        known: Option<&[Rules; 2]>,
        saved: &[Saved; 2],
        sets: [&Sets; 2],
        brought: &mut Brought,
    ) -> Result<(), InterceptError> {
        let (mut create, mut fill, mut destroy) = (String::new(), String::new(), BTreeSet::new());
        for (rules, present) in wanted.iter().zip(sets) {
            for (name, set) in rules.sets.iter().filter(|(name, _)| !present.contains_key(*name)) {
                create += &set.create(name, rules.family);
                create.push('\n');
            }
            destroy.extend(present.keys().filter(|name| !rules.sets.contains_key(*name)).cloned());
            fill += &filled(&rules.sets, present);
        }
        let mut texts = vec![(None, create)];
        for (place, rules) in wanted.iter().enumerate() {
            let known = known.and_then(|known| known.get(place));
            let there = saved.get(place).cloned().unwrap_or_default();
            texts.push((Some(rules.family), rules.restore(&there.present(known))));
        }
        texts.push((None, fill));
        for (family, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
            match family {
                Some(family) => self.programs.restore(*family, text)?,
                None => self.programs.ipset(text)?,
            }
            brought.transactions += 1;
            brought.bytes += text.len();
        }
        destroy_sets(&self.programs, &destroy)
    }

    /// What is there; of a family without rules only if its program works.
    fn read(&self, wanted: &[Rules; 2]) -> Result<[Saved; 2], InterceptError> {
        let mut saved = [Saved::default(), Saved::default()];
        for (rules, saved) in wanted.iter().zip(&mut saved) {
            match self.programs.save(rules.family) {
                Ok(read) => *saved = read,
                Err(_) if rules.sets.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(saved)
    }

    fn not_as_written(&self, wanted: &[Rules; 2], saved: &[Saved; 2]) -> Result<Vec<String>, InterceptError> {
        let mut found = Vec::new();
        for (rules, saved) in wanted.iter().zip(saved) {
            found.extend(saved.lacks(rules));
        }
        found.extend(self.sets_differ(wanted)?);
        Ok(found)
    }

    fn sets_differ(&self, wanted: &[Rules; 2]) -> Result<Vec<String>, InterceptError> {
        let present = self.programs.sets()?;
        let mut found = Vec::new();
        for (name, set) in wanted.iter().flat_map(|rules| &rules.sets) {
            let Some(there) = present.get(name) else {
                found.push(format!("set {name} is not there"));
                continue;
            };
            let missing = set.elements.difference(&there.elements).count();
            let foreign = there.elements.difference(&set.elements).count();
            if missing + foreign > 0 {
                found.push(format!("set {name} lacks {missing} elements and has {foreign} foreign ones"));
            }
        }
        Ok(found)
    }
}

/// Whether reading everything back costs more than a change: `iptables-save` of 10,000 Services takes seconds.
fn is_large(rules: &[Rules; 2]) -> bool {
    rules.iter().flat_map(|rules| &rules.tables).map(|table| table.chains.len()).sum::<usize>()
        > READ_BACK_ALWAYS
}

/// What `iptables-save` would print after an update, as far as that is known; `None` where it is to be read.
fn updated(saved: &[Saved; 2], before: &[Rules; 2], after: &[Rules; 2]) -> Option<[Saved; 2]> {
    let [mut v4, mut v6] = saved.clone();
    let known = v4.follow(&before[0], &after[0]) && v6.follow(&before[1], &after[1]);
    known.then_some([v4, v6])
}

fn wanted(ruleset: &Ruleset) -> [Rules; 2] {
    Family::ALL.map(|family| match ruleset.families.contains(&family) {
        true => Rules::of(ruleset, family),
        false => Rules::none(family),
    })
}

/// What `ipset restore` has to read to fill sets: first what goes, last what relies on others.
fn filled(wanted: &Sets, present: &Sets) -> String {
    let mut sets: Vec<_> = wanted.iter().collect();
    sets.sort_by_key(|(_, set)| set.order);
    let mut text = String::new();
    for (name, set) in sets.iter().rev() {
        let there = present.get(*name).into_iter().flat_map(|it| it.elements.difference(&set.elements));
        text.extend(there.map(|element| format!("del {name} {element}\n")));
    }
    for (name, set) in sets {
        let there = present.get(name);
        let new =
            set.elements.iter().filter(|element| !there.is_some_and(|it| it.elements.contains(*element)));
        text.extend(new.map(|element| format!("add {name} {element}\n")));
    }
    text
}

/// Removes every chain, jump and set of ours of one flavour.
fn remove(programs: &Programs) -> Result<(), InterceptError> {
    remove_chains(programs)?;
    let sets: BTreeSet<String> = programs.sets()?.into_keys().collect();
    destroy_sets(programs, &sets)
}

fn destroy_sets(programs: &Programs, names: &BTreeSet<String>) -> Result<(), InterceptError> {
    for name in names {
        let mut attempt = programs.ipset(&format!("destroy {name}\n"));
        for _ in 1..DESTROY_ATTEMPTS {
            if attempt.is_ok() {
                break;
            }
            sleep(DESTROY_PAUSE);
            attempt = programs.ipset(&format!("destroy {name}\n"));
        }
        attempt?;
    }
    Ok(())
}

/// Where to look for what an agent with this backend left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Where the kernel shows tables of iptables; otherwise no program is started.
    Shown,
    /// In all flavours and among the sets.
    Everywhere,
    /// At the flavours that are not in use. Those in use have sets of the same names.
    NotAt(Flavour),
}

/// Removes what an agent with this backend left; whether there was anything.
pub(crate) fn remove_leftovers(nft: Option<&mut Nft>, look: Look) -> Result<bool, InterceptError> {
    let in_nft = match nft {
        Some(nft) => chains_in_nft(nft)?,
        None => false,
    };
    let mut found = false;
    let mut programs = None;
    for (flavour, shown) in [(Flavour::Nft, in_nft), (Flavour::Legacy, programs::legacy_tables())] {
        if look == Look::NotAt(flavour) || !(shown || look == Look::Everywhere) {
            continue;
        }
        match Programs::of(flavour) {
            Ok(of) => {
                found |= shown && remove_chains(&of)?;
                programs = Some(of);
            }
            Err(error) => tracing::debug!(%error, "no program to look for rules with"),
        }
    }
    if let Some(programs) = programs.filter(|_| !matches!(look, Look::NotAt(_))) {
        // A kernel without sets has none of ours.
        let sets = programs.sets().inspect_err(|error| tracing::debug!(%error, "sets cannot be listed"));
        let sets: BTreeSet<String> = sets.unwrap_or_default().into_keys().collect();
        destroy_sets(&programs, &sets)?;
        found |= !sets.is_empty();
    }
    Ok(found)
}

/// Whether there were any.
fn remove_chains(programs: &Programs) -> Result<bool, InterceptError> {
    let mut found = false;
    for family in Family::ALL {
        // A family that the kernel does not have has no rules of ours.
        let Ok(saved) = programs.save(family) else { continue };
        let text = Rules::none(family).restore(&saved.present(None));
        if !text.is_empty() {
            programs.restore(family, &text)?;
            found = true;
        }
    }
    Ok(found)
}

/// Whether iptables, of the flavour that writes to nf_tables, has chains of ours.
fn chains_in_nft(nft: &mut Nft) -> Result<bool, InterceptError> {
    for table in nft.tables()? {
        if !matches!(table.family, nft::Family::Ip | nft::Family::Ip6) {
            continue;
        }
        let chains = nft.chains(nft::Table { family: table.family, name: &table.name })?;
        if chains.iter().any(|chain| chain.name.starts_with(PREFIX)) {
            return Ok(true);
        }
    }
    Ok(false)
}
