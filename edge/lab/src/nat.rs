//! Address translation and filtering of routers and nodes.

use std::io;
use std::net::Ipv4Addr;

use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Cmp, Expr, Family, Hook, KeyType, LearnOp, Learned, Meta, Nat, Nft,
    PayloadBase, Rule, Set, Table, ct_state, nat_flags,
};

use crate::plan::NodePlan;
use crate::site::{Filtering, Mapping, Nat as Translation, Outbound, Unsolicited};

const TABLE: Table<'static> = Table { family: Family::Inet, name: "lab" };

/// netfilter's own places for translation (`NF_IP_PRI_NAT_SRC`, `NF_IP_PRI_NAT_DST`) and filtering (`NF_IP_PRI_FILTER`).
const PRIORITY_SOURCE_NAT: i32 = 100;
const PRIORITY_DEST_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;

const SOURCE_NAT: Chain<'static> =
    chain("source-nat", ChainKind::Nat, Hook::Postrouting, PRIORITY_SOURCE_NAT);

const fn chain(name: &'static str, kind: ChainKind, hook: Hook, priority: i32) -> Chain<'static> {
    Chain { name, base: Some(Base { kind, hook, priority, drop: false }) }
}

/// Installs the rules of a router with this outer address in the network namespace of the calling thread.
pub(crate) fn install(nat: Translation, outer: Ipv4Addr, outbound: Outbound) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    filter(&mut batch, nat, outbound);
    match nat.mapping {
        Mapping::None => {}
        Mapping::EndpointIndependent => endpoint_independent(&mut batch, nat, outer),
        Mapping::AddressAndPortDependent => {
            batch.add_chain(TABLE, SOURCE_NAT);
            let rule = from_lan().masquerade(nat_flags::FULLY_RANDOM);
            batch.add_rule(TABLE, SOURCE_NAT.name, &rule);
        }
    }
    commit(&batch)
}

fn from_lan() -> Rule {
    Rule::new().oifname("wan").nfproto(Family::Ip)
}

/// Gives every inner address and port one outer port. A plain masquerade does so only for the first host that uses a
/// port: a second one with the same port keeps it towards some destinations and gets another one towards others.
fn endpoint_independent(batch: &mut Batch, nat: Translation, outer: Ipv4Addr) {
    use KeyType::{InetProto, InetService, Ipv4Addr};
    // Which outer port an inner address and port has, and the way back.
    let out = Set { name: OUT, key: &[InetProto, Ipv4Addr, InetService], data: &[InetService] };
    let back = Set { name: BACK, key: &[InetProto, InetService], data: &[Ipv4Addr, InetService] };
    batch.add_learned_map(TABLE, out, LEARNED);
    batch.add_learned_map(TABLE, back, LEARNED);
    batch.add_chain(TABLE, SOURCE_NAT);
    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
        for rule in endpoint_independent_rules(protocol as u8, outer) {
            batch.add_rule(TABLE, SOURCE_NAT.name, &rule);
        }
    }
    // ICMP echoes and whatever else has no ports.
    batch.add_rule(TABLE, SOURCE_NAT.name, &from_lan().masquerade(0));
    // What is filtered by its address is so after its destination is known.
    if nat.filtering != Filtering::AddressAndPortDependent {
        batch.add_chain(TABLE, chain("destination-nat", ChainKind::Nat, Hook::Prerouting, PRIORITY_DEST_NAT));
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let rule = Rule::new().iifname("wan").nfproto(Family::Ip).l4proto(Cmp::Eq, protocol as u8);
            let rule = rule
                .expr(l4proto(1))
                .expr(destination_port(2))
                .expr(look_up(BACK, 1, 4))
                .expr(Expr::Nat { kind: Nat::Dnat, family: Family::Ip, addr: 4, port: Some(5), flags: 0 });
            batch.add_rule(TABLE, "destination-nat", &rule);
        }
    }
}

/// The map from protocol, inner address and inner port to the outer port, and the map back.
const OUT: &str = "out";
const BACK: &str = "back";

