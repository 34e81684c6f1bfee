use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ask::framed;
use crate::counters::{DnsCounters, add};

/// Open connections, all listeners together. Clients come over TCP only after a truncated answer.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// Queries of one connection that wait for an answer; further ones stay in the kernel's buffer (RFC 7766 6.2.1.1).
const PIPELINE: usize = 32;
/// Time without a complete query or an answer after which a connection is closed. RFC 7766 section 6.2.3 wants
/// seconds; a question takes up to 4 s.
const IDLE: Duration = Duration::from_secs(10);
/// Time for the client to take an answer.
const WRITE: Duration = Duration::from_secs(5);
/// Longest query that is read. A question with its OPT record is under 300 octets; TSIG and cookies add some hundred.
pub(crate) const LONGEST_QUERY: usize = 4096;
/// Pause after `accept` failed, most often for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Queries of all connections on the way to the resolver: what all may have sent while one is answered.
pub(crate) const QUERY_QUEUE: usize = 64;

/// A query that came over TCP. Exactly one message must go to `reply`; an empty one closes the connection.
pub(crate) struct TcpQuery {
    pub(crate) message: Vec<u8>,
    pub(crate) reply: mpsc::Sender<Vec<u8>>,
}

/// What the tasks of all TCP connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) queries: mpsc::Sender<TcpQuery>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) counters: Arc<DnsCounters>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Accepts connections until shutdown.
pub(crate) async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match shared.permits.clone().try_acquire_owned() {
                Ok(permit) => {
                    let connection = serve(stream, shared.queries.clone(), permit);
                    let shutdown = shared.shutdown.clone();
                    shared.tasks.spawn(async move {
                        if let Some(Err(error)) = shutdown.run_until_cancelled(connection).await {
                            tracing::debug!(%peer, %error, "dns connection");
                        }
                    });
                }
                Err(_) => add(&shared.counters.connections_refused),
            },
            Err(error) => {
                tracing::debug!(%error, "accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection; answers leave in the order in which they are found (RFC 7766 section 6.2.1.1).
async fn serve(
    mut stream: TcpStream,
    queries: mpsc::Sender<TcpQuery>,
    _permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.split();
    // Room for one answer of every query that waits, so the resolver never has to.
    let (reply, mut replies) = mpsc::channel(PIPELINE);
    let mut input = Vec::new();
    let (mut waiting, mut ended, mut deadline) = (0, false, Instant::now() + IDLE);
    loop {
        while waiting < PIPELINE
            && let Some(message) = take_message(&mut input)?
        {
            if queries.send(TcpQuery { message, reply: reply.clone() }).await.is_err() {
                return Ok(());
            }
            waiting += 1;
            deadline = Instant::now() + IDLE;
        }
        if ended && waiting == 0 {
            return Ok(());
        }
        let takes_more = !ended && waiting < PIPELINE;
        tokio::select! {
            Some(message) = replies.recv() => {
                waiting -= 1;
                let message: Vec<u8> = message;
                if message.is_empty() {
                    return Ok(());
                }
                timeout(WRITE, write.write_all(&framed(&message)?)).await??;
                deadline = Instant::now() + IDLE;
            }
            length = read.read_buf(&mut input), if takes_more => ended = length? == 0,
            () = sleep_until(deadline) => return Ok(()),
        }
    }
}

/// Takes the first message off the input, if it is complete.
fn take_message(input: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = input.first_chunk::<2>().map(|octets| usize::from(u16::from_be_bytes(*octets))) else {
        return Ok(None);
    };
    if length > LONGEST_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some(message) = input.get(2..2 + length) else { return Ok(None) };
    let message = message.to_vec();
    input.drain(..2 + length);
    Ok(Some(message))
}
