use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use edgemesh_resolver::{Ask, AskFailure, Transport, reply_matches};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout_at;

/// Room for a datagram: twice the 1232 octets we announce, for servers that do not keep to it.
const DATAGRAM: usize = 2464;

/// Sends a question and waits for its reply until the deadline.
pub(crate) async fn ask(ask: &Ask) -> Result<Vec<u8>, AskFailure> {
    let exchange = async {
        match ask.transport {
            Transport::Udp => over_udp(ask).await,
            Transport::Tcp => over_tcp(ask).await,
        }
    };
    match timeout_at(ask.deadline.into(), exchange).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => {
            tracing::debug!(server = %ask.server, %error, "upstream");
            Err(AskFailure::Socket)
        }
        Err(_) => Err(AskFailure::TimedOut),
    }
}

/// The socket is a fresh one, so the kernel draws its port, and connected, so only the server's datagrams arrive.
async fn over_udp(ask: &Ask) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match ask.server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(ask.server).await?;
    socket.send(&ask.message).await?;
    let mut reply = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut reply).await?;
        if reply_matches(&ask.message, &reply[..length]) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(ask: &Ask) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(ask.server).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&framed(&ask.message)?).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if reply_matches(&ask.message, &reply) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A message with its length before it, RFC 1035 section 4.2.2, in one buffer and so in one segment.
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = Vec::with_capacity(2 + message.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame)
}
