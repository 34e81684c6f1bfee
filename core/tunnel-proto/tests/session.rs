//! The session's frames, and what it refuses.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that uses it")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use edgemesh_tunnel_proto::session::{
    CarrierId, Decoded, Event, FRAME_PAYLOAD, Frame, FrameError, MAX_FRAME, MAX_STREAMS, PATIENCE, PING_BUSY,
    PING_IDLE, Read, ResetReason, Session, SessionLimits, Side, StreamId, Violation, Write, decode,
};

const ONE: CarrierId = CarrierId(1);
const TWO: CarrierId = CarrierId(2);
const MS: Duration = Duration::from_millis(1);

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode_header(&mut out);
    out.extend_from_slice(frame.payload());
    out
}

fn data(stream: u64, offset: u64, flags: &str, payload: &[u8]) -> Frame {
    let (open, fin) = (flags.contains('o'), flags.contains('f'));
    Frame::Data { stream: StreamId(stream), offset, open, fin, payload: Bytes::copy_from_slice(payload) }
}

fn ack(stream: u64, received: u64, limit: u64) -> Frame {
    Frame::Ack { stream: StreamId(stream), received, limit }
}

#[test]
fn frames_on_the_wire() {
    let cases: [(Frame, &[u8]); 10] = [
        (data(258, 3, "o", b"hi"), b"\x01\x01\0\x12\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03hi"),
        (data(1, 0, "f", b""), b"\x01\x02\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0"),
        (ack(1, 2, 3), b"\x02\0\0\x18\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"),
        (
            Frame::Reset { stream: StreamId(1), reason: ResetReason::NoPath },
            b"\x03\0\0\x09\0\0\0\0\0\0\0\x01\x04",
        ),
        (Frame::ResetAck { stream: StreamId(1) }, b"\x04\0\0\x08\0\0\0\0\0\0\0\x01"),
        (Frame::Moved { stream: StreamId(1) }, b"\x05\0\0\x08\0\0\0\0\0\0\0\x01"),
        (Frame::Ping { number: 1 }, b"\x06\0\0\x08\0\0\0\0\0\0\0\x01"),
        (Frame::Pong { number: 1 }, b"\x07\0\0\x08\0\0\0\0\0\0\0\x01"),
        (
            Frame::Datagram { channel: 1, payload: Bytes::from_static(b"x") },
            b"\x08\0\0\x09\0\0\0\0\0\0\0\x01x",
        ),
        (Frame::GoAway, b"\x09\0\0\0"),
    ];
    for (frame, wire) in cases {
        assert_eq!(encoded(&frame), wire, "{frame:?}");
        for len in 0..wire.len() {
            let mut part = BytesMut::from(&wire[..len]);
            let missing = if len < 4 { 4 - len } else { wire.len() - len };
            assert_eq!(decode(&mut part), Ok(Decoded::More(missing)), "{len} bytes of {frame:?}");
        }
        // A kind that is not known is skipped by its length.
        let mut whole = BytesMut::from(&[b"\xc8\x07\0\x02zz", wire, wire].concat()[..]);
        for _ in 0..2 {
            assert_eq!(decode(&mut whole), Ok(Decoded::Frame(frame.clone())));
        }
        assert_eq!(decode(&mut whole), Ok(Decoded::More(4)));
    }
}

#[test]
fn malformed_frames() {
    let cases: [(&[u8], FrameError); 10] = [
        (b"\x01\x04\0\x10", FrameError::Flags),
        (b"\x02\x01\0\x18", FrameError::Flags),
        (b"\x01\0\0\x0f", FrameError::Length),
        (b"\x01\0\x40\x11", FrameError::TooLong),
        (b"\x02\0\0\x17", FrameError::Length),
        (b"\x03\0\0\x08", FrameError::Length),
        (b"\x06\0\0\x09", FrameError::Length),
        (b"\x08\0\0\x07", FrameError::Length),
        (b"\x08\0\xff\xff", FrameError::TooLong),
        (b"\x09\0\0\x01", FrameError::Length),
    ];
    for (wire, expected) in cases {
        assert_eq!(decode(&mut BytesMut::from(wire)), Err(expected), "{wire:02x?}");
    }
    let longest = BytesMut::from(&b"\xff\0\xff\xff"[..]);
    assert_eq!(decode(&mut longest.clone()), Ok(Decoded::More(MAX_FRAME - 4)));
}

/// Side B with a carrier, as a hostile peer sees it.
fn target() -> (Session, Instant) {
    let now = Instant::now();
    let limits = SessionLimits { initial_window: 100, max_window: 100, ..SessionLimits::default() };
    let mut session = Session::new(Side::B, limits, now);
    assert!(session.carrier_up(ONE, 0, now) && session.carrier_up(TWO, 1, now));
    (session, now)
}

