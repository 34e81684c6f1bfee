//! Compiles a snapshot into kernel rules as one comparable value.
//!
//! One table `inet edgemesh` leads packets to a frontend to the one listener (TPROXY) and refuses packets to a virtual
//! address that is no frontend; a `local` route for every virtual address makes the host take its packets without any
//! other route. `Ruleset::compile` says what should be, `Ruleset::diff` what to change, `render` prints it; carrying
//! it out is `edgemesh-intercept`'s.

mod compile;
mod diff;
pub mod render;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgemesh_mesh::{Frontend, ServiceId};

pub use diff::{Patch, Update};
pub use rules::{Action, Chain, Family, Hook, L4, Match, Rule, Side};

/// The table, in family `inet`.
pub const TABLE: &str = "edgemesh";
/// The device that carries the node's mesh addresses.
pub const DEVICE: &str = "edgemesh0";
/// Where DNS answers, and the source of connections that the host itself makes to an IPv4 frontend. The address of Go
/// EdgeMesh, which Pods have as their nameserver.
pub const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 96, 16);
/// The same as an IPv6 link-local address: its last 32 bits are the IPv4 address.
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0x6010);
/// Hardware address of the device, by which cleanup knows it for ours: locally administered (IEEE 802), then `E`, then
/// the IPv4 address.
pub const DEVICE_MAC: [u8; 6] = [0x02, b'E', 169, 254, 96, 16];
/// Marks our routes. Taken from the range that iproute2's `rt_protos` leaves free (routing daemons end at 199).
pub const ROUTE_PROTOCOL: u8 = 229;
/// The default port of the listener; nothing registered with IANA uses it.
pub const LISTEN_PORT: u16 = 15_001;
/// Most frontends the kernel is given. Look-ups cost the same up to here (measured); a cluster has at most 10,000
/// Services (Kubernetes scalability thresholds), each with a few ports and two families.
pub const MAX_FRONTENDS: usize = 100_000;

/// An address of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceAddress {
    /// The address.
    pub addr: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

/// The device with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub addresses: Vec<DeviceAddress>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            name: DEVICE.to_owned(),
            addresses: vec![
                DeviceAddress { addr: ADDRESS_V4.into(), prefix_len: 32 },
                DeviceAddress { addr: ADDRESS_V6.into(), prefix_len: 64 },
            ],
        }
    }
}

/// What, beside the snapshot, decides the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesetSettings {
    /// Port of the listeners on `127.0.0.1` and `::1`.
    pub port: u16,
    /// The device.
    pub device: Device,
    /// Addresses the host owns: a Service that claims one of them is refused.
    pub host_addresses: BTreeSet<IpAddr>,
    /// Whether the host has IPv6; where it is switched off, IPv6 rules and routes would not load.
    pub ipv6: bool,
}

impl Default for RulesetSettings {
    fn default() -> Self {
        Self { port: LISTEN_PORT, device: Device::default(), host_addresses: BTreeSet::new(), ipv6: true }
    }
}

/// A `local` route in table `local`: the host takes the packets to a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipRoute {
    /// The virtual address.
    pub vip: IpAddr,
    /// Source of what the host itself sends there. Without it the kernel takes the virtual address, which a server
    /// could not tell from itself; for IPv6 the kernel chooses among its other addresses.
    pub source: Option<Ipv4Addr>,
}

/// Why a virtual address is not installed. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefuseReason {
    /// The host itself has the address.
    HostAddress,
    /// Loopback, multicast, broadcast, unspecified, or IPv6 link-local.
    NotRoutable,
    /// The address is IPv6, which the host has switched off.
    NoIpv6,
    /// [`MAX_FRONTENDS`] is reached.
    TableFull,
}

impl RefuseReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostAddress => "host_address",
            Self::NotRoutable => "not_routable",
            Self::NoIpv6 => "no_ipv6",
            Self::TableFull => "table_full",
        }
    }
}

/// A virtual address that is not installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// The Service that claims it.
    pub service: ServiceId,
    /// The address.
    pub vip: IpAddr,
    /// Why.
    pub reason: RefuseReason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, vip, reason } = self;
        write!(f, "Service {service}: {vip} is not intercepted: ")?;
        match reason {
            RefuseReason::HostAddress => {
                f.write_str("it is an address of this host; give the Service another")
            }
            RefuseReason::NotRoutable => f.write_str("it is no unicast address that hosts can route"),
            RefuseReason::NoIpv6 => f.write_str("IPv6 is switched off on this host"),
            RefuseReason::TableFull => write!(f, "there are {MAX_FRONTENDS} frontends already"),
        }
    }
}

/// All that the agent wants from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The device.
    pub device: Device,
    /// The chains with their rules: what depends on the settings only.
    pub chains: Vec<Chain>,
    /// What leads to the listener: frontends with an endpoint to try.
    pub frontends: BTreeSet<Frontend>,
    /// Every virtual address; what is no frontend of it is refused.
    pub vips: BTreeSet<IpAddr>,
    /// One for each virtual address.
    pub routes: BTreeSet<VipRoute>,
    /// Virtual addresses that are not installed, and why.
    pub refused: Vec<Refused>,
}
