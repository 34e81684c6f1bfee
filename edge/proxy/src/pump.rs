use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use edgemesh_route::Outcome;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::scratch;

/// Copies in one direction before the other connections of the thread get their turn: about 1 MiB.
const BUDGET: usize = 16;

/// What a pump did.
#[derive(Debug)]
pub(crate) struct Pumped {
    /// Bytes from the first end to the second.
    pub(crate) sent: u64,
    /// Bytes from the second end to the first.
    pub(crate) received: u64,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The first end did not get all there was: it must not be closed as if it had.
    pub(crate) first_cut: bool,
    /// The second end did not get all there was.
    pub(crate) second_cut: bool,
}

/// Copies between two ends in both directions until both have ended, one breaks, nothing moves for `idle`, or
/// `stop` is cancelled. The end of one direction is passed on and leaves the other as it is. `first` is what
/// was taken from `a` already.
///
/// An idle connection holds no buffer; one whose receiver is slow holds at most 64 KiB per direction.
pub(crate) async fn pump<A, B>(
    a: &mut A,
    b: &mut B,
    first: Bytes,
    idle: Duration,
    stop: &CancellationToken,
) -> Pumped
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Half::new(first);
    let mut down = Half::new(Bytes::new());
    let mut last = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(last + idle));
    let mut stopped = pin!(stop.cancelled());
    let outcome = poll_fn(|cx| {
        let before = up.bytes + down.bytes;
        let (up_done, down_done) = scratch::with(|buffer| {
            (up.poll(cx, Pin::new(&mut *a), Pin::new(&mut *b), buffer), {
                down.poll(cx, Pin::new(&mut *b), Pin::new(&mut *a), buffer)
            })
        });
        match (up_done, down_done) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Outcome::Reset),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Outcome::Closed),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::Drained);
        }
        if up.bytes + down.bytes != before {
            last = Instant::now();
        }
        // The timer is set anew only when it fires: busy connections leave the timer wheel alone.
        while timer.as_mut().poll(cx).is_ready() {
            if last + idle <= Instant::now() {
                return Poll::Ready(Outcome::Idle);
            }
            timer.as_mut().reset(last + idle);
        }
        Poll::Pending
    })
    .await;
    Pumped {
        sent: up.bytes,
        received: down.bytes,
        outcome,
        first_cut: down.stage != Stage::Done,
        second_cut: up.stage != Stage::Done,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    Closing,
    Done,
}

/// One direction.
struct Half {
    stage: Stage,
    /// Read, and not yet taken by the receiver.
    pending: Bytes,
    unflushed: bool,
    bytes: u64,
}

impl Half {
    fn new(pending: Bytes) -> Self {
        Self { stage: Stage::Copying, pending, unflushed: false, bytes: 0 }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        for _ in 0..BUDGET {
            match self.stage {
                Stage::Copying if !self.pending.is_empty() => {
                    let written = ready!(to.as_mut().poll_write(cx, &self.pending))?;
                    self.wrote(written)?;
                    self.pending.advance(written);
                    if self.pending.is_empty() {
                        self.pending = Bytes::new();
                    }
                }
                Stage::Copying => {
                    let mut read = ReadBuf::new(buffer);
                    if from.as_mut().poll_read(cx, &mut read)?.is_pending() {
                        if self.unflushed {
                            ready!(to.as_mut().poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                    let read = read.filled();
                    if read.is_empty() {
                        self.stage = Stage::Closing;
                        continue;
                    }
                    let written = match to.as_mut().poll_write(cx, read)? {
                        Poll::Ready(written) => {
                            self.wrote(written)?;
                            written
                        }
                        Poll::Pending => 0,
                    };
                    if written < read.len() {
                        self.pending = Bytes::copy_from_slice(&read[written..]);
                    }
                }
                Stage::Closing => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn wrote(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes += written as u64;
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(7200);

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_last_byte_in_either_direction() {
        let (mut client, mut a) = duplex(64);
        let (mut backend, mut b) = duplex(64);
        let stop = CancellationToken::new();
        let started = Instant::now();
        let traffic = async {
            for _ in 0..3 {
                tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
                client.write_all(b"x").await.unwrap();
                backend.read_exact(&mut [0]).await.unwrap();
                tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
                backend.write_all(b"y").await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let pumped = tokio::select! {
            pumped = pump(&mut a, &mut b, Bytes::from_static(b""), IDLE, &stop) => pumped,
            () = traffic => unreachable!(),
        };
        assert_eq!((pumped.outcome, pumped.sent, pumped.received), (Outcome::Idle, 3, 3));
        assert!(pumped.first_cut && pumped.second_cut);
        assert_eq!(started.elapsed().as_secs(), (IDLE * 7).as_secs() - 6);
    }

    #[tokio::test]
    async fn what_was_taken_before_comes_first_and_a_slow_end_holds_the_other_back() {
        let (mut client, mut a) = duplex(1 << 20);
        let (mut backend, mut b) = duplex(10);
        let stop = CancellationToken::new();
        let body: Vec<u8> = (0..300_000).map(|it| (it / 3) as u8).collect();
        let (body_sent, expected) = (body.clone(), [b"first ", &body[..]].concat());
        let ends = async {
            client.write_all(&body_sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            backend.read_to_end(&mut got).await.unwrap();
            backend.shutdown().await.unwrap();
            got
        };
        let first = Bytes::from_static(b"first ");
        let (pumped, got) = tokio::join!(pump(&mut a, &mut b, first, IDLE, &stop), ends);
        assert!(got == expected);
        assert_eq!((pumped.outcome, pumped.sent), (Outcome::Closed, expected.len() as u64));
        assert!(!pumped.first_cut && !pumped.second_cut);
    }

    /// The state of an idle connection is this future, two sockets and its account; no buffer.
    #[test]
    fn an_idle_pump_is_small() {
        let (mut a, _far_a) = duplex(1);
        let (mut b, _far_b) = duplex(1);
        let stop = CancellationToken::new();
        let future = pump(&mut a, &mut b, Bytes::new(), IDLE, &stop);
        let size = size_of_val(&future);
        assert!(size <= 640, "{size} bytes");
    }
}