#[test]
fn violations() {
    let x = |n: usize| vec![b'x'; n];
    let cases: [(&[Frame], Violation); 17] = [
        (&[data(0, 0, "o", b"ab"), data(0, 3, "", b"d")], Violation::Gap),
        (&[data(0, 0, "o", &x(101))], Violation::Window),
        (&[data(0, 0, "o", b"a"), data(0, 1, "", &x(100))], Violation::Window),
        (&[data(0, 0, "of", b"ab"), data(0, 2, "", b"c")], Violation::PastEnd),
        (&[data(0, 0, "of", b"ab"), data(0, 0, "of", b"a")], Violation::PastEnd),
        (&[data(0, 0, "o", b"ab"), data(0, 0, "of", b"a")], Violation::PastEnd),
        (&[data(0, 0, "", b"a")], Violation::NotOpened),
        (&[data(0, 1, "o", b"a")], Violation::NotOpened),
        (&[data(1, 0, "o", b"a")], Violation::UnknownStream),
        (&[data(1, 0, "", b"a")], Violation::UnknownStream),
        (&[ack(1, 0, 0)], Violation::UnknownStream),
        (&[Frame::Moved { stream: StreamId(3) }], Violation::UnknownStream),
        (&[Frame::ResetAck { stream: StreamId(3) }], Violation::UnknownStream),
        (&[Frame::Reset { stream: StreamId(3), reason: ResetReason::Full }], Violation::UnknownStream),
        (&[data(0, 0, "o", b"a"), ack(0, 1, 0)], Violation::NotSent),
        (&[data(0, 0, "o", b"a"), ack(0, u64::MAX, 0)], Violation::NotSent),
        (&[data(2 * u64::from(MAX_STREAMS) + 2, 0, "o", b"a")], Violation::TooManyStreams),
    ];
    for (frames, expected) in cases {
        let (mut session, now) = target();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            assert_eq!(session.receive(ONE, frame.clone(), now), Ok(()), "{frame:?} before {expected:?}");
        }
        assert_eq!(session.receive(TWO, last.clone(), now), Err(expected), "{frames:?}");
    }
}

#[test]
fn floods_end_the_carrier() {
    let refused = |frame: &dyn Fn(u64) -> Frame| {
        let (mut session, now) = target();
        (0..100_000).find_map(|n| session.receive(ONE, frame(n), now).err())
    };
    assert_eq!(refused(&|n| Frame::Moved { stream: StreamId(2 * n) }), Some(Violation::Flood));
    let reason = ResetReason::Cancelled;
    assert_eq!(refused(&|n| Frame::Reset { stream: StreamId(2 * n), reason }), Some(Violation::Flood));
    // Opened and never read by an application that sleeps; refusals that the peer does not answer count too.
    assert_eq!(refused(&|n| data(2 * n, 0, "o", b"")), Some(Violation::TooManyStreams));
    assert_eq!(refused(&|number| Frame::Ping { number }), None, "only the last one is answered");
}

/// Everything that a carrier has to send.
fn sent(session: &mut Session, carrier: CarrierId, now: Instant) -> Vec<Frame> {
    std::iter::from_fn(|| session.transmit(carrier, now))
        .filter(|f| !matches!(f, Frame::Ping { .. }))
        .collect()
}

#[test]
fn small_writes_share_a_frame_and_large_ones_are_cut() {
    let (mut session, now) = target();
    let stream = session.open(now).unwrap();
    for byte in b"hello" {
        assert_eq!(session.write(stream, &[*byte], now), Write::Taken(1));
    }
    assert_eq!(sent(&mut session, ONE, now), [data(1, 0, "o", b"hello")]);
    session.receive(ONE, ack(1, 5, 100_000), now).unwrap();
    assert_eq!(
        session.write(stream, &[1; 2 * FRAME_PAYLOAD], now),
        Write::Taken(100),
        "more than the largest window"
    );
    session.finish(stream, now);
    assert_eq!(sent(&mut session, ONE, now), [data(1, 5, "f", &[1; 100])]);
    assert_eq!(session.write(stream, b"x", now), Write::Finished);
}

#[test]
fn a_lost_carrier_begins_again_where_the_peer_is() {
    let (mut session, now) = target();
    let limits = SessionLimits::default();
    let mut big = Session::new(Side::A, limits, now);
    big.carrier_up(ONE, 0, now);
    big.carrier_up(TWO, 1, now);
    let stream = big.open(now).unwrap();
    big.write(stream, &[7; 40_000], now);
    assert_eq!(sent(&mut big, ONE, now).len(), 3);
    big.carrier_down(ONE, now);
    // Much is under way: the peer is asked first.
    assert_eq!(sent(&mut big, TWO, now), [Frame::Moved { stream }]);
    big.receive(TWO, ack(0, 20_000, 1 << 18), now).unwrap();
    let again = sent(&mut big, TWO, now);
    assert_eq!(again, [data(0, 20_000, "", &[7; 12_768]), data(0, 32_768, "", &[7; 7_232])]);

    // Little is under way: it is sent again at once.
    let stream = session.open(now).unwrap();
    session.write(stream, b"ls\n", now);
    assert_eq!(sent(&mut session, ONE, now), [data(1, 0, "o", b"ls\n")]);
    session.carrier_down(ONE, now);
    assert_eq!(sent(&mut session, TWO, now), [Frame::Moved { stream }, data(1, 0, "o", b"ls\n")]);
}

