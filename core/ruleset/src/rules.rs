use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use edgemesh_mesh::HostFacts;
use edgemesh_route::Via;
use ipnet::IpNet;

use crate::{Population, RulesetSettings, SetKind};

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
}

/// Where a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "netfilter's own names")]
pub enum Hook {
    Prerouting,
    Input,
    Output,
    Postrouting,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "netfilter's own names")]
pub enum ChainType {
    Filter,
    Nat,
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

/// What is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Address, protocol and port of an end.
    Frontend(Side),
    /// The destination address.
    Destination,
    /// Source and destination address.
    Hairpin,
    /// The destination as a frontend, and the source address.
    FrontendAndSource,
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
    /// Came from the loopback: this host sent it.
    FromLoopback,
    /// The key is in the set.
    In(SetKind, Key),
    /// The key is not in the set.
    NotIn(SetKind, Key),
    /// Opens a TCP connection.
    Syn,
    /// Belongs to a connection that is tracked.
    Tracked,
    /// Its connection's destination was translated.
    Translated,
    /// The source is an address of this host.
    FromHost,
    /// The source is in the range.
    SourceIn(IpNet),
    /// The destination is in the range.
    DestinationIn(IpNet),
    /// Drawn by lot: so many of 256.
    Chance(u8),
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kept out of connection tracking, and so of everybody's NAT rules.
    Notrack,
    /// Given to the transparent listener at this address.
    Tproxy(SocketAddr),
    /// Goes on to the next chain.
    Accept,
    /// Dropped silently.
    Drop,
    /// Answered with a TCP reset.
    TcpReset,
    /// Answered with ICMP port unreachable.
    PortUnreachable,
    /// Goes on in the chain of its frontend, if it has one.
    ByFrontend,
    /// Goes on in the chain of its endpoint, if it has one.
    ByBackend,
    /// "Translated" to where it goes anyway, so that no other NAT rule translates the connection.
    Claim,
    /// Translated to the endpoint of the client's session, which lasts so many seconds from now on; passed by if it has
    /// none, or its endpoint is none any more.
    Resume(u32),
    /// Translated to the endpoint of one slot of so many, drawn by lot.
    Translate(u16),
    /// The client's session is forgotten.
    Forget,
    /// As [`Action::Translate`], and a session of so many seconds begins; passed by when there are too many.
    Begin(u16, u32),
    /// The source becomes the host's own address.
    Masquerade,
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

/// A base chain's place. The policy is always to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainType,
    /// Where it is called.
    pub hook: Hook,
    /// netfilter's priority.
    pub priority: i32,
}

/// A chain; without a base it is only gone to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it is called.
    pub base: Option<Base>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// The longest session in seconds: a day is the most that the Kubernetes API takes (`timeoutSeconds`).
pub(crate) const MAX_AFFINITY: u32 = 86_400;

/// A chain that picks an endpoint. All frontends with as many endpoints share one, so there are as many chains as there
/// are sizes, and the cost of a connection does not depend on the number of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// Among how many.
    pub slots: u16,
    /// How many of 256 connections go to the listener.
    pub proxied: u8,
    /// Seconds a client's session lasts; 0 where there are none.
    pub affinity: u32,
}

impl Pick {
    /// Name of the chain.
    pub fn chain_name(&self) -> String {
        let mut name = format!("pick_{}", self.slots);
        if self.proxied > 0 {
            name += &format!("_proxied_{}", self.proxied);
        }
        if self.affinity > 0 {
            name += &format!("_affinity_{}", self.affinity);
        }
        name
    }

    /// What stands for the chain in the map of Services, so that none of its many elements is a verdict.
    /// Frontends with sessions are never shared, so that 10 bits for the slots, 17 for a day of seconds and
    /// one to tell the two are enough.
    pub fn number(&self) -> u32 {
        let slots = u32::from(self.slots.saturating_sub(1));
        match self.affinity {
            0 => slots << 8 | u32::from(self.proxied),
            seconds => 1 << 27 | slots << 17 | seconds.min(MAX_AFFINITY),
        }
    }

