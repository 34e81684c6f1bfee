//! The facts, from the kernel and the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{
    self, Base, Batch, Chain, ChainKind, Expr, FibAddr, Hook, Nat, Nft, Reject, Rule,
};
use edgemesh_net::netlink::rt::Handle;
use edgemesh_net::xtables;
use edgemesh_ruleset::TABLE;

use super::{Agent, Facts, Table, ports};

const OURS: nft::Table<'static> = nft::Table { family: nft::Family::Inet, name: TABLE };
/// Made and deleted in one transaction, to ask what the kernel can.
const PROBE: nft::Table<'static> = nft::Table { family: nft::Family::Inet, name: "edgemesh_check" };

/// Looks at this network namespace, and at the agent behind the socket.
pub(super) fn read(socket: &Path) -> Facts {
    let mut facts = Facts {
        forwarding: ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(switch),
        bridged: ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"].map(switch),
        route_localnet: switch("net/ipv4/conf/all/route_localnet") == Some(true),
        strict: strict(),
        agent: agent(socket),
        ..Facts::default()
    };
    if let Err(error) = read_nftables(&mut facts, socket) {
        facts.unseen.push(format!("nftables cannot be read: {error}"));
    }
    for (place, family) in [xtables::Family::V4, xtables::Family::V6].into_iter().enumerate() {
        facts.legacy[place] = xtables::tables(family);
        match xtables::forward_drops(family) {
            Ok(drops) => facts.legacy_drops[place] = drops,
            Err(error) => {
                facts.unseen.push(format!("the legacy tables of {family:?} cannot be read: {error}"));
            }
        }
    }
    if let Err(error) = read_bridges(&mut facts) {
        facts.unseen.push(format!("devices cannot be read: {error}"));
    }
    if matches!(facts.agent, Agent::Silent) {
        facts.taken = ports::taken();
    }
    facts
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn switch(name: &str) -> Option<bool> {
    Some(sysctl(name)? != "0")
}

/// The kernel takes the larger of the device's value and that for all.
fn strict() -> Vec<String> {
    let value = |device: &str| sysctl(&format!("net/ipv4/conf/{device}/rp_filter"));
    let all = value("all").and_then(|it| it.parse::<u8>().ok()).unwrap_or_default();
    let devices = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = devices.filter_map(|entry| entry.file_name().into_string().ok());
    let mut strict: Vec<String> = names
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .filter(|name| value(name).and_then(|it| it.parse::<u8>().ok()).unwrap_or_default().max(all) == 1)
        .collect();
    strict.sort_unstable();
    strict
}

fn agent(socket: &Path) -> Agent {
    let Ok(text) = edgemesh_admin::fetch(socket, "/status") else { return Agent::Silent };
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let applied = status["applied"].as_array().into_iter().flatten();
    let error = applied.filter_map(|it| it["error"].as_str()).next().map(str::to_owned);
    Agent::Runs { error }
}

fn read_nftables(facts: &mut Facts, socket: &Path) -> Result<(), NetlinkError> {
    let mut nft = Nft::open()?;
    let ours = |table: &str, family| table == OURS.name && family == OURS.family;
    facts.chains = nft.base_chains()?;
    facts.chains.retain(|chain| !ours(&chain.table, chain.family));
    let tables = nft.tables()?;
    let present = tables.iter().any(|it| ours(&it.name, it.family));
    let rules = edgemesh_admin::fetch(socket, "/rules").ok();
    facts.table = match (present, rules) {
        (false, _) => Table::Absent,
        (true, None) => Table::Present,
        (true, Some(text)) => {
            let mut differences = differences(&written(&text), &counted(&mut nft)?);
            // It may have been written between the two looks.
            if !differences.is_empty()
                && let Ok(text) = edgemesh_admin::fetch(socket, "/rules")
            {
                differences = self::differences(&written(&text), &counted(&mut nft)?);
            }
            if differences.is_empty() { Table::Present } else { Table::Changed(differences) }
        }
    };
    read_kube_proxy(facts, &mut nft, &tables, present)?;
    if !present {
        facts.missing = missing(&mut nft)?;
    }
    Ok(())
}

/// Chains of the agent's rules, with how many rules each has.
fn written(text: &str) -> BTreeMap<String, usize> {
    let mut chains = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("\tchain ").and_then(|rest| rest.strip_suffix(" {")) {
            chains.insert(name.to_owned(), 0);
            current = Some(name);
        } else if line == "\t}" {
            current = None;
        } else if let Some(count) = current.and_then(|name| chains.get_mut(name))
            && !line.starts_with("\t\ttype ")
        {
            *count += 1;
        }
    }
    chains
}

