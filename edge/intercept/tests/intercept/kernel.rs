//! Rulesets to install, and the kernel's state as it can be compared.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_intercept::Interceptor;
use edgemesh_mesh::{
    Backend, Distribution, Frontend, FrontendEntry, Hints, HostFacts, MeshSnapshot, NodePath, Path,
    PathSnapshot, Policy, PortEntry, Scope, ServiceEntry, ServiceKind,
};
use edgemesh_net::netlink::nft::{Nft, Table};
use edgemesh_net::netlink::rt::{Handle, TABLE_LOCAL};
use edgemesh_ruleset::{KernelBackend, Ruleset, RulesetSettings};

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

/// A Service with an address or outer addresses, one port, and endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Svc {
    pub(crate) entry: ServiceEntry,
}

impl Svc {
    /// A Service `ADDR:PORT/PROTOCOL` with endpoints `ADDR:PORT[@NODE]`; without a node it is outside the cluster, and the
    /// node of the tests is `here`.
    pub(crate) fn new(text: &str, endpoints: &[&str]) -> Self {
        let Frontend { ip, port, protocol } = frontend(text);
        let backends: Vec<Backend> = endpoints.iter().map(|text| backend(text)).collect();
        let port = PortEntry { name: None, port, protocol, node_port: None, backends: backends.into() };
        Self {
            entry: ServiceEntry {
                id: ObjectKey::new("default", text.replace([':', '.', '/', '[', ']'], "-")),
                kind: ServiceKind::ClusterIp,
                cluster_ips: vec![ip],
                external_ips: Vec::new(),
                load_balancer_ips: Vec::new(),
                ports: vec![port],
                affinity: None,
                distribution: Distribution::Spread,
                internal_local: false,
                external_local: false,
                source_ranges: None,
                health_check_node_port: None,
                policy: Policy::RoundRobin,
                publish_not_ready: false,
                intercepted: true,
            },
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut ServiceEntry)) -> Self {
        change(&mut self.entry);
        self
    }
}

fn backend(text: &str) -> Backend {
    let (addr, node) = text.split_once('@').map_or((text, None), |(addr, node)| (addr, Some(node)));
    Backend {
        addr: addr.parse().expect("an endpoint"),
        node: node.map(Name::from),
        zone: None,
        hostname: None,
        pod: None,
        ready: true,
        serving: true,
        terminating: false,
        hints: Hints::default(),
    }
}

