//! Two sessions joined by carriers that delay, stall, and lose what is in them when they are cut; in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use edgemesh_tunnel_proto::session::{
    CarrierId, Decoded, Event, Frame, OpenRefused, Session, SessionLimits, Side, StreamId, decode,
};

use crate::app::{App, Plan, Reference, joined};

/// One direction of a carrier: what is in it, in order.
struct Lane {
    frames: VecDeque<(Instant, Frame)>,
    /// What the sender's socket buffer holds.
    buffered: usize,
    busy_until: Instant,
    last_arrival: Instant,
    stalled_until: Instant,
    /// What enters is lost.
    cut: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) delay: Duration,
    /// Bytes per millisecond.
    pub(crate) rate: u64,
    /// The socket buffer, in bytes.
    pub(crate) buffer: usize,
    pub(crate) cost: u32,
}

impl Line {
    pub(crate) fn rtt(&self) -> Duration {
        self.delay * 2
    }
}

pub(crate) struct Pipe {
    line: Line,
    /// By sending side.
    lanes: [Lane; 2],
    /// Which sides use it now.
    pub(crate) up: [bool; 2],
    /// Which sides have closed it, or never will use it.
    pub(crate) closed: [bool; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Arrive {
        pipe: usize,
        from: usize,
    },
    Free {
        pipe: usize,
        from: usize,
        len: usize,
    },
    Step {
        side: usize,
        stream: StreamId,
    },
    Up {
        pipe: usize,
        side: usize,
    },
    /// A side learns that the carrier is gone, or closes it itself.
    Down {
        pipe: usize,
        side: usize,
    },
    Cut {
        pipe: usize,
        from: usize,
    },
    Stall {
        pipe: usize,
        from: usize,
        until: Instant,
    },
    Cost {
        pipe: usize,
        side: usize,
        cost: u32,
    },
    Open {
        side: usize,
    },
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) sessions: [Session; 2],
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) apps: BTreeMap<(usize, StreamId), App>,
    /// What each new stream's two applications do: the opener's, and the other's.
    pub(crate) plans: VecDeque<(Plan, Plan)>,
    accepting: BTreeMap<StreamId, Plan>,
    pub(crate) ended: BTreeMap<(usize, StreamId), Option<edgemesh_tunnel_proto::session::ResetReason>>,
    pub(crate) refused: Vec<OpenRefused>,
    pub(crate) dead: Vec<(usize, usize, Duration)>,
    text: Reference,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    sequence: u64,
    limits: SessionLimits,
    /// Frames go through the codec.
    pub(crate) coded: bool,
    steps: u64,
    pub(crate) most: (u64, u64),
}

impl World {
    pub(crate) fn new(limits: [SessionLimits; 2]) -> Self {
        let now = Instant::now();
        let sessions = [Session::new(Side::A, limits[0], now), Session::new(Side::B, limits[1], now)];
        Self {
            now,
            start: now,
            sessions,
            pipes: Vec::new(),
            apps: BTreeMap::new(),
            plans: VecDeque::new(),
            accepting: BTreeMap::new(),
            ended: BTreeMap::new(),
            refused: Vec::new(),
            dead: Vec::new(),
            text: Reference::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            limits: limits[0],
            coded: false,
            steps: 0,
            most: (0, 0),
        }
    }

    pub(crate) fn pipe(&mut self, line: Line) -> usize {
        let lane = || Lane {
            frames: VecDeque::new(),
            buffered: 0,
            busy_until: self.now,
            last_arrival: self.now,
            stalled_until: self.now,
            cut: false,
        };
        self.pipes.push(Pipe { line, lanes: [lane(), lane()], up: [false; 2], closed: [false; 2] });
        self.pipes.len() - 1
    }

