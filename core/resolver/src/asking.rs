use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alias;
use crate::flight::{Attempt, MAX_TRIES, TRY_TCP, TRY_UDP, Waiter};
use crate::resolver::{Resolver, fail};
use crate::step::{Ask, AskId, Notice, Origin, Output};
use crate::stored::{Age, Stored, compose_ask, reply_matches, truncated};
use crate::upstream::{AskFailure, Health};
use crate::wire::{Ede, Rcode, Transport, class};

/// How long a failure is remembered: the least that RFC 9520 section 3.2 allows, so that recovery is seen at once.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// The upstreams' side: attempts, their ends, and what the waiters are told.
impl<C: PartialEq> Resolver<C> {
    /// Makes the next attempt of a flight, or ends it when none is left.
    pub(crate) fn ask_next(&mut self, slot: usize, now: Instant, draw: u64) {
        let Some(flight) = self.flights.get(slot) else { return };
        match self.upstreams.pick(&flight.asked, now) {
            // A server that refused or answered with an error does so again; a silent one may have lost a datagram.
            Some((server, times))
                if (times == 0 || flight.silence)
                    && flight.asked.len() < MAX_TRIES
                    && now < flight.deadline() =>
            {
                flight.asked.push(server);
                self.ask(slot, server, Transport::Udp, now, draw);
            }
            _ => self.land_failed(slot, now),
        }
    }

    fn ask(&mut self, slot: usize, server: SocketAddr, transport: Transport, now: Instant, draw: u64) {
        let Some(flight) = self.flights.get(slot) else { return };
        self.serial = self.serial.wrapping_add(1);
        let dns_id = draw_id(draw);
        flight.attempt = Some(Attempt { serial: self.serial, dns_id, server, transport });
        let patience = if transport == Transport::Udp { TRY_UDP } else { TRY_TCP };
        self.outputs.push_back(Output::Ask(Ask {
            id: AskId { slot, serial: self.serial },
            server,
            transport,
            message: compose_ask(dns_id, &flight.name, flight.qtype, flight.bits),
            deadline: (now + patience).min(flight.deadline()),
        }));
    }

    /// Takes the end of an attempt: a reply for which [`reply_matches`] holds, or why there is none.
    pub fn handle_upstream(&mut self, id: AskId, result: Result<&[u8], AskFailure>, now: Instant, draw: u64) {
        let Some(flight) = self.flights.get(id.slot) else { return };
        let Some(attempt) = flight.attempt.filter(|attempt| attempt.serial == id.serial) else { return };
        flight.attempt = None;
        let sent = compose_ask(attempt.dns_id, &flight.name, flight.qtype, flight.bits);
        let reply = match result {
            Ok(reply) if reply_matches(&sent, reply) => reply,
            Ok(_) => return self.unanswered(id.slot, attempt, AskFailure::Socket, now, draw),
            Err(failure) => return self.unanswered(id.slot, attempt, failure, now, draw),
        };
        if self.upstreams.answered(attempt.server) == Health::Up {
            self.outputs.push_back(Output::Notice(Notice::UpstreamUp(attempt.server)));
        }
        if truncated(reply, attempt.transport) {
            return self.ask(id.slot, attempt.server, Transport::Tcp, now, draw);
        }
        let rcode = reply.get(3).map_or(0, |octet| u16::from(octet & 0x0f));
        let Some(flight) = self.flights.get(id.slot) else { return };
        let unread = rcode == Rcode::FormErr.code() || rcode == Rcode::NotImp.code();
        if unread && flight.bits.edns {
            // RFC 6891 section 7: a server that knows no EDNS may say so like this.
            flight.bits.edns = false;
            return self.ask(id.slot, attempt.server, attempt.transport, now, draw);
        }
        match Stored::from_reply(reply) {
            Some(stored) if rcode == Rcode::NoError.code() || rcode == Rcode::NxDomain.code() => {
                self.land(id.slot, stored, now);
            }
            stored => {
                flight.error = stored.or(flight.error.take());
                self.ask_next(id.slot, now, draw);
            }
        }
    }

