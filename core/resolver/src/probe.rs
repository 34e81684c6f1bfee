use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::flight::TRY_UDP;
use crate::name::LowerName;
use crate::step::{Ask, AskId};
use crate::stored::{AskBits, compose_ask};
use crate::upstream::MAX_UPSTREAMS;
use crate::wire::{Transport, rtype};

/// The slot of probes, which are no flights: their ends concern nobody.
const NO_FLIGHT: usize = usize::MAX;
/// Where probes are in the name space: nobody has it, and resolvers do not treat it specially as they do `.local`
/// and `.invalid`.
const UNDER: &str = "loop-probe.edgemesh";

/// Finds upstreams that ask us in turn, as a stub resolver on this node does when it was given our address. Then each
/// of our questions comes back with another id and waits for itself until it times out. A name that nobody else can
/// ask for tells this from an upstream that is down.
#[derive(Default)]
pub(crate) struct Probes {
    /// The last probes with the upstreams they went to.
    sent: VecDeque<(u64, SocketAddr)>,
}

impl Probes {
    /// A question to an upstream that has not answered for a while.
    pub(crate) fn send(&mut self, server: SocketAddr, serial: u32, now: Instant, draw: u64) -> Ask {
        if self.sent.len() == MAX_UPSTREAMS {
            self.sent.pop_front();
        }
        self.sent.push_back((draw, server));
        let name = LowerName::from_text(&format!("{draw:016x}.{UNDER}"));
        let name = name.as_ref().map_or(&[0][..], LowerName::wire);
        let bits = AskBits { edns: false, dnssec_ok: false, checking_disabled: false };
        Ask {
            id: AskId { slot: NO_FLIGHT, serial },
            server,
            transport: Transport::Udp,
            message: compose_ask((draw >> 32 & 0xffff) as u16, name, rtype::A, bits),
            deadline: now + TRY_UDP,
        }
    }

    /// The upstream that sent a probe back to us, if the name is one.
    pub(crate) fn came_back(&self, name: &LowerName) -> Option<SocketAddr> {
        if self.sent.is_empty() || name.labels() != 3 {
            return None;
        }
        let number = u64::from_str_radix(name.label(0)?, 16).ok()?;
        let under = name.label(1)? == "loop-probe" && name.label(2)? == "edgemesh";
        self.sent.iter().rev().find(|(sent, _)| under && *sent == number).map(|(_, server)| *server)
    }
}
