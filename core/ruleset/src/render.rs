//! The ruleset as text.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;

use crate::{
    Action, Chain, ChainType, Family, Hook, Key, L4, Match, Member, PICKS, ROUTE_PROTOCOL, Rule, Ruleset,
    SetKind, Side, TABLE, VIAS, VipRoute, WAYS, iptables, masquerade_chain, masquerade_number,
};

/// The table as `nft -f` takes it, replacing one that is there; the routes and the device as comments, in the words
/// of `ip`. Rules of sessions, and those that look up a chain's number and then the chain, are comments too: they use
/// registers in a way that nft has no words for.
pub fn nft(ruleset: &Ruleset) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_nft(&mut text, ruleset);
    text
}

/// The rules of one family as `iptables-restore --noflush` takes them where there are none of ours. They need the sets
/// of [`ipset`].
pub fn iptables(ruleset: &Ruleset, family: Family) -> String {
    iptables::Rules::of(ruleset, family).restore(&Default::default())
}

/// The sets of one family as `ipset restore` takes them where there are none of ours.
pub fn ipset(ruleset: &Ruleset, family: Family) -> String {
    let sets = iptables::Rules::of(ruleset, family).sets;
    let mut text: String = sets.iter().map(|(name, set)| set.create(name, family) + "\n").collect();
    for (name, set) in &sets {
        text.extend(set.elements.iter().map(|element| format!("add {name} {element}\n")));
    }
    text
}

fn write_nft(out: &mut String, ruleset: &Ruleset) -> fmt::Result {
    writeln!(out, "# ip link add {} type bridge", ruleset.device.name)?;
    for address in &ruleset.device.addresses {
        let nodad = if address.addr.is_ipv6() { " nodad" } else { "" };
        writeln!(out, "# ip address add {address} dev {}{nodad}", ruleset.device.name)?;
    }
    for route in ruleset.vips.values() {
        writeln!(out, "# {}", route_line(route))?;
    }
    writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
    // A map of verdicts needs the chains it leads to; nft reads the whole before it sends it.
    let members = ruleset.members();
    for &family in ruleset.families {
        for set in SetKind::ALL {
            let own = members.iter().filter(|it| it.set() == set && it.family() == family);
            write_set(out, set, family, own)?;
        }
    }
    write_verdicts(out, PICKS, "mark", ruleset.picks.keys().map(|it| (mark(it.number()), it.chain_name())))?;
    let ways =
        VIAS.map(|via| (mark(masquerade_number(via)), masquerade_chain(via).unwrap_or_default().to_owned()));
    let ways = ways.into_iter().filter(|(_, chain)| ruleset.chains.iter().any(|it| it.name == *chain));
    write_verdicts(out, WAYS, "mark", ways)?;
    for chain in ruleset.all_chains() {
        write_chain(out, &chain)?;
    }
    writeln!(out, "}}")
}

fn route_line(route: &VipRoute) -> String {
    let VipRoute { vip, source } = route;
    let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
    format!("ip route add local {vip} dev lo table local proto {ROUTE_PROTOCOL}{source}")
}

fn set_type(set: SetKind, family: Family) -> String {
    let (address, ip) = match family {
        Family::V4 => ("ipv4_addr", "ip"),
        Family::V6 => ("ipv6_addr", "ip6"),
    };
    let frontend = format!("{address} . inet_proto . inet_service");
    match set {
        SetKind::Proxied
        | SetKind::Mixed
        | SetKind::Dropped
        | SetKind::Inside
        | SetKind::Rejected
        | SetKind::Restricted => {
            format!("set {}|type {frontend}", set.name(family))
        }
        SetKind::Vips => format!("set {}|type {address}", set.name(family)),
        SetKind::Hairpins => format!("set {}|type {address} . {address}", set.name(family)),
        SetKind::Live => {
            format!("map {}|type {frontend} . mark : {address} . inet_service", set.name(family))
        }
        SetKind::Numbers => format!("map {}|type {frontend} . mark : mark", set.name(family)),
        SetKind::Own => format!("set {}|type {frontend} . {address}", set.name(family)),
        SetKind::Allowed => format!("set {}|type {frontend} . {address}|flags interval", set.name(family)),
        SetKind::Services => format!("map {}|type {frontend} : mark", set.name(family)),
        SetKind::Backends => format!("map {}|type {frontend} : mark", set.name(family)),
        SetKind::Endpoints => format!(
            "map {}|typeof {ip} daddr . meta l4proto . th dport . numgen random mod 65536 : {ip} daddr . th dport",
            set.name(family)
        ),
        SetKind::Sessions => format!(
            "map {}|typeof {ip} saddr . {ip} daddr . meta l4proto . th dport : meta mark|size {}|flags dynamic,timeout",
            set.name(family),
            crate::MAX_SESSIONS
        ),
    }
}

