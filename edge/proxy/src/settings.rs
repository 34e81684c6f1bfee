use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use edgemesh_mesh::{MeshSnapshot, PathSnapshot};
use edgemesh_net::meet::Connect;
use edgemesh_net::socket::Transparency;
use edgemesh_route::{Observe, Router};

/// What an operator may change about the proxy.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Where it listens, one address per family. IPv6 is left out where the kernel has none.
    pub listen: Vec<IpAddr>,
    /// The port of every listener; 0 takes a free one.
    pub port: u16,
    /// Whether the sockets may stand in for addresses that are not this host's, as TPROXY needs.
    pub transparency: Transparency,
    /// How long one dial may take when nothing else is left to try.
    pub connect_timeout: Duration,
    /// How long one dial may take while another endpoint is left to try.
    pub next_after: Duration,
    /// How long all dials of a connection may take together.
    pub connect_total: Duration,
    /// A connection on which nothing moved for this long is closed.
    pub tcp_idle: Duration,
    /// A UDP session in which nothing moved for this long is forgotten; replies may come as late as this.
    pub udp_idle: Duration,
    /// TCP connections at a time.
    pub max_connections: usize,
    /// UDP sessions at a time.
    pub max_sessions: usize,
    /// How long open connections may go on after the end is asked for.
    pub drain: Duration,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            listen: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            port: 15001,
            transparency: Transparency::Transparent,
            // Two lost SYNs are forgiven: Linux sends them again after 1 s and 3 s.
            connect_timeout: Duration::from_millis(3_200),
            // One lost SYN is forgiven, and a dead endpoint costs its client less than 2 s.
            next_after: Duration::from_millis(1_500),
            connect_total: Duration::from_secs(10),
            // Longer than the pauses of databases and message brokers; conntrack keeps an established connection
            // for days, but it pays less for it.
            tcp_idle: Duration::from_secs(2 * 3600),
            // conntrack's time for a UDP stream is 120 s and for a single request 30 s.
            udp_idle: Duration::from_secs(60),
            // About the streams that Go EdgeMesh allows a node by default (tunnelBaseStreamIn).
            max_connections: 10_240,
            // One file descriptor each.
            max_sessions: 4_096,
            drain: Duration::from_secs(5),
        }
    }
}

/// What the proxy works with.
#[derive(Clone)]
pub struct ProxyDeps {
    /// The mesh.
    pub snapshots: Arc<ArcSwap<MeshSnapshot>>,
    /// The ways to other nodes.
    pub paths: Arc<ArcSwap<PathSnapshot>>,
    /// Decides.
    pub router: Arc<Router>,
    /// Leads to other nodes.
    pub connect: Arc<dyn Connect>,
    /// Is told of every connection.
    pub observe: Arc<dyn Observe>,
}