    /// The chain, for packets of these families.
    pub fn chain(&self, families: &[Family]) -> Chain {
        let mut rules = Vec::new();
        for &family in families {
            let mut rule = |matches, action, comment| rules.push(Rule { family, matches, action, comment });
            if self.proxied > 0 {
                rule(vec![Match::Chance(self.proxied)], Action::Claim, "the listener's share");
            }
            if self.affinity > 0 {
                rule(vec![], Action::Resume(self.affinity), "the session's endpoint");
                // A session that stands keeps its endpoint, also when it is refreshed.
                rule(vec![], Action::Forget, "a session whose endpoint is gone");
                rule(vec![], Action::Begin(self.slots, self.affinity), "one of the endpoints");
            }
            rule(vec![], Action::Translate(self.slots), "one of the endpoints");
        }
        Chain { name: self.chain_name(), base: None, rules }
    }
}

/// Before everything, also before the hook of br_netfilter at the same priority, because of two hooks of one priority the
/// one registered last is called first.
const PRIORITY_FIRST: i32 = i32::MIN;
/// Before connection tracking (-200).
const PRIORITY_RAW: i32 = -300;
/// After connection tracking, before destination NAT (-100).
const PRIORITY_MANGLE: i32 = -150;
/// Just before everybody else's destination NAT (-100): of the chains of one hook, the first that translates a connection
/// does it for all. kube-proxy, Docker and firewalld stand at -100.
const PRIORITY_DNAT: i32 = -105;
/// After destination NAT, and after everybody's checks of where packets come from (firewalld's is at 10): since Linux 6.16
/// the `fib` of nftables takes a packet whose socket was chosen for one that did not come by the loopback, and finds no
/// way back for what the host itself sent.
const PRIORITY_LISTENER: i32 = 50;
const PRIORITY_FILTER: i32 = 0;
/// Just before everybody else's source NAT (100), which would masquerade what needs none.
const PRIORITY_SNAT: i32 = 95;

/// Name of the chain that looks at packets from bridges.
pub(crate) const BRIDGED: &str = "prerouting_bridged";

/// The chains that depend on the settings, the host, and which sets have elements. Those that others go to come first.
pub(crate) fn chains(
    host: &HostFacts,
    settings: &RulesetSettings,
    families: &[Family],
    population: &Population,
) -> Vec<Chain> {
    let filter = |name, hook, priority, rules| base(name, ChainType::Filter, hook, priority, rules);
    let port = settings.port;
    let mut chains = vec![
        filter(BRIDGED, Hook::Prerouting, PRIORITY_FIRST, bridged(host, port, families)),
        filter("prerouting_raw", Hook::Prerouting, PRIORITY_RAW, untracked(families, &[Match::FromLoopback])),
        filter("output_raw", Hook::Output, PRIORITY_RAW, untracked(families, &[])),
        filter("prerouting", Hook::Prerouting, PRIORITY_MANGLE, kept_off(host, families)),
        filter(
            "prerouting_listener",
            Hook::Prerouting,
            PRIORITY_LISTENER,
            to_the_listener(port, families, settings.kernel_path, population),
        ),
        filter("input", Hook::Input, PRIORITY_FILTER, refused(families, population)),
    ];
    if settings.kernel_path {
        let nat = |name, hook, priority, rules| base(name, ChainType::Nat, hook, priority, rules);
        chains.extend(VIAS.map(|via| masquerading(via, host, families)));
        chains.extend([
            nat("nat_prerouting", Hook::Prerouting, PRIORITY_DNAT, by_frontend(host, families, false)),
            nat("nat_output", Hook::Output, PRIORITY_DNAT, by_frontend(host, families, true)),
            nat("nat_postrouting", Hook::Postrouting, PRIORITY_SNAT, by_backend(families)),
        ]);
    }
    for chain in &mut chains {
        chain.rules.retain(|rule| rule.can_match(population));
    }
    // Every packet pays for a hook, also for one without rules. Those for NAT stay: without any, the kernel would no longer
    // translate the connections there are.
    chains
        .retain(|chain| !chain.rules.is_empty() || chain.base.is_none_or(|base| base.kind == ChainType::Nat));
    chains
}

