//! Blocking netlink: links, addresses and routes ([`rt`]), nftables ([`nft`]), and tracked connections ([`conntrack`]).
//!
//! Every handle works in the network namespace of the thread that opened it, also after the thread moved on to
//! another one. The kernel answers a request before the sending call returns, so nothing here waits on a peer; only
//! [`rt::Monitor`] waits, asynchronously, for what others do.

pub mod conntrack;
mod message;
pub mod nft;
pub mod rt;
mod socket;

use std::io;

pub(crate) use message::{Attrs, MessageBuf};
pub(crate) use socket::NetlinkSocket;

/// Why the kernel was not brought to a state, or not read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or used.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{what}: {}{}", io::Error::from_raw_os_error(*errno), detail_suffix(detail))]
    Refused {
        /// What was asked.
        what: String,
        /// The error number, positive.
        errno: i32,
        /// The kernel's own words (extended acknowledgement), often empty.
        detail: String,
        /// For an nftables rule: the name of the expression that was refused, where the kernel says which.
        expression: Option<String>,
    },
    /// A request was not answered within [`ANSWER_TIMEOUT`].
    #[error("{what}: no answer from the kernel")]
    NoAnswer {
        /// What was asked.
        what: String,
    },
    /// A dump changed under the reader at every attempt.
    #[error("{what}: the kernel's state changed during every attempt to read it")]
    Unsettled {
        /// What was read.
        what: String,
    },
    /// The kernel has no such subsystem.
    #[error("{what}: this kernel was built without it, or its module is not there")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// A transaction exceeds what the socket may send at once, and cannot be split.
    #[error("nftables transaction of {bytes} bytes exceeds the send buffer (net.core.wmem_max)")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

pub use socket::ANSWER_TIMEOUT;

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl NetlinkError {
    /// The error number of a refusal, or of a socket that could not be opened.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(error) => error.raw_os_error(),
            Self::NoAnswer { .. }
            | Self::Unsettled { .. }
            | Self::Unsupported { .. }
            | Self::TooLarge { .. } => None,
        }
    }

    /// Whether the object exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the object is not there: the three words the kernel has for it, by subsystem.
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL))
    }

    /// Whether `CAP_NET_ADMIN` is lacking in the namespace.
    pub fn is_permission(&self) -> bool {
        self.errno() == Some(libc::EPERM)
    }

    /// Whether the kernel was built, or is configured, without what was asked for: a protocol, an address family, a
    /// kind of link, a subsystem.
    pub fn is_unsupported(&self) -> bool {
        let lacking = matches!(
            self.errno(),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT)
        );
        lacking || matches!(self, Self::Unsupported { .. })
    }

    /// Whether an address family is switched off: IPv6 by `disable_ipv6` is an access error (`inet6_addr_add`).
    pub fn is_switched_off(&self) -> bool {
        self.is_unsupported() || self.errno() == Some(libc::EACCES)
    }

    /// The log word and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Socket(_) => "socket",
            Self::Refused { .. } => "refused",
            Self::NoAnswer { .. } => "no_answer",
            Self::Unsettled { .. } => "unsettled",
            Self::Unsupported { .. } => "unsupported",
            Self::TooLarge { .. } => "too_large",
        }
    }
}
