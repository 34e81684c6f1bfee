use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::name::LowerName;

/// What the operator decides about DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// The cluster domain, without the final dot.
    pub cluster_domain: String,
    /// TTL of names in the cluster domain, in seconds.
    pub ttl: u32,
    /// How long clients may remember that a name in the cluster domain does not exist, in seconds.
    pub negative_ttl: u32,
    /// Addresses we listen on; an upstream with one of them would be ourselves.
    pub own: Vec<SocketAddr>,
    /// Most answers kept.
    pub cache_entries: usize,
    /// Most octets of answers kept.
    pub cache_bytes: usize,
    /// Longest time a forwarded answer is fresh, whatever its TTL.
    pub max_ttl: Duration,
    /// Longest time a forwarded denial is fresh.
    pub max_negative_ttl: Duration,
    /// How long an answer may be served after its TTL while no upstream answers.
    pub max_stale: Duration,
    /// Most questions in flight to upstreams.
    pub max_flights: usize,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            // The TTL that Go EdgeMesh gives its CoreDNS (`ttl 30`).
            ttl: 30,
            // CoreDNS's default for Kubernetes names: a Service that was just made is found soon.
            negative_ttl: 5,
            own: Vec::new(),
            // An edge node asks for some hundred names; 4096 answers of 128 to 512 octets fit the octets below.
            cache_entries: 4096,
            // A sixteenth of the agent's resident memory aim (16 MiB).
            cache_bytes: 1 << 20,
            // The cap of CoreDNS's `cache` plugin.
            max_ttl: Duration::from_secs(3600),
            // RFC 2308 section 5 allows hours; five minutes let a new name appear without an operator's help.
            max_negative_ttl: Duration::from_secs(300),
            // The shorter end of the 1 to 3 days of RFC 8767 section 5.
            max_stale: Duration::from_secs(86_400),
            // One socket each; well under the usual limit of 1024 descriptors.
            max_flights: 256,
        }
    }
}

/// Why settings cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// The cluster domain is no domain name.
    ClusterDomain,
}

impl SettingsError {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterDomain => "cluster_domain",
        }
    }
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClusterDomain => f.write_str("the cluster domain is no domain name"),
        }
    }
}

impl std::error::Error for SettingsError {}

/// The cluster domain with what its records need.
pub(crate) struct ZoneSettings {
    pub(crate) apex: LowerName,
    pub(crate) ttl: u32,
    pub(crate) negative_ttl: u32,
    /// Addresses of `ns.dns.<zone>`.
    pub(crate) servers: Vec<IpAddr>,
}

impl ZoneSettings {
    pub(crate) fn new(settings: &ResolverSettings) -> Result<Self, SettingsError> {
        let apex = LowerName::from_text(&settings.cluster_domain).ok_or(SettingsError::ClusterDomain)?;
        let mut servers: Vec<IpAddr> =
            settings.own.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        servers.sort_unstable();
        servers.dedup();
        Ok(Self { apex, ttl: settings.ttl, negative_ttl: settings.negative_ttl, servers })
    }
}
