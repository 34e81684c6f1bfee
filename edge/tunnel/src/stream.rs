//! What is counted of streams and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use edgemesh_api::Name;
use edgemesh_mesh::Path;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is counted for one peer, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    /// The node it speaks for, as far as it is proven.
    pub(crate) node: ArcSwapOption<Name>,
    /// Wakes who waits for the proof.
    pub(crate) proven: Notify,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) streams_in: AtomicU32,
    pub(crate) streams_out: AtomicU32,
    /// Malformed headers of the peer were logged once.
    pub(crate) complained: AtomicBool,
}

impl PeerCounts {
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams_in.load(Ordering::Relaxed) + self.streams_out.load(Ordering::Relaxed)
    }
}

/// What is counted for one connection.
#[derive(Debug)]
pub(crate) struct LinkCounts {
    path: AtomicU8,
    /// Directions of streams that ride the substream carriers of the connection.
    pub(crate) carried: AtomicU32,
    /// Streams of a Go agent, each of which is a substream.
    pub(crate) go: AtomicU32,
    /// The connection is given up: yamux does not wake the streams of a connection that is closed from this side.
    pub(crate) closed: CancellationToken,
}

impl LinkCounts {
    pub(crate) fn new(path: Path) -> Self {
        Self {
            path: AtomicU8::new(code(path)),
            carried: AtomicU32::new(0),
            go: AtomicU32::new(0),
            closed: CancellationToken::new(),
        }
    }

    /// What would end with the connection.
    pub(crate) fn streams(&self) -> u32 {
        self.carried.load(Ordering::Relaxed) + self.go.load(Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> Path {
        match self.path.load(Ordering::Relaxed) {
            1 => Path::Lan,
            2 => Path::Direct,
            3 => Path::Punched,
            _ => Path::Relayed,
        }
    }

    pub(crate) fn set_path(&self, path: Path) {
        self.path.store(code(path), Ordering::Relaxed);
    }
}

fn code(path: Path) -> u8 {
    match path {
        Path::Lan => 1,
        Path::Direct | Path::Local => 2,
        Path::Punched => 3,
        Path::Relayed | Path::Unreachable => 4,
    }
}

/// Which side opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Inbound,
    Outbound,
}

/// Keeps the counts of open streams right, however the stream ends.
#[derive(Debug)]
pub(crate) struct Open {
    peer: Arc<PeerCounts>,
    side: Side,
}

impl Open {
    pub(crate) fn new(peer: Arc<PeerCounts>, side: Side) -> Self {
        let open = Self { peer, side };
        open.counter().fetch_add(1, Ordering::Relaxed);
        open
    }

    fn counter(&self) -> &AtomicU32 {
        match self.side {
            Side::Inbound => &self.peer.streams_in,
            Side::Outbound => &self.peer.streams_out,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::Relaxed);
    }
}
