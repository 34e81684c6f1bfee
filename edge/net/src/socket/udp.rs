#![expect(unsafe_code, reason = "recvmsg and sendmsg with control messages")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use libc::{c_int, c_void};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Transparency, canonical, option};

/// The buffer that any datagram fits: the 16-bit length of UDP (RFC 768).
pub const MAX_DATAGRAM: usize = 65_535;

/// The frontend socket serves all clients of the node: room for about 30 datagrams of the largest size (which
/// count double in the kernel), used only while they wait.
const RECEIVE_BUFFER: c_int = 4 * 1024 * 1024;

/// One received datagram; its payload is in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Length of the payload.
    pub length: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom it was sent, before any redirection.
    pub destination: SocketAddr,
}

/// The one UDP socket for all frontends of a family.
#[derive(Debug)]
pub struct FrontendUdp {
    socket: UdpSocket,
    local: SocketAddr,
}

impl FrontendUdp {
    /// Binds. Every datagram is received with the destination it was sent to.
    pub fn bind(addr: SocketAddr, transparency: Transparency) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        let fd = socket.as_fd();
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
            option::set(fd, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
        } else {
            option::set(fd, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?;
        }
        if transparency == Transparency::Transparent {
            option::set_transparent(fd, addr.is_ipv6())?;
        }
        // The forced size needs CAP_NET_ADMIN; without it the system's maximum must do.
        if option::set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER as usize)?;
        }
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a datagram. `buffer` must have [`MAX_DATAGRAM`] bytes, or long datagrams are cut.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let fd = self.socket.as_raw_fd();
        self.socket.async_io(Interest::READABLE, || receive(fd, buffer, self.local)).await
    }

    /// Sends from this socket's port and the given address of its family, at once or not at all.
    pub fn send_from(&self, payload: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<()> {
        send(self.socket.as_raw_fd(), payload, from, to)
    }
}

/// Sends on a connected socket, at once or not at all. Unlike `try_send` it asks the kernel, not the runtime, which
/// knows nothing of a socket that was made a moment ago.
pub fn send_now(socket: &UdpSocket, payload: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send(payload).map(drop)
}

/// As [`send_now`], to an address.
pub fn send_to_now(socket: &UdpSocket, payload: &[u8], to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).send_to(payload, &to.into()).map(drop)
}

/// A socket that sends from `frontend`, which need not be an address of this host when transparent.
///
/// It shares the address with other sockets (`SO_REUSEADDR`): what clients send there goes to the
/// [`FrontendUdp`], which TPROXY names; it is never read.
pub fn reply_udp(frontend: SocketAddr, transparency: Transparency) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(frontend), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    if frontend.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparency == Transparency::Transparent {
        option::set_transparent(socket.as_fd(), frontend.is_ipv6())?;
    }
    socket.bind(&frontend.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket connected to a backend: it hears only the backend, and the backend's ICMP errors.
pub fn backend_udp(backend: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(backend), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&backend.into())?;
    UdpSocket::from_std(socket.into())
}

/// Room for every control message that was asked for, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 128]);

fn receive(fd: RawFd, buffer: &mut [u8], local: SocketAddr) -> io::Result<Datagram> {
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `socket2` hands out a zeroed storage of at least the stated length, and `recvmsg` writes the name
    // into it, the payload into `buffer` and the control messages into `control`, each within its stated length;
    // all of them outlive the call.
    let (length, source, message) = unsafe {
        let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
        let ((length, header), source) = SockAddr::try_init(|name, name_length| {
            message.msg_name = name.cast();
            message.msg_namelen = *name_length;
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
            let length = libc::recvmsg(fd, &raw mut message, 0);
            if length < 0 {
                return Err(io::Error::last_os_error());
            }
            *name_length = message.msg_namelen;
            Ok((length as usize, message))
        })?;
        (length, source, header)
    };
    let source = source.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let destination = original_destination(&message).unwrap_or(local);
    Ok(Datagram { length, source: canonical(source), destination: canonical(destination) })
}

/// The destination in the control messages of a received datagram; `message` must still point to them.
fn original_destination(message: &libc::msghdr) -> Option<SocketAddr> {
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen` with well-formed control messages, and the
    // macros stay within it. A message of these two types carries a whole socket address of its family, read
    // unaligned because the alignment of control data is only that of the header.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let content: *const c_void = libc::CMSG_DATA(header).cast_const().cast();
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_IP, libc::IP_ORIGDSTADDR) => {
                    let addr: libc::sockaddr_in = content.cast::<libc::sockaddr_in>().read_unaligned();
                    let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
                    return Some(SocketAddr::new(ip.into(), u16::from_be(addr.sin_port)));
                }
                (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                    let addr: libc::sockaddr_in6 = content.cast::<libc::sockaddr_in6>().read_unaligned();
                    let ip = Ipv6Addr::from(addr.sin6_addr.s6_addr);
                    return Some(SocketAddr::new(ip.into(), u16::from_be(addr.sin6_port)));
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    None
}

fn send(fd: RawFd, payload: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<()> {
    match from {
        IpAddr::V4(from) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send_with(fd, payload, to, libc::SOL_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(from) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            send_with(fd, payload, to, libc::SOL_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn send_with<T: Copy>(
    fd: RawFd,
    payload: &[u8],
    to: SocketAddr,
    level: c_int,
    kind: c_int,
    content: T,
) -> io::Result<()> {
    let mut control = Control([0; 128]);
    let to = SockAddr::from(to);
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: `control` is larger than the one control message (a header and at most 20 bytes) and aligned for
    // its header; the kernel only reads name, payload and control, which outlive the call.
    let sent = unsafe {
        let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(content);
        libc::sendmsg(fd, &raw const message, 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
