use std::io;
use std::net::{SocketAddr, SocketAddrV6};

use edgemesh_net::netlink::rt::Handle;
use edgemesh_resolver::SettingsError;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::settings::ListenAddress;

/// Connections the kernel holds for us to accept; as many as we serve at a time.
const BACKLOG: i32 = 64;
/// A port that is free for TCP need not be free for UDP: how often another is tried when port 0 is asked for.
const FREE_PORT_TRIES: usize = 8;

/// Why the DNS server does not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} over {transport} for DNS: {source}{}", hint(.source))]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface of a link-local address is not there.
    #[error("cannot listen on {addr} for DNS: there is no interface {device}")]
    Device {
        /// The address.
        addr: SocketAddr,
        /// The interface.
        device: String,
    },
    /// No address to listen on is given.
    #[error("no address to listen on for DNS is given")]
    NoAddress,
    /// The resolver does not take its settings.
    #[error("DNS settings: {0}")]
    Settings(#[from] SettingsError),
}

impl DnsError {
    /// The word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Device { .. } => "device",
            Self::NoAddress => "no_address",
            Self::Settings(_) => "settings",
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another DNS server has it (another agent, NodeLocal DNSCache, dnsmasq, systemd-resolved): \
             `ss -lnptu` names the process"
        }
        io::ErrorKind::PermissionDenied => "; a port below 1024 needs CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Both sockets of one address.
pub(crate) struct Listener {
    pub(crate) addr: SocketAddr,
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// Binds UDP and TCP on one address and the same port.
pub(crate) fn bind(listen: &ListenAddress) -> Result<Listener, DnsError> {
    let addr = scoped(listen)?;
    let tries = if addr.port() == 0 { FREE_PORT_TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        match bind_both(addr) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(DnsError::NoAddress))
}

fn bind_both(addr: SocketAddr) -> Result<Listener, DnsError> {
    let failed = |transport| move |source| DnsError::Bind { addr, transport, source };
    // TCP first: of a port that the kernel drew, the UDP side is more often free than the other way round, because
    // closed connections keep theirs for a minute.
    let tcp = tcp(addr).map_err(failed("tcp"))?;
    let bound = tcp.local_addr().map_err(failed("tcp"))?;
    let udp = udp(bound).map_err(failed("udp"))?;
    Ok(Listener { addr: bound, udp, tcp })
}

fn udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SockAddr::from(addr))?;
    UdpSocket::from_std(socket.into())
}

fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    // A restart finds connections of its predecessor in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind.nonblocking().cloexec(), Some(protocol))?;
    // The address may come later than we do, or go and return with its device.
    match addr {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}

fn scoped(listen: &ListenAddress) -> Result<SocketAddr, DnsError> {
    match (listen.addr, &listen.device) {
        (SocketAddr::V6(addr), Some(device)) if addr.ip().is_unicast_link_local() => {
            let Some(index) = interface_index(device) else {
                return Err(DnsError::Device { addr: listen.addr, device: device.clone() });
            };
            Ok(SocketAddrV6::new(*addr.ip(), addr.port(), 0, index).into())
        }
        (addr, _) => Ok(addr),
    }
}

/// The index of an interface of this network namespace, by name or as a number.
pub(crate) fn interface_index(device: &str) -> Option<u32> {
    if let Ok(index) = device.parse() {
        return Some(index);
    }
    Handle::open().ok()?.link(device).ok()?.map(|link| link.index)
}
