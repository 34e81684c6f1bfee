//! The session with one peer, shared by the tasks of its carriers and of its streams.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::session::{
    CarrierId, Event, OpenRefused, Read, ResetReason, Session, SessionLimits, SessionView, Side, StreamId,
    Write,
};
use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::inbound::Gate;
use crate::stream::{Open, PeerCounts, Side as OpenedBy};

/// Without anything due the keeper looks anyway; nothing depends on it.
const LONGEST: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct PeerSession {
    peer: PeerId,
    counts: Arc<PeerCounts>,
    gate: Arc<Gate>,
    core: Mutex<Core>,
    rearm: Notify,
    /// Ends with the session: when the peer's process is another one, or nobody needs it.
    gone: CancellationToken,
}

struct Core {
    session: Session,
    /// The process at the other end; known with the first carrier.
    epoch: Option<u64>,
    streams: HashMap<StreamId, Wakers>,
    carriers: Vec<Slot>,
    /// When the keeper looks next.
    armed: Option<Instant>,
    over: bool,
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

struct Slot {
    id: CarrierId,
    path: Path,
    waker: Option<Waker>,
    end: CancellationToken,
    dead: Option<Duration>,
    lives: Lives,
}

/// Asks the kernel whether the other end's TCP has answered of late, for carriers whose other end is the peer itself.
pub(crate) type Lives = Option<Box<dyn Fn() -> bool + Send>>;

/// A carrier's place in a session.
pub(crate) struct Seat {
    pub(crate) id: CarrierId,
    /// The carrier is to end.
    pub(crate) end: CancellationToken,
}

/// What is done after the lock is given back.
#[derive(Default)]
struct After {
    wake: Vec<Waker>,
    opened: Vec<StreamId>,
}

impl PeerSession {
    pub(crate) fn new(own: &str, peer: PeerId, counts: Arc<PeerCounts>, gate: Arc<Gate>) -> Arc<Self> {
        let side = if own < peer.to_base58().as_str() { Side::A } else { Side::B };
        let core = Core {
            session: Session::new(side, SessionLimits::default(), Instant::now()),
            epoch: None,
            streams: HashMap::new(),
            carriers: Vec::new(),
            armed: None,
            over: false,
        };
        let session = Arc::new(Self {
            peer,
            counts,
            gate,
            core: Mutex::new(core),
            rearm: Notify::new(),
            gone: CancellationToken::new(),
        });
        let (keeper, gone) = (session.clone(), session.gone.clone());
        session.gate.spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = keeper.keep() => {}
            }
        });
        session
    }

    /// Does what time brings.
    async fn keep(self: Arc<Self>) {
        loop {
            let at = self.with(|core, now| {
                core.hear(now);
                core.session.handle_timeout(now);
                let at = core.session.poll_timeout();
                core.armed = at;
                at.unwrap_or(now + LONGEST)
            });
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = self.rearm.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the session, and then what follows from it.
    fn with<R>(self: &Arc<Self>, work: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let now = Instant::now();
        let mut after = After::default();
        let mut core = self.lock();
        let result = work(&mut core, now);
        core.events(&mut after);
        let due = core.session.poll_timeout();
        let sooner = due.is_some_and(|due| core.armed.is_none_or(|armed| due < armed));
        if sooner {
            core.armed = due;
        }
        drop(core);
        if sooner {
            self.rearm.notify_one();
        }
        after.wake.into_iter().for_each(Waker::wake);
        for id in after.opened {
            let stream = self.stream(id, OpenedBy::Inbound);
            self.gate.admit(stream, self.peer, self.counts.clone());
        }
        result
    }

    fn stream(self: &Arc<Self>, id: StreamId, side: OpenedBy) -> MuxStream {
        let open = Open::new(self.counts.clone(), side);
        MuxStream { session: self.clone(), id, rest: Bytes::new(), over: false, _open: open }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn counts(&self) -> &Arc<PeerCounts> {
        &self.counts
    }

    /// Opens a stream; it leaves with its first bytes.
    pub(crate) fn open(self: &Arc<Self>) -> Result<MuxStream, OpenRefused> {
        let id = self.with(|core, now| {
            if core.over {
                return Err(OpenRefused::GoingAway);
            }
            let id = core.session.open(now)?;
            core.streams.insert(id, Wakers::default());
            Ok(id)
        })?;
        Ok(self.stream(id, OpenedBy::Outbound))
    }

    /// Whether the peer's process is that of the session; the first to say decides.
    pub(crate) fn speaks(&self, epoch: u64) -> bool {
        let mut core = self.lock();
        !core.over && *core.epoch.get_or_insert(epoch) == epoch
    }

    /// Gives a carrier its place; `None` when there are too many, or the session is over.
    pub(crate) fn seat(self: &Arc<Self>, id: CarrierId, cost: u32, path: Path, lives: Lives) -> Option<Seat> {
        self.with(|core, now| {
            if core.over || !core.session.carrier_up(id, cost, now) {
                return None;
            }
            let end = self.gone.child_token();
            core.carriers.push(Slot { id, path, waker: None, end: end.clone(), dead: None, lives });
            Some(Seat { id, end })
        })
    }

    /// Takes a carrier out; says for how long it was silent when that is why.
    pub(crate) fn unseat(self: &Arc<Self>, id: CarrierId) -> Option<Duration> {
        self.with(|core, now| {
            core.session.carrier_down(id, now);
            let index = core.carriers.iter().position(|slot| slot.id == id)?;
            core.carriers.swap_remove(index).dead
        })
    }

    /// Asks a carrier to end.
    pub(crate) fn end_carrier(&self, id: CarrierId) {
        if let Some(slot) = self.lock().carriers.iter().find(|slot| slot.id == id) {
            slot.end.cancel();
        }
    }

    pub(crate) fn has_carrier(&self) -> bool {
        let core = self.lock();
        !core.over && !core.carriers.is_empty()
    }

    pub(crate) fn view(&self) -> SessionView {
        self.lock().session.view()
    }

    /// The path of the carrier that new streams use.
    pub(crate) fn path(&self) -> Path {
        let core = self.lock();
        let paths = core.carriers.iter().filter(|slot| slot.dead.is_none()).map(|slot| slot.path);
        paths.min().unwrap_or(Path::Relayed)
    }

    /// Ends everything in it: the process at the other end is gone, or nobody needs it.
    pub(crate) fn end(self: &Arc<Self>) {
        let wake = {
            let mut core = self.lock();
            core.over = true;
            core.streams.values_mut().flat_map(|wakers| [wakers.read.take(), wakers.write.take()]).collect()
        };
        let wake: Vec<Option<Waker>> = wake;
        wake.into_iter().flatten().for_each(Waker::wake);
        self.gone.cancel();
    }

    /// Resets everything that is open, and opens no more: this process ends.
    pub(super) fn farewell(self: &Arc<Self>) {
        self.with(|core, now| core.session.reset_all(ResetReason::Broken, now));
    }

    /// Asks every carrier whether it is alive.
    pub(crate) fn suspect(self: &Arc<Self>) {
        self.with(|core, now| core.session.suspect(now));
    }

    /// Takes frames that a carrier brought.
    pub(super) fn receive(
        self: &Arc<Self>,
        id: CarrierId,
        mut next: impl FnMut() -> io::Result<Option<edgemesh_tunnel_proto::session::Frame>>,
    ) -> io::Result<()> {
        self.with(|core, now| {
            while let Some(frame) = next()? {
                if let edgemesh_tunnel_proto::session::Frame::Data { payload, .. } = &frame {
                    self.counts.add_received(payload.len());
                }
                core.session.receive(id, frame, now).map_err(io::Error::other)?;
            }
            Ok(())
        })
    }

    /// Gives frames to a carrier, up to so many; registers it for more when there are fewer.
    pub(super) fn transmit(
        self: &Arc<Self>,
        id: CarrierId,
        most: usize,
        cx: &Context<'_>,
        frames: &mut Vec<edgemesh_tunnel_proto::session::Frame>,
    ) {
        self.with(|core, now| {
            while frames.len() < most {
                match core.session.transmit(id, now) {
                    Some(frame) => {
                        self.counts.add_sent(frame.payload().len());
                        frames.push(frame);
                    }
                    None => {
                        if let Some(slot) = core.carriers.iter_mut().find(|slot| slot.id == id) {
                            register(&mut slot.waker, cx);
                        }
                        break;
                    }
                }
            }
        });
    }
}

fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(known) if known.will_wake(cx.waker()) => {}
        _ => *waker = Some(cx.waker().clone()),
    }
}

