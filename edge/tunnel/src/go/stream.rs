use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use edgemesh_mesh::Path;
use futures::{AsyncRead as _, AsyncWrite as _};
use libp2p::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::datagrams::Frames;
use crate::settings::MAX_STREAMS_PER_PEER;
use crate::stream::{LinkCounts, Open, PeerCounts, Side};
use crate::streams::{Kind, Link, OPEN_TIMEOUT, OpenError, OpenRequest};

/// A connection to a Go agent, as those that open streams on it see it.
#[derive(Clone)]
pub(crate) struct GoLink {
    requests: mpsc::Sender<OpenRequest>,
    link: Arc<LinkCounts>,
    peer: Arc<PeerCounts>,
}

impl GoLink {
    pub(crate) fn new(link: &Link, peer: Arc<PeerCounts>) -> Self {
        Self { requests: link.open.clone(), link: link.counts.clone(), peer }
    }

    /// Whether the connection still stands.
    pub(crate) fn stands(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Opens a stream, within the bounds of one peer.
    pub(crate) async fn open(&self, kind: Kind) -> Result<GoStream, OpenError> {
        if self.peer.streams_out.load(Ordering::Relaxed) >= MAX_STREAMS_PER_PEER {
            return Err(OpenError::Full);
        }
        let (reply, answer) = oneshot::channel();
        let opened = async {
            self.requests.send(OpenRequest { kind, reply }).await.map_err(|_| OpenError::Broken)?;
            answer.await.map_err(|_| OpenError::Broken)
        };
        match tokio::time::timeout(OPEN_TIMEOUT, opened).await {
            Ok(opened) => {
                opened.map(|inner| GoStream::new(inner, self.peer.clone(), self.link.clone(), Side::Outbound))
            }
            Err(_) => Err(OpenError::Timeout),
        }
    }
}

/// A substream to or from a Go agent, counted for the peer and for the connection. It ends with the connection.
pub(crate) struct GoStream {
    inner: Stream,
    peer: Arc<PeerCounts>,
    _open: Open,
    link: Arc<LinkCounts>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl GoStream {
    pub(crate) fn new(inner: Stream, peer: Arc<PeerCounts>, link: Arc<LinkCounts>, side: Side) -> Self {
        let closed = Box::pin(link.closed.clone().cancelled_owned());
        link.go.fetch_add(1, Ordering::Relaxed);
        Self { inner, _open: Open::new(peer.clone(), side), peer, link, closed }
    }

    /// Counts what was read. An end that comes with the connection's is none of the peer's.
    fn received(&self, count: usize, room: usize) -> io::Result<usize> {
        if count == 0 && room > 0 && self.link.closed.is_cancelled() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.peer.add_received(count);
        Ok(count)
    }

    pub(crate) fn path(&self) -> Path {
        self.link.path()
    }

    /// What waits for the peer ends with the connection.
    fn unless_closed<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        polled
    }
}

impl Drop for GoStream {
    fn drop(&mut self) {
        self.link.go.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Frames for GoStream {
    fn poll_frame(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        // See `muxer::Substream` for what a vectored read is there.
        let polled = Pin::new(&mut self.inner).poll_read_vectored(cx, &mut [io::IoSliceMut::new(buf)]);
        let count = ready!(self.unless_closed(cx, polled))?;
        Poll::Ready(self.received(count, buf.len()))
    }
}

impl AsyncRead for GoStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf.initialize_unfilled());
        let count = ready!(self.unless_closed(cx, polled))?;
        let count = self.received(count, buf.remaining())?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GoStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        let count = ready!(self.unless_closed(cx, polled))?;
        self.peer.add_sent(count);
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