    pub(crate) fn at(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, happening)));
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    /// Both sides know a new carrier at once.
    pub(crate) fn connect(&mut self, line: Line) -> usize {
        let pipe = self.pipe(line);
        for side in 0..2 {
            self.happen(Happening::Up { pipe, side });
        }
        self.pump();
        pipe
    }

    pub(crate) fn open(&mut self, side: usize, plans: (Plan, Plan)) -> Option<StreamId> {
        match self.sessions[side].open(self.now) {
            Ok(stream) => {
                self.accepting.insert(stream, plans.1);
                self.apps.insert((side, stream), App::new(side, stream, plans.0, self.now));
                self.step(side, stream);
                self.pump();
                Some(stream)
            }
            Err(refused) => {
                self.refused.push(refused);
                None
            }
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.plans.is_empty()
            && self.apps.values().all(|app| app.end.is_some())
            && self.sessions.iter().all(|session| session.view().streams == 0)
    }

    /// Lets time pass until `done` or the deadline; true when done.
    pub(crate) fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            if self.steps.is_multiple_of(32 + self.apps.len() as u64) && done(self) {
                return true;
            }
            let timeouts = self.sessions.iter().filter_map(Session::poll_timeout);
            let next = self.queue.peek().map(|Reverse((at, ..))| *at).into_iter().chain(timeouts).min();
            let Some(next) = next.filter(|next| *next <= deadline) else {
                self.now = deadline;
                return done(self);
            };
            self.now = self.now.max(next);
            self.steps += 1;
            assert!(self.steps < 20_000_000, "time stands still at {:?}", self.now - self.start);
            while let Some(Reverse((at, ..))) = self.queue.peek()
                && *at <= self.now
            {
                let Some(Reverse((_, _, happening))) = self.queue.pop() else { break };
                self.happen(happening);
            }
            for session in &mut self.sessions {
                // A stream that moves makes another carrier's pulse due.
                for _ in 0..4 {
                    if session.poll_timeout().is_some_and(|at| at <= self.now) {
                        session.handle_timeout(self.now);
                    }
                }
                assert!(session.poll_timeout().is_none_or(|at| at > self.now), "a time-out that stays due");
            }
            self.pump();
            // A look at every stream, as `done` mostly is.
            if self.steps.is_multiple_of(16 + self.apps.len() as u64) {
                self.check_memory();
            }
        }
    }

    fn check_memory(&mut self) {
        for session in &self.sessions {
            let view = session.view();
            self.most = (self.most.0.max(view.replay), self.most.1.max(view.held));
            assert!(view.replay <= self.limits.total_window, "replay of {}", view.replay);
            assert!(view.held <= self.limits.total_window, "{} bytes not consumed", view.held);
        }
    }

    pub(crate) fn happen_now(&mut self, happening: Happening) {
        self.happen(happening);
        self.pump();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { pipe, from } => self.arrive(pipe, from),
            Happening::Free { pipe, from, len } => {
                self.pipes[pipe].lanes[from].buffered -= len;
                self.send(pipe, from);
            }
            Happening::Step { side, stream } => self.step(side, stream),
            Happening::Up { pipe, side } => {
                if !self.pipes[pipe].closed[side] {
                    let cost = self.pipes[pipe].line.cost;
                    if self.sessions[side].carrier_up(CarrierId(pipe as u64), cost, self.now) {
                        self.pipes[pipe].up[side] = true;
                        self.arrive(pipe, 1 - side);
                    } else {
                        self.close(pipe, side);
                    }
                }
            }
            Happening::Down { pipe, side } => {
                self.sessions[side].carrier_down(CarrierId(pipe as u64), self.now);
                self.close(pipe, side);
            }
            Happening::Cut { pipe, from } => {
                let lane = &mut self.pipes[pipe].lanes[from];
                lane.cut = true;
                lane.frames.clear();
            }
            Happening::Stall { pipe, from, until } => {
                let lane = &mut self.pipes[pipe].lanes[from];
                lane.stalled_until = lane.stalled_until.max(until);
            }
            Happening::Cost { pipe, side, cost } => {
                self.sessions[side].carrier_cost(CarrierId(pipe as u64), cost, self.now);
            }
            Happening::Open { side } => {
                if let Some(plans) = self.plans.pop_front() {
                    self.open(side, plans);
                }
            }
        }
    }

    /// A side has closed its end. What it sent before still arrives; then, unless the way is cut, the other side learns.
    fn close(&mut self, pipe: usize, side: usize) {
        let place = &mut self.pipes[pipe];
        place.up[side] = false;
        if std::mem::replace(&mut place.closed[side], true) {
            return;
        }
        // Closed with bytes unread: the other side's socket may be reset before it has read what came. By the pipe's
        // number, so that both happen.
        let abrupt = pipe.is_multiple_of(3);
        let lane = &mut place.lanes[side];
        if abrupt {
            lane.frames.clear();
        }
        let told = lane.last_arrival.max(self.now + place.line.delay).max(lane.stalled_until);
        if !lane.cut && !place.closed[1 - side] {
            self.at(told, Happening::Down { pipe, side: 1 - side });
        }
    }

    fn arrive(&mut self, pipe: usize, from: usize) {
        let to = 1 - from;
        loop {
            let place = &mut self.pipes[pipe];
            let lane = &mut place.lanes[from];
            let Some((at, _)) = lane.frames.front() else { return };
            let at = (*at).max(lane.stalled_until);
            if place.closed[to] {
                lane.frames.clear();
                return;
            }
            if at > self.now {
                return self.at(at, Happening::Arrive { pipe, from });
            }
            if !place.up[to] {
                return;
            }
            let Some((_, frame)) = lane.frames.pop_front() else { return };
            let frame = if self.coded { recoded(frame) } else { frame };
            let taken = self.sessions[to].receive(CarrierId(pipe as u64), frame.clone(), self.now);
            assert_eq!(taken, Ok(()), "an honest peer sent {frame:?}");
        }
    }

    /// Fills the socket buffer of a carrier; true when something left.
    fn send(&mut self, pipe: usize, from: usize) {
        loop {
            let place = &mut self.pipes[pipe];
            let lane = &mut place.lanes[from];
            if !place.up[from] || lane.buffered >= place.line.buffer {
                return;
            }
            let Some(frame) = self.sessions[from].transmit(CarrierId(pipe as u64), self.now) else { return };
            let len = 28 + frame.payload().len();
            lane.buffered += len;
            if lane.cut {
                continue;
            }
            let takes = Duration::from_micros(len as u64 * 1000 / place.line.rate);
            lane.busy_until = lane.busy_until.max(self.now) + takes;
            lane.last_arrival = lane.last_arrival.max(lane.busy_until + place.line.delay);
            let (free, arrival) = (lane.busy_until, lane.last_arrival);
            let alone = lane.frames.is_empty();
            lane.frames.push_back((arrival, frame));
            self.at(free, Happening::Free { pipe, from, len });
            if alone {
                self.at(arrival, Happening::Arrive { pipe, from });
            }
        }
    }

    fn step(&mut self, side: usize, stream: StreamId) {
        let Some(app) = self.apps.get_mut(&(side, stream)) else { return };
        if app.end.is_none()
            && let Some(again) = app.step(&mut self.sessions[side], &self.text, self.now)
        {
            self.at(again, Happening::Step { side, stream });
        }
    }

    /// Drains both sides' events.
    pub(crate) fn pump(&mut self) {
        for side in 0..2 {
            while let Some(event) = self.sessions[side].poll_event() {
                self.event(side, event);
            }
        }
    }

    fn event(&mut self, side: usize, event: Event) {
        match event {
            Event::Opened(stream) => {
                let plan =
                    self.accepting.remove(&stream).expect("the other side opened it, and it opens once");
                self.apps.insert((side, stream), App::new(side, stream, plan, self.now));
                self.step(side, stream);
            }
            Event::Readable(stream) | Event::Writable(stream) => self.step(side, stream),
            Event::Transmit(CarrierId(pipe)) => self.send(pipe as usize, side),
            Event::Datagrams => {}
            Event::CarrierDead(CarrierId(pipe), silent) => {
                self.dead.push((pipe as usize, side, silent));
                self.close(pipe as usize, side);
            }
            Event::Ended { stream, reset, .. } => {
                assert!(self.ended.insert((side, stream), reset).is_none(), "{stream:?} ended twice");
            }
        }
    }
}

fn recoded(frame: Frame) -> Frame {
    let mut head = Vec::new();
    frame.encode_header(&mut head);
    let mut buffer = BytesMut::from(&joined(&head, frame.payload())[..]);
    let decoded = decode(&mut buffer).expect("what was encoded is a frame");
    assert!(buffer.is_empty());
    assert_eq!(decoded, Decoded::Frame(frame.clone()));
    frame
}
