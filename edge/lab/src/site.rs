//! The site file: what the laboratory emulates, as the user writes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgemesh_net::wire::Impairment;
use edgemesh_tunnel_proto::NatKind;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A whole site.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Decides which frames a lossy link loses.
    #[serde(default)]
    pub seed: u64,
    /// Kubernetes manifests the agents read, relative to the site file; Nodes and Pods are added by the laboratory.
    #[serde(default)]
    pub manifests: Option<PathBuf>,
    /// Whether an agent runs in each node.
    #[serde(default = "yes")]
    pub agents: bool,
    /// Nodes with addresses everybody reaches.
    #[serde(default)]
    pub cloud: Cloud,
    /// Networks behind routers.
    #[serde(default)]
    pub lans: Vec<Lan>,
    /// Assertions of `edgemesh lab test`.
    #[serde(default)]
    pub tests: Vec<Assertion>,
}

/// Nodes with addresses everybody reaches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// The nodes.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// A network behind a router.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lan {
    /// Its name; also the zone of its nodes.
    pub name: String,
    /// IPv4 range; `10.N.0.0/24` for the Nth LAN when absent.
    #[serde(default)]
    pub subnet4: Option<Ipv4Net>,
    /// IPv6 range; `fd00:N::/64` for the Nth LAN when absent.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
    /// Whether the IPv6 range is routed to the internet, behind a stateful firewall. Otherwise it ends at the router.
    #[serde(default)]
    pub routed6: bool,
    /// The router's address translation.
    #[serde(default)]
    pub nat: Nat,
    /// The translation of a second router between the LAN's own and the internet: the provider's (RFC 6888).
    #[serde(default)]
    pub carrier: Option<Nat>,
    /// What the router lets out.
    #[serde(default)]
    pub outbound: Outbound,
    /// The link from the router to the internet.
    #[serde(default)]
    pub uplink: Link,
    /// The nodes.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// A router's address translation, in the terms of RFC 4787.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// How an inner address and port become an outer port.
    #[serde(default)]
    pub mapping: Mapping,
    /// Which packets from outside reach a mapped port.
    #[serde(default)]
    pub filtering: Filtering,
    /// What the router does to packets from outside that nothing maps.
    #[serde(default)]
    pub unsolicited: Unsolicited,
}

/// How an inner address and port become an outer port (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The same outer port for every destination.
    #[default]
    EndpointIndependent,
    /// Another outer port for each destination address and port ("symmetric").
    #[serde(alias = "symmetric")]
    AddressAndPortDependent,
    /// No translation: the LAN's range is routed.
    None,
}

/// Which packets from outside reach a mapped port (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// From anybody ("full cone"); needs an endpoint-independent mapping.
    EndpointIndependent,
    /// From any port of an address the inner host has sent to; needs an endpoint-independent mapping.
    AddressDependent,
    /// From the address and port the inner host has sent to.
    #[default]
    AddressAndPortDependent,
}

/// What the router does to packets from outside that nothing maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Nothing.
    #[default]
    Drop,
    /// TCP reset, ICMP port unreachable.
    Reset,
}

/// The keys of a LAN in a site file that put a NAT of a kind before it.
pub fn keys_of(kind: NatKind) -> &'static str {
    match kind {
        NatKind::Open => "nat: { mapping: none }",
        NatKind::EndpointIndependent => "nat: { filtering: endpoint-independent }",
        NatKind::AddressDependent => "nat: { filtering: address-dependent }",
        NatKind::AddressAndPortDependent => "nat: {}",
        NatKind::Symmetric => "nat: { mapping: symmetric }",
        NatKind::CarrierGrade => "nat: {}, carrier: {}",
        NatKind::UdpBlocked => "nat: {}, outbound: no-udp",
        NatKind::Port443Only => "nat: {}, outbound: tcp-443",
    }
}

/// What hosts of a LAN may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outbound {
    /// Everything.
    #[default]
    All,
    /// Everything but UDP.
    NoUdp,
    /// TCP connections to port 443, and nothing else.
    #[serde(rename = "tcp-443")]
    Tcp443,
}

/// A link's impairments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// One-way delay, as `20ms`.
    #[serde(default, deserialize_with = "duration")]
    pub delay: Duration,
    /// Share of lost frames, as `1%` or `0.01`.
    #[serde(default, deserialize_with = "share")]
    pub loss: f64,
    /// Speed, as `100mbit`.
    #[serde(default, deserialize_with = "rate")]
    pub rate: Option<u64>,
}

impl Link {
    /// In the words of the wire.
    pub fn impairment(self) -> Impairment {
        Impairment { delay: self.delay, loss: self.loss, rate: self.rate }
    }
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its agent relays for others.
    #[serde(default)]
    pub relay: bool,
    /// Labels of the Node object.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Impairments between the node and its switch; without them frames take the kernel's way.
    #[serde(default)]
    pub link: Option<Link>,
    /// Range of its pods; the same on every node when absent, as container runtimes do without a network plugin.
    #[serde(default = "default_pods4")]
    pub pods4: Ipv4Net,
    /// IPv6 range of its pods.
    #[serde(default = "default_pods6")]
    pub pods6: Ipv6Net,
    /// Its pods.
    #[serde(default)]
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Its IPv4 address; the next free one when absent.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The command it runs; nothing when empty.
    #[serde(default)]
    pub run: Vec<String>,
}

