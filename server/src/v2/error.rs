//! Refusals of keys: etcd's codes, messages and statuses.

use super::{JSON, V2, json};
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::fmt;
use store::v2::{Code, KEYS, Refusal};

const INDEX: HeaderName = HeaderName::from_static("x-etcd-index");

/// A refusal as a client sees it.
pub(super) struct KeyError {
    code: u16,
    cause: Vec<u8>,
    /// The index of the tree, 0 for what it was not asked.
    index: u64,
    status: Option<StatusCode>,
}

/// The codes of requests that are refused before the tree is asked.
pub(super) const UNAUTHORIZED: u16 = 110;
pub(super) const PREV_VALUE_REQUIRED: u16 = 201;
pub(super) const TTL_NAN: u16 = 202;
pub(super) const INDEX_NAN: u16 = 203;
pub(super) const INVALID_FIELD: u16 = Code::InvalidField as u16;
pub(super) const INVALID_FORM: u16 = 210;
pub(super) const REFRESH_VALUE: u16 = 211;
pub(super) const REFRESH_TTL_REQUIRED: u16 = 212;
/// What is no fault of the request.
pub(super) const RAFT_INTERNAL: u16 = 300;

impl KeyError {
    /// Of a request by itself.
    pub(super) fn of_request(code: u16, cause: impl Into<Vec<u8>>) -> Self {
        Self { code, cause: cause.into(), index: 0, status: None }
    }

    #[cfg(test)]
    pub(super) fn cause(&self) -> String {
        String::from_utf8_lossy(&self.cause).into_owned()
    }

    /// etcd's code.
    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// Of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status(self.code))
    }

    pub(super) fn answer(&self, v2: &V2) -> Response {
        let mut body = Vec::with_capacity(128);
        body.extend(format!("{{\"errorCode\":{},\"message\":\"{}\"", self.code, message(self.code)).bytes());
        if !self.cause.is_empty() {
            body.extend(b",\"cause\":");
            json::string(&mut body, &self.cause);
        }
        body.extend(format!(",\"index\":{}}}\n", self.index).bytes());
        let mut response = v2.json(self.status(), body);
        response.headers_mut().insert(INDEX, HeaderValue::from(self.index));
        debug_assert_eq!(response.headers().get(header::CONTENT_TYPE), Some(&JSON));
        response
    }
}

/// For the log: without the cause of a comparison, which has values.
impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(message(self.code))?;
        if self.code == RAFT_INTERNAL { write!(f, ": {}", String::from_utf8_lossy(&self.cause)) } else { Ok(()) }
    }
}

/// A refusal of the tree. The namespace is nothing to clients.
impl From<Refusal> for KeyError {
    fn from(refusal: Refusal) -> Self {
        let cause = refusal.cause.strip_prefix(KEYS.as_bytes()).unwrap_or(&refusal.cause).to_vec();
        Self { code: refusal.code as u16, cause, index: refusal.index, status: None }
    }
}

/// What the cluster could not do.
impl From<api::error::Error> for KeyError {
    fn from(error: api::error::Error) -> Self {
        // etcd has no limit there.
        let status = (error == api::error::Error::RequestTooLarge).then_some(StatusCode::PAYLOAD_TOO_LARGE);
        Self { code: RAFT_INTERNAL, cause: error.text().into(), index: 0, status }
    }
}

fn message(code: u16) -> &'static str {
    match code {
        100 => "Key not found",
        101 => "Compare failed",
        102 => "Not a file",
        104 => "Not a directory",
        105 => "Key already exists",
        107 => "Root is read only",
        108 => "Directory not empty",
        UNAUTHORIZED => "The request requires user authentication",
        PREV_VALUE_REQUIRED => "PrevValue is Required in POST form",
        TTL_NAN => "The given TTL in POST form is not a number",
        INDEX_NAN => "The given index in POST form is not a number",
        INVALID_FIELD => "Invalid field",
        INVALID_FORM => "Invalid POST form",
        REFRESH_VALUE => "Value provided on refresh",
        REFRESH_TTL_REQUIRED => "A TTL must be provided on refresh",
        401 => "The event in requested index is outdated and cleared",
        _ => "Raft Internal Error",
    }
}

fn status(code: u16) -> StatusCode {
    match code {
        100 => StatusCode::NOT_FOUND,
        102 | 108 => StatusCode::FORBIDDEN,
        101 | 105 => StatusCode::PRECONDITION_FAILED,
        UNAUTHORIZED => StatusCode::UNAUTHORIZED,
        RAFT_INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}
