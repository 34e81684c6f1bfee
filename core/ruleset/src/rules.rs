use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which everything is written.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Name of the set of frontends.
    pub fn frontends(self) -> &'static str {
        match self {
            Self::V4 => "frontends4",
            Self::V6 => "frontends6",
        }
    }

    /// Name of the set of virtual addresses.
    pub fn vips(self) -> &'static str {
        match self {
            Self::V4 => "vips4",
            Self::V6 => "vips6",
        }
    }
}

/// Where a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "netfilter's own names")]
pub enum Hook {
    Prerouting,
    Input,
    Output,
}

/// A transport protocol in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocols' names")]
pub enum L4 {
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

impl L4 {
    /// Its number (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
        }
    }
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Address and port it comes from.
    Source,
    /// Address and port it goes to.
    Destination,
}

/// What a packet must be for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Of this transport protocol.
    Is(L4),
    /// Of any other.
    IsNot(L4),
    /// Came from another device than the loopback.
    NotFromLoopback,
    /// Goes to a virtual address.
    ToVip,
    /// Address, protocol and port of this side are a frontend.
    Frontend(Side),
    /// Address, protocol and port of the destination are no frontend.
    NotToFrontend,
    /// Opens a TCP connection.
    Syn,
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kept out of connection tracking, and so of everybody's NAT rules.
    Notrack,
    /// Given to the transparent listener at this address.
    Tproxy(SocketAddr),
    /// Dropped silently.
    Drop,
    /// Answered with a TCP reset.
    TcpReset,
    /// Answered with ICMP port unreachable.
    PortUnreachable,
}

/// One rule, of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The packets' family.
    pub family: Family,
    /// All must hold.
    pub matches: Vec<Match>,
    /// Then this is done.
    pub action: Action,
    /// Shown by `nft list`.
    pub comment: &'static str,
}

/// A base chain of type filter with policy accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it is called.
    pub hook: Hook,
    /// netfilter's priority.
    pub priority: i32,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// Before everything, also before the hook of br_netfilter at the same priority, because of two hooks of one priority the
/// one registered last is called first.
const PRIORITY_FIRST: i32 = i32::MIN;
/// Before connection tracking (-200).
const PRIORITY_RAW: i32 = -300;
/// After connection tracking, before destination NAT (-100).
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;

/// The chains for a listener port, for packets of these families.
pub(crate) fn chains(port: u16, families: &[Family]) -> Vec<Chain> {
    vec![
        Chain {
            name: "prerouting_bridged",
            hook: Hook::Prerouting,
            priority: PRIORITY_FIRST,
            rules: bridged(port, families),
        },
        Chain {
            name: "prerouting_raw",
            hook: Hook::Prerouting,
            priority: PRIORITY_RAW,
            rules: untracked(families),
        },
        Chain { name: "output_raw", hook: Hook::Output, priority: PRIORITY_RAW, rules: untracked(families) },
        Chain {
            name: "prerouting",
            hook: Hook::Prerouting,
            priority: PRIORITY_MANGLE,
            rules: intercepted(port, families),
        },
        Chain { name: "input", hook: Hook::Input, priority: PRIORITY_FILTER, rules: refused(families) },
    ]
}

fn untracked(families: &[Family]) -> Vec<Rule> {
    let rule = |family, side, comment| Rule {
        family,
        matches: vec![Match::Frontend(side)],
        action: Action::Notrack,
        comment,
    };
    families
        .iter()
        .flat_map(|&family| {
            [
                rule(family, Side::Destination, "no tracking to frontends"),
                rule(family, Side::Source, "no tracking from frontends"),
            ]
        })
        .collect()
}

/// With `net.bridge.bridge-nf-call-iptables`, which Kubernetes wants, a packet from a pod on a bridge passes prerouting when
/// it enters the bridge. When it leaves the bridge for the host, `ip_rcv` forgets the socket that TPROXY chose, and
/// br_netfilter skips prerouting (`ip_sabotage_in`). This chain comes before that and chooses the socket once more.
fn bridged(port: u16, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        for l4 in [L4::Tcp, L4::Udp] {
            let mut rule = to_listener(family, l4, port, "frontends to the listener, from a bridge");
            rule.matches.insert(0, Match::NotFromLoopback);
            rules.push(rule);
        }
    }
    rules
}

/// TPROXY takes only TCP and UDP, and nft wants the protocol said before it; two rules need no anonymous set.
fn to_listener(family: Family, l4: L4, port: u16, comment: &'static str) -> Rule {
    let listener = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    Rule {
        family,
        matches: vec![Match::Is(l4), Match::Frontend(Side::Destination)],
        action: Action::Tproxy(SocketAddr::new(listener, port)),
        comment,
    }
}

/// TPROXY lets a packet pass when nobody listens, as while a killed agent is started again. Whoever listens on all
/// addresses of the host would get it, so it is dropped: the client tries again, and a restart within its patience costs a
/// delay instead of an error. What does not open a TCP connection needs no rule: without a connection, the host resets it.
fn intercepted(port: u16, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        let to_frontend = Match::Frontend(Side::Destination);
        for l4 in [L4::Tcp, L4::Udp] {
            rules.push(to_listener(family, l4, port, "frontends to the listener"));
        }
        for matches in
            [vec![Match::Is(L4::Tcp), Match::Syn, to_frontend], vec![Match::Is(L4::Udp), to_frontend]]
        {
            rules.push(Rule { family, matches, action: Action::Drop, comment: "nobody listens: try again" });
        }
    }
    rules
}

/// Keeps what listens on all addresses of the host from answering at a virtual address, and says so at once. Only what
/// opens a TCP connection is refused, so that connections outlive their frontend: the last endpoint of a Service may
/// go while clients still talk to it. ICMP is let through, or nobody could ping.
fn refused(families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        rules.push(Rule {
            family,
            matches: vec![Match::ToVip, Match::Is(L4::Tcp), Match::Syn, Match::NotToFrontend],
            action: Action::TcpReset,
            comment: "no such frontend",
        });
        let icmp = match family {
            Family::V4 => L4::Icmp,
            Family::V6 => L4::Icmpv6,
        };
        rules.push(Rule {
            family,
            matches: vec![Match::ToVip, Match::IsNot(L4::Tcp), Match::IsNot(icmp), Match::NotToFrontend],
            action: Action::PortUnreachable,
            comment: "no such frontend",
        });
    }
    rules
}