    fn unanswered(&mut self, slot: usize, attempt: Attempt, failure: AskFailure, now: Instant, draw: u64) {
        if self.upstreams.failed(attempt.server, now) == Health::Down {
            self.outputs.push_back(Output::Notice(Notice::UpstreamDown(attempt.server, failure)));
            if failure == AskFailure::TimedOut {
                self.probe(attempt.server, now, draw);
            }
        }
        if let Some(flight) = self.flights.get(slot) {
            flight.silence |= failure == AskFailure::TimedOut;
        }
        self.ask_next(slot, now, draw);
    }

    /// Finds out whether a server leads back to us.
    pub(crate) fn probe(&mut self, server: SocketAddr, now: Instant, draw: u64) {
        self.serial = self.serial.wrapping_add(1);
        self.outputs.push_back(Output::Ask(self.probes.send(server, self.serial, now, draw)));
    }

    /// Ends a flight with an answer.
    fn land(&mut self, slot: usize, stored: Stored, now: Instant) {
        let Some(flight) = self.flights.remove(slot) else { return };
        for waiter in flight.waiters {
            let mut message = Vec::new();
            let age = Age::Kept(Duration::ZERO);
            alias::render(&waiter.query(), &waiter.aliases, self.zone.ttl, &stored, age, None, &mut message);
            self.outputs.push_back(Output::Answer {
                client: waiter.client,
                message,
                origin: Origin::Upstream,
            });
        }
        self.cache.insert(&flight.key, stored, now);
    }

    /// Ends a flight for which no upstream had an answer.
    fn land_failed(&mut self, slot: usize, now: Instant) {
        let Some(mut flight) = self.flights.remove(slot) else { return };
        let waiters = std::mem::take(&mut flight.waiters);
        if self.cache.stale(&flight.key, now).is_some() {
            return self.answer_stale(&flight.key, waiters, now);
        }
        for waiter in waiters {
            let mut message = Vec::new();
            match &flight.error {
                Some(error) => {
                    let (age, ttl) = (Age::Kept(Duration::ZERO), self.zone.ttl);
                    alias::render(&waiter.query(), &waiter.aliases, ttl, error, age, None, &mut message);
                }
                None => fail(&waiter.query(), Ede::NoReachableAuthority, &mut message),
            }
            self.outputs.push_back(Output::Answer { client: waiter.client, message, origin: Origin::Failed });
        }
        let mut question = flight.name.to_vec();
        question.extend_from_slice(&flight.qtype.to_be_bytes());
        question.extend_from_slice(&class::IN.to_be_bytes());
        self.cache.insert_failure(&flight.key, Stored::failure(&question, FAILURE_LIFETIME), now);
    }

    /// Gives stale answers to those who have waited long enough; the flights go on and refresh the cache.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<_> = self
            .flights
            .due(now)
            .map(|flight| {
                flight.stale_at = None;
                (flight.key.clone(), std::mem::take(&mut flight.waiters))
            })
            .collect();
        for (key, waiters) in due {
            self.answer_stale(&key, waiters, now);
        }
    }

    fn answer_stale(&mut self, key: &Arc<[u8]>, waiters: Vec<Waiter<C>>, now: Instant) {
        self.key.clear();
        self.key.extend_from_slice(key);
        for waiter in waiters {
            let mut message = Vec::new();
            self.render_stale(&waiter.query(), &waiter.aliases, now, &mut message);
            self.outputs.push_back(Output::Answer { client: waiter.client, message, origin: Origin::Stale });
        }
    }
}

/// The message id is the low end of the draw; the order of addresses hangs on all of it.
fn draw_id(draw: u64) -> u16 {
    (draw & 0xffff) as u16
}