impl Core {
    /// While TCP sends again what was lost nothing arrives, and yet the path stands: to give it up would begin slowly
    /// elsewhere, and lose what TCP has learned of it.
    fn hear(&mut self, now: Instant) {
        if self.session.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        for slot in &self.carriers {
            if slot.lives.as_ref().is_some_and(|lives| lives()) {
                self.session.heard(slot.id, now);
            }
        }
    }

    fn events(&mut self, after: &mut After) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened(id) => {
                    self.streams.insert(id, Wakers::default());
                    after.opened.push(id);
                }
                Event::Readable(id) => {
                    after.wake.extend(self.streams.get_mut(&id).and_then(|wakers| wakers.read.take()));
                }
                Event::Writable(id) => {
                    after.wake.extend(self.streams.get_mut(&id).and_then(|wakers| wakers.write.take()));
                }
                Event::Transmit(id) => {
                    let slot = self.carriers.iter_mut().find(|slot| slot.id == id);
                    after.wake.extend(slot.and_then(|slot| slot.waker.take()));
                }
                Event::CarrierDead(id, silent) => {
                    if let Some(slot) = self.carriers.iter_mut().find(|slot| slot.id == id) {
                        slot.dead = Some(silent);
                        slot.end.cancel();
                    }
                }
                Event::Datagrams => while self.session.poll_datagram().is_some() {},
                Event::Ended { .. } => {}
            }
        }
    }
}

