use std::fmt;
use std::time::Duration;

use crate::SplitError;

/// Why a list or a watch did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// The server's name does not resolve.
    Resolve,
    /// No connection: refused, no route, no answer.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// Certificates or tokens cannot be read.
    Credentials,
    /// No answer in time.
    Timeout,
    /// The answer stopped on its way, or came slower than anything but a fault is.
    Stalled,
    /// The connection ended before the answer was complete.
    Closed,
    /// 401.
    Unauthorized,
    /// 403: the role does not allow it.
    Forbidden,
    /// 404: the server does not have the kind.
    Absent,
    /// 410, or a resource version that the server never had: only a new list helps.
    Gone,
    /// 429.
    TooManyRequests,
    /// Any other status of 400 and above.
    Status,
    /// Not the JSON that was asked for.
    Answer,
}

impl FailureReason {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Closed => "closed",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Absent => "absent",
            Self::Gone => "gone",
            Self::TooManyRequests => "too_many_requests",
            Self::Status => "status",
            Self::Answer => "answer",
        }
    }
}

/// A failure with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of failure.
    pub reason: FailureReason,
    /// The server's or the system's own words.
    pub detail: String,
    /// How long the server asks to wait (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
}

/// Words of servers that are kept: enough for a sentence, and no page of HTML.
const MAX_DETAIL: usize = 200;

impl Failure {
    /// A failure with words.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.truncate(end);
        }
        Self { reason, detail: detail.replace(['\n', '\r'], " "), retry_after: None }
    }

    /// What an HTTP status other than 200 means.
    pub fn of_status(code: u16, detail: impl Into<String>, retry_after: Option<Duration>) -> Self {
        let reason = match code {
            401 => FailureReason::Unauthorized,
            403 => FailureReason::Forbidden,
            404 | 405 => FailureReason::Absent,
            410 => FailureReason::Gone,
            429 => FailureReason::TooManyRequests,
            _ => FailureReason::Status,
        };
        let detail: String = detail.into();
        let words = if detail.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {detail}") };
        Self { retry_after, ..Self::new(reason, words) }
    }
}

impl From<SplitError> for Failure {
    fn from(error: SplitError) -> Self {
        let reason = match error {
            SplitError::Truncated => FailureReason::Closed,
            SplitError::NotJson | SplitError::Malformed | SplitError::TooLarge | SplitError::TooDeep => {
                FailureReason::Answer
            }
        };
        Self::new(reason, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason.as_str())
    }
}
