use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the server takes to give a request up.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A status page of the largest cluster the mesh is sized for is far below this.
const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

/// Why a page cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers at the socket.
    #[error(
        "no agent answers at {path}: {source} (is it running? another socket is named with --admin-socket)"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent at {path} did not answer: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent answered with something that is no HTTP.
    #[error("the answer from {path} is no HTTP response")]
    NotHttp {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The agent's words.
        message: String,
    },
}

/// Gets one page from a running agent. `target` is path and query, percent-encoded.
pub fn fetch(socket: &Path, target: &str) -> Result<String, FetchError> {
    let connect = |source| FetchError::Connect { path: socket.to_owned(), source };
    let broken = |source| FetchError::Broken { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(connect)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(broken)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(broken)?;
    // HTTP/1.0: the body ends with the connection, so no transfer coding has to be understood (RFC 9112 §6.3).
    let request = format!("GET {target} HTTP/1.0\r\nHost: edgemesh\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(broken)?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response).map_err(broken)?;
    let not_http = || FetchError::NotHttp { path: socket.to_owned() };
    let response = String::from_utf8(response).map_err(|_| not_http())?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok()).ok_or_else(not_http)?;
    if status == 200 || ["/healthz", "/readyz"].contains(&target) && status == 503 {
        return Ok(body.to_owned());
    }
    Err(FetchError::Refused { status, message: body.trim_end().to_owned() })
}
