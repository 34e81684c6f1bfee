//! The ruleset in the terms of iptables and ipset, for kernels whose nf_tables lacks what ours needs.
//!
//! Sets become ipsets, so that what concerns all frontends costs one look-up as with nftables. iptables has no maps: the
//! frontends the kernel translates have a chain each, found in a tree of chains that branches by bits of address and
//! port, so that a connection meets a number of rules that grows with the logarithm of the number of Services. Packets to
//! anything else never enter the tree: a set says who does.
//!
//! No table comes after destination NAT in prerouting, so what the listener gets of a mixed frontend is chosen before it, in
//! `mangle`; a [mark](MARK) tells `nat` that the packet has gone to the listener, where it claims it: nothing after ours in
//! that table sees the connection.

mod dispatch;
mod sets;
mod tables;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use edgemesh_mesh::SortedMap;

use crate::{Family, Ruleset, Steer};

pub use sets::{MAX_ELEMENTS, Set, SetType, Sets};

/// Begins the name of every chain, set and list of ours.
pub const PREFIX: &str = "EDGEMESH-";

/// On packets that TPROXY gave to the listener, between the tables `mangle` and `nat`. Kubernetes uses 0x4000 and 0x8000,
/// Cilium the bits 0xf00, Calico those from 0x10000 on.
pub const MARK: u32 = 0x1000;

/// The tables that have rules of ours, in the order in which they are written: each is a transaction of its own, and a
/// packet that meets the new rules of one has met those of the ones before.
pub const TABLES: [&str; 4] = ["raw", "mangle", "nat", "filter"];

/// A chain of ours, and the chain of netfilter that it is called from.
pub type Jump = (&'static str, &'static str);

/// Rules by chain, as `iptables-restore` reads them, without `-A CHAIN`.
pub type Chains = BTreeMap<String, Vec<String>>;

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains of ours.
    pub chains: Chains,
    /// Built-in chains that call one of ours before anything else.
    pub jumps: Vec<Jump>,
}

/// All of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The family.
    pub family: Family,
    /// What the chains look up.
    pub sets: Sets,
    /// In the order of [`TABLES`].
    pub tables: [Table; TABLES.len()],
}

impl Rules {
    /// The rules of a family.
    pub fn of(ruleset: &Ruleset, family: Family) -> Self {
        tables::rules(ruleset, family)
    }

    /// No rules and no sets.
    pub fn none(family: Family) -> Self {
        Self { family, sets: Sets::new(), tables: Default::default() }
    }

    /// Whether any table has chains.
    pub fn has_chains(&self) -> bool {
        self.tables.iter().any(|table| !table.chains.is_empty())
    }

    /// What `iptables-restore --noflush` has to read to get from what is there to these rules; empty when they are there.
    pub fn restore(&self, present: &[Present<'_>; TABLES.len()]) -> String {
        let mut text = String::new();
        for ((name, table), present) in TABLES.iter().zip(&self.tables).zip(present) {
            let part = table.restore(present);
            if !part.is_empty() {
                // Writing to a String does not fail.
                let _ = write!(text, "*{name}\n{part}COMMIT\n");
            }
        }
        text
    }
}

/// What is there of one table.
#[derive(Clone, Debug, Default)]
pub struct Present<'a> {
    /// Our chains, with the rules that they were given if they still have them.
    pub chains: BTreeMap<&'a str, Option<&'a [String]>>,
    /// Calls of ours from built-in chains, with how often each is there.
    pub jumps: BTreeMap<(String, String), usize>,
    /// Built-in chains that call ours first.
    pub first: Vec<(String, String)>,
}

impl Table {
    fn restore(&self, present: &Present<'_>) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text, present);
        text
    }

    fn write(&self, out: &mut String, present: &Present<'_>) -> fmt::Result {
        let changed: Vec<(&String, &Vec<String>)> = self
            .chains
            .iter()
            .filter(|(name, rules)| present.chains.get(name.as_str()) != Some(&Some(rules.as_slice())))
            .collect();
        let gone = present.chains.keys().filter(|name| !self.chains.contains_key(**name));
        let gone: Vec<&str> = gone.copied().collect();
        // Naming a chain empties it, within the transaction.
        for (name, _) in &changed {
            writeln!(out, ":{name} - [0:0]")?;
        }
        for name in &gone {
            writeln!(out, ":{name} - [0:0]")?;
        }
        for (name, rules) in &changed {
            for rule in *rules {
                writeln!(out, "-A {name} {rule}")?;
            }
        }
        for ((from, to), count) in &present.jumps {
            let wanted = self.jumps.iter().any(|(chain, target)| chain == from && target == to);
            let in_place = wanted && *count == 1 && present.first.contains(&(from.clone(), to.clone()));
            for _ in 0..if in_place { 0 } else { *count } {
                writeln!(out, "-D {from} -j {to}")?;
            }
        }
        for (from, to) in &self.jumps {
            let key = ((*from).to_owned(), (*to).to_owned());
            if present.jumps.get(&key) != Some(&1) || !present.first.contains(&key) {
                writeln!(out, "-I {from} 1 -j {to}")?;
            }
        }
        for name in gone {
            writeln!(out, "-X {name}")?;
        }
        Ok(())
    }
}

impl Ruleset {
    /// What iptables cannot say and a table of nftables can that has no NAT: the chain that gives packets from a bridge to
    /// the listener once more, after br_netfilter made the kernel forget that they are its. Connections that the kernel
    /// translates are none of its concern.
    #[must_use]
    pub fn bridged(&self) -> Self {
        let mut chains = self.chains.clone();
        chains.retain(|chain| chain.name == crate::rules::BRIDGED);
        let mut bridged = Self {
            device: self.device.clone(),
            families: self.families,
            chains,
            frontends: SortedMap::default(),
            population: crate::Population::default(),
            picks: BTreeMap::new(),
            backends: SortedMap::default(),
            hairpins: SortedMap::default(),
            vips: SortedMap::default(),
            restricted: SortedMap::default(),
            refused: Vec::new(),
        };
        if !bridged.sees_bridges() {
            return bridged;
        }
        let listened = self.frontends.iter().filter(|(_, steer)| steer.listens());
        bridged.frontends = listened
            .map(|(frontend, steer)| match steer {
                Steer::Proxy => (*frontend, Steer::Proxy),
                // A mixed frontend without endpoints.
                _ => (*frontend, Steer::Drop { inside: true }),
            })
            .collect();
        for (frontend, steer) in &bridged.frontends {
            steer.members(*frontend).iter().for_each(|member| bridged.population.add(member));
        }
        bridged
    }
}
