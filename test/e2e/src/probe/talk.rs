use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// When nothing comes for this long, nothing will: what is refused is refused within milliseconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

pub(crate) fn tcp(address: SocketAddr, patience: Duration) -> Result<Value> {
    let began = Instant::now();
    let outcome = match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => "connected",
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
        // Taken by the proxy while the last endpoint went: it ends before `connect` has looked at its result.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset",
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

pub(crate) fn noise(address: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    // The other side may close in the middle of it.
    let sent = stream.write_all(&[0xa5; 256]).and_then(|()| stream.shutdown(Shutdown::Write));
    let answered = stream.read_to_end(&mut Vec::new()).unwrap_or_default();
    Ok(json!({ "sent": sent.is_ok(), "answered": answered }))
}

/// Longer than anything in the mesh may take to notice that a peer died.
const NOTICED: Duration = Duration::from_secs(30);

/// Says that it is connected, and tells how the connection ends.
pub(crate) fn tcp_held(address: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(NOTICED))?;
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    crate::say("ready")?;
    let end = match stream.read(&mut byte) {
        Ok(0) => "closed",
        Ok(_) => "talkative",
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset",
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => "silent",
        Err(error) => return Err(error.into()),
    };
    Ok(json!({ "end": end }))
}

/// Sends from one port as a sensor does, which knows of no answer: the session never goes idle by itself.
pub(crate) fn udp_held(address: SocketAddr) -> Result<Value> {
    let socket = connected(address)?;
    // A pace at which an interruption of a second is no loss of single datagrams.
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 64];
    let mut echo = || -> bool {
        // Errors are what ICMP says of an earlier datagram; a sensor goes on.
        drop(socket.send(b"a value"));
        socket.recv(&mut buffer).is_ok()
    };
    let began = Instant::now();
    while !echo() {
        if began.elapsed() > SILENCE {
            bail!("no echo");
        }
    }
    crate::say("ready")?;
    let began = Instant::now();
    let mut missing = 0;
    while began.elapsed() < NOTICED {
        if !echo() {
            missing += 1;
            std::thread::sleep(Duration::from_millis(10));
        } else if missing >= 5 {
            return Ok(json!({ "end": "again", "missing": missing }));
        }
    }
    Ok(json!({ "end": "silent", "missing": missing }))
}

fn milliseconds(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
