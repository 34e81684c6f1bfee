use std::fmt;
use std::net::IpAddr;

use edgemesh_mesh::{MeshSnapshot, ServiceKind};

use crate::name::LowerName;
use crate::zone::{self, Node};

/// What a name in the cluster domain stands for, for people: the decision that queries are answered by, without the
/// wire format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Addresses of both families.
    Addresses(Vec<IpAddr>),
    /// A CNAME.
    Alias(String),
    /// The name exists and has no address.
    Empty,
    /// NXDOMAIN.
    Missing,
    /// Not under the cluster domain, or no name at all.
    Foreign,
}

impl Lookup {
    /// The addresses, if there are any.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Addresses(addresses) => addresses.clone(),
            Self::Alias(_) | Self::Empty | Self::Missing | Self::Foreign => Vec::new(),
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    write!(f, "{}{address}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Alias(target) => write!(f, "CNAME {target}"),
            Self::Empty => f.write_str("exists, without an address"),
            Self::Missing => f.write_str("NXDOMAIN"),
            Self::Foreign => f.write_str("is not under the cluster domain"),
        }
    }
}

/// Looks a fully qualified name up.
pub fn lookup(snapshot: &MeshSnapshot, cluster_domain: &str, name: &str) -> Lookup {
    let (Some(name), Some(apex)) = (LowerName::from_text(name), LowerName::from_text(cluster_domain)) else {
        return Lookup::Foreign;
    };
    let Some(depth) = name.below(&apex) else { return Lookup::Foreign };
    let node = zone::lookup(&name, depth, snapshot);
    match &node {
        Node::Missing => Lookup::Missing,
        Node::Service(service) if let ServiceKind::ExternalName(target) = &service.kind => {
            Lookup::Alias(target.to_string())
        }
        _ => match zone::addresses(&node) {
            addresses if addresses.is_empty() => Lookup::Empty,
            addresses => Lookup::Addresses(addresses),
        },
    }
}
