#![expect(unsafe_code, reason = "a view of initialised bytes as bytes that need not be")]

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

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

/// For how long the other end's TCP has acknowledged nothing. While segments are lost and sent again the bytes stand
/// still, and duplicate acknowledgements come all the same.
pub fn since_ack(stream: &impl AsFd) -> io::Result<Duration> {
    option::last_ack(stream.as_fd()).map(|age| Duration::from_millis(age.into()))
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

/// Waits for the peer's first bytes and leaves them where they are, until there are enough of them to fill `buffer`
/// or `undecided` is false for those there are. Returns how many there are; fewer than wanted when the peer sends no
/// more.
pub async fn peek_while(
    stream: &TcpStream,
    buffer: &mut [u8],
    undecided: impl Fn(&[u8]) -> bool,
) -> io::Result<usize> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        // Known before the look: then no byte can come after those that are seen.
        let last = ready.is_read_closed();
        let seen = stream.try_io(Interest::READABLE, || {
            let length = peek(stream, buffer)?;
            let enough = length == 0 || length == buffer.len() || !undecided(&buffer[..length]);
            // Bytes that stay would keep the socket readable: it is only of interest when more have come.
            if enough || last { Ok(length) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match seen {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}

fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the two types have one layout, and `peek` only ever writes initialised bytes to the buffer.
    let buffer = unsafe { &mut *(&raw mut *buffer as *mut [MaybeUninit<u8>]) };
    SockRef::from(stream).peek(buffer)
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

/// How a connection notices that its peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Sent bytes that are not acknowledged, or not taken, for so long end the connection (TCP_USER_TIMEOUT, RFC 5482).
    pub user_timeout: Duration,
    /// A silent peer is probed after this long.
    pub probe_after: Duration,
    /// And again after this long each; the user timeout says when it is given up.
    pub probe_every: Duration,
}

/// Makes a connection that was accepted or made elsewhere one whose small writes leave at once, whose peer's death is
/// noticed, and which a close leaves to deliver what was written.
pub fn adopt(stream: &TcpStream, liveness: Liveness) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(liveness.probe_after).with_interval(liveness.probe_every);
    socket.set_linger(None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(liveness.user_timeout))?;
    socket.set_tcp_keepalive(&keepalive)
}

/// A connection from a port that other sockets of this host may listen on and connect from as well.
pub async fn dial_from(port: u16, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = match peer {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::from([0u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::new(any, port))?;
    socket.connect(peer).await
}

fn tune_socket(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}
