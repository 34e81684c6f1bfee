//! What arrives for whoever takes carriers and offers of circuits in the place of the tunnel.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use edgemesh_tunnel_proto::PeerId;
use edgemesh_tunnel_proto::circuit::Token;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Arrivals that wait to be taken: as many handshakes as may be in progress on the port (behaviour's `MAX_PENDING`).
const TAP_QUEUE: usize = 512;

/// A connection to the tunnel's port that begins a carrier; its preface has been taken, what follows has not.
#[derive(Debug)]
pub struct AcceptedCarrier {
    /// The connection.
    pub stream: TcpStream,
    /// Where it came from.
    pub remote: SocketAddr,
}

/// A relay's word that a peer asks for a circuit; to be taken up with [`super::accept_circuit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitOffer {
    /// The relay.
    pub relay: PeerId,
    /// Where the relay can be reached, the likeliest first.
    pub addresses: Vec<SocketAddr>,
    /// Names the circuit.
    pub token: Token,
    /// Who asks, as the relay says; its TLS has to prove it.
    pub from: PeerId,
}

/// Ends of bounded channels that exist while somebody holds the other end. Without one the tunnel takes what arrives.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    carriers: Mutex<Option<mpsc::Sender<AcceptedCarrier>>>,
    offers: Mutex<Option<mpsc::Sender<CircuitOffer>>>,
}

impl Taps {
    pub(crate) fn take_carriers(&self) -> mpsc::Receiver<AcceptedCarrier> {
        open(&self.carriers)
    }

    pub(crate) fn take_offers(&self) -> mpsc::Receiver<CircuitOffer> {
        open(&self.offers)
    }

    /// Gives it back when nobody takes it.
    pub(crate) fn carrier(&self, carrier: AcceptedCarrier) -> Option<AcceptedCarrier> {
        offer(&self.carriers, carrier)
    }

    /// As [`Taps::carrier`].
    pub(crate) fn offer(&self, circuit: CircuitOffer) -> Option<CircuitOffer> {
        offer(&self.offers, circuit)
    }
}

fn open<T>(tap: &Mutex<Option<mpsc::Sender<T>>>) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(TAP_QUEUE);
    *tap.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    receiver
}

fn offer<T>(tap: &Mutex<Option<mpsc::Sender<T>>>, value: T) -> Option<T> {
    let tap = tap.lock().unwrap_or_else(PoisonError::into_inner);
    match tap.as_ref() {
        Some(sender) => sender.try_send(value).err().map(|error| error.into_inner()),
        None => Some(value),
    }
}
