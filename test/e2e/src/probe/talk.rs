use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

/// When nothing comes for this long, nothing will: what is refused is refused within milliseconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

pub(crate) fn tcp(address: SocketAddr) -> Result<Value> {
    let began = Instant::now();
    let outcome = match TcpStream::connect_timeout(&address, SILENCE) {
        Ok(_) => "connected",
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
        Err(error) if error.kind() == ErrorKind::TimedOut => "silent",
        Err(error) => return Err(error.into()),
    };
    Ok(json!({ "outcome": outcome, "ms": milliseconds(began) }))
}

pub(crate) fn udp(address: SocketAddr, patience: Duration) -> Result<Value> {
    let socket = connected(address)?;
    socket.set_read_timeout(Some(patience))?;
    let began = Instant::now();
    socket.send(b"one datagram")?;
    let mut buffer = [0; 64];
    let outcome = match socket.recv(&mut buffer) {
        Ok(length) if &buffer[..length] == b"one datagram" => "answered",
        Ok(_) => "garbled",
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => "silent",
        Err(error) => return Err(error.into()),
    };
    Ok(json!({ "outcome": outcome, "ms": milliseconds(began) }))
}

/// A socket that hears what ICMP says of its datagrams.
pub(crate) fn connected(address: SocketAddr) -> Result<UdpSocket> {
    let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    Ok(socket)
}

pub(crate) fn half_close(address: SocketAddr, bytes: usize) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(&vec![7; bytes])?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(json!({ "answer": answer }))
}

fn milliseconds(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