#[test]
fn what_a_receiver_answers_to_a_move() {
    let (mut session, now) = target();
    let asked = |session: &mut Session, stream: u64| {
        session.receive(TWO, Frame::Moved { stream: StreamId(stream) }, now).unwrap();
        sent(session, TWO, now)
    };
    assert_eq!(asked(&mut session, 4), [ack(4, 0, 100)], "never seen");
    session.receive(ONE, data(4, 0, "o", b"abc"), now).unwrap();
    assert_eq!(asked(&mut session, 4), [ack(4, 3, 100)]);
    assert_eq!(asked(&mut session, 2), [ack(2, 0, 100)], "a gap");
    session.receive(ONE, data(4, 0, "of", b"abcd"), now).unwrap();
    assert_eq!(asked(&mut session, 4), [ack(4, 5, 100)], "the end counts");
    // Finished in both directions, acknowledged, and read.
    let stream = StreamId(4);
    assert!(std::iter::from_fn(|| session.poll_event()).any(|event| event == Event::Opened(stream)));
    session.finish(stream, now);
    sent(&mut session, ONE, now);
    session.receive(ONE, ack(4, 1, 0), now).unwrap();
    assert_eq!(session.read(stream, now), Read::Chunk(Bytes::from_static(b"abcd")));
    assert_eq!(session.read(stream, now), Read::Finished);
    assert_eq!(asked(&mut session, 4), [ack(4, u64::MAX, 0)]);
    let ended = Event::Ended { stream, reset: None, sent: 0, received: 4 };
    assert!(std::iter::from_fn(|| session.poll_event()).any(|event| event == ended));
    session.receive(TWO, data(4, 0, "of", b"abcd"), now).unwrap();
    assert_eq!(sent(&mut session, TWO, now), [ack(4, u64::MAX, 0)], "the end again: the answer was lost");
    assert_eq!(session.view().streams, 0);
}

#[test]
fn acknowledgements_wait_for_company() {
    let (mut session, now) = target();
    session.receive(ONE, data(0, 0, "o", b"abc"), now).unwrap();
    assert_eq!(sent(&mut session, ONE, now), []);
    session.write(StreamId(0), b"x", now);
    assert_eq!(sent(&mut session, ONE, now), [ack(0, 3, 100), data(0, 0, "", b"x")]);
    session.receive(ONE, data(0, 3, "", b"d"), now).unwrap();
    let later = now + 20 * MS;
    assert_eq!(sent(&mut session, ONE, later - MS), []);
    session.handle_timeout(later);
    assert_eq!(sent(&mut session, ONE, later), [ack(0, 4, 100)]);
}

/// When the questions leave and when the carrier is given up, in milliseconds after it came up.
fn pulse(mut busy: impl FnMut(&mut Session, u128, Instant), until: u128) -> Vec<(u128, &'static str)> {
    let now = Instant::now();
    let mut session = Session::new(Side::A, SessionLimits::default(), now);
    session.carrier_up(ONE, 0, now);
    let mut at = now;
    let mut told = Vec::new();
    while (at - now).as_millis() <= until {
        session.handle_timeout(at);
        let since = (at - now).as_millis();
        while let Some(frame) = session.transmit(ONE, at) {
            if let Frame::Ping { number } = frame {
                told.push((since, "ping"));
                if since < 1000 {
                    session.receive(ONE, Frame::Pong { number }, at).unwrap();
                }
            }
        }
        while let Some(event) = session.poll_event() {
            if matches!(event, Event::CarrierDead(..)) {
                told.push((since, "dead"));
            }
        }
        busy(&mut session, since, at);
        at += MS;
    }
    told
}

#[test]
fn the_pulse() {
    let idle = PING_IDLE.as_millis();
    assert_eq!(pulse(|_, _, _| {}, idle + 3100), [(0, "ping"), (idle, "ping"), (idle + 3000, "dead")]);
    let mut stream = None;
    let write = |session: &mut Session, since: u128, now: Instant| {
        if since == 400 {
            stream = session.open(now).ok();
            session.write(stream.unwrap(), b"x", now);
        }
    };
    let pause = PING_BUSY.as_millis();
    // Written at 400, sent at 401: in use from the next look on.
    let mut expected = vec![(0, "ping")];
    expected.extend((0..=3).map(|n| (402 + n * pause, "ping")));
    expected.push((1002 + PATIENCE.as_millis(), "dead"));
    assert_eq!(pulse(write, 2000), expected);
}
