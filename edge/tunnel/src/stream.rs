//! A libp2p substream as tokio sees it, counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwapOption;
use edgemesh_api::Name;
use edgemesh_mesh::Path;
use futures::{AsyncRead as _, AsyncWrite as _};
use libp2p::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What is counted for one peer, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    /// The node it speaks for, as far as it is proven.
    pub(crate) node: ArcSwapOption<Name>,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) streams_in: AtomicU32,
    pub(crate) streams_out: AtomicU32,
    /// Malformed headers of the peer were logged once.
    pub(crate) complained: std::sync::atomic::AtomicBool,
}

/// What is counted for one connection.
#[derive(Debug)]
pub(crate) struct LinkCounts {
    path: AtomicU8,
    pub(crate) open: AtomicU32,
    /// The connection is given up: yamux does not wake the streams of a connection that is closed from this side.
    pub(crate) closed: CancellationToken,
}

impl LinkCounts {
    pub(crate) fn new(path: Path) -> Self {
        Self { path: AtomicU8::new(code(path)), open: AtomicU32::new(0), closed: CancellationToken::new() }
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
    link: Arc<LinkCounts>,
    side: Side,
}

impl Open {
    pub(crate) fn new(peer: Arc<PeerCounts>, link: Arc<LinkCounts>, side: Side) -> Self {
        let open = Self { peer, link, side };
        open.counter().fetch_add(1, Ordering::Relaxed);
        open.link.open.fetch_add(1, Ordering::Relaxed);
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
        self.link.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A substream to or from a peer.
pub(crate) struct TunnelStream {
    inner: Stream,
    open: Open,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl TunnelStream {
    pub(crate) fn new(inner: Stream, open: Open) -> Self {
        let closed = Box::pin(open.link.closed.clone().cancelled_owned());
        Self { inner, open, closed }
    }

    /// What waits for the peer ends with the connection.
    fn unless_closed<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        polled
    }

    pub(crate) fn path(&self) -> Path {
        self.open.link.path()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf.initialize_unfilled());
        let count = ready!(self.unless_closed(cx, polled))?;
        buf.advance(count);
        self.open.peer.received.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        let count = ready!(self.unless_closed(cx, polled))?;
        self.open.peer.sent.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.unless_closed(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_close(cx);
        self.unless_closed(cx, polled)
    }
}
