//! The least a proxy can do, as a baseline: accept, connect, move bytes. No routing, no deadline, no account, no log.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use anyhow::{Context as _, Result, bail};
use edgemesh_net::socket::Pipe;
use tokio::io::{AsyncWriteExt as _, Interest, copy_bidirectional_with_sizes};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;

/// A pipe of the largest size an ordinary user may have (pipe(7)): longer pipes mean fewer calls.
const PIPE: usize = 1 << 20;

/// The size past which larger copies stop to pay; the agent's own.
const COPY: usize = 64 << 10;

/// How many bytes an answer may be asked for at a time.
const CHUNK: usize = 256 << 10;

/// How a bare proxy moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// splice(2) through one pipe in each direction.
    Splice,
    /// Read and write with a buffer of 64 KiB in each direction.
    Copy,
}

impl Way {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Splice, Self::Copy];

    /// The word for figures and command lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Copy => "copy",
        }
    }

    /// Where it listens.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Splice => 9001,
            Self::Copy => 9002,
        }
    }
}

/// As many workers as the agent has at most, on as many CPUs as there are.
const MAX_WORKERS: usize = 4;

fn serve_forever(served: impl Future<Output = io::Result<()>>) -> Result<()> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut builder = runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(cores.min(MAX_WORKERS)).enable_all().build()?;
    runtime.block_on(served).context("accept")?;
    bail!("nobody is served any more")
}

/// Runs a bare proxy until it is killed.
pub(crate) fn proxy(way: Way, backend: SocketAddr) -> Result<()> {
    serve_forever(async move {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, way.port())).await?;
        loop {
            let (client, _) = listener.accept().await?;
            // What becomes of one connection is seen by its client.
            tokio::spawn(async move {
                let _ = carry(way, client, backend).await;
            });
        }
    })
}

async fn carry(way: Way, mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
    let mut backend = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    backend.set_nodelay(true)?;
    if way == Way::Copy {
        return copy_bidirectional_with_sizes(&mut client, &mut backend, COPY, COPY).await.map(drop);
    }
    let (client_in, client_out) = client.split();
    let (backend_in, backend_out) = backend.split();
    tokio::try_join!(spliced(client_in, backend_out), spliced(backend_in, client_out)).map(drop)
}

async fn spliced(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let mut pipe = Pipe::new(PIPE)?;
    while step(from.as_ref(), Interest::READABLE, || pipe.fill(from.as_ref())).await? > 0 {
        while pipe.held() > 0 {
            step(to.as_ref(), Interest::WRITABLE, || pipe.drain(to.as_ref())).await?;
        }
    }
    to.shutdown().await
}

async fn step(
    stream: &TcpStream,
    interest: Interest,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    stream.async_io(interest, &mut call).await
}

/// Stack of a connection's thread in the server; it holds no buffer.
const STACK: usize = 64 << 10;

/// Runs the server behind every proxy until it is killed. A client says how many bytes it wants and whether the
/// connection ends after them, gets them, and may ask again.
///
/// A thread for each connection: the kernel shares the CPU among them, so that whoever waits beside bulk waits for the
/// proxy and not for the server.
pub(crate) fn server(port: u16) -> Result<()> {
    edgemesh_net::limits::raise_descriptor_limit()?;
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    loop {
        let (client, _) = listener.accept().context("accept")?;
        // What becomes of one connection is seen by its client.
        thread::Builder::new().stack_size(STACK).spawn(move || drop(answer(client)))?;
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) bytes: u64,
    pub(crate) last: bool,
}

/// The length of a request on the wire.
pub(crate) const ASK: usize = 16;

impl Ask {
    /// As it stands on the wire.
    pub(crate) fn encode(self) -> [u8; ASK] {
        let mut wire = [0; ASK];
        wire[..8].copy_from_slice(&self.bytes.to_be_bytes());
        wire[8] = u8::from(self.last);
        wire
    }

    fn decode(wire: [u8; ASK]) -> Self {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&wire[..8]);
        Self { bytes: u64::from_be_bytes(bytes), last: wire[8] != 0 }
    }
}

/// The server closes first, so that no port of a proxy waits out a connection.
fn answer(mut client: std::net::TcpStream) -> io::Result<()> {
    static CONTENT: [u8; CHUNK] = [b'x'; CHUNK];
    client.set_nodelay(true)?;
    let mut wire = [0; ASK];
    loop {
        client.read_exact(&mut wire)?;
        let Ask { mut bytes, last } = Ask::decode(wire);
        while bytes > 0 {
            let length = usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK);
            client.write_all(&CONTENT[..length])?;
            bytes -= length as u64;
        }
        if last {
            return Ok(());
        }
    }
}