impl Rule {
    /// Whether the sets it asks for have elements. Those that are filled by other means than frontends count as filled.
    fn can_match(&self, population: &Population) -> bool {
        let has = |set: SetKind| population.has(set, self.family);
        self.matches.iter().all(|it| match it {
            Match::In(SetKind::Vips | SetKind::Hairpins, _) => true,
            Match::In(set, _) => has(*set),
            _ => true,
        }) && (self.action != Action::ByFrontend || has(SetKind::Services))
            && (self.action != Action::ByBackend || has(SetKind::Services))
    }
}

fn base(name: &str, kind: ChainType, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), base: Some(Base { kind, hook, priority }), rules }
}

const TO_FRONTEND: Key = Key::Frontend(Side::Destination);

/// Answers from a frontend leave by `output`, and enter again only where the client is on this host: `answers` tells those
/// apart, so that packets of others are not looked up twice.
fn untracked(families: &[Family], answers: &[Match]) -> Vec<Rule> {
    let rule = |family, before: &[Match], side, comment| {
        let found = Match::In(SetKind::Proxied, Key::Frontend(side));
        let matches = before.iter().copied().chain([found]).collect();
        Rule { family, matches, action: Action::Notrack, comment }
    };
    families
        .iter()
        .flat_map(|&family| {
            [
                rule(family, &[], Side::Destination, "no tracking to frontends"),
                rule(family, answers, Side::Source, "no tracking from frontends"),
            ]
        })
        .collect()
}

/// With `net.bridge.bridge-nf-call-iptables`, which Kubernetes wants, a packet from a pod on a bridge passes prerouting when
/// it enters the bridge. When it leaves the bridge for the host, `ip_rcv` forgets the socket that TPROXY chose, and
/// br_netfilter skips prerouting (`ip_sabotage_in`). This chain comes before that and chooses the socket once more. A
/// packet to a mixed frontend that is tracked already, and not translated, was given to the listener.
fn bridged(host: &HostFacts, port: u16, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !host.bridges_filtered {
        return rules;
    }
    for &family in families {
        for (set, tracked) in [(SetKind::Proxied, None), (SetKind::Mixed, Some(Match::Tracked))] {
            for l4 in [L4::Tcp, L4::Udp] {
                let mut rule = to_listener(family, l4, set, port, "frontends to the listener, from a bridge");
                rule.matches.splice(0..0, [Some(Match::NotFromLoopback), tracked].into_iter().flatten());
                rules.push(rule);
            }
        }
    }
    rules
}

/// TPROXY takes only TCP and UDP, and nft wants the protocol said before it; two rules need no anonymous set.
fn to_listener(family: Family, l4: L4, set: SetKind, port: u16, comment: &'static str) -> Rule {
    let listener = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    Rule {
        family,
        matches: vec![Match::Is(l4), Match::In(set, TO_FRONTEND)],
        action: Action::Tproxy(SocketAddr::new(listener, port)),
        comment,
    }
}

/// What nobody gets; before destination NAT, which would hide where it goes.
fn kept_off(host: &HostFacts, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        for mut matches in sources_inside(host, family) {
            matches.push(Match::In(SetKind::Inside, TO_FRONTEND));
            let comment = "the traffic policy is not for this node and its Pods";
            rules.push(Rule { family, matches, action: Action::Accept, comment });
        }
        let mut drop = |matches, comment| rules.push(Rule { family, matches, action: Action::Drop, comment });
        drop(vec![Match::In(SetKind::Dropped, TO_FRONTEND)], "no endpoint that the traffic policy allows");
        drop(
            vec![
                Match::NotFromLoopback,
                Match::In(SetKind::Restricted, TO_FRONTEND),
                Match::NotIn(SetKind::Allowed, Key::FrontendAndSource),
            ],
            "not from a source range of the load balancer",
        );
    }
    rules
}

