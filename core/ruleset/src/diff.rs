use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use edgemesh_mesh::SortedMap;

use crate::{Chain, Member, Pick, Ruleset, VipRoute, backend, restriction, sets};

/// What brings the kernel from one ruleset to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The chains or the device differ: everything is written anew.
    Replace,
    /// Members, or rules in chains, differ.
    Update(Box<Update>),
}

/// Members and routes to add and to delete, and chains to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Chains to add first, because members lead to them.
    pub add_picks: Vec<Pick>,
    /// Chains of which nothing is left to lead to them, to delete last.
    pub delete_picks: Vec<Pick>,
    /// Base chains to add, before members that they look up.
    pub add_chains: Vec<Chain>,
    /// Names of base chains to delete.
    pub delete_chains: Vec<String>,
    /// Chains that get other rules.
    pub rewrite: Vec<Chain>,
    /// Members to delete, in this order.
    pub delete: Vec<Member>,
    /// Members to add after that, in this order. A map's element is deleted and added when only its value differs.
    pub add: Vec<Member>,
    /// Routes to add.
    pub add_routes: Vec<VipRoute>,
    /// Routes to delete.
    pub delete_routes: Vec<VipRoute>,
}

impl Update {
    /// Whether chains and rules stay as they are.
    pub fn rules_unchanged(&self) -> bool {
        self.add_picks.is_empty()
            && self.delete_picks.is_empty()
            && self.add_chains.is_empty()
            && self.delete_chains.is_empty()
            && self.rewrite.is_empty()
    }

    /// Whether the table stays as it is.
    pub fn table_unchanged(&self) -> bool {
        self.rules_unchanged() && self.delete.is_empty() && self.add.is_empty()
    }

    /// Whether everything stays as it is.
    pub fn is_empty(&self) -> bool {
        self.table_unchanged() && self.add_routes.is_empty() && self.delete_routes.is_empty()
    }
}

impl Ruleset {
    /// What brings the kernel from `installed` to this ruleset. Costs what the two do not share.
    pub fn diff(&self, installed: &Self) -> Patch {
        let within = |chains: &[Chain], name: &str| chains.iter().any(|it| it.name == name);
        let gone = |of: &Self, from: &Self| -> Vec<Chain> {
            of.chains.iter().filter(|it| !within(&from.chains, &it.name)).cloned().collect()
        };
        let (add_chains, deleted) = (gone(self, installed), gone(installed, self));
        let common: Vec<(&Chain, &Chain)> = self
            .chains
            .iter()
            .filter_map(|own| Some((own, installed.chains.iter().find(|it| it.name == own.name)?)))
            .collect();
        // Other chains go to those without a base.
        let alike = self.device == installed.device
            && self.families == installed.families
            && common.iter().all(|(own, other)| own.base == other.base)
            && add_chains.iter().chain(&deleted).all(|it| it.base.is_some());
        if !alike {
            return Patch::Replace;
        }
        let mut update = Update {
            add_picks: self.picks.keys().filter(|it| !installed.picks.contains_key(it)).copied().collect(),
            delete_picks: installed.picks.keys().filter(|it| !self.picks.contains_key(it)).copied().collect(),
            rewrite: common
                .iter()
                .filter(|(own, other)| own != other)
                .map(|(own, _)| (*own).clone())
                .collect(),
            add_chains,
            delete_chains: deleted.into_iter().map(|it| it.name).collect(),
            ..Update::default()
        };
        let (mut wanted, mut present) = (Vec::new(), Vec::new());
        for frontend in self.frontends.unshared(&installed.frontends) {
            let (own, other) = (self.frontends.get(frontend), installed.frontends.get(frontend));
            if own != other {
                wanted.extend(own.iter().flat_map(|steer| steer.members(*frontend)));
                present.extend(other.iter().flat_map(|steer| steer.members(*frontend)));
            }
        }
        for key in self.backends.unshared(&installed.backends) {
            wanted.extend(self.backends.get(key).and_then(|(via, _)| backend(key, *via)));
            present.extend(installed.backends.get(key).and_then(|(via, _)| backend(key, *via)));
        }
        for ip in self.hairpins.unshared(&installed.hairpins) {
            wanted.extend(self.hairpins.contains_key(ip).then_some(Member::Hairpin(*ip)));
            present.extend(installed.hairpins.contains_key(ip).then_some(Member::Hairpin(*ip)));
        }
        for frontend in self.restricted.unshared(&installed.restricted) {
            wanted.extend(self.restricted.get(frontend).iter().flat_map(|it| restriction(*frontend, it)));
            present
                .extend(installed.restricted.get(frontend).iter().flat_map(|it| restriction(*frontend, it)));
        }
        for vip in self.vips.unshared(&installed.vips) {
            let (own, other) = (self.vips.get(vip), installed.vips.get(vip));
            if own != other {
                update.add_routes.extend(own);
                update.delete_routes.extend(other);
            }
            wanted.extend(own.map(|_| Member::Vip(*vip)));
            present.extend(other.map(|_| Member::Vip(*vip)));
        }
        (update.add, update.delete) = differing(wanted, present);
        Patch::Update(Box::new(update))
    }

    /// The ruleset without what concerns these virtual addresses.
    #[must_use]
    pub fn without(&self, vips: &BTreeSet<IpAddr>) -> Self {
        let mut rest = self.clone();
        let frontends: Vec<_> = self.frontends.keys().filter(|it| vips.contains(&it.ip)).copied().collect();
        for frontend in frontends {
            rest.withdraw(&frontend);
        }
        for vip in vips {
            rest.vips.remove(vip);
        }
        rest.restricted = kept(&self.restricted, |frontend| !vips.contains(&frontend.ip));
        rest
    }
}

fn kept<K: Ord + Clone, V: Clone>(map: &SortedMap<K, V>, keep: impl Fn(&K) -> bool) -> SortedMap<K, V> {
    map.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Members to add, and to delete in an order that leaves none relying on what is gone.
fn differing(mut wanted: Vec<Member>, mut present: Vec<Member>) -> (Vec<Member>, Vec<Member>) {
    let has = |members: &[Member]| members.iter().copied().collect::<HashSet<_>>();
    let (known_wanted, known_present) = (has(&wanted), has(&present));
    wanted.retain(|member| !known_present.contains(member));
    present.retain(|member| !known_wanted.contains(member));
    sets::sort(&mut wanted);
    sets::sort(&mut present);
    present.reverse();
    (wanted, present)
}
