use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use edgemesh_net::netlink::nft::{Batch, Committed, Nft};
use edgemesh_net::netlink::rt::Handle;
use edgemesh_ruleset::{Device, Patch, Ruleset, RulesetSettings, VipRoute};

use crate::cleanup::{self, CleanupReport};
use crate::readback::{Baseline, differences};
use crate::{InterceptError, device, routes, table};

/// Somebody who fights us over the table would otherwise fill the log at the pace of the periodic check: one warning a
/// minute is enough to notice, and each says how many were held back.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What an [`Interceptor::apply`] did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing was different.
    Unchanged,
    /// Members were added or deleted.
    Updated,
    /// The table was written anew.
    Replaced,
}

/// What the kernel was brought to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What happened to the table.
    pub change: Change,
    /// Transactions it took: one, unless the host limits send buffers and the table is large.
    pub transactions: usize,
    /// Routes added.
    pub routes_added: usize,
    /// Routes deleted.
    pub routes_deleted: usize,
    /// Virtual addresses for which somebody else has a local route: they lead there and not to the mesh.
    pub taken: Vec<VipRoute>,
    /// How the kernel differed from what had been written, before it was repaired.
    pub repaired: Vec<String>,
}

/// Keeps one network namespace as the ruleset says.
#[derive(Debug)]
pub struct Interceptor {
    rt: Handle,
    nft: Nft,
    settings: RulesetSettings,
    /// What the table was brought to; absent while that is unknown.
    table: Option<Table>,
    /// The routes that are there.
    routes: BTreeSet<VipRoute>,
    /// Routes that somebody else has, as told last.
    taken: BTreeSet<VipRoute>,
    warned: Option<Instant>,
    held_back: u32,
}

#[derive(Debug)]
struct Table {
    ruleset: Ruleset,
    baseline: Baseline,
    /// nftables' count of changes when the table was last found as written.
    generation: u32,
}

impl Interceptor {
    /// Makes the device with its addresses, in place of what a dead predecessor left; table and routes stay as they are
    /// until the first [`Interceptor::apply`], so that a restart interrupts nothing. `settings` needs no host addresses.
    pub fn install(settings: RulesetSettings) -> Result<Self, InterceptError> {
        let mut rt = Handle::open()?;
        let mut nft = Nft::open().map_err(no_nftables)?;
        nft.generation().map_err(no_nftables)?;
        let ensured = device::ensure(&mut rt, &settings.device)?;
        if !ensured.ipv6 {
            tracing::info!("IPv6 is switched off on this host: only IPv4 frontends are intercepted");
        }
        let routes = routes::installed(&mut rt)?.iter().map(routes::vip).collect();
        let settings = RulesetSettings { ipv6: settings.ipv6 && ensured.ipv6, ..settings };
        Ok(Self {
            rt,
            nft,
            settings,
            table: None,
            routes,
            taken: BTreeSet::new(),
            warned: None,
            held_back: 0,
        })
    }

    /// The settings to compile a ruleset with, as the host is now: with the addresses it owns.
    pub fn settings(&mut self) -> Result<RulesetSettings, InterceptError> {
        self.settings.host_addresses = device::host_addresses(&mut self.rt, &self.settings.device)?.collect();
        Ok(self.settings.clone())
    }

