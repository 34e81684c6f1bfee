//! Rulesets to install, and the kernel's state as it can be compared.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use edgemesh_api::Protocol;
use edgemesh_intercept::Interceptor;
use edgemesh_mesh::Frontend;
use edgemesh_net::netlink::nft::{Nft, Table};
use edgemesh_net::netlink::rt::{Handle, TABLE_LOCAL};
use edgemesh_ruleset::{ADDRESS_V4, Ruleset, RulesetSettings, VipRoute};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `ADDR:PORT/tcp` or `/udp`.
pub(crate) fn frontend(text: &str) -> Frontend {
    let (addr, protocol) = text.rsplit_once('/').expect("a protocol");
    let addr: std::net::SocketAddr = addr.parse().expect("an address with port");
    let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    Frontend { ip: addr.ip(), port: addr.port(), protocol }
}

/// A ruleset of these frontends, and of addresses without any.
pub(crate) fn ruleset(settings: &RulesetSettings, frontends: &[&str], bare: &[&str]) -> Ruleset {
    let mut ruleset = Ruleset::empty(settings);
    ruleset.frontends.extend(frontends.iter().map(|text| frontend(text)));
    ruleset.vips.extend(ruleset.frontends.iter().map(|frontend| frontend.ip));
    ruleset.vips.extend(bare.iter().map(|text| ip(text)));
    ruleset.routes.extend(ruleset.vips.iter().map(|vip| VipRoute { vip: *vip, source: source(*vip) }));
    ruleset
}

fn source(vip: IpAddr) -> Option<std::net::Ipv4Addr> {
    vip.is_ipv4().then_some(ADDRESS_V4)
}

/// Brings the loopback up, as it is on any host, and installs.
pub(crate) fn install() -> Interceptor {
    loopback_up();
    Interceptor::install(RulesetSettings::default()).expect("installed")
}

pub(crate) fn loopback_up() {
    let mut rt = Handle::open().expect("rtnetlink");
    let lo = rt.link("lo").expect("links").expect("lo").index;
    rt.set_up(lo, true).expect("lo is up");
}

/// Waits until the kernel has made the route of every IPv6 address, which it does in the background once the address
/// is no longer tentative.
pub(crate) fn settled() {
    let mut rt = Handle::open().expect("rtnetlink");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let addresses = rt.addresses().expect("addresses");
        let routes = rt.routes(Some(TABLE_LOCAL)).expect("routes");
        let routed = |addr: IpAddr| addr.is_ipv4() || routes.iter().any(|route| route.dst.addr == addr);
        if addresses.iter().all(|address| routed(address.prefix.addr)) {
            return;
        }
        assert!(Instant::now() < deadline, "{addresses:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `IFF_RUNNING` and `IFF_LOWER_UP` (`linux/if.h`): the kernel notices in the background that a bridge has no ports.
const CARRIER: u32 = 0x1_0040;

/// Everything the kernel says of links, addresses, routes, rules and nftables, in our words and in those of the tools
/// that are there.
pub(crate) fn state() -> String {
    settled();
    let mut rt = Handle::open().expect("rtnetlink");
    let mut nft = Nft::open().expect("nftables");
    let mut lines = Vec::new();
    let mut links = rt.links().expect("links");
    links.sort_by_key(|link| link.index);
    links.iter_mut().for_each(|link| link.flags &= !CARRIER);
    lines.extend(links.iter().map(|link| format!("{link:?}")));
    let mut addresses = rt.addresses().expect("addresses");
    addresses.sort();
    lines.extend(addresses.iter().map(|address| format!("{address:?}")));
    let mut routes = rt.routes(None).expect("routes");
    routes.sort();
    lines.extend(routes.iter().map(|route| format!("{route:?}")));
    for table in nft.tables().expect("tables") {
        lines.push(format!("{table:?}"));
        let table = Table { family: table.family, name: &table.name };
        lines.extend(nft.chains(table).expect("chains").iter().map(|chain| format!("{chain:?}")));
        lines.extend(nft.rules(table).expect("rules").iter().map(|rule| format!("{rule:?}")));
        for set in nft.sets(table).expect("sets") {
            let mut elements = nft.elements(table, &set.name).expect("elements");
            elements.sort();
            lines.push(format!("{set:?} {elements:?}"));
        }
    }
    for command in [
        "nft list ruleset",
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip addr",
    ] {
        let printed = tool(command).unwrap_or_default();
        // The flags of a link tell of its carrier.
        lines.extend(printed.lines().map(|line| line.split(": <").next().unwrap_or(line).to_owned()));
    }
    lines.join("\n")
}

/// What a tool prints; nothing when it is not installed.
pub(crate) fn tool(command: &str) -> Option<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output().ok()?;
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails with the lines that differ.
#[track_caller]
pub(crate) fn assert_same(now: &str, before: &str) {
    let only = |these: &str, those: &str| -> Vec<String> {
        these.lines().filter(|line| !those.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    assert!(now == before, "added {:#?}\nmissing {:#?}", only(now, before), only(before, now));
}
