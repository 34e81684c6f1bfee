use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::address::{RTM_DELADDR, RTM_NEWADDR};
use super::link::{RTM_DELLINK, RTM_NEWLINK};
use super::route::{RTM_DELROUTE, RTM_NEWROUTE};
use crate::netlink::NetlinkError;
use crate::netlink::message::{HEADER_LEN, read_u16};
use crate::netlink::socket::bind_groups;

/// Links, addresses and routes.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;

/// Room for some hundred changes that nobody has read yet. More are dropped and counted as a change of everything, so
/// that a routing daemon with a full table takes no more memory here.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// Changes taken at once, so that somebody who makes them without end does not keep the task from returning: more than
/// [`RECEIVE_BUFFER`] holds, which the kernel doubles and a change takes at least 512 bytes of.
const BURST: usize = 1024;

/// What changed since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links came, went, or have other properties.
    pub links: bool,
    /// Addresses came or went.
    pub addresses: bool,
    /// Routes came or went.
    pub routes: bool,
}

impl Changes {
    /// What is not known may be anything.
    const ALL: Self = Self { links: true, addresses: true, routes: true };

    fn add(&mut self, kind: u16) {
        match kind {
            RTM_NEWLINK | RTM_DELLINK => self.links = true,
            RTM_NEWADDR | RTM_DELADDR => self.addresses = true,
            RTM_NEWROUTE | RTM_DELROUTE => self.routes = true,
            _ => {}
        }
    }
}

/// Hears of changes of links, addresses and routes of one network namespace. What they are is read with
/// [`super::Handle`] afterwards: the news say no more than that there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<File>,
    /// Changes were dropped, and more may be until everything that is queued is read.
    overrun: bool,
}

impl Monitor {
    /// A monitor of the network namespace of the calling thread, from now on; needs a tokio runtime with I/O.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Self { socket, overrun: false })
    }

    /// Waits until something changed, and gives all that changed by now at once. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Result<Changes, NetlinkError> {
        let Self { socket, overrun } = self;
        loop {
            let mut guard = socket.readable().await.map_err(NetlinkError::Socket)?;
            match guard.try_io(|socket| drain(socket.get_ref(), overrun)) {
                Ok(Ok(changes)) if changes == Changes::default() => {}
                Ok(changes) => return changes.map_err(NetlinkError::Socket),
                // Was not readable after all.
                Err(_) => {}
            }
        }
    }
}

fn open() -> io::Result<AsyncFd<File>> {
    let route = Protocol::from(libc::NETLINK_ROUTE);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.nonblocking(), Some(route))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    bind_groups(&socket, GROUPS.cast_unsigned())?;
    let file = File::from(OwnedFd::from(socket));
    // SAFETY: a `File` keeps one descriptor open until it is dropped, and the `AsyncFd` owns it.
    let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    Ok(file?)
}

/// Reads what is queued. `WouldBlock` when that is nothing.
fn drain(mut socket: &File, overrun: &mut bool) -> io::Result<Changes> {
    // A datagram of the groups is one message, and its header says enough; the kernel cuts the rest off.
    let mut header = [0; HEADER_LEN];
    let mut changes = Changes::default();
    for taken in 0..BURST {
        match socket.read(&mut header) {
            Ok(_) => changes.add(read_u16(&header[4..]).unwrap_or_default()),
            // From here on the kernel drops without saying so again, until the queue was empty once.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => *overrun = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let lost = std::mem::take(overrun);
                return match taken {
                    0 if !lost => Err(error),
                    _ if lost => Ok(Changes::ALL),
                    _ => Ok(changes),
                };
            }
            Err(error) => return Err(error),
        }
    }
    Ok(if *overrun { Changes::ALL } else { changes })
}
