use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use edgemesh_mesh::HostFacts;
use edgemesh_net::netlink::nft::Nft;
use edgemesh_net::netlink::rt::Handle;
use edgemesh_ruleset::{Device, Ruleset, RulesetSettings, VipRoute};

use crate::choice::{self, Carrier};
use crate::cleanup::{self, CleanupReport};
use crate::connect::Rewriter;
use crate::iptables::{self, Look};
use crate::nftables::{Behind, Brought, Nftables, Warnings};
use crate::{InterceptError, device, facts, routes};

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
    carrier: Carrier,
    /// Why it is this one.
    reason: String,
    settings: RulesetSettings,
    /// Whether the device was made by this value, and not found.
    made_device: bool,
    /// What the kernel was brought to; absent while that is unknown.
    installed: Option<Ruleset>,
    /// Whether it was looked for what another backend left.
    others_removed: bool,
    /// The routes that are there.
    routes: BTreeSet<VipRoute>,
    /// Somebody else has, or changed, some of them.
    routes_in_doubt: bool,
    /// Virtual addresses of others, as told last.
    taken: BTreeSet<IpAddr>,
    warnings: Warnings,
    /// The kernel does not list tracked connections.
    no_conntrack: bool,
    /// nftables' count of changes at the last look for those of others.
    seen: Option<u32>,
    /// What replaces addresses when sockets connect, or why nothing does.
    rewriter: Result<Box<Rewriter>, String>,
}

impl Interceptor {
    /// Makes the device with its addresses, in place of what a dead predecessor left; table and routes stay as they are
    /// until the first [`Interceptor::apply`], so that a restart interrupts nothing.
    pub fn install(settings: RulesetSettings) -> Result<Self, InterceptError> {
        let mut rt = Handle::open()?;
        let (carrier, reason) = choice::choose(&settings)?;
        tracing::debug!(reason, "backend of the kernel's rules");
        let ensured = device::ensure(&mut rt, &settings.device)?;
        if !ensured.ipv6 {
            tracing::info!("IPv6 is switched off on this host: only IPv4 frontends are intercepted");
        }
        let routes = routes::installed(&mut rt)?.iter().map(routes::vip).collect();
        let settings = RulesetSettings { ipv6: settings.ipv6 && ensured.ipv6, ..settings };
        let rewriter = match settings.connect_rewrite {
            true => Rewriter::start(settings.ipv6).map(Box::new),
            false => Err("switched off".to_owned()),
        };
        Ok(Self {
            rt,
            carrier,
            reason,
            settings,
            made_device: ensured.made,
            installed: None,
            others_removed: false,
            routes,
            routes_in_doubt: true,
            taken: BTreeSet::new(),
            warnings: Warnings::default(),
            no_conntrack: false,
            seen: None,
            rewriter,
        })
    }

    /// The settings to compile a ruleset with.
    pub fn settings(&self) -> &RulesetSettings {
        &self.settings
    }

    /// What carries the rules out, and why.
    pub fn backend(&self) -> (&'static str, &str) {
        let name = match &self.carrier {
            Carrier::Nftables(_) => "nftables",
            Carrier::Iptables(..) => "iptables",
        };
        (name, &self.reason)
    }

    /// How many frontends are replaced by an endpoint when a socket of this network namespace connects, or why none is.
    pub fn connect_rewrite(&self) -> Result<usize, &str> {
        match &self.rewriter {
            Ok(rewriter) => Ok(rewriter.len()),
            Err(reason) => Err(reason),
        }
    }

    /// What the host is at the moment. Its pod ranges are those that its devices show; the Node object may have more.
    pub fn facts(&mut self) -> Result<HostFacts, InterceptError> {
        Ok(facts::read(&mut self.rt, nft(&mut self.carrier), &self.settings.device.name)?)
    }

    /// Whether anybody but this value changed nftables since the last call. One question to the kernel.
    pub fn changed_by_others(&mut self) -> Result<bool, InterceptError> {
        let own = match &self.carrier {
            Carrier::Nftables(nftables) | Carrier::Iptables(_, Some(nftables)) => nftables.seen(),
            Carrier::Iptables(_, None) => None,
        };
        // Nothing counts what others do to the legacy flavour of iptables.
        let Some(nft) = nft(&mut self.carrier) else { return Ok(false) };
        let generation = nft.generation()?;
        let changed = own != Some(generation) && self.seen != Some(generation);
        self.seen = Some(generation);
        Ok(changed)
    }

