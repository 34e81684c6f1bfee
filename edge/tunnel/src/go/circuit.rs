//! The private network's layer inside relays' circuits: a Go agent has it there too, agents of this kind have not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;

use super::GoPeers;
use crate::pnet::{self, Private, Psk};
use crate::transport::role_of;

/// How every libp2p connection without such a layer begins: the negotiation's own name behind its length.
const BARE: [u8; 20] = *b"\x13/multistream/1.0.0\n";

/// A circuit's stream, with or without the layer.
pub(crate) type Veiled<S> = Either<Seen<S>, Private<Seen<S>>>;

/// Adds the layer where the other end has it: the dialler knows whom it dials, the listener sees from the first bytes.
/// Where the layer is they are a random nonce; that one looks like [`BARE`] has a chance of 1 in 2^160.
pub(crate) async fn veil<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    peers: Option<&GoPeers>,
    psks: Arc<Vec<Psk>>,
    mut stream: S,
    endpoint: &ConnectedPoint,
) -> io::Result<Veiled<S>> {
    let Some(peers) = peers else { return Ok(Either::Left(Seen::new(stream, &[]))) };
    let (first, private) = match endpoint {
        ConnectedPoint::Dialer { address, .. } => {
            let target = address.iter().last().and_then(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            (None, target.is_some_and(|peer: PeerId| peers.knows(&peer)))
        }
        ConnectedPoint::Listener { .. } => {
            let mut first = BARE;
            stream.read_exact(&mut first).await?;
            (Some(first), first != BARE)
        }
    };
    let seen = Seen::new(stream, first.as_ref().map_or(&[], |first| first));
    if private {
        pnet::handshake(seen, psks, role_of(endpoint)).await.map(Either::Right)
    } else {
        Ok(Either::Left(seen))
    }
}

/// A stream of which the first bytes were read already.
pub(crate) struct Seen<S> {
    stream: S,
    first: Vec<u8>,
}

impl<S> Seen<S> {
    fn new(stream: S, first: &[u8]) -> Self {
        Self { stream, first: first.to_vec() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seen<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.len());
        buf[..count].copy_from_slice(&self.first[..count]);
        self.first.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seen<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