/// As many as a transport protocol has ports.
const LEARNED: Learned = Learned { size: 65_535, timeout: None };

/// Outer ports that are drawn: above the ports Linux hosts take for themselves (ip_local_port_range ends at 60999), so
/// that no host keeps one of them as its own.
const FIRST_OUTER_PORT: u32 = 61_000;
const OUTER_PORTS: u32 = 4_000;

const fn l4proto(reg: u32) -> Expr {
    Expr::Meta { key: Meta::L4proto, reg }
}

/// The source address of an IPv4 header.
const fn source(reg: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, reg }
}

/// The destination address of an IPv4 header.
const fn destination(reg: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, reg }
}

/// The source port of a TCP or UDP header.
const fn source_port(reg: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 2, reg }
}

/// The destination port of a TCP or UDP header.
const fn destination_port(reg: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, reg }
}

fn look_up(set: &str, reg: u32, value: u32) -> Expr {
    Expr::Lookup { set: set.into(), reg, invert: false, value: Some(value) }
}

fn learn(set: &str, key: u32, value: u32) -> Expr {
    Expr::Learn { op: LearnOp::Add, set: set.into(), key, value: Some(value), timeout: None }
}

/// What the first packet of a connection goes through. Nothing that a map holds is ever changed.
fn endpoint_independent_rules(protocol: u8, outer: Ipv4Addr) -> [Rule; 5] {
    let flow = |exprs: Vec<Expr>| exprs.into_iter().fold(from_lan().l4proto(Cmp::Eq, protocol), Rule::expr);
    [
        // The first inner host that uses a port owns the outer port of the same number.
        flow(vec![l4proto(1), source_port(2), source(3), source_port(4), learn(BACK, 1, 3)]),
        // Whoever owns that outer port has it, be it this host or another.
        flow(vec![l4proto(1), source_port(2), look_up(BACK, 1, 4), l4proto(3), learn(OUT, 3, 2)]),
        // A host that has none by now draws one.
        flow(vec![
            l4proto(1),
            source(2),
            source_port(3),
            Expr::NumgenFrom { reg: 4, modulus: OUTER_PORTS, offset: FIRST_OUTER_PORT },
            Expr::HtonU16 { reg: 4 },
            learn(OUT, 1, 4),
        ]),
        // The way back to a drawn port.
        flow(vec![l4proto(1), source(2), source_port(3), look_up(OUT, 1, 6), l4proto(5), learn(BACK, 5, 2)]),
        flow(vec![
            l4proto(1),
            source(2),
            source_port(3),
            look_up(OUT, 1, 6),
            Expr::Immediate { reg: 5, data: outer.octets().to_vec() },
            Expr::Nat { kind: Nat::Snat, family: Family::Ip, addr: 5, port: Some(6), flags: 0 },
        ]),
    ]
}

/// Lets nothing in from outside that nobody inside asked for, and nothing out that is not allowed.
fn filter(batch: &mut Batch, nat: Translation, outbound: Outbound) {
    const FORWARD: Chain<'static> = chain("forward", ChainKind::Filter, Hook::Forward, PRIORITY_FILTER);
    batch.add_chain(TABLE, chain("input", ChainKind::Filter, Hook::Input, PRIORITY_FILTER));
    batch.add_chain(TABLE, FORWARD);
    for rule in kept_in(outbound) {
        batch.add_rule(TABLE, FORWARD.name, &rule);
    }
    let unasked = ct_state::NEW | ct_state::INVALID;
    // Without a rule the router's own stack answers: a reset or an ICMP error, for nobody listens there.
    if nat.unsolicited == Unsolicited::Drop {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let rule = Rule::new().iifname("wan").ct_state(unasked).l4proto(Cmp::Eq, protocol as u8);
            batch.add_rule(TABLE, "input", &rule.drop());
        }
    }
    if nat.mapping != Mapping::None && nat.filtering == Filtering::AddressDependent {
        by_address(batch, FORWARD.name);
    }
    // With endpoint-independent filtering, what comes in new was sent to a mapped port: nothing else is forwarded.
    if nat.mapping != Mapping::None && nat.filtering != Filtering::EndpointIndependent {
        let rule = Rule::new().iifname("wan").nfproto(Family::Ip).ct_state(unasked);
        batch.add_rule(TABLE, FORWARD.name, &rule.drop());
    }
    let rule = Rule::new().iifname("wan").nfproto(Family::Ip6).ct_state(unasked);
    batch.add_rule(TABLE, FORWARD.name, &rule.drop());
}

