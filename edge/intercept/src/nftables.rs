//! The kernel's nf_tables as backend: one table, written in transactions and read back.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{Committed, Element, Nft, TableState, Touched, Watch};
use edgemesh_ruleset::{Patch, Ruleset, Steer, Update};

use crate::flows::{self, Stale};
use crate::readback::{Baseline, Depth, differences};
use crate::{Change, InterceptError, table};

/// Somebody who fights us over the table would otherwise fill the log at the pace of the periodic check: one warning a
/// minute is enough to notice, and each says how many were held back.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Up to so many elements every change is followed by a dump of all. To dump a set the kernel walks it from its start for
/// every 32 KiB of answer, so the cost grows with the square; above, the elements of a change are trusted when the kernel's
/// count of changes says that it was the only one.
const READ_BACK_ALWAYS: usize = 4096;

/// There when br_netfilter is loaded. Its hook must have been registered before our chain of the same priority
/// (`edgemesh-ruleset`, `PRIORITY_FIRST`); the module may come hours later, with the first container.
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge";

/// Tells of changes by others, at a bounded pace.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    warned: Option<Instant>,
    held_back: u32,
}

impl Warnings {
    pub(crate) fn warn(&mut self, found: &[String]) {
        let now = Instant::now();
        if self.warned.is_some_and(|warned| now.duration_since(warned) < WARN_INTERVAL) {
            self.held_back += 1;
            return;
        }
        let found = found.join("; ");
        let held_back = std::mem::take(&mut self.held_back);
        tracing::warn!(found, held_back, "kernel rules were changed by somebody else; restoring them");
        self.warned = Some(now);
    }
}

/// Connections that a change of the rules left behind.
#[derive(Debug)]
pub(crate) enum Behind {
    /// None.
    Nothing,
    /// Those that the change concerns.
    Stale(Stale),
    /// Whatever the rules do not make: what they were before is not known.
    Strays,
}

impl Behind {
    /// What a change of rules leaves behind.
    pub(crate) fn of(update: &Update) -> Self {
        let stale = Stale::of(update);
        if stale.is_empty() { Self::Nothing } else { Self::Stale(stale) }
    }

    /// Forgets these connections; returns how many there were.
    pub(crate) fn forget(&self, ruleset: &Ruleset) -> Result<usize, NetlinkError> {
        let known = |frontend: &Frontend| -> Option<HashSet<SocketAddr>> {
            match ruleset.frontends.get(frontend) {
                Some(Steer::Kernel(spread)) => Some(spread.endpoints.iter().map(|(addr, _)| *addr).collect()),
                Some(Steer::Proxy) => Some(HashSet::new()),
                _ => None,
            }
        };
        match self {
            Self::Nothing => Ok(0),
            Self::Stale(stale) => flows::forget(stale),
            Self::Strays if !ruleset.frontends.keys().any(|it| it.protocol == Protocol::Udp) => Ok(0),
            Self::Strays => flows::forget_strays(known),
        }
    }
}

/// What a backend did.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) change: Change,
    pub(crate) transactions: usize,
    pub(crate) bytes: usize,
    pub(crate) behind: Behind,
    /// How the kernel differed from what was written, before it was repaired.
    pub(crate) repaired: Vec<String>,
}

/// The table of ours.
#[derive(Debug)]
pub(crate) struct Nftables {
    pub(crate) nft: Nft,
    /// What the table was brought to; absent while that is unknown.
    table: Option<Table>,
    /// Whether br_netfilter was loaded when base chains were written last.
    bridge_netfilter: bool,
    /// Hears who changes our table; absent while it is written, of which the kernel would tell element by element, and
    /// where the kernel does not tell.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Table {
    ruleset: Ruleset,
    baseline: Baseline,
    /// nftables' count of changes when the table was last found as written.
    generation: u32,
}

/// What was written to the table.
struct Written {
    change: Change,
    committed: Committed,
    /// The kernel's count of changes if nobody else makes any.
    generation: Option<u32>,
    /// Whether rules were written, and not only members.
    rules: bool,
    behind: Behind,
}

