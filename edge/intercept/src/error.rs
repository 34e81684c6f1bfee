use edgemesh_net::netlink::NetlinkError;

/// Why the kernel is not as it should be. Each variant is a log word and a metric label.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The process may not change the network.
    #[error("CAP_NET_ADMIN is missing: run as root, or give the container the capability NET_ADMIN")]
    NoPermission,
    /// The kernel has no nf_tables.
    #[error(
        "the kernel has no nf_tables: load the module nf_tables, or use a kernel with CONFIG_NF_TABLES_INET"
    )]
    NoNftables,
    /// An expression of our rules is not in the kernel.
    #[error("the kernel does not know the nftables expression {expression}: load the module {module}")]
    NoModule {
        /// The expression.
        expression: String,
        /// The module that has it.
        module: &'static str,
    },
    /// A program of the iptables backend is not installed.
    #[error("the program {0} is not installed: install the packages iptables and ipset")]
    NoIptables(String),
    /// A program of the iptables backend failed.
    #[error("{program}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        reason: String,
    },
    /// Neither backend can be used.
    #[error("no backend: nftables: {nftables}; iptables: {iptables}")]
    NoBackend {
        /// Why not nftables.
        nftables: String,
        /// Why not iptables.
        iptables: String,
    },
    /// The device's name belongs to somebody else.
    #[error(
        "device {name} exists and is not ours ({reason}); name another one: --bridge-device, or commonConfig.bridgeDeviceName"
    )]
    DeviceTaken {
        /// The name.
        name: String,
        /// How it is known.
        reason: String,
    },
    /// The kernel answered that all is well and is not as was asked for.
    #[error("the kernel is not as written: {0}")]
    NotAsWritten(String),
    /// Anything else the kernel refused.
    #[error(transparent)]
    Netlink(NetlinkError),
}

impl InterceptError {
    /// The log word and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoPermission => "no_permission",
            Self::NoNftables => "no_nftables",
            Self::NoModule { .. } => "no_module",
            Self::NoIptables(_) => "no_iptables",
            Self::Program { .. } => "program",
            Self::NoBackend { .. } => "no_backend",
            Self::DeviceTaken { .. } => "device_taken",
            Self::NotAsWritten(_) => "not_as_written",
            Self::Netlink(error) => error.as_str(),
        }
    }
}

impl From<NetlinkError> for InterceptError {
    fn from(error: NetlinkError) -> Self {
        if error.is_permission() {
            return Self::NoPermission;
        }
        if let NetlinkError::Refused { expression: Some(expression), .. } = &error
            && (error.is_missing() || error.is_unsupported())
        {
            // A look-up that is refused so lacks its set and not its module.
            if let Some(module) = module(expression) {
                return Self::NoModule { expression: expression.clone(), module };
            }
        }
        Self::Netlink(error)
    }
}

/// The module of an expression that is not part of nf_tables itself.
fn module(expression: &str) -> Option<&'static str> {
    match expression {
        "tproxy" => Some("nft_tproxy"),
        "reject" => Some("nft_reject_inet"),
        "notrack" | "ct" => Some("nft_ct"),
        "nat" => Some("nft_nat"),
        "masq" => Some("nft_masq"),
        "numgen" => Some("nft_numgen"),
        "fib" => Some("nft_fib_inet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_expression_names_its_module() {
        let refused = |expression: &str| NetlinkError::Refused {
            what: "nftables: add rule to prerouting".to_owned(),
            errno: 2,
            detail: String::new(),
            expression: Some(expression.to_owned()),
        };
        let error = InterceptError::from(refused("tproxy"));
        assert_eq!(error.as_str(), "no_module");
        assert!(error.to_string().ends_with("load the module nft_tproxy"), "{error}");
        assert_eq!(InterceptError::from(refused("lookup")).as_str(), "refused");
    }
}
