//! Frames of a hostile peer, given to a session whose application reads, writes and forgets.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use edgemesh_tunnel_proto::session::{
    CarrierId, Decoded, Event, Read, Session, SessionLimits, Side, StreamId, decode,
};

/// Small, so that short inputs reach every bound.
const LIMITS: SessionLimits =
    SessionLimits { streams: 3, initial_window: 64, max_window: 256, total_window: 128 };

/// A decoder and a session on any bytes. The first byte says the side. The byte before each frame says by which of two
/// carriers it comes, how much time has passed, and whether the application reads. Whatever comes, what is held stays
/// within its bound, what decodes encodes to itself, and the session's clock never stands still.
pub fn session(bytes: &[u8]) {
    let Some((side, mut rest)) = bytes.split_first() else { return };
    let mut now = Instant::now();
    let mut session = Session::new(if side & 1 == 0 { Side::A } else { Side::B }, LIMITS, now);
    let carriers = [CarrierId(0), CarrierId(1)];
    for carrier in carriers {
        session.carrier_up(carrier, 0, now);
    }
    if let Ok(own) = session.open(now) {
        let _ = session.write(own, b"hello", now);
        session.finish(own, now);
    }
    while let Some((how, after)) = rest.split_first() {
        let carrier = carriers[usize::from(how & 1)];
        now += Duration::from_millis(u64::from(how >> 2) * 10);
        let mut buffer = BytesMut::from(after);
        let Ok(Decoded::Frame(frame)) = decode(&mut buffer) else { return };
        assert!(buffer.len() < after.len());
        rest = &after[after.len() - buffer.len()..];
        let mut again = Vec::new();
        frame.encode_header(&mut again);
        again.put_slice(frame.payload());
        assert_eq!(decode(&mut BytesMut::from(&again[..])), Ok(Decoded::Frame(frame.clone())));
        if session.receive(carrier, frame, now).is_err() {
            session.carrier_down(carrier, now);
        }
        drain(&mut session, how & 2 != 0, now);
        let view = session.view();
        assert!(view.held <= LIMITS.total_window && view.replay <= LIMITS.total_window, "{view:?}");
    }
}

fn drain(session: &mut Session, reads: bool, now: Instant) {
    // The pulses of two carriers, and what a dead one makes due.
    for _ in 0..4 {
        if session.poll_timeout().is_some_and(|at| at <= now) {
            session.handle_timeout(now);
        }
    }
    assert!(session.poll_timeout().is_none_or(|at| at > now), "a time-out that stays due");
    while let Some(event) = session.poll_event() {
        match event {
            Event::Transmit(carrier) => while session.transmit(carrier, now).is_some() {},
            Event::Readable(stream) if reads => read(session, stream, now),
            Event::Opened(stream) => {
                let _ = session.write(stream, &[7; 100], now);
            }
            Event::Datagrams => while session.poll_datagram().is_some() {},
            Event::Readable(_) | Event::Writable(_) | Event::CarrierDead(..) | Event::Ended { .. } => {}
        }
    }
}

fn read(session: &mut Session, stream: StreamId, now: Instant) {
    while let Read::Chunk(chunk) = session.read(stream, now) {
        session.consumed(stream, chunk.len(), now);
    }
    session.finish(stream, now);
}