/// One assertion: a command in a pod or node succeeds or fails within a time, over a path.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// What is asserted, in the user's words.
    #[serde(default)]
    pub name: Option<String>,
    /// Links, nodes, LANs (`lan:NAME`) or `cloud` that are cut before.
    #[serde(default)]
    pub cut: Vec<String>,
    /// The same, healed before.
    #[serde(default)]
    pub heal: Vec<String>,
    /// The pod or node it starts from.
    pub from: String,
    /// The command.
    pub run: Vec<String>,
    /// Whether it succeeds.
    #[serde(default = "yes")]
    pub succeeds: bool,
    /// Text its output must hold.
    #[serde(default)]
    pub output: Option<String>,
    /// The path from the agent of that node to another node, as `edgemesh status` names it.
    #[serde(default)]
    pub path: Option<ExpectedPath>,
    /// How long the outcome may take to come about.
    #[serde(default = "default_within", deserialize_with = "duration")]
    pub within: Duration,
}

/// A path an agent must report.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPath {
    /// The node at the other end.
    pub to: String,
    /// `lan`, `direct`, `punched`, `relayed` or `unreachable`.
    pub is: String,
}

/// Why a site file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// It is not YAML, or a key or value is wrong; the text names key, line and column.
    #[error("{place}: {error}")]
    Parse {
        /// The file.
        place: String,
        /// The parser's reason.
        error: yaml_serde::Error,
    },
    /// The parts contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl Site {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, SiteError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| SiteError::Read { path: path.into(), error })?;
        let mut site = Self::parse(&text, &path.display().to_string())?;
        if let (Some(manifests), Some(folder)) = (&mut site.manifests, path.parent()) {
            *manifests = folder.join(&*manifests);
        }
        Ok(site)
    }

    /// Reads text that comes from `place`.
    pub fn parse(text: &str, place: &str) -> Result<Self, SiteError> {
        let site: Self =
            yaml_serde::from_str(text).map_err(|error| SiteError::Parse { place: place.into(), error })?;
        site.check()?;
        Ok(site)
    }

    /// Every node with the LAN it is in.
    pub fn nodes(&self) -> impl Iterator<Item = (Option<&Lan>, &Node)> {
        let cloud = self.cloud.nodes.iter().map(|node| (None, node));
        cloud.chain(self.lans.iter().flat_map(|lan| lan.nodes.iter().map(move |node| (Some(lan), node))))
    }

    fn check(&self) -> Result<(), SiteError> {
        let wrong = |text: String| Err(SiteError::Contradiction(text));
        let mut names = std::collections::BTreeSet::from(["cloud"]);
        let pods = self.nodes().flat_map(|(_, node)| node.pods.iter().map(|pod| pod.name.as_str()));
        let lans = self.lans.iter().map(|lan| lan.name.as_str());
        for name in lans.chain(self.nodes().map(|(_, node)| node.name.as_str())).chain(pods) {
            // Names become file names and socket paths, which end at 107 bytes (unix(7)).
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
                return wrong(format!("name {name:?}: 1 to 40 of a-z, 0-9 and - are allowed"));
            }
            if !names.insert(name) {
                return wrong(format!("name {name:?} is used twice"));
            }
        }
        for Lan { name, nat, carrier, routed6, .. } in &self.lans {
            for Nat { mapping, filtering, .. } in [*nat].into_iter().chain(*carrier) {
                let word = match filtering {
                    Filtering::EndpointIndependent => "endpoint-independent",
                    Filtering::AddressDependent => "address-dependent",
                    Filtering::AddressAndPortDependent => continue,
                };
                // Without translation there is nothing to filter by; the word is then only without effect.
                if mapping == Mapping::AddressAndPortDependent {
                    return wrong(format!(
                        "lan {name:?}: filtering {word} needs mapping endpoint-independent"
                    ));
                }
            }
            if carrier.is_some_and(|carrier| [nat.mapping, carrier.mapping].contains(&Mapping::None)) {
                return wrong(format!(
                    "lan {name:?}: behind a carrier both routers translate; mapping is none"
                ));
            }
            if carrier.is_some() && *routed6 {
                return wrong(format!("lan {name:?}: a carrier passes no IPv6; routed6 is true"));
            }
        }
        Ok(())
    }
}

fn yes() -> bool {
    true
}

fn default_namespace() -> String {
    "default".into()
}

fn default_within() -> Duration {
    Duration::from_secs(5)
}

/// Docker's range, because that is what a node without a network plugin has.
fn default_pods4() -> Ipv4Net {
    Ipv4Net::new_assert([172, 17, 0, 0].into(), 24)
}

fn default_pods6() -> Ipv6Net {
    Ipv6Net::new_assert([0xfd00, 0x17, 0, 0, 0, 0, 0, 0].into(), 64)
}

/// A number as YAML wrote it, with or without a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(f64),
    Text(String),
}

impl Quantity {
    /// Number and unit.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(f64, String), D::Error> {
        match Self::deserialize(deserializer)? {
            Self::Number(number) => Ok((number, String::new())),
            Self::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let number =
                    number.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))?;
                Ok((number, unit.trim().to_ascii_lowercase()))
            }
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let (number, unit) = Quantity::read(deserializer)?;
    let seconds = match unit.as_str() {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "" if number == 0.0 => 0.0,
        _ => return Err(D::Error::custom("a time needs a unit: us, ms or s")),
    };
    Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let (number, unit) = Quantity::read(deserializer)?;
    let share = match unit.as_str() {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(D::Error::custom("a loss is a share of 1 or a percentage")),
    };
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(D::Error::custom("a loss lies between 0 and 1"))
    }
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let (number, unit) = Quantity::read(deserializer)?;
    let factor = match unit.as_str() {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(D::Error::custom("a rate needs a unit: bit, kbit, mbit or gbit")),
    };
    Ok(Some((number * factor) as u64))
}
