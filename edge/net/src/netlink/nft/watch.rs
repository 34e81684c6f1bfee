use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    CHAIN_NAME, CHAIN_TABLE, Family, GEN_ID, MSG_DELCHAIN, MSG_DELRULE, MSG_NEWCHAIN, MSG_NEWGEN,
    MSG_NEWRULE, Nft, RULE_CHAIN, SUBSYSTEM, message_type,
};
use crate::netlink::message::Messages;
use crate::netlink::socket::bind_groups;
use crate::netlink::{Attrs, NetlinkError};

/// `NFNLGRP_NFTABLES` as a bit of the groups.
const GROUP: u32 = 1 << (7 - 1);

/// `struct nfgenmsg`.
const NFGEN_LEN: usize = 4;

/// Room for some hundred changes between two looks; the kernel doubles the value. Who makes more at a time is met by
/// reading the table, which is what would be done without news.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// The kernel puts changes together in datagrams of up to `NLMSG_GOODSIZE`, which is 8 KiB at most.
const DATAGRAM: usize = 16 * 1024;

/// Datagrams taken at one look: more than [`RECEIVE_BUFFER`] holds, as each takes at least 512 bytes of it, so that somebody
/// who changes his rules without end does not keep the caller from returning.
const BURST: usize = 1024;

/// What somebody changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The chain, where it was one or a rule of one.
    pub chain: Option<String>,
}

/// Hears which tables are changed in one network namespace, so that changes of others need not be looked for in a large
/// table that is none of theirs. The kernel ends each transaction with its count of changes: what was missed is known.
#[derive(Debug)]
pub struct Watch {
    socket: File,
    /// Port of the handle whose changes are known.
    own: u32,
    /// Everything up to this count of changes was heard of.
    until: u32,
    /// What concerns, or was missed, since the last [`Watch::restart`].
    doubt: bool,
    /// The transaction whose end was not heard of yet concerns.
    pending: bool,
    concerns: fn(&Touched) -> bool,
}

impl Watch {
    /// Hears from now on, in the network namespace of the calling thread, of changes that concern, but for those made with
    /// `own`.
    pub fn open(own: &mut Nft, concerns: fn(&Touched) -> bool) -> Result<Self, NetlinkError> {
        let socket = open().map_err(NetlinkError::Socket)?;
        // Asked after the socket hears, so that no change lies between.
        let until = own.generation()?;
        let own = own.socket.port().map_err(NetlinkError::Socket)?;
        Ok(Self { socket, own, until, doubt: false, pending: false, concerns })
    }

    /// Whether none of the changes concerned that were made since the last [`Watch::restart`] up to this count.
    pub fn is_quiet(&mut self, generation: u32) -> Result<bool, NetlinkError> {
        self.drain()?;
        Ok(!self.doubt && self.until == generation)
    }

    /// What was changed up to this count is known from elsewhere.
    pub fn restart(&mut self, generation: u32) -> Result<(), NetlinkError> {
        self.drain()?;
        // What came meanwhile is still to be judged.
        if self.until == generation {
            (self.doubt, self.pending) = (false, false);
        } else if !is_after(self.until, generation) {
            (self.doubt, self.pending, self.until) = (false, false, generation);
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), NetlinkError> {
        let mut buffer = [0; DATAGRAM];
        for _ in 0..BURST {
            match self.socket.read(&mut buffer) {
                Ok(length) => self.hear(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.doubt = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(NetlinkError::Socket(error)),
            }
        }
        self.doubt = true;
        Ok(())
    }

    fn hear(&mut self, datagram: &[u8]) {
        for message in Messages(datagram) {
            if message.kind >> 8 != SUBSYSTEM {
                continue;
            }
            let attrs = Attrs::after(message.payload, NFGEN_LEN);
            if message.kind != message_type(MSG_NEWGEN) {
                if message.port != self.own {
                    self.pending |=
                        touched(message.kind, message.payload).is_none_or(|it| (self.concerns)(&it));
                }
                continue;
            }
            let concerned = std::mem::take(&mut self.pending);
            let Some(count) = attrs.be32(GEN_ID) else {
                self.doubt = true;
                continue;
            };
            if !is_after(count, self.until) {
                continue;
            }
            // The kernel leaves out 0 when its count wraps.
            let next = self.until.checked_add(1).unwrap_or(1);
            self.doubt |= count != next || concerned;
            self.until = count;
        }
    }
}

/// Whether one count of changes is later than another, which it may be by wrapping.
fn is_after(count: u32, other: u32) -> bool {
    count.wrapping_sub(other).cast_signed() > 0
}

/// `None` for what no table is told of.
fn touched(kind: u16, payload: &[u8]) -> Option<Touched> {
    let attrs = Attrs::after(payload, NFGEN_LEN);
    let chain = match kind & 0xff {
        MSG_NEWCHAIN | MSG_DELCHAIN => attrs.str(CHAIN_NAME),
        MSG_NEWRULE | MSG_DELRULE => attrs.str(RULE_CHAIN),
        _ => None,
    };
    // The first attribute of every object is its table.
    Some(Touched { family: Family::from_code(*payload.first()?), table: attrs.str(CHAIN_TABLE)?, chain })
}

fn open() -> io::Result<File> {
    let netfilter = Protocol::from(libc::NETLINK_NETFILTER);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.nonblocking(), Some(netfilter))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    bind_groups(&socket, GROUP)?;
    Ok(File::from(OwnedFd::from(socket)))
}