/// What the chains for destination NAT left to the listener, and what goes to it as a whole.
fn to_the_listener(port: u16, families: &[Family], kernel_path: bool, population: &Population) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        if kernel_path {
            listened(&mut rules, family, SetKind::Mixed, port);
        }
        if population.has(SetKind::Proxied, family) {
            // No packet of what goes there as a whole is tracked; this is cheaper than to look each one up.
            let (matches, comment) = (vec![Match::Tracked], "not to the listener");
            rules.push(Rule { family, matches, action: Action::Accept, comment });
        }
        listened(&mut rules, family, SetKind::Proxied, port);
    }
    rules
}

/// TPROXY lets a packet pass when nobody listens, as while a killed agent is started again. Whoever listens on all
/// addresses of the host would get it, so it is dropped: the client tries again, and a restart within its patience costs a
/// delay instead of an error. What does not open a TCP connection needs no rule: without a connection, the host resets it.
fn listened(rules: &mut Vec<Rule>, family: Family, set: SetKind, port: u16) {
    for l4 in [L4::Tcp, L4::Udp] {
        rules.push(to_listener(family, l4, set, port, "frontends to the listener"));
    }
    let to_frontend = Match::In(set, TO_FRONTEND);
    for matches in [vec![Match::Is(L4::Tcp), Match::Syn, to_frontend], vec![Match::Is(L4::Udp), to_frontend]]
    {
        rules.push(Rule { family, matches, action: Action::Drop, comment: "nobody listens: try again" });
    }
}

/// What tells packets of this node, which come by the loopback, and of its Pods.
fn sources_inside(host: &HostFacts, family: Family) -> Vec<Vec<Match>> {
    let ranges = host.pod_ranges.iter().filter(|range| Family::of(range.addr()) == family);
    let ranges = ranges.map(|range| vec![Match::SourceIn(*range)]);
    std::iter::once(vec![Match::FromLoopback]).chain(ranges).collect()
}

/// In `output` every packet is from inside. What the host does not send on is the listener's: without a claim, whoever
/// translates what goes to addresses of the host (Docker, for a published port) or to the same Service would take it.
fn by_frontend(host: &HostFacts, families: &[Family], output: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        if !output && !host.forwards(family == Family::V6) {
            rules.push(Rule {
                family,
                matches: vec![Match::In(SetKind::Mixed, TO_FRONTEND)],
                action: Action::Claim,
                comment: "the host does not send on: to the listener",
            });
            continue;
        }
        let inside = if output { vec![Vec::new()] } else { sources_inside(host, family) };
        for mut matches in inside {
            matches.push(Match::In(SetKind::Inside, TO_FRONTEND));
            let comment = "the traffic policy is not for this node and its Pods";
            rules.push(Rule { family, matches, action: Action::Claim, comment });
        }
        if !output {
            rules.push(Rule {
                family,
                matches: vec![Match::In(SetKind::Own, Key::FrontendAndSource)],
                action: Action::Claim,
                comment: "an endpoint that the kernel would not lead back to itself",
            });
        }
        rules.push(Rule {
            family,
            matches: vec![],
            action: Action::ByFrontend,
            comment: "frontends the kernel translates",
        });
    }
    rules
}

fn by_backend(families: &[Family]) -> Vec<Rule> {
    let rule = |family| Rule {
        family,
        matches: vec![Match::Translated],
        action: Action::ByBackend,
        comment: "whose answers would miss this host",
    };
    families.iter().map(|&family| rule(family)).collect()
}

/// Ways to endpoints whose clients may have to be masqueraded.
pub const VIAS: [Via; 3] = [Via::Pod, Via::PodRoute, Via::Address];

