//! The plan made real: namespaces, devices, addresses, routes, wires. Everything is held by descriptors of this process.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix, Route};
use edgemesh_net::netns::{self, Kind, Namespace};
use edgemesh_net::wire::{Counters, Port, Wires};
use ipnet::IpNet;

use crate::nat;
use crate::plan::{Addresses, CarrierPlan, NodePlan, Plan, RouterPlan};
use crate::site::{Link, Outbound};

/// The address the agent's DNS server has on every node.
const DNS: &str = "169.254.96.16";

/// A network stack with a view of the files: a node or a pod.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its network.
    pub net: Arc<Namespace>,
    /// Its mounts: `/etc/resolv.conf` is its own.
    pub mount: Arc<Namespace>,
}

/// A link that can be cut.
#[derive(Debug)]
struct Cuttable {
    name: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Wire of this index.
    Wire(usize),
    /// A port that leaves its bridge: frames that come in have nowhere to go, and the carrier stays.
    BridgePort { net: Arc<Namespace>, port: u32, bridge: u32, cut: bool },
}

/// A link as `status` shows it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct LinkState {
    /// Its name: `lan:NAME` for an uplink, `carrier:NAME` for that of its carrier, the node's name for the others.
    pub name: String,
    /// Whether it swallows everything.
    pub cut: bool,
    /// Frames that passed, where the laboratory carries them itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<u64>,
    /// Frames drawn to be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Frames dropped by a full queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflowed: Option<u64>,
}

/// A built site.
pub(crate) struct Topology {
    hosts: BTreeMap<String, Host>,
    links: Vec<Cuttable>,
    wires: Wires,
    /// Everything else that must stay open: the internet and the routers.
    _held: Vec<Arc<Namespace>>,
}

struct Builder<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    wires: Arc<Namespace>,
    internet: Arc<Namespace>,
    held: Vec<Arc<Namespace>>,
    hosts: BTreeMap<String, Host>,
    links: Vec<Cuttable>,
    pairs: Vec<(Port, Port, edgemesh_net::wire::Impairment)>,
}

impl Topology {
    /// Builds everything; files the hosts see go below `folder`.
    pub(crate) fn build(plan: &Plan, seed: u64, folder: &Path) -> io::Result<Self> {
        let internet = Arc::new(switch("internet", true)?);
        let wires = Arc::new(Namespace::new_net()?);
        wires.run(|| {
            // The ends of wires speak no protocol: whatever a kernel would add to a network is not in the site.
            sysctl("ipv6/conf/default/disable_ipv6", "1")
        })?;
        let held = vec![Arc::clone(&internet), Arc::clone(&wires)];
        let mut builder = Builder {
            plan,
            folder,
            wires,
            internet,
            held,
            hosts: BTreeMap::new(),
            links: Vec::new(),
            pairs: Vec::new(),
        };
        builder.internet()?;
        let routers =
            plan.routers.iter().map(|router| builder.router(router)).collect::<io::Result<Vec<_>>>()?;
        for node in &plan.nodes {
            let switch =
                node.router.map_or_else(|| Arc::clone(&builder.internet), |n| Arc::clone(&routers[n]));
            builder.node(node, &switch)?;
        }
        let Builder { held, hosts, links, pairs, .. } = builder;
        Ok(Self { hosts, links, wires: Wires::start(pairs, seed)?, _held: held })
    }

    /// The node or pod of this name.
    pub(crate) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// Cuts or heals links: one by name, or all that touch the internet with `cloud`. Returns their names.
    pub(crate) fn set_cut(&mut self, target: &str, cut: bool) -> io::Result<Vec<String>> {
        let mut touched = Vec::new();
        for link in &mut self.links {
            let of_internet =
                target == "cloud" && matches!(link.way, Way::Wire(_)) && link.name.starts_with("lan:");
            if link.name != target && !of_internet {
                continue;
            }
            match &mut link.way {
                Way::Wire(index) => self.wires.cut(*index, cut),
                Way::BridgePort { net, port, bridge, cut: state } => {
                    let (port, master) = (*port, (!cut).then_some(*bridge));
                    net.run(|| open()?.set_master(port, master).map_err(io::Error::other))?;
                    *state = cut;
                }
            }
            touched.push(link.name.clone());
        }
        Ok(touched)
    }

    /// Every link that can be cut.
    pub(crate) fn links(&self) -> Vec<LinkState> {
        let state = |link: &Cuttable| match &link.way {
            Way::Wire(index) => {
                let Counters { forwarded, lost, overflowed, .. } = self.wires.counters(*index);
                LinkState {
                    name: link.name.clone(),
                    cut: self.wires.is_cut(*index),
                    forwarded: Some(forwarded),
                    lost: Some(lost),
                    overflowed: Some(overflowed),
                }
            }
            Way::BridgePort { cut, .. } => LinkState {
                name: link.name.clone(),
                cut: *cut,
                forwarded: None,
                lost: None,
                overflowed: None,
            },
        };
        self.links.iter().map(state).collect()
    }
}

