//! Frames of a session over a byte pipe.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use edgemesh_tunnel_proto::session::{Decoded, Frame, MAX_FRAME, decode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::session::{PeerSession, Seat};

/// Frames handed over at a time: a quarter of a MiB of bulk, which is what a TLS stream takes in a few calls.
const BATCH: usize = 16;

/// Room for reading: a few frames, so that a call brings several when there are several.
const READ: usize = 4 * MAX_FRAME;

/// Payloads up to this are copied behind their heads: a slice of its own costs more than the copy.
const COPY: usize = 1024;

/// Turns of one carrier before others of its thread have theirs.
const TURNS: usize = 16;

/// How long the last frames of a process may take to leave; within what an operator waits for a stop.
const FAREWELL: Duration = Duration::from_millis(300);

/// A byte pipe, and what is on its way through it.
struct Carry<P> {
    pipe: P,
    session: Arc<PeerSession>,
    seat: Seat,
    incoming: BytesMut,
    frames: Vec<Frame>,
    outgoing: VecDeque<Bytes>,
    unflushed: bool,
}

/// Carries frames until the pipe breaks or is to end.
pub(crate) async fn carry<P>(
    pipe: P,
    session: Arc<PeerSession>,
    seat: Seat,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let end = seat.end.clone();
    let mut carry = Carry {
        pipe,
        session,
        seat,
        incoming: BytesMut::new(),
        frames: Vec::with_capacity(BATCH),
        outgoing: VecDeque::with_capacity(2 * BATCH),
        unflushed: false,
    };
    tokio::select! {
        () = end.cancelled() => Ok(()),
        () = shutdown.cancelled() => {
            carry.session.farewell();
            // A pipe that does not take it in time is no loss: the peer learns of it by the next process.
            let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| carry.poll_drain(cx))).await;
            Ok(())
        }
        result = poll_fn(|cx| carry.poll(cx)) => result,
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin> Carry<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            let wrote = self.poll_send(cx)?;
            let read = match self.poll_receive(cx) {
                Poll::Ready(result) => {
                    if !result? {
                        return Poll::Ready(Ok(()));
                    }
                    true
                }
                Poll::Pending => false,
            };
            if !wrote && !read {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when everything has left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.poll_send(cx)? {}
        if self.outgoing.is_empty() && !self.unflushed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// True when something left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.outgoing.is_empty() {
            self.session.transmit(self.seat.id, BATCH, cx, &mut self.frames);
            self.encode();
        }
        if self.outgoing.is_empty() {
            if self.unflushed && Pin::new(&mut self.pipe).poll_flush(cx)?.is_ready() {
                self.unflushed = false;
            }
            return Ok(false);
        }
        let mut slices = [IoSlice::new(&[]); 2 * BATCH];
        let mut used = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.outgoing) {
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        let Poll::Ready(count) = Pin::new(&mut self.pipe).poll_write_vectored(cx, &slices[..used])? else {
            return Ok(false);
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(count);
        self.unflushed = true;
        Ok(true)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.outgoing.front_mut() {
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.outgoing.pop_front();
        }
    }

    /// Heads and small payloads in common buffers, large payloads as they are.
    fn encode(&mut self) {
        let mut heads = Vec::new();
        for frame in self.frames.drain(..) {
            frame.encode_header(&mut heads);
            let payload = frame.payload();
            if payload.len() <= COPY {
                heads.extend_from_slice(payload);
            } else {
                self.outgoing.push_back(std::mem::take(&mut heads).into());
                self.outgoing.push_back(frame.into_payload());
            }
        }
        if !heads.is_empty() {
            self.outgoing.push_back(heads.into());
        }
    }

    /// False when the pipe has ended.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.incoming.capacity() - self.incoming.len() < MAX_FRAME {
            self.incoming.reserve(READ);
        }
        let count = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.pipe), cx, &mut self.incoming))?;
        if count == 0 {
            return Poll::Ready(Ok(false));
        }
        let incoming = &mut self.incoming;
        let next = || match decode(incoming) {
            Ok(Decoded::Frame(frame)) => Ok(Some(compact(frame))),
            Ok(Decoded::More(_)) => Ok(None),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.as_str())),
        };
        self.session.receive(self.seat.id, next)?;
        if self.incoming.is_empty() && self.incoming.capacity() < MAX_FRAME {
            // An idle carrier keeps no buffer.
            self.incoming = BytesMut::new();
        }
        Poll::Ready(Ok(true))
    }
}

/// A small payload is copied out, lest it keeps the whole read buffer while it waits.
fn compact(frame: Frame) -> Frame {
    match frame {
        Frame::Data { stream, offset, open, fin, payload } if payload.len() <= COPY => {
            Frame::Data { stream, offset, open, fin, payload: Bytes::copy_from_slice(&payload) }
        }
        other => other,
    }
}
