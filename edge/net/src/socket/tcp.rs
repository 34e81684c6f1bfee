use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{Transparency, option};

/// Connections the kernel holds for us between two accepts. `net.core.somaxconn` (4,096 since Linux 5.4) caps it.
const BACKLOG: i32 = 4096;

/// A silent end is probed after this long, so that one which vanished without a word does not hold its
/// connection until the idle time; short of the time after which home routers forget a TCP mapping.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(300);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 5;

/// A listener. When it is transparent and TPROXY leads to it, the local address of an accepted connection is the
/// address its client connected to.
pub fn listen(addr: SocketAddr, transparency: Transparency) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparency == Transparency::Transparent {
        option::set_transparent(socket.as_fd(), addr.is_ipv6())?;
    }
    // Accepted sockets inherit these, which saves five calls for each.
    tune_socket(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What the peer has sent already, up to `limit` bytes, without waiting; empty when there is nothing yet.
pub fn take_available(stream: &TcpStream, limit: usize) -> Bytes {
    let mut buffer = vec![0; limit];
    let socket = SockRef::from(stream);
    // An error will meet the next reader again.
    let length = (&*socket).read(&mut buffer).unwrap_or(0);
    buffer.truncate(length);
    buffer.shrink_to_fit();
    buffer.into()
}

/// Closes with a reset, so that the peer does not take what it got for all there is.
pub fn reset(stream: TcpStream) {
    // Without the option the close is an ordinary one; nothing more can be done about it.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// A connection like those of [`listen`]: small writes leave at once, and a peer that vanished is noticed.
///
/// A peer on this host has answered when the call that begins the handshake returns, and is not waited for.
pub async fn dial(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    tune_socket(&socket)?;
    let connected = match socket.connect(&peer.into()) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => socket.peer_addr().is_ok(),
        Err(error) => return Err(error),
    };
    let stream = TcpStream::from_std(socket.into())?;
    if !connected {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

fn tune_socket(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}