impl Builder<'_> {
    fn internet(&mut self) -> io::Result<()> {
        let plan = self.plan;
        self.internet.run(|| {
            let mut rt = open()?;
            let bridge = index(&mut rt, "br0")?;
            for net in plan.gateway.nets() {
                add_address(&mut rt, bridge, net)?;
            }
            for router in &plan.routers {
                // Translated ranges are not routed: several LANs may have the same.
                if router.nat.mapping == crate::site::Mapping::None {
                    let to = Prefix::new(router.inner.v4.network(), router.inner.v4.prefix_len());
                    rt.add_route(&Route::via(to, router.outer.v4.addr().into())).map_err(io::Error::other)?;
                }
                if router.routed6 {
                    let to = Prefix::new(router.inner.v6.network(), router.inner.v6.prefix_len());
                    rt.add_route(&Route::via(to, router.outer.v6.addr().into())).map_err(io::Error::other)?;
                }
            }
            Ok(())
        })
    }

    fn router(&mut self, router: &RouterPlan) -> io::Result<Arc<Namespace>> {
        let (mut above, mut gateway) = (Arc::clone(&self.internet), self.plan.gateway);
        if let Some(CarrierPlan { outer, inner, nat }) = router.carrier {
            let name = format!("carrier:{}", router.lan);
            above = self.gate(&name, (&above, gateway), Link::default(), (outer, inner), || {
                nat::install(nat, outer.v4.addr(), Outbound::All)
            })?;
            gateway = inner;
        }
        let name = format!("lan:{}", router.lan);
        self.gate(&name, (&above, gateway), router.uplink, (router.outer, router.inner), || {
            nat::install(router.nat, router.outer.v4.addr(), router.outbound)
        })
    }

    /// A router between a network above, whose gateway it uses, and one of its own.
    fn gate(
        &mut self,
        name: &str,
        (above, gateway): (&Namespace, Addresses),
        uplink: Link,
        (outer, inner): (Addresses, Addresses),
        rules: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<Arc<Namespace>> {
        let net = Arc::new(switch("router", true)?);
        self.held.push(Arc::clone(&net));
        self.wire(name, &net, "wan", above, uplink)?;
        net.run(|| {
            let mut rt = open()?;
            let lan = index(&mut rt, "br0")?;
            let wan = index(&mut rt, "wan")?;
            for address in inner.nets() {
                add_address(&mut rt, lan, address)?;
            }
            for address in outer.nets() {
                add_address(&mut rt, wan, address)?;
            }
            for gateway in gateway.hosts() {
                let default = Route::via(Prefix::default_of(gateway), gateway);
                rt.add_route(&default).map_err(io::Error::other)?;
            }
            rules()
        })?;
        Ok(net)
    }

    fn node(&mut self, node: &NodePlan, switch: &Arc<Namespace>) -> io::Result<()> {
        let resolv = self.file(&node.name, "# The laboratory has no upstream name server.\n")?;
        let host = new_host(resolv, true)?;
        match (node.link, node.router) {
            // What a cloud node is cut from is the internet, whose links are wires.
            (Some(link), _) => self.wire(&node.name, &host.net, "eth0", switch, link)?,
            (None, None) => self.wire(&node.name, &host.net, "eth0", switch, Link::default())?,
            (None, Some(_)) => self.direct(&node.name, &host.net, switch)?,
        }
        host.net.run(|| {
            let mut rt = open()?;
            let eth0 = index(&mut rt, "eth0")?;
            for address in node.addresses.nets() {
                add_address(&mut rt, eth0, address)?;
            }
            let gateways = [Some(node.gateway4.into()), node.gateway6.map(Into::into)];
            for gateway in gateways.into_iter().flatten() {
                let default = Route::via(Prefix::default_of(gateway), gateway);
                rt.add_route(&default).map_err(io::Error::other)?;
            }
            rt.add_link("cni0", LinkKind::Bridge).map_err(io::Error::other)?;
            let cni0 = index(&mut rt, "cni0")?;
            rt.set_up(cni0, true).map_err(io::Error::other)?;
            for address in node.bridge.nets() {
                add_address(&mut rt, cni0, address)?;
            }
            nat::masquerade_pods(node)
        })?;
        for (number, pod) in node.pods.iter().enumerate() {
            let namespace = &pod.spec.namespace;
            let search = format!(
                "nameserver {DNS}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
            );
            let resolv = self.file(&pod.spec.name, &search)?;
            let inside = new_host(resolv, false)?;
            pair(&host.net, &format!("veth{number}"), Some("cni0"), &inside.net, "eth0")?;
            inside.net.run(|| {
                let mut rt = open()?;
                let eth0 = index(&mut rt, "eth0")?;
                for address in pod.addresses.nets() {
                    add_address(&mut rt, eth0, address)?;
                }
                for gateway in node.bridge.hosts() {
                    let default = Route::via(Prefix::default_of(gateway), gateway);
                    rt.add_route(&default).map_err(io::Error::other)?;
                }
                Ok(())
            })?;
            self.hosts.insert(pod.spec.name.clone(), inside);
        }
        self.hosts.insert(node.name.clone(), host);
        Ok(())
    }

    fn file(&self, host: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{host}.resolv.conf"));
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// Joins a device of `net` to a switch's bridge by a wire of ours.
    fn wire(
        &mut self,
        name: &str,
        net: &Namespace,
        device: &str,
        switch: &Namespace,
        link: Link,
    ) -> io::Result<()> {
        let number = self.pairs.len();
        let (near, far) = (format!("w{number}a"), format!("w{number}b"));
        pair(&self.wires, &near, None, net, device)?;
        pair(switch, &format!("wire{number}"), Some("br0"), &self.wires, &far)?;
        let port = |device: &str| self.wires.run(|| Port::open(index(&mut open()?, device)?));
        self.pairs.push((port(&near)?, port(&far)?, link.impairment()));
        self.links.push(Cuttable { name: name.into(), way: Way::Wire(number) });
        Ok(())
    }

    /// Joins `eth0` of `net` to a switch's bridge by the kernel's own pair of devices.
    fn direct(&mut self, name: &str, net: &Namespace, switch: &Arc<Namespace>) -> io::Result<()> {
        let device = format!("n{}", self.links.len());
        pair(switch, &device, Some("br0"), net, "eth0")?;
        let (port, bridge) = switch.run(|| {
            let mut rt = open()?;
            Ok((index(&mut rt, &device)?, index(&mut rt, "br0")?))
        })?;
        let way = Way::BridgePort { net: Arc::clone(switch), port, bridge, cut: false };
        self.links.push(Cuttable { name: name.into(), way });
        Ok(())
    }
}

/// A namespace with a bridge `br0`, that forwards if asked.
fn switch(what: &str, forwards: bool) -> io::Result<Namespace> {
    let [net] = netns::make([Kind::Net], || {
        prepare(forwards)?;
        let mut rt = open()?;
        rt.add_link("br0", LinkKind::Bridge).map_err(io::Error::other)?;
        let bridge = index(&mut rt, "br0")?;
        rt.set_up(bridge, true).map_err(io::Error::other)
    })
    .map_err(|error| io::Error::other(format!("{what}: {error}")))?;
    Ok(net)
}

fn new_host(resolv: PathBuf, forwards: bool) -> io::Result<Host> {
    let [net, mount] = netns::make([Kind::Net, Kind::Mount], || {
        prepare(forwards)?;
        // A host without the file has nobody to read it: musl and glibc then ask 127.0.0.1, which refuses at once.
        match netns::bind_mount(&resolv, Path::new("/etc/resolv.conf")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })?;
    Ok(Host { net: net.into(), mount: mount.into() })
}

/// What every stack of the laboratory has.
fn prepare(forwards: bool) -> io::Result<()> {
    // Addresses are unique by construction, so that duplicate address detection would only cost its second.
    sysctl("ipv6/conf/default/accept_dad", "0")?;
    sysctl("ipv6/conf/default/accept_ra", "0")?;
    // Whoever may ping on the host may ping here.
    drop(sysctl("ipv4/ping_group_range", "0 0"));
    if forwards {
        sysctl("ipv4/ip_forward", "1")?;
        sysctl("ipv6/conf/all/forwarding", "1")?;
        // Neighbours reach each other through the gateway on purpose where a route says so.
        drop(sysctl("ipv4/conf/all/send_redirects", "0"));
        drop(sysctl("ipv4/conf/default/send_redirects", "0"));
    }
    let mut rt = open()?;
    let lo = index(&mut rt, "lo")?;
    rt.set_up(lo, true).map_err(io::Error::other)
}

/// Joins two namespaces by a pair of devices, both up; the first is a port of `bridge` if there is one.
fn pair(
    near: &Namespace,
    device: &str,
    bridge: Option<&str>,
    far: &Namespace,
    other: &str,
) -> io::Result<()> {
    use std::os::fd::AsFd;
    near.run(|| {
        let mut rt = open()?;
        let peer = Peer { name: other, netns: Some(far.as_fd()) };
        rt.add_link(device, LinkKind::Veth(peer)).map_err(io::Error::other)?;
        let made = index(&mut rt, device)?;
        if let Some(bridge) = bridge {
            let bridge = index(&mut rt, bridge)?;
            rt.set_master(made, Some(bridge)).map_err(io::Error::other)?;
        }
        rt.set_up(made, true).map_err(io::Error::other)
    })?;
    far.run(|| {
        let mut rt = open()?;
        let made = index(&mut rt, other)?;
        rt.set_up(made, true).map_err(io::Error::other)
    })
}

fn open() -> io::Result<Handle> {
    Handle::open().map_err(io::Error::other)
}

fn index(rt: &mut Handle, device: &str) -> io::Result<u32> {
    let link = rt.link(device).map_err(io::Error::other)?;
    link.map(|link| link.index).ok_or_else(|| io::Error::other(format!("device {device} is missing")))
}

fn add_address(rt: &mut Handle, device: u32, net: IpNet) -> io::Result<()> {
    rt.add_address(device, Prefix::new(net.addr(), net.prefix_len()), true).map_err(io::Error::other)
}

fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    std::fs::write(&path, value).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
