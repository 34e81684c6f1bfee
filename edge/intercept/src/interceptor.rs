use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use edgemesh_api::Protocol;
use edgemesh_mesh::{Frontend, HostFacts};
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{Committed, Element, Nft, TableState};
use edgemesh_net::netlink::rt::Handle;
use edgemesh_ruleset::{Device, Patch, Ruleset, RulesetSettings, Steer, Update, VipRoute};

use crate::cleanup::{self, CleanupReport};
use crate::flows::{self, Stale};
use crate::readback::{Baseline, Depth, differences};
use crate::{InterceptError, device, facts, routes, table};

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
    /// Virtual addresses that the host itself, or a local route of somebody else, has.
    pub taken: BTreeSet<IpAddr>,
    /// How the kernel differed from what had been written, before it was repaired.
    pub repaired: Vec<String>,
}

/// Keeps one network namespace as the ruleset says.
#[derive(Debug)]
pub struct Interceptor {
    rt: Handle,
    nft: Nft,
    settings: RulesetSettings,
    /// Whether the device was made by this value, and not found.
    made_device: bool,
    /// What the table was brought to; absent while that is unknown.
    table: Option<Table>,
    /// Whether br_netfilter was loaded when the table was written.
    bridge_netfilter: bool,
    /// The routes that are there.
    routes: BTreeSet<VipRoute>,
    /// Somebody else has, or changed, some of them.
    routes_in_doubt: bool,
    /// Virtual addresses of others, as told last.
    taken: BTreeSet<IpAddr>,
    warned: Option<Instant>,
    held_back: u32,
    /// The kernel does not list tracked connections.
    no_conntrack: bool,
    /// nftables' count of changes at the last look for those of others.
    seen: Option<u32>,
}

#[derive(Debug)]
struct Table {
    ruleset: Ruleset,
    baseline: Baseline,
    /// nftables' count of changes when the table was last found as written.
    generation: u32,
}

/// What was written to the table.
#[derive(Clone, Copy, Debug)]
struct Written {
    change: Change,
    committed: Committed,
    /// The kernel's count of changes if nobody else makes any.
    generation: Option<u32>,
    /// Whether rules were written, and not only members.
    rules: bool,
}

impl Written {
    const NOTHING: Self = Self {
        change: Change::Unchanged,
        committed: Committed { transactions: 0, bytes: 0 },
        generation: None,
        rules: false,
    };
}

