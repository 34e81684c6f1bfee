//! Finding peers in the LAN by multicast DNS (RFC 6762), under a service name of our own.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::inbound::Gate;
use crate::interfaces::{self, Interface};
use crate::settings::TunnelSettings;
use crate::text::ip_of;

mod packet;

use packet::Kin;

/// Groups and port of multicast DNS (RFC 6762, section 3).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;

/// The largest multicast DNS message (RFC 6762, section 17).
const MAX_MESSAGE: usize = 9000;

/// At the start everybody says it three times: multicast over wireless links is sent once and lost often.
const FIRST: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// Afterwards once a minute; a third of the time a neighbour is remembered.
const REPEAT: Duration = Duration::from_secs(60);
/// How often interfaces are looked for.
const INTERFACES: Duration = Duration::from_secs(10);
/// At most one answer in this time (RFC 6762, section 6), however many ask.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
/// Neighbours on their way to the driver; a full LAN answers a query within one turn of its loop.
const FOUND_QUEUE: usize = 256;
/// Interfaces that are served; more are a router, not an edge node.
const MAX_INTERFACES: usize = 16;

/// A neighbour.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
}

/// Starts the search, if it is wanted. Without it the channel stays silent.
pub(crate) fn start(
    settings: &TunnelSettings,
    own: PeerId,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    gate: &Arc<Gate>,
) -> mpsc::Receiver<Found> {
    let (found, receiver) = mpsc::channel(FOUND_QUEUE);
    if settings.mdns {
        let kin: &[Kin] = if settings.go_peers { &[Kin::Ours, Kin::Go] } else { &[Kin::Ours] };
        gate.spawn(search(own, kin, addresses, settings.skip_interfaces.clone(), found));
    }
    receiver
}

/// Keeps one task per LAN interface and family.
async fn search(
    own: PeerId,
    kin: &'static [Kin],
    addresses: watch::Receiver<Vec<Multiaddr>>,
    skip: Vec<String>,
    found: mpsc::Sender<Found>,
) {
    let mut served: BTreeMap<(String, bool), (Interface, tokio::task::AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(INTERFACES);
    loop {
        tick.tick().await;
        while tasks.try_join_next().is_some() {}
        let list = interfaces::read(&skip);
        let wanted = |name: &str| list.iter().find(|interface| interface.lan && interface.name == name);
        served.retain(|(name, _), (known, task)| {
            let keep = wanted(name) == Some(&*known) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for interface in list.iter().filter(|interface| interface.lan).take(MAX_INTERFACES) {
            for v6 in [false, true] {
                let has = interface.subnets.iter().any(|subnet| subnet.addr().is_ipv6() == v6);
                let key = (interface.name.clone(), v6);
                if !has || served.contains_key(&key) {
                    continue;
                }
                match open(interface, v6) {
                    Ok(socket) => {
                        let lan = Lan { own, kin, interface: interface.clone(), v6, socket };
                        let task = tasks.spawn(lan.serve(addresses.clone(), found.clone()));
                        served.insert(key, (interface.clone(), task));
                    }
                    Err(error) => {
                        tracing::debug!(interface = %interface.name, v6, %error, "no multicast DNS here");
                    }
                }
            }
        }
    }
}

/// A socket for one interface. Bound to the device it sends there without any route, as a node without a default
/// route needs; the port is shared with other multicast DNS software.
fn open(interface: &Interface, v6: bool) -> io::Result<UdpSocket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    if v6 {
        socket.set_only_v6(true)?;
        socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT).into())?;
        socket.join_multicast_v6(&GROUP_V6, interface.index)?;
        socket.set_multicast_hops_v6(255)?;
    } else {
        socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT).into())?;
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface.index))?;
        socket.set_multicast_ttl_v4(255)?;
    }
    UdpSocket::from_std(socket.into())
}

struct Lan {
    own: PeerId,
    /// Whose agents are looked for.
    kin: &'static [Kin],
    interface: Interface,
    v6: bool,
    socket: UdpSocket,
}

impl Lan {
    async fn serve(self, mut addresses: watch::Receiver<Vec<Multiaddr>>, found: mpsc::Sender<Found>) {
        let mut buffer = vec![0; MAX_MESSAGE];
        let start = tokio::time::Instant::now();
        let mut round = 0;
        let mut next = start;
        let mut answered: Option<tokio::time::Instant> = None;
        for kin in self.kin {
            self.send(&packet::query(*kin)).await;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    self.announce(&addresses).await;
                    round += 1;
                    next = FIRST.get(round).map_or_else(|| tokio::time::Instant::now() + REPEAT, |after| start + *after);
                }
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.announce(&addresses).await;
                }
                received = self.socket.recv_from(&mut buffer) => {
                    let Ok((count, from)) = received else { return };
                    let heard = packet::read(&buffer[..count]);
                    // Nothing from beyond the link (RFC 6762, section 11).
                    if !self.local(from.ip()) {
                        continue;
                    }
                    let asked = heard.asked || heard.go_asked && self.kin.contains(&Kin::Go);
                    if asked && answered.is_none_or(|at| at.elapsed() >= ANSWER_PAUSE) {
                        answered = Some(tokio::time::Instant::now());
                        self.announce(&addresses).await;
                    }
                    for (peer, address) in heard.peers {
                        let near = ip_of(&address).is_some_and(|ip| self.near(ip));
                        if peer != self.own && near && found.send(Found { peer, address }).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn local(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => true,
            ip => self.interface.contains(ip),
        }
    }

    /// Link-local addresses would need the interface's index, which a multiaddr has no room for here.
    fn near(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => false,
            ip => self.interface.contains(ip),
        }
    }

    async fn announce(&self, addresses: &watch::Receiver<Vec<Multiaddr>>) {
        let near: Vec<Multiaddr> = addresses
            .borrow()
            .iter()
            .filter(|address| ip_of(address).is_some_and(|ip| self.near(ip)))
            .cloned()
            .collect();
        if !near.is_empty() {
            for kin in self.kin {
                self.send(&packet::announcement(*kin, self.own, &near)).await;
            }
        }
    }

    async fn send(&self, message: &[u8]) {
        let group = if self.v6 { IpAddr::V6(GROUP_V6) } else { IpAddr::V4(GROUP_V4) };
        if let Err(error) = self.socket.send_to(message, SocketAddr::new(group, PORT)).await {
            tracing::debug!(interface = %self.interface.name, %error, "multicast DNS not sent");
        }
    }
}

/// Whether a packet is a query of ours or names peers.
pub(crate) fn heard(bytes: &[u8]) -> bool {
    let heard = packet::read(bytes);
    heard.asked || heard.go_asked || !heard.peers.is_empty()
}
