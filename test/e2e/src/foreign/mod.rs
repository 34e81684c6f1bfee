//! Rule sets in the shape of other programs' that translate and filter on a node, for tests that live beside them.

mod firewalld;
mod iptables;
mod kube_proxy;

use std::fmt::Write as _;

use crate::lab::Lab;

/// A Service as another program serves it.
#[derive(Clone, Debug)]
pub struct Portal {
    /// `namespace/name:port`.
    pub name: String,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [String; 2],
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port.
    pub port: u16,
    /// Addresses of its endpoints, IPv4 and IPv6.
    pub endpoints: Vec<[String; 2]>,
    /// The endpoints' port.
    pub target: u16,
}

/// What the other programs are told of the node.
#[derive(Clone, Debug)]
pub struct World {
    /// Services that kube-proxy serves.
    pub portals: Vec<Portal>,
    /// Ranges of the cluster's Pods, IPv4 and IPv6.
    pub pods: [String; 2],
    /// Ranges of the Services' addresses, IPv4 and IPv6.
    pub services: [String; 2],
    /// The bridge of the Pods.
    pub bridge: &'static str,
    /// Docker publishes these ports of every address of the host: protocol, port.
    pub published: Vec<(&'static str, u16)>,
    /// Where Docker's container is; its port is [`CONTAINER_PORT`].
    pub container: [String; 2],
}

/// The port at which Docker's container listens.
pub const CONTAINER_PORT: u16 = 9090;

/// Which of its two implementations `iptables` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Tables of nf_tables.
    Nft,
    /// Tables of ip_tables.
    Legacy,
}

impl Flavour {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// A program whose rules are on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// kube-proxy with `mode: iptables`.
    KubeProxyIptables(Flavour),
    /// kube-proxy with `mode: nftables`.
    KubeProxyNftables,
    /// Docker, which drops what it does not know at the forward hook.
    Docker(Flavour),
    /// flannel with `ip-masq`.
    Flannel(Flavour),
    /// firewalld, with the Pods' bridge in the zone `trusted` or in none.
    Firewalld {
        /// Whether the bridge is in `trusted`.
        trusted: bool,
    },
}

impl Foreign {
    /// The programs of the system that its rules need.
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Self::KubeProxyNftables | Self::Firewalld { .. } => &["nft"],
            Self::KubeProxyIptables(Flavour::Legacy)
            | Self::Docker(Flavour::Legacy)
            | Self::Flannel(Flavour::Legacy) => &["iptables-legacy-restore", "ip6tables-legacy-restore"],
            Self::KubeProxyIptables(_) | Self::Docker(_) | Self::Flannel(_) => {
                &["iptables-nft-restore", "ip6tables-nft-restore"]
            }
        }
    }

    /// Puts its rules on a node, as the program does at its start and when it finds them gone.
    pub fn load(self, lab: &Lab, node: &str, world: &World) {
        match self {
            Self::KubeProxyNftables => {
                nft(lab, node, &[0, 1].map(|family| kube_proxy::nftables(world, family)).concat());
            }
            Self::Firewalld { trusted } => nft(lab, node, &firewalld::table(world, trusted)),
            Self::KubeProxyIptables(flavour) => {
                restore(lab, node, flavour, |it| kube_proxy::iptables(world, it))
            }
            Self::Docker(flavour) => restore(lab, node, flavour, |it| iptables::docker(world, it)),
            Self::Flannel(flavour) => restore(lab, node, flavour, |it| iptables::flannel(world, it)),
        }
    }

    /// Takes away what is its own, as the program or an administrator does; of iptables, all rules.
    pub fn flush(self, lab: &Lab, node: &str) {
        match self {
            Self::KubeProxyNftables => {
                nft(lab, node, "delete table ip kube-proxy\ndelete table ip6 kube-proxy\n");
            }
            Self::Firewalld { .. } => nft(lab, node, "delete table inet firewalld\n"),
            Self::KubeProxyIptables(flavour) | Self::Docker(flavour) | Self::Flannel(flavour) => {
                let mut script = "set -e\n".to_owned();
                for command in ["iptables", "ip6tables"].map(|it| format!("{it}-{}", flavour.as_str())) {
                    for table in ["nat", "filter", "raw"] {
                        // Writing to a String does not fail.
                        let _ = writeln!(script, "{command} -w -t {table} -F\n{command} -w -t {table} -X");
                    }
                    let _ = writeln!(script, "{command} -w -P FORWARD ACCEPT");
                }
                lab.exec(node, &["sh", "-c", &script]);
            }
        }
    }
}

fn nft(lab: &Lab, node: &str, text: &str) {
    let file = written(lab, node, text);
    lab.exec(node, &["nft", "-f", &file]);
}

/// Loads the rules of both families; rules of other programs in the same tables stay.
fn restore(lab: &Lab, node: &str, flavour: Flavour, rules: impl Fn(usize) -> String) {
    for (family, command) in ["iptables", "ip6tables"].into_iter().enumerate() {
        let file = written(lab, node, &rules(family));
        let command = format!("{command}-{}-restore", flavour.as_str());
        lab.exec(node, &[&command, "-w", "--noflush", &file]);
    }
}

fn written(lab: &Lab, node: &str, text: &str) -> String {
    let file = lab.folder().join(format!("{node}.foreign"));
    std::fs::write(&file, text).expect("the laboratory's folder is ours");
    file.display().to_string()
}

/// An endpoint as rules name it.
fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
