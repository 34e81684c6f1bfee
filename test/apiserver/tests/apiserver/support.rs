use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgemesh_apiserver::{Server, ServerOptions};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// When a test that waits for an event gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn server() -> Server {
    start(ServerOptions::default()).await
}

pub(crate) async fn start(options: ServerOptions) -> Server {
    Server::start(options).await.expect("starts")
}

/// One answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code and the text of a refusal, or the reason that its status object tells, which the HTTP status must agree with.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, String) {
        if self.headers["content-type"].as_bytes().starts_with(b"text/plain") {
            return (self.status.as_u16(), String::from_utf8_lossy(&self.body).into_owned());
        }
        let status = self.json();
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{status}");
        assert_eq!(status["code"], self.status.as_u16(), "{status}");
        assert!(status["message"].as_str().is_some_and(|message| !message.is_empty()), "{status}");
        (self.status.as_u16(), status["reason"].as_str().unwrap_or_default().to_owned())
    }
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request over a stream of its own.
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
}

pub(crate) async fn read(response: Response<Incoming>) -> Result<Answer, Failure> {
    let (parts, body) = response.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

/// Asks, and gives whatever comes of it.
pub(crate) async fn attempt(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, Failure> {
    let stream = TcpStream::connect(addr).await?;
    read(send(stream, request(method, path, headers, body)).await?).await
}

pub(crate) async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let asked = timeout(DEADLINE, attempt(server.addr(), method, path, headers, body)).await;
    asked.expect("an answer in time").expect("an answer")
}

pub(crate) async fn get(server: &Server, path: &str) -> Answer {
    ask(server, Method::GET, path, &[], "").await
}

/// A list that must succeed.
pub(crate) async fn list(server: &Server, path: &str) -> Value {
    let answer = get(server, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
    answer.json()
}

/// The names of a list's items.
pub(crate) fn names(list: &Value) -> String {
    let items = list["items"].as_array().expect("items");
    let names: Vec<_> = items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect();
    names.join(" ")
}

/// The version of a list or object.
pub(crate) fn version(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]},
    })
}

pub(crate) fn pod(name: &str, node: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node},
    })
}

/// A watch, read line by line.
pub(crate) struct Watch {
    body: Incoming,
    buffer: BytesMut,
}

impl Watch {
    /// Watches; the answer must be a stream.
    pub(crate) async fn open(server: &Server, path: &str) -> Self {
        let opened = async {
            let stream = TcpStream::connect(server.addr()).await?;
            send(stream, request(Method::GET, path, &[], "")).await
        };
        let response = timeout(DEADLINE, opened).await.expect("in time").expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Self { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// The next event; `None` at a clean end, an error when the connection broke.
    async fn read(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                Some(frame) => self.buffer.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        let read = timeout(DEADLINE, self.read()).await.expect("an event in time");
        read.expect("a whole watch").expect("an event")
    }

    /// Whether nothing has come by now.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.read().now_or_never().is_none()
    }

    /// Reads to the end of the watch; whether it was a clean one.
    pub(crate) async fn ends_cleanly(&mut self) -> bool {
        loop {
            match timeout(DEADLINE, self.read()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The next events must be these: `ADDED a`, `BOOKMARK 7`, `ERROR 410`, `end`.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for expected in expected {
                let read = timeout(DEADLINE, self.read()).await;
                let read = read.unwrap_or_else(|_| panic!("nothing but {expected:?} awaited at {caller}"));
                let shown =
                    read.expect("a whole watch").map_or_else(|| "end".to_owned(), |event| show(&event));
                assert_eq!(shown, *expected, "at {caller}");
            }
        }
    }
}

fn show(event: &Value) -> String {
    let (kind, object) = (event["type"].as_str().expect("a type"), &event["object"]);
    match kind {
        "BOOKMARK" => format!("BOOKMARK {}", version(object)),
        "ERROR" => format!("ERROR {}", object["code"]),
        _ => match object["metadata"]["name"].as_str() {
            Some(name) => format!("{kind} {name}"),
            None => format!("{kind} {object}"),
        },
    }
}
