//! Bytes around the router: TCP connections and UDP sessions.
//!
//! [`Proxy`] serves the clients of this node: two sockets per address family stand in for every frontend, the
//! router says where a connection goes, and [`edgemesh_net::meet::Connect`] leads to other nodes. [`Remote`] is the
//! other end: it serves streams that peers opened, to backends of this node only.

mod counters;
mod dial;
mod frame;
mod listen;
mod record;
mod remote;
mod settings;
mod tcp;
mod udp;

pub use counters::Counters;
pub use listen::{Proxy, ProxyError};
pub use remote::Remote;
pub use settings::{ProxyDeps, ProxySettings};