    /// Whether the rules are gone that were written.
    pub fn is_flushed(&mut self) -> Result<bool, InterceptError> {
        match &mut self.carrier {
            Carrier::Nftables(nftables) => nftables.is_flushed(),
            Carrier::Iptables(iptables, bridged) => {
                let table = bridged.as_mut().map(Nftables::is_flushed).transpose()?.unwrap_or_default();
                Ok(table || iptables.is_flushed(bridged.as_mut().map(|it| &mut it.nft))?)
            }
        }
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
            && self.installed.as_ref().is_some_and(|it| it.vips.unshared(&ruleset.vips).is_empty());
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
        self.installed = None;
        let brought = self.write(&ruleset)?;
        self.forget(&brought.behind, &ruleset);
        self.installed = Some(ruleset.as_ref().clone());
        self.remove_others();
        self.rewrite(&ruleset);
        let (added, foreign) = self.add_routes(lo, add)?;
        self.routes_in_doubt = !foreign.is_empty();
        let applied = Applied {
            change: if brought.repaired.is_empty() { brought.change } else { Change::Replaced },
            transactions: brought.transactions,
            routes_added: added,
            routes_deleted: delete.len(),
            taken: clash.into_iter().chain(foreign).collect(),
            repaired: brought.repaired,
        };
        for vip in applied.taken.difference(&self.taken) {
            tracing::warn!(%vip, "this virtual address is an address or a local route of the host");
        }
        self.taken.clone_from(&applied.taken);
        let (frontends, bytes) = (ruleset.frontends.len(), brought.bytes);
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
        let Some(ruleset) = self.installed.clone() else { return Ok(found) };
        let differences = match &mut self.carrier {
            Carrier::Nftables(nftables) => nftables.differences()?,
            Carrier::Iptables(iptables, bridged) => {
                let mut found = iptables.differences(bridged.as_mut().map(|it| &mut it.nft))?;
                found.extend(bridged.as_mut().map(Nftables::differences).transpose()?.unwrap_or_default());
                found
            }
        };
        found.extend(differences);
        found.extend(self.changed_routes()?);
        let clash = self.clash(&ruleset)?;
        found.extend(clash.iter().map(|addr| format!("the host got the virtual address {addr}")));
        if !found.is_empty() {
            self.warnings.warn(&found);
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
        let look = match &self.carrier {
            Carrier::Nftables(_) => Look::Shown,
            Carrier::Iptables(..) => Look::Everywhere,
        };
        cleanup::remove(&mut self.rt, nft(&mut self.carrier), &self.settings.device.name, look)
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

    fn write(&mut self, ruleset: &Ruleset) -> Result<Brought, InterceptError> {
        match &mut self.carrier {
            Carrier::Nftables(nftables) => nftables.bring(ruleset, &mut self.warnings),
            Carrier::Iptables(iptables, bridged) => {
                let mut brought = iptables.bring(ruleset, &mut self.warnings)?;
                if let Some(nftables) = bridged {
                    let more = nftables.bring(&ruleset.bridged(), &mut self.warnings)?;
                    brought.transactions += more.transactions;
                    brought.bytes += more.bytes;
                    brought.repaired.extend(more.repaired);
                }
                Ok(brought)
            }
        }
    }

    /// Has sockets connect as the rules translate. The rules do without: what goes wrong here ends it.
    fn rewrite(&mut self, ruleset: &Ruleset) {
        let Ok(rewriter) = &mut self.rewriter else { return };
        if let Err(error) = rewriter.bring(ruleset) {
            tracing::warn!(%error, "the kernel translates what sockets could connect to at once");
            self.rewriter = Err(error.to_string());
        }
    }

    /// Removes what the other backend left, once this one carries the rules. A failure leaves rules that mean the same, so
    /// it is told of and no reason to give up.
    fn remove_others(&mut self) {
        if self.others_removed {
            return;
        }
        self.others_removed = true;
        let removed = match &mut self.carrier {
            Carrier::Nftables(nftables) => iptables::remove_leftovers(Some(&mut nftables.nft), Look::Shown),
            Carrier::Iptables(own, Some(nftables)) => {
                iptables::remove_leftovers(Some(&mut nftables.nft), Look::NotAt(own.flavour()))
            }
            Carrier::Iptables(own, None) => cleanup::remove_table()
                .and_then(|table| Ok(table | iptables::remove_leftovers(None, Look::NotAt(own.flavour()))?)),
        };
        match removed {
            Ok(false) => {}
            Ok(true) => tracing::info!("rules of another backend are removed"),
            Err(error) => tracing::warn!(%error, "rules of another backend are not removed"),
        }
    }

    /// Forgets connections that the rules no longer make. Without it clients are led astray for some minutes at most, so
    /// a kernel that cannot is told of, and is no reason to give up.
    fn forget(&mut self, behind: &Behind, ruleset: &Ruleset) {
        if self.no_conntrack {
            return;
        }
        match behind.forget(ruleset) {
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
}

fn nft(carrier: &mut Carrier) -> Option<&mut Nft> {
    match carrier {
        Carrier::Nftables(nftables) | Carrier::Iptables(_, Some(nftables)) => Some(&mut nftables.nft),
        Carrier::Iptables(_, None) => None,
    }
}
