//! Folds source events into state and compiles one immutable snapshot that every reader shares.
//!
//! Flow: `MeshState::apply` for every event, then `MeshState::compile` once per burst. Readers hold an
//! `Arc<MeshSnapshot>` for the length of one decision and never see half a change.

mod address;
mod admission;
mod assembly;
mod believe;
mod claims;
mod compile;
mod endpoints;
mod fit;
mod host;
mod ingress;
mod objects;
mod options;
mod path;
mod policy;
mod provenance;
mod reverse;
mod service;
mod snapshot;
mod sorted;
mod state;

pub use admission::{TunnelRule, TunnelRules};
pub use believe::{Doubt, HOLD, HOLD_SHRUNK};
pub use host::{DeviceKind, HostFacts, HostRoute};
pub use ingress::IngressObjects;
pub use options::{MeshOptions, ServiceFilter};
pub use path::{NodePath, Path, PathSnapshot};
pub use provenance::Provenance;
pub use reverse::EndpointIndex;
pub use snapshot::{
    Backend, Distribution, Finding, Frontend, FrontendEntry, Generation, Hints, LocalNode, MeshSnapshot,
    PodAddress, Policy, PortEntry, Scope, ServiceEntry, ServiceId, ServiceKind,
};
pub use sorted::{Iter, SortedMap};
pub use state::{Applied, MeshState};
