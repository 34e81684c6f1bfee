use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::talk::{SILENCE, connected};

/// Clients at a time: enough to keep two cores busy, few enough that no listen queue overflows.
const CLIENTS: usize = 16;

/// Attempts for one datagram; the mesh may lose one when a socket's buffer is full.
const ATTEMPTS: usize = 3;

pub(crate) fn tcp(address: SocketAddr, count: usize) -> Result<Value> {
    each(count, |number, _| {
        let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let sent = number.to_be_bytes();
        stream.write_all(&sent)?;
        let mut echo = [0; size_of::<usize>()];
        stream.read_exact(&mut echo)?;
        if echo != sent {
            bail!("another echo");
        }
        Ok(())
    })
}

pub(crate) fn udp(address: SocketAddr, count: usize) -> Result<Value> {
    each(count, |number, kept| {
        let socket = connected(address)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let sent = number.to_be_bytes();
        let mut echo = [0; size_of::<usize>()];
        for _ in 0..ATTEMPTS {
            socket.send(&sent)?;
            if socket.recv(&mut echo).is_ok() && echo == sent {
                // Open until the end: the same port again would be the same session.
                kept.push(socket);
                return Ok(());
            }
        }
        bail!("no echo")
    })
}

/// Does something `count` times, a few at once.
fn each(count: usize, one: impl Fn(usize, &mut Vec<UdpSocket>) -> Result<()> + Sync) -> Result<Value> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<UdpSocket>> {
        let mut kept = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(kept);
            }
            one(number, &mut kept).with_context(|| format!("number {number}"))?;
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let ended =
            clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")));
        ended.collect::<Result<Vec<_>>>()
    })?;
    Ok(json!({ "done": count }))
}
