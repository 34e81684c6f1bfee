//! Requests and answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::faults::{Availability, FaultSet, Reply};
use crate::resource::{Resource, api_version};
use crate::server::Shared;
use crate::status::Refusal;
use crate::store::{Stored, WriteError};
use crate::target::{Query, Target};
use crate::{control, discovery, list, watching};

/// The largest body of a request: what Kubernetes takes.
const MAX_REQUEST: usize = 3 << 20;

/// The pieces that a list is sent in. A server that streams its lists sends them chunked.
const PIECE: usize = 64 << 10;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// A request on a resource, and what goes wrong with it.
pub(crate) struct Ask<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) resource: Resource,
    pub(crate) version: &'a str,
    pub(crate) query: &'a Query,
    pub(crate) faults: &'a FaultSet,
}

/// Answers one request. It never ends while a fault says that nothing is answered.
pub(crate) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let target = Target::of(request.uri().path());
    if let Target::Control(control) = &target {
        return control::answer(shared, control, request).await;
    }
    let scope = target.scope();
    let faults = match scope {
        Some((resource, version)) => shared.faults.of(resource, version),
        None => shared.faults.general(),
    };
    if let Some((resource, _)) = scope {
        shared.requests.count(resource, |counts| counts.requests += 1);
    }
    if faults.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(faults.latency_ms)).await;
    }
    if let Some((resource, _)) = scope.filter(|_| faults.reply != Reply::Answer) {
        shared.requests.count(resource, |counts| counts.faults += 1);
    }
    let answered = match faults.reply {
        Reply::Silence => std::future::pending().await,
        Reply::Error { status, retry_after } => Err(switched_error(status, retry_after)),
        Reply::Html { status } => Ok(page(status)),
        Reply::Garbage => {
            Ok(whole(StatusCode::OK, Bytes::from_static(b"{\"kind\":\"ServiceList\",\"items\":[{]}\x00")))
        }
        Reply::Answer | Reply::Broken | Reply::Halved => {
            answer_target(shared, &target, request, &faults).await
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        if refusal.status == StatusCode::UNAUTHORIZED {
            shared.requests.count_all(|counts| counts.unauthorized += 1);
        }
        let internal = faults.serving.refusals_as_internal
            && scope.is_some()
            && refusal.status != StatusCode::UNAUTHORIZED;
        refused(if internal { refusal.into_internal() } else { refusal })
    });
    if faults.bytes_per_second > 0 {
        let (parts, body) = response.into_parts();
        response = Response::from_parts(parts, slowed(body, faults.bytes_per_second));
    }
    response
}

async fn answer_target(
    shared: &Arc<Shared>,
    target: &Target,
    request: Request<Incoming>,
    faults: &FaultSet,
) -> Answer {
    if !matches!(target, Target::Health | Target::Version) {
        authenticate(shared, request.headers())?;
    }
    let query = Query::of(request.uri());
    match target {
        Target::Health => Ok(typed(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"ok"))),
        Target::Version => Ok(whole(StatusCode::OK, discovery::version())),
        Target::Discovery(parts) => {
            accepts_json(request.headers())?;
            if faults.serving.by_node {
                return by_node_discovery(shared);
            }
            discovery::answer(shared, parts, faults)
                .map(|value| whole(StatusCode::OK, Bytes::from(value.to_string())))
        }
        // Who may not ask is told so before what is not there.
        Target::Unknown if faults.serving.availability == Availability::Forbidden => {
            Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden: User \"test\" cannot get this path"))
        }
        Target::Unknown => Err(unknown(request.uri().path())),
        Target::Control(_) => Err(Refusal::no_such_path()),
        Target::Collection { resource, version, namespace } => {
            let ask = Ask { shared, resource: *resource, version, query: &query, faults };
            let watches = query.flag("watch");
            if request.method() == Method::GET && faults.serving.by_node {
                return ask.collection_by_node(request.headers(), namespace.clone(), watches);
            }
            if watches && faults.serving.availability == Availability::Absent {
                shared.requests.count(*resource, |counts| counts.absent_watches += 1);
            }
            ask.check(request.headers(), request.method())?;
            match *request.method() {
                Method::GET if watches => watching::answer(&ask, namespace.clone()),
                Method::GET => list::answer(&ask, namespace.clone()),
                Method::POST if ask.is_cut_off() => Err(cut_off()),
                Method::POST => {
                    let object = ask.body(request, namespace.as_deref(), None).await?;
                    ask.write(object, true)
                }
                _ => Err(method_refused()),
            }
        }
        Target::Object { resource, version, namespace, name, subresource } => {
            let ask = Ask { shared, resource: *resource, version, query: &query, faults };
            if ask.is_cut_off() && request.method() != Method::GET {
                return Err(cut_off());
            }
            ask.check(request.headers(), request.method())?;
            if subresource.as_ref().is_some_and(|subresource| subresource != "status") {
                return Err(Refusal::no_such_path());
            }
            let status_only = subresource.is_some();
            match *request.method() {
                Method::GET => ask.get(namespace, name),
                Method::PUT => {
                    let object = ask.body(request, Some(namespace), Some(name)).await?;
                    let object =
                        if status_only { ask.with_status(namespace, name, &object)? } else { object };
                    ask.write(object, false)
                }
                Method::PATCH => ask.patch(request, namespace, name, status_only).await,
                Method::DELETE => ask.delete(namespace, name),
                _ => Err(method_refused()),
            }
        }
    }
}

