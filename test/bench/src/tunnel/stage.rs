//! Two nodes with a pod each and up to two relays around a hub; each in a network namespace of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Cmp, Family, Hook, Nft, PayloadBase, Rule, Table, ct_state, nat_flags,
};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::Namespace;
use edgemesh_net::wire::{Counters, Impairment, Port, Wires};

use crate::alone::loopback_up;

/// The pods as the agents know them: both nodes use one range, as container runtimes do without a network plugin, so that
/// only the tunnel leads from one to the other.
pub(crate) const SERVER_POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const CLIENT_POD: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// Either node's end of its pod's link.
pub(crate) const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// The pods' second addresses, which are routed from end to end.
pub(crate) const ROUTED_SERVER: Ipv4Addr = Ipv4Addr::new(10, 250, 2, 2);
const ROUTED_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 250, 1, 2);

/// Node b as the hub and the plain proxy know it.
pub(crate) const NODE_B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// The relays' namespaces.
const RELAYS: [&str; 2] = ["r1", "r2"];

/// The last byte of a host's address in its range, and of the gateway's.
const HOST: u8 = 2;
const GATEWAY: u8 = 1;

/// IANA's number of the protocol.
const TCP: u8 = 6;

const TABLE: Table<'static> = Table { family: Family::Inet, name: "bench" };

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ground {
    /// Each node is behind a router of its own that draws another outer port for each destination, and lets in nothing that
    /// nobody inside asked for: no hole can be punched.
    pub(crate) nat: bool,
    /// A second relay.
    pub(crate) two_relays: bool,
    /// The link of node a is a wire whose delay and loss can be set.
    pub(crate) wire: bool,
}

/// The namespaces, wired.
pub(crate) struct Stage {
    pub(crate) client: Arc<Namespace>,
    pub(crate) server: Arc<Namespace>,
    pub(crate) a: Arc<Namespace>,
    pub(crate) b: Arc<Namespace>,
    pub(crate) relays: Vec<(Arc<Namespace>, Ipv4Addr)>,
    hub: Arc<Namespace>,
    wires: Option<Wires>,
    /// The routers, and where the wires end.
    _held: Vec<Arc<Namespace>>,
    /// The last byte of node a's address.
    host_a: u8,
}

impl Stage {
    /// Wires them.
    pub(crate) fn new(ground: Ground) -> Result<Self> {
        let make = || Namespace::new_net().map(Arc::new);
        let (client, server, a, b, hub) = (make()?, make()?, make()?, make()?, make()?);
        for forwarding in [&a, &b, &hub] {
            inside(forwarding, forward)?;
        }
        for (pod, address) in [(&client, CLIENT_POD), (&server, SERVER_POD)] {
            let node = if address == CLIENT_POD { &a } else { &b };
            join(node, "pod0", BRIDGE, pod, "eth0", address)?;
            inside(pod, || gateway(BRIDGE))?;
        }
        let mut held = Vec::new();
        let mut wires = None;
        for (number, node) in [(1, &a), (2, &b)] {
            let mut towards = Arc::clone(node);
            if ground.nat {
                let router = make()?;
                inside(&router, forward)?;
                let lan = |last| Ipv4Addr::new(192, 168, number, last);
                join(&router, "lan", lan(GATEWAY), node, "eth0", lan(HOST))?;
                inside(node, || gateway(lan(GATEWAY)))?;
                inside(&router, symmetric)?;
                held.push(Arc::clone(&router));
                towards = router;
            }
            let device = if ground.nat { "wan" } else { "eth0" };
            let (near, far) = (at(number, GATEWAY), at(number, HOST));
            let name = format!("to{number}");
            if ground.wire && number == 1 {
                let middle = make()?;
                wires = Some(wired(&middle, (&hub, &name, near), (&towards, device, far))?);
                held.push(middle);
            } else {
                join(&hub, &name, near, &towards, device, far)?;
            }
            inside(&towards, || gateway(near))?;
        }
        let mut relays = Vec::new();
        for (number, name) in (3..).zip(RELAYS).take(if ground.two_relays { 2 } else { 1 }) {
            let relay = make()?;
            inside(&relay, loopback_up)?;
            join(&hub, name, at(number, GATEWAY), &relay, "eth0", at(number, HOST))?;
            inside(&relay, || gateway(at(number, GATEWAY)))?;
            relays.push((relay, at(number, HOST)));
        }
        let stage = Self { client, server, a, b, relays, hub, wires, _held: held, host_a: HOST };
        if !ground.nat {
            stage.route_pods()?;
        }
        Ok(stage)
    }

