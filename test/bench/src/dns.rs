//! Questions to the agent's DNS server.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Where the agent answers (`--dns-listen`).
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 96, 16), 53);

/// An answer of the own node takes less than a millisecond; a question to a server that is not there yet is asked again.
const PATIENCE: Duration = Duration::from_millis(5);

/// Types A and class IN (RFC 1035).
const QUESTION: [u8; 4] = [0, 1, 0, 1];

/// One socket that asks for addresses.
#[derive(Debug)]
pub(crate) struct Dns {
    socket: UdpSocket,
    id: u16,
}

impl Dns {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, id: 0 })
    }

    /// Whether the Service's name has this address now.
    pub(crate) fn has(&mut self, service: &str, addr: Ipv4Addr) -> bool {
        self.id = self.id.wrapping_add(1);
        self.ask(&format!("{service}.svc.cluster.local"), addr).unwrap_or(false)
    }

    fn ask(&mut self, name: &str, addr: Ipv4Addr) -> io::Result<bool> {
        let id = self.id.to_be_bytes();
        let mut query = vec![id[0], id[1], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).map_err(io::Error::other)?);
            query.extend_from_slice(label.as_bytes());
        }
        query.push(0);
        query.extend_from_slice(&QUESTION);
        self.socket.send_to(&query, SERVER)?;
        let mut reply = [0; 512];
        loop {
            let length = self.socket.recv(&mut reply)?;
            // Answers to earlier questions may come late.
            if reply[..2] == id {
                return Ok(is_answer(&reply[..length], &query, addr));
            }
        }
    }
}

/// Whether the reply repeats the question, is no error, and ends with the one address that was expected.
fn is_answer(reply: &[u8], query: &[u8], addr: Ipv4Addr) -> bool {
    let answers = reply.get(6..8) == Some(&[0, 1]);
    let no_error = reply.get(3).is_some_and(|flags| flags & 0xf == 0);
    let question = reply.get(12..query.len()) == Some(&query[12..]);
    let record = reply.get(query.len()..).is_some_and(|record| {
        // The length of the data and the data, wherever the record's name ends.
        record.windows(6).any(|window| window[..2] == [0, 4] && window[2..] == addr.octets())
    });
    answers && no_error && question && record
}
