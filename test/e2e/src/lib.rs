//! Tests of the real binary in network namespaces: laboratories, agents whose flags and life a test decides, and small
//! programs that run as pods.

mod agent;
mod api;
pub mod foreign;
mod lab;
mod manifests;
mod objects;
mod process;

pub use agent::{Agent, Footprint, alarms, findings, kind};
pub use api::{Answer, ApiServer, Http};
pub use lab::{Background, Lab};
pub use manifests::{FAR, NEAR, NOBODY, ODD_FAR, ODD_NEAR, TWO_NODES, service, services, site, v4, v6};
pub use objects::{Place, destination_rule, endpoints, labelled, service_object, slices};
pub use process::{PATIENCE, eventually, installed, output, program, run, skipped};
