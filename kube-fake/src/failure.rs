//! What a request is refused with, as the API server's `Status` object.

use serde_json::{Value, json};

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// What to tell a person.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into() }
    }

    pub(crate) fn unauthorized() -> Self {
        Self { code: 401, reason: "Unauthorized", message: "Unauthorized".to_owned() }
    }

    pub(crate) fn forbidden(message: String) -> Self {
        Self { code: 403, reason: "Forbidden", message }
    }

    pub(crate) fn not_found(message: String) -> Self {
        Self { code: 404, reason: "NotFound", message }
    }

    pub(crate) fn already_exists(plural: &str, name: &str) -> Self {
        Self { code: 409, reason: "AlreadyExists", message: format!("{plural} \"{name}\" already exists") }
    }

    pub(crate) fn conflict(message: String) -> Self {
        Self { code: 409, reason: "Conflict", message }
    }

    /// The answer to who asks for history that is gone.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self { code: 410, reason: "Expired", message: format!("too old resource version: {asked} ({oldest})") }
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request is larger than {limit} bytes");
        Self { code: 413, reason: "RequestEntityTooLarge", message }
    }

    pub(crate) fn unsupported(content_type: &str) -> Self {
        let message = format!("the body of the request was in an unknown format: {content_type}");
        Self { code: 415, reason: "UnsupportedMediaType", message }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: 422, reason: "Invalid", message: message.into() }
    }

    /// The failure that a test asked for.
    pub(crate) fn injected(code: u16) -> Self {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: "a failure that the test asked for".to_owned() }
    }

    /// The body of the answer.
    pub(crate) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
