//! Datagrams of a Go agent, which are frames of the multiplexer, as the proxy has them: each behind its length.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use edgemesh_tunnel_proto::{MAX_DATAGRAM, MAX_GO_DATAGRAM, datagram_prefix, split_datagram};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose frames can be read one by one.
pub(super) trait Frames: AsyncWrite + Unpin + Send {
    /// Reads at most one frame; 0 is the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
}

/// See the module.
pub(super) struct Datagrams<S> {
    stream: S,
    /// A received datagram behind its length, and how much of it is taken.
    inbound: Vec<u8>,
    taken: usize,
    /// Bytes of datagrams to send, the last perhaps incomplete.
    outbound: Vec<u8>,
}

impl<S: Frames> Datagrams<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, inbound: Vec::new(), taken: 0, outbound: Vec::new() }
    }

    /// Sends what is complete. A Go agent reads no more than 4096 bytes of a datagram and would take the rest for
    /// another one, and so it would what a full window leaves over: neither is sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((payload, taken)) = split_datagram(&self.outbound)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
        {
            if !payload.is_empty() && payload.len() <= MAX_GO_DATAGRAM {
                ready!(Pin::new(&mut self.stream).poll_write(cx, payload))?;
            }
            self.outbound.drain(..taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Frames> AsyncRead for Datagrams<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.inbound.len() {
            this.inbound.resize(2 + MAX_GO_DATAGRAM, 0);
            // Until a frame is there nothing is.
            this.taken = this.inbound.len();
            let count = ready!(this.stream.poll_frame(cx, &mut this.inbound[2..]))?;
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            let prefix = datagram_prefix(count).ok_or(io::ErrorKind::InvalidData)?;
            this.inbound[..2].copy_from_slice(&prefix);
            this.inbound.truncate(2 + count);
            this.taken = 0;
        }
        let count = buf.remaining().min(this.inbound.len() - this.taken);
        buf.put_slice(&this.inbound[this.taken..this.taken + count]);
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: Frames> AsyncWrite for Datagrams<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let room = 2 + MAX_DATAGRAM - self.outbound.len();
        let count = buf.len().min(room);
        self.outbound.extend_from_slice(&buf[..count]);
        // What is taken is taken, whether it can leave now or with the next write or flush.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