/// A stream of a session.
pub(crate) struct MuxStream {
    session: Arc<PeerSession>,
    id: StreamId,
    /// What was received and not yet read.
    rest: Bytes,
    over: bool,
    _open: Open,
}

impl MuxStream {
    pub(crate) fn path(&self) -> Path {
        self.session.path()
    }
}

fn reset(reason: ResetReason) -> io::Error {
    let kind = match reason {
        ResetReason::NoPath => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, reason.as_str())
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.remaining();
        take(&mut this.rest, buf);
        if buf.remaining() == 0 || this.over {
            return Poll::Ready(Ok(()));
        }
        let (id, rest, over) = (this.id, &mut this.rest, &mut this.over);
        this.session.with(|core, now| {
            if core.over {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            while buf.remaining() > 0 {
                match core.session.read(id, now) {
                    Read::Chunk(chunk) => {
                        core.session.consumed(id, chunk.len(), now);
                        *rest = chunk;
                        take(rest, buf);
                    }
                    Read::Finished => {
                        *over = true;
                        break;
                    }
                    // What came before is given first.
                    Read::Reset(_) if buf.remaining() < before => break,
                    Read::Reset(reason) => return Poll::Ready(Err(reset(reason))),
                    Read::Pending if buf.remaining() < before => break,
                    Read::Pending => {
                        if let Some(wakers) = core.streams.get_mut(&id) {
                            register(&mut wakers.read, cx);
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

fn take(rest: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let count = rest.len().min(buf.remaining());
    if count > 0 {
        buf.put_slice(&rest[..count]);
        rest.advance(count);
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let id = self.id;
        self.session.with(|core, now| {
            if core.over {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            match core.session.write(id, buf, now) {
                Write::Taken(0) if !buf.is_empty() => {
                    if let Some(wakers) = core.streams.get_mut(&id) {
                        register(&mut wakers.write, cx);
                    }
                    Poll::Pending
                }
                Write::Taken(count) => Poll::Ready(Ok(count)),
                Write::Finished => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Write::Reset(reason) => Poll::Ready(Err(reset(reason))),
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        self.session.with(|core, now| core.session.finish(id, now));
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let id = self.id;
        self.session.with(|core, now| {
            core.session.close(id, now);
            core.streams.remove(&id);
        });
    }
}