    /// Brings the kernel to the ruleset and reads it back. Rules come before the routes they are for and go after them,
    /// so that no packet to a virtual address meets a route without rules.
    ///
    /// After an error the table is in doubt, and the next call writes it anew.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, InterceptError> {
        let lo = self.loopback()?;
        let (add, delete) = self.route_changes(ruleset);
        routes::delete(&mut self.rt, lo, &delete)?;
        for route in &delete {
            self.routes.remove(route);
        }
        let (change, committed) = self.write(ruleset)?;
        let repaired = match change {
            Change::Unchanged => Vec::new(),
            Change::Updated | Change::Replaced => self.settle(ruleset)?,
        };
        let taken = routes::add(&mut self.rt, lo, &add)?;
        self.routes.extend(add.iter().filter(|route| !taken.contains(route)));
        for route in taken.difference(&self.taken) {
            tracing::warn!(vip = %route.vip, "somebody else has a local route to this virtual address");
        }
        self.taken.clone_from(&taken);
        let applied = Applied {
            change: if repaired.is_empty() { change } else { Change::Replaced },
            transactions: committed.transactions,
            routes_added: add.len() - taken.len(),
            routes_deleted: delete.len(),
            taken: taken.into_iter().collect(),
            repaired,
        };
        tracing::debug!(
            ?applied,
            frontends = ruleset.frontends.len(),
            vips = ruleset.vips.len(),
            bytes = committed.bytes,
            "kernel rules"
        );
        Ok(applied)
    }

    /// Repairs what somebody else changed since the last [`Interceptor::apply`]; returns how the kernel differed. Cheap
    /// while nobody changed nftables: the kernel counts changes.
    pub fn verify(&mut self) -> Result<Vec<String>, InterceptError> {
        let mut found = Vec::new();
        if device::ensure(&mut self.rt, &self.settings.device)?.changed {
            found.push(format!("device {} was changed", self.settings.device.name));
        }
        let Some(mut table) = self.table.take() else { return Ok(found) };
        let ruleset = table.ruleset.clone();
        let generation = self.nft.generation()?;
        let differences = match generation == table.generation {
            true => Vec::new(),
            false => differences(&mut self.nft, &table.ruleset, Some(&table.baseline))?,
        };
        if differences.is_empty() {
            table.generation = generation;
            self.table = Some(table);
        }
        found.extend(differences);
        found.extend(self.changed_routes()?);
        if !found.is_empty() {
            self.warn(&found);
            self.apply(&ruleset)?;
        }
        Ok(found)
    }

    fn changed_routes(&mut self) -> Result<Option<String>, InterceptError> {
        let present: BTreeSet<VipRoute> = routes::installed(&mut self.rt)?.iter().map(routes::vip).collect();
        let missing = self.routes.difference(&present).count();
        let foreign = present.difference(&self.routes).count();
        self.routes = present;
        let changed = missing + foreign > 0;
        Ok(changed.then(|| format!("{missing} routes are not there and {foreign} are not ours")))
    }

    /// Removes routes, table and device.
    pub fn remove(mut self) -> Result<CleanupReport, InterceptError> {
        cleanup::remove(&mut self.rt, Some(&mut self.nft), &self.settings.device.name)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.settings.device
    }

    fn loopback(&mut self) -> Result<u32, InterceptError> {
        let link = self.rt.link("lo")?;
        link.map(|link| link.index)
            .ok_or_else(|| InterceptError::NotAsWritten("there is no device lo".to_owned()))
    }

    fn route_changes(&self, ruleset: &Ruleset) -> (Vec<VipRoute>, Vec<VipRoute>) {
        let add = ruleset.routes.difference(&self.routes).copied().collect();
        let delete = self.routes.difference(&ruleset.routes).copied().collect();
        (add, delete)
    }

    /// Writes the table: the difference if what is there is known, else all of it.
    fn write(&mut self, ruleset: &Ruleset) -> Result<(Change, Committed), InterceptError> {
        const NOTHING: Committed = Committed { transactions: 0, bytes: 0 };
        if let Some(installed) = &self.table
            && let Patch::Update(update) = ruleset.diff(&installed.ruleset)
        {
            if update.sets_unchanged() {
                return Ok((Change::Unchanged, NOTHING));
            }
            let mut batch = Batch::new();
            table::delete(&mut batch, update.delete_frontends.iter(), update.delete_vips.iter().copied());
            table::add(&mut batch, update.add_frontends.iter(), update.add_vips.iter().copied());
            match self.nft.commit(&batch) {
                Ok(committed) => return Ok((Change::Updated, committed)),
                // Somebody took away what the update builds on.
                Err(error) if error.is_missing() => self.warn(&[error.to_string()]),
                Err(error) => {
                    self.table = None;
                    return Err(error.into());
                }
            }
        }
        let committed = self.replace(ruleset)?;
        Ok((Change::Replaced, committed))
    }

    fn replace(&mut self, ruleset: &Ruleset) -> Result<Committed, InterceptError> {
        self.table = None;
        Ok(self.nft.commit(&table::replace(ruleset))?)
    }

    /// Reads the table back, and once writes it anew if it is not as written.
    fn settle(&mut self, ruleset: &Ruleset) -> Result<Vec<String>, InterceptError> {
        let baseline = self.table.take().map(|table| table.baseline);
        let mut generation = self.nft.generation()?;
        let found = differences(&mut self.nft, ruleset, baseline.as_ref())?;
        let mut baseline = baseline;
        if !found.is_empty() {
            self.warn(&found);
            self.replace(ruleset)?;
            generation = self.nft.generation()?;
            baseline = None;
            let still = differences(&mut self.nft, ruleset, None)?;
            if !still.is_empty() {
                return Err(InterceptError::NotAsWritten(still.join("; ")));
            }
        }
        let baseline = match baseline {
            Some(baseline) => baseline,
            None => self.nft.rules(table::OURS)?,
        };
        self.table = Some(Table { ruleset: ruleset.clone(), baseline, generation });
        Ok(found)
    }

    fn warn(&mut self, found: &[String]) {
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

fn no_nftables(error: edgemesh_net::netlink::NetlinkError) -> InterceptError {
    if error.is_unsupported() { InterceptError::NoNftables } else { error.into() }
}
