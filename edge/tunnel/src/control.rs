//! The control stream of a connection: frames both ways, in a task of its own.

use std::sync::{Arc, Mutex, PoisonError};

use edgemesh_tunnel_proto::{Frame, MAX_FRAME, MAX_RECORDS};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use tokio::sync::{Notify, mpsc};

/// What may wait for one peer: a relay tells a newcomer of every record it has at once.
const MAX_QUEUED: usize = MAX_FRAME * MAX_RECORDS;

/// Bytes read at a time; a handful of records.
const READ_CHUNK: usize = 8 * 1024;

/// Frames from all peers on the way to the state. Full, it makes the peers wait.
pub(crate) const FRAME_QUEUE: usize = 1024;

/// A frame and whence it came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) connection: ConnectionId,
    /// `None` tells that the stream is broken, and with it the connection.
    pub(crate) frame: Option<Frame>,
}

/// Bytes waiting for the control stream, also before there is one.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// Queues a frame; false when the peer does not take what it is sent.
    pub(crate) fn push(&self, frame: &Frame) -> bool {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > MAX_QUEUED {
            return false;
        }
        frame.encode(&mut bytes);
        drop(bytes);
        self.filled.notify_one();
        true
    }

    async fn take(&self) -> Vec<u8> {
        loop {
            let filled = self.filled.notified();
            let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
            if !bytes.is_empty() {
                return bytes;
            }
            filled.await;
        }
    }
}

/// Carries frames until the stream breaks.
pub(crate) async fn carry(
    stream: Stream,
    connection: ConnectionId,
    outbox: Arc<Outbox>,
    frames: mpsc::Sender<Received>,
) {
    let (mut reader, mut writer) = stream.split();
    let read = async {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            let count = match reader.read(&mut chunk).await {
                Ok(count) if count > 0 => count,
                _ => return,
            };
            buffer.extend_from_slice(&chunk[..count]);
            let mut taken = 0;
            loop {
                match Frame::decode(&buffer[taken..]) {
                    Ok(Some((frame, len))) => {
                        taken += len;
                        let Some(frame) = frame else { continue };
                        if frames.send(Received { connection, frame: Some(frame) }).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            buffer.drain(..taken);
        }
    };
    let write = async {
        loop {
            let bytes = outbox.take().await;
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    // The state may be gone already; then nobody needs to know.
    let _ = frames.send(Received { connection, frame: None }).await;
}
