//! What time alone brings about.

use std::time::Instant;

use super::moves::NO_PATH_AFTER;
use super::pulse::Beat;
use super::state::Session;
use super::types::ResetReason;

impl Session {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut dead = Vec::new();
        for carrier in &mut self.carriers {
            match carrier.pulse.beat(carrier.unacked > 0, now) {
                Beat::Fine => {}
                Beat::Ask(number) => {
                    carrier.queues.ping = Some(number);
                    carrier.signal();
                }
                Beat::Dead(silent) => dead.push((carrier.id, silent)),
            }
            if carrier.queues.ack_at.is_some_and(|due| due <= now) {
                carrier.signal();
            }
        }
        for (id, silent) in dead {
            self.waits.dead.push_back((id, silent));
            self.carrier_down(id, now);
        }
        while let Some((until, id)) = self.waits.drain.first().copied().filter(|(until, _)| *until <= now) {
            self.waits.drain.remove(&(until, id));
            self.stop_draining(id);
        }
        while let Some((since, id)) = self.waits.carrier.front().copied()
            && since + NO_PATH_AFTER <= now
        {
            self.waits.carrier.pop_front();
            let Some(stream) = self.streams.get(&id).filter(|stream| !stream.over) else { continue };
            // One that only waits for its reader needs no carrier.
            let complete = stream.recv.ended() && stream.send.fin_acked();
            if stream.reset.is_none() && !complete {
                self.give_up(id, ResetReason::NoPath, false);
            }
        }
    }

    /// When [`Session::handle_timeout`] is due; in the past when it is overdue.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pulses = self.carriers.iter().map(|carrier| carrier.pulse.next(carrier.unacked > 0));
        // Whoever was told of a carrier's frames asks for them without a clock.
        let acks = self.carriers.iter().filter(|c| !c.is_signalled()).filter_map(|c| c.queues.ack_at);
        let drain = self.waits.drain.first().map(|(until, _)| *until);
        let path = self.waits.carrier.front().map(|(since, _)| *since + NO_PATH_AFTER);
        pulses.chain(acks).chain(drain).chain(path).min()
    }
}