    /// Gives the pods addresses that are routed.
    fn route_pods(&self) -> Result<()> {
        let own = |pod: &Namespace, own: Ipv4Addr, other: Ipv4Addr| {
            inside(pod, || {
                let mut rt = Handle::open()?;
                let link = rt.link("eth0")?.context("no eth0")?.index;
                rt.add_address(link, Prefix::host(own), false)?;
                let route = Route::via(Prefix::host(other), BRIDGE.into());
                Ok(rt.add_route(&Route { prefsrc: Some(own.into()), ..route })?)
            })
        };
        own(&self.client, ROUTED_CLIENT, ROUTED_SERVER)?;
        own(&self.server, ROUTED_SERVER, ROUTED_CLIENT)?;
        for (number, node, pod) in [(1, &self.a, ROUTED_CLIENT), (2, &self.b, ROUTED_SERVER)] {
            inside(node, || {
                let mut rt = Handle::open()?;
                let link = rt.link("pod0")?.context("no pod0")?.index;
                Ok(rt.add_route(&Route::on_link(Prefix::host(pod), link))?)
            })?;
            inside(&self.hub, || {
                let node = IpAddr::from(at(number, HOST));
                Ok(Handle::open()?.add_route(&Route::via(Prefix::host(pod), node))?)
            })?;
        }
        Ok(())
    }

    /// Changes what the wire of node a does, each way.
    pub(crate) fn impair(&self, impairment: Impairment) {
        if let Some(wires) = &self.wires {
            wires.set(0, impairment);
        }
    }

    /// What passed the wire of node a, both ways together.
    pub(crate) fn passed(&self) -> Counters {
        self.wires.as_ref().map(|wires| wires.counters(0)).unwrap_or_default()
    }

    /// Has the hub swallow what the nodes send each other, but for what goes to or comes from a TCP port.
    pub(crate) fn cut(&self, but: Option<u16>) -> Result<()> {
        let chain = chain("forward", ChainKind::Filter, Hook::Forward, 0);
        let mut batch = Batch::new();
        batch.add_table(TABLE);
        batch.add_chain(TABLE, chain);
        for (port, offset) in but.into_iter().flat_map(|port| [(port, 0), (port, 2)]) {
            let rule = Rule::new().l4proto(Cmp::Eq, TCP);
            let rule = rule.payload(PayloadBase::Transport, offset, Cmp::Eq, &port.to_be_bytes());
            batch.add_rule(TABLE, chain.name, &rule.accept());
        }
        for (from, to) in [(1, 2), (2, 1)] {
            let rule = Rule::new().nfproto(Family::Ip);
            let rule = rule.payload(PayloadBase::Network, 12, Cmp::Eq, &at(from, 0).octets()[..3]);
            let rule = rule.payload(PayloadBase::Network, 16, Cmp::Eq, &at(to, 0).octets()[..3]);
            batch.add_rule(TABLE, chain.name, &rule.drop());
        }
        inside(&self.hub, || commit(&batch))
    }

    /// Ends what [`Stage::cut`] began.
    pub(crate) fn heal(&self) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        inside(&self.hub, || commit(&batch))
    }

    /// Gives node a another address of its range, as a lease that ended does.
    pub(crate) fn roam(&mut self) -> Result<()> {
        let (old, new) = (at(1, self.host_a), at(1, self.host_a + 1));
        inside(&self.a, || {
            let mut rt = Handle::open()?;
            let link = rt.link("eth0")?.context("no eth0")?.index;
            rt.delete_address(link, Prefix::new(old, 24))?;
            rt.add_address(link, Prefix::new(new, 24), true)?;
            // The kernel drops the routes of a device that has no address, and not those of one that has another.
            let default = Prefix::default_of(new.into());
            Ok(rt.replace_route(&Route::via(default, at(1, GATEWAY).into()))?)
        })?;
        self.host_a += 1;
        Ok(())
    }
}