/// What is registered under no path is no matter of the API machinery: known groups tell a `Status`.
fn unknown(path: &str) -> Refusal {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let known = match (parts.next(), parts.next()) {
        (Some("api"), _) | (Some("apis"), None) => true,
        (Some("apis"), Some(group)) => Resource::has_built_in(group),
        _ => false,
    };
    if known { Refusal::no_such_path() } else { Refusal::no_such_group() }
}

impl Ask<'_> {
    /// Whether a node answers without the cloud.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.faults.serving.by_node && self.shared.faults.is_cloud_away()
    }

    /// A list or watch through a node. What goes wrong with a list of the cloud makes it one that says nothing.
    fn collection_by_node(&self, headers: &HeaderMap, namespace: Option<String>, watches: bool) -> Answer {
        accepts_json(headers)?;
        let there = self.faults.serving.availability == Availability::Served;
        match (watches, there || self.is_cut_off()) {
            (true, _) if self.faults.serving.availability == Availability::Absent => {
                self.shared.requests.count(self.resource, |counts| counts.absent_watches += 1);
                Ok(streamed(stream::pending()))
            }
            (true, true) => watching::answer(self, namespace),
            (true, false) => Ok(streamed(stream::pending())),
            (false, true) => list::answer(self, namespace).or_else(|_| Ok(list::unknown(self))),
            (false, false) => Ok(list::unknown(self)),
        }
    }

    fn check(&self, headers: &HeaderMap, method: &Method) -> Result<(), Refusal> {
        match self.faults.serving.availability {
            Availability::Served => {}
            Availability::Absent if self.resource.row().empty.is_none() => {
                return Err(Refusal::no_such_group());
            }
            Availability::Absent => return Err(Refusal::no_such_path()),
            Availability::Forbidden => {
                let verb = match *method {
                    Method::GET if self.query.flag("watch") => "watch".to_owned(),
                    Method::GET => "list".to_owned(),
                    ref other => other.as_str().to_lowercase(),
                };
                let row = self.resource.row();
                let message = format!(
                    "{} is forbidden: User \"test\" cannot {verb} resource {:?} in API group {:?}",
                    self.resource, row.plural, row.group
                );
                return Err(Refusal::new(StatusCode::FORBIDDEN, message).about(self.resource, ""));
            }
        }
        accepts_json(headers)
    }

    /// What stands before the stored part of an object: `{"apiVersion":…,"kind":…,`.
    pub(crate) fn head(&self) -> String {
        let row = self.resource.row();
        format!(r#"{{"apiVersion":"{}","kind":"{}","#, api_version(row.group, self.version), row.kind)
    }

    fn object(&self, status: StatusCode, stored: &Stored) -> Response<Body> {
        let body = Bytes::from([self.head().as_bytes(), &stored.tail].concat());
        self.count_bytes(body.len());
        whole(status, body)
    }

    pub(crate) fn count_bytes(&self, bytes: usize) {
        self.shared.requests.count(self.resource, |counts| counts.bytes += bytes as u64);
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Stored>, Refusal> {
        let found = match self.faults.serving.by_node {
            true => self.shared.store.find_by_node(self.resource, namespace, name),
            false => self.shared.store.find(self.resource, namespace, name),
        };
        found.ok_or_else(|| {
            self.refuse(&WriteError::Absent { resource: self.resource, name: name.to_owned() })
        })
    }

    fn get(&self, namespace: &str, name: &str) -> Answer {
        let stored = self.find(namespace, name)?;
        self.shared.requests.count(self.resource, |counts| counts.gets += 1);
        Ok(self.object(StatusCode::OK, &stored))
    }

    fn write(&self, object: Value, create: bool) -> Answer {
        let stored =
            self.shared.store.put(self.resource, object, create).map_err(|error| self.refuse(&error))?;
        self.shared.requests.count(self.resource, |counts| counts.writes += 1);
        Ok(self.object(if create { StatusCode::CREATED } else { StatusCode::OK }, &stored))
    }

    fn delete(&self, namespace: &str, name: &str) -> Answer {
        let stored = self.find(namespace, name)?;
        self.shared.store.delete(self.resource, namespace, name).map_err(|error| self.refuse(&error))?;
        self.shared.requests.count(self.resource, |counts| counts.writes += 1);
        let row = self.resource.row();
        let uid = &stored.value()["metadata"]["uid"];
        let done = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": name, "group": row.group, "kind": row.plural, "uid": uid},
        });
        Ok(whole(StatusCode::OK, Bytes::from(done.to_string())))
    }

    async fn patch(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        name: &str,
        status_only: bool,
    ) -> Answer {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if kind.split(';').next() != Some("application/merge-patch+json") {
            let message =
                format!("patches of type {kind:?} are not known: send application/merge-patch+json");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let mut patch = read_json(request).await?;
        if status_only {
            patch = json!({"status": patch["status"]});
        }
        let mut object = self.typed(self.find(namespace, name)?.value());
        let version = patch["metadata"]["resourceVersion"].clone();
        merge(&mut object, patch);
        if !object["metadata"].is_object() {
            return Err(Refusal::invalid("metadata would be missing or no object"));
        }
        // A patch that names no version applies to whichever is there.
        object["metadata"]["resourceVersion"] = version;
        object["metadata"]["name"] = json!(name);
        self.write(object, false)
    }

    fn with_status(&self, namespace: &str, name: &str, object: &Value) -> Result<Value, Refusal> {
        let mut stored = self.find(namespace, name)?.value();
        stored.insert("status".to_owned(), object["status"].clone());
        Ok(self.typed(stored))
    }

    fn typed(&self, mut object: Map<String, Value>) -> Value {
        let row = self.resource.row();
        object.insert("apiVersion".to_owned(), json!(api_version(row.group, self.version)));
        object.insert("kind".to_owned(), json!(row.kind));
        Value::Object(object)
    }

    /// The object that a request carries, whose names must be those of its path.
    async fn body(
        &self,
        request: Request<Incoming>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Value, Refusal> {
        let mut object = read_json(request).await?;
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(Refusal::invalid("metadata is missing or no object"));
        };
        for (key, expected) in [("namespace", namespace), ("name", name)] {
            let Some(expected) = expected.filter(|expected| !expected.is_empty()) else { continue };
            match metadata.get(key).and_then(Value::as_str) {
                None | Some("") => drop(metadata.insert(key.to_owned(), json!(expected))),
                Some(found) if found == expected => {}
                Some(found) => {
                    let message =
                        format!("the {key} of the object ({found}) is not that of the path ({expected})");
                    return Err(Refusal::bad_request(message));
                }
            }
        }
        Ok(object)
    }

    fn refuse(&self, error: &WriteError) -> Refusal {
        let message = error.to_string();
        match error {
            WriteError::UnknownKind { .. } => Refusal::bad_request(message),
            WriteError::Malformed { .. } => Refusal::invalid(message),
            WriteError::Exists { name, .. } => {
                let conflict = Refusal::new(StatusCode::CONFLICT, message);
                Refusal { reason: "AlreadyExists", ..conflict }.about(self.resource, name)
            }
            WriteError::Absent { name, .. } => {
                Refusal::new(StatusCode::NOT_FOUND, message).about(self.resource, name)
            }
            WriteError::Conflict { name, .. } => {
                Refusal::new(StatusCode::CONFLICT, message).about(self.resource, name)
            }
        }
    }
}

