//! Configuration files in the form Go EdgeMesh defined, checked and resolved.
//!
//! One [table](fields) of keys is behind everything: what a file may say ([`parse`]), the defaults ([`default_config`],
//! [`min_config`]), what a running agent takes over without a restart ([`changes`]) and `docs/config.md`
//! ([`document()`]). A file goes two steps: [`parse`] checks the text against the table, [`resolve()`] joins it with the
//! [`Environment`] into [`Settings`]. Nothing here reads a file, the environment or a clock.

mod address;
mod check;
mod convert;
mod decode;
mod document;
mod emit;
mod field;
mod lines;
mod nearest;
mod node;
mod problem;
mod raw;
mod resolve;
mod settings;
mod show;
mod table;
mod value;

pub use check::{Parsed, parse};
pub use convert::convert;
pub use document::document;
pub use field::{Effect, Field, Origin, Preset, Reload, Roles, Shape};
pub use problem::{Cause, Problem, Severity};
pub use raw::Raw;
pub use resolve::{Environment, Resolved, resolve};
pub use settings::{
    AccessLog, CniSettings, DeviceSettings, DnsSettings, GatewaySettings, IdentityMode, KernelBackend,
    KernelPath, LogSettings, ProcessSettings, ProxySettings, Role, ServiceFilter, Settings, SourceSettings,
    TunnelSettings,
};
pub use show::{Changes, changes, default_config, min_config, show};
pub use table::fields;
pub use value::RelayNode;
