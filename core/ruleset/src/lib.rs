//! Compiles a snapshot into kernel rules as one comparable value.
//!
//! One table `inet edgemesh` translates connections to endpoints that the kernel reaches (DNAT from maps), leads the
//! others to the one listener (TPROXY), and refuses packets to a virtual address that is no frontend; a `local` route
//! for every virtual address makes the host take its packets without any other route. `Ruleset::compile` says what
//! should be, `Ruleset::diff` what to change, `render` prints it, [`iptables`] says it in other words; carrying it out is
//! `edgemesh-intercept`'s.

mod compile;
pub mod connect;
mod diff;
pub mod iptables;
pub mod render;

mod rules;
mod sets;
mod specimen;
mod steer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use edgemesh_api::Protocol;
use edgemesh_mesh::{Frontend, ServiceId, SortedMap};
use edgemesh_route::Via;
use ipnet::IpNet;

pub use diff::{Patch, Update};
pub use rules::{
    Action, Base, Chain, ChainType, Family, Hook, Key, L4, Match, Pick, Rule, Side, VIAS, masquerade_chain,
    masquerade_number,
};
pub use sets::{Member, Population, SetKind};
pub use steer::{MAX_SLOTS, Spread, Steer};

/// The table, in family `inet`.
pub const TABLE: &str = "edgemesh";
/// The map of verdicts that leads from a [`Pick::number`] to its chain. The kernel looks at every verdict that any rule of
/// the table may meet whenever one is added (`nft_table_validate`): in a map of 10,000 Services that takes milliseconds for
/// each change, in one of their sizes nothing.
pub const PICKS: &str = "picks";
/// The same for [`masquerade_number`].
pub const WAYS: &str = "ways";
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

/// Most sessions of clients with session affinity, in each family: nft's own bound for sets that packets fill. Past it,
/// new clients get an endpoint and no session.
pub const MAX_SESSIONS: u32 = 65_535;

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

/// What carries the rules out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelBackend {
    /// nftables where the kernel takes our rules, else iptables.
    #[default]
    Auto,
    /// The kernel's nf_tables, without any program.
    Nftables,
    /// The programs `iptables-restore` and `ipset`.
    Iptables,
}

/// What, beside the snapshot, decides the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesetSettings {
    /// Port of the listeners on `127.0.0.1` and `::1`.
    pub port: u16,
    /// The device.
    pub device: Device,
    /// Whether the host has IPv6; where it is switched off, IPv6 rules and routes would not load.
    pub ipv6: bool,
    /// Whether the kernel translates connections to endpoints that it reaches; otherwise all go to the listener.
    pub kernel_path: bool,
    /// Whether sockets of the host connect to an endpoint at once where nothing else is to be decided ([`connect`]). Does
    /// not change the rules.
    pub connect_rewrite: bool,
    /// What carries the rules out.
    pub backend: KernelBackend,
    /// Addresses of the host at which node ports are open; all but loopback and link-local ones when empty
    /// (kube-proxy's `nodePortAddresses`).
    pub node_port_addresses: Vec<IpNet>,
}

impl Default for RulesetSettings {
    fn default() -> Self {
        Self {
            port: LISTEN_PORT,
            device: Device::default(),
            ipv6: true,
            kernel_path: true,
            connect_rewrite: false,
            backend: KernelBackend::Auto,
            node_port_addresses: Vec::new(),
        }
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

/// All that the agent wants from the kernel. Copies, and rulesets that follow each other, share what is equal in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The device.
    pub device: Device,
    /// Families that have rules.
    pub families: &'static [Family],
    /// The chains that depend on the settings, the host, and which sets have elements.
    pub chains: Vec<Chain>,
    /// What becomes of new connections, for every frontend with an endpoint; at addresses of the host, also for those
    /// without.
    pub frontends: SortedMap<Frontend, Steer>,
    /// How many elements the sets have that frontends make.
    pub population: Population,
    /// The chains that pick endpoints, with how many frontends use each.
    pub picks: BTreeMap<Pick, u32>,
    /// Endpoints the kernel translates to, with how many frontends use each.
    pub backends: SortedMap<(SocketAddr, Protocol), (Via, u32)>,
    /// Addresses of Pods of this node among them, with how many endpoints each has.
    pub hairpins: SortedMap<IpAddr, u32>,
    /// Every virtual address with its route; what is no frontend of it is refused.
    pub vips: SortedMap<IpAddr, VipRoute>,
    /// Frontends that take connections from these sources only.
    pub restricted: SortedMap<Frontend, Arc<[IpNet]>>,
    /// Virtual addresses that are not installed, and why.
    pub refused: Vec<Refused>,
}

impl Ruleset {
    /// Every chain: those that depend on the settings, and those that pick.
    pub fn all_chains(&self) -> impl Iterator<Item = Cow<'_, Chain>> {
        let picks = self.picks.keys().map(|pick| Cow::Owned(pick.chain(self.families)));
        picks.chain(self.chains.iter().map(Cow::Borrowed))
    }

    /// Whether a chain looks at packets on bridges, before br_netfilter does.
    pub fn sees_bridges(&self) -> bool {
        self.chains.iter().any(|chain| chain.name == rules::BRIDGED)
    }

    /// Every element of every set and map, in the order of [`SetKind::ALL`], then by key.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::with_capacity(self.frontends.len() * 4);
        for (frontend, steer) in &self.frontends {
            members.extend(steer.members(*frontend));
        }
        members.extend(self.vips.keys().map(|vip| Member::Vip(*vip)));
        members.extend(self.backends.iter().filter_map(|(key, (via, _))| backend(key, *via)));
        members.extend(self.hairpins.keys().map(|ip| Member::Hairpin(*ip)));
        for (frontend, ranges) in &self.restricted {
            members.extend(restriction(*frontend, ranges));
        }
        sets::sort(&mut members);
        members
    }
}

/// The element of an endpoint; none where its clients are never masqueraded.
pub(crate) fn backend((addr, protocol): &(SocketAddr, Protocol), via: Via) -> Option<Member> {
    masquerade_chain(via).map(|_| Member::Backend(*addr, *protocol, via))
}

pub(crate) fn restriction(frontend: Frontend, ranges: &[IpNet]) -> Vec<Member> {
    let own = ranges.iter().filter(|range| range.addr().is_ipv4() == frontend.ip.is_ipv4());
    let allowed = own.map(|range| Member::Allowed(frontend, range.trunc()));
    std::iter::once(Member::Restricted(frontend)).chain(allowed).collect()
}