/// As RFC 7396 says.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(token) = shared.token() else { return Ok(()) };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given.strip_prefix("Bearer ") == Some(&token) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"))
}

/// Only JSON is written. `as=Table` and the like ask for something else.
fn accepts_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut kinds = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .peekable();
    if kinds.peek().is_none() {
        return Ok(());
    }
    let fits = |kind: &str| {
        let mut parts = kind.split(';').map(str::trim);
        let known = matches!(parts.next(), Some("application/json" | "application/*" | "*/*"));
        known && !parts.any(|part| part.starts_with("as="))
    };
    if kinds.any(fits) {
        return Ok(());
    }
    let message = "only the following media types are accepted: application/json";
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, message))
}

pub(crate) async fn read_json(request: Request<Incoming>) -> Result<Value, Refusal> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await.map_err(|error| {
        let message = format!("the body cannot be read, or is larger than {MAX_REQUEST} bytes: {error}");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    let body = body.to_bytes();
    serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))
}

fn switched_error(status: u16, retry_after: Option<u32>) -> Refusal {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let words = code.canonical_reason().unwrap_or("error").to_lowercase();
    Refusal { retry_after, ..Refusal::new(code, format!("a switch of the test: {words}")) }
}

/// A metaServer asks the cloud for protobuf and passes it on as JSON; without the cloud it looks for an object.
fn by_node_discovery(shared: &Shared) -> Answer {
    if shared.faults.is_cloud_away() {
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "not found");
        return Err(Refusal { text: Some("\"\" not found"), ..refusal });
    }
    Ok(whole(StatusCode::OK, Bytes::from_static(b"k8s\x00")))
}

