//! Wires with delay, loss, rate and cuts between two network devices.
//!
//! Every device is read and written by a packet socket with `PACKET_VNET_HDR`, so that segmentation-offload frames and
//! partial checksums pass as they are. One thread carries all wires of a laboratory.

mod port;
mod queue;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use port::Port;
use port::{Doorbell, Frame, wait};
use queue::{Queue, Verdict};

/// What a wire does to the frames that pass, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// One-way delay.
    pub delay: Duration,
    /// Share of frames that are lost, 0 to 1. A segmentation-offload frame counts as its segments and is lost whole.
    pub loss: f64,
    /// Bits per second; `None` is as fast as it goes.
    pub rate: Option<u64>,
}

/// What passed a wire, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that went out at the other end.
    pub forwarded: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Frames drawn to be lost.
    pub lost: u64,
    /// Frames dropped because a queue was full or a device took no more.
    pub overflowed: u64,
    /// Frames swallowed while the wire was cut.
    pub cut: u64,
}

#[derive(Default)]
struct Setting {
    impairment: Impairment,
    cut: bool,
    counters: Counters,
}

struct Shared {
    settings: Mutex<Vec<Setting>>,
    doorbell: Doorbell,
    stop: std::sync::atomic::AtomicBool,
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, Vec<Setting>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wires of a laboratory; dropping the value ends the thread and closes its sockets.
pub struct Wires {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Wires {
    /// Joins each pair of ports by a wire; `seed` decides which frames are lost.
    pub fn start(pairs: Vec<(Port, Port, Impairment)>, seed: u64) -> io::Result<Self> {
        let mut ports = Vec::with_capacity(pairs.len() * 2);
        let mut settings = Vec::with_capacity(pairs.len());
        for (one, other, impairment) in pairs {
            ports.push(one);
            ports.push(other);
            settings.push(Setting { impairment, ..Setting::default() });
        }
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            doorbell: Doorbell::new()?,
            stop: false.into(),
        });
        let mut carrier = Carrier::new(ports, Arc::clone(&shared), seed);
        let thread = std::thread::Builder::new().name("wires".into()).spawn(move || carrier.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes what wire `index` does to frames that arrive from now on.
    pub fn set(&self, index: usize, impairment: Impairment) {
        if let Some(setting) = self.shared.settings().get_mut(index) {
            setting.impairment = impairment;
        }
    }

    /// Cuts wire `index`: it swallows everything, what is under way too, and both ends see a carrier still.
    pub fn cut(&self, index: usize, cut: bool) {
        if let Some(setting) = self.shared.settings().get_mut(index) {
            setting.cut = cut;
        }
    }

    /// Whether wire `index` is cut.
    pub fn is_cut(&self, index: usize) -> bool {
        self.shared.settings().get(index).is_some_and(|setting| setting.cut)
    }

    /// What passed wire `index`.
    pub fn counters(&self, index: usize) -> Counters {
        self.shared.settings().get(index).map(|setting| setting.counters).unwrap_or_default()
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.shared.stop.store(true, std::sync::atomic::Ordering::Release);
        self.shared.doorbell.ring();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Frames taken from one port before the others have their turn: the receive ring's share of one scheduling slice,
/// 64 full-size frames being about 100 KiB or, with segmentation offload, 4 MiB.
const BURST: usize = 64;

/// Port `2n` and port `2n + 1` are the ends of wire `n`; queue `i` holds what waits to leave by port `i`.
struct Carrier {
    ports: Vec<Port>,
    queues: Vec<Queue>,
    shared: Arc<Shared>,
    random: fastrand::Rng,
    frame: Frame,
}

impl Carrier {
    fn new(ports: Vec<Port>, shared: Arc<Shared>, seed: u64) -> Self {
        let queues = ports.iter().map(|_| Queue::default()).collect();
        Self { ports, queues, shared, random: fastrand::Rng::with_seed(seed), frame: Frame::new() }
    }

    fn run(&mut self) {
        let mut readable = Vec::with_capacity(self.ports.len());
        while !self.shared.stop.load(std::sync::atomic::Ordering::Acquire) {
            let due = self.queues.iter().filter_map(Queue::due).min();
            let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
            if let Err(error) = wait(&self.ports, &self.shared.doorbell, patience, &mut readable) {
                tracing::error!(%error, "wires cannot wait for frames");
                return;
            }
            self.depart(Instant::now());
            for index in readable.drain(..) {
                self.receive(index);
            }
        }
    }

    fn receive(&mut self, from: usize) {
        let to = from ^ 1;
        let shared = Arc::clone(&self.shared);
        for _ in 0..BURST {
            match self.ports[from].receive(&mut self.frame) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, port = from, "wire end not readable");
                    return;
                }
            }
            let mut settings = shared.settings();
            let setting = &mut settings[from / 2];
            if setting.cut {
                setting.counters.cut += 1;
                continue;
            }
            let Impairment { delay, loss, rate } = setting.impairment;
            if loss > 0.0 && self.random.f64() >= (1.0 - loss).powi(self.frame.segments()) {
                setting.counters.lost += 1;
                continue;
            }
            match self.queues[to].admit(Instant::now(), self.frame.length(), delay, rate) {
                Verdict::Now => {
                    drop(settings);
                    self.send(to, None);
                }
                Verdict::At(due) => self.queues[to].push(due, self.frame.bytes()),
                Verdict::Full => setting.counters.overflowed += 1,
            }
        }
    }

    fn depart(&mut self, now: Instant) {
        for to in 0..self.queues.len() {
            while let Some(bytes) = self.queues[to].pop(now) {
                self.send(to, Some(&bytes));
            }
        }
    }

    /// Sends waiting bytes, or the frame just received, out of port `to`.
    fn send(&mut self, to: usize, waiting: Option<&[u8]>) {
        let bytes = waiting.unwrap_or_else(|| self.frame.bytes());
        let cut = self.shared.settings()[to / 2].cut;
        let sent = !cut && self.ports[to].send(bytes);
        let mut settings = self.shared.settings();
        let counters = &mut settings[to / 2].counters;
        if sent {
            counters.forwarded += 1;
            counters.bytes += Frame::length_of(bytes);
        } else if cut {
            counters.cut += 1;
        } else {
            counters.overflowed += 1;
        }
    }
}