/// A host of the hub's network with this number.
fn at(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, network, 0, host)
}

/// Does something in a namespace.
pub(crate) fn inside<T: Send>(place: &Namespace, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    Ok(place.run(|| work().map_err(io::Error::other))?)
}

fn forward() -> Result<()> {
    loopback_up()?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")
}

fn gateway(gateway: Ipv4Addr) -> Result<()> {
    let gateway = IpAddr::from(gateway);
    Ok(Handle::open()?.add_route(&Route::via(Prefix::default_of(gateway), gateway))?)
}

/// Joins two namespaces by a pair of devices.
fn join(
    near: &Namespace,
    device: &str,
    address: Ipv4Addr,
    far: &Namespace,
    other: &str,
    far_address: Ipv4Addr,
) -> Result<()> {
    inside(near, || {
        let peer = Peer { name: other, netns: Some(far.as_fd()) };
        Ok(Handle::open()?.add_link(device, LinkKind::Veth(peer))?)
    })?;
    inside(near, || up(device, Some(address)).map(drop))?;
    inside(far, || loopback_up().and_then(|()| up(other, Some(far_address))).map(drop))
}

/// Brings a device up; its index.
fn up(device: &str, address: Option<Ipv4Addr>) -> Result<u32> {
    let mut rt = Handle::open()?;
    let link = rt.link(device)?.with_context(|| format!("no {device}"))?.index;
    rt.set_up(link, true)?;
    if let Some(address) = address {
        rt.add_address(link, Prefix::new(address, 24), false)?;
    }
    Ok(link)
}

/// A place, its device and its address.
type End<'e> = (&'e Namespace, &'e str, Ipv4Addr);

/// Joins two namespaces by a wire whose ends lie in `middle`.
fn wired(middle: &Namespace, one: End<'_>, other: End<'_>) -> Result<Wires> {
    // The ends of wires speak no protocol.
    let silent =
        || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").context("disable_ipv6");
    inside(middle, silent)?;
    let end = |name: &str, (place, device, address): End<'_>| -> Result<Port> {
        inside(middle, || {
            let peer = Peer { name: device, netns: Some(place.as_fd()) };
            Ok(Handle::open()?.add_link(name, LinkKind::Veth(peer))?)
        })?;
        inside(place, || loopback_up().and_then(|()| up(device, Some(address))).map(drop))?;
        inside(middle, || Ok(Port::open(up(name, None)?)?))
    };
    let pair = (end("near", one)?, end("far", other)?, Impairment::default());
    // Any seed does: the same frames are lost in every run.
    Ok(Wires::start(vec![pair], 1)?)
}

const fn chain(name: &'static str, kind: ChainKind, hook: Hook, priority: i32) -> Chain<'static> {
    Chain { name, base: Some(Base { kind, hook, priority, drop: false }) }
}

/// A router between `lan` and `wan` as [`Ground::nat`] says.
fn symmetric() -> Result<()> {
    /// `NF_IP_PRI_NAT_SRC`.
    const SOURCE_NAT: i32 = 100;
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_chain(TABLE, chain("source-nat", ChainKind::Nat, Hook::Postrouting, SOURCE_NAT));
    batch.add_rule(TABLE, "source-nat", &Rule::new().oifname("wan").masquerade(nat_flags::FULLY_RANDOM));
    for (name, hook) in [("input", Hook::Input), ("forward", Hook::Forward)] {
        batch.add_chain(TABLE, chain(name, ChainKind::Filter, hook, 0));
        let unasked = ct_state::NEW | ct_state::INVALID;
        batch.add_rule(TABLE, name, &Rule::new().iifname("wan").ct_state(unasked).drop());
    }
    commit(&batch)
}

fn commit(batch: &Batch) -> Result<()> {
    Nft::open()?.commit(batch).map(drop).context("rules")
}

/// Where the interfaces of a process count.
pub(crate) fn counters_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/net/dev"))
}