fn cut_off() -> Refusal {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Refusal { reason: "", ..Refusal::new(status, "connection lost between EdgeCore and CloudCore") }
}

fn method_refused() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "the server does not allow this method on the requested resource",
    )
}

fn page(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let text =
        "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>\n";
    typed(status, "text/html; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

pub(crate) fn refused(refusal: Refusal) -> Response<Body> {
    let mut response = match refusal.text {
        Some(text) => typed(refusal.status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes())),
        None => whole(refusal.status, refusal.body()),
    };
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(crate) fn whole(status: StatusCode, body: Bytes) -> Response<Body> {
    typed(status, "application/json", body)
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    with_body(status, kind, body)
}

fn with_body(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A body of unknown length, sent chunked.
pub(crate) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
    with_body(StatusCode::OK, "application/json", body)
}

/// A list, whole or spoilt on its way.
pub(crate) fn list_body(text: Bytes, reply: Reply) -> Response<Body> {
    let broken = matches!(reply, Reply::Broken);
    let sent = if broken || matches!(reply, Reply::Halved) { text.slice(..text.len() / 2) } else { text };
    let pieces = stream::unfold((sent, broken), |(mut rest, broken)| async move {
        if rest.is_empty() {
            // What was sent before must have left the buffers when the connection breaks.
            tokio::task::yield_now().await;
            return broken.then(|| (Err(io::ErrorKind::ConnectionAborted.into()), (rest, false)));
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok(piece), (rest, broken)))
    });
    streamed(pieces)
}

fn slowed(body: Body, bytes_per_second: u64) -> Body {
    // Ten pieces a second are smooth enough for a client that looks at progress.
    let step = usize::try_from(bytes_per_second / 10).unwrap_or(usize::MAX).max(1);
    let pieces = stream::unfold((body, Bytes::new()), move |(mut body, mut rest)| async move {
        while rest.is_empty() {
            match body.frame().await? {
                Ok(frame) => rest = frame.into_data().unwrap_or_default(),
                Err(error) => return Some((Err(error), (body, rest))),
            }
        }
        let piece = rest.split_to(rest.len().min(step));
        let pause = Duration::from_secs_f64(piece.len() as f64 / bytes_per_second as f64);
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(piece)), (body, rest)))
    });
    StreamBody::new(pieces).boxed_unsync()
}