/// The mesh of these Services, and of addresses of a Service without ports.
pub(crate) fn snapshot(services: &[Svc], bare: &[&str]) -> MeshSnapshot {
    let mut snapshot = MeshSnapshot::empty(Name::from("here"));
    let bare = bare.iter().map(|text| Svc::new(&format!("{}:1/tcp", bracketed(text)), &[]));
    for service in services.iter().cloned().chain(bare) {
        let service = Arc::new(service.entry);
        let scopes = [
            (&service.cluster_ips, Scope::Cluster),
            (&service.external_ips, Scope::External),
            (&service.load_balancer_ips, Scope::LoadBalancer),
        ];
        for (port, entry) in service.ports.iter().enumerate() {
            for (ips, scope) in scopes {
                for ip in ips {
                    let frontend = Frontend { ip: *ip, port: entry.port, protocol: entry.protocol };
                    let service = service.clone();
                    snapshot.frontends.insert(frontend, FrontendEntry { service, port, scope });
                }
            }
            if let Some(node_port) = entry.node_port {
                let found = FrontendEntry { service: service.clone(), port, scope: Scope::NodePort };
                snapshot.node_ports.insert((entry.protocol, node_port), found);
            }
        }
        snapshot.services.insert(service.id.clone(), service);
    }
    snapshot
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// What the tunnel knows of nodes `away` and `there`: that it reaches them through a relay.
pub(crate) fn paths(host: HostFacts) -> PathSnapshot {
    let relayed = NodePath::new(Path::Relayed);
    let nodes = ["away", "there"].map(|node| (Name::from(node), relayed));
    PathSnapshot { nodes: nodes.into(), host: Arc::new(host) }
}

/// The rules for Services on the host as it is.
pub(crate) fn rules(interceptor: &mut Interceptor, services: &[Svc], bare: &[&str]) -> Ruleset {
    let facts = interceptor.facts().expect("facts");
    Ruleset::compile(&snapshot(services, bare), &paths(facts), interceptor.settings())
}

/// A ruleset of frontends whose connections go to the listener, and of addresses without any frontend.
pub(crate) fn ruleset(settings: &RulesetSettings, frontends: &[&str], bare: &[&str]) -> Ruleset {
    let services: Vec<Svc> = frontends.iter().map(|text| Svc::new(text, &["192.0.2.200:1@away"])).collect();
    // Tests put Pods behind bridges.
    let host = HostFacts { bridges_filtered: true, ..HostFacts::default() };
    Ruleset::compile(&snapshot(&services, bare), &paths(host), settings)
}

/// What carries the rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

impl Setup {
    /// Why it cannot be had here.
    pub(crate) fn missing(self) -> Option<String> {
        let program = match self {
            Self::Nftables => return None,
            Self::IptablesNft => "iptables-nft-restore",
            Self::IptablesLegacy => "iptables-legacy-restore",
        };
        // It asks the kernel, who may say no outside of the test's namespaces.
        let ipset = Command::new("ipset").arg("-v").output();
        if tool(&format!("{program} -V")).is_none() || ipset.is_err() {
            return Some(format!("{program} or ipset is not installed"));
        }
        // Legacy iptables takes a lock in a file that only the superuser of the host may write.
        let lock = std::fs::OpenOptions::new().append(true).create(true).open("/run/xtables.lock");
        if self == Self::IptablesLegacy && lock.is_err() {
            return Some("the lock of legacy iptables cannot be taken".to_owned());
        }
        None
    }

    pub(crate) fn backend(self) -> KernelBackend {
        if self == Self::Nftables { KernelBackend::Nftables } else { KernelBackend::Iptables }
    }
}

/// A test for each backend from functions that take the [`Setup`].
macro_rules! on_every_backend {
    ($module:ident: $($name:ident),+ $(,)?) => {
        mod nftables {
            $crate::kernel::on_every_backend!(@ $module nftables Nftables $($name)+);
        }
        mod iptables_nft {
            $crate::kernel::on_every_backend!(@ $module iptables_nft IptablesNft $($name)+);
        }
        mod iptables_legacy {
            $crate::kernel::on_every_backend!(@ $module iptables_legacy IptablesLegacy $($name)+);
        }
    };
    (@ $module:ident $backend:ident $setup:ident $($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                let setup = $crate::kernel::Setup::$setup;
                let name = concat!(stringify!($module), "::", stringify!($backend), "::", stringify!($name));
                if let Some(why) = setup.missing() {
                    println!("not tried: {why}");
                } else if edgemesh_net::netns::in_fresh_namespaces(name) {
                    super::$name(setup);
                }
            }
        )+
    };
}
pub(crate) use on_every_backend;

/// The same without nftables.
macro_rules! on_every_iptables {
    ($module:ident: $($name:ident),+ $(,)?) => {
        mod iptables_nft {
            $crate::kernel::on_every_backend!(@ $module iptables_nft IptablesNft $($name)+);
        }
        mod iptables_legacy {
            $crate::kernel::on_every_backend!(@ $module iptables_legacy IptablesLegacy $($name)+);
        }
    };
}
pub(crate) use on_every_iptables;

/// Brings the loopback up, as it is on any host, and installs.
pub(crate) fn install() -> Interceptor {
    install_on(Setup::Nftables)
}

/// The same, and sockets of the host connect to endpoints at once; or why the kernel keeps that from this process.
pub(crate) fn install_for_sockets() -> Result<Interceptor, String> {
    loopback_up();
    let settings = RulesetSettings { connect_rewrite: true, ..RulesetSettings::default() };
    let interceptor = Interceptor::install(settings).expect("installed");
    match interceptor.connect_rewrite() {
        Ok(_) => Ok(interceptor),
        Err(why) => Err(why.to_owned()),
    }
}

/// The same with a backend. Which flavour of iptables others use is shown as kubelet does.
pub(crate) fn install_on(setup: Setup) -> Interceptor {
    loopback_up();
    for (flavour, program) in
        [(Setup::IptablesNft, "iptables-nft"), (Setup::IptablesLegacy, "iptables-legacy")]
    {
        if flavour == setup {
            let mut hint = Command::new(program);
            hint.args(["-w", "5", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
            // It fails where the chain is there.
            hint.output().expect("a hint");
        }
    }
    let settings = RulesetSettings { backend: setup.backend(), ..RulesetSettings::default() };
    let interceptor = Interceptor::install(settings).expect("installed");
    let word = match setup {
        Setup::Nftables => "asked for",
        Setup::IptablesNft => "asked for; of the flavour nf_tables",
        Setup::IptablesLegacy => "asked for; of the flavour legacy",
    };
    assert_eq!(interceptor.backend().1, word);
    interceptor
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
