//! The ruleset as text.

use std::fmt::Write;
use std::net::IpAddr;

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;

use crate::{Action, Chain, Family, Hook, L4, Match, ROUTE_PROTOCOL, Rule, Ruleset, Side, TABLE, VipRoute};

/// The table as `nft -f` takes it, replacing one that is there; the routes and the device as comments, in the words
/// of `ip`.
pub fn nft(ruleset: &Ruleset) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_nft(&mut text, ruleset);
    text
}

fn write_nft(out: &mut String, ruleset: &Ruleset) -> std::fmt::Result {
    writeln!(out, "# ip link add {} type bridge", ruleset.device.name)?;
    for address in &ruleset.device.addresses {
        let nodad = if address.addr.is_ipv6() { " nodad" } else { "" };
        writeln!(out, "# ip address add {address} dev {}{nodad}", ruleset.device.name)?;
    }
    for route in &ruleset.routes {
        writeln!(out, "# {}", route_line(route))?;
    }
    writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
    for family in Family::ALL {
        let address = address_type(family);
        let frontends = ruleset.frontends.iter().filter(|frontend| Family::of(frontend.ip) == family);
        let kind = format!("{address} . inet_proto . inet_service");
        write_set(out, family.frontends(), &kind, frontends.map(frontend_element))?;
        let vips = ruleset.vips.iter().filter(|vip| Family::of(**vip) == family);
        write_set(out, family.vips(), address, vips.map(IpAddr::to_string))?;
    }
    for chain in &ruleset.chains {
        write_chain(out, chain)?;
    }
    writeln!(out, "}}")
}

fn route_line(route: &VipRoute) -> String {
    let VipRoute { vip, source } = route;
    let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
    format!("ip route add local {vip} dev lo table local proto {ROUTE_PROTOCOL}{source}")
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn frontend_element(frontend: &Frontend) -> String {
    let protocol = match frontend.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    format!("{} . {protocol} . {}", frontend.ip, frontend.port)
}

fn write_set(
    out: &mut String,
    name: &str,
    kind: &str,
    elements: impl Iterator<Item = String>,
) -> std::fmt::Result {
    writeln!(out, "\tset {name} {{\n\t\ttype {kind}")?;
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

fn write_chain(out: &mut String, chain: &Chain) -> std::fmt::Result {
    let hook = match chain.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
    };
    writeln!(out, "\tchain {} {{", chain.name)?;
    writeln!(out, "\t\ttype filter hook {hook} priority {}; policy accept;", chain.priority)?;
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
    let mut words: Vec<String> = rule.matches.iter().map(|it| match_words(*it, rule.family, ip)).collect();
    words.push(match rule.action {
        Action::Notrack => "notrack".to_owned(),
        Action::Tproxy(listener) => format!("tproxy {ip} to {listener} accept"),
        Action::Drop => "drop".to_owned(),
        Action::TcpReset => "reject with tcp reset".to_owned(),
        Action::PortUnreachable => "reject with icmpx type port-unreachable".to_owned(),
    });
    words.push(format!("comment \"{}\"", rule.comment));
    words.join(" ")
}

fn match_words(it: Match, family: Family, ip: &str) -> String {
    let frontends = family.frontends();
    match it {
        Match::Is(l4) => format!("meta l4proto {}", protocol(l4)),
        Match::IsNot(l4) => format!("meta l4proto != {}", protocol(l4)),
        Match::NotFromLoopback => "iif != \"lo\"".to_owned(),
        Match::ToVip => format!("{ip} daddr @{}", family.vips()),
        Match::Frontend(Side::Destination) => format!("{ip} daddr . meta l4proto . th dport @{frontends}"),
        Match::Frontend(Side::Source) => format!("{ip} saddr . meta l4proto . th sport @{frontends}"),
        Match::NotToFrontend => format!("{ip} daddr . meta l4proto . th dport != @{frontends}"),
        Match::Syn => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
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