impl Nftables {
    pub(crate) fn open() -> Result<Self, InterceptError> {
        let mut nft = Nft::open().map_err(no_nftables)?;
        nft.generation().map_err(no_nftables)?;
        Ok(Self { nft, table: None, bridge_netfilter: false, watch: None })
    }

    /// Brings the table to the ruleset and reads it back. After an error it is in doubt, and the next call writes it anew.
    pub(crate) fn bring(
        &mut self,
        ruleset: &Ruleset,
        warnings: &mut Warnings,
    ) -> Result<Brought, InterceptError> {
        let written = self.write(ruleset, warnings)?;
        let repaired = self.settle(ruleset, &written, warnings)?;
        let Committed { transactions, bytes } = written.committed;
        Ok(Brought { change: written.change, transactions, bytes, behind: written.behind, repaired })
    }

    /// How the table differs from what it was brought to. Cheap while nobody changed it: the kernel counts changes of
    /// nftables and tells what they are.
    pub(crate) fn differences(&mut self) -> Result<Vec<String>, InterceptError> {
        let Some(mut table) = self.table.take() else { return Ok(Vec::new()) };
        let generation = self.nft.generation()?;
        let mut found = match generation == table.generation || self.heard_of_none(generation) {
            true => Vec::new(),
            false => differences(&mut self.nft, &table.ruleset, Some(&table.baseline), Depth::Elements)?,
        };
        if found.is_empty() {
            self.listen(generation);
        }
        if table.ruleset.sees_bridges() && !self.bridge_netfilter && bridge_netfilter() {
            found.push("br_netfilter was loaded after the rules".to_owned());
        }
        if found.is_empty() {
            table.generation = generation;
            self.table = Some(table);
        }
        Ok(found)
    }

