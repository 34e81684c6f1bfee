use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_net::socket::{self, canonical};
use edgemesh_net::splice::pump;
use edgemesh_route::{Conn, Decision, Direction, Outcome, RejectReason};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dial::{Stream, dial, ran_out};
use crate::listen::Shared;
use crate::record::Record;

/// First bytes of a client that travel with the header of a tunnel stream: the longest TLS record, in which a
/// ClientHello or a request fits.
const FIRST_BYTES: usize = 16 * 1024;

/// Wait after an accept that failed for want of descriptors or memory; doubled up to the bound below. The kernel
/// keeps the clients in its backlog meanwhile.
const BACK_OFF: Duration = Duration::from_millis(10);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// An accept that fails is logged this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Accepts until `shutdown`. It never waits for anything but the next connection.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut back_off = BACK_OFF;
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                back_off = BACK_OFF;
                admit(&shared, stream, canonical(client));
            }
            Err(error) if of_the_connection(&error) => {
                tracing::debug!(%error, "a client left before its accept")
            }
            Err(error) => {
                shared.counters.count_accept_failed();
                if warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    let ran_out = ran_out(&error);
                    tracing::warn!(%error, ran_out, "cannot accept connections, trying on");
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(back_off) => {}
                }
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
        }
    }
}

/// Errors that `accept` passes on from the connection it would have returned (accept(2)).
fn of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NetworkDown)
        || matches!(error.kind(), NetworkUnreachable | HostUnreachable)
        || matches!(
            error.raw_os_error(),
            Some(libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::EPERM)
        )
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, client: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let local = canonical(local);
    let conn =
        Conn { frontend: Frontend { ip: local.ip(), port: local.port(), protocol: Protocol::Tcp }, client };
    let record = Record::begin(
        shared.observe.clone(),
        Direction::Outbound,
        Protocol::Tcp,
        client.to_string(),
        conn.frontend.socket_addr(),
    );
    match shared.connections.clone().try_acquire_owned() {
        Ok(permit) => {
            shared.tasks.spawn(serve(shared.clone(), stream, conn, record, permit));
        }
        Err(_) => {
            socket::reset(stream);
            record.end(Outcome::Rejected(RejectReason::Overloaded));
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    mut client: TcpStream,
    conn: Conn,
    mut record: Record,
    _permit: OwnedSemaphorePermit,
) {
    // Boxed, so that a connection keeps the state of the dial only as long as the dial.
    let opened = tokio::select! {
        opened = Box::pin(open(&shared, &client, &conn, &mut record)) => opened,
        () = shared.stop.cancelled() => Err(Outcome::Drained),
    };
    let (mut stream, first) = match opened {
        Ok(opened) => opened,
        Err(outcome) => {
            socket::reset(client);
            record.end(outcome);
            return;
        }
    };
    let (idle, stop) = (shared.settings.tcp_idle, &shared.stop);
    let pumped = match &mut stream {
        Stream::Socket(backend) => pump(&mut client, backend, first, idle, stop, |_, _| {}).await,
        Stream::Tunnel(backend) => pump(&mut client, backend, first, idle, stop, |_, _| {}).await,
    };
    record.moved(pumped.sent, pumped.received);
    if pumped.first_cut {
        socket::reset(client);
    }
    match stream {
        Stream::Socket(backend) if pumped.second_cut => socket::reset(backend),
        Stream::Socket(_) | Stream::Tunnel(_) => {}
    }
    record.end(pumped.outcome);
}

/// Decides and dials. Returns the far end and what was taken from the client and is not delivered yet.
async fn open(
    shared: &Shared,
    client: &TcpStream,
    conn: &Conn,
    record: &mut Record,
) -> Result<(Stream, Bytes), Outcome> {
    let targets = match shared.route(conn) {
        Decision::Targets(targets) => targets,
        Decision::Reject(reason) => {
            record.service(shared.service(conn));
            return Err(Outcome::Rejected(reason));
        }
    };
    record.service(targets.first().map(|target| target.service.clone()));
    let mut first: Option<Bytes> = None;
    let take = || first.get_or_insert_with(|| socket::take_available(client, FIRST_BYTES)).clone();
    let dialed = dial(shared, conn, &targets, take).await.map_err(Outcome::Failed)?;
    record.connected(dialed.target.backend, dialed.path);
    Ok(match dialed.stream {
        Stream::Socket(stream) => (Stream::Socket(stream), first.unwrap_or_default()),
        Stream::Tunnel(stream) => {
            record.moved(first.map_or(0, |first| first.len() as u64), 0);
            (Stream::Tunnel(stream), Bytes::new())
        }
    })
}
