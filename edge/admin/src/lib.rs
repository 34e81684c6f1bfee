//! What the agent shows of itself: metrics, health, and JSON pages over a Unix socket.
//!
//! Pages are made by the binary, which knows every part; this crate serves them and counts what the data path tells.

mod client;
mod health_ports;
mod metrics;
mod server;

pub use client::{FetchError, fetch};
pub use health_ports::{HealthPortFaults, HealthPorts, MAX_HEALTH_PORTS, ProxyHealth};
pub use metrics::{AccessLog, ConnectionTotals, Figure, Figures, Metrics};
pub use server::{Admin, AdminError, Health, Page, PageResult, Pages};
