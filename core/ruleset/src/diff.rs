use std::collections::BTreeSet;
use std::net::IpAddr;

use edgemesh_mesh::Frontend;

use crate::{Ruleset, VipRoute};

/// What brings the kernel from one ruleset to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The rules themselves differ: everything is written anew.
    Replace,
    /// Only members differ.
    Update(Update),
}

/// Members to add and to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Update {
    pub add_frontends: Vec<Frontend>,
    pub delete_frontends: Vec<Frontend>,
    pub add_vips: Vec<IpAddr>,
    pub delete_vips: Vec<IpAddr>,
    pub add_routes: Vec<VipRoute>,
    pub delete_routes: Vec<VipRoute>,
}

impl Update {
    /// Whether the sets stay as they are.
    pub fn sets_unchanged(&self) -> bool {
        self.add_frontends.is_empty()
            && self.delete_frontends.is_empty()
            && self.add_vips.is_empty()
            && self.delete_vips.is_empty()
    }

    /// Whether everything stays as it is.
    pub fn is_empty(&self) -> bool {
        self.sets_unchanged() && self.add_routes.is_empty() && self.delete_routes.is_empty()
    }
}

impl Ruleset {
    /// What brings the kernel from `installed` to this ruleset.
    pub fn diff(&self, installed: &Self) -> Patch {
        if self.device != installed.device || self.chains != installed.chains {
            return Patch::Replace;
        }
        let (add_frontends, delete_frontends) = changes(&self.frontends, &installed.frontends);
        let (add_vips, delete_vips) = changes(&self.vips, &installed.vips);
        let (add_routes, delete_routes) = changes(&self.routes, &installed.routes);
        Patch::Update(Update {
            add_frontends,
            delete_frontends,
            add_vips,
            delete_vips,
            add_routes,
            delete_routes,
        })
    }
}

impl Ruleset {
    /// The ruleset without what concerns these virtual addresses.
    #[must_use]
    pub fn without(&self, vips: &BTreeSet<IpAddr>) -> Self {
        let mut rest = self.clone();
        rest.frontends.retain(|frontend| !vips.contains(&frontend.ip));
        rest.vips.retain(|vip| !vips.contains(vip));
        rest.routes.retain(|route| !vips.contains(&route.vip));
        rest
    }
}

/// Members to add to, and to delete from, `installed`.
fn changes<T: Copy + Ord>(wanted: &BTreeSet<T>, installed: &BTreeSet<T>) -> (Vec<T>, Vec<T>) {
    (wanted.difference(installed).copied().collect(), installed.difference(wanted).copied().collect())
}
