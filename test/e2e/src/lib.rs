//! Tests of the real binary in network namespaces: laboratories, agents whose flags and life a test decides, and small
//! programs that run as pods.

mod agent;
mod lab;
mod manifests;
mod process;

pub use agent::{Agent, Footprint, findings};
pub use lab::{Background, Lab};
pub use manifests::{FAR, NEAR, NOBODY, ODD_FAR, ODD_NEAR, TWO_NODES, service, services, site, v4, v6};
pub use process::{PATIENCE, eventually, installed, output, program, run, skipped};