    /// Whether it is known that none of the changes up to this count was of our table.
    fn heard_of_none(&mut self, generation: u32) -> bool {
        let quiet = self.watch.as_mut().map(|watch| watch.is_quiet(generation)).transpose();
        quiet
            .inspect_err(|error| tracing::debug!(%error, "news of nftables"))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Hears of changes after this count, up to which the table is known.
    fn listen(&mut self, generation: u32) {
        let listening = match self.watch.take() {
            Some(mut watch) => watch.restart(generation).map(|()| watch),
            None => Watch::open(&mut self.nft, is_ours),
        };
        self.watch = listening.inspect_err(|error| tracing::debug!(%error, "no news of nftables")).ok();
    }

    /// nftables' count of changes when the table was last found as written.
    pub(crate) fn seen(&self) -> Option<u32> {
        self.table.as_ref().map(|table| table.generation)
    }

    /// Whether the table is gone that was written.
    pub(crate) fn is_flushed(&mut self) -> Result<bool, InterceptError> {
        let ours = |it: &TableState| it.family == table::OURS.family && it.name == table::OURS.name;
        Ok(self.table.is_some() && !self.nft.tables()?.iter().any(ours))
    }

    /// Writes the table: the difference if what is there is known, else all of it.
    fn write(&mut self, ruleset: &Ruleset, warnings: &mut Warnings) -> Result<Written, InterceptError> {
        if let Some(installed) = &self.table
            && let Patch::Update(update) = ruleset.diff(&installed.ruleset)
        {
            if update.table_unchanged() {
                let committed = Committed { transactions: 0, bytes: 0 };
                let (change, behind) = (Change::Unchanged, Behind::Nothing);
                return Ok(Written { change, committed, generation: None, rules: false, behind });
            }
            let known = self.nft.generation()? == installed.generation;
            let before = installed.generation;
            match self.update(ruleset, &update) {
                Ok(committed) => {
                    let generation = known.then(|| after(before, committed));
                    let rules = !update.rules_unchanged();
                    let (change, behind) = (Change::Updated, Behind::of(&update));
                    return Ok(Written { change, committed, generation, rules, behind });
                }
                // Somebody took away what the update builds on.
                Err(error) if error.is_missing() => warnings.warn(&[error.to_string()]),
                Err(error) => {
                    self.table = None;
                    return Err(error.into());
                }
            }
        }
        let before = self.nft.generation()?;
        let committed = self.replace(ruleset)?;
        let generation = Some(after(before, committed));
        let (change, behind) = (Change::Replaced, Behind::Strays);
        Ok(Written { change, committed, generation, rules: true, behind })
    }

    fn update(&mut self, ruleset: &Ruleset, update: &Update) -> Result<Committed, NetlinkError> {
        if !update.add_chains.is_empty() {
            self.bridge_netfilter = bridge_netfilter();
        }
        let mut committed = self.nft.commit(&table::update(ruleset.families, update))?;
        let rest = table::delete_picks(update);
        if !rest.is_empty() {
            let more = self.nft.commit(&rest)?;
            committed.transactions += more.transactions;
            committed.bytes += more.bytes;
        }
        Ok(committed)
    }

    /// Clients keep their sessions, whoever wrote the table that stands.
    fn replace(&mut self, ruleset: &Ruleset) -> Result<Committed, InterceptError> {
        let sessions = self.sessions(ruleset);
        self.table = None;
        self.watch = None;
        self.bridge_netfilter = bridge_netfilter();
        Ok(self.nft.commit(&table::replace(table::OURS, ruleset, &sessions))?)
    }

    /// The sessions in the kernel; none where there is no table, or one of another version.
    fn sessions(&mut self, ruleset: &Ruleset) -> Vec<(&'static str, Vec<Element>)> {
        let maps: Vec<&'static str> = table::session_maps(ruleset).collect();
        maps.into_iter().filter_map(|map| Some((map, self.nft.elements(table::OURS, map).ok()?))).collect()
    }

    /// Reads the table back, and writes it anew if it is not as written; returns how it differed.
    fn settle(
        &mut self,
        ruleset: &Ruleset,
        written: &Written,
        warnings: &mut Warnings,
    ) -> Result<Vec<String>, InterceptError> {
        if written.change == Change::Unchanged {
            return Ok(Vec::new());
        }
        let mut baseline = self.table.take().map(|table| table.baseline).filter(|_| !written.rules);
        let heard_of_all = self.watch.is_some();
        if !heard_of_all {
            self.watch = Watch::open(&mut self.nft, is_ours).ok();
        }
        let mut generation = self.nft.generation()?;
        let large = ruleset.frontends.len() + ruleset.backends.len() + ruleset.vips.len() > READ_BACK_ALWAYS;
        // The only change, or the only one of this table.
        let trusted = large
            && (written.generation == Some(generation) || heard_of_all && self.heard_of_none(generation));
        let found = match (trusted, written.rules) {
            (true, false) => Vec::new(),
            (true, true) => differences(&mut self.nft, ruleset, baseline.as_ref(), Depth::Rules)?,
            (false, _) => differences(&mut self.nft, ruleset, baseline.as_ref(), Depth::Elements)?,
        };
        if !found.is_empty() {
            warnings.warn(&found);
            self.replace(ruleset)?;
            self.watch = Watch::open(&mut self.nft, is_ours).ok();
            generation = self.nft.generation()?;
            baseline = None;
            let still = differences(&mut self.nft, ruleset, None, Depth::Elements)?;
            if !still.is_empty() {
                return Err(InterceptError::NotAsWritten(still.join("; ")));
            }
        }
        let baseline = match baseline {
            Some(baseline) => baseline,
            None => self.nft.rules(table::OURS)?,
        };
        self.listen(generation);
        self.table = Some(Table { ruleset: ruleset.clone(), baseline, generation });
        Ok(found)
    }
}

fn is_ours(touched: &Touched) -> bool {
    touched.family == table::OURS.family && touched.table == table::OURS.name
}

/// nftables' count of changes after ours: the kernel counts transactions.
fn after(before: u32, committed: Committed) -> u32 {
    before.wrapping_add(u32::try_from(committed.transactions).unwrap_or(u32::MAX))
}

pub(crate) fn bridge_netfilter() -> bool {
    Path::new(BRIDGE_NETFILTER).exists()
}

fn no_nftables(error: NetlinkError) -> InterceptError {
    if error.is_unsupported() { InterceptError::NoNftables } else { error.into() }
}
