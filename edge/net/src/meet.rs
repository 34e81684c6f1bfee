//! The traits through which edge crates meet; they are joined in `bin/`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edgemesh_api::{Name, Protocol, SourceEvent};
use edgemesh_mesh::Path;
use edgemesh_route::{DialError, RejectReason, Target};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A byte stream in both directions with half-close: `shutdown` ends one direction only.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that was made to a target.
pub struct Connected {
    /// The bytes. For UDP targets every datagram is framed as `u16` big-endian length and payload.
    pub stream: Box<dyn Duplex>,
    /// The path it took at the moment it was opened.
    pub path: Path,
}

/// Makes connections to backends on other nodes. The tunnel implements it, the proxy uses it.
pub trait Connect: Send + Sync + 'static {
    /// Opens a stream to `target`, whose node is another one. `first` is payload that leaves in one flight with
    /// the stream header; it is delivered exactly once if and only if the result is `Ok`.
    ///
    /// Bounded in time by the implementation; dropping the future gives the attempt up.
    fn connect(&self, target: Target, first: Bytes) -> BoxFuture<'static, Result<Connected, DialError>>;
}

/// A stream that a peer opened to us, with its header read and not yet answered.
pub struct Inbound {
    /// The node the peer speaks for, as far as it is proven.
    pub node: Option<Name>,
    /// The peer's identity, for logs.
    pub peer: String,
    /// The path the stream came by.
    pub path: Path,
    /// Transport of the backend.
    pub protocol: Protocol,
    /// The backend that is asked for.
    pub backend: SocketAddr,
    /// The client's namespace, as the peer says.
    pub namespace: Option<Name>,
    /// Answers and gives the bytes.
    pub answer: Box<dyn Answer>,
}

/// Answers an inbound stream once.
pub trait Answer: Send {
    /// Accepts: the peer is told so, and the bytes flow.
    fn accept(self: Box<Self>) -> BoxFuture<'static, std::io::Result<Box<dyn Duplex>>>;
    /// Refuses with a reason that the peer can print.
    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<'static, ()>;
}

/// Why an inbound stream was refused, as its header's answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Policy: not a ready endpoint of a Service here.
    NotAdmitted(RejectReason),
    /// The backend did not take the connection.
    Dial(DialError),
}

/// Serves streams that peers open. The proxy implements it, the tunnel uses it.
pub trait Serve: Send + Sync + 'static {
    /// Serves one stream to its end. The caller runs it as a task of its own and bounds how many there are.
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()>;
}

/// A source of objects. It runs until its channel closes, tells what it knows as `SourceEvent`s, and never gives up.
pub trait Source: Send + 'static {
    /// Runs the source.
    fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        report: Arc<dyn Report>,
    ) -> BoxFuture<'static, ()>;
}

/// What is wrong at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// What, and what to do.
    pub message: String,
    /// Something that should be used cannot be; otherwise it is understood, and of no use to the mesh.
    pub broken: bool,
}

/// Where a source tells of objects it cannot use; each call replaces what it said before of the same place.
pub trait Report: Send + Sync + 'static {
    /// `place` names the object with file and line; `None` withdraws.
    fn report(&self, place: &str, trouble: Option<&Trouble>);
}
