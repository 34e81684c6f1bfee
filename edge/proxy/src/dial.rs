use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use edgemesh_balance::Feedback;
use edgemesh_mesh::Path;
use edgemesh_net::meet::{Connected, Duplex};
use edgemesh_net::socket;
use edgemesh_route::{Conn, DialError, Hop, Target};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::listen::Shared;

/// Through the tunnel, another target is tried after this long: the remote agent's own dial takes up to 3 s, and
/// its answer comes by a relay.
const NEXT_AFTER_TUNNEL: Duration = Duration::from_secs(4);

/// The far end of a connection.
pub(crate) enum Stream {
    Socket(TcpStream),
    Tunnel(Box<dyn Duplex>),
}

/// A target that was connected.
pub(crate) struct Dialed<'a> {
    pub(crate) target: &'a Target,
    pub(crate) stream: Stream,
    pub(crate) path: Path,
}

/// Why a dial failed, and what that says of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) error: DialError,
    /// Nothing when the fault is this host's.
    pub(crate) feedback: Option<Feedback>,
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let feedback = match error {
            DialError::PeerUnknown | DialError::NoPath | DialError::RelayFull => Some(Feedback::NoPath),
            DialError::Refused | DialError::Timeout | DialError::Unreachable => Some(Feedback::Failed),
            DialError::NotAdmitted | DialError::Broken => Some(Feedback::Failed),
            // A bound was met, which says nothing of the backend.
            DialError::Overloaded => None,
        };
        Self { error, feedback }
    }
}

/// Tries the targets in their order. `first` gives the bytes that leave with the header of a tunnel stream; it is
/// asked when a tunnel is first tried, and the bytes are delivered if and only if the result is a tunnel.
pub(crate) async fn dial<'a>(
    shared: &Shared,
    conn: &Conn,
    targets: &'a [Target],
    mut first: impl FnMut() -> Bytes,
) -> Result<Dialed<'a>, DialError> {
    let settings = &shared.settings;
    let deadline = Instant::now() + settings.connect_total;
    let mut last = DialError::Timeout;
    for (index, target) in targets.iter().enumerate() {
        let more = index + 1 < targets.len();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let result = match &target.hop {
            Hop::Socket => {
                let limit = if more { settings.next_after } else { settings.connect_timeout };
                connect_tcp(target.backend, limit.min(left))
                    .await
                    .map(|stream| (Stream::Socket(stream), Path::Local))
            }
            Hop::Node(_) => connect_node(shared, target, first(), left, more)
                .await
                .map(|connected| (Stream::Tunnel(connected.stream), connected.path)),
        };
        match result {
            Ok((stream, path)) => {
                shared.feedback(conn, target, Feedback::Connected);
                return Ok(Dialed { target, stream, path });
            }
            Err(failure) => {
                tracing::debug!(backend = %target.backend, error = %failure.error, "dial failed");
                if let Some(feedback) = failure.feedback {
                    shared.feedback(conn, target, feedback);
                }
                last = failure.error;
            }
        }
    }
    Err(last)
}

/// A stream to a backend on another node. `left` is the time for all targets, `more` whether there are others.
pub(crate) async fn connect_node(
    shared: &Shared,
    target: &Target,
    first: Bytes,
    left: Duration,
    more: bool,
) -> Result<Connected, Failure> {
    let limit = if more { NEXT_AFTER_TUNNEL.min(left) } else { left };
    match timeout(limit, shared.connect.connect(target.clone(), first)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(DialError::Timeout.into()),
    }
}

/// A direct connection to a backend.
pub(crate) async fn connect_tcp(backend: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    match timeout(limit, socket::dial(backend)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(DialError::Timeout.into()),
    }
}

/// What an error of a socket says of its backend.
pub(crate) fn failure(error: &io::Error) -> Failure {
    if ran_out(error) {
        return Failure { error: DialError::Overloaded, feedback: None };
    }
    Failure::from(match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::Timeout,
        _ => DialError::Unreachable,
    })
}

/// Whether this host ran out of descriptors, memory or ports.
pub(crate) fn ran_out(error: &io::Error) -> bool {
    let out = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL, libc::EAGAIN];
    error.raw_os_error().is_some_and(|code| out.contains(&code))
}
