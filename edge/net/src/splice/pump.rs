use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use edgemesh_route::Outcome;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pipes::Lent;
use super::scratch;
use crate::meet::Duplex;

/// Steps in one direction before the other connections of the thread get their turn. A copy of up to 64 KiB is one
/// step, and so is a splice of 256 KiB: about 1 ms of either. Shorter turns cost more than they help (with 2 MiB of
/// splices the CPU per byte rises by a fifth), longer ones let requests wait beside bulk.
const BUDGET: usize = 16;
const STEP: usize = 256 * 1024;

/// From a read of this length on the next bytes go by a pipe: so much at once tells of more to come. A splice saves
/// nothing on little: requests cost a bare proxy that splices more than one that copies (`cargo xtask bench user-path`).
const SPLICE_FROM: usize = 32 * 1024;

/// Below this length bytes are copied again; well below the other, so that a stream does not go back and forth.
const COPY_BELOW: usize = 8 * 1024;

/// An end of a pump. Between two sockets the kernel moves the bytes of bulk.
pub trait End: AsyncRead + AsyncWrite + Unpin {
    /// The socket itself, where there is nothing between it and the bytes.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl End for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl End for Box<dyn Duplex> {}

/// What a pump did.
#[derive(Debug)]
pub struct Pumped {
    /// Bytes from the first end to the second.
    pub sent: u64,
    /// Bytes from the second end to the first.
    pub received: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The first end did not get all there was: it must not be closed as if it had.
    pub first_cut: bool,
    /// The second end did not get all there was.
    pub second_cut: bool,
}

/// Copies between two ends in both directions until both have ended, one breaks, nothing moves for `idle`, or
/// `stop` is cancelled. The end of one direction is passed on and leaves the other as it is. `first` is what
/// was taken from `a` already. `moved` is told whenever bytes were, from the first end and from the second.
///
/// An idle connection holds no buffer; one whose receiver is slow holds at most 64 KiB per direction, or one of a
/// bounded number of pipes.
pub async fn pump<A, B>(
    a: &mut A,
    b: &mut B,
    first: Bytes,
    idle: Duration,
    stop: &CancellationToken,
    mut moved: impl FnMut(u64, u64),
) -> Pumped
where
    A: End,
    B: End,
{
    let mut up = Half::new(first);
    let mut down = Half::new(Bytes::new());
    let mut last = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(last + idle));
    let mut stopped = pin!(stop.cancelled());
    let outcome = poll_fn(|cx| {
        let (up_before, down_before) = (up.bytes, down.bytes);
        let (up_done, down_done) =
            scratch::with(|buffer| (up.poll(cx, a, b, buffer), down.poll(cx, b, a, buffer)));
        let (sent, received) = (up.bytes - up_before, down.bytes - down_before);
        if sent + received > 0 {
            moved(sent, received);
        }
        match (up_done, down_done) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Outcome::Reset),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Outcome::Closed),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::Drained);
        }
        if sent + received > 0 {
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

/// Has the task polled again after the other tasks and after a look at the sockets. A task that only wakes itself is
/// polled again before that look, of which a busy thread takes one in 61 polls (tokio's `event_interval`): requests on
/// other connections would wait that long.
fn give_way(cx: &mut Context<'_>) {
    let turn = pin!(tokio::task::yield_now());
    // Pending, as it has just been made.
    let _ = turn.poll(cx);
}

/// One direction.
struct Half {
    stage: Stage,
    /// Read, and not yet taken by the receiver.
    pending: Bytes,
    /// The pipe of a receiver that has not taken all that is in it; empty only within a poll.
    pipe: Option<Lent>,
    /// The last bytes came in such lengths that a pipe pays.
    bulk: bool,
    unflushed: bool,
    bytes: u64,
}

impl Half {
    fn new(pending: Bytes) -> Self {
        Self { stage: Stage::Copying, pending, pipe: None, bulk: false, unflushed: false, bytes: 0 }
    }

    fn poll<A: End, B: End>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut left = BUDGET;
        while left > 0 {
            let before = self.bytes;
            match self.stage {
                Stage::Copying if !self.pending.is_empty() => ready!(self.deliver(cx, Pin::new(&mut *to)))?,
                Stage::Copying => match (from.socket(), to.socket()) {
                    (Some(from), Some(to)) if self.bulk || self.pipe.is_some() => {
                        let spliced = self.splice(cx, from, to);
                        // An empty pipe waits for whoever needs one first.
                        self.pipe = self.pipe.take().filter(|lent| !lent.is_empty());
                        ready!(spliced)?;
                    }
                    _ => ready!(self.copy(cx, Pin::new(&mut *from), Pin::new(&mut *to), buffer))?,
                },
                Stage::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
            let moved = usize::try_from(self.bytes - before).unwrap_or(usize::MAX);
            left = left.saturating_sub(moved.div_ceil(STEP).max(1));
        }
        give_way(cx);
        Poll::Pending
    }

    /// Hands on what was read before.
    fn deliver(&mut self, cx: &mut Context<'_>, to: Pin<&mut impl AsyncWrite>) -> Poll<io::Result<()>> {
        let written = ready!(to.poll_write(cx, &self.pending))?;
        self.wrote(written)?;
        self.pending.advance(written);
        if self.pending.is_empty() {
            self.pending = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }

    /// One read and one write by the thread's buffer.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(buffer);
        if from.poll_read(cx, &mut read)?.is_pending() {
            if self.unflushed {
                ready!(to.as_mut().poll_flush(cx))?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        let read = read.filled();
        if read.is_empty() {
            self.stage = Stage::Closing;
            return Poll::Ready(Ok(()));
        }
        self.bulk = read.len() >= SPLICE_FROM;
        let written = match to.poll_write(cx, read)? {
            Poll::Ready(written) => {
                self.wrote(written)?;
                written
            }
            Poll::Pending => 0,
        };
        if written < read.len() {
            self.pending = Bytes::copy_from_slice(&read[written..]);
        }
        Poll::Ready(Ok(()))
    }

    /// One filling of a pipe, or what is left of one.
    fn splice(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<io::Result<()>> {
        if self.pipe.is_none() {
            self.pipe = Lent::take();
        }
        let Some(lent) = &mut self.pipe else {
            self.bulk = false;
            return Poll::Ready(Ok(()));
        };
        let pipe = lent.pipe();
        if pipe.held() == 0 {
            let filled = loop {
                ready!(from.poll_read_ready(cx))?;
                match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    filled => break filled?,
                }
            };
            if filled == 0 {
                self.stage = Stage::Closing;
            }
            self.bulk = filled >= COPY_BELOW;
        }
        while pipe.held() > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                drained => match drained? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    drained => self.bytes += drained as u64,
                },
            }
        }
        Poll::Ready(Ok(()))
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    impl End for DuplexStream {}

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
            pumped = pump(&mut a, &mut b, Bytes::from_static(b""), IDLE, &stop, |_, _| {}) => pumped,
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
        let (pumped, got) = tokio::join!(pump(&mut a, &mut b, first, IDLE, &stop, |_, _| {}), ends);
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
        let future = pump(&mut a, &mut b, Bytes::new(), IDLE, &stop, |_, _| {});
        let size = size_of_val(&future);
        assert!(size <= 640, "{size} bytes");
    }
}
