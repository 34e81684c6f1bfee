//! Answers a DNS query from the snapshot or the cache, or names the upstream to ask.
//!
//! [`Resolver`] is sans-IO. Drain order: after every `handle_query`, `handle_upstream` or `handle_timeout`, call
//! `poll_output` until it is `None`, then arm a timer with `poll_timeout`. Clock and random draws are arguments.
//!
//! Names under the cluster domain follow the Kubernetes DNS specification 1.1.0 and are never forwarded. Anything
//! else goes to the upstreams, through a cache that serves stale records while no upstream answers (RFC 8767).

mod alias;
mod asking;
mod cache;
mod flight;
mod lookup;
mod name;
mod probe;
mod query;
mod resolver;
mod settings;
mod step;
mod stored;
mod upstream;
mod wire;
mod zone;

pub use lookup::{Lookup, lookup};
pub use query::{Malformed, check_query};
pub use resolver::Resolver;
pub use settings::{ResolverSettings, SettingsError};
pub use step::{Ask, AskId, DropReason, Notice, Origin, Output, Step};
pub use stored::{check_upstream, reply_matches};
pub use upstream::{AskFailure, MAX_UPSTREAMS, Nameserver, parse_resolv_conf};
pub use wire::{Rcode, Transport};