impl Interceptor {
    /// Makes the device with its addresses, in place of what a dead predecessor left; table and routes stay as they are
    /// until the first [`Interceptor::apply`], so that a restart interrupts nothing.
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
            made_device: ensured.made,
            table: None,
            bridge_netfilter: false,
            routes,
            routes_in_doubt: true,
            taken: BTreeSet::new(),
            warned: None,
            held_back: 0,
            no_conntrack: false,
            seen: None,
        })
    }

    /// The settings to compile a ruleset with.
    pub fn settings(&self) -> &RulesetSettings {
        &self.settings
    }

    /// What the host is at the moment. Its pod ranges are those that its devices show; the Node object may have more.
    pub fn facts(&mut self) -> Result<HostFacts, InterceptError> {
        Ok(facts::read(&mut self.rt, &mut self.nft, &self.settings.device.name)?)
    }

    /// Whether anybody but this value changed nftables since the last call. One question to the kernel.
    pub fn changed_by_others(&mut self) -> Result<bool, InterceptError> {
        let generation = self.nft.generation()?;
        let own = self.table.as_ref().map(|table| table.generation);
        let changed = own != Some(generation) && self.seen != Some(generation);
        self.seen = Some(generation);
        Ok(changed)
    }

    /// Whether the table is gone that was written.
    pub fn is_flushed(&mut self) -> Result<bool, InterceptError> {
        let ours = |it: &TableState| it.family == table::OURS.family && it.name == table::OURS.name;
        Ok(self.table.is_some() && !self.nft.tables()?.iter().any(ours))
    }

    /// Brings the kernel to the ruleset and reads it back. Rules come before the routes they are for and go after them,
    /// so that no packet to a virtual address meets a route without rules.
    ///
    /// After an error the table is in doubt, and the next call writes it anew.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, InterceptError> {
        let lo = self.loopback()?;
        let clash = self.clash(ruleset)?;
        let ruleset = match clash.is_empty() {
            true => Cow::Borrowed(ruleset),
            false => Cow::Owned(ruleset.without(&clash)),
        };
        let vips_as_before = !self.routes_in_doubt
            && self.table.as_ref().is_some_and(|it| it.ruleset.vips.unshared(&ruleset.vips).is_empty());
        let (mut delete, mut add) = (Vec::new(), Vec::new());
        if !vips_as_before {
            let wanted: BTreeSet<VipRoute> = ruleset.vips.values().copied().collect();
            delete.extend(self.routes.difference(&wanted).copied());
            add.extend(wanted.difference(&self.routes).copied());
        }
        for route in &delete {
            routes::delete(&mut self.rt, lo, *route)?;
            self.routes.remove(route);
        }
        let written = self.write(&ruleset)?;
        let repaired = self.settle(&ruleset, written)?;
        let (added, foreign) = self.add_routes(lo, add)?;
        self.routes_in_doubt = !foreign.is_empty();
        let applied = Applied {
            change: if repaired.is_empty() { written.change } else { Change::Replaced },
            transactions: written.committed.transactions,
            routes_added: added,
            routes_deleted: delete.len(),
            taken: clash.into_iter().chain(foreign).collect(),
            repaired,
        };
        for vip in applied.taken.difference(&self.taken) {
            tracing::warn!(%vip, "this virtual address is an address or a local route of the host");
        }
        self.taken.clone_from(&applied.taken);
        let (frontends, bytes) = (ruleset.frontends.len(), written.committed.bytes);
        tracing::debug!(?applied, frontends, bytes, "kernel rules");
        Ok(applied)
    }

    /// Virtual addresses that the host has got since the ruleset was compiled. Rules for them would refuse what the host
    /// itself serves there.
    fn clash(&mut self, ruleset: &Ruleset) -> Result<BTreeSet<IpAddr>, InterceptError> {
        let mut owned: BTreeSet<IpAddr> =
            device::host_addresses(&mut self.rt, &self.settings.device)?.collect();
        owned.retain(|addr| ruleset.vips.contains_key(addr));
        Ok(owned)
    }

    fn add_routes(&mut self, lo: u32, add: Vec<VipRoute>) -> Result<(usize, Vec<IpAddr>), InterceptError> {
        let foreign = match routes::add(&mut self.rt, lo, &add) {
            Ok(foreign) => foreign,
            Err(error) => {
                // Some are there: to the next try they are ours, not somebody else's.
                self.routes.extend(routes::installed(&mut self.rt)?.iter().map(routes::vip));
                return Err(error.into());
            }
        };
        let added = add.len() - foreign.len();
        self.routes.extend(add);
        for route in &foreign {
            self.routes.remove(route);
        }
        Ok((added, foreign.iter().map(|route| route.vip).collect()))
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
        let mut differences = match generation == table.generation {
            true => Vec::new(),
            false => differences(&mut self.nft, &table.ruleset, Some(&table.baseline), Depth::Elements)?,
        };
        if !self.bridge_netfilter && bridge_netfilter() {
            differences.push("br_netfilter was loaded after the rules".to_owned());
        }
        if differences.is_empty() {
            table.generation = generation;
            self.table = Some(table);
        }
        found.extend(differences);
        found.extend(self.changed_routes()?);
        let clash = self.clash(&ruleset)?;
        found.extend(clash.iter().map(|addr| format!("the host got the virtual address {addr}")));
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
        self.routes_in_doubt = true;
        let changed = missing + foreign > 0;
        Ok(changed.then(|| format!("{missing} routes are not there and {foreign} are not ours")))
    }

    /// Gives up before the first [`Interceptor::apply`]: removes the device if it was made here. What a predecessor left,
    /// and what another agent uses that runs beside this one, stays.
    pub fn abandon(mut self) -> Result<(), InterceptError> {
        if self.made_device
            && let Some(link) = device::find(&mut self.rt, &self.settings.device.name)?
        {
            self.rt.delete_link(link.index)?;
        }
        Ok(())
    }

    /// Ends and leaves everything as it is: the kernel goes on translating, and clients of the listener try again until
    /// somebody listens.
    pub fn leave(self) {
        tracing::info!(
            device = self.settings.device.name,
            "the kernel's rules stay; `edgemesh cleanup` removes them"
        );
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

    /// Writes the table: the difference if what is there is known, else all of it.
    fn write(&mut self, ruleset: &Ruleset) -> Result<Written, InterceptError> {
        if let Some(installed) = &self.table
            && let Patch::Update(update) = ruleset.diff(&installed.ruleset)
        {
            if update.table_unchanged() {
                return Ok(Written::NOTHING);
            }
            let known = self.nft.generation()? == installed.generation;
            let before = installed.generation;
            let stale = Stale::of(&update);
            match self.update(ruleset, &update) {
                Ok(committed) => {
                    self.forget(|| flows::forget(&stale), stale.is_empty());
                    let generation = known.then(|| after(before, committed));
                    let rules = !(update.add_picks.is_empty()
                        && update.rewrite.is_empty()
                        && update.delete_picks.is_empty());
                    return Ok(Written { change: Change::Updated, committed, generation, rules });
                }
                // Somebody took away what the update builds on.
                Err(error) if error.is_missing() => self.warn(&[error.to_string()]),
                Err(error) => {
                    self.table = None;
                    return Err(error.into());
                }
            }
        }
        let before = self.nft.generation()?;
        let committed = self.replace(ruleset)?;
        let generation = Some(after(before, committed));
        let known = |frontend: &Frontend| match ruleset.frontends.get(frontend) {
            Some(Steer::Kernel(spread)) => Some(spread.endpoints.iter().map(|(addr, _)| *addr).collect()),
            Some(Steer::Proxy) => Some(HashSet::new()),
            _ => None,
        };
        let udp = ruleset.frontends.keys().any(|it| it.protocol == Protocol::Udp);
        self.forget(|| flows::forget_strays(known), !udp);
        Ok(Written { change: Change::Replaced, committed, generation, rules: true })
    }

    /// Forgets connections that the rules no longer make. Without it clients are led astray for some minutes at most, so
    /// a kernel that cannot is told of, and is no reason to give up.
    fn forget(&mut self, forget: impl FnOnce() -> Result<usize, NetlinkError>, nothing: bool) {
        if nothing || self.no_conntrack {
            return;
        }
        match forget() {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "UDP connections to endpoints that are gone are forgotten"),
            Err(error) if error.is_unsupported() => {
                self.no_conntrack = true;
                tracing::warn!(%error, "UDP clients of an endpoint that goes away are led to it until they pause");
            }
            Err(error) => {
                tracing::warn!(%error, "UDP connections to endpoints that are gone are not forgotten")
            }
        }
    }

    fn update(&mut self, ruleset: &Ruleset, update: &Update) -> Result<Committed, NetlinkError> {
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
        self.bridge_netfilter = bridge_netfilter();
        Ok(self.nft.commit(&table::replace(ruleset, &sessions))?)
    }

    /// The sessions in the kernel; none where there is no table, or one of another version.
    fn sessions(&mut self, ruleset: &Ruleset) -> Vec<(&'static str, Vec<Element>)> {
        let maps: Vec<&'static str> = table::session_maps(ruleset).collect();
        maps.into_iter().filter_map(|map| Some((map, self.nft.elements(table::OURS, map).ok()?))).collect()
    }

    /// Reads the table back, and writes it anew if it is not as written; returns how it differed.
    fn settle(&mut self, ruleset: &Ruleset, written: Written) -> Result<Vec<String>, InterceptError> {
        if written.change == Change::Unchanged {
            return Ok(Vec::new());
        }
        let mut baseline = self.table.take().map(|table| table.baseline).filter(|_| !written.rules);
        let mut generation = self.nft.generation()?;
        let large = ruleset.frontends.len() + ruleset.backends.len() + ruleset.vips.len() > READ_BACK_ALWAYS;
        let trusted = large && written.generation == Some(generation);
        let found = match (trusted, written.rules) {
            (true, false) => Vec::new(),
            (true, true) => differences(&mut self.nft, ruleset, baseline.as_ref(), Depth::Rules)?,
            (false, _) => differences(&mut self.nft, ruleset, baseline.as_ref(), Depth::Elements)?,
        };
        if !found.is_empty() {
            self.warn(&found);
            self.replace(ruleset)?;
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

/// nftables' count of changes after ours: the kernel counts transactions.
fn after(before: u32, committed: Committed) -> u32 {
    before.wrapping_add(u32::try_from(committed.transactions).unwrap_or(u32::MAX))
}

fn bridge_netfilter() -> bool {
    Path::new(BRIDGE_NETFILTER).exists()
}

fn no_nftables(error: NetlinkError) -> InterceptError {
    if error.is_unsupported() { InterceptError::NoNftables } else { error.into() }
}
