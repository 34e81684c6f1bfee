use std::time::Duration;

use edgemesh_net::meet::Duplex;
use edgemesh_net::socket::{MAX_DATAGRAM, send_now};
use edgemesh_net::splice::scratch;
use edgemesh_route::{DialError, Outcome};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{dead, readable};
use crate::Counters;
use crate::frame::{Frames, frame};
use crate::record::Record;

/// Carries datagrams between a peer's stream and a backend until one side is gone or nothing moved for `idle`.
pub(crate) async fn carry(
    stream: Box<dyn Duplex>,
    backend: &UdpSocket,
    idle: Duration,
    counters: &Counters,
    record: &mut Record,
) -> Outcome {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut frames = Frames::default();
    let (mut sent, mut received) = (0, 0);
    let outcome = loop {
        let until = Instant::now() + idle;
        tokio::select! {
            datagram = frames.next(&mut reader) => match datagram {
                Ok(Some(payload)) => match send_now(backend, &payload) {
                    Ok(()) => sent += payload.len() as u64,
                    Err(error) if dead(&error) => break Outcome::Failed(DialError::Refused),
                    Err(_) => counters.count_datagram_dropped(),
                },
                Ok(None) => break Outcome::Closed,
                Err(_) => break Outcome::Reset,
            },
            ready = readable(backend) => match ready.and_then(|()| read(backend)) {
                Ok(framed) => {
                    received += framed.len() as u64 - 2;
                    // While the stream is slow, the backend's replies wait in its socket and are dropped there.
                    let written = async { writer.write_all(&framed).await.and(writer.flush().await) };
                    match tokio::time::timeout(idle, written).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => break Outcome::Reset,
                        Err(_) => break Outcome::Idle,
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if dead(&error) => break Outcome::Failed(DialError::Refused),
                Err(_) => break Outcome::Reset,
            },
            () = tokio::time::sleep_until(until) => break Outcome::Idle,
        }
    };
    record.moved(sent, received);
    outcome
}

fn read(backend: &UdpSocket) -> std::io::Result<bytes::Bytes> {
    const { assert!(MAX_DATAGRAM <= u16::MAX as usize) };
    scratch::with(|buffer| {
        let length = backend.try_recv(buffer)?;
        frame(&buffer[..length]).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    })
}
