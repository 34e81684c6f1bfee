//! yamux, with frames that stay apart for whoever needs them.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::future::{Ready, ready};
use futures::{AsyncRead, AsyncWrite, Stream as _};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode, Packet};

/// Streams of a peer that wait to be taken; as many as yamux lets a peer open unacknowledged.
const MAX_WAITING: usize = 256;

/// yamux as an upgrade.
#[derive(Clone)]
pub(crate) struct Config(yamux::Config);

impl Config {
    pub(crate) fn new(streams: usize) -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(streams);
        Self(config)
    }

    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(self, io: C, mode: Mode) -> Ready<io::Result<Muxer<C>>> {
        ready(Ok(Muxer {
            connection: Connection::new(io, self.0, mode),
            waiting: VecDeque::new(),
            taker: None,
        }))
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        self.muxer(io, Mode::Server)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        self.muxer(io, Mode::Client)
    }
}

/// One connection's streams.
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while only progress was asked for.
    waiting: VecDeque<Substream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        let next = ready!(self.connection.poll_next_inbound(cx)).unwrap_or(Err(ConnectionError::Closed));
        Poll::Ready(next.map(Substream::new).map_err(failed))
    }
}

fn failed(error: ConnectionError) -> io::Error {
    if let ConnectionError::Io(error) = error { error } else { io::Error::other(error) }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.poll_next(cx);
        if polled.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        self.connection.poll_new_outbound(cx).map(|opened| opened.map(Substream::new).map_err(failed))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(failed)
    }

    /// yamux makes progress only while it is asked for inbound streams. One beyond the bound is reset by its drop.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.poll_next(cx))?;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
        // One stream in a turn, lest a peer that opens many holds up the others.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A stream. An ordinary read takes bytes of as many frames as there are; a vectored one ends where its frame ends,
/// which is all that tells a Go agent's datagrams apart. (libp2p hands on both kinds of reads through its layers.)
pub(crate) struct Substream {
    inner: yamux::Stream,
    /// What a vectored read had no room for, and how much of it is taken.
    rest: Option<(Packet, usize)>,
    /// This side has ended its direction.
    finished: bool,
}

impl Substream {
    fn new(inner: yamux::Stream) -> Self {
        Self { inner, rest: None, finished: false }
    }

    /// The end of a read. To yamux a connection that broke is an end like any other; but a stream that is closed in
    /// the direction that nobody has closed here was not ended by its peer.
    fn end(&self) -> io::Result<usize> {
        if self.inner.is_closed() && !self.finished {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(0)
    }

    fn take_rest(&mut self, packet: Packet, from: usize, buf: &mut [u8]) -> usize {
        let left = &packet.as_ref()[from..];
        let count = left.len().min(buf.len());
        buf[..count].copy_from_slice(&left[..count]);
        if count < left.len() {
            self.rest = Some((packet, from + count));
        }
        count
    }
}

impl AsyncRead for Substream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.rest.take() {
            Some((packet, from)) => Poll::Ready(Ok(self.take_rest(packet, from, buf))),
            None => match ready!(Pin::new(&mut self.inner).poll_read(cx, buf))? {
                0 if !buf.is_empty() => Poll::Ready(self.end()),
                count => Poll::Ready(Ok(count)),
            },
        }
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(buf) = bufs.iter_mut().find(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        let (packet, from) = loop {
            if let Some(rest) = self.rest.take() {
                break rest;
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(packet) => {
                    self.rest = Some((packet?, 0)).filter(|(packet, _)| !packet.as_ref().is_empty())
                }
                None => return Poll::Ready(self.end()),
            }
        };
        Poll::Ready(Ok(self.take_rest(packet, from, buf)))
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
