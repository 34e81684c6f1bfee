//! Refusals as Kubernetes words them.

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::resource::Resource;

/// A refusal: what a `Status` object of kind Failure tells.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) about: Option<(Resource, String)>,
    pub(crate) retry_after: Option<u32>,
    /// Its cause is a version that the server has not come to yet.
    pub(crate) too_large: bool,
    /// It is told as text instead.
    pub(crate) text: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason(status),
            message: message.into(),
            about: None,
            retry_after: None,
            too_large: false,
            text: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "the server could not find the requested resource")
    }

    /// Nothing is registered under the path: no `Status`, but what a mux says.
    pub(crate) fn no_such_group() -> Self {
        Self { text: Some("404 page not found\n"), ..Self::no_such_path() }
    }

    /// A version that the server has not come to yet.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self { retry_after: Some(1), too_large: true, ..Self::new(StatusCode::GATEWAY_TIMEOUT, message) }
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self { reason: "Expired", ..Self::new(StatusCode::GONE, message) }
    }

    pub(crate) fn about(self, resource: Resource, name: impl Into<String>) -> Self {
        Self { about: Some((resource, name.into())), ..self }
    }

    /// The metaServer of KubeEdge tells every refusal of its storage as an internal error.
    pub(crate) fn into_internal(self) -> Self {
        let message = format!("Internal error occurred: {}", self.message);
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn object(&self) -> Value {
        let mut object = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
        });
        let mut details = serde_json::Map::new();
        if let Some((resource, name)) = &self.about {
            let row = resource.row();
            let named = [("name", name.as_str()), ("group", row.group), ("kind", row.plural)];
            details.extend(
                named.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| ((*k).to_owned(), json!(v))),
            );
        }
        if self.too_large {
            let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
            details.insert("causes".to_owned(), json!([cause]));
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        if !details.is_empty() {
            object["details"] = Value::Object(details);
        }
        object
    }

    pub(crate) fn body(&self) -> Bytes {
        Bytes::from(self.object().to_string())
    }
}

/// The reason that goes with a status code.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Gone",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
