use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Four times the 250 ms after which Go EdgeMesh no longer listens for a UDP reply.
const LATE: Duration = Duration::from_secs(1);

/// Serves until it is killed: over TCP the number of bytes that came, told when the client has ended its direction;
/// over UDP an echo that comes late.
pub(crate) fn run(counter: u16, late: u16) -> Result<Value> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, counter))?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, late))?;
    std::thread::spawn(move || echo_late(&socket));
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || count(stream));
    }
    Ok(Value::Null)
}

fn count(mut stream: TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(stream.write_all(bytes.len().to_string().as_bytes())?)
}

fn echo_late(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let (answer, socket) = (buffer[..length].to_vec(), socket.try_clone()?);
        std::thread::spawn(move || {
            std::thread::sleep(LATE);
            socket.send_to(&answer, from)
        });
    }
}

/// Takes an address away from others until it is killed.
pub(crate) fn hold(address: SocketAddr) -> Result<Value> {
    let _tcp = TcpListener::bind(address).with_context(|| address.to_string())?;
    let _udp = UdpSocket::bind(address).with_context(|| address.to_string())?;
    crate::say("ready")?;
    loop {
        std::thread::park();
    }
}