fn write_set<'a>(
    out: &mut String,
    set: SetKind,
    family: Family,
    members: impl Iterator<Item = &'a Member>,
) -> fmt::Result {
    write_elements(out, &set_type(set, family), members.map(element))
}

fn write_verdicts(
    out: &mut String,
    name: &str,
    key: &str,
    chains: impl Iterator<Item = (String, String)>,
) -> fmt::Result {
    let elements = chains.map(|(number, chain)| format!("{number} : goto {chain}"));
    write_elements(out, &format!("map {name}|type {key} : verdict"), elements)
}

fn write_elements(out: &mut String, head: &str, elements: impl Iterator<Item = String>) -> fmt::Result {
    let mut lines = head.split('|');
    writeln!(out, "\t{} {{", lines.next().unwrap_or_default())?;
    for line in lines {
        writeln!(out, "\t\t{line}")?;
    }
    let mut elements = elements.peekable();
    if elements.peek().is_some() {
        writeln!(out, "\t\telements = {{")?;
        for element in elements {
            writeln!(out, "\t\t\t{element},")?;
        }
        writeln!(out, "\t\t}}")?;
    }
    writeln!(out, "\t}}\n")
}

/// A number as nft prints marks.
fn mark(number: u32) -> String {
    format!("{number:#010x}")
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn element(member: &Member) -> String {
    let key = |it: &Frontend| format!("{} . {} . {}", it.ip, protocol_name(it.protocol), it.port);
    let end = |addr: &SocketAddr| format!("{} . {}", addr.ip(), addr.port());
    match member {
        Member::Proxied(it)
        | Member::Mixed(it)
        | Member::Dropped(it)
        | Member::Inside(it)
        | Member::Rejected(it)
        | Member::Restricted(it) => key(it),
        Member::Service(it, pick) => format!("{} : {}", key(it), mark(pick.number())),
        Member::Endpoint(it, slot, addr) => format!("{} . {slot} : {}", key(it), end(addr)),
        Member::Live(it, number, addr) => format!("{} . {} : {}", key(it), mark(*number), end(addr)),
        Member::Number(it, slot, number) => {
            format!("{} . {} : {}", key(it), mark((*slot).into()), mark(*number))
        }
        Member::Vip(ip) => ip.to_string(),
        Member::Backend(addr, protocol, via) => format!(
            "{} . {} . {} : {}",
            addr.ip(),
            protocol_name(*protocol),
            addr.port(),
            mark(masquerade_number(*via))
        ),
        Member::Hairpin(ip) => format!("{ip} . {ip}"),
        Member::Own(it, ip) => format!("{} . {ip}", key(it)),
        Member::Allowed(it, range) => format!("{} . {range}", key(it)),
    }
}

fn write_chain(out: &mut String, chain: &Chain) -> fmt::Result {
    writeln!(out, "\tchain {} {{", chain.name)?;
    if let Some(base) = chain.base {
        let kind = match base.kind {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
        };
        let hook = match base.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        writeln!(out, "\t\ttype {kind} hook {hook} priority {}; policy accept;", base.priority)?;
    }
    for rule in &chain.rules {
        writeln!(out, "\t\t{}", rule_line(rule))?;
    }
    writeln!(out, "\t}}\n")
}

fn rule_line(rule: &Rule) -> String {
    let ip = match rule.family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let mut words = Vec::new();
    // Nothing else in these rules tells the family.
    if !rule.matches.iter().any(|it| matches!(it, Match::In(..) | Match::NotIn(..) | Match::SourceIn(_))) {
        words.push(format!("meta nfproto {}", if ip == "ip" { "ipv4" } else { "ipv6" }));
    }
    words.extend(rule.matches.iter().map(|it| match_words(*it, rule.family, ip)));
    words.push(action_words(rule.action, rule.family, ip));
    words.push(format!("comment \"{}\"", rule.comment));
    let line = words.join(" ");
    match rule.action {
        Action::Resume(_) | Action::Forget | Action::Begin(..) | Action::ByFrontend | Action::ByBackend => {
            format!("# {line}")
        }
        _ => line,
    }
}

fn action_words(action: Action, family: Family, ip: &str) -> String {
    let frontend = format!("{ip} daddr . meta l4proto . th dport");
    let slot = |slots: u16| {
        format!("{frontend} . numgen random mod {slots} map @{}", SetKind::Endpoints.name(family))
    };
    let any = "meta l4proto { tcp, udp, sctp }";
    match action {
        Action::Notrack => "notrack".to_owned(),
        Action::Tproxy(listener) => format!("tproxy {ip} to {listener} accept"),
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::TcpReset => "reject with tcp reset".to_owned(),
        Action::PortUnreachable => "reject with icmpx type port-unreachable".to_owned(),
        Action::ByFrontend => format!("{frontend} map @{} vmap @{PICKS}", SetKind::Services.name(family)),
        Action::ByBackend => format!("{frontend} map @{} vmap @{WAYS}", SetKind::Backends.name(family)),
        Action::Claim => format!("{any} dnat {ip} to {ip} daddr : th dport"),
        Action::Resume(timeout) => {
            format!("dnat {ip} to session of {ip} saddr . {frontend} renewed for {timeout}s")
        }
        Action::Forget => {
            format!("delete @{} {{ {ip} saddr . {frontend} }}", SetKind::Sessions.name(family))
        }
        Action::Begin(slots, timeout) => {
            format!("dnat {ip} addr . port to {} and keep the session for {timeout}s", slot(slots))
        }
        Action::Translate(slots) => format!("{any} dnat {ip} addr . port to {}", slot(slots)),
        Action::Masquerade => "masquerade".to_owned(),
    }
}

fn match_words(it: Match, family: Family, ip: &str) -> String {
    let key_words = |key| match key {
        Key::Frontend(Side::Destination) => format!("{ip} daddr . meta l4proto . th dport"),
        Key::Frontend(Side::Source) => format!("{ip} saddr . meta l4proto . th sport"),
        Key::Destination => format!("{ip} daddr"),
        Key::Hairpin => format!("{ip} saddr . {ip} daddr"),
        Key::FrontendAndSource => format!("{ip} daddr . meta l4proto . th dport . {ip} saddr"),
    };
    match it {
        Match::Is(l4) => format!("meta l4proto {}", protocol(l4)),
        Match::IsNot(l4) => format!("meta l4proto != {}", protocol(l4)),
        Match::FromLoopback => "iif \"lo\"".to_owned(),
        Match::NotFromLoopback => "iif != \"lo\"".to_owned(),
        Match::In(set, key) => format!("{} @{}", key_words(key), set.name(family)),
        Match::NotIn(set, key) => format!("{} != @{}", key_words(key), set.name(family)),
        Match::Syn => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
        Match::Tracked => "ct state established,new".to_owned(),
        Match::Translated => "ct status dnat".to_owned(),
        Match::FromHost => "fib saddr type local".to_owned(),
        Match::SourceIn(range) => format!("{ip} saddr {range}"),
        Match::DestinationIn(range) => format!("{ip} daddr {range}"),
        Match::Chance(share) => format!("numgen random mod 256 < {share}"),
    }
}

fn protocol(l4: L4) -> &'static str {
    match l4 {
        L4::Tcp => "tcp",
        L4::Udp => "udp",
        L4::Icmp => "icmp",
        L4::Icmpv6 => "ipv6-icmp",
    }
}