/// The same of the table in the kernel.
fn counted(nft: &mut Nft) -> Result<BTreeMap<String, usize>, NetlinkError> {
    let mut chains: BTreeMap<String, usize> =
        nft.chains(OURS)?.into_iter().map(|chain| (chain.name, 0)).collect();
    for rule in nft.rules(OURS)? {
        *chains.entry(rule.chain).or_default() += 1;
    }
    Ok(chains)
}

/// How the kernel's chains differ from those written.
pub(super) fn differences(written: &BTreeMap<String, usize>, found: &BTreeMap<String, usize>) -> Vec<String> {
    let names: BTreeSet<&String> = written.keys().chain(found.keys()).collect();
    let difference = |name: &String| match (written.get(name), found.get(name)) {
        (Some(written), Some(found)) if written != found => {
            Some(format!("chain {name} has {found} rules for {written} written"))
        }
        (Some(_), None) => Some(format!("chain {name} is not there")),
        (None, Some(_)) => Some(format!("chain {name} is not ours")),
        _ => None,
    };
    names.into_iter().filter_map(difference).collect()
}

/// Where kube-proxy is, by its names (kubernetes `pkg/proxy/iptables` and `pkg/proxy/nftables`), and what it has in common
/// with the agent.
fn read_kube_proxy(
    facts: &mut Facts,
    nft: &mut Nft,
    tables: &[nft::TableState],
    present: bool,
) -> Result<(), NetlinkError> {
    for (family, word, number) in [(nft::Family::Ip, "ip", "4"), (nft::Family::Ip6, "ip6", "6")] {
        let has = |name: &str| tables.iter().any(|it| it.family == family && it.name == name);
        if has("kube-proxy") {
            facts.kube_proxy.push(format!("table {word} kube-proxy"));
            if present {
                let theirs = keys(nft, nft::Table { family, name: "kube-proxy" }, "service-ips");
                let mut ours = BTreeSet::new();
                for set in ["services", "proxied", "mixed"] {
                    ours.extend(keys(nft, OURS, &format!("{set}{number}")));
                }
                facts.both_claim.extend(ours.intersection(&theirs).map(|key| shown(key)));
            }
        }
        let nat = nft::Table { family, name: "nat" };
        if has("nat") && nft.chains(nat)?.iter().any(|chain| chain.name == "KUBE-SERVICES") {
            facts.kube_proxy.push(format!("chain KUBE-SERVICES of table {word} nat"));
            if present {
                let rules = nft.rules(nat)?;
                let portals: Vec<_> = rules.iter().filter(|rule| rule.chain == "KUBE-SERVICES").collect();
                let vips = keys(nft, OURS, &format!("vips{number}"));
                let both = vips.iter().filter(|vip| portals.iter().any(|it| compares(&it.bytes, vip)));
                facts.both_claim.extend(both.filter_map(|vip| Some(address(vip)?.to_string())));
            }
        }
    }
    facts.both_claim.sort_unstable();
    Ok(())
}

/// The keys of a set; none where there is no such set.
fn keys(nft: &mut Nft, table: nft::Table<'_>, set: &str) -> BTreeSet<Vec<u8>> {
    nft.elements(table, set).unwrap_or_default().into_iter().map(|element| element.key).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|it| Ipv4Addr::from(it).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|it| Ipv6Addr::from(it).into()),
        _ => None,
    }
}

/// A key of address, protocol and port, each filled up to four bytes.
pub(super) fn shown(key: &[u8]) -> String {
    let (ip, rest) = key.split_at(key.len().saturating_sub(8));
    let protocol = match rest.first() {
        Some(6) => "tcp",
        Some(17) => "udp",
        Some(132) => "sctp",
        _ => "?",
    };
    let port = rest.get(4..6).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    address(ip).map_or_else(|| "?".to_owned(), |ip| format!("{}/{protocol}", SocketAddr::new(ip, port)))
}