/// Name of the chain that masquerades clients of an endpoint reached this way; `None` where nobody has to be.
pub fn masquerade_chain(via: Via) -> Option<&'static str> {
    match via {
        Via::Host => None,
        Via::Pod => Some("to_pod"),
        Via::PodRoute => Some("to_pod_route"),
        Via::Address => Some("to_address"),
    }
}

/// What stands for the chain in the map of endpoints; 0 where there is no chain.
pub fn masquerade_number(via: Via) -> u32 {
    (1..).zip(VIAS).find(|(_, known)| *known == via).map_or(0, |(number, _)| number)
}

/// Masquerades exactly those clients whom the endpoint would answer on a way that does not lead through this host, where
/// nobody would translate the answer back.
fn masquerading(via: Via, host: &HostFacts, families: &[Family]) -> Chain {
    let mut rules = Vec::new();
    for &family in families {
        let mut rule = |matches, action, comment| rules.push(Rule { family, matches, action, comment });
        let in_family = |prefix: &&IpNet| Family::of(prefix.addr()) == family;
        match via {
            Via::Pod => {
                // Its source may be the mesh device's address, which nobody else knows.
                rule(vec![Match::FromHost], Action::Masquerade, "from this host");
                let hairpin = Match::In(SetKind::Hairpins, Key::Hairpin);
                rule(vec![hairpin], Action::Masquerade, "from a Pod to itself");
                for prefix in shared_links(host).iter().filter(in_family) {
                    let matches = vec![Match::SourceIn(*prefix), Match::DestinationIn(*prefix)];
                    rule(matches, Action::Masquerade, "from the endpoint's own link");
                }
            }
            Via::PodRoute => {
                for prefix in host.pod_ranges.iter().filter(in_family) {
                    rule(vec![Match::SourceIn(*prefix)], Action::Accept, "from a Pod of this node");
                }
                rule(vec![], Action::Masquerade, "from anybody else");
            }
            Via::Host | Via::Address => rule(vec![], Action::Masquerade, "from anybody"),
        }
    }
    Chain { name: masquerade_chain(via).unwrap_or_default().to_owned(), base: None, rules }
}

/// Links on which two neighbours talk to each other without this host seeing it.
fn shared_links(host: &HostFacts) -> BTreeSet<IpNet> {
    let on_link = host.routes.iter().filter(|route| !route.gateway && !route.bridge_filtered);
    let prefixes = on_link.map(|route| route.prefix.trunc());
    prefixes
        .filter(|prefix| prefix.prefix_len() > 0 && prefix.prefix_len() < prefix.max_prefix_len())
        .collect()
}

/// Keeps what listens on all addresses of the host from answering at a virtual address, and says so at once. Only what
/// opens a TCP connection is refused, so that connections outlive their frontend: the last endpoint of a Service may
/// go while clients still talk to it. ICMP is let through, or nobody could ping.
fn refused(families: &[Family], population: &Population) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &family in families {
        let icmp = match family {
            Family::V4 => L4::Icmp,
            Family::V6 => L4::Icmpv6,
        };
        let mut no_frontend = vec![Match::In(SetKind::Vips, Key::Destination)];
        let listened =
            [SetKind::Proxied, SetKind::Mixed].into_iter().filter(|set| population.has(*set, family));
        no_frontend.extend(listened.map(|set| Match::NotIn(set, TO_FRONTEND)));
        let rejected = [Match::In(SetKind::Rejected, TO_FRONTEND)];
        for (matches, comment) in [(&no_frontend[..], "no such frontend"), (&rejected[..], "no endpoint")] {
            let with = |first: &[Match]| first.iter().chain(matches).copied().collect();
            rules.push(Rule {
                family,
                matches: with(&[Match::Is(L4::Tcp), Match::Syn]),
                action: Action::TcpReset,
                comment,
            });
            rules.push(Rule {
                family,
                matches: with(&[Match::IsNot(L4::Tcp), Match::IsNot(icmp)]),
                action: Action::PortUnreachable,
                comment,
            });
        }
    }
    rules
}
