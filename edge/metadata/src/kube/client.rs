//! One HTTP/1.1 connection to an API server.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use edgemesh_reflector::{Failure, FailureReason};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::credentials::{AccessError, ApiAccess};
use super::tls;

/// A connection that is not there after this is tried again: the first lost SYN is sent again after 1 s (RFC 6298).
const CONNECT: Duration = Duration::from_secs(2);

/// TLS takes two round trips and some milliseconds of the slowest processor.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// Until the header of an answer. A page of 500 objects takes an API server a fraction of a second; with what follows a
/// failure, what changed while a server hung is known within 5 s of its recovery.
const HEADER: Duration = Duration::from_secs(3);

/// A link that was cut is noticed by keep-alive probes: after 5 s of silence, and two more of 2 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 2;

/// The body of an error that is read for its words.
const MAX_ERROR: usize = 16 << 10;

/// A connection, and the task that drives it.
pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
    /// The last answer was read to its end though it was a refusal.
    spent: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects; certificates are read now.
    pub(crate) async fn open(access: &ApiAccess) -> Result<Self, Failure> {
        let tls = match access.tls {
            true => Some(tls::config(access).map_err(|error| credentials(&error))?),
            false => None,
        };
        let stream = connect(access).await?;
        let Some(config) = tls else { return Self::over(stream).await };
        let name = access.server_name.as_deref().unwrap_or(&access.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            Failure::new(FailureReason::Tls, format!("{name:?} is no name for a certificate"))
        })?;
        let handshake = timeout(HANDSHAKE, TlsConnector::from(config).connect(name, stream)).await;
        let stream = handshake
            .map_err(|_| Failure::new(FailureReason::Timeout, "no end of the TLS handshake"))?
            .map_err(|error| handshake_failure(access, &error))?;
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Failure> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| of_hyper(&error))?;
        let driver = tokio::spawn(async move {
            // Its end is seen by the request or the body that waits on it.
            let _ = connection.await;
        });
        Ok(Self { sender, driver: driver.abort_handle(), spent: false })
    }

    /// Whether another request can be sent.
    pub(crate) async fn is_ready(&mut self) -> bool {
        matches!(timeout(HEADER, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Whether the refusal that came last left nothing of itself on the connection.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }

    /// Sends a request; answers other than 200 are failures.
    pub(crate) async fn get(&mut self, access: &ApiAccess, target: &str) -> Result<Incoming, Failure> {
        let request = request(access, target)?;
        let sent = timeout(HEADER, self.sender.send_request(request)).await;
        let response = sent
            .map_err(|_| {
                Failure::new(FailureReason::Timeout, format!("no answer within {} s", HEADER.as_secs()))
            })?
            .map_err(|error| of_hyper(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let (failure, spent) = refusal(response).await;
        self.spent = spent;
        Err(failure)
    }
}

fn request(access: &ApiAccess, target: &str) -> Result<Request<Empty<Bytes>>, Failure> {
    let uri = format!("{}{target}", access.prefix);
    let host = if access.host.contains(':') { format!("[{}]", access.host) } else { access.host.clone() };
    let mut builder = Request::get(uri)
        .header(HOST, format!("{host}:{}", access.port))
        .header(USER_AGENT, concat!("edgemesh/", env!("CARGO_PKG_VERSION")))
        // The metaServer knows JSON only; asked for anything else it answers 406 (kubeedge/kubeedge#3041).
        .header(ACCEPT, "application/json");
    if let Some(value) = access.token.header().map_err(|error| credentials(&error))? {
        builder = builder.header(AUTHORIZATION, value);
    }
    builder.body(Empty::new()).map_err(|error| Failure::new(FailureReason::Credentials, error.to_string()))
}

async fn connect(access: &ApiAccess) -> Result<TcpStream, Failure> {
    let addresses: Vec<SocketAddr> = match access.host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, access.port)],
        Err(_) => {
            let lookup = timeout(CONNECT, tokio::net::lookup_host((access.host.as_str(), access.port))).await;
            let found = lookup.map_err(|_| no_name(access, "no answer from the name server"))?;
            found.map_err(|error| no_name(access, &error.to_string()))?.collect()
        }
    };
    let mut last = no_name(access, "no address");
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream).map_err(|error| unreachable(address, &error.to_string()))?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = unreachable(address, &error.to_string()),
            Err(_) => last = unreachable(address, "no answer"),
        }
    }
    Err(last)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // Bytes of ours that nobody acknowledges end the connection as soon as probes would.
    socket.set_tcp_user_timeout(Some(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES))
}

fn no_name(access: &ApiAccess, words: &str) -> Failure {
    Failure::new(FailureReason::Resolve, format!("{:?} does not resolve: {words}", access.host))
}

fn unreachable(address: SocketAddr, words: &str) -> Failure {
    Failure::new(FailureReason::Unreachable, format!("{address}: {words}"))
}

pub(crate) fn credentials(error: &AccessError) -> Failure {
    Failure::new(FailureReason::Credentials, error.to_string())
}

/// A certificate that is refused names who was to vouch for it: most often that is the file to look at.
fn handshake_failure(access: &ApiAccess, error: &io::Error) -> Failure {
    let refused = of_tls(error).is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
    let words = match access.ca.as_ref().filter(|_| refused) {
        Some(ca) => format!("{error} (the certificate authority is that of {})", ca.place()),
        None => error.to_string(),
    };
    Failure::new(FailureReason::Tls, words)
}

fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let error = error.downcast_ref::<io::Error>()?.get_ref()?;
    error.downcast_ref()
}

/// What ended a request or a body.
pub(crate) fn of_hyper(error: &hyper::Error) -> Failure {
    let Some(cause) = error.source() else {
        let reason = if error.is_parse() { FailureReason::Answer } else { FailureReason::Closed };
        return Failure::new(reason, error.to_string());
    };
    // A server that wants a certificate says so after the handshake (RFC 8446 section 4.4.2.4).
    let reason = if of_tls(cause).is_some() { FailureReason::Tls } else { FailureReason::Closed };
    // rustls explains at length, with the address of a document, that a connection simply ended.
    let cause = cause.to_string();
    let cause = if cause.contains("close_notify") { "the connection ended" } else { &cause };
    Failure::new(reason, format!("{error}: {cause}"))
}

/// The words of an answer that is none: the `message` of a Status, or the first line of anything else. Whether it was
/// read to its end.
async fn refusal(response: Response<Incoming>) -> (Failure, bool) {
    let code = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut text = Vec::new();
    let mut body = response.into_body();
    let read = async {
        loop {
            let piece = match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            text.extend_from_slice(&piece[..piece.len().min(MAX_ERROR - text.len())]);
            if text.len() == MAX_ERROR {
                return false;
            }
        }
    };
    // Words that do not come are not waited for: the code has said enough.
    let whole = timeout(HEADER, read).await.unwrap_or(false);
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let message = match status["message"].as_str() {
        Some(message) => message.to_owned(),
        None => {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
        }
    };
    (Failure::of_status(code, message, header.map(Duration::from_secs)), whole)
}