/// Whether a rule compares something with this value: expressions hold it as a netlink attribute of type
/// `NFTA_DATA_VALUE`, whose header is its length and the number 1.
pub(super) fn compares(rule: &[u8], value: &[u8]) -> bool {
    let Ok(length) = u16::try_from(value.len() + 4) else { return false };
    let attribute = [&length.to_ne_bytes()[..], &1_u16.to_ne_bytes(), value].concat();
    rule.windows(attribute.len()).any(|window| window == attribute)
}

/// What the agent's rules need and this kernel lacks. A table that is deleted in the transaction that makes it sees no
/// packet, and has the kernel load what it can.
fn missing(nft: &mut Nft) -> Result<Vec<(&'static str, &'static str)>, NetlinkError> {
    let load = |bytes: &[u8], reg| Expr::Immediate { reg, data: bytes.to_vec() };
    let to_loopback = |expr| vec![load(&[127, 0, 0, 1], 0), load(&[0, 80], 1), expr];
    let ip = nft::Family::Ip;
    let needs: [(&str, &str, Vec<Expr>); 7] = [
        ("track connections in rules", "nft_ct", vec![Expr::Notrack]),
        ("hand packets to a transparent listener", "nft_tproxy", {
            to_loopback(Expr::Tproxy { family: ip, addr: 0, port: 1 })
        }),
        ("translate addresses", "nft_nat", {
            to_loopback(Expr::Nat { kind: Nat::Dnat, family: ip, addr: 0, port: Some(1), flags: 0 })
        }),
        ("masquerade", "nft_masq", vec![Expr::Masquerade { flags: 0 }]),
        ("draw lots", "nft_numgen", vec![Expr::Numgen { reg: 0, modulus: 2, random: true }]),
        ("look up routes in rules", "nft_fib_inet", vec![Expr::FibType { addr: FibAddr::Saddr, reg: 0 }]),
        ("refuse packets", "nft_reject_inet", vec![Expr::Reject(Reject::PortUnreachable)]),
    ];
    let mut missing = Vec::new();
    let nat = Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: i32::MAX, drop: false };
    if !can(nft, Some(nat), Vec::new())? {
        missing.push(("have chains for address translation", "nft_chain_nat"));
    }
    for (what, module, expressions) in needs {
        if !can(nft, None, expressions)? {
            missing.push((what, module));
        }
    }
    Ok(missing)
}

fn can(nft: &mut Nft, base: Option<Base>, expressions: Vec<Expr>) -> Result<bool, NetlinkError> {
    let mut batch = Batch::new();
    batch.add_table(PROBE);
    batch.add_chain(PROBE, Chain { name: "probe", base });
    if !expressions.is_empty() {
        let rule = expressions.into_iter().fold(Rule::new(), Rule::expr);
        batch.add_rule(PROBE, "probe", &rule);
    }
    batch.delete_table(PROBE);
    match nft.commit(&batch) {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() || error.is_unsupported() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bridges of which every port is the end of a Pod, and those of their ports that do not send back.
fn read_bridges(facts: &mut Facts) -> Result<(), NetlinkError> {
    let links = Handle::open()?.links()?;
    for bridge in links.iter().filter(|link| link.kind.as_deref() == Some("bridge")) {
        let ports: Vec<_> = links.iter().filter(|link| link.master == Some(bridge.index)).collect();
        if ports.is_empty() || !ports.iter().all(|port| port.kind.as_deref() == Some("veth")) {
            continue;
        }
        facts.bridges.push(bridge.name.clone());
        for port in ports {
            let folder = Path::new("/sys/class/net").join(&port.name);
            let value = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
            // sysfs may show another network namespace.
            let same = value("ifindex").trim() == port.index.to_string();
            if same && value("brport/hairpin_mode").trim() == "0" {
                facts.hairpin_off.push((bridge.name.clone(), port.name.clone()));
            }
        }
    }
    Ok(())
}
