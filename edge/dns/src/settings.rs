use std::net::SocketAddr;
use std::path::PathBuf;

use edgemesh_resolver::ResolverSettings;

/// What the operator decides about the DNS server.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Where it listens, over UDP and TCP each.
    pub listen: Vec<ListenAddress>,
    /// Where names of others are resolved.
    pub upstreams: UpstreamSource,
    /// The resolver's own settings; its `own` is filled in with the addresses that are listened on.
    pub resolver: ResolverSettings,
}

/// One address to listen on. It need not be on an interface yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Address and port; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The interface of an IPv6 link-local address, which must exist.
    pub device: Option<String>,
}

impl From<SocketAddr> for ListenAddress {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, device: None }
    }
}

/// Where the upstreams are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamSource {
    /// The `nameserver` lines of a file, read again when it changes.
    ResolvConf(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
    /// The cluster's own DNS Services, by their virtual addresses, and these.
    ClusterDns(Vec<SocketAddr>),
}