/// The rules that drop what may not go out.
fn kept_in(outbound: Outbound) -> Vec<Rule> {
    let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
    // Only what begins is looked at: answers to what came in go out.
    let begins = || Rule::new().oifname("wan").ct_state(ct_state::NEW);
    match outbound {
        Outbound::All => Vec::new(),
        Outbound::NoUdp => vec![begins().l4proto(Cmp::Eq, udp).drop()],
        Outbound::Tcp443 => {
            let https = 443_u16.to_be_bytes();
            let other = begins().l4proto(Cmp::Eq, tcp).payload(PayloadBase::Transport, 2, Cmp::Neq, &https);
            vec![begins().l4proto(Cmp::Neq, tcp).drop(), other.drop()]
        }
    }
}

/// Lets in what comes to a mapped port from any port of an address that the inner address and port has sent to.
fn by_address(batch: &mut Batch, forward: &str) {
    use KeyType::{InetProto, InetService, Ipv4Addr};
    /// Protocol, inner address and port, outer address.
    const ASKED: &str = "asked";
    let asked = Set { name: ASKED, key: &[InetProto, Ipv4Addr, InetService, Ipv4Addr], data: &[] };
    batch.add_learned_map(TABLE, asked, LEARNED);
    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
        let of = |rule: Rule, exprs: [Expr; 5]| {
            exprs.into_iter().fold(rule.nfproto(Family::Ip).l4proto(Cmp::Eq, protocol as u8), Rule::expr)
        };
        let asks = Expr::Learn { op: LearnOp::Add, set: ASKED.into(), key: 1, value: None, timeout: None };
        let exprs = [l4proto(1), source(2), source_port(3), destination(4), asks];
        batch.add_rule(TABLE, forward, &of(Rule::new().oifname("wan"), exprs));
        // The destination is the inner one by now.
        let known = Expr::Lookup { set: ASKED.into(), reg: 1, invert: false, value: None };
        let exprs = [l4proto(1), destination(2), destination_port(3), source(4), known];
        let came = Rule::new().iifname("wan").ct_state(ct_state::NEW);
        batch.add_rule(TABLE, forward, &of(came, exprs).accept());
    }
}

/// Gives what pods send beyond their node the node's address, as container runtimes do.
pub(crate) fn masquerade_pods(node: &NodePlan) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_chain(TABLE, SOURCE_NAT);
    // The source address lies 12 bytes into an IPv4 header and 8 into an IPv6 header; pod ranges end at a byte.
    let (v4, v6) = (node.spec.pods4, node.spec.pods6);
    let network4 = v4.network().octets();
    let network6 = v6.network().octets();
    let parts: [(Family, u32, &[u8]); 2] = [
        (Family::Ip, 12, &network4[..usize::from(v4.prefix_len() / 8)]),
        (Family::Ip6, 8, &network6[..usize::from(v6.prefix_len() / 8)]),
    ];
    for (family, offset, network) in parts {
        let rule = Rule::new().oifname("eth0").nfproto(family);
        let rule = rule.payload(PayloadBase::Network, offset, Cmp::Eq, network).masquerade(0);
        batch.add_rule(TABLE, SOURCE_NAT.name, &rule);
    }
    commit(&batch)
}

fn commit(batch: &Batch) -> io::Result<()> {
    let mut nft = Nft::open().map_err(io::Error::other)?;
    nft.commit(batch).map(drop).map_err(io::Error::other)
}
