//! What can go wrong, with the endpoint where it did and etcd's own words.

use crate::call::Failure;
use crate::http::{Answer, HttpError, Server};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::time::Duration;

/// What is shown of a text that is no answer of the v2 API.
const SHOWN_CHARS: usize = 100;

/// Codes of [`Error::Answered`]. etcd's documentation has the others.
pub mod code {
    /// The key is not there; the cause is the first part of its path that is missing.
    pub const KEY_NOT_FOUND: u32 = 100;
    /// A condition of a compare-and-swap or compare-and-delete does not hold.
    pub const COMPARE_FAILED: u32 = 101;
    /// The key is a directory.
    pub const NOT_A_FILE: u32 = 102;
    /// The key was to be created, and is there.
    pub const NODE_EXISTS: u32 = 105;
    /// Raft did not do it, or it is not known whether it did.
    pub const RAFT_INTERNAL: u32 = 300;
    /// There was no leader.
    pub const LEADER_ELECTION: u32 = 301;
    /// The server forgot a watch, because it took its state from another one.
    pub const WATCHER_CLEARED: u32 = 400;
    /// The events since the index of a watch are no longer known.
    pub const EVENT_INDEX_CLEARED: u32 = 401;
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Endpoints or certificates cannot be used.
    #[error(transparent)]
    Options(#[from] crate::Error),
    /// The server's answer is an error of the v2 API.
    #[error("{endpoint}: {code}: {message} ({cause}) [{index}]")]
    Answered {
        /// Who answered.
        endpoint: String,
        /// The status of HTTP.
        status: u16,
        /// etcd's code, as those in [`code`].
        code: u32,
        /// What the code means.
        message: String,
        /// What it is about: mostly a key.
        cause: String,
        /// Index of the store.
        index: u64,
    },
    /// The server's answer is another error than those of keys, or none of the v2 API.
    #[error("{endpoint} answers {status}: {text}")]
    Refused {
        /// Who answered.
        endpoint: String,
        /// The status of HTTP.
        status: u16,
        /// The beginning of its text.
        text: String,
    },
    /// The request provably did not leave this process.
    #[error("{0}")]
    Unreachable(HttpError),
    /// The connection broke after the request was given to it: it may or may not have been done.
    #[error("the request may have been done: {0}")]
    Lost(HttpError),
    /// There was no answer in time: a write may or may not have been done.
    #[error("no answer from {endpoint} within {limit:?}")]
    Timeout {
        /// The endpoint that was asked last.
        endpoint: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server sends the request to where it cannot go.
    #[error("{0}")]
    Redirect(HttpError),
    /// The answer is longer than [`super::Options::max_answer_bytes`], and would be so again. A write was done, or refused.
    #[error("{0}")]
    TooLong(HttpError),
}

/// An error as the v2 API writes it: of keys, or of anything else.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Body {
    error_code: u32,
    message: String,
    cause: String,
    index: u64,
}

impl Error {
    /// True if the server answered with this code.
    pub fn is(&self, code: u32) -> bool {
        matches!(self, Self::Answered { code: answered, .. } if *answered == code)
    }

    /// True if a write that ended with this error may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Timeout { .. } | Self::TooLong(_) => true,
            Self::Answered { status, .. } | Self::Refused { status, .. } => *status >= 500,
            Self::Options(_) | Self::Unreachable(_) | Self::Redirect(_) => false,
        }
    }

    /// True if the same question may have a better answer from another endpoint, or later.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_)) || (self.may_be_done() && !matches!(self, Self::TooLong(_)))
    }

    /// Sorts what failed before an answer by what it proves.
    pub(super) fn of_http(error: HttpError) -> Self {
        match error {
            HttpError::Connect { .. } => Self::Unreachable(error),
            HttpError::Exchange { .. } => Self::Lost(error),
            HttpError::Deadline { server, limit } => Self::Timeout { endpoint: server, limit },
            HttpError::Redirect(_) => Self::Redirect(error),
            HttpError::TooLong { .. } => Self::TooLong(error),
        }
    }

    /// Reads an answer, or the error that it is. Of one that is neither nothing is shown: it may be somebody's value.
    pub(super) fn or_answer<T: DeserializeOwned>(server: &Server, answer: &Answer, what: &str) -> Result<T, Self> {
        if !answer.status.is_success() {
            return Err(Self::of_answer(server, answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| Self::Refused {
            endpoint: server.to_string(),
            status: answer.status.as_u16(),
            text: unread(what, &error),
        })
    }

    /// Reads an answer that is not the one that was wanted.
    pub(super) fn of_answer(server: &Server, answer: &Answer) -> Self {
        let (endpoint, status) = (server.to_string(), answer.status.as_u16());
        let body = serde_json::from_slice::<Body>(&answer.body).unwrap_or_default();
        if body.error_code != 0 {
            let Body { error_code: code, message, cause, index } = body;
            return Self::Answered { endpoint, status, code, message, cause, index };
        }
        let text = if body.message.is_empty() { shown(&answer.body) } else { body.message };
        Self::Refused { endpoint, status, text }
    }
}

/// Why a text cannot be read, without what is in it.
pub(super) fn unread(what: &str, error: &serde_json::Error) -> String {
    let why = match error.classify() {
        Category::Io | Category::Eof => "it ends too early",
        Category::Syntax => "it is no JSON",
        Category::Data => "it is other JSON",
    };
    format!("something that is no {what}: {why}, at line {}, column {}", error.line(), error.column())
}

/// The beginning of a text that came from elsewhere, fit for one line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]).into_owned();
    format!("{:?}", text.lines().next().unwrap_or_default().chars().take(SHOWN_CHARS).collect::<String>())
}

impl Failure for Error {
    fn may_pass(&self) -> bool {
        self.may_pass()
    }

    fn is_unseen(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}
